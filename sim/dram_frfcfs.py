"""First-ready first-come-first-served controller: the kernel.

One read and one write queue per channel. Each tick: bookkeeping, refresh counter, then one column and one row
command where the standard has separate buses for them, else one command. Requests whose row was opened for
them go first, then maintenance, then the queue of the mode that the write watermarks choose.
"""

from typing import Any

from tilewright.dataflow.kernel import kernel
from tilewright.sim import dram_state as at
from tilewright.sim.dram_queue import append, next_hit, rekey, release, remove, resort, waits
from tilewright.sim.dram_rules import apply_rules, note_activate
from tilewright.sim.dram_timing import ACT, PRE, PREA, RD, RDA, REF

_PRE_OF_BANK = 1 << 20  # a maintenance entry from here on is the PRE of a bank, below it the REF of a rank


@kernel
def record_done(m: Any, out: Any, origin: int, arrived: int, end: int, is_read: bool) -> None:
    """Count a served request: its end, and for a read its latency in ticks."""
    m[at.SCALAR, at.N_SERVED] += 1
    if end > m[at.SCALAR, at.LAST_DONE]:
        m[at.SCALAR, at.LAST_DONE] = end
    if is_read:
        latency = end - arrived
        m[at.SCALAR, at.LATENCY_SUM] += latency
        m[at.SCALAR, at.N_LATENCIES] += 1
        out[at.HISTOGRAM, min(latency, at.LATENCY_BINS - 1)] += 1
    if origin < m[at.FIXED, at.DONE_ROOM]:
        out[at.DONE, origin] = end


@kernel
def write_log(m: Any, out: Any, command: int, b: int, row: int, now: int) -> None:
    """Note a command as (tick, command, bank, row) while there is room."""
    entry = m[at.SCALAR, at.N_LOGGED]
    if entry < m[at.FIXED, at.LOG_ROOM]:
        out[at.LOG_TICK, entry] = now
        out[at.LOG_COMMAND, entry] = command
        out[at.LOG_BANK, entry] = b
        out[at.LOG_ROW, entry] = row
        m[at.SCALAR, at.N_LOGGED] = entry + 1


@kernel
def _offer(m: Any, out: Any, requests: Any, offer_tick: Any) -> None:
    """Accept requests in their order until one has to wait. requests: (4, n), bank, row, tag, is write."""
    n = requests.shape[1]
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
            m[at.SCALAR, at.NEXT_OFFER] = (
                at.NEVER
            )  # room comes with a command, after which this is asked again
            break
        i = m[at.SCALAR, at.FREE]
        m[at.SCALAR, at.FREE] = m[at.NEXT, i]
        m[at.SEQ, i] = m[at.SCALAR, at.NEXT_SEQ]
        m[at.ARRIVED, i] = now
        m[at.ROW, i] = requests[1, p]
        m[at.TAG, i] = tag
        m[at.SEEN, i] = 0
        m[at.ORIGIN, i] = p
        m[at.KIND, i] = kind
        append(m, kind, b, i)
        m[at.SCALAR, at.NEXT_SEQ] += 1
        m[at.SCALAR, at.N_READS + kind] += 1
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
def _may_issue(m: Any, command: int, b: int, now: int) -> bool:
    """Rules of the command bus that are no delays.

    While an activation waits for its second command no other may begin. Where commands issue on half
    cycles, falling edges take only precharges, and beside the row command of the rising edge of the same
    pseudo channel only the PRE of another bank.
    """
    if command == ACT and m[at.SCALAR, at.ACTIVATING] >= 0:
        return False
    if m[at.FIXED, at.TICKS] == 1 or now % 2 == 1:
        return True
    if command != PRE and command != PREA:
        return False
    if now != m[at.SCALAR, at.PAIR_TICK]:
        return True
    size = m[at.FIXED, at.BANKS_PER_RANK]
    if b & -size != m[at.SCALAR, at.PAIR_BANK] & -size:
        return True
    return m[at.SCALAR, at.PAIR_ALL] == 0 and command == PRE and b != m[at.SCALAR, at.PAIR_BANK]


