"""What the floating point PEs compute, bit for bit, in numpy: the specification of `rtl.bfloat`.

float32 arithmetic of numpy is IEEE 754's with round to nearest even, as the hardware's; only subnormal
numbers, which the hardware takes and gives as zeros, and the bits of NaN need care.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bits16 = NDArray[np.uint16]

_SMALLEST_NORMAL = np.float32(2.0**-126)
NAN_BITS = 0x7FC00000


def bf16_bits(values: NDArray[np.floating]) -> Bits16:
    """The nearest bfloat16 words, ties to even. values: any shape, finite."""
    bits = np.asarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
    rounded = bits + 0x7FFF + (bits >> 16 & 1)
    return (rounded >> 16).astype(np.uint16)


def bf16_values(bits: Bits16) -> Floats:
    """The numbers that bfloat16 words stand for, subnormal ones as zero."""
    return flushed((bits.astype(np.uint32) << 16).view(np.float32))


def flushed(values: Floats) -> Floats:
    """`values` with subnormal numbers replaced by zeros of their sign."""
    return np.where(np.abs(values) < _SMALLEST_NORMAL, np.copysign(np.float32(0), values), values)


def float_bits(values: Floats) -> NDArray[np.uint32]:
    """The words of float32 numbers, every NaN the same."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return np.where(np.isnan(values), np.uint32(NAN_BITS), bits)


def product(left: Bits16, right: Bits16) -> Floats:
    """left * right, exact unless it under- or overflows."""
    with np.errstate(all="ignore"):
        return flushed(bf16_values(left) * bf16_values(right))


def add(left: Floats, right: Floats) -> Floats:
    """left + right, rounded once."""
    with np.errstate(all="ignore"):
        return flushed(flushed(left) + flushed(right))


def output_stationary(a: Bits16, b: Bits16) -> Floats:
    """A @ B as PEs sum it that add in two cycles: even beats, odd beats, then both.

    a: (m, k), b: (k, n) bfloat16 words. Returns (m, n).
    """
    halves = [np.zeros((a.shape[0], b.shape[1]), dtype=np.float32) for _ in range(2)]
    for beat in range(a.shape[1]):
        halves[beat % 2] = add(halves[beat % 2], product(a[:, beat, None], b[None, beat]))
    # the sum of the last beat's half comes first, as it stands where the bottom adder takes it
    return add(halves[0], halves[1])


def held(stay: Bits16, stream: Bits16, rows: int) -> Floats:
    """stream @ stay as a grid of `rows` rows sums it: down each fold, then fold after fold.

    stay: (k, n), stream: (m, k) bfloat16 words. Returns (m, n).
    """
    m, k = stream.shape
    total = np.zeros((m, stay.shape[1]), dtype=np.float32)
    for start in range(0, k, rows):
        column = np.zeros_like(total)
        for row in range(start, min(k, start + rows)):
            column = add(column, product(stream[:, row, None], stay[None, row]))
        total = column if start == 0 else add(total, column)
    return total
