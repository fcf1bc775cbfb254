"""A whole array: controller, skewing edges and a grid of PEs, flat in one PyRTL block.

Ports: `start`, the sizes `m`, `n`, `k` of `batch` products that follow each other, and three streams with
valid and ready. A word of `west` holds an element for every row of the grid, one of `north` and `south` an
element for every column, the first in the lowest bits. `rtl.order` says what is in them. `south_row` is the row
of a word within its fold; `south_first` says whether it replaces what is there or is added to it. `done` is
high in the cycle in which the last word is taken; the cycles of a run are counted from the one with `start` to
that one, both included.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyrtl
from pyrtl import WireVector

from tilewright.dataflow.errors import InputError
from tilewright.hls_templates.rtl.bfloat import float_sum
from tilewright.hls_templates.rtl.cell import N_FLAGS, CellKind, Wires, build_cell
from tilewright.hls_templates.rtl.control import Grid, build_control, control_inputs, control_outputs
from tilewright.hls_templates.rtl.pe import PeKind, PeName, pe_kind, product_bits
from tilewright.hls_templates.rtl.wires import constant, delayed, fields, held, packed
from tilewright.sim.architecture import MatrixArray, Stationarity
from tilewright.sim.arrays import ONE_CYCLE_PE

#: Rows or columns beyond this make blocks that no simulator here takes.
MAX_SIDE = 128


@dataclass(frozen=True, slots=True)
class Leaf:
    """A block of its own in Verilog: port widths by name, and the function that builds it."""

    name: str
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    build: Callable[[Mapping[str, WireVector]], Wires]


def array_grid(
    rows: int, cols: int, stationarity: Stationarity = "output", *, drain_overlap: bool = False,
    pe: PeKind | str = "int8", packs: bool = False, size_bits: int = 16,
) -> Grid:  # fmt: skip
    """A grid, checked; with `packs`, PEs of two neighbouring columns share a multiplier.

    Raises InputError for sides outside of 1 .. MAX_SIDE, sizes outside of 1 .. 24 bits, and for `packs` with an
    odd number of columns or with operands that are no integers of up to 8 bits.
    """
    for name, value, limit in (
        ("rows", rows, MAX_SIDE),
        ("cols", cols, MAX_SIDE),
        ("size_bits", size_bits, 24),
    ):
        if not 1 <= value <= limit:
            raise InputError(f"array: {name} must be 1 to {limit}, got {value}")
    kind = pe_kind(pe) if isinstance(pe, str) else pe
    if counter_limit(size_bits) < max(rows, cols):
        raise InputError(f"array: size_bits {size_bits} do not hold {max(rows, cols)} rows or columns")
    if packs and (cols % 2 or not _packs(kind)):
        raise InputError(
            f"array: a packed multiplier takes two columns and integers of up to 8 bits,"
            f" got {cols} columns of {kind.name} with {kind.weight_bits} and {kind.activation_bits} bits"
        )
    cell = CellKind(kind, stationarity, drain_overlap, lanes=2 if packs else 1)
    return Grid(cell, rows, cols, size_bits)


def _packs(kind: PeKind) -> bool:
    is_integer = kind.name in ("int4", "int8", "int")
    return is_integer and max(kind.weight_bits, kind.activation_bits) <= 8


def counter_limit(size_bits: int) -> int:
    """The largest size that a controller of so many bits walks over."""
    return (1 << size_bits) - 1


_ARITHMETIC: Mapping[str, PeName] = {
    "mac": "int", "packed_mac": "int", "ternary_add": "ternary", "shift_add": "shift_add",
}  # fmt: skip
#: PEs whose weights are codes have one width of them.
_KINDS_WITH_CODES = {"ternary": 2, "shift_add": 4}


def grid_of(array: MatrixArray) -> Grid:
    """The grid that one of `array`'s arrays is built as; an odd number of columns has no packed multipliers.

    Raises InputError for arithmetic, a discipline or widths that no array here has, naming them.
    """
    weight_bits, activation_bits = array.operand_bits
    if array.arithmetic not in _ARITHMETIC or array.discipline != "systolic":
        what = array.arithmetic if array.arithmetic not in _ARITHMETIC else array.discipline
        raise InputError(f"{array.name}: no RTL is built for an array of {what!r}")
    bf16 = pe_kind("bf16")
    if array.pe_cycles == (bf16.multiply_cycles, bf16.add_cycles):
        return _bf16_grid(array, bf16)
    if array.pe_cycles != ONE_CYCLE_PE:
        raise InputError(f"{array.name}: no PE is built with pe_cycles {array.pe_cycles}")
    name = _ARITHMETIC[array.arithmetic]
    kind = PeKind(name, activation_bits, weight_bits, array.accumulator_bits)
    wanted = _KINDS_WITH_CODES.get(name, weight_bits)
    if not (
        weight_bits == wanted
        and all(2 <= bits <= 16 for bits in array.operand_bits)
        and product_bits(kind) <= kind.sum_bits <= 64
    ):
        raise InputError(
            f"{array.name}: no {name} PE is built for weights of {weight_bits} bits, activations of"
            f" {activation_bits} and sums of {array.accumulator_bits}"
        )
    packs = array.arithmetic == "packed_mac" and array.cols % 2 == 0 and _packs(kind)
    return array_grid(
        array.rows, array.cols, array.stationarity, drain_overlap=array.drain_overlap, pe=kind, packs=packs
    )


def _bf16_grid(array: MatrixArray, kind: PeKind) -> Grid:
    """The only pipelined PE is that of bfloat16."""
    if (array.arithmetic, array.operand_bits, array.accumulator_bits) != ("mac", (16, 16), 32):
        raise InputError(
            f"{array.name}: pe_cycles {array.pe_cycles} are those of the bf16 PE, which takes operands of 16"
            f" bits and sums of 32, got {array.operand_bits} and {array.accumulator_bits}"
        )
    return array_grid(array.rows, array.cols, array.stationarity, drain_overlap=array.drain_overlap, pe=kind)


def control_leaf(grid: Grid) -> Leaf:
    return Leaf(
        "array_control", control_inputs(grid), control_outputs(grid), lambda wires: build_control(grid, wires)
    )


def cell_leaf(grid: Grid) -> Leaf:
    return Leaf("array_pe", grid.kind.inputs, grid.kind.outputs, lambda wires: build_cell(grid.kind, wires))


def west_leaf(grid: Grid) -> Leaf:
    """Delays each row's operand and flags by its place; rows beyond a held operand's are zero."""
    bits = grid.kind.west_bits

    def build(wires: Mapping[str, WireVector]) -> Wires:
        words, flags = [], []
        for row, word in enumerate(fields(wires["west"], bits)):
            if not grid.kind.keeps_sums:
                word = pyrtl.select(wires["row_live"][row], word, constant(0, bits))
            words.append(delayed(word, row * grid.row_skew, wires["advance"]))
            flags.append(delayed(wires["flags"], row * grid.row_skew, wires["advance"]))
        return {"west_out": packed(words), "flags_out": packed(flags)}

    inputs = {"west": bits * grid.rows, "flags": N_FLAGS, "row_live": grid.rows, "advance": 1}
    outputs = {"west_out": bits * grid.rows, "flags_out": N_FLAGS * grid.rows}
    return Leaf("array_west", inputs, outputs, build)


def north_leaf(grid: Grid) -> Leaf:
    """Delays each column's operand by its place, but where all columns are filled at once."""
    bits = grid.kind.north_bits
    is_skewed = grid.kind.keeps_sums or grid.kind.drain_overlap

    def build(wires: Mapping[str, WireVector]) -> Wires:
        words = []
        for column, word in enumerate(fields(wires["north"], bits)):
            if not grid.kind.keeps_sums:
                word = pyrtl.select(wires["north_live"], word, constant(0, bits))
            # the columns of one PE take their operands together
            place = column - column % grid.kind.lanes
            words.append(delayed(word, place if is_skewed else 0, wires["advance"]))
        return {"north_out": packed(words)}

    inputs = {"north": bits * grid.cols, "north_live": 1, "advance": 1}
    return Leaf("array_north", inputs, {"north_out": bits * grid.cols}, build)