@kernel
def _note_pair(m: Any, command: int, b: int, now: int) -> None:
    """Remember a row command of a rising edge until the falling edge that it shares."""
    if m[at.FIXED, at.TICKS] == 2 and now % 2 == 1:
        m[at.SCALAR, at.PAIR_TICK] = now + (3 if command == ACT else 1)
        m[at.SCALAR, at.PAIR_BANK] = b
        m[at.SCALAR, at.PAIR_ALL] = 1 if command >= PREA else 0


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
            elif _may_issue(m, command, b, now):
                best = key
            else:
                wake = now + 1
    m[at.SCALAR, at.WAKE] = min(m[at.SCALAR, at.WAKE], wake)
    if best == at.NEVER:
        m[at.SCALAR, at.ROW_WAKE] = wake
        return -1
    return int(best & at.KEY_BANK)


@kernel
def _close(m: Any, b: int) -> None:
    """Mark bank `b` precharged."""
    if m[at.OPEN_ROW, b] >= 0:
        m[at.N_OPEN, b >> m[at.FIXED, at.RANK_SHIFT]] -= 1
    m[at.OPEN_ROW, b] = -1
    m[at.COLUMNS, b] = 0
    m[at.CLOSING, b] = 0
    resort(m, b)


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
        _close(m, b)
        return
    m[at.COLUMNS, b] += 1
    rekey(m, kind, b)
    if from_active:
        rekey(m, 1 - kind, b)


@kernel
def issue_row(m: Any, out: Any, b: int, kind: int) -> None:
    """Issue the ACT or PRE that the oldest request of bank `b` needs; an ACT takes it out of its queue."""
    now = m[at.SCALAR, at.CLOCK]
    if m[at.OPEN_ROW, b] >= 0:
        i = m[at.MISS + kind, b]
        m[at.SEEN, i] = 1
        apply_rules(m, PRE, b, now)
        _note_pair(m, PRE, b, now)
        write_log(m, out, PRE, b, -1, now)
        _close(m, b)
        return
    i = m[at.HEAD + kind, b]
    m[at.SEEN, i] = 1
    remove(m, kind, b, i)
    m[at.SCALAR, at.N_READS + kind] -= 1
    m[at.ACTIVE, b] = i
    own = b >> m[at.FIXED, at.RANK_SHIFT]
    m[at.N_ACTIVE_RANK, own] += 1
    m[at.N_OPEN, own] += 1
    m[at.SCALAR, at.N_ACTIVATES] += 1
    apply_rules(m, ACT, b, now)
    _note_pair(m, ACT, b, now)
    note_activate(m, b, now)
    write_log(m, out, ACT, b, m[at.ROW, i], now)
    if m[at.FIXED, at.CAS] != 0:
        m[at.SCALAR, at.ACTIVATING] = b
        m[at.SCALAR, at.DEADLINE] = now + m[at.FIXED, at.ACT2_DEADLINE]
        resort(m, b)
    else:
        open_row(m, b)


@kernel
def open_row(m: Any, b: int) -> None:
    """Open the row of the activated request of bank `b`."""
    m[at.OPEN_ROW, b] = m[at.ROW, m[at.ACTIVE, b]]
    m[at.ACTIVE_LIST, m[at.SCALAR, at.N_ACTIVE]] = b
    m[at.SCALAR, at.N_ACTIVE] += 1
    resort(m, b)


@kernel
def maintain(m: Any, out: Any) -> bool:
    """Try the oldest maintenance entry; True when a command has issued."""
    now = m[at.SCALAR, at.CLOCK]
    entry = m[at.PENDING, m[at.SCALAR, at.PENDING_HEAD]]
    if entry >= _PRE_OF_BANK:
        b = entry - _PRE_OF_BANK
        command = PRE
        ready = max(m[at.READY + PRE, b], m[at.CHANNEL_READY, PRE])
        blocked = m[at.ACTIVE, b] >= 0
    else:
        b = entry * m[at.FIXED, at.BANKS_PER_RANK]
        command = PREA if m[at.N_OPEN, entry] > 0 else REF
        ready = max(m[at.READY_PREA + command - PREA, entry], m[at.CHANNEL_READY, command])
        blocked = command == PREA and m[at.N_ACTIVE_RANK, entry] > 0
    if blocked or not _may_issue(m, command, b, now):
        return False
    if ready > now:
        m[at.SCALAR, at.WAKE] = min(m[at.SCALAR, at.WAKE], ready)
        return False
    apply_rules(m, command, b, now)
    _note_pair(m, command, b, now)
    write_log(m, out, command, b, -1, now)
    if command == PRE:
        _close(m, b)
    elif command == PREA:
        for other in range(b, b + m[at.FIXED, at.BANKS_PER_RANK]):
            _close(m, other)
        return True
    else:
        m[at.SCALAR, at.N_REFRESHES] += 1
    m[at.SCALAR, at.PENDING_HEAD] = (m[at.SCALAR, at.PENDING_HEAD] + 1) % m.shape[1]
    m[at.SCALAR, at.N_PENDING] -= 1
    return True


