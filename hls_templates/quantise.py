"""Fixed-point requantisation: the numbers of a stage, and the numpy form that generated code is held to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import erf, exp, floor, log2, sqrt, tanh
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tilewright.dataflow.errors import InputError, nearest

Rounding = Literal["half_up", "half_even"]
ROUNDINGS: tuple[Rounding, ...] = ("half_up", "half_even")

_MULTIPLIER_BITS = 15
_MAX_SHIFT = 46  # 32-bit sum times 15-bit multiplier and the rounding constant stay inside 64 bits


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """The factor multiplier / 2**shift; multiplier below 2**15."""

    multiplier: int
    shift: int

    def __post_init__(self) -> None:
        if not 0 < self.multiplier < 1 << _MULTIPLIER_BITS:
            raise InputError(f"multiplier must be in 1..{(1 << _MULTIPLIER_BITS) - 1}, got {self.multiplier}")
        if not 1 <= self.shift <= _MAX_SHIFT:
            raise InputError(f"shift must be in 1..{_MAX_SHIFT}, got {self.shift}")

    @staticmethod
    def of(factor: float) -> "FixedPoint":
        """The closest factor with a full multiplier. Raises InputError outside of 2**-31 .. 2**13."""
        if not 2.0**-31 <= factor <= 2.0**13:
            raise InputError(f"a requantisation factor must be in 2**-31..2**13, got {factor}")
        shift = _MULTIPLIER_BITS - 1 - floor(log2(factor))
        multiplier = round(factor * 2.0**shift)
        if multiplier >= 1 << _MULTIPLIER_BITS:
            multiplier, shift = multiplier // 2, shift - 1
        return FixedPoint(multiplier, shift)

    @property
    def factor(self) -> float:
        return self.multiplier / 2.0**self.shift


@dataclass(frozen=True, slots=True)
class StageScales:
    """What a stage does to its integers on the way out.

    `output` takes sums to the result, `adapter` takes x A to the operand u of the low-rank path: alpha / rank
    is part of it. `side` multiplies a second matrix that is added with a scale, or a product with one; it
    must be stated where such a step stands. A bias is added to the sums after a shift to the left. A function
    by table reads a value as v * table_input and writes round(f / table_output).
    """

    output: FixedPoint
    adapter: FixedPoint | None = None
    side: FixedPoint | None = None
    bias_shift: int = 0
    table_input: float = 2.0**-4
    table_output: float = 2.0**-4


@dataclass(frozen=True, slots=True)
class Quantisation:
    """Rounding for all stages, and the scales of those that are named; the others take `default_scales`."""

    rounding: Rounding = "half_up"
    stages: Mapping[str, StageScales] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rounding not in ROUNDINGS:
            hint = nearest(self.rounding, ROUNDINGS)
            raise InputError(f"rounding {self.rounding!r} is unknown{hint}; known: {', '.join(ROUNDINGS)}")


def default_scales(
    inner_extent: int, has_adapter: bool, operand_bits: tuple[int, int], out_bits: int, side_step: str = ""
) -> StageScales:
    """Scales that bring products of uniformly spread operands to a quarter of the result's range.

    A sum of K products of independent uniform b-bit integers has a standard deviation of about
    sqrt(K) * 2**(b_a + b_b) / 12; it is brought to a quarter of the largest result, and so is u. A second
    matrix is added as it is ("scaled"); a product with one is brought back by the same share of the range
    ("product"). A model's own scales belong in `Quantisation`.
    """
    act_bits, weight_bits = operand_bits
    spread = sqrt(inner_extent) * 2.0 ** (act_bits + weight_bits) / 12
    side = {"scaled": 1.0, "product": 2.0 ** (3 - out_bits)}.get(side_step)
    return StageScales(
        output=FixedPoint.of(2.0 ** (out_bits - 3) / spread),
        adapter=FixedPoint.of(2.0 ** (act_bits - 3) / spread) if has_adapter else None,
        side=FixedPoint.of(side) if side else None,
        bias_shift=max(0, floor(log2(spread)) - weight_bits + 1),
    )


def requantise(
    sums: NDArray[np.int64], scale: FixedPoint, bits: int, rounding: Rounding
) -> NDArray[np.int64]:
    """sums * multiplier / 2**shift to the nearest (ties up, or to even), saturated to `bits` bits."""
    wide = sums.astype(np.int64) * scale.multiplier
    half = np.int64(1) << (scale.shift - 1)
    if rounding == "half_up":
        result = (wide + half) >> scale.shift
    else:
        result = wide >> scale.shift
        rest = wide - (result << scale.shift)
        result = result + ((rest > half) | ((rest == half) & ((result & 1) == 1)))
    return saturate(result, bits)


def saturate(values: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    return np.clip(values, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)


_FUNCTIONS = {
    "gelu": lambda x: 0.5 * x * (1 + erf(x / sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + tanh(sqrt(2 / 3.141592653589793) * (x + 0.044715 * x**3))),
    "relu": lambda x: max(0.0, x),
    "silu": lambda x: x / (1 + exp(-x)),
    "sigmoid": lambda x: 1 / (1 + exp(-x)),
    "tanh": tanh,
}
TABLE_FUNCTIONS = tuple(_FUNCTIONS)


def table_of(function: str, scales: StageScales) -> tuple[int, ...]:
    """The function for the 256 values of a byte, -128 first, rounded half up and saturated to a byte."""
    evaluate = _FUNCTIONS[function]
    values = (floor(evaluate(v * scales.table_input) / scales.table_output + 0.5) for v in range(-128, 128))
    return tuple(max(-128, min(127, value)) for value in values)
