"""Requantisation against exact fractions."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.dataflow.errors import InputError
from tilewright.hls_templates.quantise import (
    FixedPoint,
    Quantisation,
    Rounding,
    StageScales,
    default_scales,
    requantise,
    table_of,
)


def _exact(value: int, scale: FixedPoint, bits: int, rounding: Rounding) -> int:
    """The same in rational numbers: Python's own round() takes ties to even."""
    quotient = Fraction(value * scale.multiplier, 2**scale.shift)
    result = round(quotient) if rounding == "half_even" else floor(quotient + Fraction(1, 2))
    return max(-(2 ** (bits - 1)), min(2 ** (bits - 1) - 1, result))


@given(
    st.integers(-(2**31), 2**31 - 1), st.integers(1, 2**15 - 1), st.integers(1, 46), st.sampled_from([8, 16]),
    st.sampled_from(["half_up", "half_even"]),
)  # fmt: skip
def test_requantise_is_exact_rounding(
    value: int, multiplier: int, shift: int, bits: int, rounding: Rounding
) -> None:
    scale = FixedPoint(multiplier, shift)
    found = requantise(np.array([value]), scale, bits, rounding)
    assert int(found[0]) == _exact(value, scale, bits, rounding)


def test_ties_go_up_or_to_even() -> None:
    """v / 2 for v = -5, -3, -1, 1, 3, 5 is -2.5, -1.5, -0.5, 0.5, 1.5, 2.5."""
    halves = np.array([-5, -3, -1, 1, 3, 5])
    assert requantise(halves, FixedPoint(1, 1), 8, "half_up").tolist() == [-2, -1, 0, 1, 2, 3]
    assert requantise(halves, FixedPoint(1, 1), 8, "half_even").tolist() == [-2, -2, 0, 0, 2, 2]


def test_results_saturate() -> None:
    assert requantise(np.array([-1000, 1000]), FixedPoint(2, 1), 8, "half_up").tolist() == [-128, 127]


@given(st.floats(2.0**-31, 2.0**13))
def test_a_factor_is_met_within_its_multipliers_precision(factor: float) -> None:
    assert FixedPoint.of(factor).factor == pytest.approx(factor, rel=2.0**-14)


@pytest.mark.parametrize("factor", [0.0, -1.0, 2.0**14, float("nan")])
def test_a_factor_out_of_range_is_refused(factor: float) -> None:
    with pytest.raises(InputError, match="a requantisation factor must be in"):
        FixedPoint.of(factor)


def test_default_scales_spread_results_over_a_quarter_of_the_range() -> None:
    """K = 300 products of uniform bytes: the result's standard deviation is a quarter of 128 = 32."""
    generator = np.random.default_rng(7)
    x, w = (generator.integers(-128, 128, size) for size in ((400, 300), (300, 40)))
    scales = default_scales(300, False, (8, 8), 8)
    results = requantise(x @ w, scales.output, 8, "half_up")
    assert float(results.std()) == pytest.approx(32, rel=0.05)


def test_the_table_of_relu_is_the_identity_above_zero() -> None:
    scales = StageScales(FixedPoint(1, 1), table_input=0.5, table_output=0.5)
    table = table_of("relu", scales)
    assert table[:128] == (0,) * 128
    assert table[128:] == tuple(range(128))


def test_the_table_of_gelu_saturates_and_rounds() -> None:
    """gelu(1) = 0.8413: at 1/16 in and out, 16 becomes round(13.46) = 13; gelu(-1) = -0.1587 becomes -3."""
    table = table_of("gelu", StageScales(FixedPoint(1, 1)))
    assert (table[128 + 16], table[128 - 16], table[0], table[255]) == (13, -3, 0, 127)


def test_an_unknown_rounding_names_the_closest() -> None:
    with pytest.raises(InputError, match=r"rounding 'half_uo' is unknown .did you mean 'half_up'"):
        Quantisation(rounding="half_uo")  # type: ignore[arg-type]
