"""Multipliers that several narrow products share, as one DSP of 27 x 18 bits can hold them.

Two int8 products with a common factor:     a * (b1 * 2^16 + b0)
Four int4 products of two and two factors:  (a1 * 2^8 + a0) * (b1 * 2^16 + b0)

The operands' bit patterns are multiplied as unsigned numbers, so that the fields of the product stay apart. A
pattern of w bits is 2^w more than the negative number that it stands for; each field is corrected by 2^w times
the other factor for each negative one, in its own width.
"""

import pyrtl
from pyrtl import WireVector

from tilewright.dataflow.errors import InputError
from tilewright.hls_templates.rtl.wires import constant, fields, sign_extended, wrapped_sum


def packed_int8_products(common: WireVector, low: WireVector, high: WireVector) -> list[WireVector]:
    """[common * low, common * high] of three signed bytes, 16 bits each, from one 24 x 8 bit product."""
    _check_bits((common, low, high), 8)
    pair = pyrtl.concat(high, constant(0, 8), low)
    whole = (common * pair)[:32]  # PyRTL multiplies equal widths
    return [
        _signed_field(field, common, factor)
        for field, factor in zip(fields(whole, 16), (low, high), strict=True)
    ]


def packed_int4_products(left: list[WireVector], right: list[WireVector]) -> list[WireVector]:
    """[l0 r0, l1 r0, l0 r1, l1 r1] of four signed nibbles, 8 bits each, from one 20 x 12 bit product."""
    _check_bits((*left, *right), 4)
    lefts = pyrtl.concat(left[1], constant(0, 4), left[0])
    rights = pyrtl.concat(right[1], constant(0, 12), right[0])
    whole = (lefts * rights)[:32]
    factors = [(one, other) for other in right for one in left]
    return [_signed_field(field, *pair) for field, pair in zip(fields(whole, 8), factors, strict=True)]


def _check_bits(operands: tuple[WireVector, ...], bits: int) -> None:
    for operand in operands:
        if len(operand) != bits:
            raise InputError(f"a packed product takes operands of {bits} bits, got {len(operand)}")


def _signed_field(field: WireVector, left: WireVector, right: WireVector) -> WireVector:
    """The product of two signed numbers of w bits from that of their patterns, 2 w bits: the upper half changes."""
    bits = len(left)
    off_left = pyrtl.select(left[-1], right, constant(0, bits))
    off_right = pyrtl.select(right[-1], left, constant(0, bits))
    upper = (field[bits:] - (off_left + off_right)[:bits])[:bits]
    return pyrtl.concat(upper, field[:bits])


def packed_pe(
    name: str, operands: WireVector, first: WireVector, advance: WireVector, sum_bits: int
) -> list[WireVector]:
    """The sums of a PE that adds up packed products; `first` starts them anew.

    name: "packed_int8" (operands: common, low, high) or "packed_int4" (left 0, left 1, right 0, right 1), the
    first in the lowest bits. Raises InputError for another name.
    """
    if name == "packed_int8":
        products = packed_int8_products(*fields(operands, 8))
    elif name == "packed_int4":
        nibbles = fields(operands, 4)
        products = packed_int4_products(nibbles[:2], nibbles[2:])
    else:
        raise InputError(f"PE {name!r} is no packed one; known: packed_int8, packed_int4")
    sums: list[WireVector] = []
    for one in products:
        total = pyrtl.Register(sum_bits)
        base = pyrtl.select(first, constant(0, sum_bits), total)
        total.next <<= pyrtl.select(advance, wrapped_sum(base, sign_extended(one, sum_bits)), total)
        sums.append(total)
    return sums
