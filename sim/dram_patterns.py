"""Named address patterns for checking a memory model, so that anyone can repeat a check.

A pattern is a sequence of elements of `e` bytes (64 unless its name says otherwise); an element is its bursts
in ascending order, and the sequence is cut after the number of requests asked for. Sizes in names may end in
K, M or G. Names: seq_read, seq_write, mix_<r>r<w>w_c<chunk>, stride_<size>, random_<size>[_e<size>],
rmix_<r>r<w>w_<size>, tile_w<width>_p<pitch>, streams_<k>_g<gap>[_c<chunk>].
"""

import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tilewright.dataflow.errors import InputError

Ints = npt.NDArray[np.int64]
Trace = tuple[Ints, npt.NDArray[np.bool_]]

ELEMENT_BYTES = 64
WRITES_BEGIN_AT = 1 << 28  # second stream of a mix, and where strides wrap
ROWS_OF_A_TILE = 256
RANDOM_SEED = 20240607
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SIZE = r"(\d+[KMG]?)"
_FORMS = "seq_read, seq_write, mix_.., stride_.., random_.., rmix_.., tile_.., streams_.."


def size_of(text: str) -> int:
    """Bytes of a size such as 64, 4K or 64M."""
    return int(text.rstrip("KMG")) * _UNITS[text.lstrip("0123456789")]


def _n_elements(n_requests: int, element_bytes: int, burst_bytes: int) -> Ints:
    """0, 1, ... for as many elements as cover the requests."""
    return np.arange(-(-n_requests * burst_bytes // element_bytes), dtype=np.int64)


def _bursts(starts: Ints, element_bytes: int, burst_bytes: int) -> Ints:
    """Every burst of the elements that begin at `starts`."""
    inside = np.arange(0, element_bytes, burst_bytes, dtype=np.int64)
    return np.add.outer(starts, inside).ravel()


def _sequential(n: int, burst: int, is_write: bool) -> Trace:
    return np.arange(n, dtype=np.int64) * burst, np.full(n, is_write)


def _mixed(n: int, burst: int, reads: int, writes: int, chunk: int) -> Trace:
    """A read stream from 0 and a write stream: `reads` chunks of one, `writes` of the other, in turn."""
    turn = _n_elements(n, chunk, burst)
    group, place = turn // (reads + writes), turn % (reads + writes)
    is_write = place >= reads
    starts = np.where(
        is_write,
        WRITES_BEGIN_AT + (group * writes + place - reads) * chunk,
        (group * reads + place) * chunk,
    )
    return _bursts(starts, chunk, burst), is_write.repeat(chunk // burst)


def _strided(n: int, burst: int, stride: int) -> Trace:
    """Elements `stride` apart; past 256 MiB the walk begins again one element further."""
    distance = _n_elements(n, ELEMENT_BYTES, burst) * stride
    laps, inside = np.divmod(distance, WRITES_BEGIN_AT)
    address = _bursts(inside + laps * ELEMENT_BYTES, ELEMENT_BYTES, burst)
    return address, np.zeros(address.size, dtype=np.bool_)


def _random(n: int, burst: int, footprint: int, element: int, reads: int = 1, writes: int = 0) -> Trace:
    """Uniform elements of a footprint; of every reads + writes of them the last are writes."""
    turn = _n_elements(n, element, burst)
    picks = np.random.Generator(np.random.PCG64(RANDOM_SEED)).integers(
        0, footprint // element, size=turn.size
    )
    is_write = turn % (reads + writes) >= reads
    return _bursts(picks.astype(np.int64) * element, element, burst), is_write.repeat(element // burst)


def _tiled(n: int, burst: int, width: int, pitch: int) -> Trace:
    """Tiles of 256 rows of a row-major matrix with rows `pitch` bytes apart, left to right, then down."""
    row, offset = np.divmod(np.arange(n, dtype=np.int64) * burst, width)
    tile, row = np.divmod(row, ROWS_OF_A_TILE)
    down, right = np.divmod(tile, max(1, pitch // width))
    return (down * ROWS_OF_A_TILE + row) * pitch + right * width + offset, np.zeros(n, dtype=np.bool_)


def _streams(n: int, burst: int, n_streams: int, gap: int, chunk: int) -> Trace:
    """Read streams `gap` bytes apart, one chunk of each in turn."""
    step, which = np.divmod(_n_elements(n, chunk, burst), n_streams)
    address = _bursts(which * gap + step * chunk, chunk, burst)
    return address, np.zeros(address.size, dtype=np.bool_)


_Builder = Callable[[int, int, tuple[str, ...]], Trace]
_PATTERNS: tuple[tuple[str, _Builder], ...] = (
    (r"seq_read", lambda n, b, _: _sequential(n, b, False)),
    (r"seq_write", lambda n, b, _: _sequential(n, b, True)),
    (rf"mix_(\d+)r(\d+)w_c{_SIZE}", lambda n, b, g: _mixed(n, b, int(g[0]), int(g[1]), size_of(g[2]))),
    (rf"stride_{_SIZE}", lambda n, b, g: _strided(n, b, size_of(g[0]))),
    (rf"random_{_SIZE}(?:_e{_SIZE})?", lambda n, b, g: _random(n, b, size_of(g[0]), size_of(g[1] or "64"))),
    (
        rf"rmix_(\d+)r(\d+)w_{_SIZE}",
        lambda n, b, g: _random(n, b, size_of(g[2]), ELEMENT_BYTES, int(g[0]), int(g[1])),
    ),
    (rf"tile_w{_SIZE}_p{_SIZE}", lambda n, b, g: _tiled(n, b, size_of(g[0]), size_of(g[1]))),
    (
        rf"streams_(\d+)_g{_SIZE}(?:_c{_SIZE})?",
        lambda n, b, g: _streams(n, b, int(g[0]), size_of(g[1]), size_of(g[2] or "64")),
    ),
)


def trace_of(pattern: str, n_requests: int, burst_bytes: int) -> Trace:
    """Byte addresses (n_requests,) and write flags of a named pattern in bursts of `burst_bytes`.

    Raises InputError for a name of no known form, for a burst that is no power of two up to 64 and for an
    element that is smaller than a burst.
    """
    if n_requests < 1:
        raise InputError(f"pattern {pattern}: n_requests must be >= 1, got {n_requests}")
    if not 1 <= burst_bytes <= ELEMENT_BYTES or burst_bytes & (burst_bytes - 1):
        raise InputError(
            f"pattern {pattern}: bursts must be a power of two up to 64 bytes, got {burst_bytes}"
        )
    for form, build in _PATTERNS:
        if match := re.fullmatch(form, pattern):
            address, is_write = build(n_requests, burst_bytes, match.groups())
            address = address[:n_requests]
            return address - address % burst_bytes, is_write[:n_requests]
    raise InputError(f"pattern: unknown form {pattern!r}, known are {_FORMS}")
