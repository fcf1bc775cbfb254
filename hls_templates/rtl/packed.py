"""Multipliers that several narrow products share, as one DSP of 27 x 18 bits can hold them.

Two int8 products with a common factor:     a * (b1 * 2^18 + b0)           = a b1 * 2^18 + a b0
Four int4 products of two and two factors:  (a1 * 2^8 + a0)(b1 * 2^16 + b0) = a0 b0 + a1 b0 * 2^8 + ...

The operands are signed, so a negative lower product borrows one from the field above it: every field is
corrected by the sign of the field below.
"""

import pyrtl
from pyrtl import WireVector

from tilewright.dataflow.errors import InputError
from tilewright.hls_templates.rtl.pe import signed_product
from tilewright.hls_templates.rtl.wires import constant, fields, sign_extended, wrapped_sum

#: Distance of the two int8 products: 16 bits of product and room for a borrow, inside a port of 27 bits.
INT8_FIELD_BITS = 18
#: An int4 product lies in -56 .. 64, which takes 8 bits.
INT4_FIELD_BITS = 8


def packed_int8_products(common: WireVector, low: WireVector, high: WireVector) -> list[WireVector]:
    """[common * low, common * high] of three signed bytes, 16 bits each, from one 27 x 8 bit product."""
    _check_bits((common, low, high), 8)
    pair = _packed_signed([low, high], INT8_FIELD_BITS)
    whole = signed_product(pair, common)
    return [field[:16] for field in _corrected(whole, INT8_FIELD_BITS, 2)]


def packed_int4_products(left: list[WireVector], right: list[WireVector]) -> list[WireVector]:
    """[l0 r0, l1 r0, l0 r1, l1 r1] of four signed nibbles, 8 bits each, from one 20 x 12 bit product."""
    _check_bits((*left, *right), 4)
    lefts = _packed_signed(left, INT4_FIELD_BITS)
    rights = _packed_signed(right, 2 * INT4_FIELD_BITS)
    return _corrected(signed_product(rights, lefts), INT4_FIELD_BITS, 4)


def _check_bits(operands: tuple[WireVector, ...], bits: int) -> None:
    for operand in operands:
        if len(operand) != bits:
            raise InputError(f"a packed product takes operands of {bits} bits, got {len(operand)}")


def _packed_signed(pair: list[WireVector], distance_bits: int) -> WireVector:
    """pair[1] * 2^distance + pair[0] as one signed number; the sum carries the low operand's sign up."""
    low, high = pair
    bits = distance_bits + len(high) + 1
    raised = pyrtl.concat(sign_extended(high, len(high) + 1), constant(0, distance_bits))
    return wrapped_sum(raised, sign_extended(low, bits))


def _corrected(whole: WireVector, field_bits: int, n_fields: int) -> list[WireVector]:
    """The signed fields of a sum of fields: what lies above a negative field is one too small."""
    found = []
    rest = whole
    for _ in range(n_fields):
        field = rest[:field_bits] if len(rest) >= field_bits else sign_extended(rest, field_bits)
        found.append(field)
        if len(rest) > field_bits:
            rest = wrapped_sum(rest[field_bits:], field[-1].zero_extended(len(rest) - field_bits))
    return found


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
