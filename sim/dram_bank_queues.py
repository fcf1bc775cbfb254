"""Controller with a command queue per bank: the kernel.

Reads wait in a read queue, writes in a buffer that is drained in batches; each cycle one of them moves to
the command queue of its bank. Commands are chosen round robin over the banks, first ready in a bank's
queue. A row with waiting hits may be closed once it has served a number of them.
"""

from typing import Any

from tilewright.dataflow.kernel import kernel
from tilewright.sim import dram_state as at
from tilewright.sim.dram_log import record_done, write_log
from tilewright.sim.dram_queue import link, release, take_node, unlink, waits
from tilewright.sim.dram_refresh import apply_bank_refresh, note_refresh
from tilewright.sim.dram_rules import apply_rules, note_activate
from tilewright.sim.dram_timing import ACT, PRE, RD, RDA, REF, WR

_WRITES_LEFT_ALONE = 8  # a drain starts below a full buffer only with more writes than this and idle banks


@kernel
def _find(m: Any, b: int, kind: int, tag: int) -> int:
    """The command of bank `b` with this kind and burst, -1 for none."""
    i = m[at.COMMAND_HEAD, b]
    while i >= 0 and (m[at.TAG, i] != tag or m[at.KIND, i] != kind):
        i = m[at.NEXT, i]
    found: int = i
    return found


@kernel
def _find_waiting(m: Any, b: int, kind: int, tag: int) -> int:
    """The request or command of bank `b` with this kind and burst, -1 for none."""
    i = m[at.HEAD + kind, b]
    while i >= 0 and m[at.TAG, i] != tag:
        i = m[at.NEXT, i]
    return i if i >= 0 else _find(m, b, kind, tag)


@kernel
def _joins(m: Any, out: Any, p: int, b: int, kind: int, tag: int, now: int) -> bool:
    """Serve a request from what already waits: a read from a write, a write by a write, a read by a read."""
    if _find_waiting(m, b, 1, tag) >= 0:
        m[at.SCALAR, at.N_FORWARDED + kind] += 1
        record_done(m, out, p, now, now + 1, kind == 0)
        return True
    if kind == 1:
        return False
    first = _find_waiting(m, b, 0, tag)
    if first < 0:
        return False
    m[at.MERGED, first] += 1
    m[at.MERGED_SUM, first] += now
    if p < m[at.FIXED, at.DONE_ROOM]:
        out[at.DONE, p] = -2 - m[at.ORIGIN, first]
    return True


@kernel
def _offer(m: Any, out: Any, requests: Any, offer_tick: Any) -> None:
    """Accept requests in their order until one has to wait. requests: (4, n), bank, row, tag, is write."""
    n = m[at.SCALAR, at.END]
    now = m[at.SCALAR, at.CLOCK]
    p = m[at.SCALAR, at.POSITION]
    while p < n:
        if m[at.FIXED, at.LOAD] == at.PACED and offer_tick[p] > now:
            m[at.SCALAR, at.NEXT_OFFER] = offer_tick[p]
            break
        if m[at.FIXED, at.LOAD] == at.SINGLE and m[at.SCALAR, at.NEXT_OFFER] > now:
            break
        b = requests[0, p]
        kind = requests[3, p]
        tag = requests[2, p]
        if m[at.SCALAR, at.N_READS + kind] >= m[at.FIXED, at.READ_QUEUE + kind]:
            if m[at.FIXED, at.LOAD] != at.SINGLE:
                m[at.SCALAR, at.NEXT_OFFER] = at.NEVER  # room comes with a command; then this is asked again
            break
        if m[at.FIXED, at.LOAD] == at.SINGLE:
            m[at.SCALAR, at.NEXT_OFFER] = at.NEVER if kind == 0 else now + 1
        if _joins(m, out, p, b, kind, tag, now):
            if m[at.FIXED, at.LOAD] == at.SINGLE:
                m[at.SCALAR, at.NEXT_OFFER] = now + 2 - kind
            p += 1
            continue
        i = take_node(m, requests, p, now)
        m[at.MERGED, i] = 0
        m[at.MERGED_SUM, i] = 0
        link(m, at.HEAD + kind, at.TAIL + kind, b, i)
        p += 1
    m[at.SCALAR, at.POSITION] = p


@kernel
def _blocked_by_read(m: Any, b: int, i: int) -> bool:
    """Whether a read of the burst of write `i` stands before it in the queue of its bank."""
    j = m[at.COMMAND_HEAD, b]
    while j >= 0 and j != i:
        if m[at.KIND, j] == 0 and m[at.TAG, j] == m[at.TAG, i]:
            return True
        j = m[at.NEXT, j]
    return False


