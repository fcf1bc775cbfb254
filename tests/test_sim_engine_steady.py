"""Fast-forward changes no figure, finds what it should find, and keeps the cost of long programs down."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_sim_engine import buffer, load, machine, port, program, store, work
from tilewright.dataflow.program import Direction, Limit, Loop, Nest, Port, Program, Transfer
from tilewright.sim.architecture import Architecture
from tilewright.sim.engine import EngineError, FixedBandwidth, Timing, compile_program, run


def both(made: Program, memory: FixedBandwidth, on: Architecture) -> tuple[Timing, Timing]:
    """The timing with and without fast-forward, after checking that they are the same."""
    tasks = compile_program(made, on, memory)
    fast, slow = run(tasks), run(tasks, fast_forward=False)
    assert replace(fast, extrapolated=(), n_simulated=0) == replace(slow, extrapolated=(), n_simulated=0)
    assert slow.extrapolated == ()
    return fast, slow


def fetch(name: str, loops: tuple[Loop, ...], to: Port, rank: str, n_bytes: int) -> Nest:
    leaf = Transfer(Direction.LOAD, "x", ((rank, n_bytes),), 8, n_bytes)
    return Nest(name, "dma_in", loops, leaf, writes=(to,))


def attention(
    n_heads: int,
    m: tuple[int, int],
    n: tuple[int, int],
    points: tuple[int, int, int],
    offset: int = 0,
    ranks: tuple[str, ...] = ("x",) * 5,
) -> tuple[Nest, ...]:
    """A stage of attention's shape: q per row tile, k and v per triangle tile, three steps, a store.

    `m` and `n` are (extent, tile). `ranks` are those that the leaves' tiles are made of, which decides which
    last tiles are smaller.
    """
    outer = (Loop("h", n_heads, 1), Loop("m", *m))
    inner = (*outer, Loop("n", *n, Limit("m", offset)))
    q, k, v, s, p, o = (port(name, depth) for name, depth in zip("qkvspo", (2, 3, 3, 3, 3, 2), strict=True))
    return (
        fetch("load_q", outer, q, "x", 64),
        fetch("load_k", inner, k, ranks[3], 64),
        fetch("load_v", inner, v, ranks[4], 128),
        work("score", inner, points[0], (q, k), (s,), rank=ranks[0]),
        work("exp", inner, points[1], (s,), (p,), rank=ranks[1]),
        work("mix", inner, points[2], (p, v), (o,), rank=ranks[2]),
        store("store", outer, o),
    )


def alone(nests: tuple[Nest, ...], copies: int = 2) -> Program:
    """The program of an attention stage."""
    return program(tuple(buffer(name, copies) for name in "qkvspo"), nests)


@st.composite
def long_programs(draw: st.DrawFn) -> Program:
    """An attention stage, beside it or after it a streaming stage, and a transfer that takes very long."""
    tile, n_tile = draw(st.sampled_from((1, 2, 3, 4))), draw(st.sampled_from((1, 2, 4, 6)))
    points = (draw(st.integers(1, 60)), draw(st.integers(1, 60)), draw(st.integers(1, 60)))
    nests = attention(
        draw(st.integers(1, 6)),
        (draw(st.integers(tile, 90)), tile),
        (draw(st.integers(n_tile, 120)), n_tile),
        points,
        draw(st.sampled_from((0, 0, 5, -7, 40))),
        tuple(draw(st.sampled_from("xmn")) for _ in range(5)),
    )
    rows = draw(st.integers(1, 300))
    loops = (Loop("i", rows, draw(st.integers(1, min(7, rows)))), Loop("j", draw(st.integers(1, 9)), 1))
    depth = draw(st.integers(0, 2))
    after = ("store",) if draw(st.booleans()) else ()
    other = (
        load("fetch", loops[:depth], port("a", depth), n_bytes=draw(st.sampled_from((64, 256))), after=after),
        work("act", loops, draw(st.integers(1, 80)), (port("a", depth),), (port("b", 2),), rank="i"),
        store("put", loops, port("b", 2)),
    )
    far_loops = (Loop("f", draw(st.integers(1, 3)), 1),)
    far = load("far", far_loops, port("c", 1), n_bytes=16384)
    drain = work("drain", far_loops, 4, (port("c", 1),), rank="x")
    copies = draw(st.integers(1, 3))
    buffers = (
        *(buffer(name, copies) for name in "qkvspo"),
        *(buffer(name, draw(st.integers(1, 2))) for name in "abc"),
    )
    return program(buffers, nests, other, (far, drain))


@settings(max_examples=250)
@given(
    long_programs(),
    st.integers(1, 3),
    st.builds(FixedBandwidth, st.sampled_from((1, 8, 16, 64)), st.sampled_from((0, 9, 150))),
)
def test_fast_forward_changes_no_figure_of_triangular_and_overlapping_stages(
    made: Program, channels: int, memory: FixedBandwidth
) -> None:
    fast, slow = both(made, memory, machine(channels))
    assert fast.n_simulated <= slow.n_simulated


@pytest.mark.parametrize(("tile", "n_tile"), [(4, 4), (4, 2), (2, 4), (2, 6)])
def test_rows_of_a_triangle_are_skipped_although_each_is_longer(tile: int, n_tile: int) -> None:
    made = alone(attention(1, (600, tile), (600, n_tile), (40, 8, 24)))
    fast, slow = both(made, FixedBandwidth(64, 20), machine())
    rows = [item for item in fast.extrapolated if item.loop == "m"]
    assert sum(item.skipped for item in rows) > 0.5 * (600 // tile)
    assert fast.n_simulated < 0.1 * slow.n_simulated


def test_heads_are_skipped_whole() -> None:
    made = alone(attention(50, (12, 4), (12, 4), (40, 8, 24)))
    fast, slow = both(made, FixedBandwidth(64, 20), machine())
    assert max(item.skipped for item in fast.extrapolated if item.loop == "h") >= 45
    assert fast.n_simulated * 8 < slow.n_simulated


def test_a_leaf_that_runs_through_many_periods_does_not_hide_them() -> None:
    # The far transfer takes 1024 cycles of its own channel, the others go on in periods of 5 below it.
    loops = (Loop("i", 500, 1),)
    far = Nest("far", "dma_out", (), replace(store("s", (), port("c", 0), 16384).leaf), (port("c", 0),))
    made = program(
        (buffer("a"), buffer("c")),
        (work("fill", (), 4, (), (port("c", 0),), rank="x"), far),
        (load("fetch", loops, port("a", 1), n_bytes=16), work("act", loops, 12, (port("a", 1),), rank="x")),
    )
    fast, slow = both(made, FixedBandwidth(1024, 0), machine())
    assert slow.n_simulated == 1002
    assert fast.n_simulated < 60


def test_what_was_skipped_is_reported_with_its_period() -> None:
    loops = (Loop("i", 1000, 1),)
    made = program(
        (buffer("a"),),
        (load("fetch", loops, port("a", 1), n_bytes=64), work("act", loops, 24, (port("a", 1),), rank="x")),
    )
    fast, _ = both(made, FixedBandwidth(16, 0), machine())
    assert {(item.loop, item.period_iterations, item.period_cycles) for item in fast.extrapolated} == {
        ("i", 1, 8)
    }
    assert sum(item.skipped for item in fast.extrapolated) > 980


def test_the_cost_of_a_long_program_hardly_grows() -> None:
    simulated = []
    for length in (512, 8192):
        made = alone(attention(16, (length, 32), (length, 32), (40, 8, 24)))
        simulated.append(run(compile_program(made, machine(), FixedBandwidth(64, 20))).n_simulated)
    assert simulated[1] < 1.5 * simulated[0]


def test_a_deadlock_after_a_long_steady_state_is_the_same_one() -> None:
    loops = (Loop("i", 400, 1),)
    made = program(
        (buffer("a"), buffer("never")),
        (load("fetch", loops, port("a", 1)), work("act", loops, 24, (port("a", 1),), rank="x")),
        (work("stuck", (Loop("i", 2, 1),), 4, (port("never", 1),), after=("act",), rank="x"),),
    )
    tasks = compile_program(made, machine(), FixedBandwidth(16, 0))
    with pytest.raises(
        EngineError, match="deadlock at cycle 3204: nest 'stuck' waits for a tile in buffer 'never'"
    ):
        run(tasks)
    with pytest.raises(EngineError, match="deadlock at cycle 3204: nest 'stuck'"):
        run(tasks, fast_forward=False)


def test_the_same_tasks_run_twice_give_the_same_timing() -> None:
    made = alone(attention(3, (40, 4), (40, 4), (40, 8, 24)))
    tasks = compile_program(made, machine(), FixedBandwidth(64, 20))
    assert run(tasks) == run(tasks)
