"""Cycles of a product on streaming multiprocessors that take tiles of outputs in waves."""

from math import ceil

from tilewright.sim.architecture import MatrixArray


def leaf_cycles(array: MatrixArray, m: int, n: int, k: int, batch: int = 1) -> int:
    """Cycles of `batch` products with the tile of `array.block_tiles` that finishes first.

    A tile is computed in full, also where it reaches beyond the matrix, and the last wave takes as long as a
    full one: ceil(tiles / count) waves of rows * cols * k / (MACs per cycle of one multiprocessor) cycles.
    """
    macs_per_cycle = array.rows * array.cols * array.efficiency
    best = min(
        -(-batch * -(-m // tile.rows) * -(-n // tile.cols) // array.count)
        * tile.rows * tile.cols * k / (macs_per_cycle * tile.efficiency)
        for tile in array.block_tiles
    )  # fmt: skip
    return max(1, ceil(best))
