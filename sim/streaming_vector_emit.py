"""Steps of a token on one card of the family `streaming_vector`, as nests that hand one token on.

A step is a product whose second operand streams past the lanes, functions of a vector, or a synchronisation of the
ring. Steps of a token follow one another; the stream of a later step runs ahead as far as its buffer allows.
"""

from math import prod

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Kind, Operator
from tilewright.dataflow.program import (
    Buffer,
    Compute,
    Direction,
    Loop,
    Nest,
    Port,
    Program,
    Stage,
    Transfer,
    Unit,
    VectorWork,
)
from tilewright.dataflow.tensor import Role
from tilewright.sim.architecture import Architecture, BufferMemory, Link, MatrixArray
from tilewright.sim.collective import ring_all_gather_cycles
from tilewright.sim.mapping import MappingError
from tilewright.sim.sequential_plan import (
    Fusion,
    GemmPlan,
    MovePlan,
    VectorPlan,
    plan_graph,
    works_of,
)

_CHUNKS = 2  # of a stream that its buffer holds


class StreamingEmitter:
    """Builds the program of one graph on one architecture of the family."""

    def __init__(self, graph: Graph, architecture: Architecture) -> None:
        self._graph = graph
        by_name = architecture.component_by_name
        array, weights, link = by_name["array"], by_name["weights"], by_name["link"]
        assert isinstance(array, MatrixArray)
        assert isinstance(weights, BufferMemory)
        assert isinstance(link, Link)
        self._array, self._link = array, link
        self._chunk_bytes = weights.capacity_bytes // _CHUNKS
        self._cards = int(dict(architecture.parameters)["cards"])
        self._buffers: dict[str, Buffer] = {}
        self._stages: list[Stage] = []
        self._nests: list[Nest] = []
        self._steps = 0
        self._streams = 0
        self._token: Loop | None = None
        self._split: set[str] = set()  # tensors of which a card holds its part
        self._gathered: set[str] = set()
        self._stored: set[str] = set()
        self._heads: set[str] = set()  # ranks whose parts the cards share in attention

    def program(self) -> Program:
        graph = self._graph
        plan = plan_graph(graph, Fusion(maps=True, attention=False, low_rank=False))
        gemms = [stage for stage in plan.stages if isinstance(stage, GemmPlan)]
        rows = next((stage.roles.m for stage in gemms if not stage.roles.batch), None)
        tokens = prod(graph.size(rank) for rank in rows) if rows else 1
        self._token = Loop("token", tokens, 1)
        for gemm in gemms:
            if not self._is_weight(gemm.contraction.inputs[1]):
                self._heads |= set(gemm.roles.batch)
        for stage in plan.stages:
            if isinstance(stage, GemmPlan):
                self._product(stage)
            elif isinstance(stage, VectorPlan):
                self._functions(stage)
            elif isinstance(stage, MovePlan):
                self._rows(stage)
            else:
                raise MappingError(f"stage {stage.name!r}: attention is run as products and functions here")
            if self._nests:
                self._stages.append(Stage(stage.name, _names(stage.operators), tuple(self._nests)))
                self._nests = []
        for tensor in graph.outputs:  # rows of keys and values that no stage of its own stores
            if tensor in graph.producer:
                self._keep(graph.producer[tensor].output)
        if self._nests and self._stages:
            last = self._stages[-1]
            self._stages[-1] = Stage(last.name, last.operators, (*last.nests, *self._nests))
        self._close()
        return Program(graph.name, graph.tensors, tuple(self._buffers.values()), tuple(self._stages))

    # Steps.

    def _product(self, plan: GemmPlan) -> None:
        """Dot products of a token's vector with a stream of weights, keys or values."""
        graph, roles = self._graph, plan.roles
        of_weights = self._is_weight(plan.contraction.inputs[1])
        self._gather(plan.contraction.inputs[0], attention=not of_weights)
        for access in (*plan.moving, *plan.fixed):
            self._fetch(plan.name, access)
        n, k = (prod(graph.size(rank) for rank in ranks) for ranks in (roles.n, roles.k))
        batch = prod(graph.size(rank) for rank in roles.batch)
        tokens = self._tokens()
        if of_weights:
            n = -(-n // self._cards)
        else:
            batch = -(-batch // self._cards)
        visits = max(1, batch * prod(graph.size(rank) for rank in roles.m) // tokens)
        tensor = plan.contraction.inputs[1].tensor
        bits = graph.tensor_by_name[tensor].bits
        wide, deep = self._array.cols, self._array.rows
        room = self._chunk_bytes * 8 // bits
        chunk_k = min(k, max(1, room // (wide * deep)) * deep)
        chunk = min(n, max(1, room // (wide * chunk_k)) * wide)
        loops = (self._the_token(), Loop("visit", visits, 1), Loop("n", n, chunk), Loop("k", k, chunk_k))
        tile = (("n", chunk), ("k", chunk_k))
        stream = self._port(f"stream_{plan.name}", "weight_buffer", 4, tile, bits, _CHUNKS)
        # Streams come in order: one begins when the one before it has been read, for the same token.
        behind = self._port(f"order{self._streams}", "weight_buffer", 1, (("one", 1),), 8, 1)
        self._streams += 1
        ahead = self._port(f"order{self._streams}", "weight_buffer", 1, (("one", 1),), 8, 1)
        self._load(f"load_{plan.name}", tensor, loops, tile, bits, (behind,), (stream, ahead))
        cycles = float(-(-chunk // wide) * -(-chunk_k // deep))
        leaf = Compute(
            Unit.MATRIX, _names(plan.operators), (("one", 1), *tile), ("one",), ("n",), ("k",),
            operand_bits=self._array.operand_bits, accumulator_bits=self._array.accumulator_bits, cycles=cycles,
        )  # fmt: skip
        before, after = self._turn()
        self._nests.append(Nest(plan.name, "array", loops, leaf, (before, stream), (after,)))
        self._vector(f"{plan.name}_drain", "pipeline", (), plan.operators)
        if of_weights or self._heads & set(roles.batch):
            self._split.add(plan.output.tensor)
        if plan.moving:  # sums with what a token already has, on the vector unit, whole on every card
            self._gather(plan.output, attention=False)
            self._vector(
                f"{plan.name}_add", "vector", (VectorWork("add", ("x",)),), plan.operators, n * self._cards
            )
        self._keep(plan.output)

    def _functions(self, plan: VectorPlan) -> None:
        """Functions of the vectors of a token; rows of heads are shared like the heads."""
        for access in (*plan.moving, *plan.fixed):
            self._gather(access, attention=bool(self._heads & set(access.ranks)))
            self._fetch(plan.name, access)
        shared = self._cards if self._heads & set(plan.rows) else 1
        works = []
        points = 0
        for operator in plan.operators:
            own = -(-self._graph.n_points(operator) // (self._tokens() * shared))
            points = max(points, own)
            works += [(work.function, own * work.evaluations) for work in works_of(operator, self._graph)]
        scaled = tuple(VectorWork(name, ("x",), max(1, -(-n // max(1, points)))) for name, n in works)
        self._vector(plan.name, "vector", scaled, plan.operators, max(1, points))
        for access in plan.outputs:
            self._keep(access)

    def _rows(self, plan: MovePlan) -> None:
        """Rows that data picks, or rows that are added to a cache."""
        operator = plan.operator
        if operator.kind is Kind.GATHER:
            elements = -(-self._graph.n_elements(operator.output.tensor) // self._tokens())
            self._fetch_elements(plan.name, operator.inputs[-1].tensor, elements)
            self._vector(plan.name, "vector", (VectorWork("identity", ("x",)),), plan.operators, elements)
        self._keep(operator.output)

    def _gather(self, access: Access, attention: bool) -> None:
        """Synchronise the ring where a step needs all of a vector of which each card has its part."""
        tensor = access.tensor
        if tensor not in self._split or attention or tensor in self._gathered:
            return
        self._gathered.add(tensor)
        elements = -(-self._graph.n_elements(tensor) // self._tokens())
        n_bytes = elements * self._array.operand_bits[1] // 8
        cycles = ring_all_gather_cycles(self._link, self._cards, n_bytes)
        if cycles:
            self._vector(f"sync_{tensor}", "router", (), (), 1, float(cycles))

    # Nests and ports.

    def _vector(
        self, name: str, slot: str, works: tuple[VectorWork, ...], operators: tuple[Operator, ...],
        points: int = 1, cycles: float | None = None,
    ) -> None:  # fmt: skip
        before, after = self._turn()
        leaf = Compute(Unit.VECTOR, _names(operators), (("x", points),), functions=works, cycles=cycles)
        self._nests.append(Nest(name, slot, (self._the_token(),), leaf, (before,), (after,)))

    def _turn(self) -> tuple[Port, Port]:
        """The token's vector as it comes from the step before, and as it goes to the next."""
        width = max(self._array.rows, 1)
        tile = (("x", width),)
        before = self._port(f"step{self._steps}", "input_buffer", 1, tile, 16, 1)
        self._steps += 1
        return before, self._port(f"step{self._steps}", "input_buffer", 1, tile, 16, 1)

    def _close(self) -> None:
        """The first step takes a token's input, and the next token's when the last step is done."""
        if not self._stages:
            raise MappingError(f"graph {self._graph.name!r} has no operators that a card runs")
        first, last = self._stages[0], self._stages[-1]
        tokens, bits = (self._the_token(),), self._array.operand_bits[1]
        turn = self._port("turn", "input_buffer", 1, (("x", 1),), 16, 1)
        done = Port(f"step{self._steps}", 1, (("x", self._array.rows),))
        start = Port("step0", 1, (("x", self._array.rows),))
        starts: tuple[Port, ...] = (start, turn)
        ends: tuple[Port, ...] = (done, turn)
        if self._streams:
            starts += (Port("order0", 1, (("one", 1),)),)
            ends += (Port(f"order{self._streams}", 1, (("one", 1),)),)
        source, sink = self._ends()
        enter = self._transfer("enter", source, Direction.LOAD, tokens, (), starts, bits)
        leave = self._transfer("leave", sink, Direction.STORE, tokens, ends, (), bits)
        self._stages[0] = Stage(first.name, first.operators, (enter, *first.nests))
        last = self._stages[-1]
        self._stages[-1] = Stage(last.name, last.operators, (*last.nests, leave))

    def _ends(self) -> tuple[str, str]:
        """The activation that comes in and the one that goes out; weights or indices where there is none."""
        graph = self._graph
        active = [name for name in graph.inputs if graph.tensor_by_name[name].role is Role.ACTIVATION]
        return (active or list(graph.inputs))[0], graph.outputs[-1] if graph.outputs else graph.inputs[0]

    def _transfer(
        self, name: str, tensor: str, direction: Direction, loops: tuple[Loop, ...],
        reads: tuple[Port, ...], writes: tuple[Port, ...], bits: int,
    ) -> Nest:  # fmt: skip
        known = self._graph.tensor_by_name[tensor]
        elements = 1
        if known.role is Role.ACTIVATION:
            elements = -(-self._graph.n_elements(tensor) // self._tokens())
        leaf = Transfer(direction, tensor, (("x", elements),), known.bits, elements)
        slot = "dma_in" if direction is Direction.LOAD else "dma_out"
        return Nest(name, slot, loops, leaf, reads, writes)

    def _keep(self, access: Access) -> None:
        """Store what leaves the layer apart from its last output: rows of keys and values."""
        graph, tensor = self._graph, access.tensor
        if tensor not in graph.outputs or tensor == self._ends()[1] or tensor in self._stored:
            return
        self._stored.add(tensor)
        producer = graph.producer[tensor]
        points = graph.n_points(producer) if producer.kind is Kind.SCATTER else graph.n_elements(tensor)
        elements = max(1, points // (self._tokens() * self._cards))
        before, after = self._turn()
        leaf = Transfer(
            Direction.STORE, tensor, (("x", elements),), graph.tensor_by_name[tensor].bits, elements
        )
        self._nests.append(
            Nest(f"store_{tensor}", "dma_out", (self._the_token(),), leaf, (before,), (after,))
        )

    def _fetch(self, name: str, access: Access) -> None:
        """Parameters of norms and rows of tables come with the step that uses them."""
        graph, tensor = self._graph, access.tensor
        if tensor in graph.inputs and graph.tensor_by_name[tensor].role is not Role.ACTIVATION:
            sizes = [graph.size(rank) for rank in access.ranks]
            elements = min(prod(sizes), graph.n_elements(tensor))
            shared = 1 if graph.tensor_by_name[tensor].role is Role.WEIGHT else self._tokens()
            self._fetch_elements(name, tensor, -(-elements // shared))

    def _fetch_elements(self, name: str, tensor: str, elements: int) -> None:
        bits = self._graph.tensor_by_name[tensor].bits
        tile = (("x", elements),)
        leaf = Transfer(Direction.LOAD, tensor, tile, bits, elements)
        before, after = self._turn()
        nest = Nest(f"fetch_{name}_{tensor}", "dma_in", (self._the_token(),), leaf, (before,), (after,))
        self._nests.append(nest)

    def _load(
        self, name: str, tensor: str, loops: tuple[Loop, ...], tile: tuple[tuple[str, int], ...], bits: int,
        reads: tuple[Port, ...], writes: tuple[Port, ...],
    ) -> None:  # fmt: skip
        leaf = Transfer(Direction.LOAD, tensor, tile, bits, prod(size for _, size in tile))
        self._nests.append(Nest(name, "dma_in", loops, leaf, reads, writes))

    def _port(
        self, name: str, slot: str, depth: int, tile: tuple[tuple[str, int], ...], bits: int, copies: int
    ) -> Port:
        n_bytes = max(1, prod(size for _, size in tile) * bits // 8)
        known = self._buffers.get(name)
        if known is None or known.slot_bytes < n_bytes:
            self._buffers[name] = Buffer(name, slot, n_bytes, copies, bits)
        return Port(name, depth, tile)

    def _the_token(self) -> Loop:
        assert self._token is not None
        return self._token

    def _tokens(self) -> int:
        return self._the_token().extent

    def _is_weight(self, access: Access) -> bool:
        role = self._graph.tensor_by_name[access.tensor].role
        return role in (Role.WEIGHT, Role.ADAPTER) and access.tensor in self._graph.inputs


def _names(operators: tuple[Operator, ...]) -> tuple[str, ...]:
    return tuple(operator.name for operator in operators)
