"""First-ready first-come-first-served controller: the kernel.

One read and one write queue per channel. Each tick: bookkeeping, refresh counter, then one column and one row
command where the standard has separate buses for them, else one command. Requests whose row was opened for
them go first, then maintenance, then the queue of the mode that the write watermarks choose.
"""

from typing import Any

from tilewright.dataflow.kernel import kernel
from tilewright.sim import dram_state as at
from tilewright.sim.dram_queue import append, next_hit, rekey, release, remove, resort, waits
from tilewright.sim.dram_state import apply_rules, note_activate
from tilewright.sim.dram_timing import ACT, PRE, PREA, RD, RDA, REF

_PRE_OF_BANK = 1 << 20  # a maintenance entry from here on is the PRE of a bank, below it the REF of a rank


@kernel
def record_done(m: Any, origin: int, arrived: int, end: int, is_read: bool) -> None:
    """Count a served request: its end, and for a read its latency in ticks."""
    m.scalar[at.N_SERVED] += 1
    if end > m.scalar[at.LAST_DONE]:
        m.scalar[at.LAST_DONE] = end
    if is_read:
        latency = end - arrived
        m.scalar[at.LATENCY_SUM] += latency
        m.scalar[at.N_LATENCIES] += 1
        m.histogram[min(latency, m.histogram.size - 1)] += 1
    if origin < m.done.size:
        m.done[origin] = end


@kernel
def write_log(m: Any, command: int, b: int, row: int, now: int) -> None:
    """Note a command as (tick, command, bank, row) while there is room."""
    entry = m.scalar[at.N_LOGGED]
    if entry < m.log.shape[1]:
        m.log[0, entry] = now
        m.log[1, entry] = command
        m.log[2, entry] = b
        m.log[3, entry] = row
        m.scalar[at.N_LOGGED] = entry + 1


@kernel
def _offer(m: Any, requests: Any, offer_tick: Any) -> None:
    """Accept requests in their order until one has to wait. requests: (4, n), bank, row, tag, is write."""
    n = requests.shape[1]
    now = m.scalar[at.CLOCK]
    p = m.scalar[at.POSITION]
    while p < n:
        if m.fixed[at.LOAD] == at.PACED and offer_tick[p] > now:
            m.scalar[at.NEXT_OFFER] = offer_tick[p]
            break
        if m.fixed[at.LOAD] == at.SINGLE and m.scalar[at.NEXT_OFFER] > now:
            break
        b = requests[0, p]
        kind = requests[3, p]
        tag = requests[2, p]
        if m.scalar[at.N_WRITES] > 0 and waits(m, 1, b, tag, at.TAG):
            m.scalar[at.N_FORWARDED + kind] += 1
            record_done(m, p, now, now + 1 - kind, kind == 0)
            m.scalar[at.NEXT_OFFER] = now + 1 - kind
            p += 1
            continue
        if m.scalar[at.N_READS + kind] >= m.fixed[at.READ_QUEUE + kind]:
            m.scalar[at.NEXT_OFFER] = at.NEVER  # room comes with a command, after which this is asked again
            break
        i = m.scalar[at.FREE]
        m.scalar[at.FREE] = m.node[at.NEXT, i]
        m.node[at.SEQ, i] = m.scalar[at.NEXT_SEQ]
        m.node[at.ARRIVED, i] = now
        m.node[at.ROW, i] = requests[1, p]
        m.node[at.TAG, i] = tag
        m.node[at.SEEN, i] = 0
        m.node[at.ORIGIN, i] = p
        m.node[at.KIND, i] = kind
        m.node[at.NODE_BANK, i] = b
        append(m, kind, b, i)
        m.scalar[at.NEXT_SEQ] += 1
        m.scalar[at.N_READS + kind] += 1
        if m.fixed[at.LOAD] == at.SINGLE:
            m.scalar[at.NEXT_OFFER] = at.NEVER
        p += 1
    m.scalar[at.POSITION] = p


