"""Endless streams through a DRAM: whole-state recurrence instead of request by request.

A stream is served in blocks of one address period (after which every address field but the row repeats).
After a block the whole state of the channel, relative to the clock and to the stream's row, is compared
with earlier ones, the phase of refresh included. Equal states have equal futures, so whole periods are
skipped and the rest is served request by request: the result is that of serving every request.
"""

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt

from tilewright.dataflow.errors import InputError
from tilewright.sim import dram_state as at
from tilewright.sim.dram_channel import Channel, Requests, channel_requests, new_channel, run
from tilewright.sim.dram_config import DramConfig
from tilewright.sim.dram_trace import Load, MemoryResult, load_code, offer_ticks, summarise

Ints = npt.NDArray[np.int64]
SEARCH_LIMIT_REQUESTS = 1 << 25  # how far to look for a period before refusing
_BLOCK_REQUESTS = 512  # blocks shorter than this are joined
_LATE = b"late"
_COUNTERS = (
    at.N_SERVED, at.LATENCY_SUM, at.N_LATENCIES, at.N_HITS, at.N_ACTIVATES, at.N_REFRESHES, at.N_FORWARDED,
    at.N_ABSORBED,
)  # fmt: skip
_INSTANTS = (
    at.CLOCK,
    at.NEXT_REFRESH,
    at.LAST_DONE,
    at.NEXT_OFFER,
    at.PAIR_TICK,
    at.CLOCK_EXPIRY,
    at.DEADLINE,
)
_INSTANT_ROWS = (
    *range(at.READY, at.READY + 4), at.READY_PREA, at.READY_REF, *range(at.RING, at.RING + 4),
    at.CHANNEL_READY, at.ARRIVED,
)  # fmt: skip


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


@dataclass(frozen=True, slots=True)
class _Period:
    """How the addresses of a stream repeat: after `n_requests` all fields, the row `rows` further on.

    Rows are counted from `first_row` modulo `n_rows`.
    """

    n_requests: int
    rows: int
    first_row: int
    n_rows: int


def simulate_stream(config: DramConfig, stream: Stream, load: Load = "saturate") -> MemoryResult:
    """The figures of serving the whole stream; equal to `simulate_trace` on its addresses.

    `n_extrapolated` of the requests were skipped in periods of `period_requests` and `period_cycles` (0 where
    nothing was skipped; of the first channel of a stack). Raises InputError for a stream that does not fit,
    and for one beyond 33 million requests whose state does not recur.
    """
    return _simulate_stream(config, stream, load)


@cache
def _simulate_stream(config: DramConfig, stream: Stream, load: Load) -> MemoryResult:
    _check(config, stream)
    code, period_cycles = load_code(config, load)
    histogram = np.zeros(at.LATENCY_BINS, dtype=np.int64)
    totals = np.zeros(at.N_SCALARS, dtype=np.int64)
    found: list[tuple[int, int, int]] = []
    for c in range(config.organisation.channels):
        walk = _Walk(config, stream, code, period_cycles, c)
        walk.serve()
        last = max(int(totals[at.LAST_DONE]), walk.channel.count(at.LAST_DONE))
        totals += walk.channel.table[at.SCALAR, : at.N_SCALARS]
        totals[at.LAST_DONE] = last
        histogram += walk.channel.out[at.HISTOGRAM]
        found.append((walk.n_skipped, walk.period_requests, walk.period_ticks))
    n_writes = stream.n_requests if stream.is_write else 0
    result = summarise(config, stream.n_requests, n_writes, totals, histogram)
    return replace(
        result,
        n_extrapolated=min(skipped for skipped, _, _ in found),
        period_requests=found[0][1],
        period_cycles=found[0][2] / config.ticks_per_cycle,
    )


