"""First-ready first-come-first-served controller: the kernel.

One read and one write queue per channel. Each tick: bookkeeping, refresh counter, then one column and one row
command where the standard has separate buses for them, else one command. Requests whose row was opened for
them go first, then maintenance, then the queue of the mode that the write watermarks choose.
"""

from typing import Any

from tilewright.dataflow.kernel import kernel
from tilewright.sim import dram_state as at
from tilewright.sim.dram_log import record_done, write_log
from tilewright.sim.dram_queue import append, next_hit, rekey, release, remove, take_node, waits
from tilewright.sim.dram_refresh import hold_due_banks
from tilewright.sim.dram_rows import (
    close,
    close_idle,
    issue_row,
    maintain,
    may_issue,
    push_pending,
    refresh_step,
    schedule_closing,
)
from tilewright.sim.dram_rules import apply_rules
from tilewright.sim.dram_timing import ACT, PRE, RD, RDA


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
        if m[at.SCALAR, at.N_WRITES] > 0 and waits(m, 1, b, tag, at.TAG):
            m[at.SCALAR, at.N_FORWARDED + kind] += 1
            record_done(m, out, p, now, now + 1 - kind, kind == 0)
            m[at.SCALAR, at.NEXT_OFFER] = now + 1 - kind
            p += 1
            continue
        if m[at.SCALAR, at.N_READS + kind] >= m[at.FIXED, at.READ_QUEUE + kind]:
            m[at.SCALAR, at.NEXT_OFFER] = at.NEVER  # room comes with a command; then this is asked again
            break
        i = take_node(m, requests, p, now)
        m[at.SEEN, i] = 0
        append(m, kind, b, i)
        if m[at.FIXED, at.LOAD] == at.SINGLE:
            m[at.SCALAR, at.NEXT_OFFER] = at.NEVER
        p += 1
    m[at.SCALAR, at.POSITION] = p


@kernel
def choose_mode(m: Any) -> int:
    """Apply the write watermarks; 1 while writes are served."""
    writes = m[at.SCALAR, at.N_WRITES]
    mode: int = m[at.SCALAR, at.WRITE_MODE]
    if mode == 0:
        if writes > m[at.FIXED, at.HIGH] or m[at.SCALAR, at.N_READS] == 0:
            mode = 1
    elif writes < m[at.FIXED, at.LOW] and m[at.SCALAR, at.N_READS] != 0:
        mode = 0
    if mode != m[at.SCALAR, at.WRITE_MODE]:
        m[at.SCALAR, at.ROW_WAKE] = 0
        m[at.SCALAR, at.WRITE_MODE] = mode
    return mode


@kernel
def _oldest(m: Any, kind: int) -> int:
    """SEQ of the oldest request of a kind, queued or activated."""
    oldest = at.NEVER
    for b in range(m[at.FIXED, at.N_BANKS]):
        for i in (m[at.HEAD + kind, b], m[at.ACTIVE, b]):
            if i >= 0 and m[at.KIND, i] == kind:
                oldest = min(oldest, m[at.SEQ, i])
    return oldest


@kernel
def best_active(m: Any, now: int) -> int:
    """The bank whose activated request came first of those that are ready, -1 for none.

    Without reordering only the oldest request of the kind being served may go, unless a refresh is due, which
    waits for the activated requests.
    """
    best = -1
    earliest = at.NEVER
    mode = m[at.SCALAR, at.WRITE_MODE] if m[at.SCALAR, at.N_WRITES] > 0 else 0
    turn = at.NEVER
    ordered = m[at.FIXED, at.IN_ORDER] != 0 and m[at.SCALAR, at.N_PENDING] == 0
    if ordered and m[at.SCALAR, at.N_ACTIVE] > 0:
        turn = _oldest(m, mode)
    for j in range(m[at.SCALAR, at.N_ACTIVE]):
        b = m[at.ACTIVE_LIST, j]
        i = m[at.ACTIVE, b]
        if ordered and m[at.KIND, i] == mode and m[at.SEQ, i] != turn:
            continue
        command = RD + m[at.KIND, i]
        ready = max(m[at.READY + command, b], m[at.CHANNEL_READY, command])
        if ready > now:
            m[at.SCALAR, at.WAKE] = min(m[at.SCALAR, at.WAKE], ready)
        elif m[at.ARRIVED, i] < earliest:
            earliest = m[at.ARRIVED, i]
            best = b
    return best


@kernel
def best_column(m: Any, kind: int, now: int) -> int:
    """The bank with the oldest ready hit, -1 for none. No branches: the loop compiles to vector code."""
    best = at.NEVER
    wake = at.NEVER
    gate = m[at.CHANNEL_READY, RD + kind]
    for b in range(m[at.FIXED, at.N_BANKS]):
        key = m[at.COLUMN_KEY + kind, b]
        ready = max(m[at.READY + RD + kind, b], gate)
        best = min(best, key if ready <= now else at.NEVER)
        wake = min(wake, ready if key < at.NEVER else at.NEVER)
    if m[at.FIXED, at.IN_ORDER] != 0 and best < at.NEVER and best >> at.KEY_SHIFT != _oldest(m, kind):
        best = at.NEVER  # its turn comes with another command
    m[at.SCALAR, at.WAKE] = min(m[at.SCALAR, at.WAKE], max(wake, now + 1))
    return int(best & at.KEY_BANK) if best < at.NEVER else -1


