"""How matrices lie in DRAM: words of several elements, tiles or rows one behind the other.

Activations are rows of words, so that any stage can read what another one wrote; parameters are packed tile
by tile in the order of their loops, so that a tile is one burst. The kernel computes word addresses from the
strides; `Placement` is the same layout as data, for packing and for checking.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.hls_templates.stage import Axis, GemmStage, Operand

#: The widest port of a kernel in bits (an AXI limit of the vendor's memory controllers).
MAX_PORT_BITS = 512
#: Second matrices of the maps behind the sums, in the order of their use.
SIDES = ("residual", "residual2")
ACTIVATIONS = ("x", "x_down", *SIDES, "y")


@dataclass(frozen=True, slots=True)
class Span:
    """Elements start .. start + size of one dimension lie `offset_words` behind the matrix' start."""

    start: int
    size: int
    offset_words: int


@dataclass(frozen=True, slots=True)
class Placement:
    """A matrix of rows x cols in a port's memory; `lanes` elements of `bits` bits share a word."""

    operand: str
    tensor: str
    bits: int
    lanes: int
    rows: int
    cols: int
    base_words: int
    pitch_words: int
    row_spans: tuple[Span, ...]
    col_spans: tuple[Span, ...]

    def element_positions(self) -> NDArray[np.int64]:
        """Index of every element in the memory, counted in elements; shape (rows, cols)."""
        row_words = np.empty(self.rows, dtype=np.int64)
        for span in self.row_spans:
            steps = np.arange(span.size) * self.pitch_words
            row_words[span.start : span.start + span.size] = span.offset_words + steps
        col_elements = np.empty(self.cols, dtype=np.int64)
        for span in self.col_spans:
            steps = np.arange(span.size)
            col_elements[span.start : span.start + span.size] = span.offset_words * self.lanes + steps
        return (self.base_words + row_words)[:, None] * self.lanes + col_elements[None, :]

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> "Placement":
        """The placement that `dataclasses.asdict` gave."""
        spans = {name: tuple(Span(**span) for span in stored[name]) for name in ("row_spans", "col_spans")}
        return Placement(**{**stored, **spans})


@dataclass(frozen=True, slots=True)
class Strides:
    """Word address of a tile: base + sum of iteration * stride over `axes`, then `pitch` per row."""

    base: int
    pitch: int
    axes: tuple[tuple[str, int], ...]


def operand_axes(stage: GemmStage, operand: Operand) -> tuple[tuple[Axis, ...], tuple[Axis, ...]]:
    """The axes that move along the rows and along the columns of an operand, outermost first."""
    axes = [stage.axis(name) for name in operand.walk.axes]
    rows = tuple(axis for axis in axes if axis.dim == operand.row_dim)
    cols = tuple(axis for axis in axes if axis.dim == operand.col_dim)
    return _outer_first(rows), _outer_first(cols)


def _outer_first(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    return tuple(sorted(axes, key=lambda axis: -axis.step))


def tile_size(axes: Sequence[Axis], extent: int) -> int:
    """Elements of a full tile along a dimension with these axes."""
    return next((axis.size for axis in axes if axis.sizes), extent)


def place(stage: GemmStage, operand: Operand, lanes: int, base: int) -> tuple[Placement, Strides, int]:
    """The operand's placement from word `base` on, its strides, and the words that it takes."""
    row_axes, col_axes = operand_axes(stage, operand)
    if operand.name in ACTIVATIONS:
        pitch = -(-operand.cols // lanes)
        strides = {axis.name: axis.step * pitch for axis in row_axes}
        strides |= {axis.name: axis.step // lanes for axis in col_axes}
        n_words = operand.rows * pitch
    else:
        pitch = -(-tile_size(col_axes, operand.cols) // lanes)
        n_words = pitch * tile_size(row_axes, operand.rows)
        strides = {}
        for axis in (*reversed(col_axes), *reversed(row_axes)):
            strides[axis.name] = n_words
            n_words *= axis.trips
    placement = Placement(
        operand.name, operand.tensor, operand.bits, lanes, operand.rows, operand.cols, base, pitch,
        _spans(row_axes, operand.rows, strides), _spans(col_axes, operand.cols, strides),
    )  # fmt: skip
    order = [(name, strides[name]) for name in operand.walk.axes if name in strides]
    return placement, Strides(base, pitch, tuple(order)), n_words


def _spans(axes: tuple[Axis, ...], extent: int, strides: Mapping[str, int]) -> tuple[Span, ...]:
    spans = []
    for trip in product(*(range(axis.trips) for axis in axes)):
        start = sum(i * axis.step for i, axis in zip(trip, axes, strict=True))
        offset = sum(i * strides[axis.name] for i, axis in zip(trip, axes, strict=True))
        size = extent
        for i, axis in zip(trip, axes, strict=True):
            if axis.sizes:
                size = axis.last if i == axis.trips - 1 else axis.size
        spans.append(Span(start, size, offset))
    return tuple(spans)


def lanes_that_fit(
    stage: GemmStage, operand: Operand, vector: int | None, inner_axes: Sequence[Axis], max_bits: int
) -> int:
    """The most elements per word, a power of two, with which every tile starts where it must.

    `inner_axes` are those that move inside a block. `vector` is how many neighbours of a row are taken at
    once, None where elements are taken one by one: then a vector must not straddle words.
    """
    _, col_axes = operand_axes(stage, operand)
    steps = [axis.step for axis in inner_axes if axis.dim == operand.col_dim and axis.trips > 1]
    if operand.name in ACTIVATIONS:
        steps += [axis.step for axis in col_axes if axis.trips > 1]
    lanes = max(1, max_bits // operand.bits)
    while lanes > 1 and not _aligned(lanes, vector, steps):
        lanes //= 2
    return lanes


def _aligned(lanes: int, vector: int | None, steps: Sequence[int]) -> bool:
    if any(step % lanes for step in steps):
        return False
    if vector is None:
        return True
    return vector % lanes == 0 or (lanes % vector == 0 and all(step % vector == 0 for step in steps))


def axes_inside_block(stage: GemmStage, operand: Operand) -> tuple[Axis, ...]:
    """The axes of the array's loops that move inside a block of the operand."""
    found: dict[str, Axis] = {}
    for leaf in stage.leaves:
        for name, depth in ((leaf.a, leaf.a_depth), (leaf.b, leaf.b_depth)):
            if name == operand.name:
                found |= {axis: stage.axis(axis) for axis in leaf.axes[depth:]}
    for axis_name in operand.walk.axes[operand.walk.depth :]:
        found[axis_name] = stage.axis(axis_name)
    return tuple(axis for axis in found.values() if axis.dim in (operand.row_dim, operand.col_dim))