@kernel
def _row_is_wanted(m: Any, b: int) -> bool:
    """Whether a command in the queue of bank `b` hits its open row."""
    i = m[at.COMMAND_HEAD, b]
    while i >= 0:
        if m[at.ROW, i] == m[at.OPEN_ROW, b]:
            return True
        i = m[at.NEXT, i]
    return False


@kernel
def _may_close(m: Any, b: int) -> bool:
    """Whether a miss at the head of bank `b` may close its row: no hits wait, or enough were served."""
    return m[at.COLUMNS, b] >= m[at.FIXED, at.COLUMN_CAP] or not _row_is_wanted(m, b)


@kernel
def _first_ready(m: Any, b: int, now: int) -> int:
    """The first command of bank `b` that can make a step at `now`, -1 for none; sets BANK_WAKE.

    The step is an ACT on a closed bank, a column command on a hit, a PRE for the oldest command.
    """
    wake = at.NEVER
    i = m[at.COMMAND_HEAD, b]
    first = i
    while i >= 0:
        step = RD + m[at.KIND, i]
        if m[at.OPEN_ROW, b] < 0:
            step = ACT
        elif m[at.ROW, i] != m[at.OPEN_ROW, b]:
            step = PRE
        ready = m[at.READY + step, b]
        if ready > now:
            wake = min(wake, ready)
        elif step == PRE:
            if i == first and _may_close(m, b):
                break
        elif step != WR or not _blocked_by_read(m, b, i):
            break
        if step == ACT:
            i = -1
            break
        i = m[at.NEXT, i]
    m[at.BANK_WAKE, b] = now if i >= 0 else wake
    found: int = i
    return found


@kernel
def _held(m: Any, b: int, unit: int) -> bool:
    """Whether bank `b` belongs to what is due for refresh: set `unit` % REFRESH_SETS of a rank."""
    sets = m[at.FIXED, at.REFRESH_SETS]
    own = (b >> m[at.FIXED, at.RANK_SHIFT]) * sets + (b & (sets - 1))
    return unit >= 0 and bool(own == unit)


@kernel
def _next_command(m: Any, held: int, now: int) -> int:
    """The next bank in round robin with a ready command, -1 for none; the banks of `held` wait."""
    n = m[at.FIXED, at.N_BANKS]
    b = m[at.SCALAR, at.LAST_QUEUE]
    for _ in range(n):
        b += 1
        if b == n:
            b = 0
        if m[at.COMMAND_HEAD, b] < 0 or m[at.BANK_WAKE, b] > now:
            continue
        if _held(m, b, held):
            continue
        if _first_ready(m, b, now) >= 0:
            m[at.SCALAR, at.LAST_QUEUE] = b
            return int(b)
    return -1


@kernel
def _issue(m: Any, out: Any, b: int, i: int, now: int) -> bool:
    """Make the step of command `i` of bank `b`; True for a column command."""
    m[at.BANK_WAKE, b] = 0
    if m[at.OPEN_ROW, b] < 0:
        m[at.OPEN_ROW, b] = m[at.ROW, i]
        m[at.COLUMNS, b] = 0
        m[at.LAST_USE, b] = now
        m[at.SCALAR, at.N_ACTIVATES] += 1
        apply_rules(m, ACT, b, now)
        note_activate(m, b, now)
        write_log(m, out, ACT, b, m[at.ROW, i], now)
        return False
    if m[at.ROW, i] != m[at.OPEN_ROW, b]:
        _close(m, out, b, now)
        return False
    kind = m[at.KIND, i]
    command = RD + kind
    if m[at.COLUMNS, b] > 0:
        m[at.SCALAR, at.N_HITS] += 1
    m[at.COLUMNS, b] += 1
    m[at.LAST_USE, b] = now
    if m[at.FIXED, at.CLOSED] != 0:
        command = RDA + kind
        m[at.OPEN_ROW, b] = -1
        m[at.COLUMNS, b] = 0
    apply_rules(m, command, b, now)
    write_log(m, out, command, b, m[at.ROW, i], now)
    _retire(m, out, b, i, kind, now)
    return True


