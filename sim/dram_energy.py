"""Energy of DRAM traffic: by command where currents or command energies are known, else per bit."""

from dataclasses import dataclass
from functools import cache

from tilewright.sim.dram_config import DramConfig, energy_row
from tilewright.sim.dram_trace import MemoryResult
from tilewright.sim.report import Breakdown


@dataclass(frozen=True, slots=True)
class DramEnergy:
    """Energies of one data bus (a pseudo-channel or a rank), in pJ.

    `by_command`: activations, refreshes and standby are priced by themselves, from currents; else the price per
    bit holds everything and they are 0. A refresh is one of a whole rank.
    """

    read_pj_per_bit: float
    write_pj_per_bit: float
    activate_pj: float
    refresh_pj: float
    background_active_mw: float
    background_precharged_mw: float
    by_command: bool
    source: str

    def total_pj(self, read_bits: int, write_bits: int, n_activates: int, n_refreshes: int) -> float:
        moved = read_bits * self.read_pj_per_bit + write_bits * self.write_pj_per_bit
        return moved + n_activates * self.activate_pj + n_refreshes * self.refresh_pj


def energy_tree(config: DramConfig, result: MemoryResult) -> Breakdown:
    """pJ of a trace or a stream by command: activate, read, write, refresh, background; they sum to the total.

    `energy_of` says whether commands have prices of their own (`by_command`); where not, read and write hold
    everything. Background is standby with a row open for the whole time (with closed pages: precharged), an
    upper bound for memories that idle.
    """
    row = energy_row_of(config)
    burst_bits = 8 * config.transaction_bytes
    closed = config.controller.page_policy == "closed"
    standby_mw = row.background_precharged_mw if closed else row.background_active_mw
    n_buses = config.organisation.channels * config.n_data_buses
    leaves = {
        "activate": result.n_activates * row.activate_pj,
        "read": result.n_reads * burst_bits * row.read_pj_per_bit,
        "write": result.n_writes * burst_bits * row.write_pj_per_bit,
        "refresh": result.n_refreshes / config.refresh_sets * row.refresh_pj,
        "background": standby_mw * result.time_ns * n_buses,
    }
    return Breakdown.of("dram_energy_pj", tuple(Breakdown(name, value) for name, value in leaves.items()))


@cache
def _row(name: str) -> DramEnergy:
    return DramEnergy(**energy_row(name))


def energy_row_of(config: DramConfig) -> DramEnergy:
    """The energy row that a configuration names."""
    return _row(config.energy)


@cache
def energy_of(config_name: str) -> DramEnergy:
    """The energy row of a named configuration."""
    return energy_row_of(DramConfig.named(config_name))


def energy_pj_per_bit(config_name: str, is_write: bool) -> float:
    """Energy of a bit that is streamed, the share of its row's activation included."""
    config = DramConfig.named(config_name)
    row = energy_of(config_name)
    row_bits = config.organisation.bursts_per_row * config.transaction_bytes * 8
    moved = row.write_pj_per_bit if is_write else row.read_pj_per_bit
    return moved + row.activate_pj / row_bits
