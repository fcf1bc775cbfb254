"""A memory as the engine sees it: tensors on groups of channels, and what transfers cost in company."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tilewright.dataflow.tensor import Role, Tensor
from tilewright.sim.dram_service import ServiceTable, service_table
from tilewright.sim.placement import Placement, kind_of
from tilewright.sim.slowdown_file import add_slowdowns, read_slowdowns, slowdown_file
from tilewright.sim.traffic import COMPANY_BITS, UNIT, members

if TYPE_CHECKING:
    from tilewright.sim.dram_contention import SteadyMix

Ints = npt.NDArray[np.int64]
#: Refresh intervals of a steady measurement for the engine: a slowdown is good to a few percent.
_N_INTERVALS = 8


@dataclass(frozen=True, slots=True)
class Place:
    """Where the transfers of a tensor go: its channels, their groups (a bit each), and what they cost there."""

    channels: tuple[int, ...]
    groups: int
    service: ServiceTable
    page_bytes: int = 0  # above 0: kept in pages of so many bytes, anywhere
    interleave_bytes: int = 0

    def run_bytes(self, run_bytes: int) -> int:
        """Contiguous bytes on one channel of a run of `run_bytes`: a portion, or its share if that is more."""
        if self.page_bytes:
            run_bytes = min(run_bytes, self.page_bytes)
        if not self.interleave_bytes:
            return run_bytes
        return max(min(run_bytes, self.interleave_bytes), -(-run_bytes // len(self.channels)))


class PlacedMemory:
    """Channels of one configuration with a placement; cycles of `clock_mhz`. A `MemoryService`.

    `service_cycles` is of a tensor on all channels, `place_of` of one where it lies.
    """

    def __init__(
        self, config_name: str, n_channels: int, clock_mhz: float, placement: Placement | None
    ) -> None:
        self.placement = placement or Placement()
        self.placement.check_channels(n_channels)
        self.whole = service_table(config_name, n_channels, clock_mhz)
        self.config_name = config_name
        self.n_channels = n_channels
        self.clock_mhz = clock_mhz
        self.latency_cycles = self.whole.latency_cycles
        self.peak_bytes_per_cycle = self.whole.peak_bytes_per_cycle
        self.groups = self.placement.groups(n_channels)
        self.slowdowns = slowdowns_of(config_name)
        self._places: dict[tuple[str, Role, bool], Place] = {}

    def service_cycles(self, n_bytes: int, run_bytes: int, is_write: bool, random: bool) -> int:
        return self.whole.service_cycles(n_bytes, run_bytes, is_write, random)

    def place_of(self, tensor: Tensor, gathered: bool) -> Place:
        """Where `tensor` lies; `gathered`: its rows are picked by data."""
        key = tensor.name, tensor.role, gathered
        if key not in self._places:
            kind = kind_of(tensor.role, gathered)
            channels = self.placement.channels_of(tensor.name, kind, self.n_channels)
            own = frozenset(channels)
            self._places[key] = Place(
                channels,
                sum(1 << g for g, group in enumerate(self.groups) if own.issuperset(group)),
                service_table(self.config_name, len(channels), self.clock_mhz),
                self.placement.kv_page_bytes if tensor.role is Role.KV_CACHE else 0,
                self.placement.interleave_bytes,
            )
        return self._places[key]


@dataclass
class Slowdowns:
    """Slowdowns of companies of transfers on one configuration, as far as they were asked for.

    With a `file` also those that earlier processes asked for: a slowdown depends on nothing but the
    configuration and the company, so it is the same whoever finds it.
    """

    config_name: str
    file: Path | None = None
    known: dict[int, int] = field(default_factory=dict)
    table: Ints = field(default_factory=lambda: np.array([[0, UNIT]], dtype=np.int64))  # (n, 2), ascending

    def __post_init__(self) -> None:
        if self.file:
            self._add(read_slowdowns(self.file))

    def alone(self, traffic: int) -> "SteadyMix":
        """The steady state of one transfer of a class after another."""
        from tilewright.sim.dram_contention import Requester, steady_mix

        (one,) = members(1 << COMPANY_BITS * traffic)
        return steady_mix(self.config_name, (Requester(*one),), _N_INTERVALS)

    def learn(self, companies: list[int]) -> None:
        """Find out about `companies`; those in flight together never gain from it."""
        from tilewright.sim.dram_contention import Requester, slowdown

        found = {}
        for company in companies:
            requesters = tuple(Requester(*one) for one in members(company))
            ratio = slowdown(self.config_name, requesters, _N_INTERVALS)
            found[company] = max(UNIT, round(UNIT * ratio))
        if self.file:
            add_slowdowns(self.file, found)
        self._add(found)

    def _add(self, found: dict[int, int]) -> None:
        self.known |= found
        self.table = np.array([(0, UNIT), *sorted(self.known.items())], dtype=np.int64)


@cache
def slowdowns_of(config_name: str) -> Slowdowns:
    """One table for each configuration and process, which begins with what earlier processes have found."""
    return Slowdowns(config_name, slowdown_file(config_name))


@cache
def placed_memory(
    config_name: str, n_channels: int, clock_mhz: float, placement: Placement | None
) -> PlacedMemory:
    """The memory for these arguments, one object in a process. Raises InputError for a placement that it has no
    channels for."""
    return PlacedMemory(config_name, n_channels, clock_mhz, placement)
