"""The stage of one contraction: loads, product, low-rank path, maps on the output tile, store."""

from dataclasses import dataclass
from math import prod

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Operator
from tilewright.dataflow.program import Compute, Loop, Nest, Port, Unit, VectorWork
from tilewright.sim.mapper import map_contraction, tile_candidates
from tilewright.sim.mapper_machine import Machine
from tilewright.sim.mapping import GemmProblem, Mapping, MappingError, Objective, Residency
from tilewright.sim.sequential_emit import (
    Emitter,
    Tile,
    Tiled,
    depth_of,
    is_plain,
    limited,
    split_tile,
    tile_loops,
    touched_elements,
)
from tilewright.sim.sequential_narrow import REQUANTISE
from tilewright.sim.sequential_plan import GemmPlan, Roles, roles_of
from tilewright.sim.sequential_rooms import Rooms


@dataclass(frozen=True, slots=True)
class GemmStage:
    """Emits the nests of one plan; all tiles and loops follow from `mapping`."""

    emitter: Emitter
    plan: GemmPlan
    rooms: Rooms
    mapping: Mapping

    @staticmethod
    def emit(emitter: Emitter, plan: GemmPlan, rooms: Rooms, objective: Objective) -> None:
        """Map the contraction and append its stage. Raises MappingError if it does not fit."""
        problem = problem_of(emitter.graph, emitter.machine, plan, rooms, emitter.copies)
        mapping = map_contraction(problem, emitter.machine.architecture, objective)
        stage = GemmStage(emitter, plan, rooms, mapping)
        emitter.add_stage(plan.name, plan.operators, stage.nests())

    @property
    def roles(self) -> Roles:
        return self.plan.roles

    def nests(self) -> list[Nest]:
        name, plan, mapping = self.plan.name, self.plan, self.mapping
        loops, tile = self._loops(), self._tile()
        a, b = plan.contraction.inputs
        a_depth = self._operand_depth(loops, mapping.a_residency, self.roles.m)
        b_depth = self._operand_depth(loops, mapping.b_residency, self.roles.n)
        a_port = self._operand_port(a, loops, a_depth, tile, "input", "input_buffer")
        b_port = self._operand_port(b, loops, b_depth, tile, "weight", "weight_buffer")
        nests = [
            self._load(f"{name}_load_a", a, loops, a_depth, tile, a_port),
            self._load(f"{name}_load_b", b, loops, b_depth, tile, b_port),
        ]
        c_loops = loops[: len(loops) - len(self._group_loops(self.roles.k, mapping.k_tile))]
        sums = self._sums_port("accumulator", c_loops, tile)
        nests += self._low_rank_loads()
        if plan.low_rank:
            nests.append(self._low_rank_down(c_loops, tile, a_port))
        nests.append(self._product(f"{name}_gemm", plan.contraction, loops, tile, (a_port, b_port), sums))
        if plan.low_rank:
            nests.append(self._low_rank_up(c_loops, tile, sums))
            sums = self._sums_port("accumulator_2", c_loops, tile)
        return nests + self._finish(c_loops, tile, sums)

    def _sizes(self, ranks: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(self.emitter.graph.size(rank) for rank in ranks)

    def _group_loops(self, ranks: tuple[str, ...], elements: int) -> tuple[Loop, ...]:
        sizes = self._sizes(ranks)
        return tile_loops(ranks, sizes, split_tile(ranks, sizes, elements))

    def _loops(self) -> tuple[Loop, ...]:
        """Batch outermost, then m and n in the mapping's order, then k."""
        mapping, roles = self.mapping, self.roles
        batch = tile_loops(roles.batch, self._sizes(roles.batch), dict.fromkeys(roles.batch, 1), always=False)
        m_loops = self._group_loops(roles.m, mapping.m_tile)
        n_loops = self._group_loops(roles.n, mapping.n_tile)
        k_loops = self._group_loops(roles.k, mapping.k_tile)
        outer = (*m_loops, *n_loops) if mapping.order == "mnk" else (*n_loops, *m_loops)
        return limited((*batch, *outer, *k_loops), self.plan.contraction.mask)

    def _tile(self) -> dict[str, int]:
        mapping, roles = self.mapping, self.roles
        tile = dict.fromkeys(roles.batch, 1)
        for ranks, elements in (
            (roles.m, mapping.m_tile),
            (roles.n, mapping.n_tile),
            (roles.k, mapping.k_tile),
        ):
            tile |= split_tile(ranks, self._sizes(ranks), elements)
        return tile

    def _operand_depth(self, loops: tuple[Loop, ...], residency: Residency, own: tuple[str, ...]) -> int:
        if residency == "stream":
            return len(loops)
        batch = depth_of(loops, self.roles.batch)
        return batch if residency == "whole" else max(batch, depth_of(loops, own))

    def _resident_tile(self, loops: tuple[Loop, ...], depth: int, tile: Tile) -> Tile:
        """`tile` with the ranks whole that only loops inside `depth` cut."""
        inside = {loop.rank: loop.extent for loop in loops[depth:]}
        return dict(tile) | inside

    def _operand_port(
        self, access: Access, loops: tuple[Loop, ...], depth: int, tile: Tile, buffer: str, slot: str
    ) -> Port:
        resident = self._resident_tile(loops, depth, tile)
        tiled = self.emitter.tensor_tile(access, resident)
        return self.emitter.port(buffer, slot, depth, tiled, self.emitter.bits(access.tensor))

    def _load(
        self, name: str, access: Access, loops: tuple[Loop, ...], depth: int, tile: Tile, port: Port
    ) -> Nest:
        return self.emitter.load(name, access, loops[:depth], self._resident_tile(loops, depth, tile), port)

    def _product(
        self, name: str, operator: Operator, loops: tuple[Loop, ...], tile: Tile,
        reads: tuple[Port, ...], sums: Port,
    ) -> Nest:  # fmt: skip
        """A matrix nest; transposed, its second operand enters where the first one would."""
        roles = roles_of(operator)
        m_ranks, n_ranks = roles.m, roles.n
        if self.mapping.transposed:
            m_ranks, n_ranks = n_ranks, m_ranks
            reads = (reads[1], reads[0], *reads[2:])
        return matrix_nest(
            self.emitter, name, operator, loops, tile,
            Roles(roles.batch, m_ranks, n_ranks, roles.k), reads, sums,
        )  # fmt: skip

    def _sums_port(self, buffer: str, loops: tuple[Loop, ...], tile: Tile) -> Port:
        tiled = self._c_tile(tile)
        bits = self.emitter.machine.array.accumulator_bits
        return self.emitter.port(buffer, "output_buffer", len(loops), tiled, bits, self.emitter.out_copies)

    def _c_tile(self, tile: Tile) -> Tiled:
        return tuple((rank, tile[rank]) for rank in self.plan.contraction.output.ranks)

    def _low_rank_loads(self) -> list[Nest]:
        """Both factors, whole, once per stage."""
        path = self.plan.low_rank
        if path is None:
            return []
        nests = []
        for part, operator in (("down", path.down), ("up", path.up)):
            factor = operator.inputs[1]
            port = self._factor_port(part, factor)
            nests.append(self.emitter.load(f"{self.plan.name}_load_{part}", factor, (), {}, port))
        return nests

    def _factor_port(self, part: str, factor: Access) -> Port:
        tiled = self.emitter.tensor_tile(factor, {})
        bits = self.emitter.bits(factor.tensor)
        return self.emitter.port(f"factor_{part}", "weight_buffer", 0, tiled, bits, copies=1)

    def _low_port(self, depth: int, tile: Tile) -> Port:
        path = self.plan.low_rank
        assert path is not None
        low = path.down.output
        tiled = self.emitter.tensor_tile(low, {rank: tile[rank] for rank in low.ranks if rank in tile})
        bits, copies = self.emitter.bits(low.tensor), self.emitter.out_copies
        return self.emitter.port("low_rank", "output_buffer", depth, tiled, bits, copies)

    def _low_rank_down(self, c_loops: tuple[Loop, ...], tile: Tile, a_port: Port) -> Nest:
        """u = x A for every tile of rows, all of k and of the adapter's rank at once."""
        path = self.plan.low_rank
        assert path is not None
        depth = depth_of(c_loops, self.roles.m)
        leaf_tile = self._whole(path.down, tile)
        reads = (a_port, self._factor_port("down", path.down.inputs[1]))
        low = self._low_port(depth, tile)
        return self._product(f"{self.plan.name}_lora_down", path.down, c_loops[:depth], leaf_tile, reads, low)

    def _low_rank_up(self, c_loops: tuple[Loop, ...], tile: Tile, sums: Port) -> Nest:
        """y += u B, which goes on from the product's tile."""
        path = self.plan.low_rank
        assert path is not None
        low = self._low_port(depth_of(c_loops, self.roles.m), tile)
        reads = (low, self._factor_port("up", path.up.inputs[1]), sums)
        merged = self._sums_port("accumulator_2", c_loops, tile)
        leaf_tile = self._whole(path.up, tile)
        return self._product(f"{self.plan.name}_lora_up", path.up, c_loops, leaf_tile, reads, merged)

    def _whole(self, operator: Operator, tile: Tile) -> dict[str, int]:
        """The tile of a low-rank product: rows and columns as in `tile`, what it sums over whole."""
        summed = set(operator.reduced_ranks)
        graph = self.emitter.graph
        return {
            rank: graph.size(rank) if rank in summed or rank not in tile else tile[rank]
            for rank in operator.ranks
        }

    def _finish(self, loops: tuple[Loop, ...], tile: Tile, sums: Port) -> list[Nest]:
        """Maps and requantisation on the vector unit if there are any, and the store."""
        name, emitter, output = self.plan.name, self.emitter, self.plan.output
        works = epilogue_works(emitter.graph, emitter.machine, self.plan)
        if not works:
            return [emitter.store(f"{name}_store", output, loops, tile, sums)]
        loads, sides = self._sides(loops, tile)
        bits = emitter.bits(output.tensor)
        tiled = self._c_tile(tile)
        result = emitter.port("output", "output_buffer", len(loops), tiled, bits, emitter.out_copies)
        operators = tuple(operator.name for operator in self.plan.epilogue) or (self.plan.contraction.name,)
        leaf = Compute(Unit.VECTOR, operators, self._c_tile(tile), functions=works)
        vector = Nest(f"{name}_vector", "vector", loops, leaf, (sums, *sides), (result,))
        return [*loads, vector, emitter.store(f"{name}_store", output, loops, tile, result)]

    def _sides(self, loops: tuple[Loop, ...], tile: Tile) -> tuple[list[Nest], list[Port]]:
        """Loads and ports of what the maps read: rows' tiles move, biases stay whole where they have room."""
        moving, fixed = self.plan.moving, self.plan.fixed
        loads, ports = [], []
        for position, access in enumerate((*moving, *fixed)):
            stays = position >= len(moving)
            leaf_tile: Tile = tile
            depth = depth_of(loops, access.ranks)
            if stays and self.emitter.graph.n_bytes(access.tensor) <= self.rooms.constant_bytes:
                leaf_tile, depth = {}, 0
            buffer = f"constant_{position - len(moving)}" if stays else f"side_{position}"
            slot = "weight_buffer" if stays else "input_buffer"
            port = self.emitter.port(
                buffer, slot, depth, self.emitter.tensor_tile(access, leaf_tile),
                self.emitter.bits(access.tensor), copies=1 if stays else 0,
            )  # fmt: skip
            name = f"{self.plan.name}_load_{buffer}"
            loads.append(self.emitter.load(name, access, loops[:depth], leaf_tile, port))
            ports.append(port)
        return loads, ports


def matrix_nest(
    emitter: Emitter, name: str, operator: Operator, loops: tuple[Loop, ...], tile: Tile, roles: Roles,
    reads: tuple[Port, ...], sums: Port,
) -> Nest:  # fmt: skip
    """A nest of matrix leaves; raises MappingError if its operands are wider than the array's."""
    array = emitter.machine.array
    bits = tuple(emitter.bits(access.tensor) for access in operator.inputs[::-1])
    for given, limit, what in zip(bits, array.operand_bits, ("weights", "activations"), strict=True):
        if given > limit:
            tensor = operator.inputs[1 if what == "weights" else 0].tensor
            raise MappingError(
                f"operator {operator.name!r}: {tensor!r} has {given} bits, the array takes {limit} as {what}"
            )
    leaf = Compute(
        Unit.MATRIX, (operator.name,), tuple((rank, tile[rank]) for rank in operator.ranks),
        roles.m, roles.n, roles.k, roles.batch,
        operand_bits=(bits[0], bits[1]), accumulator_bits=array.accumulator_bits,
    )  # fmt: skip
    return Nest(name, "array", loops, leaf, reads, (sums,))


def epilogue_works(graph: Graph, machine: Machine, plan: GemmPlan) -> tuple[VectorWork, ...]:
    """What the vector unit does per output tile: the maps, and bringing sums to the width that is stored."""
    works = plan.works
    if graph.tensor_by_name[plan.output.tensor].bits < machine.array.accumulator_bits:
        works += (VectorWork(REQUANTISE, plan.contraction.output.ranks),)
    return works


def problem_of(graph: Graph, machine: Machine, plan: GemmPlan, rooms: Rooms, copies: int) -> GemmProblem:
    """The plan's contraction as the mapper sees it."""
    operator, roles, array = plan.contraction, plan.roles, machine.array

    def sizes(ranks: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(graph.size(rank) for rank in ranks)

    def bits(access: Access) -> int:
        return graph.tensor_by_name[access.tensor].bits

    batch, m, n, k = (prod(sizes(ranks)) for ranks in (roles.batch, roles.m, roles.n, roles.k))
    quantum = max(array.rows, array.cols)
    works = epilogue_works(graph, machine, plan)
    lane_cycles = sum(work.evaluations * machine.evaluation_cycles(work.function) for work in works)
    sums = min([rooms.sums, *(rooms.side_bytes * 8 // bits(access) for access in plan.moving)])
    a_room, b_room = (
        8 * room // bits(access)
        for room, access in zip((rooms.input_bytes, rooms.weight_bytes), operator.inputs, strict=True)
    )
    most_m, most_n = min(sums, a_room), min(sums, b_room)
    if plan.low_rank:
        low = plan.low_rank.down
        most_m = min(most_m, rooms.low_bytes * 8 // (bits(low.output) * prod(sizes(roles_of(low).n))))
    for access in plan.fixed:
        if graph.n_bytes(access.tensor) > rooms.constant_bytes:
            most_n = min(most_n, rooms.constant_bytes * 8 // bits(access))
    m_tiles = tile_candidates(sizes(roles.m), quantum, most=most_m)
    n_tiles = tile_candidates(sizes(roles.n), quantum, most=most_n)
    k_tiles = tile_candidates(sizes(roles.k), array.rows, 8, max(a_room, b_room))
    return GemmProblem(
        name=operator.name, m=m, n=n, k=k, batch=batch, m_tiles=m_tiles, n_tiles=n_tiles, k_tiles=k_tiles,
        a_elements=_window_elements(graph, operator.inputs[0], roles, roles.m, (*m_tiles, m), (*k_tiles, k)),
        b_elements=_window_elements(graph, operator.inputs[1], roles, roles.n, (*n_tiles, n), (*k_tiles, k)),
        a_bits=bits(operator.inputs[0]), b_bits=bits(operator.inputs[1]), output_bits=bits(plan.output),
        accumulator_bits=array.accumulator_bits,
        a_bytes=rooms.input_bytes, b_bytes=rooms.weight_bytes, c_elements=sums, copies=copies,
        computed_fraction=graph.n_points(operator) / (operator.repeat * batch * m * n * k),
        vector_cycles=lane_cycles / machine.vector.lanes,
        side_bits=sum(bits(access) for access in plan.moving),
        a_stays=plan.low_rank is not None,
        m_outer=operator.mask is not None or plan.low_rank is not None,
    )  # fmt: skip


def _window_elements(
    graph: Graph, access: Access, roles: Roles, own: tuple[str, ...], own_tiles: tuple[int, ...],
    k_tiles: tuple[int, ...],
) -> tuple[tuple[int, ...], ...]:  # fmt: skip
    """Elements of an operand in tiles over its own ranks and k; empty where that is just their product.

    It is not under a window: neighbouring positions share elements, or skip some.
    """
    one = dict.fromkeys(roles.batch, 1)
    if all(map(is_plain, access.indices)) and set(access.ranks) == {*roles.batch, *own, *roles.k}:
        return ()
    own_sizes, k_sizes = (tuple(graph.size(rank) for rank in ranks) for ranks in (own, roles.k))
    return tuple(
        tuple(
            touched_elements(
                graph, access, one | split_tile(own, own_sizes, rows) | split_tile(roles.k, k_sizes, depth)
            )
            for depth in k_tiles
        )
        for rows in own_tiles
    )
