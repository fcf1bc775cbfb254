"""Where elements lie: every one once, tiles at the strides that the kernel uses."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.hls_programs import Gemm, program
from tilewright.hls_templates.analyse import analyse
from tilewright.hls_templates.layout import Placement, place
from tilewright.hls_templates.reference import to_bytes
from tilewright.hls_templates.stage import GemmStage

SIZES = st.integers(1, 60)


def _stage(m: int, n: int, k: int, tiles: tuple[int, int, int]) -> GemmStage:
    clipped = [min(tile, extent) for tile, extent in zip(tiles, (m, n, k), strict=True)]
    given_program = program(Gemm("one", m, n, k, *clipped))
    return analyse(given_program.stages[0], given_program)


@given(SIZES, SIZES, st.tuples(SIZES, SIZES, SIZES), st.sampled_from([1, 2, 8]))
def test_packed_weights_hold_every_element_once(
    n: int, k: int, tiles: tuple[int, int, int], lanes: int
) -> None:
    stage = _stage(5, n, k, tiles)
    placement, _, n_words = place(stage, stage.operand("w"), lanes, base=7)
    positions = placement.element_positions()
    assert positions.shape == (k, n)
    assert np.unique(positions).size == k * n
    assert positions.min() >= 7 * lanes
    assert positions.max() < (7 + n_words) * lanes


def test_a_packed_tile_is_one_run_of_words() -> None:
    """w is 20 x 24 in tiles of 8 x 8, 4 elements a word: 2 words a row, 16 a tile, tiles along n first."""
    stage = _stage(10, 24, 20, (4, 8, 8))
    placement, strides, n_words = place(stage, stage.operand("w"), 4, base=0)
    assert strides.pitch == 2
    assert dict(strides.axes) == {"n": 16, "k": 48}
    assert n_words == 9 * 16
    positions = placement.element_positions()
    tile = positions[8:16, 16:24]  # second tile down, third across
    assert tile.ravel().tolist() == list(range((48 + 32) * 4, (48 + 32 + 16) * 4))


def test_activations_are_rows_of_words() -> None:
    """x is 10 x 20, 8 elements a word: 3 words a row; a tile of 8 columns starts at a word."""
    stage = _stage(10, 24, 20, (4, 8, 8))
    placement, strides, n_words = place(stage, stage.operand("x"), 8, base=100)
    assert (strides.base, strides.pitch, n_words) == (100, 3, 30)
    assert dict(strides.axes) == {"m": 12, "k": 1}
    expected = 800 + np.arange(10)[:, None] * 24 + np.arange(20)
    assert (placement.element_positions() == expected).all()


def test_a_placement_survives_json() -> None:
    from dataclasses import asdict

    stage = _stage(10, 24, 20, (4, 8, 8))
    placement, _, _ = place(stage, stage.operand("w"), 4, base=3)
    assert Placement.from_dict(asdict(placement)) == placement


def test_two_elements_of_four_bits_share_a_byte() -> None:
    assert to_bytes(np.array([1, -1, -8, 7]), 4) == bytes([0xF1, 0x78])


def test_elements_of_sixteen_bits_are_little_endian() -> None:
    assert to_bytes(np.array([258, -2]), 16) == bytes([0x02, 0x01, 0xFE, 0xFF])
