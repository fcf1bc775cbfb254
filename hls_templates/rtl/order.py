"""The order in which an array takes the operands of a product and gives its results, as numpy words.

stationarity  west, a word per beat        north                                   south, a word
output        column t of a block of A     row t of a block of B, the same beat    row of the block of C, last first
weight        row i of a block of A        rows of a block of B, last first        row i of a block of sums
input         column j of a block of B     columns of a block of A, last first     column j of a block of sums

Blocks follow each other as the controller walks: output-stationary by rows of blocks; held ones down k first,
for the next columns of the grid then.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.hls_templates.rtl.array import AXES
from tilewright.hls_templates.rtl.control import Grid

Matrix = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fold:
    """One filling of the grid: where it starts along rows and columns."""

    u: int
    v: int


def folds(grid: Grid, m: int, n: int, k: int) -> Iterator[Fold]:
    """The folds of a product in the array's order."""
    sizes = {"m": m, "n": n, "k": k}
    n_u, n_v = (sizes[name] for name in AXES[grid.kind.stationarity][:2])
    if grid.kind.keeps_sums:
        for u in range(0, n_u, grid.rows):
            for v in range(0, n_v, grid.cols):
                yield Fold(u, v)
    else:
        for v in range(0, n_v, grid.cols):
            for u in range(0, n_u, grid.rows):
                yield Fold(u, v)


def operand_words(grid: Grid, a: Matrix, b: Matrix) -> tuple[list[int], list[int]]:
    """(west words, north words) of A @ B as packed integers.

    a: (batch, m, k), b: (batch, k, n), integers that the PE's operands hold, or bfloat16 words. Places of a
    block beyond the matrices hold ones, which the array must not let into a result.
    """
    west: list[int] = []
    north: list[int] = []
    for one_a, one_b in zip(a, b, strict=True):
        words = _product_words(grid, one_a, one_b)
        west += words[0]
        north += words[1]
    return west, north


def _product_words(grid: Grid, a: Matrix, b: Matrix) -> tuple[list[int], list[int]]:
    if grid.kind.keeps_sums:
        west, north = a.T, b
    elif grid.kind.stationarity == "weight":
        west, north = a, b
    else:
        west, north = b.T, a.T
    west_words: list[int] = []
    north_words: list[int] = []
    for fold in folds(grid, a.shape[0], b.shape[1], a.shape[1]):
        north_block = north[:, fold.v : fold.v + grid.cols]
        west_block = west[:, fold.u : fold.u + grid.rows]
        if not grid.kind.keeps_sums:
            north_block = _padded(north_block[fold.u : fold.u + grid.rows], grid.rows)[::-1]
        north_words += pack(_padded(north_block.T, grid.cols).T, grid.kind.north_bits)
        west_words += pack(_padded(west_block.T, grid.rows).T, grid.kind.west_bits)
    return west_words, north_words


def _padded(block: Matrix, n_rows: int) -> Matrix:
    padding = np.ones((n_rows - block.shape[0], block.shape[1]), dtype=block.dtype)
    return np.vstack([block, padding])


def pack(rows: Matrix, bits: int) -> list[int]:
    """Each row of integers as one word, the first element in the lowest bits, negative ones in two's complement."""
    mask = (1 << bits) - 1
    return [sum((int(value) & mask) << (bits * i) for i, value in enumerate(row)) for row in rows]


def unpack(word: int, bits: int, n_elements: int) -> list[int]:
    """The elements of a word as unsigned numbers."""
    mask = (1 << bits) - 1
    return [word >> (bits * i) & mask for i in range(n_elements)]


@dataclass(frozen=True, slots=True)
class Result:
    """A word that left the array: in which cycle since the start, its row in the fold, whether it replaces."""

    cycle: int
    row: int
    is_first: bool
    word: int


def assemble(
    grid: Grid, shape: tuple[int, int, int, int], results: Sequence[Result]
) -> Matrix | NDArray[np.float32]:
    """C (batch, m, n) from the words of a run in the order in which they left; shape: (batch, m, n, k).

    Partial sums are added in that order. Integers come back as the sums' width holds them; those of a bf16
    array as float32.
    """
    batch, m, n, k = shape
    pe = grid.kind.pe
    is_input = grid.kind.stationarity == "input"
    dtype = np.float32 if pe.is_float else np.int64
    sums: NDArray[Any] = np.zeros((batch, *((n, m) if is_input else (m, n))), dtype=dtype)
    remaining = iter(results)
    for one in sums:
        for fold in folds(grid, m, n, k):
            _take_fold(grid, fold, one, remaining)
    if not pe.is_float:
        sums = _as_signed(sums, pe.sum_bits)
    return sums.swapaxes(1, 2) if is_input else sums


def _take_fold(grid: Grid, fold: Fold, sums: NDArray[Any], remaining: Iterator[Result]) -> None:
    """Put or add the words of one fold into `sums`."""
    from tilewright.hls_templates.rtl.float_model import add

    pe = grid.kind.pe
    top = fold.u if grid.kind.keeps_sums else 0
    n_rows = min(grid.rows, sums.shape[0] - top) if grid.kind.keeps_sums else sums.shape[0]
    columns = slice(fold.v, min(fold.v + grid.cols, sums.shape[1]))
    for _ in range(n_rows):
        result = next(remaining)
        values = unpack(result.word, pe.sum_bits, grid.cols)[: columns.stop - columns.start]
        place = (top + result.row, columns)
        if pe.is_float:
            found = np.array(values, dtype=np.uint32).view(np.float32)
            sums[place] = found if result.is_first else add(sums[place], found)
        else:
            whole = np.array(values, dtype=np.uint64).astype(np.int64)
            sums[place] = whole if result.is_first else sums[place] + whole


def _as_signed(values: Matrix, bits: int) -> Matrix:
    """Numbers modulo 2^bits as two's complement."""
    shift = 64 - bits
    return (values << shift) >> shift