@kernel
def best_row(m: Any, kind: int, now: int) -> int:
    """The bank with the oldest request whose ACT or PRE is ready, -1 for none.

    ROW_WAKE remembers the earliest tick at which there can be one, until a candidate changes.
    """
    if m[at.SCALAR, at.ROW_WAKE] > now:
        m[at.SCALAR, at.WAKE] = min(m[at.SCALAR, at.WAKE], m[at.SCALAR, at.ROW_WAKE])
        return -1
    falling = m[at.FIXED, at.TICKS] == 2 and now % 2 == 0
    if falling or m[at.SCALAR, at.ACTIVATING] >= 0:
        return _best_row_of_few(m, kind, now)
    best = at.NEVER
    wake = at.NEVER
    gate_act = m[at.CHANNEL_READY, ACT]
    gate_pre = m[at.CHANNEL_READY, PRE]
    for b in range(m[at.FIXED, at.N_BANKS]):
        key = m[at.ROW_KEY + kind, b]
        act = max(m[at.READY + ACT, b], gate_act)
        pre = max(m[at.READY + PRE, b], gate_pre)
        ready = act if m[at.OPEN_ROW, b] < 0 else pre
        best = min(best, key if ready <= now else at.NEVER)
        wake = min(wake, ready if key < at.NEVER else at.NEVER)
    wake = max(wake, now + 1)
    m[at.SCALAR, at.WAKE] = min(m[at.SCALAR, at.WAKE], wake)
    if best == at.NEVER:
        m[at.SCALAR, at.ROW_WAKE] = wake
        return -1
    return int(best & at.KEY_BANK)


@kernel
def _best_row_of_few(m: Any, kind: int, now: int) -> int:
    """As `best_row` where not every row command may issue now."""
    best = at.NEVER
    wake = at.NEVER
    for b in range(m[at.FIXED, at.N_BANKS]):
        key = m[at.ROW_KEY + kind, b]
        if key < best:
            command = ACT if m[at.OPEN_ROW, b] < 0 else PRE
            ready = max(m[at.READY + command, b], m[at.CHANNEL_READY, command])
            if ready > now:
                wake = min(wake, ready)
            elif may_issue(m, command, b, now):
                best = key
            else:
                wake = now + 1
    m[at.SCALAR, at.WAKE] = min(m[at.SCALAR, at.WAKE], wake)
    if best == at.NEVER:
        m[at.SCALAR, at.ROW_WAKE] = wake
        return -1
    return int(best & at.KEY_BANK)


@kernel
def issue_column(m: Any, out: Any, b: int, kind: int, from_active: bool) -> None:
    """Issue the RD or WR of the activated request or of the oldest hit of bank `b` and retire it."""
    now = m[at.SCALAR, at.CLOCK]
    if from_active:
        i = m[at.ACTIVE, b]
        kind = m[at.KIND, i]
        m[at.ACTIVE, b] = -1
        m[at.N_ACTIVE_RANK, b >> m[at.FIXED, at.RANK_SHIFT]] -= 1
        found = 0
        while m[at.ACTIVE_LIST, found] != b:
            found += 1
        m[at.SCALAR, at.N_ACTIVE] -= 1
        for j in range(found, m[at.SCALAR, at.N_ACTIVE]):
            m[at.ACTIVE_LIST, j] = m[at.ACTIVE_LIST, j + 1]
    else:
        i = m[at.HIT + kind, b]
        next_hit(m, kind, b, i)
        remove(m, kind, b, i)
        m[at.SCALAR, at.N_READS + kind] -= 1
        if m[at.SEEN, i] == 0:
            m[at.SCALAR, at.N_HITS] += 1
    command = RD + kind
    if m[at.FIXED, at.CLOSED] != 0 and m[at.COLUMNS, b] >= m[at.FIXED, at.COLUMN_CAP]:
        command = RDA + kind
    apply_rules(m, command, b, now)
    write_log(m, out, command, b, m[at.ROW, i], now)
    end = now + m[at.FIXED, at.READ_LATENCY] if kind == 0 else now
    record_done(m, out, m[at.ORIGIN, i], m[at.ARRIVED, i], end, kind == 0)
    if m[at.FIXED, at.LOAD] == at.SINGLE:
        m[at.SCALAR, at.NEXT_OFFER] = end
    release(m, i)
    if command >= RDA:
        close(m, b)
        return
    m[at.COLUMNS, b] += 1
    m[at.LAST_USE, b] = now
    rekey(m, kind, b)
    if from_active:
        rekey(m, 1 - kind, b)


