"""How long a transfer occupies a memory: steady rates of the bank model, remembered per pattern."""

import math
from functools import cache

import numpy as np
import numpy.typing as npt

from tilewright.dataflow.errors import InputError
from tilewright.sim import dram_state as at
from tilewright.sim.dram_channel import Channel, Requests, channel_requests, new_channel, run
from tilewright.sim.dram_config import DramConfig
from tilewright.sim.dram_timing import ACT, REF

Ints = npt.NDArray[np.int64]
STREAM_RUN_BYTES = 1 << 16  # runs from here on count as one endless stream
_N_INTERVALS = 6  # refresh intervals of a measurement; the first warms up and is left out
_SEED = 20240607
_SPARSE_PITCH = 3  # pitch of ordered runs in runs: an odd number, so that rows and banks take turns


class ServiceTable:
    """Occupancy of `n_channels` equal memories `config_name`, in cycles of `clock_mhz`.

    `latency_cycles`: an idle read of a closed row, the fabric in front included; occupies nothing.
    `peak_bytes_per_cycle`: every data bus busy.
    """

    def __init__(self, config_name: str, n_channels: int, clock_mhz: float) -> None:
        if n_channels < 1:
            raise InputError(f"memory {config_name}: n_channels must be >= 1, got {n_channels}")
        if not clock_mhz > 0:
            raise InputError(f"memory {config_name}: clock_mhz must be > 0, got {clock_mhz}")
        config = DramConfig.named(config_name)
        self.config = config
        self.n_channels = n_channels
        self.clock_mhz = clock_mhz
        self.peak_bytes_per_cycle = n_channels * config.peak_gb_per_s * 1e3 / clock_mhz
        self.latency_cycles = math.ceil(idle_read_latency_ns(config) * clock_mhz * 1e-3)
        self._burst_bytes = config.transaction_bytes
        self._cycles_per_byte: dict[tuple[int, bool, bool], float] = {}

    def service_cycles(self, n_bytes: int, run_bytes: int, is_write: bool, random: bool) -> int:
        """Cycles for which `n_bytes` in contiguous runs of `run_bytes` occupy the memory.

        Every run moves whole bursts. Runs are rounded down to a power of two for the rate; those of 64 KiB
        and more are one stream. `random`: runs at uniform addresses, else at a fixed pitch in order. More
        bytes never take less time, more channels never more.
        """
        key = (run_bytes, is_write, random)
        cost = self._cycles_per_byte.get(key)
        if cost is None:
            cost = self._cycles_per_byte[key] = self._cost(run_bytes, is_write, random)
        burst = self._burst_bytes
        whole, rest = divmod(n_bytes, run_bytes)
        moved = whole * (-(-run_bytes // burst)) + -(-rest // burst)
        return math.ceil(moved * burst * cost)

    def bytes_per_cycle(self, run_bytes: int, is_write: bool, random: bool) -> float:
        """Steady bandwidth granted to a pattern, over all channels."""
        return 1 / self._cost(run_bytes, is_write, random)

    def _cost(self, run_bytes: int, is_write: bool, random: bool) -> float:
        if run_bytes < 1:
            raise InputError(f"memory {self.config.name}: run_bytes must be >= 1, got {run_bytes}")
        step = run_class(self.config, run_bytes)
        stream = step >= STREAM_RUN_BYTES
        rate = steady_gb_per_s(self.config.name, step, bool(is_write), bool(random) and not stream)
        return self.clock_mhz / (rate * 1e3 * self.n_channels)


@cache
def service_table(config_name: str, n_channels: int, clock_mhz: float) -> ServiceTable:
    """The service table of a memory; one object per set of arguments in a process."""
    return ServiceTable(config_name, n_channels, clock_mhz)


def run_class(config: DramConfig, run_bytes: int) -> int:
    """The power of two that stands for runs of `run_bytes`, between one burst and a stream."""
    burst = config.transaction_bytes
    return min(STREAM_RUN_BYTES, max(burst, 1 << (run_bytes.bit_length() - 1)))


def steady_gb_per_s(config_name: str, run_bytes: int, is_write: bool, random: bool) -> float:
    """Bandwidth of an endless sequence of runs on one memory, refresh included, in GB/s."""
    return _steady(config_name, run_bytes, is_write, random)[0]


def steady_activates_per_byte(config_name: str, run_bytes: int, is_write: bool, random: bool) -> float:
    """Rows opened for each byte that bursts move, of the same sequence; `run_bytes` of any size."""
    config = DramConfig.named(config_name)
    step = run_class(config, max(1, run_bytes))
    stream = step >= STREAM_RUN_BYTES
    return _steady(config_name, step, bool(is_write), bool(random) and not stream)[1]


@cache
def _steady(config_name: str, run_bytes: int, is_write: bool, random: bool) -> tuple[float, float]:
    """(GB/s, activations per byte) of an endless sequence of runs on one memory, refresh included.

    Counts what is done between the first and the last refresh of a simulation of several intervals (of as
    many cycles where nothing is refreshed). All channels are loaded alike, so one of them is simulated.
    """
    config = DramConfig.named(config_name)
    interval = config.refresh_interval_cycles or 4096
    n = interval * _N_INTERVALS * config.n_data_buses // config.burst_cycles
    address = _run_addresses(config, run_bytes, random, n * config.organisation.channels)
    flags = np.full(address.size, is_write)
    channel, table = channel_requests(config, address, flags)
    table = np.ascontiguousarray(table[:, channel == 0])
    one = new_channel(config, at.SATURATE, table.shape[1], 4 * table.shape[1])
    run(one, Requests(table, np.zeros(0, dtype=np.int64)), True)
    begin, end = _window(one)
    done = one.out[at.DONE, : table.shape[1]]
    served = int(((done > begin) & (done <= end)).sum())
    time_ns = (end - begin) / config.ticks_per_cycle * config.tck_ns
    log = one.out[:, : one.count(at.N_LOGGED)]
    in_window = (log[at.LOG_TICK] > begin) & (log[at.LOG_TICK] <= end)
    n_activates = int((in_window & (log[at.LOG_COMMAND] == ACT)).sum())
    served_bytes = served * config.transaction_bytes
    return served_bytes * config.organisation.channels / time_ns, n_activates / max(1, served_bytes)


def _window(one: Channel) -> tuple[int, int]:
    """First and last tick of a whole number of refresh intervals in the middle of a run."""
    log = one.out[:, : one.count(at.N_LOGGED)]
    refresh = log[at.LOG_TICK, (log[at.LOG_COMMAND] == REF) & (log[at.LOG_BANK] == 0)]
    if refresh.size >= 2:
        return int(refresh[0]), int(refresh[-1])
    last = one.count(at.LAST_DONE)
    return last // _N_INTERVALS, last


def _run_addresses(config: DramConfig, run_bytes: int, random: bool, n_bursts: int) -> Ints:
    """Byte addresses of `n_bursts` bursts in runs of `run_bytes`."""
    burst = config.transaction_bytes
    per_run = run_bytes // burst
    n_runs = -(-n_bursts // per_run)
    slots = config.capacity_bytes // run_bytes
    if run_bytes >= STREAM_RUN_BYTES:
        starts = np.arange(n_runs, dtype=np.int64) % slots
    elif random:
        generator = np.random.Generator(np.random.PCG64(_SEED))
        starts = generator.integers(0, slots, size=n_runs)
    else:
        starts = np.arange(n_runs, dtype=np.int64) * _SPARSE_PITCH % slots
    inside = np.arange(per_run, dtype=np.int64) * burst
    return (starts[:, None] * run_bytes + inside[None, :]).reshape(-1)[:n_bursts]


@cache
def _idle_read_latency_ns(config_name: str) -> float:
    config = DramConfig.named(config_name)
    one = new_channel(config, at.SINGLE)
    run(one, Requests(np.zeros((4, 1), np.int64), np.zeros(0, np.int64)), True)
    ticks = one.count(at.LATENCY_SUM)
    return ticks / config.ticks_per_cycle * config.tck_ns + config.fabric_latency_ns


def idle_read_latency_ns(config: DramConfig) -> float:
    """Latency of one read of a closed row in an idle memory, the fabric in front included."""
    return _idle_read_latency_ns(config.name)
