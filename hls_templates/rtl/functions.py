"""One lane of the vector unit: simple operations and functions in one pipeline of five registers.

Registers, in order:
  1  reduced argument: place in the table, place in the segment, shift; or the result of a simple operation
  2  the segment's three coefficients, from the ROM
  3  c1 + c2 t
  4  c0 + (c1 + c2 t) t
  5  the word: shifted, rounded, put into the base, saturated
A new pair of operands enters in every cycle. `rtl.fixed_model` is the same arithmetic in numpy.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pyrtl
from pyrtl import RomBlock, WireVector

from tilewright.hls_templates.rtl import fixed_model as model
from tilewright.hls_templates.rtl.wires import constant, held, sign_extended

#: Registers between a lane's operands and its word.
LANE_REGISTERS = 5
#: Operations by code; those up to `silu` evaluate a function of the first operand.
OPERATIONS = (
    "exp", "reciprocal", "rsqrt", "gelu", "silu", "add", "sub", "mul", "max", "copy", "sub_exp",
)  # fmt: skip
OPERATION_BITS = 4
_BITS = model.WORD_BITS
_SHIFT_BITS = 6


def code_of(operation: str) -> int:
    """The code of an operation; it must be one of `OPERATIONS`."""
    return OPERATIONS.index(operation)


@dataclass(frozen=True, slots=True)
class _Reduced:
    """What register 1 holds: fields of `fixed_model`'s reduced argument."""

    address: WireVector
    place: WireVector
    shift: WireVector
    base: WireVector
    negates: WireVector
    saturates: WireVector


def build_lane(operation: WireVector, a: WireVector, b: WireVector, lane: int) -> WireVector:
    """The word of `operation` on `a` and `b` (32 bits each), `LANE_REGISTERS` cycles later; lanes have numbers."""
    advance = constant(1, 1)
    reduced = _reduced(operation, a, b)
    address, place, shift, base, negates, saturates = (
        held(wire, advance)
        for wire in (
            reduced.address, reduced.place, reduced.shift, reduced.base, reduced.negates, reduced.saturates,
        )
    )  # fmt: skip
    rom = RomBlock(
        bitwidth=3 * model.COEFFICIENT_BITS, addrwidth=model.ROM_BITS, romdata=_rom_words(), name=f"segments_{lane}",
        asynchronous=True, pad_with_zeros=True,
    )  # fmt: skip
    row = held(rom[address], advance)
    c0, c1, c2 = (
        row[i * model.COEFFICIENT_BITS : (i + 1) * model.COEFFICIENT_BITS] for i in range(3)
    )  # fmt: skip
    place_2 = held(place, advance)
    inner = held(_step(c1, c2, place_2), advance)
    value = held(_step(held(c0, advance), inner, held(place_2, advance)), advance)
    for _ in range(3):
        shift, base, negates, saturates = (held(one, advance) for one in (shift, base, negates, saturates))
    return held(_placed(value, shift, base, negates, saturates), advance)


def _rom_words() -> list[int]:
    bits = model.COEFFICIENT_BITS
    mask = (1 << bits) - 1
    return [sum((c & mask) << (bits * i) for i, c in enumerate(row)) for row in model.coefficients()]


def _step(addend: WireVector, factor: WireVector, place: WireVector) -> WireVector:
    """addend + (factor * place >> 16): signed coefficients, an unsigned place."""
    bits = model.COEFFICIENT_BITS + model.PLACE_BITS + 1
    wide = (sign_extended(factor, bits) * place.zero_extended(bits))[:bits]
    shifted = wide[model.PLACE_BITS :]
    return (sign_extended(addend, len(shifted)) + shifted)[: model.COEFFICIENT_BITS]


def _placed(
    value: WireVector, shift: WireVector, base: WireVector, negates: WireVector, saturates: WireVector
) -> WireVector:
    """base +- (value * 2^8 >> shift, rounded), in 32 bits."""
    bits = model.COEFFICIENT_BITS + 10
    wide = pyrtl.concat(sign_extended(value, bits - 9), constant(0, 9))
    moved = pyrtl.shift_right_arithmetic(wide, shift)
    rounded = (moved + constant(1, bits))[:bits][1:]
    rounded = sign_extended(rounded, bits)
    signed = pyrtl.select(negates, (constant(0, bits) - rounded)[:bits], rounded)
    total = (sign_extended(base, bits) + signed)[:bits]
    return pyrtl.select(saturates, constant(model.LARGEST, _BITS), clipped(total))


def clipped(value: WireVector) -> WireVector:
    """A signed number in 32 bits, the largest or smallest for those beyond."""
    sign, high = value[-1], value[_BITS - 1 :]
    fits = (high == 0) | pyrtl.and_all_bits(high)
    limit = pyrtl.select(sign, constant(model.SMALLEST, _BITS), constant(model.LARGEST, _BITS))
    return pyrtl.select(fits, value[:_BITS], limit)


def _reduced(operation: WireVector, a: WireVector, b: WireVector) -> _Reduced:
    is_one = {name: operation == code for code, name in enumerate(OPERATIONS)}
    difference = clipped(_difference(a, b))
    argument = pyrtl.select(is_one["sub_exp"], difference, a)
    is_negative = argument[-1]
    magnitude = pyrtl.select(is_negative, (constant(0, _BITS) - argument)[:_BITS], argument)
    found = _exponential(argument)
    by_name = _by_mantissa(magnitude, is_negative, argument == 0)
    # 2^19 is 8, 2^20 is 16
    by_name["gelu"] = _rest("gelu", 19, argument, magnitude, is_negative)
    by_name["silu"] = _rest("silu", 20, argument, magnitude, is_negative)
    for name, other in by_name.items():
        found = _chosen(is_one[name], other, found)
    simple = _simple(is_one, a, b, difference)
    is_simple = operation >= OPERATIONS.index("add")
    return _chosen(is_simple & ~is_one["sub_exp"], simple, found)


