"""Address generators: which word of a tile the array takes next, and where a row of sums goes.

The array (output-stationary) walks the folds of a tile with the columns inside, `k` beats in each. A tile of the west
lies as words of `rows` elements, k after k, one run of them after another; each run is gone through again for
every run of the north, which lies the same way with words of `cols` elements. So no multiplication is needed:
an address goes on by one, back to where its run began, or back to zero.

Sums leave a fold with its last row first. They go one fold after the other ("folded"), or, where they are the north
of a later product, to the run of their columns at the place of their row ("turned").
"""

from collections.abc import Mapping

import pyrtl
from pyrtl import Register, WireVector

from tilewright.hls_templates.rtl.array import Leaf
from tilewright.hls_templates.rtl.cell import Wires
from tilewright.hls_templates.rtl.control import Grid
from tilewright.hls_templates.rtl.wires import constant


def address_leaf(grid: Grid, offset_bits: int) -> Leaf:
    """Inputs: the leaf's `n` and `k`, `run_words` (k of the product that reads turned sums), the array's handshakes.

    Outputs are offsets in words from the beginning of a tile; all return to its first word with `done`. `across`
    numbers the words of columns that the row of sums is of.
    """
    inputs = {
        "n": grid.size_bits, "k": grid.size_bits, "run_words": offset_bits, "beat": 1, "row_valid": 1,
        "row": grid.size_bits, "done": 1,
    }  # fmt: skip
    outputs = dict.fromkeys(("west", "north", "folded", "turned"), offset_bits) | {"across": grid.size_bits}
    return Leaf("addresses", inputs, outputs, lambda wires: _build(grid, offset_bits, wires))


def _build(grid: Grid, bits: int, wires: Mapping[str, WireVector]) -> Wires:
    done = wires["done"]
    west, north = _operands(grid, bits, wires, done)
    folded, turned, across = _sums(grid, bits, wires, done)
    return {"west": west, "north": north, "folded": folded, "turned": turned, "across": across}


def _stepped(register: Register, when: WireVector, value: WireVector, done: WireVector, rest: int) -> None:
    """Takes `value` when told, and its place of rest when the leaf is done."""
    bits = len(register)
    register.next <<= pyrtl.select(
        done, constant(rest, bits), pyrtl.select(when, value[:bits], register)
    )  # fmt: skip


def _columns_left(
    grid: Grid, n: WireVector, turns: WireVector, done: WireVector
) -> tuple[Register, WireVector]:
    """(columns gone through, whether the fold is the last across)."""
    gone = Register(grid.size_bits)
    is_last = (n - gone)[: grid.size_bits] <= grid.cols
    zero = constant(0, grid.size_bits)
    _stepped(gone, turns, pyrtl.select(is_last, zero, (gone + grid.cols)[: grid.size_bits]), done, 0)
    return gone, is_last


def _operands(
    grid: Grid, bits: int, wires: Mapping[str, WireVector], done: WireVector
) -> tuple[WireVector, WireVector]:
    beat = wires["beat"]
    place = Register(grid.size_bits)
    following = (place + 1)[: grid.size_bits]
    ends = following == wires["k"]
    _stepped(place, beat, pyrtl.select(ends, constant(0, grid.size_bits), following), done, 0)
    _, is_last = _columns_left(grid, wires["n"], beat & ends, done)
    west, run, north = Register(bits), Register(bits), Register(bits)
    west_on, north_on = (west + 1)[:bits], (north + 1)[:bits]
    _stepped(west, beat, pyrtl.select(ends & ~is_last, run, west_on), done, 0)
    _stepped(run, beat & ends & is_last, west_on, done, 0)
    _stepped(north, beat, pyrtl.select(ends & is_last, constant(0, bits), north_on), done, 0)
    return west, north


def _sums(
    grid: Grid, bits: int, wires: Mapping[str, WireVector], done: WireVector
) -> tuple[WireVector, WireVector, WireVector]:
    valid = wires["row_valid"]
    ends = wires["row"] == 0
    top = grid.rows - 1
    folded, turned, first = Register(bits, reset_value=top), Register(bits, reset_value=top), Register(bits)
    _stepped(
        folded, valid, pyrtl.select(ends, (folded + top + grid.rows)[:bits], (folded - 1)[:bits]), done, top
    )
    _, is_last = _columns_left(grid, wires["n"], valid & ends, done)
    lower = (first + grid.rows)[:bits]
    _stepped(first, valid & ends & is_last, lower, done, 0)
    across = (turned + wires["run_words"] + top)[:bits]
    jump = pyrtl.select(is_last, (lower + top)[:bits], across)
    _stepped(turned, valid, pyrtl.select(ends, jump, (turned - 1)[:bits]), done, top)
    word = Register(grid.size_bits)
    _stepped(
        word, valid & ends, pyrtl.select(is_last, constant(0, grid.size_bits), (word + 1)[: grid.size_bits]), done, 0
    )  # fmt: skip
    return folded, turned, word
