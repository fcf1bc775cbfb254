"""Attention in three phases, one after the other, with scores and weights in DRAM between them."""

from dataclasses import dataclass

from tilewright.dataflow.program import Direction, Loop, Program
from tilewright.sim.fused_attention_emit import STREAM, AttentionEmitter, exponential, work
from tilewright.sim.fused_attention_flat import Grid
from tilewright.sim.fused_attention_shape import AttentionShape

_PIECE_BYTES = 1 << 16


@dataclass(frozen=True)
class UnfusedSchedule:
    """Scores of all heads, then their softmax, then the mixing; loads and stores hide behind each."""

    shape: AttentionShape
    grid: Grid
    exp_by_macs: bool

    def block(self, width: int) -> int:
        """Queries whose rows stay in half of the buffer while the keys pass, whole tiles of them.

        All of them where the keys of a head fit: then nothing is read twice.
        """
        shape, tile = self.shape, min(self.grid.cols, self.shape.n_queries)
        fitting = self.grid.buffer_bytes // 2 // (2 * width * shape.element_bytes)
        return min(-(-shape.n_queries // tile), max(1, fitting // tile)) * tile

    def program(self, name: str) -> Program:
        """Three stages on the slots of the family."""
        return _UnfusedEmitter(self).program(name)


class _UnfusedEmitter:
    """Nests and buffers of one schedule."""

    def __init__(self, schedule: UnfusedSchedule) -> None:
        self._schedule = schedule
        self._shape = schedule.shape
        self._emit = AttentionEmitter(schedule.shape, _PIECE_BYTES, schedule.grid.free_lanes)

    def program(self, name: str) -> Program:
        for part in ("scores", "softmax", "mix"):
            {"scores": self._scores, "softmax": self._softmax, "mix": self._mix}[part]()
            self._emit.end_stage(f"{name}.{part}")
        return self._emit.program(name)

    def _loops(self, width: int) -> tuple[Loop, Loop, Loop, Loop]:
        """Heads, blocks of queries whose rows stay, tiles of keys that pass, tiles of the block."""
        shape, grid = self._shape, self._schedule.grid
        tile, block = min(grid.cols, shape.n_queries), self._schedule.block(width)
        return (
            Loop("bh", shape.n_heads, 1),
            Loop("block", shape.n_queries, min(block, shape.n_queries)),
            Loop("m", shape.n_keys, min(grid.rows, shape.n_keys)),
            Loop("p", min(block, shape.n_queries), tile),
        )

    def _scores(self) -> None:
        width, emit = self._shape.key_width, self._emit
        loops = self._loops(width)
        block, keys, tile = loops[1].tile, loops[2].tile, loops[3].tile
        rows = emit.port("Q", 2, (("p", block), ("e", width)))
        passing = emit.port("K", 3, (("m", keys), ("e", width)))
        scores = emit.port("QK", 4, (("p", tile), ("m", keys)), slot=STREAM)
        emit.move("load_Q", "Q", Direction.LOAD, loops[:2], block * width, (), (rows,))
        emit.move("load_K", "K", Direction.LOAD, loops[:3], keys * width, (), (passing,))
        sizes = (("p", tile), ("m", keys), ("e", width))
        emit.multiply("score", loops, sizes, ("p", "m", "e"), (rows, passing), (scores,), float(width))
        emit.move("store_QK", "QK", Direction.STORE, loops, tile * keys, (scores,))

    def _mix(self) -> None:
        width, emit, after = self._shape.value_width, self._emit, (self._emit.last_nest,)
        loops = self._loops(width)
        block, keys, tile = loops[1].tile, loops[2].tile, loops[3].tile
        weights = emit.port("A", 4, (("p", tile), ("m", keys)), slot=STREAM)
        passing = emit.port("V", 3, (("m", keys), ("f", width)))
        rows = emit.port("AV", 2, (("p", block), ("f", width)))
        emit.move("load_A", "A", Direction.LOAD, loops, tile * keys, (), (weights,), after=after)
        emit.move("load_V", "V", Direction.LOAD, loops[:3], keys * width, (), (passing,), after=after)
        sizes = (("p", tile), ("m", keys), ("f", width))
        emit.multiply("mix", loops, sizes, ("p", "f", "m"), (weights, passing), (rows,), float(width))
        emit.move("store_AV", "AV", Direction.STORE, loops[:2], block * width, (rows,))

    def _softmax(self) -> None:
        """Sweeps over whole rows, which come once and go once: maxima, numerators and sums, quotients."""
        shape, emit, after = self._shape, self._emit, (self._emit.last_nest,)
        n_rows = shape.n_heads * shape.n_queries
        rows = min(n_rows, max(1, _PIECE_BYTES * 8 // (shape.n_keys * shape.element_bits)))
        loops, elements = (Loop("row", n_rows, rows),), rows * shape.n_keys
        tile = (("row", rows), ("m", shape.n_keys))
        taken, numerators = emit.port("QK_rows", 1, tile), emit.port("N", 1, tile)
        given, maxima = emit.port("A_rows", 1, tile, slot=STREAM), emit.port("maxima", 1, (("row", rows),))
        emit.move("load_QK", "QK", Direction.LOAD, loops, elements, (), (taken,), after=after)
        emit.evaluate("max", "vector", loops, tile, (work("max", ""),), (taken,), (maxima,))
        both = (*exponential("", self._schedule.exp_by_macs), work("sum", ""))
        emit.evaluate("numerator", "vector", loops, tile, both, (taken, maxima), (numerators,))
        emit.evaluate("divide", "vector", loops, tile, (work("div", ""),), (numerators,), (given,))
        emit.move("store_A", "A", Direction.STORE, loops, elements, (given,))
