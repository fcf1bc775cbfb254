"""Endless streams through a DRAM: what they are, when they repeat, and their figures.

After a refresh the whole state of a channel, relative to the clock and to the stream's row, is compared with
earlier ones at the end of an address period (after which every address field but the row repeats), the phase
of refresh included. Equal states have equal futures, so whole periods are skipped and the rest is served
request by request: the result is that of serving every request.
"""

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from tilewright.dataflow.errors import InputError
from tilewright.sim import dram_state as at
from tilewright.sim.dram_config import DramConfig
from tilewright.sim.dram_trace import Ints, Load, MemoryResult, load_code, summarise
from tilewright.sim.dram_walk import Addresses, AddressPeriod, Walk

#: Sums of latencies in ticks stay within 64 bits.
_MOST_REQUESTS = 10**13


@dataclass(frozen=True, slots=True)
class Stream:
    """`n_requests` bursts, `stride_bytes` apart from `base` on.

    The walk wraps within `footprint_bytes` from `base`, or, without one, at the end of the memory.
    """

    base: int
    stride_bytes: int
    n_requests: int
    is_write: bool = False
    footprint_bytes: int | None = None

    def addresses(self, config: DramConfig, first: int, n: int) -> Ints:
        """Byte addresses of requests first .. first + n - 1."""
        distance = np.arange(first, first + n, dtype=np.int64) * self.stride_bytes
        if self.footprint_bytes is None:
            return (self.base + distance) % config.capacity_bytes
        return self.base + distance % self.footprint_bytes


def simulate_stream(config: DramConfig, stream: Stream, load: Load = "saturate") -> MemoryResult:
    """The figures of serving the whole stream; equal to `simulate_trace` on its addresses.

    `n_extrapolated` of the requests were skipped in periods of `period_requests` and `period_cycles` (0 where
    nothing was skipped; of the first channel of a stack). Raises InputError for a stream that does not fit,
    and for one beyond 33 million requests whose state does not recur within three million of a channel (one
    million with bank queues), which takes a second or two to find out.
    """
    load_code(config, load)  # a load that is none may have no hash either
    return _simulate_stream(config, stream, load)


@cache
def _simulate_stream(config: DramConfig, stream: Stream, load: Load) -> MemoryResult:
    _check(config, stream)
    code, period_cycles = load_code(config, load)
    period = _period_of(config, stream)

    def bursts(first: int, n: int) -> Ints:
        return stream.addresses(config, first, n)

    source = Addresses(config, bursts, stream.is_write, period, stream.n_requests)
    histogram = np.zeros(at.LATENCY_BINS, dtype=np.int64)
    totals = np.zeros(at.N_SCALARS, dtype=np.int64)
    found: list[Walk] = []
    alike: dict[bytes, Walk] = {}
    for c in range(config.organisation.channels):
        # channels with equal requests differ in the rest after the last whole period; a paced load
        # offers them at different times
        key = source.fingerprint(c) if code != at.PACED else bytes([c])
        if key not in alike:
            alike[key] = Walk(config, source, code, period_cycles, c)
            alike[key].serve_whole_periods()
        channel = alike[key].finish(c)
        last = max(int(totals[at.LAST_DONE]), channel.count(at.LAST_DONE))
        totals += channel.table[at.SCALAR, : at.N_SCALARS]
        totals[at.LAST_DONE] = last
        histogram += channel.out[at.HISTOGRAM]
        found.append(alike[key])
    n_writes = stream.n_requests if stream.is_write else 0
    result = summarise(config, stream.n_requests, n_writes, totals, histogram)
    return replace(
        result,
        n_extrapolated=min(walk.n_skipped for walk in found),
        period_requests=found[0].period_requests,
        period_cycles=found[0].period_ticks / config.ticks_per_cycle,
    )


def _check(config: DramConfig, stream: Stream) -> None:
    tx = config.transaction_bytes
    room = stream.footprint_bytes if stream.footprint_bytes is not None else config.capacity_bytes
    limits = {"base": (0, config.capacity_bytes), "stride_bytes": (0, config.capacity_bytes)}
    limits |= {"n_requests": (1, _MOST_REQUESTS), "footprint_bytes": (tx, config.capacity_bytes)}
    for name, (least, most) in limits.items():
        value = room if name == "footprint_bytes" else getattr(stream, name)
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
            raise InputError(f"stream.{name} must be a whole number in {least}..{most}, got {value!r}")
    for name in ("base", "stride_bytes"):
        if (value := getattr(stream, name)) % tx:
            raise InputError(f"stream.{name} must be a multiple of the {tx} byte burst, got {value}")
    if room % tx:
        raise InputError(f"stream.footprint_bytes must be a multiple of the {tx} byte burst, got {room}")
    end = stream.base + (room if stream.footprint_bytes is not None else tx)
    if end > config.capacity_bytes:
        raise InputError(
            f"stream: ends at {end}, beyond the capacity of {config.name}, {config.capacity_bytes}"
        )


def _period_of(config: DramConfig, stream: Stream) -> AddressPeriod:
    """The shortest address period up to a shift of rows, where the mapping and the window allow one."""
    mapping = config.mapping
    low_bits = mapping.offset_bits + sum(bits for name, bits in mapping.slices if name != "row")
    row_bytes = 1 << low_bits
    window = stream.footprint_bytes or config.capacity_bytes
    on_top = mapping.slices[-1][0] == "row" and [name for name, _ in mapping.slices].count("row") == 1
    plain = all(other != "row" and name != "row" for name, other, _, _ in mapping.xor)
    aligned = stream.footprint_bytes is None or (window % row_bytes == 0 and stream.base % row_bytes == 0)
    if on_top and plain and aligned:
        n = row_bytes // math.gcd(stream.stride_bytes, row_bytes)
        first_row = stream.base // row_bytes if stream.footprint_bytes is not None else 0
        n_rows = window // row_bytes
        return AddressPeriod(n, n * stream.stride_bytes // row_bytes % n_rows, first_row, n_rows)
    return AddressPeriod(window // math.gcd(stream.stride_bytes, window), 0, 0, 1 << 62)
