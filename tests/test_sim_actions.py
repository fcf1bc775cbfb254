"""Closed-form counts against stepping through every leaf."""

import time
from collections import Counter
from dataclasses import replace
from math import ceil

import pytest
from hypothesis import given

from tests.strategies import architectures, loop_nests, programs, small_architecture
from tilewright.dataflow.errors import InputError
from tilewright.dataflow.program import (
    Buffer,
    Compute,
    Direction,
    Limit,
    Loop,
    Nest,
    Port,
    Program,
    Stage,
    Transfer,
    Unit,
    VectorWork,
    cut_loops,
)
from tilewright.sim.actions import count_actions
from tilewright.sim.architecture import Architecture, BufferMemory, MatrixArray
from tilewright.sim.trips import floor_sum, tile_classes


def _leaves(loops: tuple[Loop, ...]) -> list[dict[str, tuple[int, int]]]:
    """Every leaf as {rank: (trip, elements)}, in order."""
    if not loops:
        return [{}]
    outer, found = loops[0], []
    for trip in range(outer.trips):
        size = outer.tile if trip < outer.trips - 1 else outer.remainder
        for rest in _leaves(cut_loops(loops[1:], outer, trip)):
            found.append({outer.rank: (trip, size)} | rest)
    return found


@given(loop_nests())
def test_tile_classes_are_the_leaves_by_size(loops: tuple[Loop, ...]) -> None:
    tiles = {loop.rank: loop.tile for loop in loops}
    stepped = Counter(
        tuple(sorted((rank, size) for rank, (_, size) in leaf.items() if size != tiles[rank]))
        for leaf in _leaves(loops)
    )
    closed: Counter[tuple[tuple[str, int], ...]] = Counter()
    for count, shrunk in tile_classes(loops, tiles.keys()):
        closed[tuple(sorted(shrunk.items()))] += count
    assert +closed == stepped


