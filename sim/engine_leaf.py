"""The cost of a nest's leaf for every shape that its remainder tiles give it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod
from typing import Protocol

from tilewright.dataflow.errors import InputError, nearest
from tilewright.dataflow.program import Compute, Direction, Loop, Nest, Port, Program, Transfer, Unit
from tilewright.sim import arrays, preloaded_array, vector
from tilewright.sim.architecture import (
    Architecture,
    BufferMemory,
    Component,
    Dma,
    Fifo,
    MatrixArray,
    VectorUnit,
)
from tilewright.sim.continuation import continuations, reduced_ranks
from tilewright.sim.placed_memory import Place, PlacedMemory
from tilewright.sim.traffic import traffic_class


class MemoryService(Protocol):
    """What the engine asks of a DRAM: cycles of the architecture's clock for one transfer."""

    @property
    def latency_cycles(self) -> int: ...

    def service_cycles(self, n_bytes: int, run_bytes: int, is_write: bool, random: bool) -> int:
        """Cycles, at least 1, that the DRAM is occupied by `n_bytes` in contiguous runs of `run_bytes`."""
        ...


@dataclass(frozen=True, slots=True)
class FixedBandwidth:
    """A memory that serves every access pattern at the same bandwidth."""

    bytes_per_cycle: int
    latency_cycles: int

    def service_cycles(self, n_bytes: int, run_bytes: int, is_write: bool, random: bool) -> int:
        return max(1, -(-n_bytes // self.bytes_per_cycle))


@dataclass(frozen=True, slots=True)
class LeafCost:
    """`own_cycles` on the nest's resource when nothing competes, `service_cycles` of them on the DRAM.

    A transfer reaches the DRAM `setup_cycles` after it was given its channel, lies on `groups` of the memory's
    channels (a bit each) and is of a class of `traffic`. Computations have no service.
    """

    own_cycles: int
    service_cycles: int = 0
    setup_cycles: int = 0
    groups: int = 1
    traffic: int = 0


@dataclass(frozen=True)
class LeafPricer:
    """Prices leaves of one program on one architecture."""

    program: Program
    architecture: Architecture
    memory: MemoryService

    def component(self, nest: Nest) -> MatrixArray | VectorUnit | Dma:
        """What the nest's leaves occupy.

        Raises InputError for a slot that is not bound, or is bound to a component that cannot do the leaf.
        """
        component = self._bound(nest.slot, f"nest {nest.name!r}")
        needed: type[MatrixArray | VectorUnit | Dma] = Dma
        if isinstance(nest.leaf, Compute):
            needed = MatrixArray if nest.leaf.unit is Unit.MATRIX else VectorUnit
            if nest.leaf.cycles is not None and isinstance(component, MatrixArray):
                return component  # its PEs evaluate functions too; how fast, the schedule says
        if not isinstance(component, needed):
            raise InputError(
                f"nest {nest.name!r}: slot {nest.slot!r} must be bound to a {needed.__name__},"
                f" it is bound to {component.name!r}, a {type(component).__name__}"
            )
        return component

    def _bound(self, slot: str, what: str) -> Component:
        by_slot = self.architecture.component_by_slot
        if slot not in by_slot:
            raise InputError(
                f"{what}: slot {slot!r} is not bound in architecture {self.architecture.name!r}"
                f"{nearest(slot, list(by_slot))}"
            )
        return by_slot[slot]

    def costs(self, nest: Nest, loops: tuple[Loop, ...]) -> list[LeafCost]:
        """One cost per combination of last tiles of `loops`, those of the nest that have a remainder.

        The index of a combination has bit i set where `loops[i]` stands in its last tile, and above those a bit
        for each of the nest's `continuations` whose tiles the leaf goes on with.
        """
        component = self.component(nest)
        going = continuations(nest)
        found = []
        for index in range(1 << (len(loops) + len(going))):
            last = {loop.rank: loop for i, loop in enumerate(loops) if index >> i & 1}
            begun = {ranks for i, ranks in enumerate(going, len(loops)) if index >> i & 1}
            found.append(self._cost(nest, component, last, begun))
        return found

    def _cost(
        self,
        nest: Nest,
        component: MatrixArray | VectorUnit | Dma,
        last: Mapping[str, Loop],
        begun: Collection[frozenset[str]],
    ) -> LeafCost:
        leaf = nest.leaf
        tile = {rank: shrunk(rank, elements, last) for rank, elements in leaf.tile}
        if isinstance(leaf, Compute) and leaf.cycles is not None:
            return LeafCost(max(1, ceil(leaf.cycles * _share(leaf, tile))))
        if isinstance(leaf, Transfer):
            assert isinstance(component, Dma)
            return self._transfer_cost(nest, leaf, component, tile)
        if isinstance(component, MatrixArray):
            m, n, k, batch = matrix_sizes(leaf, tile)
            cycles = matrix_cycles(component, leaf, tile)
            streams = [batch * elements for elements in arrays.streamed_elements(component, m, n, k)]
            begins = not any(reduced_ranks(nest, port) in begun for port in nest.writes[:1])
            traffic = _matrix_traffic(nest, streams, batch * m * n, begins)
        else:
            assert isinstance(component, VectorUnit)
            cycles = vector.leaf_cycles(component, leaf.functions, tile)
            traffic = [(port, _touched(port, tile)) for port in (*nest.reads, *nest.writes)]
            traffic += [
                (port, _touched(port, tile)) for port in nest.writes if reduced_ranks(nest, port) in begun
            ]
        own_khz = round(self.architecture.clock_of(component) * 1000)
        cycles = -(-cycles * round(self.architecture.clock_mhz * 1000) // own_khz)
        return LeafCost(max(1, cycles, self._port_cycles(nest, traffic)))

    def _transfer_cost(self, nest: Nest, leaf: Transfer, dma: Dma, tile: Mapping[str, int]) -> LeafCost:
        """A channel keeps `max_outstanding` bursts in flight, so it pays the latency once per such window."""
        if leaf.pace is not None:
            share = _share(leaf, tile)
            stream = ceil(leaf.pace.channel_cycles * share)
            service = max(1, ceil(leaf.pace.memory_cycles * share))
            own = dma.setup_cycles + self.memory.latency_cycles + stream
            return LeafCost(own, service, dma.setup_cycles, *self._lane(leaf, 1))
        n_bytes = -(-prod(tile.values()) * leaf.element_bits // 8)
        run_bytes = -(-_run_elements(leaf, tile) * leaf.element_bits // 8)
        service_of, random = self.memory.service_cycles, leaf.random
        if place := self.place(leaf):
            run_bytes = place.run_bytes(run_bytes)
            service_of, random = place.service.service_cycles, leaf.random or place.page_bytes > 0
        n_bursts = -(-n_bytes // run_bytes) * -(-run_bytes // dma.burst_bytes)
        n_windows = -(-n_bursts // dma.max_outstanding)
        traffic = [(port, _touched(port, tile)) for port in (*nest.reads, *nest.writes)]
        latency_cycles = self.memory.latency_cycles
        stream_cycles = max(
            -(-n_bytes // dma.bytes_per_cycle),
            (n_windows - 1) * latency_cycles,
            self._port_cycles(nest, traffic),
        )
        service_cycles = service_of(n_bytes, run_bytes, leaf.direction is Direction.STORE, random)
        own_cycles = dma.setup_cycles + latency_cycles + stream_cycles
        return LeafCost(own_cycles, service_cycles, dma.setup_cycles, *self._lane(leaf, run_bytes))

    def place(self, leaf: Transfer) -> Place | None:
        """Where the tensor of a transfer lies; None in a memory that knows no places."""
        if not isinstance(self.memory, PlacedMemory):
            return None
        tensor = self.program.tensor_by_name[leaf.tensor]
        return self.memory.place_of(tensor, leaf.tensor in self._gathered)

    @cached_property
    def _gathered(self) -> frozenset[str]:
        """Tensors whose rows the data picks."""
        leaves = [nest.leaf for nest in self.program.nests]
        return frozenset(leaf.tensor for leaf in leaves if isinstance(leaf, Transfer) and leaf.random)

    def _lane(self, leaf: Transfer, run_bytes: int) -> tuple[int, int]:
        """Groups of channels and class of traffic of a transfer."""
        place = self.place(leaf)
        if place is None:
            return 1, 0
        random = leaf.random or place.page_bytes > 0
        return place.groups, traffic_class(run_bytes, leaf.direction is Direction.STORE, random)

    def _port_cycles(self, nest: Nest, traffic: list[tuple[Port, int]]) -> int:
        """Cycles to move `traffic` (port, elements) through the ports of the memories behind the buffers."""
        bits: dict[tuple[str, int], int] = {}
        for port, elements in traffic:
            buffer = self.program.buffer_by_name[port.buffer]
            memory = self._bound(buffer.slot, f"buffer {buffer.name!r} of nest {nest.name!r}")
            if isinstance(memory, BufferMemory):
                key = memory.name, memory.banks * memory.port_bits
            elif isinstance(memory, Fifo):
                key = memory.name, memory.width_bits
            else:
                raise InputError(
                    f"buffer {buffer.name!r}: slot {buffer.slot!r} must be bound to a BufferMemory or a Fifo,"
                    f" it is bound to {memory.name!r}, a {type(memory).__name__}"
                )
            bits[key] = bits.get(key, 0) + elements * buffer.element_bits
        return max((-(-total // width) for (_, width), total in bits.items()), default=0)


def _share(leaf: Compute | Transfer, tile: Mapping[str, int]) -> float:
    """Elements of a tile over those of the leaf's full one."""
    return prod(tile.values()) / prod(elements for _, elements in leaf.tile)


def shrunk(rank: str, elements: int, last: Mapping[str, Loop]) -> int:
    """Elements along `rank` of a tile of `elements` when the loops in `last` stand in their last tile."""
    loop = last.get(rank)
    if loop is None:
        return elements
    if elements < loop.tile:
        return min(elements, loop.remainder)
    return elements - loop.tile + loop.remainder  # what a window adds to the loop's own tile stays


def matrix_sizes(leaf: Compute, tile: Mapping[str, int]) -> tuple[int, int, int, int]:
    """(m, n, k, batch) of a matrix leaf: the products over its groups of ranks."""
    groups = (leaf.m_ranks, leaf.n_ranks, leaf.k_ranks, leaf.batch_ranks)
    m, n, k, batch = (prod(tile[rank] for rank in group) for group in groups)
    return m, n, k, batch


def matrix_cycles(array: MatrixArray, leaf: Compute, tile: Mapping[str, int]) -> int:
    """Cycles of a matrix leaf over `tile` in the array's own clock, by the array's discipline."""
    m, n, k, batch = matrix_sizes(leaf, tile)
    if array.discipline == "preloaded":
        groups = (leaf.m_ranks, leaf.n_ranks, leaf.k_ranks)
        return batch * preloaded_array.leaf_cycles(
            array, *(tuple(tile[rank] for rank in group) for group in groups)
        )
    if array.discipline == "multicast":
        n_folds, n_beats = arrays.folds_and_beats(m, n, k, array.rows, array.cols, array.stationarity)
        return batch * n_folds * n_beats
    return arrays.leaf_cycles(array, m, n, k, batch)


def _matrix_traffic(
    nest: Nest, streams: Sequence[int], c_elements: int, begins: bool
) -> list[tuple[Port, int]]:
    """Elements through every port: what A, B and C stream, and the tile of C that a leaf goes on with."""
    a, b, c = streams
    traffic = [*zip(nest.reads, (a, b), strict=False), *((port, c) for port in nest.writes)]
    gone_on = nest.reads[2:3] if begins else nest.writes[:1]
    return [*traffic, *((port, c_elements) for port in gone_on)]


def _touched(port: Port, tile: Mapping[str, int]) -> int:
    """Elements of the port's tile that a leaf over `tile` touches."""
    return prod(min(elements, tile.get(rank, elements)) for rank, elements in port.tile)


def _run_elements(leaf: Transfer, tile: Mapping[str, int]) -> int:
    """Contiguous elements of a shrunk tile: the product of the innermost ranks that a full run covers."""
    full, run = 1, 1
    for rank, elements in reversed(leaf.tile):
        if full >= leaf.run_elements:
            break
        full *= elements
        run *= tile[rank]
    return max(1, min(run, leaf.run_elements))
