"""The program of a graph as a spatial pipeline: one stage per operator or fused group, all of them at once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access
from tilewright.dataflow.program import (
    Compute,
    Direction,
    Loop,
    Nest,
    Port,
    Program,
    Transfer,
    Unit,
    VectorWork,
)
from tilewright.sim.architecture import MatrixArray
from tilewright.sim.mapper_machine import Machine
from tilewright.sim.mapping import MappingError
from tilewright.sim.sequential_emit import Emitter, Tile, depth_of, split_tile, tile_loops
from tilewright.sim.sequential_gemm import epilogue_works, matrix_nest
from tilewright.sim.sequential_plan import GemmPlan, StagePlan, VectorPlan
from tilewright.sim.spatial_links import GraphLink, Layout, reads_of

_COPIES = 2  # of tiles from memory and of sums: one in use, one under way
_FOLDS_PER_LEAF = (4, 2, 1)  # of an array, as many as the tiles' room allows


@dataclass(frozen=True, slots=True)
class Bindings:
    """Slot of the array and of the lanes of every stage."""

    arrays: dict[str, str]
    lanes: dict[str, str]


class SpatialScheduler:
    """Emits the stages of one graph on one machine."""

    def __init__(
        self, layout: Layout, machine: Machine, bindings: Bindings, stream_depth: int, deepen: bool
    ) -> None:
        self._layout = layout
        self._graph: Graph = layout.graph
        self._machine = machine
        self._bindings = bindings
        self._depth = stream_depth
        self._emitter = Emitter(layout.graph, machine, _COPIES, {})
        self._links = layout.links(deepen)
        self._folds = _FOLDS_PER_LEAF[-1]
        self._resident_bytes = 0

    def program(self) -> Program:
        """Raises MappingError if a stage's buffers do not fit."""
        self._reserve_tiles()
        for stage in self._layout.plan.stages:
            nests = self._gemm(stage) if isinstance(stage, GemmPlan) else self._vector(stage)
            self._emitter.add_stage(stage.name, stage.operators, nests)
        program = self._emitter.program()
        self._check_capacity(program)
        return program

    # Stages.

    def _gemm(self, plan: GemmPlan) -> list[Nest]:
        loops, tile = self._gemm_tile(plan)
        nests: list[Nest] = []
        reads = []
        for reader, access in reads_of(plan)[:2]:
            own, port = self._operand(plan, reader, access, loops, tile, weights=True)
            nests += own
            reads.append(port)
        works = epilogue_works(self._graph, self._machine, plan)
        c_tile = tuple((rank, tile[rank]) for rank in plan.contraction.output.ranks)
        stored, written = self._results(plan, (plan.output,), loops, tile)
        if works:
            bits = self._machine.array.accumulator_bits
            sums = self._emitter.port(f"{plan.name}.sums", "output_buffer", len(loops), c_tile, bits)
        else:
            sums = written[0]
        leaf = matrix_nest(
            self._emitter, plan.name, plan.contraction, loops, tile, plan.roles, tuple(reads), sums
        )
        more = () if works else tuple(written[1:])
        nests.append(replace(leaf, slot=self._bindings.arrays[plan.name], writes=(sums, *more)))
        if works:
            nests += self._epilogue(plan, loops, tile, works, sums, written)
        return nests + stored

    def _epilogue(
        self, plan: GemmPlan, loops: tuple[Loop, ...], tile: Tile, works: tuple[VectorWork, ...], sums: Port,
        written: Sequence[Port],
    ) -> list[Nest]:  # fmt: skip
        nests: list[Nest] = []
        ports = [sums]
        for reader, access in reads_of(plan)[2:]:
            own, port = self._operand(plan, reader, access, loops, tile, weights=False)
            nests += own
            ports.append(port)
        operators = tuple(op.name for op in plan.epilogue) or (plan.contraction.name,)
        c_tile = tuple((rank, tile[rank]) for rank in plan.contraction.output.ranks)
        leaf = Compute(Unit.VECTOR, operators, c_tile, functions=works)
        slot = self._bindings.lanes[plan.name]
        nests.append(Nest(f"{plan.name}.map", slot, loops, leaf, tuple(ports), tuple(written)))
        return nests

    def _vector(self, plan: StagePlan) -> list[Nest]:
        assert isinstance(plan, VectorPlan)
        loops = self._layout.loops
        ranks = dict.fromkeys(rank for op in plan.operators for rank in op.ranks)
        tile = {rank: self._layout.row_tile.get(rank, self._graph.size(rank)) for rank in ranks}
        nests: list[Nest] = []
        ports = []
        for reader, access in reads_of(plan):
            own, port = self._operand(plan, reader, access, loops, tile, weights=False)
            nests += own
            ports.append(port)
        stored, written = self._results(plan, plan.outputs, loops, self._layout.row_tile)
        operators = tuple(op.name for op in plan.operators)
        leaf = Compute(Unit.VECTOR, operators, tuple(tile.items()), functions=plan.works)
        slot = self._bindings.lanes[plan.name]
        return [*nests, Nest(plan.name, slot, loops, leaf, tuple(ports), tuple(written)), *stored]

    def _gemm_tile(self, plan: GemmPlan) -> tuple[tuple[Loop, ...], dict[str, int]]:
        """Blocks of rows, then batches one by one, then columns in folds of the array; sums are not cut."""
        graph, roles, rows = self._graph, plan.roles, self._layout.row_tile
        array = self._machine.architecture.component_by_slot[self._bindings.arrays[plan.name]]
        assert isinstance(array, MatrixArray)
        batch = tuple(rank for rank in roles.batch if rank not in rows)
        n_sizes = [graph.size(rank) for rank in roles.n]
        columns = split_tile(roles.n, n_sizes, self._folds * array.cols)
        tile = {rank: graph.size(rank) for rank in plan.contraction.ranks}
        tile |= {rank: rows[rank] for rank in rows if rank in tile} | dict.fromkeys(batch, 1) | columns
        loops = (
            *self._layout.loops,
            *tile_loops(batch, [graph.size(rank) for rank in batch], tile, always=False),
            *tile_loops(roles.n, n_sizes, columns, always=False),
        )
        return loops, tile

    # What goes in and out.

    def _operand(
        self, plan: StagePlan, reader: str, access: Access, loops: tuple[Loop, ...], tile: Tile, *, weights: bool
    ) -> tuple[list[Nest], Port]:  # fmt: skip
        """The port at an operand, with the nest that loads it if it comes from memory."""
        emitter, layout = self._emitter, self._layout
        bits = emitter.bits(access.tensor)
        link = next((one for one in self._links if one.taker == reader), None)
        if link is not None:
            part: Tile = {} if link.whole else layout.row_tile
            depth = 0 if link.whole else len(layout.loops)
            tiled = emitter.tensor_tile(access, part)
            return [], emitter.port(link.buffer, "input_buffer", depth, tiled, bits, self._copies(link))
        depth, part, copies = depth_of(loops, access.ranks), tile, _COPIES
        by_rows = 0 < depth <= len(layout.loops)
        tile_bytes = self._tile_bytes(access, tile) if weights else 0
        if not by_rows and not emitter.after(access.tensor) and self._stays(access, tile_bytes):
            depth, part, copies = 0, {}, 1
        slot = "input_buffer" if by_rows else "weight_buffer"
        port = emitter.port(reader, slot, depth, emitter.tensor_tile(access, part), bits, copies)
        load = emitter.load(f"{reader}.load", access, loops[:depth], part, port)
        return [load], port

    def _stays(self, access: Access, tile_bytes: int) -> bool:
        """Whether a tensor without rows is kept for the whole layer: read once, while there is room.

        `tile_bytes` were set aside for its tiles.
        """
        n_bytes = self._graph.n_bytes(access.tensor) - tile_bytes
        if set(access.ranks) & set(self._layout.rows) or n_bytes > self._resident_bytes:
            return False
        self._resident_bytes -= n_bytes
        return True

    def _reserve_tiles(self) -> None:
        """Leave room for two tiles of every operand that may have to be fetched again: large ones if they take no
        more than half of the buffer."""
        capacity = self._machine.weight_buffer.capacity_bytes
        for folds in _FOLDS_PER_LEAF:
            self._folds = folds
            needed = sum(
                self._tile_bytes(access, tile)
                for stage in self._layout.plan.stages
                if isinstance(stage, GemmPlan)
                for tile in (self._gemm_tile(stage)[1],)
                for _, access in reads_of(stage)[:2]
            )
            if needed <= capacity // 2:
                break
        self._resident_bytes = capacity - needed

    def _tile_bytes(self, access: Access, tile: Tile) -> int:
        """Bytes set aside for what comes from memory by tiles of columns."""
        moves_with_rows = set(self._layout.rows) <= set(access.ranks)
        if self._layout.source(access.tensor) or moves_with_rows:
            return 0
        return _COPIES * self._emitter.n_bytes(access, tile)

    def _results(
        self, plan: StagePlan, outputs: Sequence[Access], loops: tuple[Loop, ...], tile: Tile
    ) -> tuple[list[Nest], list[Port]]:
        """Ports to all readers of what a stage writes, and the stores of what leaves the layer."""
        emitter, layout = self._emitter, self._layout
        stores: list[Nest] = []
        ports: list[Port] = []
        for access in outputs:
            bits = emitter.bits(access.tensor)
            for link in self._links:
                if link.tensor == access.tensor and link.giver == plan.name:
                    depth = 0 if link.whole else len(layout.loops)
                    tiled = emitter.tensor_tile(access, {} if link.whole else layout.row_tile)
                    copies = self._copies(link)
                    ports.append(emitter.port(link.buffer, "input_buffer", depth, tiled, bits, copies))
            kept = {
                cache: op for cache, op in layout.scatters.items() if op.inputs[-1].tensor == access.tensor
            }
            leaves = access.tensor in self._graph.outputs
            # What nobody reads and what does not leave is still written somewhere.
            if leaves or not (kept or any(link.tensor == access.tensor for link in self._links)):
                ports.append(self._out(access.tensor, access, loops, tile))
                stores.append(emitter.store(f"{access.tensor}.store", access, loops, tile, ports[-1]))
            for cache, scatter in kept.items():
                own = scatter.inputs[-1]
                same = set(own.ranks) == set(access.ranks)
                turns = (loops, tile) if same else (layout.loops, layout.row_tile)
                ports.append(self._out(cache, own, *turns))
                stores.append(self._cache_store(cache, own, *turns, ports[-1]))
        return stores, ports

    def _out(self, name: str, access: Access, loops: tuple[Loop, ...], tile: Tile) -> Port:
        """The port at what is on its way to memory."""
        tiled, bits = self._emitter.tensor_tile(access, tile), self._emitter.bits(access.tensor)
        return self._emitter.port(f"{name} out", "output_buffer", len(loops), tiled, bits)

    def _cache_store(
        self, cache: str, access: Access, loops: tuple[Loop, ...], tile: Tile, port: Port
    ) -> Nest:
        """New rows of a cache go to their place in memory; those of one head lie together."""
        tiled = self._emitter.tensor_tile(access, tile)
        leaf = Transfer(Direction.STORE, cache, tiled, self._emitter.bits(cache), tiled[-1][1])
        return Nest(f"{cache}.store", "dma_out", loops, leaf, (port,))

    def _copies(self, link: GraphLink) -> int:
        if link.whole:
            return 1
        return max(self._depth, self._layout.n_blocks if link.deep else 1)

    def _check_capacity(self, program: Program) -> None:
        """Raises MappingError naming the stage whose buffer takes most of a memory that is too small."""
        for slot in ("input_buffer", "weight_buffer", "output_buffer"):
            memory = getattr(self._machine, slot)
            own = [one for one in program.buffers if one.slot == slot]
            used = sum(one.slot_bytes * one.copies for one in own)
            if used > memory.capacity_bytes:
                largest = max(own, key=lambda one: one.slot_bytes * one.copies)
                stage = next(
                    stage.name for stage in program.stages for nest in stage.nests
                    if any(port.buffer == largest.name for port in nest.reads)
                )  # fmt: skip
                raise MappingError(
                    f"graph {program.name!r}: {slot} holds {memory.capacity_bytes} bytes, the pipeline needs"
                    f" {used}; {largest.slot_bytes * largest.copies} of them are {largest.name!r} of stage"
                    f" {stage!r}"
                )


def balanced(work: Sequence[tuple[str, float]], slots: Sequence[str]) -> dict[str, str]:
    """A slot for every stage: the heaviest first, each to the one with least work so far."""
    loads = dict.fromkeys(slots, 0.0)
    found: dict[str, str] = {}
    for name, amount in sorted(work, key=lambda one: -one[1]):
        slot = min(slots, key=lambda one: loads[one])
        loads[slot] += amount
        found[name] = slot
    return found


def work_of(graph: Graph, plan: StagePlan) -> tuple[float, float]:
    """(multiply-accumulates, evaluations) of a stage."""
    if isinstance(plan, GemmPlan):
        elements = prod(graph.size(rank) for rank in plan.contraction.output.ranks)
        return float(graph.n_points(plan.contraction)), float(elements * (1 + len(plan.epilogue)))
    return 0.0, float(sum(graph.n_points(op) for op in plan.operators))
