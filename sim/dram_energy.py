"""Energy of DRAM traffic: by command where currents or command energies are known, else per bit."""

from dataclasses import dataclass
from functools import cache

from tilewright.sim.dram_config import DramConfig, energy_row


@dataclass(frozen=True, slots=True)
class DramEnergy:
    """Energies of one data bus (a pseudo-channel or a rank), in pJ.

    `by_command`: activations and refreshes are priced by themselves; else the price per bit holds everything.
    """

    read_pj_per_bit: float
    write_pj_per_bit: float
    activate_pj: float
    refresh_pj: float
    by_command: bool
    source: str

    def total_pj(self, read_bits: int, write_bits: int, n_activates: int, n_refreshes: int) -> float:
        moved = read_bits * self.read_pj_per_bit + write_bits * self.write_pj_per_bit
        return moved + n_activates * self.activate_pj + n_refreshes * self.refresh_pj


@cache
def energy_of(config_name: str) -> DramEnergy:
    """The energy row of a named configuration."""
    return DramEnergy(**energy_row(DramConfig.named(config_name).energy))


def energy_pj_per_bit(config_name: str, is_write: bool) -> float:
    """Energy of a bit that is streamed, the share of its row's activation included."""
    config = DramConfig.named(config_name)
    row = energy_of(config_name)
    row_bits = config.organisation.bursts_per_row * config.transaction_bytes * 8
    moved = row.write_pj_per_bit if is_write else row.read_pj_per_bit
    return moved + row.activate_pj / row_bits
