"""The vector unit of one-pass attention: running softmax over tiles of scores, and the division at the end.

Its lanes are the queries of one word; keys (or the rows of mixed values) come one after another. A pass takes one word
through eight registers: operand, scaled operand, five of the lane (`rtl.functions`), result. A leaf is a softmax of
a tile of scores, for every word of queries

  keys passes   the maximum, which goes on from that of the tiles before
  1 pass        exp(old maximum - new one), by which what has been mixed and summed so far is multiplied
  keys passes   exp(score - maximum), as weights of 0 .. 127, written and summed

or the division of a tile of mixed values: 1 pass for 1 / sum, one per row. Passes follow each other without a gap, so
a leaf takes 8 + passes cycles. `rtl.attention_model` is the same arithmetic in numpy.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pyrtl
from pyrtl import MemBlock, Register, WireVector

from tilewright.hls_templates.rtl import fixed_model as model
from tilewright.hls_templates.rtl.array import Leaf
from tilewright.hls_templates.rtl.cell import Wires
from tilewright.hls_templates.rtl.functions import LANE_REGISTERS, build_lane, clipped, code_of, normalised
from tilewright.hls_templates.rtl.wires import constant, delayed, fields, held, packed, sign_extended

#: Registers from a pass to its result: operand, scaled operand, lane, result.
DEPTH_CYCLES = LANE_REGISTERS + 3
#: The weight of the largest score, and fraction bits of a sum of weights.
LARGEST_WEIGHT = 127
SUM_FRACTION_BITS = 8
WEIGHT_BITS = 8
FACTOR_BITS = model.FRACTION_BITS + 1
_BITS = model.WORD_BITS
_MAXIMA, _FACTOR, _VALUES = 0, 1, 2


@dataclass(frozen=True, slots=True)
class SoftmaxKind:
    """`lanes` queries at once, tiles of up to `words` words of them; scores times multiplier / 2^shift are words.

    `slot_bits` of the weights' buffer; sums are kept for 2^`sum_slot_bits` tiles of queries.
    """

    lanes: int
    words: int
    size_bits: int
    offset_bits: int
    slot_bits: int
    sum_slot_bits: int
    multiplier: int
    shift: int

    @property
    def word_bits(self) -> int:
        return max(1, (self.words - 1).bit_length())


def softmax_leaf(kind: SoftmaxKind) -> Leaf:
    """Inputs: `start` with `divides`, the columns `n` and rows `k` of the tile, `run_words` from a word of queries to
    the next, whether the tile `begins` and `ends` its queries, the word read, and where factors are read and written.
    """
    inputs = {
        "start": 1, "divides": 1, "n": kind.size_bits, "k": kind.size_bits, "run_words": kind.offset_bits,
        "begins": 1, "ends": 1, "word": kind.lanes * _BITS, "slot": kind.slot_bits, "factor_slot": kind.slot_bits,
        "factor_word": kind.size_bits,
    }  # fmt: skip
    outputs = {
        "read_offset": kind.offset_bits, "write": 1, "write_offset": kind.offset_bits,
        "weights": kind.lanes * WEIGHT_BITS, "quotients": kind.lanes * _BITS, "factors": kind.lanes * FACTOR_BITS,
        "done": 1,
    }  # fmt: skip
    return Leaf("softmax_unit", inputs, outputs, lambda wires: _build(kind, wires))


@dataclass(frozen=True, slots=True)
class _Pass:
    """What enters now; flags travel with it."""

    is_on: WireVector
    phase: WireVector
    is_first: WireVector
    is_last_of_rows: WireVector
    is_last: WireVector
    word: WireVector
    offset: WireVector


def _walk(kind: SoftmaxKind, wires: Mapping[str, WireVector]) -> _Pass:
    """Words of queries outside, phases, rows inside."""
    issuing, phase_kept = Register(1), Register(2)
    row, gone, place = Register(kind.size_bits), Register(kind.size_bits), Register(kind.word_bits)
    offset, run = Register(kind.offset_bits), Register(kind.offset_bits)
    is_on = issuing | wires["start"]
    phase = pyrtl.select(wires["divides"] & (phase_kept == _MAXIMA), constant(_FACTOR, 2), phase_kept)
    goes_over_rows = phase != _FACTOR
    following = (row + 1)[: kind.size_bits]
    row_ends = following == wires["k"]
    word_ends = (phase == _VALUES) & row_ends
    is_last = word_ends & ((wires["n"] - gone)[: kind.size_bits] <= kind.lanes)
    issuing.next <<= is_on & ~is_last
    zero, start = constant(0, kind.size_bits), constant(0, kind.offset_bits)

    def step(register: Register, value: WireVector) -> None:
        register.next <<= pyrtl.select(is_on, value[: len(register)], register)

    next_phase = pyrtl.select(goes_over_rows & ~row_ends, phase, phase + 1)[:2]
    step(phase_kept, pyrtl.select(word_ends, constant(_MAXIMA, 2), next_phase))
    step(row, pyrtl.select(goes_over_rows & ~row_ends, following, zero))
    next_run = (run + wires["run_words"])[: kind.offset_bits]
    step(run, pyrtl.select(is_last, start, pyrtl.select(word_ends, next_run, run)))
    moved = pyrtl.select(goes_over_rows, (offset + 1)[: kind.offset_bits], offset)
    moved = pyrtl.select(goes_over_rows & row_ends, pyrtl.select(word_ends, next_run, run), moved)
    step(offset, pyrtl.select(is_last, start, moved))
    step(gone, pyrtl.select(is_last, zero, pyrtl.select(word_ends, gone + kind.lanes, gone)))
    step(place, pyrtl.select(is_last, 0, pyrtl.select(word_ends, place + 1, place)))
    return _Pass(is_on, phase, row == 0, row_ends, is_on & is_last, place, offset)


def _build(kind: SoftmaxKind, wires: Mapping[str, WireVector]) -> Wires:
    advance = constant(1, 1)
    now, divides = _walk(kind, wires), wires["divides"]
    # the same pass when it leaves
    later = _Pass(*(delayed(getattr(now, name), DEPTH_CYCLES, advance) for name in _Pass.__slots__))
    done = later.is_last
    is_factor = later.is_on & (later.phase == _FACTOR)
    is_value = later.is_on & (later.phase == _VALUES)
    memory = MemBlock(
        kind.lanes * _BITS, kind.sum_slot_bits + kind.word_bits, name="kept_sums", asynchronous=True,
        max_read_ports=None,
    )  # fmt: skip
    slots = [Register(kind.sum_slot_bits) for _ in range(2)]
    for slot, moves in zip(slots, (done & ~divides & wires["ends"], done & divides), strict=True):
        slot.next <<= (slot + moves)[: kind.sum_slot_bits]
    operands, exponents = _operands(kind, wires, now, memory[pyrtl.concat(slots[1], now.word)])
    division = pyrtl.select(
        now.phase == _FACTOR, constant(code_of("reciprocal"), 4), constant(code_of("copy"), 4)
    )  # fmt: skip
    operation = delayed(pyrtl.select(divides, division, constant(code_of("exp"), 4)), 2, advance)
    zero = constant(0, _BITS)
    results = [held(build_lane(operation, one, zero, lane), advance) for lane, one in enumerate(operands)]
    weights = [_weight(result) for result in results]
    place = pyrtl.concat(slots[0], later.word)
    begun = pyrtl.select(wires["begins"], constant(0, kind.lanes * _BITS), memory[place])
    sums = [
        _running_sum(is_factor, is_value, one, result, weight)
        for one, result, weight in zip(fields(begun, _BITS), results, weights, strict=True)
    ]
    kept = is_value & ~divides & later.is_last_of_rows
    memory[place] <<= MemBlock.EnabledWrite(packed(sums), kept)
    quotients = [
        _quotient(is_factor, result, exponent) for result, exponent in zip(results, exponents, strict=True)
    ]
    offset = Register(kind.offset_bits)
    grown = pyrtl.select(is_value, (offset + 1)[: kind.offset_bits], offset)
    offset.next <<= pyrtl.select(done, constant(0, kind.offset_bits), grown)
    factors = packed([result[:FACTOR_BITS] for result in results])
    return {
        "read_offset": now.offset, "write": is_value, "write_offset": offset, "weights": packed(weights),
        "quotients": packed(quotients), "done": done,
        "factors": _factor_memory(kind, wires, is_factor & ~divides, later.word, factors),
    }  # fmt: skip


def _operands(
    kind: SoftmaxKind, wires: Mapping[str, WireVector], now: _Pass, sums: WireVector
) -> tuple[list[WireVector], list[WireVector]]:
    """(the lanes' arguments two cycles after the pass, the exponents of sums when their pass leaves)."""
    advance = constant(1, 1)
    memory = MemBlock(
        kind.lanes * _BITS, kind.word_bits, name="kept_maxima", asynchronous=True, max_read_ports=None
    )  # fmt: skip
    before = fields(memory[now.word], _BITS)
    is_maximum = now.is_on & (now.phase == _MAXIMA)
    operands, exponents, grown = [], [], []
    for score, old, total in zip(fields(wires["word"], _BITS), before, fields(sums, _BITS), strict=True):
        running, entered = Register(_BITS), Register(_BITS)
        base = pyrtl.select(now.is_first, old, running)
        nothing = wires["begins"] & now.is_first
        larger = pyrtl.select(nothing | ~_is_less(score, base), score, base)
        running.next <<= pyrtl.select(is_maximum, larger, running)
        # a tile that begins has no old maximum: the factor is then exp(0), and nobody uses it
        old = pyrtl.select(wires["begins"], larger, old)
        entered.next <<= pyrtl.select(is_maximum & now.is_first, old, entered)
        grown.append(larger)
        left = pyrtl.select(now.phase == _FACTOR, entered, score)
        left = pyrtl.select(wires["begins"] & (now.phase == _FACTOR), running, left)
        bits = _BITS + 1
        difference = held((sign_extended(left, bits) - sign_extended(running, bits))[:bits], advance)
        scaled = _scaled(kind, difference)
        exponent, mantissa = normalised(held(total, advance))
        whole = held(score, advance)
        divided = pyrtl.select(
            delayed(now.phase == _FACTOR, 1, advance), mantissa[15:].zero_extended(_BITS), whole
        )  # fmt: skip
        operands.append(held(pyrtl.select(wires["divides"], divided, scaled), advance))
        exponents.append(delayed(exponent, DEPTH_CYCLES - 1, advance))
    memory[now.word] <<= MemBlock.EnabledWrite(packed(grown), is_maximum & now.is_last_of_rows)
    return operands, exponents


def _is_less(left: WireVector, right: WireVector) -> WireVector:
    bits = _BITS + 1
    return (sign_extended(left, bits) - sign_extended(right, bits))[:bits][-1]


def _scaled(kind: SoftmaxKind, difference: WireVector) -> WireVector:
    """difference * multiplier / 2^shift, rounded down, as a word."""
    bits = len(difference) + kind.multiplier.bit_length() + 1
    product = (sign_extended(difference, bits) * constant(kind.multiplier, bits))[:bits]
    moved = sign_extended(product[kind.shift :], max(bits - kind.shift, _BITS + 1))
    return clipped(moved)


def _weight(result: WireVector) -> WireVector:
    """exp of what is not positive, times the largest weight, rounded half up."""
    bits = FACTOR_BITS + WEIGHT_BITS
    product = (result[:FACTOR_BITS] * constant(LARGEST_WEIGHT, WEIGHT_BITS))[:bits]
    rounded = (product + constant(1 << (model.FRACTION_BITS - 1), bits))[:bits]
    return rounded[model.FRACTION_BITS : model.FRACTION_BITS + WEIGHT_BITS]


def _running_sum(
    is_factor: WireVector, is_value: WireVector, begun: WireVector, result: WireVector, weight: WireVector
) -> WireVector:
    """The sum with this pass: what is there times the factor, then the weights."""
    total = Register(_BITS)
    product = begun * result[:FACTOR_BITS]
    half = constant(1 << (model.FRACTION_BITS - 1), len(product))
    rescaled = (product + half)[: len(product)][model.FRACTION_BITS :].truncate(_BITS)
    more = pyrtl.concat(weight, constant(0, SUM_FRACTION_BITS)).zero_extended(_BITS)
    grown = pyrtl.select(is_value, (total + more)[:_BITS], total)
    total.next <<= pyrtl.select(is_factor, rescaled, grown)
    return grown


def _quotient(is_factor: WireVector, result: WireVector, exponent: WireVector) -> WireVector:
    """mixed value * (1 / mantissa) / 2^exponent as a word, rounded half up; the factor pass brings both divisors."""
    factor, power = Register(FACTOR_BITS), Register(len(exponent))
    factor.next <<= pyrtl.select(is_factor, result[:FACTOR_BITS], factor)
    power.next <<= pyrtl.select(is_factor, exponent, power)
    bits = _BITS + FACTOR_BITS + 2
    product = (sign_extended(result, bits) * factor.zero_extended(bits))[:bits]
    doubled = pyrtl.concat(product[: bits - 1], constant(0, 1))
    places = (power - constant(SUM_FRACTION_BITS, len(power)))[: len(power)]
    moved = pyrtl.shift_right_arithmetic(doubled, places)
    return clipped((moved + constant(1, bits))[:bits][1:])


def _factor_memory(
    kind: SoftmaxKind,
    wires: Mapping[str, WireVector],
    writes: WireVector,
    word: WireVector,
    factors: WireVector,
) -> WireVector:
    """The factors of a tile, kept as long as its weights."""
    memory = MemBlock(
        kind.lanes * FACTOR_BITS, kind.slot_bits + kind.word_bits, name="kept_factors", asynchronous=True,
        max_read_ports=None,
    )  # fmt: skip
    memory[pyrtl.concat(wires["slot"], word)] <<= MemBlock.EnabledWrite(factors, writes)
    return memory[pyrtl.concat(wires["factor_slot"], wires["factor_word"][: kind.word_bits])]
