"""Leaves that go on with a tile of their result: engine and actions count the same bits through the ports."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sequential_cases import architecture, gemm_graph
from tilewright.dataflow.program import Compute, Loop, Nest, Port, Unit, VectorWork
from tilewright.sim.actions import count_actions
from tilewright.sim.architecture import Architecture, BufferMemory
from tilewright.sim.continuation import continuations, reduced_ranks, starting_loops
from tilewright.sim.engine import FixedBandwidth, compile_program, run
from tilewright.sim.evaluate import run_layer
from tilewright.sim.sequential import Sequential

RESULT = Port("result", 1, (("m", 4),))


def nest(*loops: Loop, writes: tuple[Port, ...] = (RESULT,)) -> Nest:
    leaf = Compute(Unit.VECTOR, ("sum",), (("m", 4), ("n", 5)), functions=(VectorWork("sum", ()),))
    return Nest("sum", "vector", loops, leaf, (), writes)


def test_a_loop_inside_the_token_that_the_result_lacks_is_a_reduction() -> None:
    rows, columns, single = Loop("m", 12, 4), Loop("n", 20, 5), Loop("n", 5, 5)
    assert reduced_ranks(nest(rows, columns), RESULT) == {"n"}
    assert reduced_ranks(nest(rows, single), RESULT) == set()  # nothing to go on with
    assert reduced_ranks(nest(columns, rows), replace(RESULT, depth=2)) == set()  # handed on every time


def test_results_with_different_reductions_go_on_by_themselves() -> None:
    """The row sums go on along n, the state along both loops."""
    state = Port("state", 0, ())
    both = nest(Loop("m", 12, 4), Loop("n", 20, 5), writes=(RESULT, state))
    assert continuations(both) == (frozenset({"n"}), frozenset({"m", "n"}))


def test_the_leaves_that_begin_are_those_of_the_first_iterations() -> None:
    loops = (Loop("m", 12, 4), Loop("n", 20, 5))
    assert starting_loops(loops, frozenset({"n"})) == (Loop("n", 5, 5), Loop("m", 12, 4))
    assert starting_loops(loops, frozenset()) is loops


def narrow(built: Architecture, **port_bits: int) -> Architecture:
    """The same hardware with one bank of so many bits in the named memories, and wide ports elsewhere."""
    components = tuple(
        replace(part, banks=1, port_bits=port_bits.get(part.name, 1 << 20))
        if isinstance(part, BufferMemory)
        else part
        for part in built.components
    )
    return replace(built, components=components)


@given(m=st.integers(1, 10), n=st.integers(1, 10), k=st.integers(40, 400),
       kind=st.sampled_from(("output", "weight", "input")), kib=st.sampled_from((16, 256)))  # fmt: skip
def test_an_array_at_a_narrow_port_takes_the_time_of_the_bits_it_is_charged(
    m: int, n: int, k: int, kind: str, kib: int
) -> None:
    """Full folds of 4 x 4 sums, 512 bits at one bit a cycle, while the array takes at most 412 for them."""
    built = architecture(rows=4, cols=4, stationarity=kind, input_buffer_kib=kib, weight_buffer_kib=kib)
    found = run_layer(gemm_graph(4 * m, 4 * n, k, "int32"), narrow(built, output_buffer=1))
    (product,) = (one for one in found.counts.nests if one.macs)
    moved = {name: read + written for name, read, written in product.buffer_bits}
    assert dict(found.timing.busy_cycles)["array"] == moved["output_buffer"]


@pytest.mark.parametrize("fast_forward", [True, False])
def test_the_first_of_four_steps_along_k_reads_no_sums(fast_forward: bool) -> None:
    """16 x 16 sums of 32 bits, k in 4 tiles on a port of 64 bits: 4 writes and 3 reads of 128 cycles each."""
    built = narrow(architecture(rows=16, cols=16), output_buffer=64)
    program = Sequential().schedule(gemm_graph(16, 16, 64), built)
    (stage,) = program.stages
    nests = []
    for one in stage.nests:
        loops = tuple(replace(loop, tile=16) if loop.rank == "k" else loop for loop in one.loops)
        leaf = replace(one.leaf, tile=tuple((r, 16 if r == "k" else size) for r, size in one.leaf.tile))
        nests.append(replace(one, loops=loops, leaf=leaf))
    program = replace(program, stages=(replace(stage, nests=tuple(nests)),))
    timing = run(compile_program(program, built, FixedBandwidth(64, 10)), fast_forward)
    assert dict(timing.busy_cycles)["array"] == (4 + 3) * 128
    (product,) = (one for one in count_actions(program, built).nests if one.macs)
    moved = {name: (read, written) for name, read, written in product.buffer_bits}
    assert moved["output_buffer"] == (3 * 16 * 16 * 32, 4 * 16 * 16 * 32)
