"""One PE with its registers, as a function from wires to wires: the leaf of a grid.

All cells take `west` and `north` operands and flags that travel with them, and hand them on a step later.

Output-stationary, flags `valid`, `first`, `last` of a fold's beats:
  the product is added to the PE's sum, which starts anew at `first`. Without overlap `shift` moves the sums
  of a column one PE south. With overlap the finished sum goes into a second register at `last`, and `shift`
  (which travels east) moves only those.
Held (weight- or input-stationary), flags `valid`, `first`:
  `north` enters the column of held operands while `shift` is 1, one PE south per step. With overlap that
  column is a second register, from which the operand in use is taken at `first`. A sum comes from `above`
  and leaves to `below` with the product added.
A cell of two `lanes` is two PEs beside each other that share a multiplier.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pyrtl
from pyrtl import Register, WireVector

from tilewright.hls_templates.rtl.bfloat import bf16_product, float_sum
from tilewright.hls_templates.rtl.packed import packed_int8_products
from tilewright.hls_templates.rtl.pe import PeKind, product
from tilewright.hls_templates.rtl.wires import (
    constant,
    feedback,
    fields,
    held,
    packed,
    sign_extended,
    wrapped_sum,
)
from tilewright.sim.architecture import Stationarity

Wires = dict[str, WireVector]

#: Bits of the flags that travel with a western operand: valid, first, last.
N_FLAGS = 3


@dataclass(frozen=True, slots=True)
class CellKind:
    """A PE's arithmetic and place: what moves and what stays, and whether it has a second register."""

    pe: PeKind
    stationarity: Stationarity
    drain_overlap: bool
    lanes: int = 1  # columns of the grid that one PE serves; two share a multiplier

    @property
    def keeps_sums(self) -> bool:
        return self.stationarity == "output"

    @property
    def west_bits(self) -> int:
        """Activations enter from the west, but for an input-stationary grid, which holds them."""
        return self.pe.weight_bits if self.stationarity == "input" else self.pe.activation_bits

    @property
    def north_bits(self) -> int:
        return self.pe.activation_bits if self.stationarity == "input" else self.pe.weight_bits

    @property
    def chain_bits(self) -> int:
        """What a column moves south: of an output-stationary bf16 PE the sums of even and of odd beats."""
        return self.pe.sum_bits * (2 if self.keeps_sums and self.pe.is_float else 1)

    @property
    def inputs(self) -> Mapping[str, int]:
        """Width of every input by name."""
        return {
            "west": self.west_bits, "north": self.north_bits * self.lanes, "flags": N_FLAGS, "shift": 1,
            "above": self.chain_bits * self.lanes, "advance": 1,
        }  # fmt: skip

    @property
    def outputs(self) -> Mapping[str, int]:
        return {
            "east": self.west_bits, "south": self.north_bits * self.lanes, "flags_east": N_FLAGS,
            "shift_east": 1, "below": self.chain_bits * self.lanes,
        }  # fmt: skip


def build_cell(kind: CellKind, wires: Mapping[str, WireVector]) -> Wires:
    """The outputs of one PE whose inputs are `wires`, by the names of `CellKind.inputs`."""
    if kind.lanes == 2:
        return _pair(kind, wires)
    return _output_cell(kind, wires) if kind.keeps_sums else _held_cell(kind, wires)


def _output_cell(kind: CellKind, wires: Mapping[str, WireVector]) -> Wires:
    advance = wires["advance"]
    west, north, flags = (held(wires[name], advance) for name in ("west", "north", "flags"))
    if kind.pe.is_float:
        below = _float_chain(kind, wires, west, north, flags)
    else:
        below = _integer_chain(kind, wires, product(kind.pe, west, north), flags)
    return {
        "east": west, "south": north, "flags_east": flags, "shift_east": held(wires["shift"], advance),
        "below": below,
    }  # fmt: skip


