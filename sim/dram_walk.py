"""One channel on its way through an endless stream: looks for a period of its whole state and skips it."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tilewright.dataflow.errors import InputError
from tilewright.sim import dram_state as at
from tilewright.sim.dram_channel import Channel, Requests, channel_requests, new_channel, run
from tilewright.sim.dram_config import DramConfig
from tilewright.sim.dram_trace import Ints, offer_ticks

SERVED_REQUESTS = 1 << 25  # streams of up to so many requests are served one by one where no period is found
#: Requests of a channel within which the state of a longer one must recur, by controller: one to two seconds of
#: either, of which a request costs the bank queues more.
SEARCH_LIMITS = {"frfcfs": 3 << 20, "bank_queues": 1 << 20}
_CHUNK_REQUESTS = 8192  # requests of a channel are made in chunks of about so many
_CHUNK_OF_UNREPEATED = 1 << 20
_LATE = b"late"
_COUNTERS = (
    at.N_SERVED, at.LATENCY_SUM, at.N_LATENCIES, at.N_HITS, at.N_ACTIVATES, at.N_REFRESHES, at.N_FORWARDED,
    at.N_ABSORBED,
)  # fmt: skip
_INSTANTS = (
    at.CLOCK, at.NEXT_REFRESH, at.LAST_DONE, at.NEXT_OFFER, at.PAIR_TICK, at.CLOCK_EXPIRY, at.DEADLINE,
)  # fmt: skip
_INSTANT_ROWS = (
    *range(at.READY, at.READY + 4), at.READY_PREA, at.READY_REF, *range(at.RING, at.RING + 4),
    at.CHANNEL_READY, at.READY_REFB, at.LAST_USE, at.ARRIVED,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class AddressPeriod:
    """How the addresses of a stream repeat: after `n_requests` all fields, the row `rows` further on.

    Rows are counted from `first_row` modulo `n_rows`.
    """

    n_requests: int
    rows: int
    first_row: int
    n_rows: int


class Addresses:
    """The requests of a stream by channel: those of an address period, repeated with their rows moved on."""

    def __init__(
        self,
        config: DramConfig,
        bursts: Callable[[int, int], Ints],
        is_write: bool,
        period: AddressPeriod,
        n_requests: int,
    ) -> None:
        self._config = config
        self._bursts = bursts
        self._is_write = is_write
        self.period = period
        self.n_requests = n_requests
        self.is_long = n_requests > SERVED_REQUESTS
        self.limit = SEARCH_LIMITS[config.controller.policy]
        most = self.limit * config.organisation.channels if self.is_long else SERVED_REQUESTS
        self.repeats = period.n_requests <= most // 2
        self._column_bits = config.organisation.bursts_per_row.bit_length() - 1
        if self.repeats:
            self._owner, self._table = self._decode(0, min(period.n_requests, n_requests))

    def _decode(self, first: int, n: int) -> tuple[Ints, Ints]:
        return channel_requests(self._config, self._bursts(first, n), np.full(n, self._is_write))

    def in_a_period(self, channel: int) -> tuple[Ints, Ints]:
        """Places and request table of a channel in the first address period."""
        mine = np.flatnonzero(self._owner == channel)
        return mine, np.ascontiguousarray(self._table[:, mine])

    def fingerprint(self, channel: int) -> bytes:
        """Equal for channels with equal requests in every whole address period."""
        if not self.repeats:
            return channel.to_bytes(4, "little")
        return hashlib.blake2b(self.in_a_period(channel)[1].data).digest()

    def rest(self, first: int, channel: int) -> Iterator[tuple[Ints, Ints]]:
        """Places in the stream and request tables (4, n) of a channel's requests from `first` on, in pieces.

        `first` is where a whole number of address periods ends, the last one.
        """
        if self.repeats:
            places, table = self.repeated(first // self.period.n_requests, 1, self.in_a_period(channel))
            n = int(np.searchsorted(places, self.n_requests))
            yield places[:n], np.ascontiguousarray(table[:, :n])
            return
        for begin in range(first, self.n_requests, _CHUNK_OF_UNREPEATED):
            owner, table = self._decode(begin, min(_CHUNK_OF_UNREPEATED, self.n_requests - begin))
            mine = np.flatnonzero(owner == channel)
            yield begin + mine, np.ascontiguousarray(table[:, mine])

    def repeated(self, first_period: int, n_periods: int, pattern: tuple[Ints, Ints]) -> tuple[Ints, Ints]:
        """The same of `n_periods` whole periods; pattern: as of `in_a_period`."""
        places, table = pattern
        p = self.period
        turn = np.arange(first_period, first_period + n_periods).repeat(places.size)
        bank, row, tag, is_write = np.tile(table, n_periods)
        row = p.first_row + (row - p.first_row + turn % p.n_rows * p.rows) % p.n_rows
        tag = (row << self._column_bits) | (tag & ((1 << self._column_bits) - 1))
        return np.tile(places, n_periods) + turn * p.n_requests, np.array((bank, row, tag, is_write))


class Walk:
    """One channel's part of a stream on its way through the controller, and what it has skipped."""

    def __init__(
        self, config: DramConfig, source: Addresses, code: int, period_cycles: float, channel: int
    ) -> None:
        self._config = config
        self._source = source
        self._code = code
        self._ticks_per_request = period_cycles * config.ticks_per_cycle
        self._index = channel
        self._pattern = source.in_a_period(channel) if source.repeats else None
        self._own = self._pattern[0].size if self._pattern else 0  # requests of an address period
        self._seen: dict[bytes, tuple[int, Ints, Ints]] = {}
        self._late_since = 0  # position from which on every offer of a paced load has been overdue
        self._end = 0  # where `serve_whole_periods` has stopped
        self.channel: Channel = new_channel(config, code)
        self.n_skipped = self.period_requests = self.period_ticks = 0

    def serve_whole_periods(self) -> None:
        """Serve the channel's requests of all whole address periods, skipping once the state recurs."""
        period, total = self._source.period.n_requests, self._source.n_requests
        self._end = total // period * period if self._source.repeats else 0
        if self._source.is_long and not self._source.repeats:
            raise self._refusal()
        if self._own == 0:
            self.n_skipped = self._end
            return
        per_chunk = -(-_CHUNK_REQUESTS // self._own)
        position = 0
        while position < self._end:
            n_periods = min(per_chunk, (self._end - position) // period)
            position = self._serve_periods(position, n_periods)
            served = position // period * self._own
            if served > self._source.limit and self._source.is_long and not self.n_skipped:
                raise self._refusal()

    def finish(self, channel: int) -> Channel:
        """The state after the requests of `channel` beyond the last whole period, all served."""
        own = Channel(self.channel.table.copy(), self.channel.out.copy())
        own.table[at.SCALAR, at.LOOK_PERIOD] = 0
        for places, table in self._source.rest(self._end, channel):
            run(own, self._requests(places, table), drain=False)
        run(own, Requests(np.zeros((4, 0), np.int64), np.zeros(0, np.int64)), drain=True)
        return own

    def _refusal(self) -> InputError:
        return InputError(
            f"stream: the state of {self._config.name} does not recur within {self._source.limit} requests"
            f" of a channel, {self._source.n_requests} cannot be extrapolated (up to {SERVED_REQUESTS} are served)"
        )

    def _requests(self, places: Ints, table: Ints) -> Requests:
        ticks = offer_ticks(self._ticks_per_request, places) if self._code == at.PACED else places[:0]
        return Requests(table, ticks)

    def _serve_periods(self, first: int, n_periods: int) -> int:
        """Serve whole periods from `first` on, looking at the state after each refresh; where to go on."""
        period = self._source.period.n_requests
        assert self._pattern is not None
        requests = self._requests(*self._source.repeated(first // period, n_periods, self._pattern))
        scalars = self.channel.table[at.SCALAR]
        begin, size = 0, requests.table.shape[1]
        while begin < size:
            scalars[at.LOOK_PERIOD] = 0 if self.n_skipped else self._own
            n_refreshes = scalars[at.N_REFRESHES]
            run(self.channel, requests, drain=False, begin=begin)
            begin = int(scalars[at.POSITION])
            looks = scalars[at.N_REFRESHES] != n_refreshes or not self._config.refresh_interval_cycles
            if looks and not self.n_skipped:
                position = first + begin // self._own * period
                if (after := self._skip(position)) != position:
                    return after
        return first + n_periods * period

    def _skip(self, position: int) -> int:
        """Skip periods when the state at `position` is one seen before; the new position."""
        key = self._state(position)
        counters = self.channel.table[at.SCALAR, [*_COUNTERS, at.CLOCK]]
        histogram = self.channel.out[at.HISTOGRAM]
        before, old_counters, old_histogram = self._seen.get(key, (position, counters, histogram[:0]))
        change = counters - old_counters
        is_new = key not in self._seen
        if is_new or (key.endswith(_LATE) and not self._stays_late(before, position, int(change[-1]))):
            kept = histogram[: int(np.flatnonzero(histogram)[-1]) + 1] if histogram.any() else histogram[:0]
            self._seen[key] = (position, counters, kept.copy())
            return position
        n_periods = (self._end - position) // (position - before)
        if n_periods == 0:
            return position
        self.period_requests = position - before
        self.period_ticks = int(change[-1])
        per_period = histogram.copy()
        per_period[: old_histogram.size] -= old_histogram
        histogram += n_periods * per_period
        self.channel.table[at.SCALAR, list(_COUNTERS)] += n_periods * change[:-1]
        n_address_periods = self.period_requests // self._source.period.n_requests
        self._shift(n_periods * self.period_ticks, n_periods * n_address_periods)
        self.n_skipped = n_periods * self.period_requests
        self._seen.clear()
        return position + self.n_skipped

    def _stays_late(self, before: int, position: int, ticks: int) -> bool:
        """Whether a paced load that was overdue from `before` on falls no less behind with every period."""
        due_ticks = (position - before) * self._ticks_per_request
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
        p = self._source.period
        column_bits = self._config.organisation.bursts_per_row.bit_length() - 1
        rows = n_address_periods * p.rows % p.n_rows
        for row in (at.OPEN_ROW, at.ROW):
            held = m[row] >= 0
            m[row, held] = p.first_row + (m[row, held] - p.first_row + rows) % p.n_rows
        column_of = m[at.TAG] & ((1 << column_bits) - 1)
        m[at.TAG] = np.where(m[at.TAG] >= 0, (m[at.ROW] << column_bits) | column_of, -1)

    def _state(self, position: int) -> bytes:
        """A digest of everything that the future depends on, relative to the clock and to the stream's row."""
        from tilewright.sim.dram_snapshot import snapshot

        m = self.channel.table
        p = self._source.period
        row = position // p.n_requests * p.rows % p.n_rows
        column_bits = self._config.organisation.bursts_per_row.bit_length() - 1
        out = np.empty(8 * m.shape[1] + 32 * int(m[at.FIXED, at.N_BANKS]) + 256, dtype=np.int64)
        used = snapshot(m, p.first_row, row, p.n_rows, column_bits, out)
        digest = hashlib.blake2b(out[:used].data, digest_size=16).digest()
        return digest + (self._phase(position) if self._code == at.PACED else b"")

    def _phase(self, position: int) -> bytes:
        """When the next offers are due, or that all are overdue until the next look."""
        clock = self.channel.count(at.CLOCK)
        ahead = position + self._most_until_next_look()
        if ahead * self._ticks_per_request <= clock:
            return _LATE
        self._late_since = ahead
        return f"{position * self._ticks_per_request - clock:.6f}".encode()

    def _most_until_next_look(self) -> int:
        """More requests of the stream than can be offered before the next look at the state."""
        c, m = self._config, self.channel.table
        ticks = 4 * (c.refresh_interval_cycles + c.refresh_cycles) * c.ticks_per_cycle
        served = ticks * c.n_data_buses // (c.burst_cycles * c.ticks_per_cycle) if ticks else _CHUNK_REQUESTS
        own = served + int(m[at.FIXED, at.N_NODES])
        return (own // self._own + 2) * self._source.period.n_requests
