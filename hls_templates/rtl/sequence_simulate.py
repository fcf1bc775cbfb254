"""Running a sequenced accelerator in PyRTL against a memory of fixed latency and one beat per cycle."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyrtl

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.program import Direction, Nest, Transfer
from tilewright.hls_templates.rtl.datapath import accelerator
from tilewright.hls_templates.rtl.netlist import build_netlist
from tilewright.hls_templates.rtl.order import Matrix, pack, unpack
from tilewright.hls_templates.rtl.sequence import Sequence, tile_beats, tile_sizes, unit_of
from tilewright.hls_templates.rtl.wires import fresh_block

#: Cycles without a beat at the port after which a run counts as stuck, beyond those that its products take.
_PATIENCE = 100_000


@dataclass(frozen=True)
class SequenceRun:
    """What a program stored, by tensor, and its cycles from `start` to `done`, both counted."""

    results: Mapping[str, Matrix]
    n_cycles: int
    n_beats: int


class SequenceSimulator:
    """A sequenced accelerator in PyRTL's FastSimulation; programs may follow each other on it."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        netlist = accelerator(sequence)
        with fresh_block() as block:
            wires = {name: pyrtl.Input(bits, name) for name, bits in netlist.inputs.items()}
            widths = netlist.widths()
            for name, wire in build_netlist(netlist, wires).items():
                output = pyrtl.Output(widths[netlist.outputs[name]], name)
                output <<= wire
            self._simulation = pyrtl.FastSimulation(tracer=None, block=block)

    def run(self, tensors: Mapping[str, Matrix], latency_cycles: int) -> SequenceRun:
        """One run over the matrices that the program loads, by name of their tensors.

        Raises InputError for a latency below 1, a matrix that is missing or has the wrong shape, and for a
        program that does not come to its end.
        """
        check_latency(latency_cycles)
        memory = memory_image(self.sequence, tensors)
        answers: deque[tuple[int, int, int]] = deque()
        step, inspect = self._simulation.step, self._simulation.inspect
        n_beats = last_cycle = cycle = 0
        while cycle - last_cycle < _PATIENCE:
            there = bool(answers) and answers[0][0] == cycle
            _, is_write, data = answers.popleft() if there else (0, 0, 0)
            step({
                "start": int(cycle == 0), "answer": int(there), "answer_is_write": is_write, "answer_data": data,
            })  # fmt: skip
            if inspect("valid"):
                address, writes = inspect("address"), inspect("is_write")
                answers.append((cycle + latency_cycles, writes, memory[address]))
                if writes:
                    memory[address] = inspect("data")
                n_beats, last_cycle = n_beats + 1, cycle
            cycle += 1
            if inspect("done"):
                return SequenceRun(stored(self.sequence, memory), cycle, n_beats)
        raise InputError(f"sequencer: program {self.sequence.program.name!r} is stuck in cycle {last_cycle}")


def check_latency(latency_cycles: int, most: int = 1 << 20) -> None:
    """Raises InputError for a latency that the memory port cannot have."""
    if not 1 <= latency_cycles <= most:
        raise InputError(f"memory port: latency_cycles must be >= 1 and <= {most}, got {latency_cycles}")


def memory_image(sequence: Sequence, tensors: Mapping[str, Matrix]) -> list[int]:
    """Beats of the memory with the tensors that are loaded in it."""
    memory = [0] * sequence.memory_beats
    for tensor in sequence.program.tensors:
        nest = sequence.transfer(tensor.name)
        assert isinstance(nest.leaf, Transfer)
        if nest.leaf.direction is Direction.STORE:
            continue
        if tensor.name not in tensors:
            raise InputError(f"sequencer: tensor {tensor.name!r} is missing")
        matrix = tensors[tensor.name]
        if matrix.shape != _shape(nest):
            raise InputError(f"sequencer: tensor {tensor.name!r} must be {_shape(nest)}, got {matrix.shape}")
        for (rows, columns), address in _tile_places(sequence, nest):
            beats = _loaded(sequence, nest, matrix[rows, columns])
            memory[address : address + len(beats)] = beats
    return memory


def _shape(nest: Nest) -> tuple[int, ...]:
    assert isinstance(nest.leaf, Transfer)
    extents = {loop.rank: loop.extent for loop in nest.loops}
    return tuple(extents.get(rank, size) for rank, size in nest.leaf.tile)


def _tile_places(sequence: Sequence, nest: Nest) -> list[tuple[tuple[slice, slice], int]]:
    """(rows and columns, first beat) of every tile of a tensor of two ranks."""
    assert isinstance(nest.leaf, Transfer)
    full = tile_beats(sequence, nest, tile_sizes(nest.leaf, {}))
    (_, height), (_, width) = nest.leaf.tile
    down, across = sequence.tile_grid(nest)
    rows, columns = _shape(nest)
    base = sequence.bases[nest.leaf.tensor]
    return [
        (
            (slice(i * height, min(rows, (i + 1) * height)), slice(j * width, min(columns, (j + 1) * width))),
            base + (i * across + j) * full,
        )
        for i in range(down)
        for j in range(across)
    ]


def _loaded(sequence: Sequence, nest: Nest, block: Matrix) -> list[int]:
    """A tile as the scratchpad takes it: runs of words, a word the elements along a side of the array."""
    grid = sequence.grid
    if sequence.role(nest.writes[0].buffer) == "west":
        side, bits, along = grid.rows, grid.kind.west_bits, block.T
    else:
        side, bits, along = grid.cols, grid.kind.north_bits, block
    words: list[int] = []
    for first in range(0, along.shape[1], side):
        words += pack(along[:, first : first + side], bits)
    banks = sequence.beat_bits // (side * bits)
    words += [0] * (-len(words) % banks)
    return pack(np.array(words, dtype=object).reshape(-1, banks), side * bits)


def stored(sequence: Sequence, memory: list[int]) -> dict[str, Matrix]:
    """The tensors that a program stored, from rows of sums, fold after fold."""
    grid = sequence.grid
    bits = grid.kind.pe.sum_bits
    found = {}
    for nest in sequence.of_unit("dma_out"):
        assert isinstance(nest.leaf, Transfer)
        result = np.zeros(_shape(nest), dtype=np.int64)
        for (rows, columns), address in _tile_places(sequence, nest):
            for row, column in _order(sequence, nest, rows, columns):
                result[row, column : column + grid.cols] = unpack(memory[address], bits, grid.cols)
                address += 1
        found[nest.leaf.tensor] = (result << (64 - bits)) >> (64 - bits)
    return found


def _order(sequence: Sequence, nest: Nest, rows: slice, columns: slice) -> list[tuple[int, int]]:
    """Row and first column of the words of a tile: fold after fold of the array, or column words of the vector unit."""
    grid = sequence.grid
    across = range(columns.start, columns.stop, grid.cols)
    if unit_of(sequence.writer[nest.reads[0].buffer]) == "vector":
        return [(row, column) for column in across for row in range(rows.start, rows.stop)]
    down = range(rows.start, rows.stop, grid.rows)
    return [(row, column) for top in down for column in across for row in range(top, top + grid.rows)]
