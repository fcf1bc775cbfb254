"""The vector unit's numbers in numpy: words of 32 bits with 16 fraction bits, functions by table and polynomial.

Each function reduces its argument to a segment of a table and a place t in it, evaluates c0 + c1 t + c2 t^2 with
the segment's coefficients, and shifts the result into place:

  exp         x log2(e) = i + f; 2^f from 32 segments, shifted by i
  reciprocal  |x| = m 2^e, m in [1, 2); 1 / m from 32 segments, shifted by -e; the sign of x
  rsqrt       the same with m in [1, 4): 64 segments, shifted by -e / 2
  gelu, silu  max(x, 0) - g(|x|), g falling to zero: 128 segments of [0, 8) and [0, 16)

The coefficients interpolate at the three Chebyshev nodes of a segment, where a quadratic's largest error is
h^3 / 192 * max |f'''|; they have 24 fraction bits. `rtl.functions` is the same arithmetic in registers, equal to
the bit. Where a result has no place (exp beyond 15 bits, 1 / 0, rsqrt of what is not positive) it is the largest
word. `ERRORS` states how far results are from the exact ones.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from math import cos, erf, exp, log2, pi, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.int64]
FunctionName = Literal["exp", "reciprocal", "rsqrt", "gelu", "silu"]

WORD_BITS = 32
FRACTION_BITS = 16
#: Bits of the place in a segment, and of a coefficient: 24 behind the point, two before it, a sign.
PLACE_BITS = 16
COEFFICIENT_FRACTION_BITS = 24
COEFFICIENT_BITS = 27
LARGEST = (1 << (WORD_BITS - 1)) - 1
SMALLEST = -(1 << (WORD_BITS - 1))
LOG2_E_BITS = 30
LOG2_E = round(log2(exp(1)) * (1 << LOG2_E_BITS))
#: A shift by this or more leaves nothing.
VANISHED = 63


@dataclass(frozen=True, slots=True)
class ErrorBound:
    """|result - exact| <= absolute + relative * |exact|, where the exact result has a place in a word."""

    absolute: float
    relative: float


_HALF = 2.0 ** -(FRACTION_BITS + 1)
#: Half a unit of the last place is the rounding of the result; the rest is the table's and its coefficients'.
ERRORS: Mapping[FunctionName, ErrorBound] = {
    "exp": ErrorBound(_HALF, 2.0**-20),
    "reciprocal": ErrorBound(_HALF, 2.0**-19),
    "rsqrt": ErrorBound(_HALF, 2.0**-19),
    "gelu": ErrorBound(_HALF + 2.0**-18, 0.0),
    "silu": ErrorBound(_HALF + 2.0**-17, 0.0),
}


def _gelu_rest(x: float) -> float:
    """max(x, 0) - gelu(x), the same for x and -x."""
    return 0.5 * x * (1 - erf(x / sqrt(2)))


def _silu_rest(x: float) -> float:
    return x / (1 + exp(x))


@dataclass(frozen=True, slots=True)
class Table:
    """Segments of one function: equal parts of each of `spans`, the first at address `base` of the ROM."""

    base: int
    segment_bits: int
    spans: tuple[tuple[float, float], ...]
    function: Callable[[float], float]


TABLES: Mapping[FunctionName, Table] = {
    "exp": Table(0, 5, ((0.0, 1.0),), lambda f: 2.0**f),
    "reciprocal": Table(32, 5, ((1.0, 2.0),), lambda m: 1 / m),
    "rsqrt": Table(64, 5, ((1.0, 2.0), (2.0, 4.0)), lambda m: 1 / sqrt(m)),
    "gelu": Table(128, 7, ((0.0, 8.0),), _gelu_rest),
    "silu": Table(256, 7, ((0.0, 16.0),), _silu_rest),
}
ROM_BITS = 9


@cache
def coefficients() -> tuple[tuple[int, int, int], ...]:
    """(c0, c1, c2) of every segment in the order of the ROM, with 24 fraction bits."""
    rows: list[tuple[int, int, int]] = []
    for table in TABLES.values():
        for low, high in table.spans:
            n_segments = 1 << table.segment_bits
            width = (high - low) / n_segments
            rows += [_segment(table.function, low + i * width, width) for i in range(n_segments)]
    return tuple(rows)


def _segment(function: Callable[[float], float], start: float, width: float) -> tuple[int, int, int]:
    """The quadratic through the function at the Chebyshev nodes, its variable 0 to 1 along the segment."""
    a, b, c = (0.5 - 0.5 * cos((2 * i + 1) * pi / 6) for i in range(3))
    fa, fb, fc = (function(start + node * width) for node in (a, b, c))
    slope = (fb - fa) / (b - a)
    bend = ((fc - fb) / (c - b) - slope) / (c - a)
    scale = 1 << COEFFICIENT_FRACTION_BITS
    real = (fa - slope * a + bend * a * b, slope - bend * (a + b), bend)
    return round(real[0] * scale), round(real[1] * scale), round(real[2] * scale)


def to_words(values: NDArray[np.float64] | float) -> Words:
    """The nearest words of real numbers, the largest or smallest for those beyond."""
    scaled = np.rint(np.asarray(values, dtype=np.float64) * (1 << FRACTION_BITS))
    return np.clip(scaled, SMALLEST, LARGEST).astype(np.int64)


def to_reals(words: Words) -> NDArray[np.float64]:
    return np.asarray(words, dtype=np.float64) / (1 << FRACTION_BITS)


@dataclass(frozen=True, slots=True)
class _Reduced:
    """Where in the ROM, the place in the segment, how far the result is shifted, and what it is put into."""

    address: Words
    place: Words
    shift: Words
    base: Words
    negates: NDArray[np.bool_]
    saturates: NDArray[np.bool_]


def evaluate(name: FunctionName, x: Words) -> Words:
    """The function of every word of `x` (signed, 32 bits), of the same shape."""
    reduced = _REDUCTIONS[name](np.asarray(x, dtype=np.int64))
    rows = np.array(coefficients(), dtype=np.int64)[reduced.address]
    inner = rows[..., 1] + ((rows[..., 2] * reduced.place) >> PLACE_BITS)
    value = rows[..., 0] + ((inner * reduced.place) >> PLACE_BITS)
    # half a unit is added before the last bit goes
    rounded = (((value << 9) >> reduced.shift) + 1) >> 1
    signed = reduced.base + np.where(reduced.negates, -rounded, rounded)
    return np.where(reduced.saturates, LARGEST, np.clip(signed, SMALLEST, LARGEST))


def _plain(x: Words, address: Words, place: Words, shift: Words) -> _Reduced:
    no = np.zeros(x.shape, dtype=np.bool_)
    return _Reduced(address, place, shift, np.zeros_like(x), no, no)


def _reduce_exp(x: Words) -> _Reduced:
    product = x * LOG2_E
    point = FRACTION_BITS + LOG2_E_BITS
    whole = product >> point
    address = (product >> (point - 5)) & 31
    place = (product >> (point - 5 - PLACE_BITS)) & 0xFFFF
    shift = np.clip(16 - whole, 0, VANISHED)
    found = _plain(x, address, place, shift)
    return _Reduced(address, place, shift, found.base, found.negates, whole >= 15)


def _mantissa(magnitude: Words) -> tuple[Words, Words, Words]:
    """(e, segment, place) of numbers in 1 .. 2^31, by the place of the highest one; of 0 those of 1."""
    exponent = np.zeros_like(magnitude)
    for step in (16, 8, 4, 2, 1):
        exponent += step * ((magnitude >> (exponent + step)) > 0)
    normal = np.maximum(magnitude, 1) << (31 - exponent)
    return exponent, (normal >> 26) & 31, (normal >> 10) & 0xFFFF


def _reduce_reciprocal(x: Words) -> _Reduced:
    exponent, segment, place = _mantissa(np.abs(x))
    address = TABLES["reciprocal"].base + segment
    return _Reduced(address, place, exponent, np.zeros_like(x), x < 0, x == 0)


def _reduce_rsqrt(x: Words) -> _Reduced:
    exponent, segment, place = _mantissa(np.abs(x))
    address = TABLES["rsqrt"].base + (exponent & 1) * 32 + segment
    none = np.zeros(x.shape, dtype=np.bool_)
    return _Reduced(address, place, 8 + (exponent >> 1), np.zeros_like(x), none, x <= 0)


def _reduce_rest(name: FunctionName, range_bits: int) -> Callable[[Words], _Reduced]:
    def reduce(x: Words) -> _Reduced:
        magnitude = np.abs(x)
        address = TABLES[name].base + ((magnitude >> (range_bits - 7)) & 127)
        place = (magnitude << (PLACE_BITS - (range_bits - 7))) & 0xFFFF
        shift = np.where(magnitude >> range_bits, VANISHED, 16)
        always = np.ones(x.shape, dtype=np.bool_)
        return _Reduced(address, place, shift, np.maximum(x, 0), always, ~always)

    return reduce


_REDUCTIONS: Mapping[FunctionName, Callable[[Words], _Reduced]] = {
    "exp": _reduce_exp,
    "reciprocal": _reduce_reciprocal,
    "rsqrt": _reduce_rsqrt,
    "gelu": _reduce_rest("gelu", FRACTION_BITS + 3),
    "silu": _reduce_rest("silu", FRACTION_BITS + 4),
}
