"""One channel: its state built from a configuration, and the choice of kernel."""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tilewright.sim import dram_state as layout
from tilewright.sim.dram_config import DramConfig
from tilewright.sim.dram_state import Machine, reset
from tilewright.sim.dram_timing import timing_tables

Ints = npt.NDArray[np.int64]
LATENCY_BINS = 8192


class Requests(NamedTuple):
    """Requests of one channel in order of arrival.

    table: (4, n), flat bank, row, burst number within the channel, is write. offer_tick: (n,) or empty.
    """

    table: Ints
    offer_tick: Ints


def _fixed(config: DramConfig, load: int, four_activate: int) -> Ints:
    o, c = config.organisation, config.controller
    ticks = config.ticks_per_cycle
    fixed = np.zeros(layout.N_FIXED, dtype=np.int64)
    values = {
        layout.N_BANKS: o.banks_per_channel,
        layout.N_RANKS: o.ranks,
        layout.BANKS_PER_RANK: o.banks_per_rank,
        layout.BANKS_PER_STACK_ID: o.bank_groups * o.banks_per_group,
        layout.BANKS_PER_GROUP: o.banks_per_group,
        layout.READ_QUEUE: c.read_queue,
        layout.WRITE_QUEUE: c.write_queue,
        layout.HIGH: math.floor(round(c.write_high_fraction * c.write_queue, 6)),
        layout.LOW: math.ceil(round(c.write_low_fraction * c.write_queue, 6)),
        layout.PROTECT: int(c.row_hit_protection),
        layout.COLUMN_CAP: c.column_cap,
        layout.REFRESH_INTERVAL: config.refresh_interval_cycles * ticks,
        layout.READ_LATENCY: config.read_latency_cycles * ticks,
        layout.FOUR_ACTIVATE: four_activate,
        layout.DUAL: int(config.separate_command_buses),
        layout.TICKS: ticks,
        layout.LOAD: load,
        layout.BANK_QUEUE: c.bank_queue,
        layout.CLOSED: int(c.page_policy == "closed"),
    }
    if config.clocking is not None:
        values |= {
            layout.CAS: 1,
            layout.WRITE_COMMAND_LATENCY: config.clocking.write_latency_cycles,
            layout.READ_COMMAND_LATENCY: config.clocking.read_command_latency_cycles,
            layout.BURST: config.clocking.burst_cycles,
            layout.POSTAMBLE: config.clocking.postamble_cycles,
            layout.ACT2_DEADLINE: config.clocking.act2_deadline_cycles,
        }
    for index, value in values.items():
        fixed[index] = value
    return fixed


def new_machine(config: DramConfig, load: int, n_requests: int = 0, log_room: int = 0) -> Machine:
    """A channel at cycle 0 that notes the ends of `n_requests` requests and the first `log_room` commands."""
    o, c = config.organisation, config.controller
    n_banks = o.banks_per_channel
    span = (n_banks, o.banks_per_rank, o.bank_groups * o.banks_per_group, o.banks_per_group, 1)
    tables = timing_tables(config.constraints, config.ticks_per_cycle, span)
    n_nodes = c.read_queue + c.write_queue + n_banks * (1 + c.bank_queue)
    return reset(
        Machine(
            np.zeros(layout.N_SCALARS, dtype=np.int64),
            np.zeros((layout.N_BANK_FIELDS, n_banks), dtype=np.int64),
            np.zeros((layout.N_RANK_FIELDS, o.ranks), dtype=np.int64),
            np.zeros((layout.N_NODE_FIELDS, n_nodes), dtype=np.int64),
            np.zeros(8, dtype=np.int64),
            np.zeros(4 * (n_banks + o.ranks), dtype=np.int64),
            _fixed(config, load, tables.four_activate_ticks),
            tables.rules,
            tables.first,
            np.zeros((4, log_room), dtype=np.int64),
            np.zeros(LATENCY_BINS, dtype=np.int64),
            np.full(n_requests, -1, dtype=np.int64),
        )
    )


def run(machine: Machine, requests: Requests, drain: bool) -> None:
    """Serve `requests` from the state at hand on; with `drain` until the last one is done."""
    from tilewright.sim.dram_frfcfs import run_frfcfs

    machine.scalar[layout.POSITION] = 0
    run_frfcfs(machine, *requests, drain)


def channel_requests(config: DramConfig, address: Ints, is_write: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Channel (n,) and request table (4, n) of byte addresses."""
    o = config.organisation
    field: dict[str, Any] = config.mapping.decode(address)
    bank = field["rank"] * o.stack_ids + field["stack_id"]
    bank = (bank * o.bank_groups + field["bank_group"]) * o.banks_per_group + field["bank"]
    burst = field["row"] * o.bursts_per_row + field["column"]
    table = np.stack((bank, field["row"], burst, is_write.astype(np.int64)))
    return field["channel"], table