@kernel
def _retire(m: Any, out: Any, b: int, i: int, kind: int, now: int) -> None:
    """Take a served command out of its queue, with the reads that have joined it."""
    end = now + m[at.FIXED, at.READ_LATENCY] if kind == 0 else now + 1
    record_done(m, out, m[at.ORIGIN, i], m[at.ARRIVED, i], end, kind == 0)
    joined = m[at.MERGED, i]
    if joined > 0:
        m[at.SCALAR, at.N_SERVED] += joined
        m[at.SCALAR, at.N_LATENCIES] += joined
        m[at.SCALAR, at.LATENCY_SUM] += joined * end - m[at.MERGED_SUM, i]
        mean = end - m[at.MERGED_SUM, i] // joined
        out[at.HISTOGRAM, min(mean, at.LATENCY_BINS - 1)] += joined
    if m[at.FIXED, at.LOAD] == at.SINGLE and kind == 0:
        m[at.SCALAR, at.NEXT_OFFER] = end + 1
    unlink(m, at.COMMAND_HEAD, at.COMMAND_TAIL, b, i)
    m[at.QUEUED, b] -= 1
    m[at.SCALAR, at.N_COMMANDS] -= 1
    release(m, i)


@kernel
def _close(m: Any, out: Any, b: int, now: int) -> None:
    """Issue the PRE of bank `b`."""
    m[at.OPEN_ROW, b] = -1
    m[at.COLUMNS, b] = 0
    m[at.BANK_WAKE, b] = 0
    apply_rules(m, PRE, b, now)
    write_log(m, out, PRE, b, -1, now)


@kernel
def _refresh_step(m: Any, out: Any, held: int, now: int) -> bool:
    """Close one bank of the set that is due, or refresh it; True when a command has issued."""
    size = m[at.FIXED, at.BANKS_PER_RANK]
    sets = m[at.FIXED, at.REFRESH_SETS]
    rank = held // sets
    first, end = rank * size + held % sets, (rank + 1) * size
    n_open = 0
    for b in range(first, end, sets):
        if m[at.OPEN_ROW, b] < 0:
            continue
        n_open += 1
        ready = m[at.READY + PRE, b]
        if ready <= now:
            _close(m, out, b, now)
            return True
        m[at.SCALAR, at.WAKE] = min(m[at.SCALAR, at.WAKE], ready)
    if n_open > 0:
        return False
    ready = m[at.READY_REF, rank]
    if sets > 1:
        ready = now
        for b in range(first, end, sets):
            ready = max(ready, m[at.READY_REFB, b])
    if ready > now:
        m[at.SCALAR, at.WAKE] = min(m[at.SCALAR, at.WAKE], ready)
        return False
    if sets > 1:
        apply_bank_refresh(m, out, first, end, now)
    else:
        apply_rules(m, REF, first, now)
        write_log(m, out, REF, first, -1, now)
        note_refresh(m)
    m[at.SCALAR, at.PENDING_HEAD] = (m[at.SCALAR, at.PENDING_HEAD] + 1) % m.shape[1]
    m[at.SCALAR, at.N_PENDING] -= 1
    return True


@kernel
def _close_idle(m: Any, out: Any, now: int) -> bool:
    """Timeout pages: close the row that has been idle longest past its time; True when a PRE has issued."""
    best = -1
    for b in range(m[at.FIXED, at.N_BANKS]):
        if m[at.OPEN_ROW, b] < 0 or _row_is_wanted(m, b):
            continue
        ready = max(m[at.LAST_USE, b] + m[at.FIXED, at.TIMEOUT], m[at.READY + PRE, b])
        if ready > now:
            m[at.SCALAR, at.WAKE] = min(m[at.SCALAR, at.WAKE], ready)
        elif best < 0 or m[at.LAST_USE, b] < m[at.LAST_USE, best]:
            best = b
    if best < 0:
        return False
    _close(m, out, best, now)
    return True


@kernel
def _oldest_with_room(m: Any, kind: int) -> int:
    """The bank of the oldest request of a kind whose command queue has room, -1 for none."""
    best = -1
    oldest = at.NEVER
    for b in range(m[at.FIXED, at.N_BANKS]):
        i = m[at.HEAD + kind, b]
        if i >= 0 and m[at.QUEUED, b] < m[at.FIXED, at.BANK_QUEUE] and m[at.SEQ, i] < oldest:
            oldest = m[at.SEQ, i]
            best = b
    return best


