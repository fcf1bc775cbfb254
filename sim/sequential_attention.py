"""Attention as one stage: scores, softmax and mixing tile by tile, without scores in DRAM.

In one pass the softmax keeps a running maximum and sum per row and rescales what has been mixed so far; the
division comes last, on the mixed rows. In three passes a tile's rows of scores stay whole on chip.
"""

from dataclasses import dataclass
from math import prod

from tilewright.dataflow.operator import Access, Operator
from tilewright.dataflow.program import Compute, Loop, Nest, Port, Unit, VectorWork
from tilewright.sim.arrays import leaf_cycles
from tilewright.sim.mapper import tile_candidates
from tilewright.sim.mapper_kernel import SLACK
from tilewright.sim.sequential_emit import Emitter, Tile, Tiled, depth_of, limited, split_tile, tile_loops
from tilewright.sim.sequential_gemm import matrix_nest
from tilewright.sim.sequential_narrow import REQUANTISE
from tilewright.sim.sequential_plan import AttentionPlan, Roles, roles_of, works_of
from tilewright.sim.sequential_rooms import AttentionNeed, Rooms
from tilewright.sim.trips import tile_classes

# A head in more tiles than this is avoided at the price of `_MANY_LEAVES_COST`: smaller tiles save little
# more of the masked half, and every tile is simulated.
_MANY_LEAVES = 2048
_MANY_LEAVES_COST = 1.05


@dataclass(frozen=True, slots=True)
class Choice:
    """A tiling: rows and keys per tile, whether a head's keys and values stay on chip."""

    cycles: float
    n_leaves: int  # of one head
    key_bytes: float  # keys and values that are loaded for one head
    tile: dict[str, int]
    resident: bool
    score_transposed: bool
    mix_transposed: bool

    @property
    def rank(self) -> float:
        """The cycles, with what a simulation of very many tiles is thought to be worth."""
        return self.cycles * (_MANY_LEAVES_COST if self.n_leaves > _MANY_LEAVES else 1.0)