@kernel
def _push_pending(m: Any, entry: int) -> None:
    m[at.PENDING, (m[at.SCALAR, at.PENDING_HEAD] + m[at.SCALAR, at.N_PENDING]) % m.shape[1]] = entry
    m[at.SCALAR, at.N_PENDING] += 1


@kernel
def _schedule_closing(m: Any, now: int) -> None:
    """Closed page: ask for the PRE of every bank that has had its column accesses, once it is legal."""
    for b in range(m[at.FIXED, at.N_BANKS]):
        if m[at.COLUMNS, b] >= m[at.FIXED, at.COLUMN_CAP] and m[at.CLOSING, b] == 0:
            ready = max(m[at.READY + PRE, b], m[at.CHANNEL_READY, PRE])
            if ready <= now:
                m[at.CLOSING, b] = 1
                _push_pending(m, _PRE_OF_BANK + b)
            else:
                m[at.SCALAR, at.WAKE] = min(m[at.SCALAR, at.WAKE], ready)


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
    kind = choose_mode(m)
    if kind != before:
        m[at.SCALAR, at.WAKE] = now + 1
    b = best_row(m, kind, now)
    if b >= 0:
        issue_row(m, out, b, kind)
        issued = True
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
        kind = choose_mode(m)
        b = best_column(m, kind, now)
        other = best_row(m, kind, now)
        if other >= 0 and (b < 0 or m[at.ROW_KEY + kind, other] < m[at.COLUMN_KEY + kind, b]):
            issue_row(m, out, other, kind)
            return True
    if b >= 0:
        issue_column(m, out, b, kind, from_active)
        return True
    return False


@kernel
def accept(m: Any, out: Any, requests: Any, offer_tick: Any, drain: bool) -> bool:
    """Offer requests; True when the run is over: all accepted, with `drain` all served."""
    _offer(m, out, requests, offer_tick)
    if m[at.SCALAR, at.POSITION] < requests.shape[1]:
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
        for r in range(m[at.FIXED, at.N_RANKS]):
            _push_pending(m, r)
    if m[at.FIXED, at.CLOSED] != 0:
        _schedule_closing(m, now)


@kernel
def end_tick(m: Any, issued: bool, n_requests: int) -> None:
    """Go straight to the tick before the next one at which anything can happen."""
    if issued:
        return
    wake = min(m[at.SCALAR, at.WAKE], m[at.SCALAR, at.NEXT_REFRESH])
    if m[at.SCALAR, at.POSITION] < n_requests and m[at.FIXED, at.LOAD] != at.SATURATE:
        wake = min(wake, m[at.SCALAR, at.NEXT_OFFER] + 1)
    m[at.SCALAR, at.CLOCK] = max(m[at.SCALAR, at.CLOCK], wake - 1)


@kernel
def run_two_buses(m: Any, out: Any, requests: Any, offer_tick: Any, drain: bool) -> None:
    """Serve `requests` from the state at hand; stops when all are accepted, with `drain` when all are served.

    m, out: a channel's table and what it writes (rows of `dram_state`). requests: (4, n), bank, row, burst
    number, is write. offer_tick: (n,) for a paced load, else empty.
    """
    while not accept(m, out, requests, offer_tick, drain):
        begin_tick(m)
        end_tick(m, _tick_two_buses(m, out), requests.shape[1])


@kernel
def run_one_bus(m: Any, out: Any, requests: Any, offer_tick: Any, drain: bool) -> None:
    """As `run_two_buses` for standards with one command bus."""
    while not accept(m, out, requests, offer_tick, drain):
        begin_tick(m)
        end_tick(m, _tick_one_bus(m, out), requests.shape[1])