@kernel
def _dispatch(m: Any) -> bool:
    """Move the oldest request that finds room to its bank's queue; True when anything has changed."""
    if m[at.SCALAR, at.DRAIN_LEFT] == 0:
        n_writes = m[at.SCALAR, at.N_WRITES]
        idle = m[at.SCALAR, at.N_COMMANDS] == 0
        if n_writes >= m[at.FIXED, at.WRITE_QUEUE] or (n_writes > _WRITES_LEFT_ALONE and idle):
            m[at.SCALAR, at.DRAIN_LEFT] = n_writes
    kind = 1 if m[at.SCALAR, at.DRAIN_LEFT] > 0 else 0
    best = _oldest_with_room(m, kind)
    if best >= 0 and kind == 1:
        tag = m[at.TAG, m[at.HEAD + 1, best]]
        waits_ahead = waits(m, 0, best, tag, at.TAG)
        if waits_ahead or _find(m, best, 0, tag) >= 0:
            m[at.SCALAR, at.DRAIN_LEFT] = 0  # a read of the same burst goes first
            if not waits_ahead:
                return True
            kind = 0
            best = _oldest_with_room(m, 0)
        else:
            m[at.SCALAR, at.DRAIN_LEFT] -= 1
    if best < 0:
        return False
    i = m[at.HEAD + kind, best]
    unlink(m, at.HEAD + kind, at.TAIL + kind, best, i)
    m[at.SCALAR, at.N_READS + kind] -= 1
    link(m, at.COMMAND_HEAD, at.COMMAND_TAIL, best, i)
    m[at.QUEUED, best] += 1
    m[at.SCALAR, at.N_COMMANDS] += 1
    m[at.BANK_WAKE, best] = 0
    return True


@kernel
def _tick(m: Any, out: Any) -> bool:
    """One cycle; True when anything has moved."""
    now = m[at.SCALAR, at.CLOCK]
    if now == m[at.SCALAR, at.NEXT_REFRESH]:
        entry = (m[at.SCALAR, at.PENDING_HEAD] + m[at.SCALAR, at.N_PENDING]) % m.shape[1]
        m[at.PENDING, entry] = m[at.SCALAR, at.NEXT_RANK]
        m[at.SCALAR, at.N_PENDING] += 1
        n_units = m[at.FIXED, at.N_RANKS] * m[at.FIXED, at.REFRESH_SETS]
        m[at.SCALAR, at.NEXT_RANK] = (m[at.SCALAR, at.NEXT_RANK] + 1) % n_units
        m[at.SCALAR, at.NEXT_REFRESH] += m[at.FIXED, at.REFRESH_INTERVAL]
    held = -1
    moved = False
    column = False
    if m[at.SCALAR, at.N_PENDING] > 0:
        held = m[at.PENDING, m[at.SCALAR, at.PENDING_HEAD]]
        moved = _refresh_step(m, out, held, now)
    if not moved:
        b = _next_command(m, held, now)
        if b >= 0:
            column = _issue(m, out, b, _first_ready(m, b, now), now)
            moved = True
    if not moved and m[at.FIXED, at.TIMEOUT] != 0:
        moved = _close_idle(m, out, now)
    elif moved and m[at.FIXED, at.DUAL] != 0:
        b = _next_command(m, held, now)
        if b >= 0:
            i = _first_ready(m, b, now)
            second_column = m[at.OPEN_ROW, b] >= 0 and m[at.ROW, i] == m[at.OPEN_ROW, b]
            if second_column != column:
                _issue(m, out, b, i, now)
    return _dispatch(m) or moved


@kernel
def run_bank_queues(m: Any, out: Any, requests: Any, offer_tick: Any, drain: bool) -> None:
    """Serve `requests` from the state at hand; arguments as of `run_two_buses`.

    Up to 8 writes at the end never leave the buffer; with `drain` the run ends when only they are left.
    """
    while True:
        _offer(m, out, requests, offer_tick)
        if m[at.SCALAR, at.POSITION] == m[at.SCALAR, at.END]:
            left = m[at.SCALAR, at.N_READS] + m[at.SCALAR, at.N_COMMANDS] + m[at.SCALAR, at.DRAIN_LEFT]
            if not drain or (left == 0 and m[at.SCALAR, at.N_WRITES] <= _WRITES_LEFT_ALONE):
                return
        m[at.SCALAR, at.WAKE] = at.NEVER
        if not _tick(m, out):
            wake = min(m[at.SCALAR, at.WAKE], m[at.SCALAR, at.NEXT_REFRESH])
            for b in range(m[at.FIXED, at.N_BANKS]):
                if m[at.COMMAND_HEAD, b] >= 0:
                    wake = min(wake, m[at.BANK_WAKE, b])
            if m[at.SCALAR, at.POSITION] < m[at.SCALAR, at.END] and m[at.FIXED, at.LOAD] != at.SATURATE:
                wake = min(wake, m[at.SCALAR, at.NEXT_OFFER])
            m[at.SCALAR, at.CLOCK] = max(m[at.SCALAR, at.CLOCK], wake - 1)
        m[at.SCALAR, at.CLOCK] += 1
