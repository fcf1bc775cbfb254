"""Request queues as linked lists per bank, and which of their requests may become a command next."""

from typing import Any

from tilewright.dataflow.kernel import kernel
from tilewright.sim import dram_state as at


@kernel
def rekey(m: Any, kind: int, b: int) -> None:
    """Set the keys of the candidates of bank `b` from its open row, oldest hit and oldest miss."""
    if m.bank[at.OPEN_ROW, b] < 0:
        head = m.bank[at.HEAD + kind, b]
        m.bank[at.COLUMN_KEY + kind, b] = at.NEVER
        m.bank[at.ROW_KEY + kind, b] = m.node[at.SEQ, head] if head >= 0 else at.NEVER
        return
    hit = m.bank[at.HIT + kind, b]
    miss = m.bank[at.MISS + kind, b]
    row_key = at.NEVER
    if miss >= 0 and m.bank[at.ACTIVE, b] < 0:
        held = m.fixed[at.PROTECT] != 0 and hit >= 0 and m.node[at.ARRIVED, hit] <= m.node[at.ARRIVED, miss]
        if not held:
            row_key = m.node[at.SEQ, miss]
    m.bank[at.COLUMN_KEY + kind, b] = m.node[at.SEQ, hit] if hit >= 0 else at.NEVER
    m.bank[at.ROW_KEY + kind, b] = row_key


@kernel
def resort(m: Any, b: int) -> None:
    """Find the oldest hit and miss of bank `b` again after its row has changed."""
    row = m.bank[at.OPEN_ROW, b]
    for kind in range(2):
        hit = -1
        miss = -1
        if row >= 0:
            i = m.bank[at.HEAD + kind, b]
            while i >= 0 and (hit < 0 or miss < 0):
                if m.node[at.ROW, i] == row:
                    if hit < 0:
                        hit = i
                elif miss < 0:
                    miss = i
                i = m.node[at.NEXT, i]
        m.bank[at.HIT + kind, b] = hit
        m.bank[at.MISS + kind, b] = miss
        rekey(m, kind, b)


@kernel
def append(m: Any, kind: int, b: int, i: int) -> None:
    """Put node `i` at the end of the list of its m.bank."""
    tail = m.bank[at.TAIL + kind, b]
    m.node[at.PREVIOUS, i] = tail
    m.node[at.NEXT, i] = -1
    m.bank[at.TAIL + kind, b] = i
    if tail < 0:
        m.bank[at.HEAD + kind, b] = i
    else:
        m.node[at.NEXT, tail] = i
    row = m.bank[at.OPEN_ROW, b]
    if row >= 0:
        which = at.HIT if m.node[at.ROW, i] == row else at.MISS
        if m.bank[which + kind, b] >= 0:
            return
        m.bank[which + kind, b] = i
        rekey(m, kind, b)
    elif tail < 0:
        m.bank[at.ROW_KEY + kind, b] = m.node[at.SEQ, i]


@kernel
def remove(m: Any, kind: int, b: int, i: int) -> None:
    """Take node `i` out of the list of its bank; the caller sets the keys again."""
    before = m.node[at.PREVIOUS, i]
    after = m.node[at.NEXT, i]
    if before < 0:
        m.bank[at.HEAD + kind, b] = after
    else:
        m.node[at.NEXT, before] = after
    if after < 0:
        m.bank[at.TAIL + kind, b] = before
    else:
        m.node[at.PREVIOUS, after] = before


@kernel
def next_hit(m: Any, kind: int, b: int, i: int) -> None:
    """Move the oldest hit of bank `b` on from node `i`, which is about to be removed."""
    row = m.bank[at.OPEN_ROW, b]
    i = m.node[at.NEXT, i]
    while i >= 0 and m.node[at.ROW, i] != row:
        i = m.node[at.NEXT, i]
    m.bank[at.HIT + kind, b] = i


@kernel
def release(m: Any, i: int) -> None:
    """Give node `i` back to the free list."""
    m.node[at.NEXT, i] = m.scalar[at.FREE]
    m.scalar[at.FREE] = i


@kernel
def waits(m: Any, kind: int, b: int, tag: int, tags: int) -> bool:
    """Whether a request for the burst `tag` is in the list of bank `b`; `tags` is the row of the tags."""
    i = m.bank[at.HEAD + kind, b]
    while i >= 0:
        if m.node[tags, i] == tag:
            return True
        i = m.node[at.NEXT, i]
    return False