@kernel
def _tick_two_buses(m: Any, out: Any) -> bool:
    """One column command, then one row command; True when anything has issued."""
    now = m[at.SCALAR, at.CLOCK]
    issued = False
    if m[at.FIXED, at.TICKS] == 1 or now % 2 == 1:
        kind = 0
        b = best_active(m, now)
        from_active = b >= 0
        if b < 0 and m[at.SCALAR, at.N_PENDING] == 0:
            kind = choose_mode(m)
            b = best_column(m, kind, now)
        if b >= 0:
            issue_column(m, out, b, kind, from_active)
            issued = True
    else:
        m[at.SCALAR, at.WAKE] = now + 1
    if m[at.SCALAR, at.N_PENDING] > 0:
        return maintain(m, out) or issued
    before = m[at.SCALAR, at.WRITE_MODE]
    if m[at.SCALAR, at.N_DUE] > 0 and refresh_step(m, out):
        return True
    kind = choose_mode(m)
    if kind != before:
        m[at.SCALAR, at.WAKE] = now + 1
    b = best_row(m, kind, now)
    if b >= 0:
        issue_row(m, out, b, kind)
        issued = True
    elif m[at.FIXED, at.TIMEOUT] != 0:
        issued = close_idle(m, out) or issued
    return issued


@kernel
def _tick_one_bus(m: Any, out: Any) -> bool:
    """One command of any kind; True when it has issued."""
    now = m[at.SCALAR, at.CLOCK]
    kind = 0
    b = best_active(m, now)
    from_active = b >= 0
    if b < 0:
        if m[at.SCALAR, at.N_PENDING] > 0:
            return maintain(m, out)
        if m[at.SCALAR, at.N_DUE] > 0 and refresh_step(m, out):
            return True
        kind = choose_mode(m)
        b = best_column(m, kind, now)
        other = best_row(m, kind, now)
        if other >= 0 and (b < 0 or m[at.ROW_KEY + kind, other] < m[at.COLUMN_KEY + kind, b]):
            issue_row(m, out, other, kind)
            return True
    if b >= 0:
        issue_column(m, out, b, kind, from_active)
        return True
    return m[at.FIXED, at.TIMEOUT] != 0 and close_idle(m, out)


@kernel
def accept(m: Any, out: Any, requests: Any, offer_tick: Any, drain: bool) -> bool:
    """Offer requests; True when the run is over: all accepted, with `drain` all served."""
    _offer(m, out, requests, offer_tick)
    if m[at.SCALAR, at.POSITION] < m[at.SCALAR, at.END]:
        return False
    left = m[at.SCALAR, at.N_READS] + m[at.SCALAR, at.N_WRITES] + m[at.SCALAR, at.N_ACTIVE]
    return not drain or left + m[at.SCALAR, at.ACTIVATING] + 1 == 0


@kernel
def begin_tick(m: Any) -> None:
    """Count on, ask for refreshes that are due and, with closed pages, for precharges."""
    m[at.SCALAR, at.CLOCK] += 1
    now = m[at.SCALAR, at.CLOCK]
    m[at.SCALAR, at.WAKE] = at.NEVER
    if now == m[at.SCALAR, at.NEXT_REFRESH]:
        m[at.SCALAR, at.NEXT_REFRESH] += m[at.FIXED, at.REFRESH_INTERVAL]
        if m[at.FIXED, at.REFRESH_SETS] > 1:
            hold_due_banks(m)
        else:
            for r in range(m[at.FIXED, at.N_RANKS]):
                push_pending(m, r)
    if m[at.FIXED, at.CLOSED] != 0:
        schedule_closing(m, now)


@kernel
def end_tick(m: Any, issued: bool) -> None:
    """Go straight to the tick before the next one at which anything can happen."""
    if issued:
        return
    wake = min(m[at.SCALAR, at.WAKE], m[at.SCALAR, at.NEXT_REFRESH])
    if m[at.SCALAR, at.POSITION] < m[at.SCALAR, at.END] and m[at.FIXED, at.LOAD] != at.SATURATE:
        wake = min(wake, m[at.SCALAR, at.NEXT_OFFER] + 1)
    m[at.SCALAR, at.CLOCK] = max(m[at.SCALAR, at.CLOCK], wake - 1)


@kernel
def run_two_buses(m: Any, out: Any, requests: Any, offer_tick: Any, drain: bool) -> None:
    """Serve `requests` from POSITION to END; stops when all are accepted, with `drain` when all are served.

    m, out: a channel's table and what it writes (rows of `dram_state`). requests: (4, n), bank, row, burst
    number, is write. offer_tick: (n,) for a paced load, else empty.
    """
    while not accept(m, out, requests, offer_tick, drain):
        begin_tick(m)
        end_tick(m, _tick_two_buses(m, out))


@kernel
def run_one_bus(m: Any, out: Any, requests: Any, offer_tick: Any, drain: bool) -> None:
    """As `run_two_buses` for standards with one command bus."""
    while not accept(m, out, requests, offer_tick, drain):
        begin_tick(m)
        end_tick(m, _tick_one_bus(m, out))
