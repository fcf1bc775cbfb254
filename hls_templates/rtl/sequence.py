"""What a sequencer is built from: a program's nests and buffers checked and put into the numbers of the hardware.

A program fits if every matrix leaf is C[m, n] += A[m, k] B[k, n] of one rank each, whole words of the array's rows
along m and columns along n (a last tile may be smaller, by whole words), A and B loaded tile by tile, a buffer's
readers in one stage with its writer, and no loop limited by another. B may also be sums that an earlier product
wrote (the low-rank path): they are rounded to eight bits on the way, by `requantise_shift`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import Literal

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.program import Buffer, Compute, Direction, Loop, Nest, Program, Transfer, Unit
from tilewright.hls_templates.rtl.control import Grid
from tilewright.hls_templates.rtl.scratchpad import Reader, Scratchpad
from tilewright.hls_templates.rtl.wires import counter_bits

UnitName = Literal["array", "vector", "dma_in", "dma_out"]


@dataclass(frozen=True)
class Sequence:
    """A program on one array, a loading and a storing engine, and one memory port of `beat_bits`."""

    program: Program
    grid: Grid
    setup_cycles: int
    requantise_shift: int = 0
    score_scale: tuple[int, int] = (1 << 16, 8)

    def __post_init__(self) -> None:
        _check(self)

    @property
    def beat_bits(self) -> int:
        """A beat is a row of sums."""
        return self.grid.cols * self.grid.kind.pe.sum_bits

    @cached_property
    def nests(self) -> tuple[Nest, ...]:
        return self.program.nests

    @cached_property
    def units(self) -> tuple[UnitName, ...]:
        """Those that the program uses."""
        known: tuple[UnitName, ...] = ("array", "vector", "dma_in", "dma_out")
        return tuple(unit for unit in known if self.of_unit(unit))

    def of_unit(self, unit: UnitName) -> tuple[Nest, ...]:
        """The nests whose leaves a unit runs, in program order."""
        return tuple(nest for nest in self.nests if unit_of(nest) == unit)

    @cached_property
    def writer(self) -> Mapping[str, Nest]:
        """Of every buffer."""
        return {port.buffer: nest for nest in self.nests for port in nest.writes}

    @cached_property
    def readers(self) -> Mapping[str, tuple[Nest, ...]]:
        """Of every buffer, in program order."""
        return {
            buffer.name: tuple(
                nest for nest in self.nests if any(port.buffer == buffer.name for port in nest.reads)
            )
            for buffer in self.program.buffers
        }

    def holds_sums(self, buffer: str) -> bool:
        return unit_of(self.writer[buffer]) == "array"

    def is_turned(self, buffer: str) -> bool:
        """Whether the sums in it are the north of a later product."""
        return self.holds_sums(buffer) and self.role(buffer) in ("north", "lanes")

    def role(self, buffer: str) -> str:
        """How it is read: "west", "north", "base" (sums to go on with), "lanes" or "store"."""
        (role,) = {self._role(nest, buffer) for nest in self.readers[buffer]}
        return role

    @staticmethod
    def _role(nest: Nest, buffer: str) -> str:
        if unit_of(nest) == "dma_out":
            return "store"
        if unit_of(nest) == "vector":
            return "lanes"
        return ("west", "north", "base")[[port.buffer for port in nest.reads].index(buffer)]

    def word_bits(self, buffer: str) -> int:
        if self.holds_sums(buffer):
            return self.beat_bits
        if unit_of(self.writer[buffer]) == "vector":
            return self.grid.cols * self.program.buffer_by_name[buffer].element_bits
        kind = self.grid.kind
        if self.role(buffer) == "west":
            return self.grid.rows * kind.west_bits
        return self.grid.cols * kind.north_bits

    @cached_property
    def scratchpads(self) -> tuple[Scratchpad, ...]:
        return tuple(self._scratchpad(buffer) for buffer in self.program.buffers)

    def _scratchpad(self, buffer: Buffer) -> Scratchpad:
        name, word_bits = buffer.name, self.word_bits(buffer.name)
        port = next(port for port in self.writer[name].writes if port.buffer == name)
        elements = prod(size for _, size in port.tile)
        element_bits = self.grid.kind.pe.sum_bits if self.holds_sums(name) else buffer.element_bits
        by_beat = self.beat_bits if unit_of(self.writer[name]) != "vector" else word_bits
        slot_beats = -(-elements * element_bits // by_beat)
        readers = [Reader(self.role(name), tuple(nest.name for nest in self.readers[name]))]
        if self.holds_sums(name) and self.goes_on(self.writer[name]):
            readers.append(Reader("own", (self.writer[name].name,)))
        return Scratchpad(name, buffer.copies, slot_beats, by_beat // word_bits, word_bits, tuple(readers))

    def goes_on(self, nest: Nest) -> bool:
        """Whether the leaves of a matrix nest add to a tile that an earlier one began."""
        leaf = nest.leaf
        assert isinstance(leaf, Compute)
        return any(loop.rank in leaf.k_ranks and loop.trips > 1 for loop in nest.loops)

    def rescales(self, nest: Nest) -> bool:
        """Whether a matrix nest mixes by weights of a running softmax, so that what it goes on with is rescaled."""
        return unit_of(self.writer[nest.reads[1].buffer]) == "vector"

    @cached_property
    def offset_bits(self) -> int:
        """Of a place in a tile, in words and in beats."""
        words = max(pad.slot_beats * pad.banks for pad in self.scratchpads)
        return counter_bits(2 * words + 2 * self.grid.rows)

    @cached_property
    def bases(self) -> Mapping[str, int]:
        """First beat of every tensor in memory, in the program's order."""
        found, place = {}, 0
        for tensor in self.program.tensors:
            found[tensor.name] = place
            leaf = self.transfer(tensor.name)
            place += prod(self.tile_grid(leaf)) * tile_beats(self, leaf, tile_sizes(leaf.leaf, {}))
        return found

    @property
    def memory_beats(self) -> int:
        last = self.transfer(self.program.tensors[-1].name)
        beats = prod(self.tile_grid(last)) * tile_beats(self, last, tile_sizes(last.leaf, {}))
        return self.bases[self.program.tensors[-1].name] + beats

    @property
    def address_bits(self) -> int:
        return counter_bits(self.memory_beats)

    def transfer(self, tensor: str) -> Nest:
        """The nest that moves a tensor."""
        return next(nest for nest in self.nests if _tensor_of(nest) == tensor)

    @staticmethod
    def tile_grid(nest: Nest) -> tuple[int, ...]:
        """Tiles of the nest's tensor along each of its ranks."""
        assert isinstance(nest.leaf, Transfer)
        trips = {loop.rank: loop.trips for loop in nest.loops}
        return tuple(trips.get(rank, 1) for rank, _ in nest.leaf.tile)

    def strides(self, nest: Nest) -> dict[str, int]:
        """Beats from a tile to the next one along each loop: tiles lie one after another, the last rank inside."""
        assert isinstance(nest.leaf, Transfer)
        full = tile_beats(self, nest, tile_sizes(nest.leaf, {}))
        found = dict.fromkeys((loop.rank for loop in nest.loops), 0)
        inside = 1
        for (rank, _), count in zip(reversed(nest.leaf.tile), reversed(self.tile_grid(nest)), strict=True):
            if rank in found:
                found[rank] = inside * full
            inside *= count
        return found


