"""Attention fused by rows or heads (FLAT): scores of a query tile stay on chip between the two products.

The array walks each product in passes: a rank lies across its columns, one along its rows, one is run through in
time inside a pass, and what is left of the three are loops around it. A tensor either lives in the buffer
for as long as its tile is in use, or passes between DRAM and array whenever the array needs it. A tile may be
larger than the buffer; the share that does not fit then travels at every access. Rules: arXiv 2107.06419 as
modelled in the public artifact of arXiv 2406.10491; `docs/fused_attention.md` draws them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Literal, get_args

from tilewright.dataflow.program import Direction, Loop, Port, Program, n_iterations
from tilewright.sim.architecture import Stationarity
from tilewright.sim.fused_attention_emit import BUFFER, FLAG, STREAM, AttentionEmitter, exponential, work
from tilewright.sim.fused_attention_shape import AttentionShape
from tilewright.sim.mapping import MappingError

Granularity = Literal["row", "head"]
Product = Literal["score", "mix"]
#: What does not fit travels "instead" of being loaded with its tile, or "besides" (FLAT's own figures).
Spill = Literal["instead", "besides"]
#: Tensors by their usual names: queries, keys, scores, weights (their softmax), values, output.
KEEPABLE = ("Q", "K", "QK", "A", "V", "AV")
_RANKS: Mapping[str, tuple[str, str]] = {
    "Q": ("p", "e"), "K": ("m", "e"), "QK": ("p", "m"), "A": ("p", "m"), "V": ("m", "f"), "AV": ("p", "f"),
}  # fmt: skip
#: By stationarity: the ranks run through in time, across columns and along rows, for both products.
_ORDER: Mapping[str, Mapping[str, tuple[str, str, str]]] = {
    "score": {"output": ("e", "m", "p"), "weight": ("p", "e", "m"), "input": ("m", "e", "p")},
    "mix": {"output": ("m", "f", "p"), "weight": ("p", "f", "m"), "input": ("f", "m", "p")},
}  # fmt: skip
_OPERANDS = {"score": ("Q", "K", "QK"), "mix": ("A", "V", "AV")}
# Rows of scores are handed on as they are done, so three parts of the tile are in different hands.
_SCORE_PARTS = 3
_TRANSFER_BYTES = 1 << 16  # rows travel together up to this much: cycles of a transfer are whole
_MOST_COPIES = 4
_PREFETCH_WORDS_PER_ROW = 16  # a kept tile comes ahead of its use, in pieces that hold up nobody
_IN_DRAM = 4  # tiles of scores that may be under way there; the chip holds none of them
# What the sweeps of the softmax exchange with a buffer of scores: maxima, numerators (and their sums), quotients.
_SWEEP_SPILLS = (
    ("max", "QK", Direction.LOAD),
    ("numerator", "QK", Direction.LOAD),
    ("numerator", "N", Direction.STORE),
    ("divide", "N", Direction.LOAD),
    ("divide", "A", Direction.STORE),
)


@dataclass(frozen=True, slots=True)
class FlatChoice:
    """How one attention is fused; the fields are those of FLAT's published configurations.

    `query_tile` is used with granularity "row" only. `kept` are the tensors that live on chip within a tile.
    `softmax` False leaves the softmax out, as FLAT's own figures do.
    """

    granularity: Granularity
    query_tile: int
    score_stationarity: Stationarity
    mix_stationarity: Stationarity
    kept: frozenset[str]
    softmax: bool = True
    spill: Spill = "instead"
    exp_by_macs: bool = False

    def __post_init__(self) -> None:
        if self.granularity not in get_args(Granularity):
            raise MappingError(f"granularity must be 'row' or 'head', got {self.granularity!r}")
        if self.query_tile <= 0:
            raise MappingError(f"query_tile must be > 0, got {self.query_tile}")
        if unknown := sorted(self.kept - set(KEEPABLE)):
            raise MappingError(f"kept: {unknown[0]!r} is not one of {', '.join(KEEPABLE)}")
        if ("QK" in self.kept) != ("A" in self.kept):
            raise MappingError("kept: QK and A share their room, so both are kept or none")


@dataclass(frozen=True, slots=True)
class Grid:
    """The hardware that a fused attention meets: a square-ish array, lanes beside it and one buffer."""

    rows: int
    cols: int
    lanes: int
    buffer_bytes: int
    free_ports: bool = False  # memory ports are never a limit: lanes take their own cycles alone

    @property
    def free_lanes(self) -> int:
        """The lanes where they alone set the time, else 0."""
        return self.lanes if self.free_ports else 0


@dataclass(frozen=True)
class Passes:
    """One product on the array: loops around a pass, outermost first, and what a pass does."""

    product: Product
    loops: tuple[Loop, ...]
    inner: str  # the rank run through inside a pass
    inner_extent: int  # elements of it in one piece of a pass
    spatial: tuple[tuple[str, int], tuple[str, int]]  # rank and elements across columns, along rows

    def reach(self, rank: str) -> int:
        """Elements along `rank` that one pass covers."""
        return self.inner_extent if rank == self.inner else dict(self.spatial).get(rank, 1)


@dataclass(frozen=True)
class FlatSchedule:
    """One attention with one choice on one grid: its passes, its need of the buffer, its program."""

    shape: AttentionShape
    choice: FlatChoice
    grid: Grid
    extents: Mapping[str, int] = field(init=False)
    query_tile: int = field(init=False)

    def __post_init__(self) -> None:
        shape = self.shape
        by_rank = {"p": shape.n_queries, "m": shape.n_keys, "e": shape.key_width, "f": shape.value_width}
        tile = shape.n_queries if self.choice.granularity == "head" else self.choice.query_tile
        object.__setattr__(self, "extents", by_rank)
        object.__setattr__(self, "query_tile", min(tile, shape.n_queries))

    def passes(self, product: Product) -> Passes:
        """The passes of a product within a query tile; loops over heads and tiles stand outside."""
        stationarity = self.choice.score_stationarity if product == "score" else self.choice.mix_stationarity
        inner, across, along = _ORDER[product][stationarity]
        within = dict(self.extents) | {"p": self.query_tile}
        across_tile, along_tile = min(self.grid.cols, within[across]), min(self.grid.rows, within[along])
        # A pass goes by in pieces of one side, so that passes of the two products and their operands take turns;
        # the sums of both stay in the PEs' registers. Around it the columns' rank, then the rows' rank.
        piece = min(self.grid.rows, within[inner])
        loops = (
            Loop(along, within[along], along_tile),
            Loop(across, within[across], across_tile),
            Loop(inner, within[inner], piece),
        )
        return Passes(product, loops, inner, piece, ((across, across_tile), (along, along_tile)))

    @property
    def outer(self) -> tuple[Loop, Loop]:
        """Heads, then query tiles."""
        return Loop("bh", self.shape.n_heads, 1), Loop("p1", self.shape.n_queries, self.query_tile)

    def need_bytes(self) -> int:
        """Bytes that a tile wants of the buffer: scores once, everything else twice."""
        tile, side = self.query_tile, self.grid.cols
        keys, width = self.shape.n_keys, self.shape.key_width
        short = min(side, width)
        need = 0
        if "QK" in self.choice.kept:
            need += tile * keys
        else:
            need += 2 * (tile * side + side * side)
        for name, kept in (
            ("Q", tile * width),
            ("K", keys * width),
            ("V", keys * width),
            ("AV", tile * width),
        ):
            if name in self.choice.kept:
                need += 2 * kept
            elif name == "AV" and self.choice.mix_stationarity == "weight":
                need += 2 * tile * short  # its partial sums
            else:
                need += 2 * side * short
        return need * self.shape.element_bytes

    def spilled_fraction(self) -> float:
        """The share of a tile's need that the buffer lacks."""
        return max(0.0, 1.0 - self.grid.buffer_bytes / self.need_bytes())

    def streamed(self, tensor: str) -> tuple[tuple[Loop, ...], int]:
        """Loops and elements per iteration with which the array takes or gives `tensor` off chip.

        A value is reused only while the loops inside do not index it; sums leave once, in full.
        """
        product: Product = "score" if tensor in _OPERANDS["score"] else "mix"
        passes = self.passes(product)
        ranks = _RANKS[tensor]
        depth = len(passes.loops)
        if tensor in ("QK", "AV"):  # complete when the outermost loop over what is summed up is done
            summed = (i for i, loop in enumerate(passes.loops) if loop.rank not in ranks and loop.trips > 1)
            depth = next(summed, depth)
        elif passes.inner not in ranks:
            while depth and passes.loops[depth - 1].rank[0] not in ranks:
                depth -= 1
        loops = passes.loops[:depth]
        looped = {loop.rank for loop in loops}
        elements = prod(passes.reach(rank) if rank in looped else self._within(rank) for rank in ranks)
        return (*self.outer, *loops), elements

    def exchanged(self, tensor: str) -> tuple[tuple[Loop, ...], int]:
        """Loops and elements per iteration with which array and buffer exchange `tensor`.

        Sums that are cut come back and leave again with every cut.
        """
        if tensor not in ("QK", "AV"):
            return self.streamed(tensor)
        passes = self.passes("score" if tensor == "QK" else "mix")
        ranks = _RANKS[tensor]
        loops = passes.loops if passes.inner in ranks else passes.loops[:-1]
        return (*self.outer, *loops), prod(passes.reach(rank) for rank in ranks)

    def _within(self, rank: str) -> int:
        return self.query_tile if rank == "p" else self.extents[rank]

    def kept_tile(self, tensor: str) -> tuple[tuple[Loop, ...], int]:
        """Loops and elements with which a kept tensor crosses the chip's edge: its tile once per tile."""
        elements = prod(self._within(rank) for rank in _RANKS[tensor])
        loops = self.outer if "p" in _RANKS[tensor] else self.outer[:1]
        return loops, elements

    def spills(self) -> tuple[tuple[str, Direction], ...]:
        """What of the products' tensors travels beside their tiles, by the spilled share of `exchanged`."""
        if not self.spilled_fraction():
            return ()
        kept = self.choice.kept
        found: list[tuple[str, Direction]] = [(name, Direction.LOAD) for name in KEEPABLE[:2] if name in kept]
        found += [("V", Direction.LOAD)] if "V" in kept else []
        if self.choice.spill == "instead":
            found += [("QK", Direction.STORE), ("A", Direction.LOAD)] if "QK" in kept else []
            return (*found, *(self._spilled_sums() if "AV" in kept else ()))
        found += [("QK", Direction.STORE), ("A", Direction.LOAD)]
        found += [] if "Q" in kept else [("Q", Direction.LOAD)]
        if self.choice.score_stationarity == "weight" and self.shape.key_width > self.grid.cols:
            found.append(("QK", Direction.LOAD))
        return (*found, *self._spilled_sums())

    def _spilled_sums(self) -> tuple[tuple[str, Direction], ...]:
        if self.choice.mix_stationarity == "weight":
            return ("AV", Direction.LOAD), ("AV", Direction.STORE)
        return (("AV", Direction.STORE),) if "AV" in self.choice.kept else ()

    def estimate(self) -> tuple[int, int]:
        """(cycles of the array, bytes over the memory's edge) of the products, without a softmax."""
        products: tuple[Product, Product] = ("score", "mix")
        cycles = 0
        for product in products:
            passes = self.passes(product)
            cycles += n_iterations((*self.outer, *passes.loops)) * passes.inner_extent
        moved = [
            self.kept_tile(one) if one in self.choice.kept else self.streamed(one) for one in ("Q", "K", "V")
        ]
        moved.append(self.streamed("AV"))
        if "QK" not in self.choice.kept:
            moved += [self.streamed("QK"), self.streamed("A")]
        elements = sum(n_iterations(loops) * size for loops, size in moved)
        spilled = [self.exchanged(tensor) for tensor, _ in self.spills()]
        over = sum(n_iterations(loops) * size for loops, size in spilled) * self.spilled_fraction()
        return cycles, round(elements + over) * self.shape.element_bytes

    def program(self, name: str) -> Program:
        """The schedule as loops and tokens on the slots of the family."""
        return _FlatEmitter(self).program(name)


