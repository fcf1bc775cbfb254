"""The scheduled form: trips, remainders, triangular loops, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.dataflow.program import (
    Buffer,
    Compute,
    Direction,
    Limit,
    Loop,
    Nest,
    Port,
    Program,
    ProgramError,
    Stage,
    Transfer,
    Unit,
    cut_loops,
    limited_trips,
    n_iterations,
)

LEAF = Compute(Unit.VECTOR, ("op",), (("m", 1),))
BUFFER = Buffer("x", "input_buffer", 16, 2, 8)


def _program(*nests: Nest) -> Program:
    return Program("p", (), (BUFFER,), (Stage("s", ("op",), nests),))


def _enumerate(loops: tuple[Loop, ...]) -> int:
    """Iterations, by visiting the tiles that hold a point under the limit."""
    found = 0

    def visit(depth: int, tiles: dict[str, int]) -> None:
        nonlocal found
        if depth == len(loops):
            found += 1
            return
        loop = loops[depth]
        for tile in range(loop.trips):
            if loop.limit is not None:
                outer = next(other for other in loops if other.rank == loop.limit.of)
                last = min((tiles[outer.rank] + 1) * outer.tile, outer.extent) - 1
                if tile > 0 and tile * loop.tile > last + loop.limit.offset:
                    continue
            visit(depth + 1, tiles | {loop.rank: tile})

    visit(0, {})
    return found


def test_the_last_tile_holds_the_remainder() -> None:
    loop = Loop("m", 10, 4)
    assert (loop.trips, loop.remainder) == (3, 2)
    assert Loop("m", 8, 4).remainder == 4


@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(1, 5),
    st.integers(-6, 12), st.permutations(["m", "n", "k"]),
)  # fmt: skip
def test_triangular_iterations_equal_enumeration(
    m: int, n: int, k: int, m_tile: int, n_tile: int, offset: int, order: list[str]
) -> None:
    by_rank = {
        "m": Loop("m", m, min(m, m_tile)),
        "n": Loop(
            "n", n, min(n, n_tile), Limit("m", offset) if order.index("m") < order.index("n") else None
        ),
        "k": Loop("k", k, 1),
    }
    loops = tuple(by_rank[rank] for rank in order)
    assert n_iterations(loops) == _enumerate(loops)


def test_a_causal_triangle_of_equal_tiles_visits_the_tiles_on_and_below_the_diagonal() -> None:
    loops = (Loop("m", 12, 4), Loop("n", 12, 4, Limit("m", 0)))
    assert n_iterations(loops) == 1 + 2 + 3
    assert [limited_trips(loops[1], loops[0], trip) for trip in range(3)] == [1, 2, 3]


def test_cutting_inside_an_iteration_shortens_the_limited_loop_and_frees_it() -> None:
    outer, inner = Loop("m", 12, 4), Loop("n", 10, 4, Limit("m", 0))
    assert cut_loops((inner,), outer, 1) == (Loop("n", 8, 4),)
    assert cut_loops((inner,), outer, 2) == (Loop("n", 10, 4),)


def test_loops_nests_and_programs_that_are_not_well_formed_are_refused_by_name() -> None:
    with pytest.raises(ProgramError, match=r"loop 'm': tile must be in 1\.\.4, got 5"):
        Loop("m", 4, 5)
    with pytest.raises(ProgramError, match="nest 'a' loops twice over a rank"):
        Nest("a", "vector", (Loop("m", 4, 2), Loop("m", 4, 1)), LEAF)
    with pytest.raises(ProgramError, match=r"depth of port 'x' must be in 0\.\.1, got 2"):
        Nest("a", "vector", (Loop("m", 4, 2),), LEAF, reads=(Port("x", 2, (("m", 1),)),))
    with pytest.raises(ProgramError, match="loop 'n' is limited by 'm', which is not an outer loop"):
        Nest("a", "vector", (Loop("n", 4, 2, Limit("m", 0)), Loop("m", 4, 1)), LEAF)
    nest = Nest("a", "vector", (Loop("m", 4, 2),), LEAF)
    with pytest.raises(ProgramError, match="a nest's name is used twice"):
        _program(nest, nest)
    with pytest.raises(ProgramError, match="buffer 'y' is not declared"):
        _program(Nest("a", "vector", (), LEAF, reads=(Port("y", 0, ()),)))
    with pytest.raises(ProgramError, match="nest 'a' waits for 'b', which is not a nest"):
        _program(Nest("a", "vector", (), LEAF, after=("b",)))
    load = Transfer(Direction.LOAD, "t", (("m", 1),), 8, 1)
    with pytest.raises(ProgramError, match="tensor 't' is not declared"):
        _program(Nest("a", "dma_in", (), load))
