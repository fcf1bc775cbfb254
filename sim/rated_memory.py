"""A memory that two figures describe, for hardware whose banks are not modelled."""

from dataclasses import dataclass
from math import ceil
from typing import Protocol

from tilewright.sim.architecture import Dram
from tilewright.sim.placed_memory import placed_memory


class Memory(Protocol):
    """What mapper and engine ask of a memory; cycles of the architecture's clock."""

    @property
    def peak_bytes_per_cycle(self) -> float: ...

    @property
    def latency_cycles(self) -> int: ...

    def service_cycles(self, n_bytes: int, run_bytes: int, is_write: bool, random: bool) -> int: ...


@dataclass(frozen=True, slots=True)
class RatedMemory:
    """Serves every access pattern at `efficiency` of its peak; bytes take at least one cycle."""

    peak_bytes_per_cycle: float
    latency_cycles: int
    efficiency: float = 1.0

    def service_cycles(self, n_bytes: int, run_bytes: int, is_write: bool, random: bool) -> int:
        return max(1, ceil(n_bytes / (self.peak_bytes_per_cycle * self.efficiency)))


def memory_of(dram: Dram, clock_mhz: float) -> Memory:
    """The memory behind a component: the rate that it states, else the banks of its configuration."""
    if dram.rate is None:
        return placed_memory(dram.config, dram.channels, clock_mhz, dram.placement)
    return RatedMemory(dram.rate.bytes_per_cycle, dram.rate.latency_cycles, dram.rate.efficiency)
