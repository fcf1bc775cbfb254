"""The arithmetic of a PE: one product of an activation and a weight, by kind.

Kind       activation     weight                                       product and sum
int4       4 bit signed   4 bit signed                                 multiply, integer sum
int8       8 bit          8 bit                                        multiply, integer sum
int16      16 bit         16 bit                                       multiply, integer sum
ternary    8 bit          2 bit: 1, -1, and 0 for all else             add, subtract or keep
shift_add  8 bit          4 bit: sign, code c; 0 or 2^(c-1)            shift by up to 6, add or subtract
bf16       bfloat16       bfloat16                                     exact product, float32 sum in two cycles
int        any            any                                          multiply, integer sum

Integer sums have `sum_bits` bits and wrap, as numpy's do. `rtl.packed` holds multipliers that several
products share, `rtl.bfloat` the floating point.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pyrtl
from pyrtl import WireVector

from tilewright.dataflow.errors import InputError, nearest
from tilewright.hls_templates.rtl.wires import constant, sign_extended

PeName = Literal["int4", "int8", "int16", "ternary", "shift_add", "bf16", "int"]
Multiplier = Literal["signed", "corrected"]


@dataclass(frozen=True, slots=True)
class PeKind:
    """Widths in bits, and how many cycles a product and an addition to a sum take.

    `multiply_cycles` is 0 where the product is added in the cycle in which it is made.
    """

    name: PeName
    activation_bits: int
    weight_bits: int
    sum_bits: int
    multiply_cycles: int = 0
    add_cycles: int = 1

    @property
    def is_float(self) -> bool:
        return self.name == "bf16"


_KINDS: Mapping[PeName, PeKind] = {
    "int4": PeKind("int4", 4, 4, 32),
    "int8": PeKind("int8", 8, 8, 32),
    "int16": PeKind("int16", 16, 16, 48),
    "ternary": PeKind("ternary", 8, 2, 32),
    "shift_add": PeKind("shift_add", 8, 4, 32),
    "bf16": PeKind("bf16", 16, 16, 32, multiply_cycles=1, add_cycles=2),
}


def pe_kind(name: str, sum_bits: int | None = None) -> PeKind:
    """The kind of PE called `name`, its sums `sum_bits` wide if given.

    Raises InputError for an unknown name and for sums that do not hold one product.
    """
    if name not in _KINDS:
        known = tuple(_KINDS)
        raise InputError(f"PE {name!r} is unknown{nearest(name, known)}; known: {', '.join(known)}")
    kind = _KINDS[name]  # type: ignore[index]
    if sum_bits is None or sum_bits == kind.sum_bits:
        return kind
    if kind.is_float:
        raise InputError(f"PE {name!r}: sums are float32, got sum_bits {sum_bits}")
    least = product_bits(kind)
    if not least <= sum_bits <= 64:
        raise InputError(f"PE {name!r}: sum_bits must be {least} to 64, got {sum_bits}")
    return PeKind(kind.name, kind.activation_bits, kind.weight_bits, sum_bits)


def product_bits(kind: PeKind) -> int:
    """Bits of an exact product."""
    if kind.name == "ternary":
        return kind.activation_bits + 1  # minus the most negative activation
    if kind.name == "shift_add":
        return kind.activation_bits + MAX_SHIFT + 1
    return kind.activation_bits + kind.weight_bits


#: A shift_add weight's largest magnitude is 2 ** MAX_SHIFT.
MAX_SHIFT = 6


def product(kind: PeKind, activation: WireVector, weight: WireVector) -> WireVector:
    """The product of an integer kind, sign extended to the width of its sums."""
    if kind.name == "ternary":
        exact = _ternary_product(activation, weight)
    elif kind.name == "shift_add":
        exact = _shifted(activation, weight)
    else:
        # a signed multiplier twice as wide as 8 bits costs three DSPs instead of one
        form: Multiplier = "signed" if kind.activation_bits <= 8 else "corrected"
        exact = signed_product(activation, weight, form)
    return sign_extended(exact, kind.sum_bits)


def signed_product(left: WireVector, right: WireVector, form: Multiplier = "signed") -> WireVector:
    """The product of two signed numbers, in as many bits as both have together.

    "signed" multiplies sign extended operands, which synthesis fits into one DSP for narrow ones. "corrected"
    multiplies the bit patterns as unsigned numbers and takes 2^w * other off for each negative operand, the
    smallest in gates.
    """
    bits = len(left) + len(right)
    if form == "signed":
        return (sign_extended(left, bits) * sign_extended(right, bits))[:bits]
    high_of_left = pyrtl.select(left[-1], right, constant(0, len(right)))
    high_of_right = pyrtl.select(right[-1], left, constant(0, len(left)))
    off_left = pyrtl.concat(high_of_left, constant(0, len(left)))
    off_right = pyrtl.concat(high_of_right, constant(0, len(right)))
    whole = (left * right)[:bits]
    return ((whole - off_left)[:bits] - off_right)[:bits]


def _negated(value: WireVector, bits: int) -> WireVector:
    return (~sign_extended(value, bits) + constant(1, bits))[:bits]


def _ternary_product(activation: WireVector, weight: WireVector) -> WireVector:
    bits = len(activation) + 1
    signed = pyrtl.select(weight[1], _negated(activation, bits), sign_extended(activation, bits))
    return pyrtl.select(weight[0], signed, constant(0, bits))


def _shifted(activation: WireVector, weight: WireVector) -> WireVector:
    """Code 0 is the weight 0, code c is 2^(c-1); the highest bit of the weight is its sign."""
    bits = len(activation) + MAX_SHIFT + 1
    code, sign = weight[:3], weight[3]
    wide = sign_extended(activation, bits)
    places = [constant(0, bits)]
    for shift in range(MAX_SHIFT + 1):
        places.append(pyrtl.concat(wide[: bits - shift], constant(0, shift)) if shift else wide)
    magnitude = pyrtl.mux(code, *places)
    return pyrtl.select(sign, _negated(magnitude, bits), magnitude)