def unit_of(nest: Nest) -> UnitName:
    """The unit that runs a nest's leaves."""
    if isinstance(nest.leaf, Compute):
        return "array" if nest.leaf.unit is Unit.MATRIX else "vector"
    return "dma_in" if nest.leaf.direction is Direction.LOAD else "dma_out"


def _tensor_of(nest: Nest) -> str:
    return nest.leaf.tensor if isinstance(nest.leaf, Transfer) else ""


def tile_sizes(leaf: Compute | Transfer, last: Mapping[str, Loop]) -> dict[str, int]:
    """Elements by rank when the loops in `last` stand in their last tile."""
    return {rank: min(size, last[rank].remainder) if rank in last else size for rank, size in leaf.tile}


def tile_beats(sequence: Sequence, nest: Nest, sizes: Mapping[str, int]) -> int:
    """Beats of a transfer's tile."""
    assert isinstance(nest.leaf, Transfer)
    return -(-prod(sizes.values()) * nest.leaf.element_bits // sequence.beat_bits)


def shapes(nest: Nest) -> list[tuple[tuple[bool, ...], dict[str, int]]]:
    """(which loops stand in their last tile, sizes) for every combination of loops that have a smaller one."""
    ragged = [loop for loop in nest.loops if loop.remainder != loop.tile]
    found = []
    for flags in product((False, True), repeat=len(ragged)):
        last = {loop.rank: loop for loop, flag in zip(ragged, flags, strict=True) if flag}
        found.append((flags, tile_sizes(nest.leaf, last)))
    return found


def _check(sequence: Sequence) -> None:
    grid, program = sequence.grid, sequence.program
    kind = grid.kind
    if kind.stationarity != "output" or kind.pe.is_float or kind.lanes != 1:
        raise InputError("sequencer: it drives an output-stationary array of plain integer PEs")
    if sequence.setup_cycles < 1:
        raise InputError(f"sequencer: setup_cycles must be >= 1, got {sequence.setup_cycles}")
    multiplier, score_shift = sequence.score_scale
    for name, value, least, most in (
        ("requantise_shift", sequence.requantise_shift, 0, kind.pe.sum_bits - 1),
        ("score_scale's multiplier", multiplier, 1, 1 << 24),
        ("score_scale's shift", score_shift, 0, 31),
    ):
        if not least <= value <= most:
            raise InputError(f"sequencer: {name} must be {least} to {most}, got {value}")
    for side, bits in ((grid.rows, kind.west_bits), (grid.cols, kind.north_bits)):
        banks, rest = divmod(sequence.beat_bits, side * bits)
        if rest or banks & (banks - 1):
            raise InputError(
                f"sequencer: a beat of {sequence.beat_bits} bits must be 1, 2, 4 ... words of"
                f" {side} x {bits} bits"
            )
    for nest in program.nests:
        _check_nest(sequence, nest)
    for buffer in program.buffers:
        _check_buffer(sequence, buffer.name)


def _check_nest(sequence: Sequence, nest: Nest) -> None:
    for name in (nest.name, *(port.buffer for port in (*nest.reads, *nest.writes))):
        if not (name.isidentifier() and name.isascii()):
            raise InputError(f"sequencer: {name!r} is no name for a wire")
    for loop in nest.loops:
        if loop.limit is not None:
            raise InputError(f"sequencer: loop {loop.rank!r} of nest {nest.name!r} is limited by another")
    leaf = nest.leaf
    if isinstance(leaf, Transfer):
        return
    if leaf.unit is Unit.VECTOR:
        _check_vector(sequence, nest)
        return
    groups = (leaf.m_ranks, leaf.n_ranks, leaf.k_ranks)
    if any(len(group) != 1 for group in groups) or leaf.batch_ranks:
        raise InputError(f"sequencer: nest {nest.name!r} is no product over one rank m, one n and one k")
    if len(nest.reads) not in (2, 3) or len(nest.writes) != 1:
        raise InputError(f"sequencer: nest {nest.name!r} must read A and B, or also C, and write C")
    for rank, side, what in (
        (leaf.m_ranks[0], sequence.grid.rows, "rows"),
        (leaf.n_ranks[0], sequence.grid.cols, "columns"),
    ):
        for _, sizes in shapes(nest):
            if sizes[rank] % side:
                raise InputError(
                    f"sequencer: nest {nest.name!r}: {rank!r} must be whole words of {side} {what}, got {sizes[rank]}"
                )


def divides(nest: Nest) -> bool:
    """Whether a vector nest divides mixed values by their sums; else it is a running softmax."""
    assert isinstance(nest.leaf, Compute)
    return any(work.function == "reciprocal" for work in nest.leaf.functions)


def _check_vector(sequence: Sequence, nest: Nest) -> None:
    """The two leaves that `rtl.softmax` does, one nest of each in a program."""
    assert isinstance(nest.leaf, Compute)
    kind = sequence.grid.kind
    if (kind.north_bits, kind.pe.sum_bits) != (8, 32):
        raise InputError(
            f"sequencer: weights of an attention have 8 bits and sums 32, the array's north has"
            f" {kind.north_bits} and its sums {kind.pe.sum_bits}"
        )
    found = tuple((work.function, work.ranks, work.evaluations) for work in nest.leaf.functions)
    if len(nest.reads) == len(nest.writes) == 1 and len(nest.leaf.tile) == 2:
        rows, columns = (rank for rank, _ in nest.leaf.tile)
        softmax = (("max", (rows, columns), 1), ("exp", (columns,), 1), ("sub_exp", (rows, columns), 1))
        division = (("reciprocal", (columns,), 1), ("mul", (rows, columns), 1))
        if found in (softmax, division):
            if [divides(other) for other in sequence.of_unit("vector")] != [False, True]:
                raise InputError("sequencer: a program has one softmax and one division after it, or none")
            return
    raise InputError(
        f"sequencer: vector nest {nest.name!r} must be max, exp, sub_exp of a tile or reciprocal, mul,"
        f" got {', '.join(work.function for work in nest.leaf.functions)}"
    )


def _check_buffer(sequence: Sequence, buffer: str) -> None:
    writers = [nest for nest in sequence.nests if any(port.buffer == buffer for port in nest.writes)]
    readers = sequence.readers[buffer]
    if len(writers) != 1 or not readers:
        raise InputError(
            f"sequencer: buffer {buffer!r} must have one writer and a reader, got {len(writers)}"
        )
    if len({sequence._role(nest, buffer) for nest in readers}) != 1:
        raise InputError(f"sequencer: buffer {buffer!r} is read in two ways")
    role = sequence.role(buffer)
    takes = {
        "array": ("north", "base", "store", "lanes"), "vector": ("north", "store"), "dma_in": ("west", "north"),
        "dma_out": (),
    }[unit_of(writers[0])]  # fmt: skip
    if role not in takes:
        raise InputError(
            f"sequencer: buffer {buffer!r}: nest {writers[0].name!r} cannot fill what is read as {role}"
        )
