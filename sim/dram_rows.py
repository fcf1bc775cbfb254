"""Row commands of the first-ready controller, maintenance and idle rows included: compiled."""

from typing import Any

from tilewright.dataflow.kernel import kernel
from tilewright.sim import dram_state as at
from tilewright.sim.dram_log import write_log
from tilewright.sim.dram_queue import remove, resort
from tilewright.sim.dram_refresh import REFRESHED, note_refresh, refresh_banks
from tilewright.sim.dram_rules import apply_rules, note_activate
from tilewright.sim.dram_timing import ACT, PRE, PREA, REF

_PRE_OF_BANK = 1 << 20  # a maintenance entry from here on is the PRE of a bank, below it the REF of a rank


@kernel
def may_issue(m: Any, command: int, b: int, now: int) -> bool:
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
def close(m: Any, b: int) -> None:
    """Mark bank `b` precharged."""
    if m[at.OPEN_ROW, b] >= 0:
        m[at.N_OPEN, b >> m[at.FIXED, at.RANK_SHIFT]] -= 1
    m[at.OPEN_ROW, b] = -1
    m[at.COLUMNS, b] = 0
    m[at.CLOSING, b] = 0
    resort(m, b)


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
        close(m, b)
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
    m[at.LAST_USE, b] = m[at.SCALAR, at.CLOCK]
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
    if blocked or not may_issue(m, command, b, now):
        return False
    if ready > now:
        m[at.SCALAR, at.WAKE] = min(m[at.SCALAR, at.WAKE], ready)
        return False
    apply_rules(m, command, b, now)
    _note_pair(m, command, b, now)
    write_log(m, out, command, b, -1, now)
    if command == PRE:
        close(m, b)
    elif command == PREA:
        for other in range(b, b + m[at.FIXED, at.BANKS_PER_RANK]):
            close(m, other)
        return True
    else:
        note_refresh(m)
    m[at.SCALAR, at.PENDING_HEAD] = (m[at.SCALAR, at.PENDING_HEAD] + 1) % m.shape[1]
    m[at.SCALAR, at.N_PENDING] -= 1
    return True


@kernel
def refresh_step(m: Any, out: Any) -> bool:
    """Close a bank of the sets that are due for refresh, or refresh a set; True when a command has issued."""
    now = m[at.SCALAR, at.CLOCK]
    b = refresh_banks(m, out, now)
    if b < 0 or not may_issue(m, PRE, b, now):
        return b == REFRESHED
    apply_rules(m, PRE, b, now)
    _note_pair(m, PRE, b, now)
    write_log(m, out, PRE, b, -1, now)
    close(m, b)
    return True


@kernel
def close_idle(m: Any, out: Any) -> bool:
    """Timeout pages: close the row that has been idle longest past its time; True when a PRE has issued.

    A row that a waiting request hits stays open.
    """
    now = m[at.SCALAR, at.CLOCK]
    best = -1
    for b in range(m[at.FIXED, at.N_BANKS]):
        hits = m[at.HIT, b] >= 0 or m[at.HIT + 1, b] >= 0
        if m[at.OPEN_ROW, b] < 0 or m[at.ACTIVE, b] >= 0 or hits:
            continue
        ready = max(m[at.LAST_USE, b] + m[at.FIXED, at.TIMEOUT], m[at.READY + PRE, b])
        ready = max(ready, m[at.CHANNEL_READY, PRE])
        if ready > now:
            m[at.SCALAR, at.WAKE] = min(m[at.SCALAR, at.WAKE], ready)
        elif not may_issue(m, PRE, b, now):
            m[at.SCALAR, at.WAKE] = now + 1
        elif best < 0 or m[at.LAST_USE, b] < m[at.LAST_USE, best]:
            best = b
    if best < 0:
        return False
    apply_rules(m, PRE, best, now)
    _note_pair(m, PRE, best, now)
    write_log(m, out, PRE, best, -1, now)
    close(m, best)
    return True


@kernel
def push_pending(m: Any, entry: int) -> None:
    m[at.PENDING, (m[at.SCALAR, at.PENDING_HEAD] + m[at.SCALAR, at.N_PENDING]) % m.shape[1]] = entry
    m[at.SCALAR, at.N_PENDING] += 1


@kernel
def schedule_closing(m: Any, now: int) -> None:
    """Closed page: ask for the PRE of every bank that has had its column accesses, once it is legal."""
    for b in range(m[at.FIXED, at.N_BANKS]):
        if m[at.COLUMNS, b] >= m[at.FIXED, at.COLUMN_CAP] and m[at.CLOSING, b] == 0:
            ready = max(m[at.READY + PRE, b], m[at.CHANNEL_READY, PRE])
            if ready <= now:
                m[at.CLOSING, b] = 1
                push_pending(m, _PRE_OF_BANK + b)
            else:
                m[at.SCALAR, at.WAKE] = min(m[at.SCALAR, at.WAKE], ready)
