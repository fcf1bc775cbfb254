"""Refresh by sets of banks (per-bank, or the same bank of every group), and the note of a refresh: compiled."""

from typing import Any

from tilewright.dataflow.kernel import kernel
from tilewright.sim import dram_state as at
from tilewright.sim.dram_log import write_log
from tilewright.sim.dram_queue import rekey
from tilewright.sim.dram_rules import apply_rules
from tilewright.sim.dram_timing import PRE, REFB

REFRESHED = -2  # what `refresh_banks` returns when it has issued a REFB


@kernel
def note_refresh(m: Any) -> None:
    """Count a refresh; a stream that looks for its period stops at the end of an address period."""
    m[at.SCALAR, at.N_REFRESHES] += 1
    period = m[at.SCALAR, at.LOOK_PERIOD]
    if period > 0:
        end = (m[at.SCALAR, at.POSITION] + period - 1) // period * period
        m[at.SCALAR, at.END] = min(m[at.SCALAR, at.END], end)


@kernel
def _first_bank(m: Any, r: int) -> int:
    """The first bank of the set of rank `r` that is due next; the others follow at a pitch of REFRESH_SETS."""
    return r * m[at.FIXED, at.BANKS_PER_RANK] + m[at.DUE_SET, r]  # type: ignore[no-any-return]


@kernel
def _hold(m: Any, r: int, held: int) -> None:
    """Keep new requests from the banks of the set that is due next, or let them in again."""
    end = (r + 1) * m[at.FIXED, at.BANKS_PER_RANK]
    for b in range(_first_bank(m, r), end, m[at.FIXED, at.REFRESH_SETS]):
        m[at.HELD, b] = held
        rekey(m, 0, b)
        rekey(m, 1, b)


@kernel
def hold_due_banks(m: Any) -> None:
    """A refresh interval of a set is over: one more set of every rank is due."""
    for r in range(m[at.FIXED, at.N_RANKS]):
        if m[at.N_DUE_SETS, r] == 0:
            _hold(m, r, 1)
        m[at.N_DUE_SETS, r] += 1
        m[at.SCALAR, at.N_DUE] += 1


@kernel
def apply_bank_refresh(m: Any, out: Any, first: int, end: int, now: int) -> None:
    """Issue the REFB of the banks first, first + REFRESH_SETS, ... below `end`."""
    for b in range(first, end, m[at.FIXED, at.REFRESH_SETS]):
        apply_rules(m, REFB, b, now)
    write_log(m, out, REFB, first, -1, now)
    note_refresh(m)


@kernel
def refresh_banks(m: Any, out: Any, now: int) -> int:
    """Refresh a set that is due: REFRESHED, or the bank that a PRE may close for it, -1 for neither."""
    size = m[at.FIXED, at.BANKS_PER_RANK]
    sets = m[at.FIXED, at.REFRESH_SETS]
    for r in range(m[at.FIXED, at.N_RANKS]):
        if m[at.N_DUE_SETS, r] == 0:
            continue
        first = _first_bank(m, r)
        ready = m[at.CHANNEL_READY, REFB]
        closed = True
        for b in range(first, (r + 1) * size, sets):
            if m[at.ACTIVE, b] >= 0:
                closed = False  # its column command wakes this up
            elif m[at.OPEN_ROW, b] >= 0:
                closed = False
                close = max(m[at.READY + PRE, b], m[at.CHANNEL_READY, PRE])
                if close <= now:
                    return int(b)
                m[at.SCALAR, at.WAKE] = min(m[at.SCALAR, at.WAKE], close)
            ready = max(ready, m[at.READY_REFB, b])
        if not closed:
            continue
        falling = m[at.FIXED, at.TICKS] == 2 and now % 2 == 0
        if ready > now or falling:
            m[at.SCALAR, at.WAKE] = min(m[at.SCALAR, at.WAKE], max(ready, now + 1))
            continue
        apply_bank_refresh(m, out, first, (r + 1) * size, now)
        _hold(m, r, 0)
        m[at.N_DUE_SETS, r] -= 1
        m[at.SCALAR, at.N_DUE] -= 1
        m[at.DUE_SET, r] = (m[at.DUE_SET, r] + 1) % sets
        if m[at.N_DUE_SETS, r] > 0:
            _hold(m, r, 1)
        return REFRESHED
    return -1