def _chosen(condition: WireVector, then: _Reduced, otherwise: _Reduced) -> _Reduced:
    return _Reduced(
        *(
            pyrtl.select(condition, getattr(then, name), getattr(otherwise, name))
            for name in ("address", "place", "shift", "base", "negates", "saturates")
        )
    )


def _vanished(base: WireVector) -> _Reduced:
    return _Reduced(
        constant(0, model.ROM_BITS), constant(0, model.PLACE_BITS), constant(model.VANISHED, _SHIFT_BITS),
        base, constant(0, 1), constant(0, 1),
    )  # fmt: skip


def _difference(a: WireVector, b: WireVector) -> WireVector:
    bits = _BITS + 1
    return (sign_extended(a, bits) - sign_extended(b, bits))[:bits]


def _simple(
    is_one: Mapping[str, WireVector], a: WireVector, b: WireVector, difference: WireVector
) -> _Reduced:
    """Sums, differences and products saturate; a product is rounded half up."""
    total = clipped((sign_extended(a, _BITS + 1) + sign_extended(b, _BITS + 1))[: _BITS + 1])
    bits = 2 * _BITS
    product = (sign_extended(a, bits) * sign_extended(b, bits))[:bits]
    product = (product + constant(1 << (model.FRACTION_BITS - 1), bits))[:bits][model.FRACTION_BITS :]
    larger = pyrtl.select(_difference(a, b)[-1], b, a)
    result = a
    for name, value in (("add", total), ("sub", difference), ("mul", clipped(product)), ("max", larger)):
        result = pyrtl.select(is_one[name], value, result)
    return _vanished(result)


def _exponential(x: WireVector) -> _Reduced:
    bits = _BITS + model.LOG2_E_BITS + 2
    product = (sign_extended(x, bits) * constant(model.LOG2_E, bits))[:bits]
    point = model.FRACTION_BITS + model.LOG2_E_BITS
    whole = product[point:]
    below = point - 5
    room = (constant(16, len(whole)) - whole)[: len(whole)]
    # room is 0 or less only where the result saturates
    is_far = ~room[-1] & (room[_SHIFT_BITS:] != 0)
    shift = pyrtl.select(is_far, constant(model.VANISHED, _SHIFT_BITS), room[:_SHIFT_BITS])
    saturates = ~whole[-1] & (whole >= 15)
    found = _vanished(constant(0, _BITS))
    address = product[below:point].zero_extended(model.ROM_BITS)
    place = product[below - model.PLACE_BITS : below]
    return _Reduced(address, place, shift, found.base, found.negates, saturates)


def _by_mantissa(magnitude: WireVector, is_negative: WireVector, is_zero: WireVector) -> dict[str, _Reduced]:
    exponent, normal = normalised(magnitude)
    segment, place = normal[26:31], normal[10:26]
    zero = constant(0, _BITS)
    base_of = {name: table.base for name, table in model.TABLES.items()}
    reciprocal = _Reduced(
        (constant(base_of["reciprocal"], model.ROM_BITS) + segment)[: model.ROM_BITS],
        place, exponent.zero_extended(_SHIFT_BITS), zero, is_negative, is_zero,
    )  # fmt: skip
    half = (exponent[1:].zero_extended(_SHIFT_BITS) + constant(8, _SHIFT_BITS))[:_SHIFT_BITS]
    rsqrt = _Reduced(
        (constant(base_of["rsqrt"], model.ROM_BITS) + pyrtl.concat(exponent[0], segment))[: model.ROM_BITS],
        place, half, zero, constant(0, 1), is_negative | is_zero,
    )  # fmt: skip
    return {"reciprocal": reciprocal, "rsqrt": rsqrt}


def normalised(magnitude: WireVector) -> tuple[WireVector, WireVector]:
    """(place of the highest one, the number shifted until that is bit 31)."""
    places = []
    normal = magnitude
    for step in (16, 8, 4, 2, 1):
        is_high = normal[_BITS - step :] != 0
        moved = pyrtl.concat(normal[: _BITS - step], constant(0, step))
        normal = pyrtl.select(is_high, normal, moved)
        places.append(is_high)
    return pyrtl.concat(*places), normal


def _rest(
    name: model.FunctionName, range_bits: int, x: WireVector, magnitude: WireVector, is_negative: WireVector
) -> _Reduced:
    segment_at = range_bits - 7
    base = model.TABLES[name].base
    address = (constant(base, model.ROM_BITS) + magnitude[segment_at:range_bits])[: model.ROM_BITS]
    place = pyrtl.concat(magnitude[:segment_at], constant(0, model.PLACE_BITS - segment_at))
    is_far = magnitude[range_bits:] != 0
    shift = pyrtl.select(is_far, constant(model.VANISHED, _SHIFT_BITS), constant(16, _SHIFT_BITS))
    positive = pyrtl.select(is_negative, constant(0, _BITS), x)
    return _Reduced(address, place, shift, positive, constant(1, 1), constant(0, 1))
