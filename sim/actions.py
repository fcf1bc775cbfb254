"""Actions of a program, counted in closed form: MACs, buffer bits, vector evaluations, DRAM bytes.

What an array reads from its buffers follows from its stationarity. A leaf is C[m, n] += A[m, k] B[k, n] and a
fold is one filling of the array; `count` arrays share a leaf as `sim.arrays.shares` cuts it, and a tile that
several of them need is read once and multicast.

| stationarity | array holds | A is read | B is read | C is written | C is read back |
|---|---|---|---|---|---|
| output | m x n | once per n fold | once per m fold | once | never within a leaf |
| weight | k x n | once per n fold | once | once per k fold | once per k fold after the first |
| input  | k x m | once | once per m fold | once per k fold | once per k fold after the first |

A leaf that goes on with an output tile reads it once more; which leaves do is the rule of `sim.continuation`,
which the engine's port times follow too. A vector leaf reads, of every tile that it is given, the part that its
loops point at, and writes likewise. What moves between PEs is no action of its own: `sim.energy` folds it into
the MAC.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TypeVar

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.program import (
    Compute,
    Direction,
    Loop,
    Nest,
    Port,
    Program,
    Transfer,
    Unit,
)
from tilewright.sim.architecture import Architecture, Component, MatrixArray, VectorUnit
from tilewright.sim.arrays import entries
from tilewright.sim.continuation import reduced_ranks, starting_loops
from tilewright.sim.trips import tile_classes, total_elements

Key = TypeVar("Key")
OperandBits = tuple[int, int, int]  # weights, activations, accumulator


@dataclass(frozen=True, slots=True)
class NestCounts:
    """Actions of one nest over all its leaves, in one run of the program.

    `buffer_bits` are (memory component, bits read, bits written), `evaluations` (function, how often). `work`
    is what keeps the slot busy: MACs, evaluations or bytes.
    """

    nest: str
    stage: str
    slot: str
    component: str
    macs: int = 0
    mac_bits: OperandBits = (8, 8, 32)
    evaluations: tuple[tuple[str, int], ...] = ()
    buffer_bits: tuple[tuple[str, int, int], ...] = ()
    tensor: str = ""
    dram_read_bytes: int = 0
    dram_write_bytes: int = 0
    dram_run_bytes: int = 0  # contiguous bytes of a transfer; 0: not known, priced without activations
    dram_random: bool = False

    @property
    def work(self) -> int:
        if self.tensor:
            return self.dram_read_bytes + self.dram_write_bytes
        return self.macs or sum(count for _, count in self.evaluations)


@dataclass(frozen=True)
class ActionCounts:
    """Actions of a program by nest; the rest are sums over the nests."""

    nests: tuple[NestCounts, ...]

    @cached_property
    def macs(self) -> Mapping[tuple[str, OperandBits], int]:
        """MACs by (component, operand widths)."""
        return _summed(((nest.component, nest.mac_bits), nest.macs) for nest in self.nests if nest.macs)

    @cached_property
    def evaluations(self) -> Mapping[tuple[str, str], int]:
        """Vector evaluations by (component, function)."""
        return _summed(
            ((nest.component, function), count) for nest in self.nests for function, count in nest.evaluations
        )

    @cached_property
    def buffer_read_bits(self) -> Mapping[str, int]:
        """Bits read by memory component."""
        return _summed((name, read) for nest in self.nests for name, read, _ in nest.buffer_bits)

    @cached_property
    def buffer_write_bits(self) -> Mapping[str, int]:
        """Bits written by memory component."""
        return _summed((name, write) for nest in self.nests for name, _, write in nest.buffer_bits)

    @cached_property
    def tensor_read_bytes(self) -> Mapping[str, int]:
        """DRAM bytes read by tensor; every transfer is rounded up to whole bytes."""
        return _summed((nest.tensor, nest.dram_read_bytes) for nest in self.nests if nest.dram_read_bytes)

    @cached_property
    def tensor_write_bytes(self) -> Mapping[str, int]:
        """DRAM bytes written by tensor."""
        return _summed((nest.tensor, nest.dram_write_bytes) for nest in self.nests if nest.dram_write_bytes)

    @cached_property
    def work_by_slot(self) -> Mapping[str, int]:
        """MACs, evaluations or bytes that a slot has to serve."""
        return _summed((nest.slot, nest.work) for nest in self.nests)

    @cached_property
    def n_macs(self) -> int:
        return sum(nest.macs for nest in self.nests)

    @cached_property
    def n_evaluations(self) -> int:
        return sum(count for nest in self.nests for _, count in nest.evaluations)

    @cached_property
    def dram_read_bytes(self) -> int:
        return sum(nest.dram_read_bytes for nest in self.nests)

    @cached_property
    def dram_write_bytes(self) -> int:
        return sum(nest.dram_write_bytes for nest in self.nests)


def count_actions(program: Program, architecture: Architecture) -> ActionCounts:
    """Count what one run of `program` does on `architecture`; triangular loops are exact.

    Raises InputError for a slot that the architecture binds to no component.
    """
    slots = architecture.component_by_slot
    memory_of: dict[str, tuple[str, int]] = {}
    for buffer in program.buffers:
        memory_of[buffer.name] = (_component(slots, buffer.slot, buffer.name).name, buffer.element_bits)
    found = []
    for stage in program.stages:
        for nest in stage.nests:
            component = _component(slots, nest.slot, nest.name)
            found.append(_nest_counts(nest, stage.name, component, memory_of))
    return ActionCounts(tuple(found))


def _nest_counts(
    nest: Nest, stage: str, component: Component, memory_of: Mapping[str, tuple[str, int]]
) -> NestCounts:
    leaf = nest.leaf
    traffic = _Traffic(memory_of)
    if isinstance(leaf, Transfer):
        n_bytes = _transfer(nest, leaf, traffic)
        loads = leaf.direction is Direction.LOAD
        return NestCounts(
            nest.name, stage, nest.slot, component.name,
            buffer_bits=traffic.result(), tensor=leaf.tensor,
            dram_read_bytes=n_bytes if loads else 0, dram_write_bytes=0 if loads else n_bytes,
            dram_run_bytes=max(1, leaf.run_elements * leaf.element_bits // 8), dram_random=leaf.random,
        )  # fmt: skip
    if leaf.unit is Unit.MATRIX:
        macs = _matrix(nest, leaf, _array_of(component), traffic)
        return NestCounts(
            nest.name, stage, nest.slot, component.name, macs=macs,
            mac_bits=(*leaf.operand_bits, leaf.accumulator_bits), buffer_bits=traffic.result(),
        )  # fmt: skip
    evaluations = _vector(nest, leaf, traffic)
    return NestCounts(
        nest.name, stage, nest.slot, component.name,
        evaluations=evaluations, buffer_bits=traffic.result(),
    )  # fmt: skip


class _Traffic:
    """Bits read and written by memory component, for one nest."""

    def __init__(self, memory_of: Mapping[str, tuple[str, int]]) -> None:
        self._memory_of = memory_of
        self._bits: dict[str, list[int]] = {}

    def read(self, port: Port, elements: int) -> None:
        name, bits = self._memory_of[port.buffer]
        self._bits.setdefault(name, [0, 0])[0] += elements * bits

    def write(self, port: Port, elements: int) -> None:
        name, bits = self._memory_of[port.buffer]
        self._bits.setdefault(name, [0, 0])[1] += elements * bits

    def result(self) -> tuple[tuple[str, int, int], ...]:
        return tuple((name, read, write) for name, (read, write) in self._bits.items())


def _array_of(component: Component) -> MatrixArray:
    """The array that a matrix leaf runs on; lanes that share an element of A are one row of outputs."""
    if isinstance(component, MatrixArray):
        return component
    lanes = component.lanes if isinstance(component, VectorUnit) else 1
    return MatrixArray(component.name, 1, lanes, "output", (8, 8), 32)


def _transfer(nest: Nest, leaf: Transfer, traffic: _Traffic) -> int:
    """Bytes that cross the DRAM interface; the on-chip side is charged to `traffic`."""
    tile = dict(leaf.tile)
    elements = total_elements(nest.loops, tile)
    if leaf.element_bits % 8:
        n_bytes = sum(
            count * -(-prod(_sizes(tile, shrunk).values()) * leaf.element_bits // 8)
            for count, shrunk in tile_classes(nest.loops, tile.keys())
        )
    else:
        n_bytes = elements * leaf.element_bits // 8
    if leaf.direction is Direction.LOAD:
        for port in nest.writes:
            traffic.write(port, elements)
    else:
        for port in nest.reads:
            traffic.read(port, elements)
    return n_bytes


def _matrix(nest: Nest, leaf: Compute, array: MatrixArray, traffic: _Traffic) -> int:
    """MACs of a matrix nest; operands and results are charged to `traffic`."""
    macs = a_elements = b_elements = c_written = c_points = 0
    for count, b, m, n, k in _gemm_classes(nest.loops, leaf):
        a_times, b_times, c_times = entries(array, m, n, k)
        macs += count * b * m * n * k
        a_elements += count * b * m * k * a_times
        b_elements += count * b * k * n * b_times
        c_written += count * b * m * n * c_times
        c_points += count * b * m * n
    for port, elements in zip(nest.reads, (a_elements, b_elements), strict=False):
        traffic.read(port, elements)
    for port in nest.writes[:1]:
        starts = starting_loops(nest.loops, reduced_ranks(nest, port))
        c_started = (
            c_points
            if starts is nest.loops
            else sum(count * b * m * n for count, b, m, n, _ in _gemm_classes(starts, leaf))
        )
        traffic.write(port, c_written)
        traffic.read(port, c_written - c_started)
        if len(nest.reads) > 2:
            traffic.read(nest.reads[2], c_started)
    return macs


def _gemm_classes(loops: tuple[Loop, ...], leaf: Compute) -> Iterable[tuple[int, int, int, int, int]]:
    """(how many leaves, batch, m, n, k) for every shape of leaf."""
    tile = dict(leaf.tile)
    for count, shrunk in tile_classes(loops, tile.keys()):
        size = _sizes(tile, shrunk)
        yield (
            count,
            prod(size[rank] for rank in leaf.batch_ranks),
            prod(size[rank] for rank in leaf.m_ranks),
            prod(size[rank] for rank in leaf.n_ranks),
            prod(size[rank] for rank in leaf.k_ranks),
        )


def _vector(nest: Nest, leaf: Compute, traffic: _Traffic) -> tuple[tuple[str, int], ...]:
    """Evaluations by function of a vector nest; operands and results are charged to `traffic`."""
    tile = dict(leaf.tile)
    totals: dict[str, int] = {}
    for work in leaf.functions:
        ranks = work.ranks if any(work.ranks) else tuple(tile)
        points = total_elements(nest.loops, {rank: tile[rank] for rank in ranks})
        totals[work.function] = totals.get(work.function, 0) + points * work.evaluations
    for port in nest.reads:
        traffic.read(port, _port_elements(nest.loops, nest.loops, port))
    for port in nest.writes:
        written = _port_elements(nest.loops, nest.loops, port)
        traffic.write(port, written)
        starts = starting_loops(nest.loops, reduced_ranks(nest, port))
        if starts is not nest.loops:
            traffic.read(port, written - _port_elements(nest.loops, starts, port))
    return tuple(totals.items())


def _port_elements(nest_loops: tuple[Loop, ...], loops: tuple[Loop, ...], port: Port) -> int:
    """Elements of the port's tile that all leaves under `loops` touch."""
    tile = dict(port.tile)
    for loop in nest_loops[port.depth :]:
        if loop.rank in tile:
            tile[loop.rank] = min(tile[loop.rank], loop.tile)
    return total_elements(loops, tile)


def _sizes(tile: dict[str, int], shrunk: dict[str, int]) -> dict[str, int]:
    """`tile` with the ranks that a last iteration has made smaller."""
    if not shrunk:
        return tile
    return {rank: min(size, shrunk.get(rank, size)) for rank, size in tile.items()}


def _component(slots: Mapping[str, Component], slot: str, user: str) -> Component:
    if slot not in slots:
        raise InputError(f"{user!r} uses slot {slot!r}, which the architecture binds to no component")
    return slots[slot]


def _summed(pairs: Iterable[tuple[Key, int]]) -> dict[Key, int]:
    totals: dict[Key, int] = {}
    for key, count in pairs:
        totals[key] = totals.get(key, 0) + count
    return totals