def _pair(kind: CellKind, wires: Mapping[str, WireVector]) -> Wires:
    """Two columns whose products come from one multiplier.

    The second column's product waits a step in a register, so that the column keeps the place in time that
    it has on a grid of plain PEs: flags, shifts and what leaves to the east are those of two columns.
    """
    advance = wires["advance"]
    west, flags = held(wires["west"], advance), held(wires["flags"], advance)
    norths, aboves = fields(wires["north"], kind.north_bits), fields(wires["above"], kind.chain_bits)
    columns, in_use = [], []
    for north in norths:
        if kind.keeps_sums:
            columns.append(held(north, advance))
            in_use.append(columns[-1])
        else:
            column, used = _held_operand(kind, wires, north)
            columns.append(column)
            in_use.append(used)
    wide = [sign_extended(one, 8) for one in (west, *in_use)]
    low, high = (sign_extended(one, kind.pe.sum_bits) for one in packed_int8_products(*wide))
    shift_later, flags_later = held(wires["shift"], advance), held(flags, advance)
    later = {"shift": shift_later if kind.drain_overlap else wires["shift"], "above": aboves[1]}
    lanes = (({"above": aboves[0]}, low, flags), (later, held(high, advance), flags_later))
    belows = []
    for own, times, lane_flags in lanes:
        if kind.keeps_sums:
            belows.append(_integer_chain(kind, {**wires, **own}, times, lane_flags))
        else:
            belows.append(held(wrapped_sum(own["above"], times), advance))
    return {
        "east": held(west, advance), "south": packed(columns), "flags_east": flags_later,
        "shift_east": held(shift_later, advance), "below": packed(belows),
    }  # fmt: skip


def _integer_chain(
    kind: CellKind, wires: Mapping[str, WireVector], times: WireVector, flags: WireVector
) -> WireVector:
    """A sum that stays, of products `times` whose `flags` come with them."""
    advance = wires["advance"]
    valid, first, last = flags[0], flags[1], flags[2]
    total = Register(kind.pe.sum_bits)
    base = pyrtl.select(first, constant(0, kind.pe.sum_bits), total)
    grown = wrapped_sum(base, times)
    # flags are part of the enable, which costs no logic per bit
    if not kind.drain_overlap:
        moved = pyrtl.select(wires["shift"], wires["above"], grown)
        feedback(total, moved, advance & (valid | wires["shift"]))
        return total
    feedback(total, grown, advance & valid)
    return _second_register(kind, wires, last, grown)


def _second_register(
    kind: CellKind, wires: Mapping[str, WireVector], last: WireVector, finished: WireVector
) -> WireVector:
    """Takes the finished sum at `last`, else the one from above while the column is shifted."""
    second = Register(kind.chain_bits)
    moved = pyrtl.select(last, finished, wires["above"])
    feedback(second, moved, wires["advance"] & (last | wires["shift"]))
    return second


def _float_chain(
    kind: CellKind, wires: Mapping[str, WireVector], west: WireVector, north: WireVector, flags: WireVector
) -> WireVector:
    """An addition takes two steps, so the sums of even and of odd beats take turns in the adder."""
    advance = wires["advance"]
    times = held(bf16_product(west, north), advance)
    flags = held(flags, advance)
    valid, first, last = flags[0], flags[1], flags[2]
    second_beat = held(first, advance)
    zero = constant(0, kind.pe.sum_bits)
    total = Register(kind.pe.sum_bits)
    base = pyrtl.select(first | second_beat, zero, total)
    grown = float_sum(base, pyrtl.select(valid, times, zero), advance)
    feedback(total, grown, advance)
    # one step later: `grown` is the sum of the last beat's turn, `total` that of the beat before it
    ends, was_only = held(last, advance), held(last & first, advance)
    other = pyrtl.select(was_only, zero, total)
    return _second_register(kind, wires, ends, pyrtl.concat(other, grown))


def _held_cell(kind: CellKind, wires: Mapping[str, WireVector]) -> Wires:
    advance = wires["advance"]
    west = held(wires["west"], advance)
    flags = held(wires["flags"], advance)
    column, in_use = _held_operand(kind, wires, wires["north"])
    if kind.pe.is_float:
        times = held(bf16_product(west, in_use), advance)
        below: WireVector = held(float_sum(wires["above"], times, advance), advance)
    else:
        activation, weight = (in_use, west) if kind.stationarity == "input" else (west, in_use)
        below = held(wrapped_sum(wires["above"], product(kind.pe, activation, weight)), advance)
    return {
        "east": west, "south": column, "flags_east": flags, "shift_east": held(wires["shift"], advance),
        "below": below,
    }  # fmt: skip


def _held_operand(
    kind: CellKind, wires: Mapping[str, WireVector], north: WireVector
) -> tuple[WireVector, WireVector]:
    """(register of the column that is filled, operand in use); with overlap these are two registers."""
    column = Register(kind.north_bits)
    feedback(column, pyrtl.select(wires["shift"], north, column), wires["advance"])
    if not kind.drain_overlap:
        return column, column
    # taken a step early, with the fold's first operand on its way into `west`
    used = Register(kind.north_bits)
    feedback(used, pyrtl.select(wires["flags"][1], column, used), wires["advance"])
    return column, used
