"""What the loads and stores of a tile cost behind two caches: requests, beats, missed lines, scattered runs.

Nothing stays on chip from one loop instruction to the next, so the second-level cache decides what a load costs.
Both caches replace lines at random (`sim.random_cache`). A tile whose rows lie a power of two apart reaches only
some of the sets.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import gcd, prod

from tilewright.dataflow.program import Pace
from tilewright.sim.random_cache import miss_fraction
from tilewright.sim.systolic_ws_layer import (
    BLOCK,
    INPUT_DIMS,
    OUTPUT_DIMS,
    SUMMED_DIMS,
    WEIGHT_DIMS,
    WsLayer,
    WsTiling,
)

BEAT_BYTES = 16  # the 128-bit bus of the DMA
REQUEST_BYTES = 64
_IN_FLIGHT = 8  # misses that the last-level cache keeps in flight


@dataclass(frozen=True, slots=True)
class Cache:
    """`n_sets` sets of lines of `line_bytes`."""

    capacity_bytes: int
    line_bytes: int
    n_sets: int


#: SiFive's inclusive cache and the last-level cache of the DRAM model, as in the published measurements.
L2 = Cache(512 * 1024, 64, 1024)
LLC = Cache(4 * 1024 * 1024, 128, 4096)


@dataclass(frozen=True, slots=True)
class WsConstants:
    """The fitted constants of the memory system, in cycles of the array's clock and as a fraction."""

    memory_latency_cycles: float  # of a miss; `_IN_FLIGHT` of them overlap
    bus_efficiency: float  # share of a beat per cycle that moves
    issue_interval_cycles: float  # from one store to the next


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of `run_bytes`, `stride_bytes` from start to start, `n_rows` of them."""

    n_rows: int
    run_bytes: int
    stride_bytes: int

    def lines(self, line_bytes: int) -> float:
        """Distinct lines touched; rows that do not start on a line share the ones at their ends."""
        if self.run_bytes >= self.stride_bytes:
            return self.n_rows * self.run_bytes / line_bytes
        if self.stride_bytes % line_bytes == 0:
            return self.n_rows * -(-self.run_bytes // line_bytes)
        if self.stride_bytes >= line_bytes:
            return self.n_rows * ((self.run_bytes - 1) / line_bytes + 1)
        return self.n_rows * self.stride_bytes / line_bytes

    def reached_fraction(self, cache: Cache) -> float:
        """Share of the cache's sets that the rows can lie in."""
        if self.stride_bytes % cache.line_bytes:
            return 1.0
        step = self.stride_bytes // cache.line_bytes
        lines = -(-self.run_bytes // cache.line_bytes)
        return min(1.0, lines / gcd(step, cache.n_sets))

    def requests(self) -> tuple[float, float]:
        """(requests, beats): a request takes up to 64 aligned bytes, in 1, 2 or 4 beats of 16."""
        whole, rest = divmod(self.run_bytes, REQUEST_BYTES)
        aligned = gcd(self.stride_bytes, REQUEST_BYTES)
        last = _crossings(rest, aligned)
        n_requests = whole * _crossings(REQUEST_BYTES, aligned) + last
        n_beats = 4 * whole * _crossings(REQUEST_BYTES, aligned) + last * _beats(rest)
        return self.n_rows * n_requests, self.n_rows * n_beats

    def scattered_fraction(self, contiguous_rows: int) -> float:
        """Jumps per missed line; `contiguous_rows` rows follow each other where they are as long as the stride."""
        if self.run_bytes >= self.stride_bytes:
            return min(1.0, REQUEST_BYTES / (contiguous_rows * self.stride_bytes))
        return 1 / max(1.0, self.run_bytes / REQUEST_BYTES)


def _beats(n_bytes: int) -> int:
    return 1 if n_bytes <= BEAT_BYTES else 2 if n_bytes <= 2 * BEAT_BYTES else 4


def _crossings(n_bytes: int, aligned: int) -> float:
    """Requests for `n_bytes` within one line's length whose start is a random multiple of `aligned`."""
    if n_bytes == 0:
        return 0.0
    return 1 + max(0, n_bytes - aligned) / REQUEST_BYTES


def pieces(layer: WsLayer, tile: dict[str, int]) -> dict[str, Piece]:
    """How input, weight and output of a tile lie in memory: pixels of c channels, rows of k weights."""
    channels = min(tile["c"], layer.c), min(tile["k"], layer.k)
    wide = (tile["p"] - 1) * layer.stride + tile["r"]
    high = (tile["q"] - 1) * layer.stride + tile["s"]
    return {
        "input": Piece(wide * high, channels[0] * layer.input_bytes, layer.c * layer.input_bytes),
        "weight": Piece(
            tile["r"] * tile["s"] * tile["c"], channels[1] * layer.weight_bytes, layer.k * layer.weight_bytes
        ),
        "output": Piece(
            tile["p"] * tile["q"], channels[1] * layer.output_bytes, layer.k * layer.output_bytes
        ),
    }


_DIMS_OF = {"input": INPUT_DIMS, "weight": WEIGHT_DIMS, "output": OUTPUT_DIMS}


def missed_lines(layer: WsLayer, tiling: WsTiling, operand: str, cache: Cache) -> float:
    """Lines of an operand that all instructions together miss.

    From the innermost loop outwards: of what the loops inside have touched, a share misses again at the next
    iteration, by how full the cache is; the rest is what is new. A layer that fits is warm from its run before.
    """
    sizes, trips = layer.sizes(), tiling.trips(layer)
    span = tiling.tile(layer)
    missed = lines = pieces(layer, span)[operand].lines(cache.line_bytes)
    for dim in reversed(tiling.order):
        wider = span | {dim: min(sizes[dim], span[dim] * trips[dim])}
        if trips[dim] > 1 and not (operand == "output" and dim in SUMMED_DIMS):
            again = miss_fraction(_load(layer, span, operand, cache))
            all_lines = pieces(layer, wider)[operand].lines(cache.line_bytes)
            new = min(missed, (all_lines - lines) / (trips[dim] - 1))
            missed += (trips[dim] - 1) * (again * missed + (1 - again) * new)
        span = wider
        lines = pieces(layer, span)[operand].lines(cache.line_bytes)
    return 0.0 if _load(layer, sizes, operand, cache) <= 1 else missed


def _load(layer: WsLayer, span: dict[str, int], operand: str, cache: Cache) -> float:
    """Working set over capacity: of the operand in the sets that it reaches, and of all operands together."""
    parts = pieces(layer, span)
    own = parts[operand].lines(cache.line_bytes) / parts[operand].reached_fraction(cache)
    together = sum(part.lines(cache.line_bytes) for part in parts.values())
    return max(own, together) * cache.line_bytes / cache.capacity_bytes


@lru_cache(maxsize=4096)
def _misses_per_request(layer: WsLayer, tiling: WsTiling, operand: str) -> tuple[float, float]:
    """Misses of both caches per request of a tile's loads or stores, averaged over all instructions.

    A miss of the last-level cache brings a line of 128 bytes, which answers two requests of the other's.
    """
    sizes, tile = layer.sizes(), tiling.tile(layer)
    dims = _DIMS_OF[operand] if operand == "output" else "pqckrs"
    n_tiles = prod(tiling.trips(layer)[dim] for dim in dims)
    # the mean tile: remainders make tiles smaller than the first
    shrink = prod(sizes[dim] / (tiling.trips(layer)[dim] * tile[dim]) for dim in _DIMS_OF[operand])
    n_requests = max(1.0, n_tiles * shrink * _request_count(layer, tile, operand))
    near = missed_lines(layer, tiling, operand, L2)
    far = min(2 * missed_lines(layer, tiling, operand, LLC), near)
    if operand != "output":
        near = min(near, n_requests)
    return near / n_requests, min(far, near) / n_requests


def _request_count(layer: WsLayer, tile: dict[str, int], operand: str) -> float:
    piece = pieces(layer, tile)[operand]
    if operand == "output" and not layer.is_matmul:  # a store takes the 16 channels of one block of a pixel
        return piece.n_rows * -(-tile["k"] // BLOCK)
    return piece.requests()[0]


def tile_paces(layer: WsLayer, tiling: WsTiling, constants: WsConstants) -> dict[str, Pace]:
    """How long loads of the input's and the weight's full tile, and stores of the output's, take.

    A load moves a beat per cycle over the efficiency; a missed line moves over the same bus once more, and waits
    its share of a latency where it does not follow the line before or comes from DRAM. A store is issued per
    interval; one that misses brings a line and evicts one, from DRAM three times. Requests to one line wait for
    each other.
    """
    tile = tiling.tile(layer)
    jump = constants.memory_latency_cycles / _IN_FLIGHT
    line = REQUEST_BYTES / BEAT_BYTES / constants.bus_efficiency
    found = {}
    for operand, piece in pieces(layer, tile).items():
        near, far = _misses_per_request(layer, tiling, operand)
        rows = tile["c"] * tile["r"] * tile["s"] if operand == "weight" else _row_pixels(layer, tile, operand)
        scattered = piece.scattered_fraction(rows)
        n_requests = _request_count(layer, tile, operand)
        same_line = (
            jump if not layer.is_matmul and operand != "weight" and piece.stride_bytes < BLOCK else 0.0
        )
        if operand == "output":
            issue = n_requests * (constants.issue_interval_cycles + same_line)
            memory = n_requests * (near * (2 * line + scattered * jump) + 3 * far * jump)
            found[operand] = Pace(issue + memory, n_requests * near * 2 * line)
            continue
        beats = piece.requests()[1] / constants.bus_efficiency
        missing = n_requests * (near * (line + scattered * jump) + far * jump) + beats * (1 - near)
        found[operand] = Pace(0.0, max(beats, missing) + n_requests * same_line)
    return found


def _row_pixels(layer: WsLayer, tile: dict[str, int], operand: str) -> int:
    """Pixels that lie side by side in memory."""
    if operand == "output" or layer.is_matmul:
        return tile["p"]
    return (tile["p"] - 1) * layer.stride + tile["r"]
