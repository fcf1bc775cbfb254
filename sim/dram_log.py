"""What a run writes down: the end of every request and the commands: compiled."""

from typing import Any

from tilewright.dataflow.kernel import kernel
from tilewright.sim import dram_state as at


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
