"""Kernels of a GPU: what each moves to and from memory, and how long it computes.

A kernel is launched, reads, computes and writes, all overlapped; the next one starts when it is done. Rows that
a kernel passes several times (softmax, norms) are read again from memory where the rows in flight exceed the
second-level cache.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from tilewright.sim.random_cache import miss_fraction
from tilewright.sim.thread_blocks import Multiprocessors, Product, best_blocks

#: Issue slots of a lane per evaluation: instructions of the CUDA math library, special functions at a quarter rate.
LANE_CYCLES: tuple[tuple[str, int], ...] = (
    ("exp", 11), ("exp2", 5), ("log", 11), ("sigmoid", 21), ("silu", 22), ("swish", 22), ("tanh", 14), ("erf", 13),
    ("gelu", 16), ("gelu_new", 18), ("gelu_tanh", 18), ("quick_gelu", 22), ("div", 9), ("reciprocal", 6),
    ("rsqrt", 5), ("sqrt", 8), ("sin", 24), ("cos", 24), ("softplus", 24), ("pow", 30),
)  # fmt: skip
_OTHER_CYCLES = 1
MOVE_CYCLES = 3  # load, store and conversion of an element, with its share of the loop

_THREADS = 2048  # resident on a multiprocessor
_VECTOR_BYTES = 16  # of one load
_MOST_THREADS = 1024  # of a block
_WARP_ROW = 1024  # a softmax of so many columns keeps its rows in the registers of a warp
_NORM_BLOCKS = 12  # of a multiprocessor: 128 threads of 40 registers (assumed) out of 64 Ki
_HIDDEN_TRIPS = 3  # from so many trips of a row's loop on its last, partly idle one is hidden


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as its kernels see it, in cycles of its clock; `bytes_per_cycle` is what streams reach."""

    products: Multiprocessors
    lanes: int
    bytes_per_cycle: float


@dataclass(frozen=True, slots=True)
class Work:
    """Bytes to and from memory, and cycles on the units, of one kernel."""

    read_bytes: float
    write_bytes: float
    cycles: float


def product_work(gpu: Gpu, product: Product) -> Work:
    """A matrix product, or a batch of them."""
    blocks = best_blocks(product, gpu.products, gpu.bytes_per_cycle)
    return Work(blocks.read_bytes, blocks.write_bytes, blocks.cycles)


def map_work(gpu: Gpu, read_bytes: float, write_bytes: float, lane_cycles: float) -> Work:
    """A map of elements; `lane_cycles` summed over all elements."""
    return Work(read_bytes, write_bytes, lane_cycles / gpu.lanes)


def softmax_work(gpu: Gpu, rows: int, columns: int, element_bytes: int) -> Work:
    """Rows of up to 1024 columns stay in registers; longer ones are passed three times: largest, sum, shares."""
    row_bytes = columns * element_bytes
    cycles = dict(LANE_CYCLES)
    passes = 1 if columns <= _WARP_ROW else 3
    exponentials = 1 if passes == 1 else 2
    per_element = exponentials * cycles["exp"] + cycles["div"] + 4 + MOVE_CYCLES
    again, idle = 0.0, 1.0
    if passes > 1:
        threads, idle = _softmax_block(columns, element_bytes)
        again = (passes - 1) * missed_rows(gpu, _THREADS // threads, row_bytes, passes)
    n_bytes = rows * row_bytes
    # idle threads keep memory and lanes waiting alike
    return Work(n_bytes * (1 + again) * idle, n_bytes * idle, idle * rows * columns * per_element / gpu.lanes)


def _softmax_block(columns: int, element_bytes: int) -> tuple[int, float]:
    """(threads of a block, time over that without idle threads): a power of two over half of a row's vectors."""
    vectors = columns * element_bytes / _VECTOR_BYTES
    threads = 32
    while threads < min(vectors, _MOST_THREADS) / 2:
        threads *= 2
    trips = vectors / threads
    return threads, ceil(trips) / trips if trips < _HIDDEN_TRIPS else 1.0


def norm_work(gpu: Gpu, rows: int, columns: int, element_bytes: int, lane_cycles: float) -> Work:
    """Rows are passed twice: moments, then values; `lane_cycles` summed over all elements."""
    row_bytes = columns * element_bytes
    again = missed_rows(gpu, _NORM_BLOCKS, row_bytes, 2)
    n_bytes = rows * row_bytes
    return Work(n_bytes * (1 + again), float(n_bytes), lane_cycles / gpu.lanes)


def missed_rows(gpu: Gpu, blocks: int, row_bytes: float, passes: int) -> float:
    """Share of later passes that goes to memory: `blocks` rows per multiprocessor are in flight, and in its last
    pass each has as many bytes of results in the cache as it reads."""
    in_flight = gpu.products.count * blocks * row_bytes * (1 + 1 / passes)
    return _missed(in_flight / gpu.products.cache_bytes)


_missed = lru_cache(maxsize=1024)(miss_fraction)


def lane_cycles_of(function: str) -> int:
    """Issue slots of one evaluation on a lane."""
    return dict(LANE_CYCLES).get(function, _OTHER_CYCLES)
