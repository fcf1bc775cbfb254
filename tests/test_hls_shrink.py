"""Shrunk programs keep the structure of the programs that they stand for."""

from hypothesis import given
from hypothesis import strategies as st

from tests.hls_programs import Gemm, program
from tilewright.dataflow.program import Program
from tilewright.hls_templates.analyse import analyse
from tilewright.hls_templates.engine import structure
from tilewright.hls_templates.shrink import shrink

SIZES = st.integers(1, 5000)


@st.composite
def gemms(draw: st.DrawFn) -> Gemm:
    m, n, k = (draw(SIZES) for _ in range(3))
    return Gemm(
        "one", m, n, k, *(draw(st.integers(1, extent)) for extent in (m, n, k)),
        rank=draw(st.sampled_from([0, 3, 16])), x_panel=draw(st.booleans()), w_whole=draw(st.booleans()),
        order="mnk",
    )  # fmt: skip


@given(gemms(), st.sampled_from([16, 64, 128]))
def test_a_shrunk_program_has_the_same_structure(gemm: Gemm, max_extent: int) -> None:
    large = program(gemm)
    small = shrink(large, max_extent)
    before = analyse(large.stages[0], large)
    after = analyse(small.stages[0], small, like=before)
    assert structure(before) == structure(after)
    assert all(axis.trips <= before.axis(axis.name).trips for axis in after.axes)


@given(gemms(), st.sampled_from([16, 64, 128]))
def test_a_shrunk_loop_still_repeats_and_keeps_its_alignment(gemm: Gemm, max_extent: int) -> None:
    """A loop that ran twice or more does so still; a tile stays a multiple of the words that it filled."""
    large = program(gemm)
    for new, old in zip(_loops(shrink(large, max_extent)), _loops(large), strict=True):
        assert (new.trips > 1) == (old.trips > 1)
        assert new.trips <= 3
        assert new.remainder < new.tile or old.remainder == old.tile or new.tile == 1 or new.trips == 1
        lowest_bit = min(old.tile & -old.tile, 64)
        assert old.trips == 1 or new.tile % lowest_bit == 0


def test_sizes_by_hand() -> None:
    """m: 1000 in tiles of 256 to three tiles of 64 aligned ones, the last of 232 * 64 / 256 = 58."""
    small = shrink(program(Gemm("one", m=1000, n=40, k=20, m_tile=256, n_tile=8, k_tile=8)), 96)
    assert [(loop.extent, loop.tile) for loop in small.nests[2].loops] == [(186, 64), (24, 8), (20, 8)]


def test_a_small_program_stays_as_it_is() -> None:
    given_program = program(Gemm("one", m=9, n=10, k=11, m_tile=4, n_tile=4, k_tile=4))
    assert _loops(shrink(given_program, 96)) == _loops(given_program)


def _loops(of: Program) -> list[object]:  # the loops of every nest, in order
    return [loop for nest in of.nests for loop in nest.loops]