def _check(config: DramConfig, stream: Stream) -> None:
    tx = config.transaction_bytes
    room = stream.footprint_bytes if stream.footprint_bytes is not None else config.capacity_bytes
    for name in ("base", "stride_bytes"):
        value = getattr(stream, name)
        if value < 0 or value % tx:
            raise InputError(f"stream.{name} must be a multiple of the {tx} byte burst and >= 0, got {value}")
    if stream.n_requests < 1:
        raise InputError(f"stream.n_requests must be >= 1, got {stream.n_requests}")
    if room < tx or room % tx:
        raise InputError(f"stream.footprint_bytes must be a multiple of the {tx} byte burst, got {room}")
    end = stream.base + (room if stream.footprint_bytes is not None else tx)
    if end > config.capacity_bytes:
        raise InputError(
            f"stream: ends at {end}, beyond the capacity of {config.name}, {config.capacity_bytes}"
        )


def _period_of(config: DramConfig, stream: Stream) -> _Period:
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
        return _Period(n, n * stream.stride_bytes // row_bytes % n_rows, first_row, n_rows)
    return _Period(window // math.gcd(stream.stride_bytes, window), 0, 0, 1 << 62)


class _Walk:
    """One channel's part of a stream on its way through the controller."""

    def __init__(
        self, config: DramConfig, stream: Stream, code: int, period_cycles: float, channel: int
    ) -> None:
        self._config = config
        self._stream = stream
        self._code = code
        self._period_cycles = period_cycles
        self._index = channel
        self._period = _period_of(config, stream)
        self._n_periods_per_block = -(-_BLOCK_REQUESTS // self._period.n_requests)
        self._seen: dict[bytes, tuple[int, Ints, Ints]] = {}
        self._late_since = 0  # position from which on every offer of a paced load has been overdue
        self.channel: Channel = new_channel(config, code)
        self.n_skipped = self.period_requests = self.period_ticks = 0

    def serve(self) -> None:
        """Serve the channel's requests to the end, skipping whole periods once the state recurs."""
        total = self._stream.n_requests
        if not self._gets_any():
            self.n_skipped = total
            return
        block = self._period.n_requests * self._n_periods_per_block
        position, n_refreshes = 0, -1
        self._refuse(2 * block, total)
        while position + block < total:
            self._refuse(position + block, total)
            self._run(position, block, drain=False)
            position += block
            now_refreshed = self.channel.count(at.N_REFRESHES)
            if not self.n_skipped and (
                now_refreshed != n_refreshes or not self._config.refresh_interval_cycles
            ):
                n_refreshes = now_refreshed
                position = self._skip(position, total)
        self._run(position, total - position, drain=True)

    def _refuse(self, nearest_recurrence: int, total: int) -> None:
        """Raise InputError when a stream too long to serve cannot recur before the limit of the search."""
        if nearest_recurrence > SEARCH_LIMIT_REQUESTS < total and not self.n_skipped:
            raise InputError(
                f"stream: the state of {self._config.name} does not recur within "
                f"{SEARCH_LIMIT_REQUESTS} requests, {total} cannot be extrapolated"
            )

    def _gets_any(self) -> bool:
        """Whether any request of an address period is for this channel."""
        if self._config.organisation.channels == 1 or self._period.n_requests > SEARCH_LIMIT_REQUESTS:
            return True
        address = self._stream.addresses(self._config, 0, self._period.n_requests)
        owner, _ = channel_requests(self._config, address, np.zeros(address.size, dtype=np.bool_))
        return bool((owner == self._index).any())

    def _run(self, first: int, n: int, drain: bool) -> None:
        address = self._stream.addresses(self._config, first, n)
        owner, table = channel_requests(self._config, address, np.full(n, self._stream.is_write))
        paced = self._code == at.PACED
        ticks = offer_ticks(self._config, self._period_cycles, first, n) if paced else np.zeros(0, np.int64)
        if self._config.organisation.channels > 1:
            mine = np.flatnonzero(owner == self._index)
            table, ticks = np.ascontiguousarray(table[:, mine]), ticks[mine] if paced else ticks
        if table.shape[1] or drain:
            run(self.channel, Requests(table, ticks), drain)

    def _skip(self, position: int, total: int) -> int:
        """Skip periods when the state at `position` is one seen before; the new position."""
        key = self._state(position)
        counters = self.channel.table[at.SCALAR, [*_COUNTERS, at.CLOCK]]
        histogram = self.channel.out[at.HISTOGRAM]
        if key not in self._seen:
            kept = histogram[: int(np.flatnonzero(histogram)[-1]) + 1] if histogram.any() else histogram[:0]
            self._seen[key] = (position, counters, kept.copy())
            return position
        before, old_counters, old_histogram = self._seen[key]
        change = counters - old_counters
        if key.endswith(_LATE) and not self._stays_late(before, position, int(change[-1])):
            return position
        self.period_requests = position - before
        n_periods = (total - position - 1) // self.period_requests
        self.period_ticks = int(change[-1])
        per_period = histogram.copy()
        per_period[: old_histogram.size] -= old_histogram
        histogram += n_periods * per_period
        self.channel.table[at.SCALAR, list(_COUNTERS)] += n_periods * change[:-1]
        self._shift(
            n_periods * self.period_ticks, n_periods * (self.period_requests // self._period.n_requests)
        )
        self.n_skipped = n_periods * self.period_requests
        self._seen.clear()
        return position + self.n_skipped

    def _stays_late(self, before: int, position: int, ticks: int) -> bool:
        """Whether a paced load that was overdue from `before` on falls no less behind with every period."""
        due_ticks = (position - before) * self._period_cycles * self._config.ticks_per_cycle
        return self._late_since <= before and ticks >= due_ticks

    def _shift(self, ticks: int, n_address_periods: int) -> None:
        """Move the state on in time and in rows."""
        m = self.channel.table
        for row in _INSTANT_ROWS:
            m[row] += ticks
        for column in _INSTANTS:
            if m[at.SCALAR, column] < at.NEVER:
                m[at.SCALAR, column] += ticks
        m[at.MERGED_SUM] += np.maximum(m[at.MERGED], 0) * ticks
        m[at.SCALAR, at.ROW_WAKE] = 0
        m[at.BANK_WAKE] = 0
        p = self._period
        column_bits = self._config.organisation.bursts_per_row.bit_length() - 1
        rows = n_address_periods * p.rows % p.n_rows
        for row in (at.OPEN_ROW, at.ROW):
            held = m[row] >= 0
            m[row, held] = p.first_row + (m[row, held] - p.first_row + rows) % p.n_rows
        column_of = m[at.TAG] & ((1 << column_bits) - 1)
        m[at.TAG] = np.where(m[at.TAG] >= 0, (m[at.ROW] << column_bits) | column_of, -1)

    def _state(self, position: int) -> bytes:
        """Everything that the future depends on, relative to the clock and to the row of the stream."""
        from tilewright.sim.dram_snapshot import snapshot

        m = self.channel.table
        p = self._period
        row = position // p.n_requests * p.rows % p.n_rows
        column_bits = self._config.organisation.bursts_per_row.bit_length() - 1
        out = np.zeros(8 * m.shape[1] + 24 * int(m[at.FIXED, at.N_BANKS]) + 256, dtype=np.int64)
        used = snapshot(m, p.first_row, row, p.n_rows, column_bits, out)
        return out[:used].tobytes() + (self._phase(position) if self._code == at.PACED else b"")

    def _phase(self, position: int) -> bytes:
        """When the next offers are due, or that all are overdue until the next look, with a margin."""
        period_ticks = self._period_cycles * self._config.ticks_per_cycle
        clock = self.channel.count(at.CLOCK)
        block = self._period.n_requests * self._n_periods_per_block
        margin = 4 * int(self.channel.table[at.FIXED, at.REFRESH_INTERVAL])
        if (position + block) * period_ticks + margin <= clock:
            return _LATE
        self._late_since = position + block
        return f"{position * period_ticks - clock:.6f}".encode()