class _FlatEmitter:
    """Nests and buffers of one schedule."""

    def __init__(self, schedule: FlatSchedule) -> None:
        self._schedule = schedule
        self._choice = schedule.choice
        self._shape = shape = schedule.shape
        side = schedule.grid.rows * max(schedule.grid.cols, shape.key_width)
        self._emit = AttentionEmitter(shape, side * shape.element_bits // 8, schedule.grid.free_lanes)
        score, mix = schedule.passes("score"), schedule.passes("mix")
        rows_first = score.loops[0].rank == mix.loops[0].rank == "p"
        # Rows of scores go on as soon as they are whole; with keys outside queries that is the whole tile.
        self._row_loops = (*schedule.outer, *(score.loops[:1] if rows_first else ()))
        self._n_rows = score.loops[0].tile if rows_first else schedule.query_tile
        # Room that is left holds further pieces of what streams.
        left = schedule.grid.buffer_bytes - schedule.need_bytes()
        room = len(KEEPABLE) * side * shape.element_bits // 8
        self._copies = max(2, min(_MOST_COPIES, 2 + left // room))

    def program(self, name: str) -> Program:
        self._multiply("score", ("Q", "K"), "QK")
        if self._choice.softmax:
            self._softmax()
        elif not self._keeps_scores:
            self._fetch("A", "QK_stored")
        self._multiply("mix", ("A", "V"), "AV")
        self._emit.end_stage(name)
        return self._emit.program(name)

    @property
    def _keeps_scores(self) -> bool:
        return "QK" in self._choice.kept

    def _multiply(self, product: Product, operands: tuple[str, str], result: str) -> None:
        """One product: its operands come, its result goes, and what of them has spilled moves along."""
        reads = [self._operand(tensor) for tensor in operands]
        writes = [self._result(result)]
        for tensor, direction in self._schedule.spills():
            if tensor in (*operands, result):
                loops, elements = self._schedule.exchanged(tensor)
                ports = reads if direction is Direction.LOAD else writes
                ports += self._spill("array", tensor, direction, loops, elements)
        passes = self._schedule.passes(product)
        tile = (*passes.spatial, (passes.inner, passes.inner_extent))
        ranks = ("p", "m", "e") if product == "score" else ("p", "f", "m")
        loops = (*self._schedule.outer, *passes.loops)
        cycles = float(passes.inner_extent)
        self._emit.multiply(product, loops, tile, ranks, tuple(reads), tuple(writes), cycles)

    def _operand(self, tensor: str) -> Port:
        """The port at which the array takes an operand, loaded as the choice has it."""
        if tensor == "A":
            return (
                self._handed("A" if self._choice.softmax else "QK")
                if self._keeps_scores
                else self._piece("A")
            )
        if tensor not in self._choice.kept:
            loops, elements = self._schedule.streamed(tensor)
            port = self._piece(tensor)
            self._emit.move(f"load_{tensor}", tensor, Direction.LOAD, loops, elements, (), (port,))
            return port
        loops, elements = self._schedule.kept_tile(tensor)
        port = self._emit.port(tensor, len(loops), ((f"{tensor}.elements", elements),))
        fits = 1.0 if self._choice.spill == "besides" else 1.0 - self._schedule.spilled_fraction()
        self._emit.move(
            f"load_{tensor}", tensor, Direction.LOAD, loops, max(1, round(elements * fits)), (), (port,),
            piece_elements=_PREFETCH_WORDS_PER_ROW * self._schedule.grid.rows,
        )  # fmt: skip
        return port

    def _result(self, tensor: str) -> Port:
        if tensor == "QK" and self._keeps_scores:
            return self._handed("QK")
        loops, elements = self._schedule.streamed(tensor)
        port = self._piece(tensor)
        stored = (self._flag("QK_stored"),) if tensor == "QK" else ()
        self._emit.move(f"store_{tensor}", tensor, Direction.STORE, loops, elements, (port,), stored)
        return port

    def _handed(self, tensor: str) -> Port:
        """Rows of scores that go on within the chip."""
        tile = (("row", self._n_rows), ("m", self._shape.n_keys))
        return self._emit.port(tensor, len(self._row_loops), tile, copies=_SCORE_PARTS, parts=_SCORE_PARTS)

    def _flag(self, name: str) -> Port:
        """A token that says that rows of scores are in DRAM."""
        tile = ((f"{name}{FLAG}", 1),)
        return self._emit.port(name, len(self._row_loops), tile, copies=_IN_DRAM, slot=STREAM)

    def _piece(self, tensor: str) -> Port:
        """What passes between array and DRAM without a stay in the buffer."""
        loops, elements = self._schedule.streamed(tensor)
        tile = ((f"{tensor}.elements", elements),)
        # Sums that stay in the PEs until they are whole pass the buffer by.
        sums = tensor == "AV" and self._choice.mix_stationarity == "weight"
        slot = BUFFER if sums and tensor in self._choice.kept else STREAM
        return self._emit.port(tensor, len(loops), tile, copies=self._copies, slot=slot)

    def _fetch(self, tensor: str, flag: str) -> None:
        """Load what an earlier step of the same attention has stored."""
        loops, elements = self._schedule.streamed(tensor)
        port = self._piece(tensor)
        flags = (self._flag(flag),)
        self._emit.move(f"load_{tensor}", tensor, Direction.LOAD, loops, elements, flags, (port,))

    def _softmax(self) -> None:
        """Sweeps over the scores, some rows at a time: maxima, numerators with their sums, quotients."""
        row_bytes = self._shape.n_keys * self._shape.element_bits // 8
        rows = min(self._n_rows, max(1, _TRANSFER_BYTES // row_bytes))
        loops = (*self._row_loops, Loop("row", self._n_rows, rows))
        depth, elements = len(loops), rows * self._shape.n_keys
        scores = (("row", rows), ("m", self._shape.n_keys))
        numerators = self._emit.port("N", depth, scores)
        maxima = self._emit.port("maxima", depth, (("row", rows),))
        if self._keeps_scores:
            taken, given = self._handed("QK"), self._handed("A")
        else:
            taken = self._emit.port("QK_rows", depth, scores)
            given = self._emit.port("A_rows", depth, scores, slot=STREAM)
            flags = (self._flag("QK_stored"),), (self._flag("A_stored"),)
            self._emit.move("load_QK", "QK", Direction.LOAD, loops, elements, flags[0], (taken,))
            self._emit.move("store_A", "A", Direction.STORE, loops, elements, (given,), flags[1])
            self._fetch("A", "A_stored")
        sweeps = (
            ("max", (work("max", ""),), (taken,), (maxima,)),
            (
                "numerator",
                (*exponential("", self._choice.exp_by_macs), work("sum", "")),
                (taken, maxima),
                (numerators,),
            ),
            ("divide", (work("div", ""),), (numerators,), (given,)),
        )
        for name, works, reads, writes in sweeps:
            ends = {Direction.LOAD: list(reads), Direction.STORE: list(writes)}
            for sweep, tensor, direction in _SWEEP_SPILLS if self._keeps_scores else ():
                if sweep == name:
                    ends[direction] += self._spill(name, tensor, direction, loops, elements)
            ports = tuple(ends[Direction.LOAD]), tuple(ends[Direction.STORE])
            self._emit.evaluate(name, "vector", loops, scores, works, *ports)

    def _spill(
        self, user: str, tensor: str, direction: Direction, loops: tuple[Loop, ...], elements: int
    ) -> tuple[Port, ...]:
        """A nest that moves the spilled share of a tensor, at the pace of the nest that takes its port."""
        moved = round(elements * self._schedule.spilled_fraction())
        if not moved:
            return ()
        name = f"spill_{user}_{direction.value}_{tensor}"
        tile = ((f"{name}{FLAG}", 1),)
        port = self._emit.port(name, len(loops), tile, copies=self._copies, slot=STREAM)
        ends = ((), (port,)) if direction is Direction.LOAD else ((port,), ())
        self._emit.move(name, tensor, direction, loops, moved, *ends)
        return (port,)
