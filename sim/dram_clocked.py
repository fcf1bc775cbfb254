"""First-ready controller of LPDDR5, with two-part activations and a data clock to be started: the kernel."""

from typing import Any

from tilewright.dataflow.kernel import kernel
from tilewright.sim import dram_state as at
from tilewright.sim.dram_frfcfs import (
    accept,
    begin_tick,
    best_active,
    best_column,
    best_row,
    choose_mode,
    end_tick,
    issue_column,
)
from tilewright.sim.dram_rows import close_idle, issue_row, maintain, open_row, refresh_step


@kernel
def _second_activate(m: Any) -> None:
    """Issue the second half of the activation that is under way."""
    open_row(m, m[at.SCALAR, at.ACTIVATING])
    m[at.SCALAR, at.ACTIVATING] = -1


@kernel
def _issue_clocked(m: Any, out: Any, b: int, kind: int, now: int) -> None:
    """Issue a column command, or first the CAS that starts the data clock; kind 2: the activated request."""
    if now >= m[at.SCALAR, at.CLOCK_EXPIRY] and m[at.SCALAR, at.CAS_BANK] < 0:
        if m[at.SCALAR, at.ACTIVATING] >= 0 and m[at.SCALAR, at.DEADLINE] <= now + 1:
            _second_activate(m)  # the CAS would take the last slots before the deadline
        else:
            m[at.SCALAR, at.CAS_BANK] = b
            m[at.SCALAR, at.CAS_KIND] = kind
        return
    m[at.SCALAR, at.CAS_BANK] = -1
    is_write = m[at.KIND, m[at.ACTIVE, b]] if kind == 2 else kind
    latency = m[at.FIXED, at.READ_COMMAND_LATENCY]
    if is_write == 1:
        latency = m[at.FIXED, at.WRITE_COMMAND_LATENCY]
    expiry = now + latency + m[at.FIXED, at.BURST] + m[at.FIXED, at.POSTAMBLE]
    m[at.SCALAR, at.CLOCK_EXPIRY] = max(m[at.SCALAR, at.CLOCK_EXPIRY], expiry)
    issue_column(m, out, b, kind, kind == 2)


@kernel
def _tick_clocked_bus(m: Any, out: Any) -> bool:
    """One command on a bus with two-part activations and a data clock to be started (LPDDR5)."""
    now = m[at.SCALAR, at.CLOCK]
    if m[at.SCALAR, at.CAS_BANK] >= 0:
        _issue_clocked(m, out, m[at.SCALAR, at.CAS_BANK], m[at.SCALAR, at.CAS_KIND], now)
        return True
    if m[at.SCALAR, at.ACTIVATING] >= 0 and m[at.SCALAR, at.DEADLINE] <= now:
        _second_activate(m)
        return True
    b = best_active(m, now)
    if b >= 0:
        _issue_clocked(m, out, b, 2, now)
        return True
    if m[at.SCALAR, at.N_PENDING] > 0:
        if maintain(m, out):
            return True
    elif m[at.SCALAR, at.N_DUE] > 0 and refresh_step(m, out):
        return True
    else:
        kind = choose_mode(m)
        b = best_column(m, kind, now)
        other = best_row(m, kind, now)
        if other >= 0 and (b < 0 or m[at.ROW_KEY + kind, other] < m[at.COLUMN_KEY + kind, b]):
            issue_row(m, out, other, kind)
            return True
        if b >= 0:
            _issue_clocked(m, out, b, kind, now)
            return True
    if m[at.SCALAR, at.ACTIVATING] >= 0:
        _second_activate(m)
        return True
    return m[at.FIXED, at.TIMEOUT] != 0 and close_idle(m, out)


@kernel
def run_clocked_bus(m: Any, out: Any, requests: Any, offer_tick: Any, drain: bool) -> None:
    """As `run_two_buses` of the first-ready controller, on this bus."""
    while not accept(m, out, requests, offer_tick, drain):
        begin_tick(m)
        end_tick(m, _tick_clocked_bus(m, out))