def _array_passes(array: MatrixArray, m: int, n: int, k: int) -> tuple[int, int, int]:
    """Elements of A, B and C that pass the edge of the arrays in one leaf, fold by fold.

    The arrays take whole column widths of n, then whole row heights of m, as evenly as can be; a tile that
    several arrays take at once is read once.
    """
    widths, heights = ceil(n / array.cols), ceil(m / array.rows)
    along_n = min(array.count, widths)
    along_m = min(array.count // along_n, heights)
    part_n = min(n, ceil(widths / along_n) * array.cols)
    part_m = min(m, ceil(heights / along_m) * array.rows)
    a = b = c = 0
    if array.stationarity == "output":
        for _ in range(0, part_n, array.cols):
            a += m * k
        for _ in range(0, part_m, array.rows):
            b += k * n
        return a, b, m * n
    for k_start in range(0, k, array.rows):
        depth = min(array.rows, k - k_start)
        c += m * n
        if array.stationarity == "weight":
            b += depth * n
            for _ in range(0, part_n, array.cols):
                a += m * depth
        else:
            a += m * depth
            for _ in range(0, part_m, array.cols):
                b += depth * n
    return a, b, c


def _stepped(program: Program, architecture: Architecture) -> dict[str, Counter[object]]:
    found: dict[str, Counter[object]] = {
        name: Counter() for name in ("macs", "read", "write", "evaluations", "dram_read", "dram_write")
    }
    array = architecture.of_kind(MatrixArray)[0]
    for nest in program.nests:
        for leaf in _leaves(nest.loops):
            _step(program, nest, leaf, array, found)
    return found


def _step(
    program: Program,
    nest: Nest,
    leaf: dict[str, tuple[int, int]],
    array: MatrixArray,
    found: dict[str, Counter[object]],
) -> None:
    buffers = program.buffer_by_name
    size = {rank: leaf[rank][1] if rank in leaf else full for rank, full in nest.leaf.tile}
    work = nest.leaf
    points = 1
    for elements in size.values():
        points *= elements
    if isinstance(work, Transfer):
        kind = "read" if work.direction is Direction.LOAD else "write"
        found[f"dram_{kind}"][work.tensor] += ceil(points * work.element_bits / 8)
        for port in nest.writes:
            found["write"][buffers[port.buffer].slot] += points * buffers[port.buffer].element_bits
        for port in nest.reads:
            found["read"][buffers[port.buffer].slot] += points * buffers[port.buffer].element_bits
        return
    if work.unit is Unit.VECTOR:
        found["evaluations"]["gelu"] += points
        found["evaluations"]["max"] += 2 * size["m"]
        for port in nest.reads:
            found["read"][buffers[port.buffer].slot] += points * buffers[port.buffer].element_bits
        for port in nest.writes:
            found["write"][buffers[port.buffer].slot] += points * buffers[port.buffer].element_bits
        return
    m, n, k = size["m"], size["n"], size["k"]
    found["macs"]["array"] += m * n * k
    a, b, c = _array_passes(array, m, n, k)
    continues = "k" in leaf and leaf["k"][0] > 0
    for port, elements in zip(nest.reads, (a, b), strict=True):
        found["read"][buffers[port.buffer].slot] += elements * buffers[port.buffer].element_bits
    y = buffers[nest.writes[0].buffer]
    found["write"][y.slot] += c * y.element_bits
    found["read"][y.slot] += (c - (0 if continues else m * n)) * y.element_bits


@given(programs(), architectures())
def test_counts_equal_stepping_through_every_leaf(program: Program, architecture: Architecture) -> None:
    counts = count_actions(program, architecture)
    stepped = _stepped(program, architecture)
    assert {name: n for (name, _), n in _merged(counts.macs).items()} == stepped["macs"]
    assert +Counter(counts.buffer_read_bits) == +stepped["read"]
    assert +Counter(counts.buffer_write_bits) == +stepped["write"]
    assert {name: n for (_, name), n in counts.evaluations.items()} == stepped["evaluations"]
    assert counts.tensor_read_bytes == stepped["dram_read"]
    assert counts.tensor_write_bytes == stepped["dram_write"]
    assert counts.n_macs == stepped["macs"].total()
    assert counts.dram_read_bytes == stepped["dram_read"].total()
    assert counts.work_by_slot["array"] == counts.n_macs
    assert counts.work_by_slot["dma_in"] == counts.dram_read_bytes


def _merged(macs: "object") -> Counter[tuple[str, str]]:
    merged: Counter[tuple[str, str]] = Counter()
    for (component, _), count in macs.items():  # type: ignore[attr-defined]
        merged[component, ""] += count
    return merged


def _gemm_program(m: int, n: int, k: int, loops: tuple[Loop, ...]) -> Program:
    tile = {"m": m, "n": n, "k": k} | {loop.rank: loop.tile for loop in loops}
    leaf = Compute(Unit.MATRIX, ("gemm",), tuple(tile.items()), ("m",), ("n",), ("k",))
    ports = [
        Port(name, 0, tuple((rank, {"m": m, "n": n, "k": k}[rank]) for rank in ranks))
        for name, ranks in (("x", "mk"), ("w", "kn"), ("y", "mn"))
    ]
    nest = Nest("gemm", "array", loops, leaf, tuple(ports[:2]), tuple(ports[2:]))
    buffers = tuple(
        Buffer(name, slot, 1 << 20, 1, 8)
        for name, slot in (("x", "input_buffer"), ("w", "weight_buffer"), ("y", "output_buffer"))
    )
    return Program("gemm", (), buffers, (Stage("gemm", ("gemm",), (nest,)),))


def test_an_output_stationary_fold_reads_each_operand_once_per_fold_of_the_other() -> None:
    # 8 x 6 x 5 on 4 x 3: two folds each way, so A (8 x 5) and B (5 x 6) both enter twice.
    counts = count_actions(_gemm_program(8, 6, 5, ()), small_architecture())
    assert counts.buffer_read_bits == {
        "input_buffer": 2 * 8 * 5 * 8,
        "weight_buffer": 2 * 5 * 6 * 8,
        "output_buffer": 0,
    }
    assert counts.buffer_write_bits["output_buffer"] == 8 * 6 * 8


def test_a_weight_stationary_array_reads_weights_once_and_spills_partial_sums() -> None:
    # k = 5 on 4 rows is two folds: C is written twice and read back once.
    counts = count_actions(_gemm_program(8, 6, 5, ()), small_architecture(stationarity="weight"))
    assert counts.buffer_read_bits == {
        "input_buffer": 2 * 8 * 5 * 8,
        "weight_buffer": 5 * 6 * 8,
        "output_buffer": 8 * 6 * 8,
    }
    assert counts.buffer_write_bits["output_buffer"] == 2 * 8 * 6 * 8


def test_an_input_stationary_array_reads_inputs_once() -> None:
    counts = count_actions(_gemm_program(8, 6, 5, ()), small_architecture(stationarity="input"))
    assert counts.buffer_read_bits["input_buffer"] == 8 * 5 * 8
    assert counts.buffer_read_bits["weight_buffer"] == 3 * 5 * 6 * 8  # m = 8 on 3 columns


def test_two_arrays_share_the_tile_that_both_need() -> None:
    # n = 6 is one fold of two 3-column arrays: A is read once for both.
    counts = count_actions(_gemm_program(4, 6, 5, ()), small_architecture(count=2))
    assert counts.buffer_read_bits["input_buffer"] == 4 * 5 * 8


def test_an_accumulator_tile_given_as_third_read_is_read_once_per_leaf_that_starts_on_it() -> None:
    # k in 2 steps: the first reads the given tile, the second what the first has written.
    program = _gemm_program(4, 3, 10, (Loop("k", 10, 5),))
    nest = program.nests[0]
    given_buffer = Buffer("given", "vector_buffer", 64, 1, 32)
    continued = replace(nest, reads=(*nest.reads, replace(nest.writes[0], buffer="given")))
    stage = replace(program.stages[0], nests=(continued,))
    base = small_architecture()
    extra = BufferMemory("vector_buffer", 1024, 1, 32, "sram")
    design = replace(
        base, components=(*base.components, extra), slots=(*base.slots, ("vector_buffer", "vector_buffer"))
    )
    counts = count_actions(
        replace(program, buffers=(*program.buffers, given_buffer), stages=(stage,)), design
    )
    assert counts.buffer_read_bits["vector_buffer"] == 4 * 3 * 32
    assert counts.buffer_read_bits["output_buffer"] == 4 * 3 * 8
    assert counts.buffer_write_bits["output_buffer"] == 2 * 4 * 3 * 8


def test_a_running_maximum_is_read_back_for_all_but_the_first_tile() -> None:
    # rows of 10 in tiles of 4, three tiles: the maximum of each row is written 3 times and read back twice.
    loops = (Loop("m", 6, 2), Loop("n", 10, 4))
    leaf = Compute(Unit.VECTOR, ("max",), (("m", 2), ("n", 4)), functions=(VectorWork("max", ()),))
    source, result = Port("y", 2, (("m", 2), ("n", 4))), Port("x", 1, (("m", 2),))
    nest = Nest("max", "vector", loops, leaf, (source,), (result,))
    program = replace(_gemm_program(1, 1, 1, ()), stages=(Stage("max", ("max",), (nest,)),))
    counts = count_actions(program, small_architecture())
    assert counts.evaluations == {("vector", "max"): 60}
    assert counts.buffer_read_bits == {"output_buffer": 60 * 8, "input_buffer": 2 * 6 * 8}
    assert counts.buffer_write_bits["input_buffer"] == 3 * 6 * 8


def test_a_million_triangular_iterations_are_counted_at_once() -> None:
    extent = 1_000_000
    loops = (Loop("m", extent, 1), Loop("n", extent, 1, Limit("m", 0)))
    program = _gemm_program(extent, extent, 7, loops)
    start = time.process_time()
    counts = count_actions(program, small_architecture())
    assert time.process_time() - start < 0.1
    assert counts.n_macs == 7 * extent * (extent + 1) // 2


def test_a_slot_without_a_component_is_refused() -> None:
    architecture = small_architecture()
    unbound = Architecture("none", "asic7", 1.0, architecture.components, architecture.slots[1:])
    with pytest.raises(InputError, match="slot 'array'"):
        count_actions(_gemm_program(1, 1, 1, ()), unbound)


@pytest.mark.parametrize(("n", "divisor", "step", "start"), [(0, 1, 0, 0), (5, 3, 2, 1), (9, 2, 7, 0)])
def test_floor_sum_is_the_sum_of_floors(n: int, divisor: int, step: int, start: int) -> None:
    assert floor_sum(n, divisor, step, start) == sum((step * i + start) // divisor for i in range(n))