@kernel
def choose_mode(m: Any) -> int:
    """Apply the write watermarks; 1 while writes are served."""
    writes = m.scalar[at.N_WRITES]
    mode: int = m.scalar[at.WRITE_MODE]
    if mode == 0:
        if writes > m.fixed[at.HIGH] or m.scalar[at.N_READS] == 0:
            mode = 1
    elif writes < m.fixed[at.LOW] and m.scalar[at.N_READS] != 0:
        mode = 0
    m.scalar[at.WRITE_MODE] = mode
    return mode


@kernel
def best_active(m: Any, now: int) -> int:
    """The bank whose activated request came first of those that are ready, -1 for none."""
    best = -1
    earliest = at.NEVER
    for j in range(m.scalar[at.N_ACTIVE]):
        b = m.bank[at.ACTIVE_LIST, j]
        i = m.bank[at.ACTIVE, b]
        command = RD + m.node[at.KIND, i]
        ready = max(m.bank[command, b], m.channel[command])
        if ready > now:
            m.scalar[at.WAKE] = min(m.scalar[at.WAKE], ready)
        elif m.node[at.ARRIVED, i] < earliest:
            earliest = m.node[at.ARRIVED, i]
            best = b
    return best


@kernel
def best_column(m: Any, kind: int, now: int) -> int:
    """The bank with the oldest ready hit, -1 for none."""
    best = -1
    oldest = at.NEVER
    wake = m.scalar[at.WAKE]
    gate = m.channel[RD + kind]
    for b in range(m.fixed[at.N_BANKS]):
        key = m.bank[at.COLUMN_KEY + kind, b]
        if key < at.NEVER:
            ready = max(m.bank[RD + kind, b], gate)
            if ready > now:
                wake = min(wake, ready)
            elif key < oldest:
                oldest = key
                best = b
    m.scalar[at.WAKE] = wake
    return best


@kernel
def best_row(m: Any, kind: int, now: int) -> int:
    """The bank with the oldest request whose ACT or PRE is ready, -1 for none."""
    best = -1
    oldest = at.NEVER
    wake = m.scalar[at.WAKE]
    for b in range(m.fixed[at.N_BANKS]):
        key = m.bank[at.ROW_KEY + kind, b]
        if key < at.NEVER:
            command = ACT if m.bank[at.OPEN_ROW, b] < 0 else PRE
            ready = max(m.bank[command, b], m.channel[command])
            if ready > now:
                wake = min(wake, ready)
            elif key < oldest:
                oldest = key
                best = b
    m.scalar[at.WAKE] = wake
    return best