@dataclass(frozen=True, slots=True)
class AttentionStage:
    """Emits the nests of one attention: `score` is [batch, m, n] over e, `mix` is [batch, m, f] over n."""

    emitter: Emitter
    plan: AttentionPlan
    rooms: Rooms
    one_pass: bool
    score: Roles
    mix: Roles

    @staticmethod
    def of(emitter: Emitter, plan: AttentionPlan, rooms: Rooms, one_pass: bool) -> "AttentionStage":
        return AttentionStage(emitter, plan, rooms, one_pass, roles_of(plan.score), roles_of(plan.mix))

    def emit(self, choice: Choice) -> None:
        """Append the stage with that tiling."""
        self.emitter.add_stage(self.plan.name, self.plan.operators, self.nests(choice))

    @property
    def _keys(self) -> str:
        return self.score.n[0]

    def _size(self, ranks: tuple[str, ...]) -> int:
        return prod(self.emitter.graph.size(rank) for rank in ranks)

    def _loops(self, tile: Tile) -> tuple[Loop, ...]:
        """Heads outermost, rows, keys; a causal mask limits the keys."""
        graph = self.emitter.graph
        batch = tile_loops(self.score.batch, [graph.size(r) for r in self.score.batch], tile, always=False)
        rows = tile_loops(self.score.m, [graph.size(r) for r in self.score.m], tile)
        keys = tile_loops(self.score.n, [graph.size(self._keys)], tile)
        return limited((*batch, *rows, *keys), self.plan.score.mask)

    def choose(self) -> Choice | None:
        """The tiling with the least estimated time among those that fit, of near equals the least traffic."""
        graph, array = self.emitter.graph, self.emitter.machine.array
        quantum = max(array.rows, array.cols)
        row_sizes = tuple(graph.size(rank) for rank in self.score.m)
        keys = graph.size(self._keys)
        most_rows, most_keys = self._most()
        fitting: list[Choice] = []
        for rows in reversed(tile_candidates(row_sizes, quantum, 6, most_rows)):
            for n_keys in reversed(tile_candidates((keys,), quantum, 6, most_keys)):
                tile = self._tile(row_sizes, rows, n_keys)
                for resident in (True, False):
                    if self._fits(rows, n_keys, resident):
                        fitting.append(self._estimate(tile, rows, n_keys, resident))
        if not fitting:
            return None
        limit = (1 + SLACK) * min(choice.rank for choice in fitting)
        return min(
            (choice for choice in fitting if choice.rank <= limit),
            key=lambda choice: (choice.key_bytes, choice.rank),
        )

    def peak_cycles(self) -> float:
        """Cycles of both products at the array's peak, masked points left out."""
        graph, machine = self.emitter.graph, self.emitter.machine
        macs = graph.n_points(self.plan.score) + graph.n_points(self.plan.mix)
        return macs / machine.array.macs_per_cycle * machine.array_scale

    def need(self, choice: Choice) -> AttentionNeed:
        """What the tiling takes of the rooms that attention alone uses."""
        rows = prod(choice.tile[rank] for rank in self.score.m)
        keys = choice.tile[self._keys]
        every = self.emitter.graph.size(self._keys)
        out = self._size(self.mix.n)
        value_bits = self.emitter.bits(self.plan.mix.inputs[1].tensor)
        return AttentionNeed(
            value_bytes=-(-(every if choice.resident else keys) * out * value_bits // 8),
            mixed=rows * out,
            shares=rows * (keys if self.one_pass else every),
        )

    def _tile(self, row_sizes: tuple[int, ...], rows: int, n_keys: int) -> dict[str, int]:
        tile = dict.fromkeys(self.score.batch, 1) | split_tile(self.score.m, row_sizes, rows)
        tile[self._keys] = n_keys
        inner = (*self.score.k, *self.mix.n)
        return tile | {rank: self.emitter.graph.size(rank) for rank in inner}

    def _most(self) -> tuple[int, int]:
        """Rows, and keys, of a tile that fit if the other of the two is 1."""
        emitter, rooms = self.emitter, self.rooms
        query, key = (emitter.bits(access.tensor) for access in self.plan.score.inputs)
        value = emitter.bits(self.plan.mix.inputs[1].tensor)
        width, out = self._size(self.score.k), self._size(self.mix.n)
        rows = min(rooms.input_bytes * 8 // (width * query), rooms.mixed // out, rooms.sums)
        keys = min(
            rooms.weight_bytes * 8 // (width * key), rooms.value_bytes * 8 // (out * value), rooms.sums
        )
        return rows, keys

    def _fits(self, rows: int, n_keys: int, resident: bool) -> bool:
        emitter, rooms = self.emitter, self.rooms
        query, key = (emitter.bits(access.tensor) for access in self.plan.score.inputs)
        value = emitter.bits(self.plan.mix.inputs[1].tensor)
        width, out = self._size(self.score.k), self._size(self.mix.n)
        held = emitter.graph.size(self._keys) if resident else n_keys
        scored = n_keys if self.one_pass else emitter.graph.size(self._keys)
        return (
            rows * width * query <= rooms.input_bytes * 8
            and held * width * key <= rooms.weight_bytes * 8
            and held * out * value <= rooms.value_bytes * 8
            and rows * scored <= rooms.sums
            and rows * out <= rooms.mixed
        )

    def _estimate(self, tile: dict[str, int], rows: int, n_keys: int, resident: bool) -> Choice:
        machine, array = self.emitter.machine, self.emitter.machine.array
        loops = self._loops(tile)
        n_batch = self._size(self.score.batch)
        inner = loops[depth_of(loops, self.score.batch) :]
        n_leaves = sum(count for count, _ in tile_classes(inner, ()))
        n_row_tiles = -(-self._size(self.score.m) // rows)
        width, out = self._size(self.score.k), self._size(self.mix.n)
        score = [leaf_cycles(array, rows, n_keys, width), leaf_cycles(array, n_keys, rows, width)]
        mix = [leaf_cycles(array, rows, out, n_keys), leaf_cycles(array, out, rows, n_keys)]
        matrix = n_leaves * (min(score) + min(mix)) * machine.array_scale
        vector = n_leaves * self._vector_cycles(self._softmax_works(), tile)
        vector += n_row_tiles * self._vector_cycles(self._final_works(), tile)
        keys = self.emitter.graph.size(self._keys)
        width_bytes = (width + out) * self.emitter.bits(self.plan.mix.inputs[1].tensor) / 8
        key_bytes = width_bytes * (keys if resident else n_keys * n_leaves)
        rate = min(machine.dma_in.bytes_per_cycle, machine.dram_bytes_per_cycle)
        latency = machine.dma_in.setup_cycles + machine.dram_latency_cycles
        load = key_bytes / 2 / rate + latency * (1 if resident else n_leaves)
        first = load if resident else load / n_leaves
        overlapped = self.emitter.copies > 1
        per_head = max(matrix, vector, load) if overlapped else matrix + vector + load
        cycles = per_head * n_batch + first
        return Choice(cycles, n_leaves, key_bytes, tile, resident, score[1] < score[0], mix[1] < mix[0])

    def _vector_cycles(self, works: tuple[VectorWork, ...], tile: Tile) -> float:
        machine = self.emitter.machine
        cycles = machine.vector.startup_cycles * machine.vector_scale
        for work in works:
            passes = -(-prod(tile[rank] for rank in work.ranks) // machine.vector.lanes)
            cycles += passes * work.evaluations * machine.evaluation_cycles(work.function)
        return cycles

    def _pieces(self) -> tuple[tuple[Operator, ...], tuple[Operator, ...]]:
        """The operators on scores, and those that one pass puts off: the division by the row's sum."""
        sums = {op.output.tensor for op in self.plan.pieces if op.reduce == "sum"}
        if not self.one_pass:
            return self.plan.pieces, ()
        late = tuple(
            op for op in self.plan.pieces
            if op.function == "div" and any(access.tensor in sums for access in op.inputs)
        )  # fmt: skip
        return tuple(op for op in self.plan.pieces if op not in late), late

    def _softmax_works(self) -> tuple[VectorWork, ...]:
        """Scores are scaled once; one pass also merges maximum and sum and rescales the mixed rows."""
        now, _ = self._pieces()
        works = [
            VectorWork("scale", self.plan.score.output.ranks),
            *(work for operator in now for work in works_of(operator)),
        ]
        if self.one_pass:
            rows = (*self.score.batch, *self.score.m)
            works += [
                VectorWork("max", rows),
                VectorWork("exp", rows),
                VectorWork("mac", rows),
                VectorWork("mul", (*rows, *self.mix.n)),
            ]
        return tuple(works)

    def _final_works(self) -> tuple[VectorWork, ...]:
        _, late = self._pieces()
        mixed = self.plan.mix.output.ranks
        works = tuple(VectorWork(op.function, mixed, op.repeat) for op in late)
        if self.emitter.bits(self.plan.mix.output.tensor) < self.emitter.machine.array.accumulator_bits:
            works += (VectorWork(REQUANTISE, mixed),)
        return works

    def nests(self, choice: Choice) -> list[Nest]:
        emitter, name, plan, tile = self.emitter, self.plan.name, self.plan, choice.tile
        loops = self._loops(tile)
        heads = depth_of(loops, self.score.batch)
        rows = depth_of(loops, (*self.score.batch, *self.score.m))
        query, key, value = plan.score.inputs[0], plan.score.inputs[1], plan.mix.inputs[1]
        q_port = self._port("input", "input_buffer", rows, query, tile)
        held = heads if choice.resident else len(loops)
        whole = tile | {self._keys: emitter.graph.size(self._keys)} if choice.resident else tile
        k_port = self._port("weight", "weight_buffer", held, key, whole)
        v_port = self._port("value", "weight_buffer", held, value, whole)
        at = len(loops) if self.one_pass else rows
        row_tile = tile if self.one_pass else tile | {self._keys: emitter.graph.size(self._keys)}
        scores = self._sums("accumulator", at, plan.score.output.ranks, row_tile)
        shares = self._port("share", "output_buffer", at, plan.mix.inputs[0], row_tile)
        sums = self._sums("accumulator_2", rows, plan.mix.output.ranks, tile)
        softmax = self._vector("softmax", plan.pieces, self._softmax_works(), loops, tile, scores, shares)
        nests = [
            emitter.load(f"{name}_load_q", query, loops[:rows], tile, q_port),
            emitter.load(f"{name}_load_k", key, loops[:held], whole, k_port),
            emitter.load(f"{name}_load_v", value, loops[:held], whole, v_port),
            self._product("score", plan.score, self.score, loops, tile, (q_port, k_port), scores,
                          choice.score_transposed),
            softmax,
            self._product("mix", plan.mix, self.mix, loops, tile, (shares, v_port), sums,
                          choice.mix_transposed),
        ]  # fmt: skip
        return [*nests, *self._finish(loops[:rows], tile, sums)]

    def _finish(self, loops: tuple[Loop, ...], tile: Tile, sums: Port) -> list[Nest]:
        emitter, output = self.emitter, self.plan.mix.output
        works = self._final_works()
        store = f"{self.plan.name}_store"
        if not works:
            return [emitter.store(store, output, loops, tile, sums)]
        result = self._port("output", "output_buffer", len(loops), output, tile)
        final = self._vector("normalise", (self.plan.mix,), works, loops, tile, sums, result)
        return [final, emitter.store(store, output, loops, tile, result)]

    def _port(self, buffer: str, slot: str, depth: int, access: Access, tile: Tile) -> Port:
        bits = self.emitter.bits(access.tensor)
        copies = self.emitter.out_copies if slot == "output_buffer" else 0
        return self.emitter.port(buffer, slot, depth, self.emitter.tensor_tile(access, tile), bits, copies)

    def _sums(self, buffer: str, depth: int, ranks: tuple[str, ...], tile: Tile) -> Port:
        bits = self.emitter.machine.array.accumulator_bits
        copies = self.emitter.out_copies
        return self.emitter.port(buffer, "output_buffer", depth, _named(ranks, tile), bits, copies)

    def _vector(
        self, part: str, operators: tuple[Operator, ...], works: tuple[VectorWork, ...],
        loops: tuple[Loop, ...], tile: Tile, source: Port, result: Port,
    ) -> Nest:  # fmt: skip
        ranks = dict.fromkeys(rank for work in works for rank in work.ranks)
        leaf = Compute(
            Unit.VECTOR, tuple(op.name for op in operators), _named(tuple(ranks), tile), functions=works
        )
        return Nest(f"{self.plan.name}_{part}", "vector", loops, leaf, (source,), (result,))

    def _product(
        self, part: str, operator: Operator, roles: Roles, loops: tuple[Loop, ...], tile: Tile,
        reads: tuple[Port, Port], sums: Port, transposed: bool,
    ) -> Nest:  # fmt: skip
        if transposed:
            roles = Roles(roles.batch, roles.n, roles.m, roles.k)
            reads = (reads[1], reads[0])
        name = f"{self.plan.name}_{part}"
        return matrix_nest(self.emitter, name, operator, loops, tile, roles, reads, sums)


def _named(ranks: tuple[str, ...], tile: Tile) -> Tiled:
    return tuple((rank, tile[rank]) for rank in ranks)
