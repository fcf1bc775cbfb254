"""Products on streaming multiprocessors: tiles of outputs, taken in waves, from a library of kernels.

A kernel computes whole tiles, also where they reach beyond the matrix, and every multiprocessor one tile at a
time, so the last wave takes as long as a full one. A tile's share of the matrix units' peak follows from what its
warps read of the shared memory and what is copied into it, 128 bytes per cycle together.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

SHARED_BYTES_PER_CYCLE = 128  # of one multiprocessor, all generations here
#: (rows, columns) of a tile and of the part of it that one warp computes.
_MATRIX_TILES = (
    (256, 128, 64, 64), (128, 256, 64, 64), (128, 128, 64, 64), (128, 64, 64, 32), (64, 128, 32, 64),
    (64, 64, 32, 32),
)  # fmt: skip
#: Tiles of kernels without matrix units; the share of the peak is assumed, from their loads per multiply-add.
_LANE_TILES = ((128, 128, 1.0), (128, 64, 0.95), (64, 128, 0.95), (64, 64, 0.85))
#: Narrow tiles that libraries have for parts before the A100, there also for batches of products.
_NARROW_TILES = ((128, 32, 0.9), (32, 128, 0.9))
#: A sum is split over multiprocessors in so many parts at most, each at least so long.
_MOST_SPLITS, _SHORTEST_SPLIT = 8, 1024
_SUM_BYTES = 4


@dataclass(frozen=True, slots=True)
class BlockTile:
    """A tile of outputs and the share of a multiprocessor's peak that it reaches."""

    rows: int
    cols: int
    efficiency: float


@dataclass(frozen=True, slots=True)
class Product:
    """`batch` products C[m, n] = A[m, k] B[k, n]; bits of an element of A, B and C in memory."""

    m: int
    n: int
    k: int
    batch: int
    bits: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Multiprocessors:
    """`count` of them at `macs_per_cycle` each (of the peak times the fitted efficiency), behind a cache.

    `matrix` tells matrix units from lanes, `large_tiles` a library without narrow tiles and, for batches on lanes,
    with none but the largest. Operands take `operand_bytes` in shared memory.
    """

    count: int
    macs_per_cycle: float
    operand_bytes: int
    matrix: bool
    large_tiles: bool
    cache_bytes: float
    peak_macs_per_cycle: float


@dataclass(frozen=True, slots=True)
class Blocks:
    """How one kernel runs a product: its tile, the splits of its sum, its cycles and what it moves to and from
    memory, in bytes: operands (with what is read again) and results (with partial sums)."""

    tile: BlockTile
    splits: int
    cycles: float
    read_bytes: float
    write_bytes: float


@lru_cache(maxsize=64)
def library(unit: Multiprocessors, batched: bool) -> tuple[BlockTile, ...]:
    """The tiles that kernels exist for."""
    if unit.matrix:
        return tuple(
            BlockTile(rows, cols, _shared_memory_share(rows, cols, warp_rows, warp_cols, unit))
            for rows, cols, warp_rows, warp_cols in _MATRIX_TILES
        )
    if unit.large_tiles and batched:
        return (BlockTile(*_LANE_TILES[0]),)
    tiles = _LANE_TILES if unit.large_tiles else _LANE_TILES + _NARROW_TILES
    return tuple(BlockTile(*tile) for tile in tiles)


def _shared_memory_share(
    rows: int, cols: int, warp_rows: int, warp_cols: int, unit: Multiprocessors
) -> float:
    """Share of the peak that the shared memory feeds: operands of every warp, and the copies of a tile's."""
    per_mac = (warp_rows + warp_cols) / (warp_rows * warp_cols) + (rows + cols) / (rows * cols)
    return min(1.0, SHARED_BYTES_PER_CYCLE / (per_mac * unit.operand_bytes * unit.peak_macs_per_cycle))


@lru_cache(maxsize=4096)
def best_blocks(product: Product, unit: Multiprocessors, bytes_per_cycle: float) -> Blocks:
    """The kernel that finishes first, the slower of computing and memory at `bytes_per_cycle`."""
    found = [
        _blocks(product, unit, tile, splits)
        for tile in library(unit, product.batch > 1)
        for splits in _splits(product)
    ]
    return min(found, key=lambda one: max(one.cycles, (one.read_bytes + one.write_bytes) / bytes_per_cycle))


def _splits(product: Product) -> tuple[int, ...]:
    """Parts that a sum may be cut into; batches are parallel enough."""
    if product.batch > 1:
        return (1,)
    return tuple(n for n in range(1, _MOST_SPLITS + 1) if n == 1 or product.k >= n * _SHORTEST_SPLIT)


def _blocks(product: Product, unit: Multiprocessors, tile: BlockTile, splits: int) -> Blocks:
    rows, cols = -(-product.m // tile.rows), -(-product.n // tile.cols)
    waves = -(-product.batch * rows * cols * splits // unit.count)
    macs = tile.rows * tile.cols * product.k / splits
    cycles = waves * macs / (unit.macs_per_cycle * tile.efficiency)
    a, b, c = (
        product.batch * size * bits / 8
        for size, bits in zip(
            (product.m * product.k, product.n * product.k, product.m * product.n), product.bits, strict=True
        )
    )
    partial = (splits - 1) * product.m * product.n * _SUM_BYTES
    return Blocks(tile, splits, cycles, a + b + _again(product, unit, tile, a, b) + partial, c + partial)


def _again(product: Product, unit: Multiprocessors, tile: BlockTile, a_bytes: float, b_bytes: float) -> float:
    """Bytes read again: a wave is a square of tiles; the operand that the waves' order does not follow is read
    for each row (or column) of squares, unless half of the cache holds it."""
    if product.batch > 1:
        return 0.0
    side = sqrt(unit.count)
    a_again = (
        a_bytes * (-(-product.n // round(side * tile.cols)) - 1) if a_bytes > unit.cache_bytes / 2 else 0
    )
    b_again = (
        b_bytes * (-(-product.m // round(side * tile.rows)) - 1) if b_bytes > unit.cache_bytes / 2 else 0
    )
    return float(min(a_again, b_again))
