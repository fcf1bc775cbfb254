"""The stages of the vector unit and of moved rows: loads, one vector nest, stores."""

from dataclasses import dataclass
from math import inf, prod

from tilewright.dataflow.operator import Access, Kind, Operator
from tilewright.dataflow.program import Compute, Loop, Nest, Port, Unit, VectorWork
from tilewright.sim.mapper import tile_candidates
from tilewright.sim.mapping import MappingError
from tilewright.sim.sequential_emit import Emitter, Tile, depth_of, limited, split_tile, tile_loops
from tilewright.sim.sequential_plan import MovePlan, VectorPlan
from tilewright.sim.sequential_recurrence import carried_tensors
from tilewright.sim.sequential_rooms import Rooms

# A masked row may be walked in as many pieces, so that much of what the mask leaves out is never touched.
_MASK_PIECES = (16, 8, 4, 2, 1)
# The row tile is chosen among this many candidates.
_MAX_TILES = 8
# A row that does not fit is cut into one of so many sizes of pieces.
_MAX_PIECES = 64
# Sizes of pieces that are tried differ by at least this factor.
_PIECE_STEP = 4


@dataclass(frozen=True, slots=True)
class VectorStage:
    """Emits the nests of one plan; `rows` are tiled, what the operators reduce over is whole or walked."""

    emitter: Emitter
    plan: VectorPlan
    rooms: Rooms

    @staticmethod
    def emit(emitter: Emitter, plan: VectorPlan, rooms: Rooms) -> None:
        """Append the stage, or one stage per operator where joint rows do not fit.

        Raises MappingError if not even one row, or one element of a single operator, fits.
        """
        stage = VectorStage(emitter, plan, rooms)
        tile = stage.best_tile()
        if tile is None and len(plan.operators) > 1:
            for part in plan.parts(emitter.graph):
                VectorStage.emit(emitter, part, rooms)
            return
        if tile is None:
            raise MappingError(stage._refusal())
        emitter.add_stage(plan.name, (*plan.gathers, *plan.operators), stage.nests(tile))

    @property
    def _walked(self) -> bool:
        """Whether a row passes piece by piece: a single operator needs no row as a whole."""
        return len(self.plan.operators) == 1

    def best_tile(self) -> dict[str, int] | None:
        """The tile of rows, and of masked columns, of least estimated time; None if none fits."""
        graph, serial = self.emitter.graph, self.plan.serial
        ranks = tuple(rank for rank in self.plan.rows if rank != serial)
        sizes = tuple(graph.size(rank) for rank in ranks)
        best: tuple[float, dict[str, int]] | None = None
        for columns in self._column_tiles():
            visited = self._visited(columns)
            for elements in tile_candidates(sizes, 1, _MAX_TILES, self._most_rows(columns)):
                rows = split_tile(ranks, sizes, min(elements, prod(sizes)))
                for steps in self._step_counts(rows | columns):
                    tile = rows | columns | ({serial: steps} if serial else {})
                    if not self._fits(tile):
                        continue
                    cycles = self._estimate(tile) * visited
                    if best is None or cycles <= best[0]:
                        best = cycles, tile
        return None if best is None else best[1]

    def _step_counts(self, tile: Tile) -> tuple[int, ...]:
        """How many steps of a recurrence a leaf may take: divisors of all, so that every leaf takes as many.

        Only one where a step is over before its first result has left the lanes: the next one waits for it,
        which is what the startup of a leaf stands for.
        """
        serial = self.plan.serial
        if not serial:
            return (1,)
        vector = self.emitter.machine.vector
        if prod(tile.values()) < vector.startup_cycles * vector.lanes:
            return (1,)
        size = self.emitter.graph.size(serial)
        divisors = [steps for steps in range(1, size + 1) if size % steps == 0]
        return tuple(divisors[:: max(1, len(divisors) // _MAX_TILES)])

    def _works(self, tile: Tile) -> tuple[VectorWork, ...]:
        """What a leaf evaluates: the steps of a recurrence one after another, each on all lanes."""
        serial = self.plan.serial
        if not serial:
            return self.plan.works
        return tuple(
            VectorWork(
                work.function, tuple(rank for rank in work.ranks if rank != serial),
                work.evaluations * (tile[serial] if serial in work.ranks else 1),
            )
            for work in self.plan.works
        )  # fmt: skip

    @property
    def _state(self) -> tuple[Access, ...]:
        """What stays on chip between the steps of a recurrence without being a result of its own."""
        serial = self.plan.serial
        results = {access.tensor for access in self.plan.outputs if serial not in access.ranks}
        carried = carried_tensors(self.plan.operators) if serial else ()
        return tuple(access for access in carried if access.tensor not in results)

    def _masked_column(self) -> str:
        """The column that a mask limits by the rows, "" if there is none."""
        for operator in self.plan.operators:
            mask = operator.mask
            if mask and mask.rank in self.plan.columns and mask.upper is not None:
                return mask.rank if mask.of and self.emitter.graph.size(mask.of) > 1 else ""
        return ""

    def _visited(self, columns: Tile) -> float:
        """About the share of a masked stage's pieces that is visited, rows being tiled finely."""
        graph, masked = self.emitter.graph, self._masked_column()
        pieces = -(-graph.size(masked) // columns[masked]) if masked else 1
        if pieces == 1:
            return 1.0
        operator = next(one for one in self.plan.operators if one.mask)
        computed = graph.n_points(operator) / prod(graph.size(rank) for rank in operator.ranks)
        return min(1.0, computed / operator.repeat + 0.5 / pieces)

    def estimate(self) -> float:
        """Estimated cycles of the stage with its best tile; infinite if none fits."""
        tile = self.best_tile()
        return inf if tile is None else self._estimate(tile)

    def _most_rows(self, columns: dict[str, int]) -> int:
        """Rows that the first input and the outputs leave room for, whatever the other inputs need."""
        one = self._token_tile(dict.fromkeys(self.plan.rows, 1) | columns)
        limits = [
            room // max(1, n_bytes)
            for _, access, n_bytes, room in self._held(one)
            if access in (*self.plan.moving[:1], *self.plan.outputs)
        ]
        return max(1, min(limits, default=1))

    def _column_tiles(self) -> list[dict[str, int]]:
        """Pieces of the columns to try, the largest first: whole, or cut where a mask asks for it.

        A single operator needs no row as a whole: it may pass in several pieces of any size that fits.
        """
        graph, last, masked = self.emitter.graph, self.plan.operators[-1], self._masked_column()
        whole = {rank: graph.size(rank) for rank in self.plan.columns}
        if last.kind is Kind.SCAN and last.serial_rank in whole:
            whole[last.serial_rank] = 1
        if not self._walked or not whole:
            pieces = reversed(_MASK_PIECES) if masked else (1,)
            return [whole | ({masked: -(-whole[masked] // n)} if masked else {}) for n in pieces]
        ranks, sizes = tuple(whole), tuple(whole.values())
        found: list[dict[str, int]] = []
        for elements in reversed(tile_candidates(sizes, 1, _MAX_PIECES)):
            piece = split_tile(ranks, sizes, elements)
            apart = not found or prod(found[-1].values()) >= _PIECE_STEP * elements
            if apart and len(found) < _MAX_TILES and self._fits(self._one_row(piece)):
                found.append(piece)
        return found or [dict.fromkeys(ranks, 1)]

    def _one_row(self, columns: Tile) -> dict[str, int]:
        return dict.fromkeys(self.plan.rows, 1) | dict(columns)

    def fits(self) -> bool:
        """Whether at least one row at a time has room."""
        return any(self._fits(self._one_row(columns)) for columns in self._column_tiles())

    def _refusal(self) -> str:
        """Which buffer has no room for the smallest tile."""
        tile = self._one_row(self._column_tiles()[-1])
        for buffer, access, n_bytes, room in self._held(tile):
            if n_bytes > room:
                return (
                    f"operator {self.plan.name!r}: the smallest tile of {access.tensor!r} takes {n_bytes} bytes"
                    f" of the {buffer}, {room} are there for each copy"
                )
        return f"operator {self.plan.name!r}: no tile fits in the buffers"

    def _token_tile(self, tile: Tile) -> Tile:
        """What stays in a buffer at a time: walked pieces, or whole rows."""
        if self._walked:
            return tile
        return dict(tile) | {rank: self.emitter.graph.size(rank) for rank in self.plan.columns}

    def _held(self, tile: Tile) -> list[tuple[str, Access, int, int]]:
        """(memory, access, bytes, room in bytes) of everything that has a tile in a buffer."""
        token = self._token_tile(tile)
        kept = self._token_tile(dict(tile) | ({self.plan.serial: 1} if self.plan.serial else {}))
        rooms, n_bytes = self.rooms, self.emitter.n_bytes
        found = [
            ("input buffer", gather.inputs[0], n_bytes(gather.inputs[0], tile), rooms.index_bytes)
            for gather in self.plan.gathers
        ]
        for position, access in enumerate(self.plan.moving):
            room = rooms.side_bytes if position else rooms.input_bytes
            found.append(("input buffer", access, n_bytes(access, token), room))
        results = [*((access, token) for access in self.plan.outputs), *((one, kept) for one in self._state)]
        for position, (access, held) in enumerate(results):
            found.append(("output buffer", access, n_bytes(access, held), self._result_room(position)))
        found += [
            ("weight buffer", access, n_bytes(access, token), rooms.constant_bytes)
            for access in self.plan.fixed
            if not self._stays_whole(access)
        ]
        return found

    def _result_room(self, position: int) -> int:
        """Bytes for a tile of the first result, and of every other one and what stays between steps."""
        return self.rooms.extra_bytes if position else self.rooms.output_bytes

    def _fits(self, tile: Tile) -> bool:
        return all(n_bytes <= room for _, _, n_bytes, room in self._held(tile))

    def _stays_whole(self, access: Access) -> bool:
        return self.emitter.n_bytes(access, {}) <= self.rooms.constant_bytes

    def _estimate(self, tile: Tile) -> float:
        """Cycles: the busiest of load, evaluation and store, and one tile's way in and out.

        With a single copy of the buffers the three follow one another.
        """
        machine = self.emitter.machine
        loops, _ = self._loops(tile)

        def moved(accesses: tuple[Access, ...]) -> tuple[list[float], float]:
            """Cycles of all transfers of each tensor, and of one transfer of all of them."""
            once = [self._transfer_cycles(access, tile) for access in accesses]
            trips = [prod(one.trips for one in loops[: depth_of(loops, a.ranks)]) for a in accesses]
            return [n * cycles for n, cycles in zip(trips, once, strict=True)] or [0.0], sum(once)

        loads, first = moved(self.plan.moving)
        stores, last = moved(self.plan.outputs)
        load = max(max(loads), sum(loads) / machine.dma_in.channels)
        cycles = machine.vector.startup_cycles * machine.vector_scale
        for work in self._works(tile):
            points = prod(tile[rank] for rank in work.ranks)
            passes = -(-points // machine.vector.lanes)
            cycles += passes * work.evaluations * machine.evaluation_cycles(work.function)
        cycles *= prod(loop.trips for loop in loops)
        if self.emitter.copies == 1:
            return load + cycles + sum(stores)
        return max(load, cycles, sum(stores)) + first / machine.dma_in.channels + last

    def _transfer_cycles(self, access: Access, tile: Tile) -> float:
        """Cycles of one transfer by itself, short runs of bytes in DRAM at what they cost there."""
        emitter, machine = self.emitter, self.emitter.machine
        n_bytes = emitter.n_bytes(access, tile)
        run = emitter.run_elements(access, emitter.tensor_tile(access, tile))
        run_bytes = max(1, run * emitter.bits(access.tensor) // 8)
        service = machine.memory.service_cycles(n_bytes, run_bytes, False, False)
        stream = max(n_bytes / machine.dma_in.bytes_per_cycle, service)
        return stream + machine.dma_in.setup_cycles + machine.dram_latency_cycles

    def nests(self, tile: dict[str, int]) -> list[Nest]:
        emitter, name = self.emitter, self.plan.name
        loops, depth = self._loops(tile)
        moving, fixed = self.plan.moving, self.plan.fixed
        nests: list[Nest] = []
        ports: list[Port] = []
        for position, access in enumerate(moving):
            added, port = self._load(access, loops, depth, tile, position)
            nests += added
            ports.append(port)
        for position, access in enumerate(fixed):
            nest, port = self._load_fixed(access, loops, tile, f"constant_{position}")
            nests.append(nest)
            ports.append(port)
        outputs = self.plan.outputs
        results = []
        for position, access in enumerate(outputs):
            tiled = emitter.tensor_tile(access, self._token_tile(tile))
            inner = depth_of(loops, access.ranks)
            at = inner if self._walked else min(inner, depth)
            buffer = f"output_{position}" if position else "output"
            bits, copies = emitter.bits(access.tensor), emitter.out_copies
            results.append(emitter.port(buffer, "output_buffer", at, tiled, bits, copies))
        for position, access in enumerate(self._state):
            kept = self._token_tile(dict(tile) | {self.plan.serial: 1})
            emitter.reserve(f"state_{position}", "output_buffer", access, kept)
        leaf_tile = tuple((rank, tile[rank]) for rank in (*self.plan.rows, *self.plan.columns))
        operators = tuple(operator.name for operator in self.plan.operators)
        leaf = Compute(Unit.VECTOR, operators, leaf_tile, functions=self._works(tile))
        nests.append(Nest(f"{name}_vector", "vector", loops, leaf, tuple(ports), tuple(results)))
        for position, (access, port) in enumerate(zip(outputs, results, strict=True)):
            suffix = f"_{position}" if position else ""
            inner = depth_of(loops, access.ranks)
            nests.append(
                emitter.store(f"{name}_store{suffix}", access, loops[: max(inner, port.depth)], tile, port)
            )
        return nests

    def _loops(self, tile: Tile) -> tuple[tuple[Loop, ...], int]:
        """Row loops, then column loops; the second value is how many are row loops."""
        graph = self.emitter.graph
        row_loops = tile_loops(self.plan.rows, [graph.size(rank) for rank in self.plan.rows], tile)
        column_loops = tile_loops(
            self.plan.columns, [graph.size(rank) for rank in self.plan.columns], tile, always=False
        )
        mask = next((operator.mask for operator in self.plan.operators if operator.mask), None)
        return limited((*row_loops, *column_loops), mask), len(row_loops)

    def _load(
        self, access: Access, loops: tuple[Loop, ...], depth: int, tile: Tile, position: int
    ) -> tuple[list[Nest], Port]:
        """Load a moving input; rows of a gather come straight from its table."""
        emitter = self.emitter
        buffer = f"side_{position - 1}" if position else "input"
        inner = depth_of(loops, access.ranks)
        at = inner if self._walked else min(inner, depth)
        tiled = emitter.tensor_tile(access, self._token_tile(tile))
        port = emitter.port(buffer, "input_buffer", at, tiled, emitter.bits(access.tensor))
        name = f"{self.plan.name}_load_{buffer}"
        picked = [one.output.tensor for one in self.plan.gathers]
        if access.tensor not in picked:
            return [emitter.load(name, access, loops[:inner], tile, port)], port
        number = picked.index(access.tensor)
        return gather_nests(emitter, name, self.plan.gathers[number], loops[:inner], tile, port, number), port

    def _load_fixed(
        self, access: Access, loops: tuple[Loop, ...], tile: Tile, buffer: str
    ) -> tuple[Nest, Port]:
        emitter = self.emitter
        whole = self._stays_whole(access)
        leaf_tile: Tile = {} if whole else self._token_tile(tile)
        depth = 0 if whole else depth_of(loops, access.ranks)
        port = emitter.port(
            buffer, "weight_buffer", depth, emitter.tensor_tile(access, leaf_tile),
            emitter.bits(access.tensor), copies=1,
        )  # fmt: skip
        name = f"{self.plan.name}_load_{buffer}"
        return emitter.load(name, access, loops[:depth], leaf_tile, port), port


def gather_nests(
    emitter: Emitter, name: str, gather: Operator, loops: tuple[Loop, ...], tile: Tile, port: Port,
    number: int = 0,
) -> list[Nest]:  # fmt: skip
    """Load row numbers, then the rows that they pick, in every iteration of `loops`.

    `number` counts the gathers of a stage: they run side by side, so each has its own buffer of row numbers.
    """
    numbers, table = gather.inputs[0], gather.inputs[-1]
    depth = depth_of(loops, numbers.ranks)
    index_port = emitter.port(
        f"index_{number}" if number else "index", "input_buffer", depth,
        emitter.tensor_tile(numbers, tile), emitter.bits(numbers.tensor),
    )  # fmt: skip
    rows = emitter.load(f"{name}_index", numbers, loops[:depth], tile, index_port)
    leaf_tile = {rank: tile[rank] for rank in gather.output.ranks}
    return [rows, emitter.load(name, table, loops, leaf_tile, port, index=index_port)]


def emit_move(emitter: Emitter, plan: MovePlan, rooms: Rooms) -> None:
    """Append a stage that moves rows through the input buffer. Raises MappingError if not even one fits.

    What the data picks is walked outside what is picked at once, so that rows stay in one piece.
    """
    operator, graph = plan.operator, emitter.graph
    source = operator.inputs[-1]
    ranks = operator.output.ranks
    gathers = operator.kind is Kind.GATHER
    if gathers:
        row = [rank for rank in ranks if rank in source.ranks]
        ranks = (*(rank for rank in ranks if rank not in row), *row)
    sizes = tuple(graph.size(rank) for rank in ranks)
    bits = emitter.bits(operator.output.tensor)
    best: dict[str, int] | None = None
    for elements in tile_candidates(sizes, 1, _MAX_TILES, rooms.input_bytes * 8 // bits):
        tile = split_tile(ranks, sizes, elements)
        numbers = emitter.n_bytes(operator.inputs[0], tile) if gathers else 0
        if elements * bits <= rooms.input_bytes * 8 and numbers <= rooms.index_bytes:
            best = tile
    if best is None:
        raise MappingError(
            f"operator {operator.name!r}: no row fits in {rooms.input_bytes} bytes of input buffer"
            f" and {rooms.index_bytes} beside it for its number"
        )
    loops = tile_loops(ranks, sizes, best)
    tiled = tuple((rank, best[rank]) for rank in operator.output.ranks)
    port = emitter.port("input", "input_buffer", len(loops), tiled, bits)
    name = f"{plan.name}_load"
    if gathers:
        nests = gather_nests(emitter, name, operator, loops, best, port)
    else:
        nests = [emitter.load(name, source, loops, best, port)]
    nests.append(emitter.store(f"{plan.name}_store", operator.output, loops, best, port))
    emitter.add_stage(plan.name, plan.operators, nests)
