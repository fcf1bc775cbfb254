"""One product as a weight-stationary array of Gemmini's kind runs it, and the tiles that its library would take.

Sizes are named p, q (columns and rows of the output image), c (input channels), k (output channels) and r, s
(the window, along p and q). A matrix product has p rows, c terms in a sum and k columns; q, r and s are 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt

from tilewright.dataflow.errors import InputError

DIMS = ("p", "q", "c", "k", "r", "s")
#: The dimensions that each operand has, and those that are summed over.
INPUT_DIMS, WEIGHT_DIMS, OUTPUT_DIMS, SUMMED_DIMS = "pqcrs", "ckrs", "pqk", "crs"

BLOCK = 16  # rows and columns of the array, elements of a row of scratchpad and accumulator
#: Gemmini's stock memories, half of which a tile may take: 256 KiB of 16 bytes, 64 KiB of 16 sums.
STOCK_SPAD_ROWS, STOCK_ACC_ROWS = 16384, 1024

Rows = tuple[int, int]  # of scratchpad and accumulator


@dataclass(frozen=True, slots=True)
class WsLayer:
    """A convolution of one image, or a matrix product; bytes of an element of input, weight and output."""

    is_matmul: bool
    p: int
    q: int
    c: int
    k: int
    r: int = 1
    s: int = 1
    stride: int = 1
    input_bytes: int = 1
    weight_bytes: int = 1
    output_bytes: int = 1

    def __post_init__(self) -> None:
        for name in (*DIMS, "stride", "input_bytes", "weight_bytes", "output_bytes"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"systolic_ws: {name} must be >= 1, got {value}")
        if self.is_matmul and self.q * self.r * self.s * self.stride != 1:
            raise InputError("systolic_ws: a matrix product has no q, r, s and stride of its own")

    def sizes(self) -> dict[str, int]:
        """Elements along every dimension, those of a matrix in whole blocks of the array."""
        found = {dim: getattr(self, dim) for dim in DIMS}
        if self.is_matmul:
            found |= {dim: -(-found[dim] // BLOCK) * BLOCK for dim in "pck"}
        return found

    @property
    def macs(self) -> int:
        return self.p * self.q * self.c * self.k * self.r * self.s


@dataclass(frozen=True, slots=True)
class WsTiling:
    """What one loop instruction computes, the order of the instructions (outermost first), and how often the
    host's search for the tile tried one (0: the tile was given)."""

    p: int
    q: int
    c: int
    k: int
    r: int
    s: int
    order: tuple[str, ...]
    trials: int = 0

    def tile(self, layer: WsLayer) -> dict[str, int]:
        """Elements of a full tile, none larger than the layer."""
        return {dim: min(getattr(self, dim), size) for dim, size in layer.sizes().items()}

    def trips(self, layer: WsLayer) -> dict[str, int]:
        tile = self.tile(layer)
        return {dim: -(-size // tile[dim]) for dim, size in layer.sizes().items()}


def tile_rows(layer: WsLayer, tile: dict[str, int]) -> tuple[int, int]:
    """(scratchpad rows, accumulator rows) that one tile takes: a row holds 16 channels of a pixel."""
    if layer.is_matmul:
        columns = -(-tile["c"] // BLOCK)
        spad = tile["p"] * columns + tile["c"] * -(-tile["k"] // BLOCK)
        return spad, tile["p"] * -(-tile["k"] // BLOCK)
    wide = (tile["p"] - 1) * layer.stride + tile["r"]
    high = (tile["q"] - 1) * layer.stride + tile["s"]
    blocks = -(-tile["k"] // BLOCK)
    spad = -(-tile["c"] // BLOCK) * wide * high + blocks * tile["r"] * tile["s"] * tile["c"]
    return spad, blocks * tile["p"] * tile["q"]


def library_tiling(
    layer: WsLayer, spad_rows: int = STOCK_SPAD_ROWS // 2, acc_rows: int = STOCK_ACC_ROWS // 2
) -> WsTiling:
    """The tile that Gemmini's library chooses within so many rows, in its order, and how many it tried.

    Raises InputError if not even the smallest tile fits (rows, limit).
    """
    limits = spad_rows, acc_rows
    if not _library_fits(layer, [1, 1, 1, 1, 1, 1], limits) or min(limits) < 2 * BLOCK:
        raise InputError(
            f"systolic_ws: no tile fits in {spad_rows} rows of scratchpad and {acc_rows} of accumulator"
        )
    return _library_matmul(layer, limits) if layer.is_matmul else _library_convolution(layer, limits)


def _library_matmul(layer: WsLayer, limits: Rows) -> WsTiling:
    """Blocks of p, k and c grow in turns from a fixed start while they fit."""
    spad_rows, acc_rows = limits
    most = [-(-size // BLOCK) for size in (layer.p, layer.k, layer.c)]
    square = max(1, isqrt(acc_rows // BLOCK))  # blocks of a square tile of sums
    deep = max(1, spad_rows // (2 * BLOCK * square))
    blocks = [min(start, limit) for start, limit in zip((square, square, deep), most, strict=True)]
    trials, grows = 0, True
    while grows:
        grows = False
        for position in (1, 0, 2):
            trials += 1
            i, j, k = (size + (at == position) for at, size in enumerate(blocks))
            fits = (i * k + k * j) * BLOCK <= spad_rows and i * j * BLOCK <= acc_rows
            if fits and blocks[position] < most[position]:
                blocks[position] += 1
                grows = True
    p, k, c = (BLOCK * size for size in blocks)
    return WsTiling(p, 1, c, k, 1, 1, ("p", "k", "c"), trials)


def _library_convolution(layer: WsLayer, limits: Rows) -> WsTiling:
    """The largest entry of a tile of the whole layer shrinks until it fits; then all grow while they can."""
    most = [layer.q, layer.p, layer.k, layer.s, layer.r, layer.c]

    def fits(sizes: list[int]) -> bool:
        return _library_fits(layer, sizes, limits)

    sizes, trials = _shrunk(most, fits)
    while True:  # the columns of the image first, as far as they go
        trials += 1
        wider = [size + (at == 1) for at, size in enumerate(sizes)]
        if wider[1] > most[1] or not fits(wider):
            break
        sizes = wider
    grows = True
    while grows:
        grows = False
        for position in (-1, *range(len(sizes))):  # -1: the batch, of which there is one
            trials += 1
            larger = [size + (at == position) for at, size in enumerate(sizes)]
            if position >= 0 and larger[position] <= most[position] and fits(larger):
                sizes, grows = larger, True
    q, p, k, s, r, c = sizes
    return WsTiling(p, q, c, k, r, s, ("q", "p", "k", "s", "r", "c"), trials)


def _shrunk(most: list[int], fits: Callable[[list[int]], bool]) -> tuple[list[int], int]:
    """The first sizes that fit, and how many were tried: channels shrink by a block, the others by one."""
    sizes, trials = list(most), 1
    while not fits(sizes):
        trials += 1
        spared = sizes[1] <= BLOCK and sizes[0] > 1  # a row of the image that one block holds
        largest = max((at for at in range(len(sizes)) if not (at == 1 and spared)), key=lambda at: sizes[at])
        if largest in (2, 5):
            sizes[largest] = max(1, (sizes[largest] - 1) // BLOCK * BLOCK)
        else:
            sizes[largest] -= 1
    return sizes, trials


def _library_fits(layer: WsLayer, sizes: list[int], limits: Rows) -> bool:
    """The library's own count of rows, which takes a stride more of the input than a tile reads."""
    q, p, k, s, r, c = sizes
    high, wide = q * layer.stride + s - 1, p * layer.stride + r - 1
    blocks = -(-k // BLOCK)
    spad = -(-c // BLOCK) * high * wide + blocks * r * s * c
    return spad <= limits[0] and blocks * q * p <= limits[1]