@kernel
def _close(m: Any, b: int) -> None:
    """Mark bank `b` precharged."""
    if m.bank[at.OPEN_ROW, b] >= 0:
        m.rank[at.N_OPEN, b // m.fixed[at.BANKS_PER_RANK]] -= 1
    m.bank[at.OPEN_ROW, b] = -1
    m.bank[at.COLUMNS, b] = 0
    m.bank[at.CLOSING, b] = 0
    resort(m, b)


@kernel
def issue_column(m: Any, b: int, kind: int, from_active: bool) -> None:
    """Issue the RD or WR of the activated request or of the oldest hit of bank `b` and retire it."""
    now = m.scalar[at.CLOCK]
    if from_active:
        i = m.bank[at.ACTIVE, b]
        kind = m.node[at.KIND, i]
        m.bank[at.ACTIVE, b] = -1
        m.rank[at.N_ACTIVE_RANK, b // m.fixed[at.BANKS_PER_RANK]] -= 1
        found = 0
        while m.bank[at.ACTIVE_LIST, found] != b:
            found += 1
        m.scalar[at.N_ACTIVE] -= 1
        for j in range(found, m.scalar[at.N_ACTIVE]):
            m.bank[at.ACTIVE_LIST, j] = m.bank[at.ACTIVE_LIST, j + 1]
    else:
        i = m.bank[at.HIT + kind, b]
        next_hit(m, kind, b, i)
        remove(m, kind, b, i)
        m.scalar[at.N_READS + kind] -= 1
        if m.node[at.SEEN, i] == 0:
            m.scalar[at.N_HITS] += 1
    command = RD + kind
    if m.fixed[at.CLOSED] != 0 and m.bank[at.COLUMNS, b] >= m.fixed[at.COLUMN_CAP]:
        command = RDA + kind
    apply_rules(m, command, b, now)
    write_log(m, command, b, m.node[at.ROW, i], now)
    end = now + m.fixed[at.READ_LATENCY] if kind == 0 else now
    record_done(m, m.node[at.ORIGIN, i], m.node[at.ARRIVED, i], end, kind == 0)
    if m.fixed[at.LOAD] == at.SINGLE:
        m.scalar[at.NEXT_OFFER] = end
    release(m, i)
    if command >= RDA:
        _close(m, b)
        return
    m.bank[at.COLUMNS, b] += 1
    rekey(m, kind, b)
    if from_active:
        rekey(m, 1 - kind, b)


@kernel
def issue_row(m: Any, b: int, kind: int) -> None:
    """Issue the ACT or PRE that the oldest request of bank `b` needs; an ACT takes it out of its queue."""
    now = m.scalar[at.CLOCK]
    if m.bank[at.OPEN_ROW, b] >= 0:
        i = m.bank[at.MISS + kind, b]
        m.node[at.SEEN, i] = 1
        apply_rules(m, PRE, b, now)
        write_log(m, PRE, b, -1, now)
        _close(m, b)
        return
    i = m.bank[at.HEAD + kind, b]
    m.node[at.SEEN, i] = 1
    remove(m, kind, b, i)
    m.scalar[at.N_READS + kind] -= 1
    m.bank[at.ACTIVE, b] = i
    m.bank[at.ACTIVE_LIST, m.scalar[at.N_ACTIVE]] = b
    m.scalar[at.N_ACTIVE] += 1
    own = b // m.fixed[at.BANKS_PER_RANK]
    m.rank[at.N_ACTIVE_RANK, own] += 1
    m.rank[at.N_OPEN, own] += 1
    m.bank[at.OPEN_ROW, b] = m.node[at.ROW, i]
    m.scalar[at.N_ACTIVATES] += 1
    apply_rules(m, ACT, b, now)
    note_activate(m, b, now)
    write_log(m, ACT, b, m.node[at.ROW, i], now)
    resort(m, b)


@kernel
def _maintain(m: Any) -> bool:
    """Try the oldest maintenance entry; True when a command has issued."""
    now = m.scalar[at.CLOCK]
    entry = m.pending[m.scalar[at.PENDING_HEAD]]
    if entry >= _PRE_OF_BANK:
        b = entry - _PRE_OF_BANK
        command = PRE
        ready = max(m.bank[PRE, b], m.channel[PRE])
        blocked = m.bank[at.ACTIVE, b] >= 0
    else:
        b = entry * m.fixed[at.BANKS_PER_RANK]
        command = PREA if m.rank[at.N_OPEN, entry] > 0 else REF
        ready = max(m.rank[command - PREA, entry], m.channel[command])
        blocked = command == PREA and m.rank[at.N_ACTIVE_RANK, entry] > 0
    if blocked:
        return False
    if ready > now:
        m.scalar[at.WAKE] = min(m.scalar[at.WAKE], ready)
        return False
    apply_rules(m, command, b, now)
    write_log(m, command, b, -1, now)
    if command == PRE:
        _close(m, b)
    elif command == PREA:
        for other in range(b, b + m.fixed[at.BANKS_PER_RANK]):
            _close(m, other)
        return True
    else:
        m.scalar[at.N_REFRESHES] += 1
    m.scalar[at.PENDING_HEAD] = (m.scalar[at.PENDING_HEAD] + 1) % m.pending.size
    m.scalar[at.N_PENDING] -= 1
    return True


@kernel
def _push_pending(m: Any, entry: int) -> None:
    m.pending[(m.scalar[at.PENDING_HEAD] + m.scalar[at.N_PENDING]) % m.pending.size] = entry
    m.scalar[at.N_PENDING] += 1


@kernel
def _schedule_closing(m: Any, now: int) -> None:
    """Closed page: ask for the PRE of every bank that has had its column accesses, once it is legal."""
    for b in range(m.fixed[at.N_BANKS]):
        if m.bank[at.COLUMNS, b] >= m.fixed[at.COLUMN_CAP] and m.bank[at.CLOSING, b] == 0:
            ready = max(m.bank[at.READY + PRE, b], m.channel[PRE])
            if ready <= now:
                m.bank[at.CLOSING, b] = 1
                _push_pending(m, _PRE_OF_BANK + b)
            else:
                m.scalar[at.WAKE] = min(m.scalar[at.WAKE], ready)


@kernel
def _tick_two_buses(m: Any) -> bool:
    """One column command, then one row command; True when anything has issued."""
    now = m.scalar[at.CLOCK]
    issued = False
    if m.fixed[at.TICKS] == 1 or now % 2 == 1:
        b = best_active(m, now)
        if b >= 0:
            issue_column(m, b, 0, True)
            issued = True
        elif m.scalar[at.N_PENDING] == 0:
            kind = choose_mode(m)
            b = best_column(m, kind, now)
            if b >= 0:
                issue_column(m, b, kind, False)
                issued = True
    else:
        m.scalar[at.WAKE] = now + 1
    if m.scalar[at.N_PENDING] > 0:
        return _maintain(m) or issued
    kind = m.scalar[at.WRITE_MODE]
    if choose_mode(m) != kind:
        m.scalar[at.WAKE] = now + 1
        kind = 1 - kind
    b = best_row(m, kind, now)
    if b >= 0:
        issue_row(m, b, kind)
        issued = True
    return issued


@kernel
def _tick_one_bus(m: Any) -> bool:
    """One command of any kind; True when it has issued."""
    now = m.scalar[at.CLOCK]
    b = best_active(m, now)
    if b >= 0:
        issue_column(m, b, 0, True)
        return True
    if m.scalar[at.N_PENDING] > 0:
        return _maintain(m)
    kind = choose_mode(m)
    b = best_column(m, kind, now)
    other = best_row(m, kind, now)
    if other >= 0 and (b < 0 or m.bank[at.ROW_KEY + kind, other] < m.bank[at.COLUMN_KEY + kind, b]):
        issue_row(m, other, kind)
        return True
    if b >= 0:
        issue_column(m, b, kind, False)
        return True
    return False


@kernel
def run_frfcfs(m: Any, requests: Any, offer_tick: Any, drain: bool) -> None:
    """Serve `requests` from the state at hand; stops when all are accepted, with `drain` when all are served.

    requests: (4, n) int64, bank, row, burst number, is write. offer_tick: (n,) for a paced load, else empty.
    log: (4, room), histogram: latencies in ticks, the last bin open; done: (n,) ends in ticks, or empty.
    """
    n = requests.shape[1]
    while True:
        _offer(m, requests, offer_tick)
        if m.scalar[at.POSITION] == n:
            left = m.scalar[at.N_READS] + m.scalar[at.N_WRITES] + m.scalar[at.N_ACTIVE]
            if not drain or left == 0:
                return
        m.scalar[at.CLOCK] += 1
        now = m.scalar[at.CLOCK]
        m.scalar[at.WAKE] = at.NEVER
        if now == m.scalar[at.NEXT_REFRESH]:
            m.scalar[at.NEXT_REFRESH] += m.fixed[at.REFRESH_INTERVAL]
            for r in range(m.fixed[at.N_RANKS]):
                _push_pending(m, r)
        if m.fixed[at.CLOSED] != 0:
            _schedule_closing(m, now)
        issued = _tick_two_buses(m) if m.fixed[at.DUAL] != 0 else _tick_one_bus(m)
        if not issued:
            wake = min(m.scalar[at.WAKE], m.scalar[at.NEXT_REFRESH])
            if m.scalar[at.POSITION] < n and m.fixed[at.LOAD] != 0:
                wake = min(wake, m.scalar[at.NEXT_OFFER] + 1)
            if wake > now + 1:
                m.scalar[at.CLOCK] = wake - 1
