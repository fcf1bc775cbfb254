"""Requesters that share a DRAM channel: simulated together, and answered from remembered steady rates.

A request-by-request run of all requesters (`cosimulate`) is the reference. The answer for a simulation of
seconds is `finish_ns`: between two ends of requesters the same ones are active, and each goes on at the steady
rate that it has in that company (`steady_mix`, simulated once per process and company).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
import numpy.typing as npt

from tilewright.dataflow.errors import InputError
from tilewright.sim import dram_state as at
from tilewright.sim.dram_channel import Channel, channel_requests, new_channel
from tilewright.sim.dram_config import DramConfig

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MAX_REQUESTERS = 8
_SPARSE_PITCH = 3  # pitch of the ordered runs of a transfer in runs, as in `sim.dram_service`
_PAGE_BYTES = 4096  # transfers begin at a page, or at a run where runs are shorter
_SEED = 20240607
# How long a read may wait before the arbiter holds up writes: a choice, some six row cycles.
_PATIENCE_NS = 300.0
#: Refresh intervals of a steady measurement (as many times 4096 cycles where nothing is refreshed). The relative
#: place of two streams in the banks is drawn anew with every transfer, so a rate is a mean over many of them.
N_INTERVALS = 64


@dataclass(frozen=True, slots=True, order=True)
class Requester:
    """One master: transfers of `transfer_bytes` in runs of `run_bytes`, read or written, in a region of its own.

    Transfers begin anywhere in the region; their runs follow at a fixed pitch, or with `random` at uniform
    addresses. The port takes turns of `burst_bytes` at the arbiter and keeps `max_outstanding` of them in
    flight; `pace_gb_per_s` is the most that it asks for (0: as much as it is given).
    """

    run_bytes: int
    is_write: bool = False
    random: bool = False
    transfer_bytes: int = 16384
    burst_bytes: int = 512
    max_outstanding: int = 16
    pace_gb_per_s: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            least = 0 if field.name in ("is_write", "random", "pace_gb_per_s") else 1
            if not (value := getattr(self, field.name)) >= least:
                raise InputError(f"requester: {field.name} must be >= {least}, got {value}")


@dataclass(frozen=True, slots=True)
class SharedRun:
    """A co-simulation, per requester in their order: when each burst was done, mean wait from the controller's
    queue to the answer. `row_hit_fraction` and `n_activates` are of all."""

    done_ns: tuple[Floats, ...]
    latency_ns: tuple[float, ...]
    row_hit_fraction: float
    n_activates: int

    @property
    def finish_ns(self) -> tuple[float, ...]:
        """When each requester's last burst was done."""
        return tuple(float(done.max()) if done.size else 0.0 for done in self.done_ns)


@dataclass(frozen=True, slots=True)
class SteadyMix:
    """What requesters in company get in the long run: bandwidth and mean latency of each, of all the row hits
    and activations for each burst."""

    gb_per_s: tuple[float, ...]
    latency_ns: tuple[float, ...]
    row_hit_fraction: float
    activates_per_burst: float


