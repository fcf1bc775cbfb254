"""bfloat16 products and float32 sums: round to nearest even, subnormal numbers taken and given as zero.

A product of two bfloat16 numbers has 16 significant bits, so as float32 it is exact. An addition takes two
cycles: the smaller operand is aligned (guard, round and sticky bit kept), then added, normalised and rounded.
Infinities and NaN are IEEE 754's; a NaN result is always 0x7fc00000.
"""

from dataclasses import dataclass

import pyrtl
from pyrtl import Const, WireVector

from tilewright.hls_templates.rtl.wires import constant, held

_NAN = 0x7FC00000
_EXTRA_BITS = 3  # guard, round, sticky


@dataclass(frozen=True, slots=True)
class _Number:
    """The parts of a float32 word, or of a bfloat16 word, with subnormal numbers flushed."""

    sign: WireVector
    exponent: WireVector
    fraction: WireVector
    is_zero: WireVector
    is_infinite: WireVector
    is_nan: WireVector

    @property
    def significand(self) -> WireVector:
        """With the leading one; zero for zero."""
        return pyrtl.select(
            self.is_zero,
            constant(0, len(self.fraction) + 1),
            pyrtl.concat(constant(1, 1), self.fraction),
        )


def _parts(word: WireVector) -> _Number:
    n_fraction = len(word) - 9
    exponent, fraction = word[n_fraction:-1], word[:n_fraction]
    is_top = exponent == 255
    has_fraction = pyrtl.or_all_bits(fraction)
    return _Number(word[-1], exponent, fraction, exponent == 0, is_top & ~has_fraction, is_top & has_fraction)


def bf16_product(left: WireVector, right: WireVector) -> WireVector:
    """left * right as float32; both bfloat16 words of 16 bits."""
    a, b = _parts(left), _parts(right)
    sign = a.sign ^ b.sign
    whole = (a.significand * b.significand)[:16]  # in [1, 4), 14 bits behind the point
    carries = whole[15]
    fraction = pyrtl.select(carries, whole[:15], pyrtl.concat(whole[:14], constant(0, 1)))
    exponent = (a.exponent + b.exponent + carries)[:10]  # still 127 too large
    is_zero = a.is_zero | b.is_zero
    is_nan = a.is_nan | b.is_nan | (a.is_infinite & b.is_zero) | (b.is_infinite & a.is_zero)
    underflows = is_zero | (exponent <= 127)
    overflows = a.is_infinite | b.is_infinite | (exponent >= 255 + 127)
    magnitude = pyrtl.concat((exponent - constant(127, 10))[:8], fraction, constant(0, 8))
    magnitude = pyrtl.select(underflows, constant(0, 31), magnitude)
    magnitude = pyrtl.select(overflows, constant(255 << 23, 31), magnitude)
    return pyrtl.select(is_nan, constant(_NAN, 32), pyrtl.concat(sign, magnitude))


def float_sum(left: WireVector, right: WireVector, advance: WireVector) -> WireVector:
    """left + right of two float32 words, one step later: the second cycle is combinational at the output.

    The caller holds the result in a register, which is the addition's second cycle.
    """
    return _normalised(*(held(wire, advance) for wire in _aligned(left, right)))


def _aligned(left: WireVector, right: WireVector) -> tuple[WireVector, ...]:
    """(sign, exponent, large significand, aligned small one with extra bits, subtract, infinite, NaN)."""
    a, b = _parts(left), _parts(right)
    a_is_larger = pyrtl.concat(a.exponent, a.fraction) >= pyrtl.concat(b.exponent, b.fraction)
    sign = pyrtl.select(a_is_larger, a.sign, b.sign)
    exponent = pyrtl.select(a_is_larger, a.exponent, b.exponent)
    large = pyrtl.select(a_is_larger, a.significand, b.significand)
    small = pyrtl.select(a_is_larger, b.significand, a.significand)
    distance = (exponent - pyrtl.select(a_is_larger, b.exponent, a.exponent))[:8]
    is_nan = a.is_nan | b.is_nan | (a.is_infinite & b.is_infinite & (a.sign ^ b.sign))
    shifted = _shifted_right(pyrtl.concat(small, constant(0, _EXTRA_BITS)), distance)
    return sign, exponent, large, shifted, a.sign ^ b.sign, a.is_infinite | b.is_infinite, is_nan


def _shifted_right(value: WireVector, distance: WireVector) -> WireVector:
    """`value` shifted right; the lowest bit is the disjunction of itself and of all that fell out."""
    sticky: WireVector = Const(0, bitwidth=1)
    for position in range(5):
        n = 1 << position
        lost = pyrtl.or_all_bits(value[:n])
        sticky = sticky | (distance[position] & lost)
        value = pyrtl.select(distance[position], pyrtl.concat(constant(0, n), value[n:]), value)
    is_far = pyrtl.or_all_bits(distance[5:])
    sticky = sticky | (is_far & pyrtl.or_all_bits(value))
    value = pyrtl.select(is_far, constant(0, len(value)), value)
    return pyrtl.concat(value[1:], value[0] | sticky)


def _normalised(
    sign: WireVector, exponent: WireVector, large: WireVector, small: WireVector, subtract: WireVector,
    is_infinite: WireVector, is_nan: WireVector,
) -> WireVector:  # fmt: skip
    wide = pyrtl.concat(constant(0, 1), large, constant(0, _EXTRA_BITS))  # 28 bits, a carry's on top
    small = pyrtl.concat(constant(0, 1), small)
    total = pyrtl.select(subtract, (wide - small)[:28], (wide + small)[:28])
    shifted, n_zeros = _leading_one_first(total)
    rounds_up = shifted[3] & (pyrtl.or_all_bits(shifted[:3]) | shifted[4])
    rounded = (shifted[4:] + rounds_up)[:25]
    # one more where the sum carried into the top bit, less the zeros before the leading one
    scale = (exponent + constant(1, 10) - n_zeros.zero_extended(10) + rounded[24])[:10]
    is_zero = ~shifted[27]
    underflows = is_zero | scale[9] | (scale == 0)
    overflows = is_infinite | (~scale[9] & (scale >= 255))
    fraction = pyrtl.select(rounded[24], rounded[1:24], rounded[:23])
    magnitude = pyrtl.concat(scale[:8], fraction)
    magnitude = pyrtl.select(underflows, constant(0, 31), magnitude)
    magnitude = pyrtl.select(overflows, constant(255 << 23, 31), magnitude)
    signed = pyrtl.concat(sign & ~(is_zero & subtract), magnitude)
    return pyrtl.select(is_nan, constant(_NAN, 32), signed)


def _leading_one_first(value: WireVector) -> tuple[WireVector, WireVector]:
    """`value` (28 bits) shifted left until its top bit is one, and by how much; zero stays zero."""
    count: list[WireVector] = []
    for position in (4, 3, 2, 1, 0):
        n = 1 << position
        is_clear = ~pyrtl.or_all_bits(value[-n:])
        value = pyrtl.select(is_clear, pyrtl.concat(value[:-n], constant(0, n)), value)
        count.append(is_clear)
    return value, pyrtl.concat(*count)
