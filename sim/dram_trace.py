"""Traces through a DRAM: the checks of what a user gives, the run per channel, the figures."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tilewright.dataflow.errors import InputError
from tilewright.sim import dram_state as at
from tilewright.sim.dram_channel import Requests, channel_requests, new_channel, run
from tilewright.sim.dram_config import DramConfig

Load = Literal["saturate", "single"] | tuple[Literal["paced", "period"], float]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class MemoryResult:
    """What a trace or a stream took.

    `n_cycles`: from cycle 0 to the end of the last request, in command clock cycles (halves on HBM3).
    `bandwidth_fraction`: bytes over peak in that time. Latencies run from acceptance by the controller's
    queue to the last data beat, plus `fabric_latency_ns` of the configuration, 0.0 when nothing was read.
    The last three fields say what `simulate_stream` skipped.
    """

    n_requests: int
    n_cycles: float
    time_ns: float
    bandwidth_gb_per_s: float
    bandwidth_fraction: float
    mean_read_latency_ns: float
    p50_read_latency_ns: float
    p99_read_latency_ns: float
    row_hit_fraction: float
    n_activates: int
    n_refreshes: int
    n_reads: int
    n_writes: int
    n_extrapolated: int = 0
    period_requests: int = 0
    period_cycles: float = 0.0


def load_code(config: DramConfig, load: Load) -> tuple[int, float]:
    """The kernel's code of `load` and the cycles between two requests of a paced one; raises InputError."""
    if load == "saturate":
        return at.SATURATE, 0.0
    if load == "single":
        return at.SINGLE, 0.0
    if not isinstance(load, tuple) or len(load) != 2 or load[0] not in ("paced", "period"):
        raise InputError(
            f"load must be 'saturate', 'single', ('paced', percent) or ('period', cycles), got {load!r}"
        )
    kind, value = load
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise InputError(f"load: {kind} must be a number, got {value!r}")
    limit = 1e3 if kind == "paced" else 1e9
    if not 0 < value <= limit:
        raise InputError(f"load: {kind} must be above 0 and at most {limit:g}, got {value}")
    if kind == "period":
        return at.PACED, float(value)
    return at.PACED, config.transaction_bytes / (config.peak_bytes_per_cycle * float(value) / 100)


def _checked(config: DramConfig, address: Any, is_write: Any) -> tuple[Ints, npt.NDArray[np.bool_]]:
    raw, flags = _array("address", address), _array("is_write", is_write)
    if raw.ndim != 1 or raw.dtype.kind not in "iu":
        raise InputError(f"address must be a 1-d integer array, got {raw.dtype} with shape {raw.shape}")
    if raw.size == 0:
        raise InputError("address must hold at least one request, got 0")
    if flags.shape != raw.shape or flags.dtype != np.bool_:
        raise InputError(f"is_write must be bool of shape {raw.shape}, got {flags.dtype} of {flags.shape}")
    if raw.min() < 0 or int(raw.max()) >= config.capacity_bytes:
        worst = int(raw.max()) if raw.min() >= 0 else int(raw.min())
        raise InputError(f"address {worst} is beyond the capacity of {config.name}, {config.capacity_bytes}")
    values = raw.astype(np.int64)
    off = values % config.transaction_bytes
    if off.any():
        k = int(np.flatnonzero(off)[0])
        raise InputError(
            f"address[{k}] = {int(values[k])} is not aligned to the {config.transaction_bytes} byte burst"
        )
    return values, flags


def _array(name: str, values: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise InputError(f"{name} must be a 1-d array, got rows of different lengths") from error


def offer_ticks(ticks_per_request: float, place: Ints) -> Ints:
    """Ticks before which the requests at these places of a trace must not be offered."""
    due: Ints = np.ceil(place * ticks_per_request - 1e-6).astype(np.int64)
    return due


def simulate_trace(config: DramConfig, address: Any, is_write: Any, load: Load = "saturate") -> MemoryResult:
    """Serve every request, one burst each, in the given order.

    address: (n,) int64 or uint64 byte addresses aligned to the burst; is_write: (n,) bool. The channels of a
    stack have queues of their own. load: "saturate" offers as much as the queues take, "single" keeps one
    request outstanding, ("paced", percent) offers that share of peak, ("period", cycles) one request in so
    many cycles. Raises InputError for what does not fit the configuration.
    """
    values, flags = _checked(config, address, is_write)
    code, period_cycles = load_code(config, load)
    channel, table = channel_requests(config, values, flags)
    paced = code == at.PACED
    per_request = period_cycles * config.ticks_per_cycle
    ticks = offer_ticks(per_request, np.arange(values.size)) if paced else np.zeros(0, np.int64)
    histogram = np.zeros(at.LATENCY_BINS, dtype=np.int64)
    totals = np.zeros(at.N_SCALARS, dtype=np.int64)
    for c in range(config.organisation.channels):
        mine = np.flatnonzero(channel == c) if config.organisation.channels > 1 else slice(None)
        requests = Requests(np.ascontiguousarray(table[:, mine]), ticks[mine] if ticks.size else ticks)
        if requests.table.shape[1]:
            one = new_channel(config, code)
            run(one, requests, True)
            histogram += one.out[at.HISTOGRAM]
            last = max(totals[at.LAST_DONE], one.count(at.LAST_DONE))
            totals += one.table[at.SCALAR, : at.N_SCALARS]
            totals[at.LAST_DONE] = last
    return summarise(config, values.size, int(flags.sum()), totals, histogram)


def summarise(
    config: DramConfig, n_requests: int, n_writes: int, totals: Ints, histogram: Ints
) -> MemoryResult:
    """A result from the counters of all channels; `totals` in ticks."""
    ticks = config.ticks_per_cycle
    n_cycles = int(totals[at.LAST_DONE]) / ticks
    time_ns = n_cycles * config.tck_ns
    moved_bytes = n_requests * config.transaction_bytes
    n_latencies = int(totals[at.N_LATENCIES])
    tick_ns = config.tck_ns / ticks

    def percentile(share: float) -> float:
        if not n_latencies:
            return 0.0
        ticks_then = int(np.searchsorted(np.cumsum(histogram), share * n_latencies))
        return ticks_then * tick_ns + config.fabric_latency_ns

    mean = totals[at.LATENCY_SUM] / n_latencies * tick_ns + config.fabric_latency_ns if n_latencies else 0.0
    return MemoryResult(
        n_requests=n_requests,
        n_cycles=int(n_cycles) if n_cycles.is_integer() else n_cycles,
        time_ns=time_ns,
        bandwidth_gb_per_s=moved_bytes / time_ns,
        bandwidth_fraction=moved_bytes / (n_cycles * config.peak_bytes_per_cycle),
        mean_read_latency_ns=float(mean),
        p50_read_latency_ns=percentile(0.5),
        p99_read_latency_ns=percentile(0.99),
        row_hit_fraction=float(totals[at.N_HITS] / n_requests),
        n_activates=int(totals[at.N_ACTIVATES]),
        n_refreshes=int(totals[at.N_REFRESHES]),
        n_reads=n_requests - n_writes,
        n_writes=n_writes,
    )
