"""One-pass attention on a grid of PEs and a row of PEs beside it (FuseMax), phase by phase.

A tile is `cols` queries (across the columns) by `rows` keys (along the rows). The einsums of the cascade are bound to
the grid or to the row; those of a phase start together and the next phase starts when both sides are done. Three
bindings, all from arXiv 2406.10491 and its public artifact; `docs/fused_attention.md` draws them:

  cascade       products on the grid, all else on the row; the two never wait for each other's tile
  phased        sums, maxima and exponentials of scores on the grid too; one tile at a time
  interleaved   the same, and the scores of the next tile are computed while this one's are corrected
"""

from dataclasses import dataclass
from typing import Literal

from tilewright.dataflow.program import Direction, Loop, Port, Program, VectorWork
from tilewright.sim.fused_attention_emit import (
    EXP_MACS,
    FLAG,
    PES,
    STAGING,
    STREAM,
    WAVE,
    AttentionEmitter,
    work,
)
from tilewright.sim.fused_attention_flat import Grid
from tilewright.sim.fused_attention_shape import AttentionShape
from tilewright.sim.mapping import MappingError

Binding = Literal["cascade", "phased", "interleaved"]
Works = tuple[VectorWork, ...]
_PIECE_BYTES = 1 << 16


@dataclass(frozen=True)
class CascadeSchedule:
    """One attention in one pass, bound to the grid and the row of PEs."""

    shape: AttentionShape
    binding: Binding
    grid: Grid
    exp_by_macs: bool

    @property
    def loops(self) -> tuple[Loop, Loop, Loop, Loop]:
        """Heads, blocks of queries that stay on chip, tiles of keys, tiles of queries within a block."""
        shape, tile = self.shape, min(self.grid.cols, self.shape.n_queries)
        block = min(shape.n_queries, tile * self.block_tiles())
        return (
            Loop("bh", shape.n_heads, 1),
            Loop("block", shape.n_queries, block),
            Loop("m", shape.n_keys, min(self.grid.rows, shape.n_keys)),
            Loop("p", block, tile),
        )

    def words_per_query(self) -> int:
        """What a query keeps in the buffer while all keys pass: itself, maximum, denominator, mixed values.

        Where the row of PEs works on scores, also a row of scores and one of exponentials.
        """
        scores = 2 * self.grid.rows if self.binding == "cascade" else 0
        return self.shape.key_width + 2 + self.shape.value_width + scores

    def block_tiles(self) -> int:
        """The most tiles of queries, a divisor of all of them, that fit beside a tile of keys and values.

        Raises MappingError if not even one does.
        """
        shape = self.shape
        keys = min(self.grid.rows, shape.n_keys) * (shape.key_width + shape.value_width)
        room = self.grid.buffer_bytes // shape.element_bytes - keys
        tile = min(self.grid.cols, shape.n_queries)
        n_tiles = -(-shape.n_queries // tile)
        most = room // (tile * self.words_per_query())
        if most < 1:
            raise MappingError(
                f"a tile of {tile} queries needs {tile * self.words_per_query() * shape.element_bytes} bytes"
                f" of the buffer, {max(0, room) * shape.element_bytes} are free"
            )
        return max(divisor for divisor in range(1, min(most, n_tiles) + 1) if n_tiles % divisor == 0)

    def program(self, name: str) -> Program:
        """The schedule as loops and tokens on the slots of the family."""
        return _CascadeEmitter(self).program(name)


class _CascadeEmitter:
    """Nests and buffers of one schedule; a nest is one side of one phase."""

    def __init__(self, schedule: CascadeSchedule) -> None:
        self._schedule = schedule
        self._shape = schedule.shape
        self._loops = schedule.loops
        self._emit = AttentionEmitter(schedule.shape, _PIECE_BYTES, schedule.grid.free_lanes)
        self._block, self._queries, self._keys = (
            self._loops[1].tile,
            self._loops[3].tile,
            self._loops[2].tile,
        )

    def program(self, name: str) -> Program:
        shape, emit = self._shape, self._emit
        block, keys = self._loops[:2], self._loops[:3]
        self._q = emit.port("Q", 2, (("p", self._block), ("e", shape.key_width)))
        self._k = emit.port("K", 3, (("m", self._keys), ("e", shape.key_width)))
        self._v = emit.port("V", 3, (("m", self._keys), ("f", shape.value_width)))
        self._sums = emit.port("RNV", 2, (("p", self._block), ("f", shape.value_width)))
        self._state = emit.port("RM_RD", 2, (("p", self._block), ("s", 2)))
        width = shape.key_width
        emit.move("load_Q", "Q", Direction.LOAD, block, self._block * width, (), (self._q,))
        emit.move("load_K", "K", Direction.LOAD, keys, self._keys * width, (), (self._k,))
        emit.move("load_V", "V", Direction.LOAD, keys, self._keys * shape.value_width, (), (self._v,))
        {"cascade": self._cascade, "phased": self._phased, "interleaved": self._interleaved}[
            self._schedule.binding
        ]()
        self._finish()
        emit.end_stage(name)
        return emit.program(name)

    # Bindings. The einsums' names and costs are those of the source; docs/fused_attention.md lists them.

    def _cascade(self) -> None:
        """The grid and the row each go at their own pace, tiles of scores in between."""
        scores, weights, mixed = self._tile("QK"), self._tile("SLN"), self._mixed()
        self._scores("QK", (self._q, self._k), (scores,))
        self._mix((weights, self._v), (mixed,))
        tile = (work("max", "pm"), *self._exp("pm"), work("add", "pm"))
        state = (work("max", "p"), *self._exp("p"), work("mac", "p"), work("add", "p"))
        self._row("SLN", (*tile, *state), (scores,), (weights, self._state))
        # The row corrects a tile's sums when the grid has mixed it, which is a tile later.
        width = self._shape.value_width
        self._row("RNV", (work("mac", "p", width), work("add", "p", width)), (mixed,), (self._sums,))

    def _phased(self) -> None:
        """Phases a to e of a tile, then those of the next; the wave of maxima leaves the grid row by row."""
        few, flag, width = self._few, self._flag, self._shape.value_width
        maxima, turn, out, latest = few("LM"), flag("turn"), flag("LM_out"), few("RM")
        self._scores("QK", (self._q, self._k), (maxima, turn))
        self._emit.evaluate("wave", WAVE, self._loops, self._one_tile, (), (maxima,), (out,))
        self._row("RM", (work("max", "p"),), (out,), (latest,))
        phase = self._exponentials(latest)
        # The next tile's scores wait for both sides of the last phase, which give the turn back.
        self._mix((self._in_pes("SLN"), self._v), (self._mixed(),), (*phase, turn))
        late = (work("mac", "p", width), work("add", "p", width))
        self._row("SPNV_RNV", late, (*phase, turn), (flag("SPNV"), self._sums))
        self._row("RD", (work("add", "p"),), (self._mixed(), flag("SPNV"), few("SLD")), (self._state,))

    def _interleaved(self) -> None:
        """Phases a to d; phase a holds the scores of the next tile and the last corrections of this one."""
        few, flag, width = self._few, self._flag, self._shape.value_width
        self._scores("QK", (self._q, self._k), (few("LM"),))
        self._row("RM", (work("max", "p"),), (few("LM"),), (few("RM"),))
        phase = self._exponentials(few("RM"))
        self._mix((self._in_pes("SLN"), self._v), (self._mixed(),), phase)
        self._row("SPNV", (work("mac", "p", width),), phase, (flag("SPNV"),))
        ends = (work("add", "p"), work("add", "p", width))
        reads = (self._mixed(), flag("SPNV"), few("SLD"))
        self._row("RD_RNV", ends, reads, (self._state, self._sums))

    def _exponentials(self, latest: Port) -> tuple[Port, Port]:
        """Exponentials and their sums on the grid, the corrections of the running ones on the row."""
        works = (*self._exp("pm"), work("add", "pm"))
        sides = self._flag("SLN_done"), self._flag("PRM_done")
        writes = (self._in_pes("SLN"), self._few("SLD"), sides[0])
        self._emit.evaluate(
            "SLN_SLD",
            "array",
            self._loops,
            self._one_tile,
            works,
            (latest,),
            writes,
            float(sum(one.evaluations for one in works)),
        )
        self._row("PRM_SPD", (*self._exp("p"), work("mac", "p")), (latest,), sides[1:])
        return sides

    def _exp(self, ranks: str) -> Works:
        """A subtraction and an exponential; operations of one einsum never overlap here."""
        return (
            work("sub", ranks),
            work("mac", ranks, EXP_MACS) if self._schedule.exp_by_macs else work("exp", ranks),
        )

    # Nests.

    @property
    def _one_tile(self) -> tuple[tuple[str, int], ...]:
        return (("p", self._queries), ("m", self._keys))

    def _scores(self, name: str, reads: tuple[Port, ...], writes: tuple[Port, ...]) -> None:
        """Products of queries and keys; where the grid keeps them, their maxima in one more cycle."""
        width = self._shape.key_width
        cycles = float(width if self._schedule.binding == "cascade" else width + 1)
        tile = (*self._one_tile, ("e", width))
        self._emit.multiply(name, self._loops, tile, ("p", "m", "e"), reads, writes, cycles)

    def _mix(
        self, operands: tuple[Port, ...], writes: tuple[Port, ...], waits: tuple[Port, ...] = ()
    ) -> None:
        width = self._shape.value_width
        tile = (*self._one_tile, ("f", width))
        reads = (*operands, *waits)
        self._emit.multiply("SLNV", self._loops, tile, ("p", "f", "m"), reads, writes, float(width))

    def _row(self, name: str, works: Works, reads: tuple[Port, ...], writes: tuple[Port, ...]) -> None:
        """One side of a phase on the row of PEs, one for each query of the tile."""
        self._emit.evaluate(name, "vector", self._loops, self._one_tile, works, reads, writes)

    def _finish(self) -> None:
        """Divide the mixed values of a block when its last key has passed, and store them."""
        width = self._shape.value_width
        loops = (*self._loops[:2], self._loops[3])
        tile = (("p", self._queries), ("f", width))
        out = self._emit.port("AV", 3, tile, slot=STAGING)
        works = (work("div", "pf"),)
        self._emit.evaluate("AV", "vector", loops, tile, works, (self._sums, self._state), (out,))
        self._emit.move("store_AV", "AV", Direction.STORE, loops, self._queries * width, (out,))

    # Ports.

    def _tile(self, name: str) -> Port:
        """A tile of scores between grid and row, in the buffer."""
        return self._emit.port(name, 4, self._one_tile)

    def _in_pes(self, name: str) -> Port:
        """A tile of scores that stays in the registers of the grid's PEs."""
        return self._emit.port(name, 4, self._one_tile, copies=1, slot=PES)

    def _mixed(self) -> Port:
        """A tile's sums, handed from grid to row."""
        return self._emit.port(
            "SLNV", 4, (("p", self._queries), ("f", self._shape.value_width)), copies=1, slot=STAGING
        )

    def _few(self, name: str) -> Port:
        """One value per query of the tile, in the staging registers between grid and row."""
        return self._emit.port(name, 4, (("p", self._queries),), slot=STAGING)

    def _flag(self, name: str) -> Port:
        """A token that says that one side of a phase is done."""
        return self._emit.port(name, 4, ((f"{name}{FLAG}", 1),), copies=1, slot=STREAM)