def cosimulate(
    config: DramConfig, requesters: Sequence[Requester], n_bytes: Sequence[int], seed: int = _SEED
) -> SharedRun:
    """Serve `n_bytes` of every requester, request by request, all from cycle 0.

    Where a configuration has several channels they are loaded alike and one is simulated. Raises InputError
    for no or too many requesters, or none of the bytes.
    """
    _check(config, requesters)
    if len(n_bytes) != len(requesters) or min(n_bytes) < 1:
        raise InputError(
            f"requesters: n_bytes must be >= 1 for each of {len(requesters)}, got {list(n_bytes)}"
        )
    counts = [-(-one // config.transaction_bytes) for one in n_bytes]
    return _run(config, requesters, counts, at.NEVER, seed)


def finish_ns(config_name: str, requesters: Sequence[Requester], n_bytes: Sequence[int]) -> tuple[float, ...]:
    """When each requester has moved its bytes, from the steady rates of those that are active together."""
    left = [float(one) for one in n_bytes]
    active = [i for i, one in enumerate(left) if one > 0]
    now = 0.0
    found = [0.0] * len(left)
    while active:
        rates = steady_mix(config_name, tuple(requesters[i] for i in active)).gb_per_s
        step = min(left[i] / rate for i, rate in zip(active, rates, strict=True) if rate > 0)
        now += step
        for i, rate in zip(active, rates, strict=True):
            left[i] -= step * rate
            if left[i] <= 1e-6 * n_bytes[i]:
                found[i] = now
        active = [i for i in active if not found[i]]
    return tuple(found)


def slowdown(config_name: str, requesters: Sequence[Requester], n_intervals: int = N_INTERVALS) -> float:
    """How much longer the requesters take together than one after another; 1 where they do not mind each other.

    Taking turns, a requester has its own rate for as much of the time as it needs; together they have the
    steady rates of the mix. Below 1 where one fills the gaps of another.
    """
    together = steady_mix(config_name, tuple(requesters), n_intervals).gb_per_s
    alone = [steady_mix(config_name, (one,), n_intervals).gb_per_s[0] for one in requesters]
    return 1 / sum(rate / own for rate, own in zip(together, alone, strict=True))


@cache
def steady_mix(
    config_name: str, requesters: tuple[Requester, ...], n_intervals: int = N_INTERVALS
) -> SteadyMix:
    """The steady state of requesters in company, who take turns in their order; simulated once in a process.

    Raises InputError for an unknown memory, no or too many requesters, a transfer that exceeds its region.
    """
    config = DramConfig.named(config_name)
    _check(config, requesters)
    ticks = (config.refresh_interval_cycles or 4096) * config.ticks_per_cycle
    most = ticks * n_intervals * config.n_data_buses // (config.burst_cycles * config.ticks_per_cycle)
    count = most if len(requesters) == 1 else -(-2 * most // len(requesters))
    run = _run(config, requesters, [count] * len(requesters), ticks * n_intervals, _SEED)
    if any(done.size == count for done in run.done_ns):  # one of them got more than its part
        run = _run(config, requesters, [most] * len(requesters), ticks * n_intervals, _SEED)
    begin_ns, end_ns = (n * ticks * _tick_ns(config) for n in (1, n_intervals))
    moved = [int(((done > begin_ns) & (done <= end_ns)).sum()) for done in run.done_ns]
    scale = config.transaction_bytes * config.organisation.channels / (end_ns - begin_ns)
    n_done = sum(done.size for done in run.done_ns)
    return SteadyMix(
        tuple(one * scale for one in moved), run.latency_ns, run.row_hit_fraction, run.n_activates / n_done
    )


def _check(config: DramConfig, requesters: Sequence[Requester]) -> None:
    if not 1 <= len(requesters) <= MAX_REQUESTERS:
        raise InputError(
            f"memory {config.name}: 1..{MAX_REQUESTERS} requesters may share, got {len(requesters)}"
        )
    region = config.capacity_bytes // len(requesters)
    for one in requesters:
        need = _SPARSE_PITCH * (one.transfer_bytes + one.run_bytes)
        if need > region:
            raise InputError(
                f"memory {config.name}: a requester has {region} bytes, its transfer spans {need}"
            )


def _tick_ns(config: DramConfig) -> float:
    return config.tck_ns / config.ticks_per_cycle


def addresses_of(config: DramConfig, one: Requester, index: int, n_of: int, n_bursts: int, seed: int) -> Ints:
    """(n_bursts,) byte addresses of requester `index` of `n_of`, whose regions divide the capacity evenly."""
    burst = config.transaction_bytes
    per_run = -(-one.run_bytes // burst)
    region = config.capacity_bytes // n_of // burst
    generator = np.random.Generator(np.random.PCG64([seed, index]))
    if one.random:
        starts = generator.integers(0, region // per_run, size=-(-n_bursts // per_run)) * per_run
    else:
        n_runs = -(-one.transfer_bytes // (burst * per_run))
        align = max(1, min(per_run, _PAGE_BYTES // burst))
        pitch = per_run * (_SPARSE_PITCH if n_runs > 1 else 1)
        n_transfers = -(-n_bursts // (n_runs * per_run))
        begins = generator.integers(0, (region - n_runs * pitch) // align, size=n_transfers) * align
        starts = (begins[:, None] + np.arange(n_runs) * pitch).reshape(-1)
    bursts = starts[:, None] + np.arange(per_run, dtype=np.int64)
    return (index * region + bursts.reshape(-1)[:n_bursts]) * burst


def _requests(
    config: DramConfig, requesters: Sequence[Requester], counts: Sequence[int], seed: int
) -> tuple[Ints, list[int]]:
    """The request table (4, n) of one channel, and how many are each requester's."""
    n_channels = config.organisation.channels
    tables = []
    for i, (one, count) in enumerate(zip(requesters, counts, strict=True)):
        # with some to spare, as runs need not fall on the channels evenly
        wanted = count if n_channels == 1 else 2 * n_channels * (count + 64)
        address = addresses_of(config, one, i, len(requesters), wanted, seed)
        channel, table = channel_requests(config, address, np.full(address.size, one.is_write))
        tables.append(table[:, channel == 0][:, :count])
    return np.ascontiguousarray(np.concatenate(tables, axis=1)), [table.shape[1] for table in tables]


def _run(
    config: DramConfig, requesters: Sequence[Requester], counts: Sequence[int], until_tick: int, seed: int
) -> SharedRun:
    from tilewright.sim import dram_cosim as cosim

    table, found = _requests(config, requesters, counts, seed)
    n = table.shape[1]
    channel = new_channel(config, at.SATURATE, n)
    channel.out[at.DONE] = cosim.UNDONE
    first = np.concatenate([[0], np.cumsum(found)]).astype(np.int64)
    q = _requester_table(config, requesters, first)
    arbiter = np.zeros(cosim.N_ARBITER, dtype=np.int64)
    arbiter[cosim.WAY_BACK] = math.ceil(config.fabric_latency_ns / _tick_ns(config))
    arbiter[cosim.PATIENCE] = math.ceil(_PATIENCE_NS / _tick_ns(config))
    offered = np.zeros((cosim.N_ACCEPTED_ROWS, n), dtype=np.int64)
    position = np.full(n, -1, dtype=np.int64)
    none = np.zeros(0, dtype=np.int64)
    _kernel_of(channel)(*channel, q, arbiter, table, offered, position, none, until_tick)
    done = channel.out[at.DONE]
    while (joined := done < cosim.UNDONE).any():  # reads that came with another
        done[joined] = done[-2 - done[joined]]
    done_ns, latency_ns = [], []
    accepted = offered[cosim.ACCEPTED_TICK]
    for i, one in enumerate(requesters):
        mine = position[first[i] : int(q[cosim.NEXT, i])]
        served = mine[done[mine] != cosim.UNDONE]
        waited = done[served] - accepted[served]
        done_ns.append((accepted[mine] if one.is_write else done[served]) * _tick_ns(config))
        mean = float(waited.mean()) if waited.size else 0.0
        latency_ns.append(mean * _tick_ns(config) + config.fabric_latency_ns)
    n_served = max(1, channel.count(at.N_SERVED))
    return SharedRun(
        tuple(done_ns), tuple(latency_ns), channel.count(at.N_HITS) / n_served, channel.count(at.N_ACTIVATES)
    )


def _requester_table(config: DramConfig, requesters: Sequence[Requester], first: Ints) -> Ints:
    """The table of the kernels; requests of requester i begin at first[i]."""
    from tilewright.sim import dram_cosim as cosim

    q = np.zeros((cosim.N_REQUESTER_ROWS, len(requesters)), dtype=np.int64)
    q[cosim.NEXT] = q[cosim.OLDEST] = first[:-1]
    q[cosim.END] = first[1:]
    burst = config.transaction_bytes
    for i, one in enumerate(requesters):
        turn = -(-min(one.burst_bytes, one.run_bytes) // burst)
        q[cosim.TURN, i] = turn
        q[cosim.SLOTS, i] = one.max_outstanding * turn
        q[cosim.KIND, i] = int(one.is_write)
        if one.pace_gb_per_s:
            rate = one.pace_gb_per_s / config.organisation.channels
            q[cosim.PACE, i] = math.ceil(turn * burst / rate / _tick_ns(config) * cosim.PACE_UNIT)
    return q


def _kernel_of(channel: Channel) -> Callable[..., None]:
    """The kernel of a channel's controller; each is compiled only when it is needed."""
    from tilewright.sim import dram_cosim as cosim

    fixed = channel.table[at.FIXED]
    if fixed[at.BANK_QUEUE]:
        return cosim.share_bank_queues
    if fixed[at.CAS]:
        return cosim.share_clocked_bus
    return cosim.share_two_buses if fixed[at.DUAL] else cosim.share_one_bus