def south_leaf(grid: Grid) -> Leaf:
    """Aligns the columns, adds the two sums of a bf16 PE, and holds sums that were kept in a register."""
    kind = grid.kind
    is_skewed = not kind.keeps_sums or kind.drain_overlap

    def build(wires: Mapping[str, WireVector]) -> Wires:
        advance = wires["advance"]
        words = []
        for column, word in enumerate(fields(wires["bottom"], kind.chain_bits)):
            word = delayed(word, grid.cols - 1 - column if is_skewed else 0, advance)
            if kind.keeps_sums:
                if kind.pe.is_float:
                    word = float_sum(word[: kind.pe.sum_bits], word[kind.pe.sum_bits :], advance)
                word = held(word, advance)
            words.append(word)
        return {"south": packed(words)}

    inputs = {"bottom": kind.chain_bits * grid.cols, "advance": 1}
    return Leaf("array_south", inputs, {"south": kind.pe.sum_bits * grid.cols}, build)


def array_inputs(grid: Grid) -> Mapping[str, int]:
    """Width of every input of the whole array by name."""
    sizes = dict.fromkeys(("m", "n", "k", "batch"), grid.size_bits)
    return {
        "start": 1, **sizes, "west_valid": 1, "west_data": grid.kind.west_bits * grid.rows,
        "north_valid": 1, "north_data": grid.kind.north_bits * grid.cols, "south_ready": 1,
    }  # fmt: skip


