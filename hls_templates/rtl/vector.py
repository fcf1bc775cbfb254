"""The vector unit: lanes, a tree over them and a register of running results, fed by works.

A *work* is one operation over `passes` passes, each of a word per lane. Its operands come as a stream with valid
and ready; a pass enters in every cycle that has one. Passes of different works follow each other without a gap.
What a pass does leaves `DEPTH_CYCLES` cycles after it entered: operand register, five of the lane, the tree, the
running result. So works of one leaf take DEPTH_CYCLES + their passes cycles from the first pass to `done`, both
counted: `sim.vector.leaf_cycles` with `startup_cycles` 8 and one cycle per evaluation.

With `reduces` set to 1 (maximum) or 2 (sum) the tree joins the lanes' words and the running result those of
`row_passes` passes; lanes from `last_lanes` on take no part in the last pass of a row. A work may not read what
another one writes before that has left; the sequence of works sees to that, with rows between the two.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pyrtl
from pyrtl import Register, WireVector

from tilewright.dataflow.errors import InputError
from tilewright.hls_templates.rtl import fixed_model as model
from tilewright.hls_templates.rtl.cell import Wires
from tilewright.hls_templates.rtl.functions import LANE_REGISTERS, OPERATION_BITS, build_lane
from tilewright.hls_templates.rtl.wires import (
    constant,
    counter_bits,
    delayed,
    fields,
    held,
    packed,
    sign_extended,
)
from tilewright.sim.architecture import VectorUnit

#: Cycles from a pass at the inputs to its results at the outputs.
DEPTH_CYCLES = LANE_REGISTERS + 3
MAX_LANES = 256
PASS_BITS = 16
NO_REDUCTION, MAXIMUM, SUM = 0, 1, 2
_BITS = model.WORD_BITS


@dataclass(frozen=True, slots=True)
class Lanes:
    """A vector unit of `count` lanes of 32 bits."""

    count: int

    @property
    def lane_bits(self) -> int:
        """Bits of a number of lanes."""
        return counter_bits(self.count)


def vector_lanes(count: int) -> Lanes:
    """Raises InputError for a number of lanes outside of 1 .. MAX_LANES."""
    if not 1 <= count <= MAX_LANES:
        raise InputError(f"vector unit: lanes must be 1 to {MAX_LANES}, got {count}")
    return Lanes(count)


def lanes_of(unit: VectorUnit) -> Lanes:
    """The lanes that an architecture's unit is built as.

    Raises InputError for one whose words, startup or cycles of an evaluation differ from those built here.
    """
    if unit.element_bits != model.WORD_BITS:
        raise InputError(f"{unit.name}: lanes are built for words of 32 bits, got {unit.element_bits}")
    if unit.startup_cycles != DEPTH_CYCLES:
        raise InputError(
            f"{unit.name}: a unit is built with startup_cycles {DEPTH_CYCLES}, got {unit.startup_cycles}"
        )
    for function, cycles in unit.cycles_per_evaluation:
        if cycles != 1:
            raise InputError(f"{unit.name}: {function} is built with 1 cycle per evaluation, got {cycles}")
    return vector_lanes(unit.lanes)


def vector_inputs(lanes: Lanes) -> Mapping[str, int]:
    """Width of every input of the unit by name; the `work` wires stay until `work_ready`."""
    words = lanes.count * _BITS
    return {
        "work_valid": 1, "operation": OPERATION_BITS, "reduces": 2, "passes": PASS_BITS,
        "row_passes": PASS_BITS, "last_lanes": lanes.lane_bits, "ends": 1, "in_valid": 1, "a": words,
        "b": words,
    }  # fmt: skip


def vector_outputs(lanes: Lanes) -> Mapping[str, int]:
    """`out` are the lanes' words; `reduced` the running result, which `reduced_valid` shows at the row's end."""
    return {
        "work_ready": 1, "in_ready": 1, "out_valid": 1, "out": lanes.count * _BITS, "reduced_valid": 1,
        "reduced": _BITS, "done": 1,
    }  # fmt: skip


def build_vector(lanes: Lanes, wires: Mapping[str, WireVector]) -> Wires:
    """The outputs of the unit whose inputs are `wires`."""
    advance = constant(1, 1)
    enters = wires["work_valid"] & wires["in_valid"]
    is_last, starts_row, ends_row = _passes(wires, enters)
    operation = held(wires["operation"], advance)
    pairs = zip(fields(wires["a"], _BITS), fields(wires["b"], _BITS), strict=True)
    words = [
        build_lane(operation, held(a, advance), held(b, advance), lane) for lane, (a, b) in enumerate(pairs)
    ]
    behind = LANE_REGISTERS + 1
    valid, reduces, starts, ends = (
        delayed(wire, behind, advance) for wire in (enters, wires["reduces"], starts_row, ends_row)
    )
    live = delayed(
        pyrtl.select(ends_row, wires["last_lanes"], constant(lanes.count, lanes.lane_bits)), behind, advance
    )
    takes_sum = reduces == SUM
    joined = held(_tree(_live(words, live, takes_sum), takes_sum), advance)
    running = _running(joined, *(held(wire, advance) for wire in (valid, takes_sum, starts)))
    return {
        "work_ready": is_last,
        "in_ready": wires["work_valid"],
        "out_valid": delayed(valid, 2, advance),
        "out": delayed(packed(words), 2, advance),
        "reduced_valid": delayed(valid & ends & (reduces != NO_REDUCTION), 2, advance),
        "reduced": running,
        "done": delayed(is_last & wires["ends"], DEPTH_CYCLES, advance),
    }


def _passes(wires: Mapping[str, WireVector], enters: WireVector) -> tuple[WireVector, WireVector, WireVector]:
    """(the work's last pass enters, the pass is the first of a row, the last of one)."""
    done, in_row = Register(PASS_BITS), Register(PASS_BITS)
    following, following_in_row = ((one + 1)[:PASS_BITS] for one in (done, in_row))
    zero = constant(0, PASS_BITS)
    is_last = enters & (following == wires["passes"])
    ends_row = is_last | (following_in_row == wires["row_passes"])
    done.next <<= pyrtl.select(is_last, zero, pyrtl.select(enters, following, done))
    in_row.next <<= pyrtl.select(enters, pyrtl.select(ends_row, zero, following_in_row), in_row)
    return is_last, in_row == 0, ends_row


def _live(words: list[WireVector], live: WireVector, takes_sum: WireVector) -> list[WireVector]:
    """Lanes that take no part hold what changes nothing."""
    nothing = pyrtl.select(takes_sum, constant(0, _BITS), constant(model.SMALLEST, _BITS))
    return [pyrtl.select(live > lane, word, nothing) for lane, word in enumerate(words)]


def _joined(left: WireVector, right: WireVector, takes_sum: WireVector) -> WireVector:
    """The sum, modulo 2^32, or the larger one."""
    bits = _BITS + 1
    difference = (sign_extended(left, bits) - sign_extended(right, bits))[:bits]
    larger = pyrtl.select(difference[-1], right, left)
    return pyrtl.select(takes_sum, (left + right)[:_BITS], larger)


def _tree(words: list[WireVector], takes_sum: WireVector) -> WireVector:
    while len(words) > 1:
        pairs = [_joined(a, b, takes_sum) for a, b in zip(words[::2], words[1::2], strict=False)]
        words = pairs + words[len(pairs) * 2 :]
    return words[0]


def _running(joined: WireVector, valid: WireVector, takes_sum: WireVector, starts: WireVector) -> WireVector:
    total = Register(_BITS)
    grown = pyrtl.select(starts, joined, _joined(total, joined, takes_sum))
    total.next <<= pyrtl.select(valid, grown, total)
    return total
