"""One channel: its state built from a configuration, and the choice of kernel."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tilewright.sim import dram_state as at
from tilewright.sim.dram_config import MAPPING_FIELDS, DramConfig
from tilewright.sim.dram_state import Table, new_table
from tilewright.sim.dram_timing import timing_tables

Ints = npt.NDArray[np.int64]


class Channel(NamedTuple):
    """One channel between runs: its table and what its runs have written (rows of `dram_state`)."""

    table: Table
    out: Table

    def count(self, column: int) -> int:
        """A counter of the row SCALAR."""
        return int(self.table[at.SCALAR, column])


class Requests(NamedTuple):
    """Requests of one channel in order of arrival.

    table: (4, n), flat bank, row, burst number within the channel, is write. offer_tick: (n,) or empty.
    """

    table: Ints
    offer_tick: Ints


def _fixed(config: DramConfig, load: int, four_activate: int) -> dict[int, int]:
    o, c = config.organisation, config.controller
    ticks = config.ticks_per_cycle
    staggered = c.policy == "bank_queues"
    interval = config.refresh_interval_cycles // (config.refresh_sets * (o.ranks if staggered else 1))
    values = {
        at.N_BANKS: o.banks_per_channel,
        at.N_RANKS: o.ranks,
        at.BANKS_PER_RANK: o.banks_per_rank,
        at.RANK_SHIFT: o.banks_per_rank.bit_length() - 1,
        at.BANKS_PER_STACK_ID: o.bank_groups * o.banks_per_group,
        at.BANKS_PER_GROUP: o.banks_per_group,
        at.READ_QUEUE: c.read_queue,
        at.WRITE_QUEUE: c.write_queue,
        at.HIGH: math.floor(round(c.write_high_fraction * c.write_queue, 6)),
        at.LOW: math.ceil(round(c.write_low_fraction * c.write_queue, 6)),
        at.PROTECT: int(c.row_hit_protection),
        at.COLUMN_CAP: c.column_cap,
        at.IN_ORDER: int(not c.reorder),
        at.REFRESH_INTERVAL: interval * ticks,
        at.READ_LATENCY: config.read_latency_cycles * ticks,
        at.FOUR_ACTIVATE: four_activate,
        at.DUAL: int(config.separate_command_buses),
        at.TICKS: ticks,
        at.LOAD: load,
        at.BANK_QUEUE: c.bank_queue,
        at.CLOSED: int(c.page_policy == "closed"),
        at.TIMEOUT: c.page_timeout_cycles * ticks if c.page_policy == "timeout" else 0,
        at.REFRESH_SETS: config.refresh_sets,
    }
    if config.clocking is not None:
        values |= {
            at.CAS: 1,
            at.WRITE_COMMAND_LATENCY: config.clocking.write_latency_cycles,
            at.READ_COMMAND_LATENCY: config.clocking.read_command_latency_cycles,
            at.BURST: config.clocking.burst_cycles,
            at.POSTAMBLE: config.clocking.postamble_cycles,
            at.ACT2_DEADLINE: config.clocking.act2_deadline_cycles,
        }
    return values


def new_channel(config: DramConfig, load: int, n_requests: int = 0, log_room: int = 0) -> Channel:
    """A channel at cycle 0 that notes the ends of `n_requests` requests and the first `log_room` commands."""
    o, c = config.organisation, config.controller
    n_banks = o.banks_per_channel
    span = (n_banks, o.banks_per_rank, o.bank_groups * o.banks_per_group, o.banks_per_group, 1)
    timing = timing_tables(config.constraints, config.ticks_per_cycle, span)
    fixed = _fixed(config, load, timing.four_activate_ticks) | {
        at.N_NODES: c.read_queue + c.write_queue + n_banks * (1 + c.bank_queue),
        at.LOG_ROOM: log_room,
        at.DONE_ROOM: n_requests,
    }
    out = np.zeros((at.N_OUT_ROWS, max(at.LATENCY_BINS, n_requests, log_room)), dtype=np.int64)
    return Channel(new_table(fixed, timing.rules, timing.first), out)


def _kernel_of(fixed: Table) -> Callable[..., None]:
    """The controller of a channel; each is compiled only when it is needed."""
    if fixed[at.BANK_QUEUE]:
        from tilewright.sim.dram_bank_queues import run_bank_queues

        return run_bank_queues
    if fixed[at.CAS]:
        from tilewright.sim.dram_clocked import run_clocked_bus

        return run_clocked_bus
    from tilewright.sim.dram_frfcfs import run_one_bus, run_two_buses

    return run_two_buses if fixed[at.DUAL] else run_one_bus


def run(channel: Channel, requests: Requests, drain: bool, begin: int = 0) -> None:
    """Serve `requests` from number `begin` on from the state at hand; with `drain` until the last one is done.

    Where LOOK_PERIOD of the table is set it may stop sooner, after a refresh; POSITION says where.
    """
    channel.table[at.SCALAR, at.POSITION] = begin
    channel.table[at.SCALAR, at.END] = requests.table.shape[1]
    _kernel_of(channel.table[at.FIXED])(channel.table, channel.out, *requests, drain)


def channel_requests(config: DramConfig, address: Ints, is_write: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Channel (n,) and request table (4, n) of byte addresses."""
    from tilewright.sim.dram_rules import decode

    mapping = config.mapping
    filled = dict.fromkeys(MAPPING_FIELDS, 0)
    slices = []
    for name, bits in mapping.slices:
        slices.append((MAPPING_FIELDS.index(name), bits, filled[name]))
        filled[name] += bits
    xors = [(MAPPING_FIELDS.index(a), MAPPING_FIELDS.index(b), lsb, bits) for a, b, lsb, bits in mapping.xor]
    widths = [config.organisation.count(name).bit_length() - 1 for name in MAPPING_FIELDS]
    channel = np.empty(address.size, dtype=np.int64)
    table = np.empty((4, address.size), dtype=np.int64)
    as_table = np.array(slices, dtype=np.int64).reshape(-1, 3)
    xor_table = np.array(xors, dtype=np.int64).reshape(-1, 4)
    decode(
        address,
        is_write,
        mapping.offset_bits,
        as_table,
        xor_table,
        np.array(widths, dtype=np.int64),
        channel,
        table,
    )
    return channel, table
