"""Hardware as a value: components, clocks, and which component serves which slot of a program."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeVar

from tilewright.sim.placement import Placement

Stationarity = Literal["output", "weight", "input"]
Arithmetic = Literal["mac", "packed_mac", "ternary_add", "shift_add", "lookup", "analog"]
Discipline = Literal["systolic", "preloaded", "thread_blocks", "multicast"]
MemoryKind = Literal["register", "lutram", "bram", "uram", "sram"]


@dataclass(frozen=True, slots=True)
class MatrixArray:
    """`count` arrays of rows x cols PEs that work on one leaf together (split along n, then m).

    `discipline` says how a leaf runs: through our own skewed array ("systolic"), with weights preloaded under
    the block before ("preloaded", `sim.preloaded_array`), as tiles of outputs that `count` multiprocessors take in
    waves ("thread_blocks"), or without skew through PEs that evaluate functions too ("multicast"). Of the
    last two the schedule states the cycles (`Compute.cycles`); a multicast leaf without takes folds x beats.
    """

    name: str
    rows: int
    cols: int
    stationarity: Stationarity
    operand_bits: tuple[int, int]  # weights, activations
    accumulator_bits: int
    arithmetic: Arithmetic = "mac"
    count: int = 1
    drain_overlap: bool = False  # drain of one tile under the fill of the next
    clock_mhz: float | None = None  # None: the architecture's clock
    pe_cycles: tuple[int, int] = (0, 1)  # a product before its addition, an addition (`sim.arrays`)
    discipline: Discipline = "systolic"
    issue_cycles: float = 0.0  # of a preloaded array: at least so long from one step to the next

    @property
    def macs_per_cycle(self) -> int:
        return self.rows * self.cols * self.count


@dataclass(frozen=True, slots=True)
class VectorUnit:
    """`lanes` lanes; `cycles_per_evaluation` by function name, 1 for those not named."""

    name: str
    lanes: int
    element_bits: int
    cycles_per_evaluation: tuple[tuple[str, int], ...] = ()
    startup_cycles: int = 8
    clock_mhz: float | None = None


@dataclass(frozen=True, slots=True)
class BufferMemory:
    """On-chip memory: `capacity_bytes` in `banks` banks, each with a port of `port_bits` per cycle.

    `ports` reach a bank at once; more than one cost area and energy, while times go by one.
    """

    name: str
    capacity_bytes: int
    banks: int
    port_bits: int
    kind: MemoryKind
    ports: int = 1


@dataclass(frozen=True, slots=True)
class Fifo:
    name: str
    depth: int
    width_bits: int


@dataclass(frozen=True, slots=True)
class Dma:
    """`channels` engines that issue bursts of `burst_bytes`, `max_outstanding` in flight each."""

    name: str
    channels: int
    bytes_per_cycle: int  # of one channel, on-chip side
    burst_bytes: int
    max_outstanding: int
    setup_cycles: int = 16


@dataclass(frozen=True, slots=True)
class Noc:
    name: str
    hops: int
    link_bytes_per_cycle: int
    multicast: bool


@dataclass(frozen=True, slots=True)
class MemoryRate:
    """A memory by two figures in place of a bank model, in cycles of the architecture's clock."""

    bytes_per_cycle: float  # the peak
    latency_cycles: int
    efficiency: float = 1.0  # share of the peak that streams reach


@dataclass(frozen=True, slots=True)
class Dram:
    """`channels` channels of the memory configuration `config` (a name that `sim.memory` knows).

    With `rate` they are served at that rate, and `config` only names the standard. `placement` says which
    channels hold what (None: every tensor over all of them).
    """

    name: str
    config: str
    channels: int
    rate: MemoryRate | None = None
    placement: Placement | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A connection between chips."""

    name: str
    bytes_per_cycle: float
    latency_cycles: int


Component = MatrixArray | VectorUnit | BufferMemory | Fifo | Dma | Noc | Dram | Link
C = TypeVar("C", bound=Component)


class ArchitectureError(ValueError):
    """The architecture is not well formed; the message names the component, limit and value."""


@dataclass(frozen=True)
class Architecture:
    """Components on one device with one default clock.

    `slots` binds the slots that programs name to components: (slot, component name). Several slots
    may name one component, which they then share.
    """

    name: str
    device: str
    clock_mhz: float
    components: tuple[Component, ...]
    slots: tuple[tuple[str, str], ...]
    parameters: tuple[tuple[str, int | float | str | bool], ...] = field(default=())
    chips: int = 1  # equal ones that share every layer; components and programs are of one

    def __post_init__(self) -> None:
        _check(self)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Taken once: architectures are the keys of many tables."""
        return hash(
            (self.name, self.device, self.clock_mhz, self.components, self.slots, self.parameters, self.chips)
        )

    def __getstate__(self) -> dict[str, object]:
        """Without the hash, which another process would compute differently."""
        return {name: value for name, value in self.__dict__.items() if name != "_hash"}

    @cached_property
    def component_by_name(self) -> Mapping[str, Component]:
        return {component.name: component for component in self.components}

    @cached_property
    def component_by_slot(self) -> Mapping[str, Component]:
        return {slot: self.component_by_name[name] for slot, name in self.slots}

    def of_kind(self, kind: type[C]) -> tuple[C, ...]:
        """The components of one kind, in order."""
        return tuple(component for component in self.components if isinstance(component, kind))

    def clock_of(self, component: Component) -> float:
        """The component's own clock in MHz, else the architecture's."""
        own = getattr(component, "clock_mhz", None)
        return self.clock_mhz if own is None else own


_POSITIVE_FIELDS = (
    "rows", "cols", "count", "accumulator_bits", "lanes", "element_bits", "capacity_bytes",
    "banks", "port_bits", "depth", "width_bits", "channels", "bytes_per_cycle", "burst_bytes",
    "max_outstanding", "link_bytes_per_cycle", "ports",
)  # fmt: skip


def _check(architecture: Architecture) -> None:
    names = [component.name for component in architecture.components]
    if len(set(names)) != len(names):
        raise ArchitectureError(f"architecture {architecture.name!r}: a component's name repeats")
    if architecture.chips < 1:
        raise ArchitectureError(f"chips must be >= 1, got {architecture.chips}")
    if not architecture.clock_mhz > 0:
        raise ArchitectureError(f"clock_mhz must be > 0, got {architecture.clock_mhz}")
    for component in architecture.components:
        for name in _POSITIVE_FIELDS:
            value = getattr(component, name, 1)
            if not value > 0:
                raise ArchitectureError(f"{component.name}.{name} must be > 0, got {value}")
        if isinstance(component, MatrixArray) and (component.pe_cycles[0] < 0 or component.pe_cycles[1] < 1):
            raise ArchitectureError(
                f"{component.name}.pe_cycles must be >= 0 and >= 1, got {component.pe_cycles}"
            )
    for slot, name in architecture.slots:
        if name not in names:
            raise ArchitectureError(f"slot {slot!r} is bound to {name!r}, which is no component")