def array_outputs(grid: Grid) -> Mapping[str, int]:
    """Width of every output of the whole array by name."""
    return {
        "west_ready": 1, "north_ready": 1, "south_valid": 1, "south_row": grid.size_bits, "south_first": 1,
        "south_data": grid.kind.pe.sum_bits * grid.cols, "busy": 1, "done": 1,
    }  # fmt: skip


#: Which size of a product lies along the rows, along the columns and along time.
AXES: Mapping[Stationarity, tuple[str, str, str]] = {
    "output": ("m", "n", "k"), "weight": ("k", "n", "m"), "input": ("k", "m", "n"),
}  # fmt: skip


def build_array(grid: Grid, wires: Mapping[str, WireVector]) -> Wires:
    """The outputs of the whole array whose inputs are `wires`, by the names of `array_inputs`."""
    sizes = dict(
        zip(("u", "v", "beats"), (wires[name] for name in AXES[grid.kind.stationarity]), strict=True)
    )
    handshake = {name: wires[name] for name in ("start", "batch", "west_valid", "north_valid", "south_ready")}
    control = build_control(grid, sizes | handshake)
    advance = {"advance": control["advance"]}
    west = west_leaf(grid).build(
        advance | {"west": wires["west_data"], "flags": control["flags"], "row_live": control["row_live"]}
    )
    north = north_leaf(grid).build(
        advance | {"north": wires["north_data"], "north_live": control["north_live"]}
    )
    bottom = _cells(grid, control, west, north)
    south = south_leaf(grid).build(advance | {"bottom": bottom})
    passed_on = ("west_ready", "north_ready", "south_valid", "south_row", "south_first", "busy", "done")
    return {name: control[name] for name in passed_on} | {"south_data": south["south"]}


def _cells(grid: Grid, control: Wires, west: Wires, north: Wires) -> WireVector:
    """The grid; what its last row hands south as one word."""
    kind = grid.kind
    n_across = grid.cols // kind.lanes
    souths = fields(north["north_out"], kind.north_bits * kind.lanes)
    belows: list[WireVector] = [constant(0, kind.chain_bits * kind.lanes) for _ in range(n_across)]
    easts = fields(west["west_out"], kind.west_bits)
    flags = fields(west["flags_out"], N_FLAGS)
    for row in range(grid.rows):
        east, flag, shift = easts[row], flags[row], control["shift"][row]
        for column in range(n_across):
            cell = build_cell(kind, {
                "west": east, "north": souths[column], "flags": flag, "shift": shift,
                "above": belows[column], "advance": control["advance"],
            })  # fmt: skip
            east, flag = cell["east"], cell["flags_east"]
            if kind.drain_overlap:
                shift = cell["shift_east"]
            souths[column], belows[column] = cell["south"], cell["below"]
    return packed(belows)
