"""Request queues as linked lists per bank, and which of their requests may become a command next."""

from typing import Any

from tilewright.dataflow.kernel import kernel
from tilewright.sim import dram_state as at


@kernel
def _key(m: Any, i: int, b: int) -> int:
    """The age of request `i` with its bank, so that the smallest key names both."""
    return (m[at.SEQ, i] << at.KEY_SHIFT) | b  # type: ignore[no-any-return]


@kernel
def _set_row_key(m: Any, kind: int, b: int, key: int) -> None:
    """Set the candidate for a row command; a new one asks for another look at the row commands."""
    if key < at.NEVER and key != m[at.ROW_KEY + kind, b]:
        m[at.SCALAR, at.ROW_WAKE] = 0
    m[at.ROW_KEY + kind, b] = key


@kernel
def rekey(m: Any, kind: int, b: int) -> None:
    """Set the keys of the candidates of bank `b` from its open row, oldest hit and oldest miss."""
    if m[at.HELD, b] != 0:
        m[at.COLUMN_KEY + kind, b] = at.NEVER
        m[at.ROW_KEY + kind, b] = at.NEVER
        return
    if m[at.OPEN_ROW, b] < 0:
        head = m[at.HEAD + kind, b]
        free = head >= 0 and m[at.ACTIVE, b] < 0
        m[at.COLUMN_KEY + kind, b] = at.NEVER
        _set_row_key(m, kind, b, _key(m, head, b) if free else at.NEVER)
        return
    hit = m[at.HIT + kind, b]
    miss = m[at.MISS + kind, b]
    row_key = at.NEVER
    if miss >= 0 and m[at.ACTIVE, b] < 0:
        held = m[at.FIXED, at.PROTECT] != 0 and hit >= 0 and m[at.ARRIVED, hit] <= m[at.ARRIVED, miss]
        if m[at.FIXED, at.IN_ORDER] != 0:  # a younger hit cannot go first, so only an older one holds the row
            held = hit >= 0 and m[at.SEQ, hit] < m[at.SEQ, miss]
        if not held:
            row_key = _key(m, miss, b)
    m[at.COLUMN_KEY + kind, b] = _key(m, hit, b) if hit >= 0 else at.NEVER
    _set_row_key(m, kind, b, row_key)


@kernel
def resort(m: Any, b: int) -> None:
    """Find the oldest hit and miss of bank `b` again after its row has changed."""
    row = m[at.OPEN_ROW, b]
    for kind in range(2):
        hit = -1
        miss = -1
        if row >= 0:
            i = m[at.HEAD + kind, b]
            while i >= 0 and (hit < 0 or miss < 0):
                if m[at.ROW, i] == row:
                    if hit < 0:
                        hit = i
                elif miss < 0:
                    miss = i
                i = m[at.NEXT, i]
        m[at.HIT + kind, b] = hit
        m[at.MISS + kind, b] = miss
        rekey(m, kind, b)


@kernel
def link(m: Any, head: int, tail: int, b: int, i: int) -> int:
    """Put node `i` at the end of the list of bank `b` whose ends are in the rows `head` and `tail`.

    Returns the node before it, -1 for none.
    """
    last = m[tail, b]
    m[at.PREVIOUS, i] = last
    m[at.NEXT, i] = -1
    m[tail, b] = i
    if last < 0:
        m[head, b] = i
    else:
        m[at.NEXT, last] = i
    return last  # type: ignore[no-any-return]


@kernel
def unlink(m: Any, head: int, tail: int, b: int, i: int) -> None:
    """Take node `i` out of such a list."""
    before = m[at.PREVIOUS, i]
    after = m[at.NEXT, i]
    if before < 0:
        m[head, b] = after
    else:
        m[at.NEXT, before] = after
    if after < 0:
        m[tail, b] = before
    else:
        m[at.PREVIOUS, after] = before


@kernel
def take_node(m: Any, requests: Any, p: int, now: int) -> int:
    """A free node that holds request `p` as it arrives. requests: (4, n), bank, row, tag, is write."""
    i = m[at.SCALAR, at.FREE]
    m[at.SCALAR, at.FREE] = m[at.NEXT, i]
    m[at.SEQ, i] = m[at.SCALAR, at.NEXT_SEQ]
    m[at.ARRIVED, i] = now
    m[at.ROW, i] = requests[1, p]
    m[at.TAG, i] = requests[2, p]
    m[at.ORIGIN, i] = p
    m[at.KIND, i] = requests[3, p]
    m[at.SCALAR, at.NEXT_SEQ] += 1
    m[at.SCALAR, at.N_READS + requests[3, p]] += 1
    return i  # type: ignore[no-any-return]


@kernel
def append(m: Any, kind: int, b: int, i: int) -> None:
    """Put node `i` at the end of the list of bank `b` and among its candidates."""
    tail = link(m, at.HEAD + kind, at.TAIL + kind, b, i)
    row = m[at.OPEN_ROW, b]
    if row >= 0:
        which = at.HIT if m[at.ROW, i] == row else at.MISS
        if m[which + kind, b] >= 0:
            return
        m[which + kind, b] = i
        rekey(m, kind, b)
    elif tail < 0 and m[at.ACTIVE, b] < 0 and m[at.HELD, b] == 0:
        _set_row_key(m, kind, b, _key(m, i, b))


@kernel
def remove(m: Any, kind: int, b: int, i: int) -> None:
    """Take node `i` out of the list of its bank; the caller sets the keys again."""
    unlink(m, at.HEAD + kind, at.TAIL + kind, b, i)


@kernel
def next_hit(m: Any, kind: int, b: int, i: int) -> None:
    """Move the oldest hit of bank `b` on from node `i`, which is about to be removed."""
    row = m[at.OPEN_ROW, b]
    i = m[at.NEXT, i]
    while i >= 0 and m[at.ROW, i] != row:
        i = m[at.NEXT, i]
    m[at.HIT + kind, b] = i


@kernel
def release(m: Any, i: int) -> None:
    """Give node `i` back to the free list."""
    m[at.NEXT, i] = m[at.SCALAR, at.FREE]
    m[at.SCALAR, at.FREE] = i


@kernel
def waits(m: Any, kind: int, b: int, tag: int, tags: int) -> bool:
    """Whether a request for the burst `tag` is in the list of bank `b`; `tags` is the row of the tags."""
    i = m[at.HEAD + kind, b]
    while i >= 0:
        if m[tags, i] == tag:
            return True
        i = m[at.NEXT, i]
    return False
