"""Which operators of a graph share a stage; knows no hardware and no sizes of tiles."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Kind, Operator
from tilewright.dataflow.program import VectorWork
from tilewright.dataflow.tensor import Role
from tilewright.sim.sequential_recurrence import is_convex, kept_part, recurrences

#: Kinds whose work the vector unit does.
VECTOR_KINDS = frozenset({Kind.POINTWISE, Kind.REDUCTION, Kind.SCAN, Kind.TOPK, Kind.SORT, Kind.TRANSFORM})
_ROW_KINDS = VECTOR_KINDS | {Kind.CONTRACTION}


@dataclass(frozen=True, slots=True)
class Roles:
    """The ranks of a contraction C[m, n] += A[m, k] * B[k, n], each group outermost first."""

    batch: tuple[str, ...]
    m: tuple[str, ...]
    n: tuple[str, ...]
    k: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LowRank:
    """A low-rank path beside a contraction: u = x A (`down`), y += u B (`up`).

    `others` are what the fused form makes superfluous: the scaling, which the array does as it hands u
    on, and the addition, which the accumulators do.
    """

    down: Operator
    up: Operator
    others: tuple[Operator, ...]


@dataclass(frozen=True, slots=True)
class GemmPlan:
    """One contraction, an optional low-rank path, and the maps that ride on its output tiles.

    `moving` are what the maps read besides the product and that changes with its rows, `fixed` what does
    not (biases); `works` is what the maps cost.
    """

    name: str
    contraction: Operator
    roles: Roles
    epilogue: tuple[Operator, ...]
    low_rank: LowRank | None
    moving: tuple[Access, ...]
    fixed: tuple[Access, ...]
    works: tuple[VectorWork, ...]

    @staticmethod
    def of(
        contraction: Operator, epilogue: tuple[Operator, ...] = (), low_rank: LowRank | None = None
    ) -> "GemmPlan":
        roles = roles_of(contraction)
        rows = {*roles.batch, *roles.m}
        members = [contraction, *epilogue]
        if low_rank:
            members += [low_rank.up, *low_rank.others]
        inputs = _outside(epilogue, {operator.output.tensor for operator in members})
        moving = tuple(access for access in inputs if rows & set(access.ranks))
        fixed = tuple(access for access in inputs if access not in moving)
        works = tuple(work for operator in epilogue for work in works_of(operator))
        return GemmPlan(contraction.name, contraction, roles, epilogue, low_rank, moving, fixed, works)

    @property
    def output(self) -> Access:
        """What is stored, in the ranks of the last operator."""
        return (self.epilogue[-1] if self.epilogue else self.contraction).output

    @property
    def operators(self) -> tuple[Operator, ...]:
        path = self.low_rank
        low = (path.down, path.up, *path.others) if path else ()
        return (self.contraction, *low, *self.epilogue)


@dataclass(frozen=True, slots=True)
class VectorPlan:
    """Maps and reductions over common rows; `gathers` feed it straight from their tables.

    All operators iterate over `rows` and none reduces over them; `columns` are the other ranks. `moving` are
    the inputs that change with the rows, `fixed` those that do not (norm weights). `serial` is the rank of a
    recurrence among the rows, the last of them, "" if there is none.
    """

    name: str
    operators: tuple[Operator, ...]
    gathers: tuple[Operator, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    moving: tuple[Access, ...]
    fixed: tuple[Access, ...]
    outputs: tuple[Access, ...]
    works: tuple[VectorWork, ...]
    serial: str = ""

    @staticmethod
    def of(
        graph: Graph, name: str, operators: tuple[Operator, ...], gathers: tuple[Operator, ...] = ()
    ) -> "VectorPlan":
        common = set.intersection(*(set(operator.ranks) for operator in operators))
        common -= {rank for operator in operators for rank in operator.reduced_ranks}
        every = dict.fromkeys(rank for operator in operators for rank in operator.ranks)
        serial = next((op.serial_rank for op in operators if op.serial_rank in common), "")
        rows = tuple(rank for rank in every if rank in common and rank != serial)
        rows += (serial,) if serial else ()
        inputs = _outside(operators, {operator.output.tensor for operator in operators})
        moving = _moving(graph, rows, inputs)
        return VectorPlan(
            name, operators, gathers, rows, tuple(rank for rank in every if rank not in common),
            moving, tuple(access for access in inputs if access not in moving),
            _written_for_others(graph, operators),
            tuple(work for operator in operators for work in works_of(operator, graph)), serial,
        )  # fmt: skip

    def parts(self, graph: Graph) -> tuple["VectorPlan", ...]:
        """One plan per operator, for rows that do not fit as a whole."""
        plans = []
        for one in self.operators:
            read = {access.tensor for access in one.inputs}
            own = tuple(gather for gather in self.gathers if gather.output.tensor in read)
            plans.append(VectorPlan.of(graph, one.name, (one,), own))
        return tuple(plans)


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """score -> softmax `pieces` -> mix, with the score tiles kept on chip."""

    name: str
    score: Operator
    pieces: tuple[Operator, ...]
    mix: Operator

    @property
    def operators(self) -> tuple[Operator, ...]:
        return (self.score, *self.pieces, self.mix)


@dataclass(frozen=True, slots=True)
class MovePlan:
    """Rows that are moved: a gather or a scatter."""

    name: str
    operator: Operator

    @property
    def operators(self) -> tuple[Operator, ...]:
        return (self.operator,)


StagePlan = GemmPlan | VectorPlan | AttentionPlan | MovePlan


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """The stages of a graph in order; `aliases` name, for a tensor that nobody moves, where it is written.

    A cache whose new rows go straight to their place by the store of the stage that computes them is
    such a tensor.
    """

    stages: tuple[StagePlan, ...]
    aliases: tuple[tuple[str, str], ...] = ()


def is_gemm(operator: Operator, graph: Graph) -> bool:
    """Whether the matrix unit does it: a sum of products of two tensors that reuses both of them.

    Without ranks of its own an operand meets every element of the other one once (a depthwise convolution,
    the state of a recurrence): an array would use one row, or column, of its PEs, so that is vector work. So
    is a result that is copied along a rank that no operand has.
    """
    if operator.kind is not Kind.CONTRACTION or len(operator.inputs) != 2:
        return False
    if not set(operator.output.ranks) <= {rank for access in operator.inputs for rank in access.ranks}:
        return False
    roles = roles_of(operator)
    once = not roles.m or not roles.n
    return not (once and prod(graph.size(rank) for rank in roles.batch) > 1)


def roles_of(operator: Operator) -> Roles:
    """The role of every rank of a contraction of two tensors."""
    a, b = (set(access.ranks) for access in operator.inputs)
    kept = operator.output.ranks
    return Roles(
        batch=tuple(rank for rank in kept if rank in a and rank in b),
        m=tuple(rank for rank in kept if rank in a and rank not in b),
        n=tuple(rank for rank in kept if rank in b and rank not in a),
        k=operator.reduced_ranks,
    )


@dataclass(frozen=True, slots=True)
class Fusion:
    """What shares a stage: maps with their product, attention, low-rank paths with their product."""

    maps: bool
    attention: bool
    low_rank: bool


def plan_graph(graph: Graph, fusion: Fusion, aliases: Iterable[tuple[str, str]] = ()) -> GraphPlan:
    """Group the operators of `graph` into stages; without fusion only the functions of rows share one.

    `aliases` are those of the graph itself, which the plan takes over.
    """
    planner = _Planner(graph, aliases)
    if fusion.attention:
        planner.take_attention()
    if fusion.low_rank:
        planner.take_low_rank_paths()
    planner.take_recurrences(fusion.maps)
    planner.take_gemms(with_epilogue=fusion.maps)
    planner.take_moves(fusion.maps)
    planner.take_rows()
    return planner.result()


class _Planner:
    """Collects stages; an operator belongs to exactly one, which stands where its last operator stands."""

    def __init__(self, graph: Graph, aliases: Iterable[tuple[str, str]] = ()) -> None:
        self._graph = graph
        self._position = {operator.name: i for i, operator in enumerate(graph.operators)}
        self._taken: set[str] = set()
        self._stages: list[tuple[int, StagePlan]] = []
        self._aliases = list(aliases)
        self._fused_gathers: set[str] = set()

    def result(self) -> GraphPlan:
        """The stages in the order of their last operators, each behind all that it reads."""
        waiting = sorted(self._stages, key=lambda stage: stage[0])
        written = dict(self._aliases)
        for tensor, place in self._aliases:
            while place in written:  # an alias of an alias
                place = written[place]
            written[tensor] = place
        ordered: list[StagePlan] = []
        unwritten = {tensor for _, plan in waiting for tensor in _written(plan)}
        while waiting:
            position = next(
                (
                    i for i, (_, plan) in enumerate(waiting)
                    if not {written.get(t, t) for t in _read(plan)} & (unwritten - _written(plan))
                ),
                0,
            )  # fmt: skip
            _, plan = waiting.pop(position)
            unwritten -= _written(plan)
            ordered.append(plan)
        return GraphPlan(tuple(ordered), tuple(written.items()))

    def _take(self, plan: StagePlan) -> None:
        self._taken |= {operator.name for operator in plan.operators}
        position = max(self._position[operator.name] for operator in plan.operators)
        self._stages.append((position, plan))

    def _free(self, kinds: Iterable[Kind]) -> list[Operator]:
        wanted = set(kinds)
        return [op for op in self._graph.operators if op.kind in wanted and op.name not in self._taken]

    def _only_consumer(self, tensor: str) -> Operator | None:
        consumers = self._graph.consumers[tensor]
        return consumers[0] if len(consumers) == 1 and tensor not in self._graph.outputs else None

    def take_attention(self) -> None:
        for mix in self._free([Kind.CONTRACTION]):
            if is_gemm(mix, self._graph) and (plan := self._attention(mix)):
                self._take(plan)

    def _attention(self, mix: Operator) -> AttentionPlan | None:
        """The stage around `mix` if its first operand is a softmax of a contraction and nothing else."""
        inside: dict[str, Operator] = {}
        waiting = [mix.inputs[0].tensor]
        scores: set[str] = set()
        while waiting:
            producer = self._graph.producer.get(waiting.pop())
            if producer is None or producer.name in self._taken:
                return None
            if is_gemm(producer, self._graph):
                scores.add(producer.name)
            elif producer.kind not in (Kind.POINTWISE, Kind.REDUCTION):
                return None
            elif producer.name not in inside:
                inside[producer.name] = producer
                waiting.extend(access.tensor for access in producer.inputs)
        if len(scores) != 1 or not any(op.reduce for op in inside.values()):
            return None  # without sums over a row two products in turn are a feed-forward network
        score = self._graph.operators[self._position[scores.pop()]]
        members = {*inside, mix.name}
        for tensor in (score.output.tensor, *(op.output.tensor for op in inside.values())):
            users = {user.name for user in self._graph.consumers[tensor]}
            if not users <= members or tensor in self._graph.outputs:
                return None
        first, second = roles_of(score), roles_of(mix)
        rows = set(first.batch) == set(second.batch) and first.m == second.m
        if not rows or first.n != second.k or len(first.n) != 1 or not first.m:
            return None
        pieces = tuple(sorted(inside.values(), key=lambda op: self._position[op.name]))
        return AttentionPlan(f"{score.name}_{mix.name}", score, pieces, mix)

    def take_low_rank_paths(self) -> None:
        for add in self._free([Kind.POINTWISE]):
            sums = add.function in ("add", "scale_add") and len(add.inputs) == 2
            if sums and add.name not in self._taken:
                self._take_low_rank(add)

    def _take_low_rank(self, add: Operator) -> None:
        """A stage of base product and low-rank path if `add` joins the two."""
        ends = [self._trace(access.tensor) for access in add.inputs]
        orders = (ends, ends[::-1]) if add.function == "add" else (ends,)
        for (base, maps_base), (up, maps_up) in orders:
            if base is None or up is None or maps_base or not _rides(add, base.output.tensor, base):
                continue
            down = self._graph.producer.get(up.inputs[0].tensor)
            if down is None or not is_gemm(down, self._graph) or down.name in self._taken:
                continue
            if self._only_consumer(down.output.tensor) is not up:
                continue
            if _same_row_roles(base, down, up):
                path = LowRank(down, up, (*maps_up, add))
                epilogue = self._epilogue(add.output.tensor, base)
                self._take(GemmPlan.of(base, epilogue, path))
                return

    def _trace(self, tensor: str) -> tuple[Operator | None, tuple[Operator, ...]]:
        """The contraction behind `tensor`, through scalings that nobody else reads."""
        maps: list[Operator] = []
        while (producer := self._graph.producer.get(tensor)) and producer.name not in self._taken:
            if self._only_consumer(tensor) is None:
                break
            if is_gemm(producer, self._graph):
                return producer, tuple(maps)
            if producer.kind is not Kind.POINTWISE or len(producer.inputs) != 1:
                break
            maps.insert(0, producer)
            tensor = producer.inputs[0].tensor
        return None, ()

    def take_recurrences(self, fused: bool) -> None:
        """A stage per recurrence, whose state stays on chip from step to step."""
        free = {
            op.name for op in self._graph.operators
            if op.name not in self._taken and op.kind in _ROW_KINDS and not is_gemm(op, self._graph)
        }  # fmt: skip
        for members in recurrences(self._graph, free, fused):
            self._take(VectorPlan.of(self._graph, members[-1].name, members))

    def take_gemms(self, with_epilogue: bool) -> None:
        for operator in self._free([Kind.CONTRACTION]):
            if is_gemm(operator, self._graph):
                tensor = operator.output.tensor
                epilogue = self._epilogue(tensor, operator) if with_epilogue else ()
                self._take(GemmPlan.of(operator, epilogue))

    def _epilogue(self, tensor: str, contraction: Operator) -> tuple[Operator, ...]:
        """The maps that follow on `tensor`, each the only reader of the one before."""
        found: list[Operator] = []
        while follower := self._only_consumer(tensor):
            if follower.name in self._taken or not _rides(follower, tensor, contraction):
                break
            found.append(follower)
            tensor = follower.output.tensor
        return tuple(found)

    def take_moves(self, fused: bool) -> None:
        for operator in self._free([Kind.GATHER, Kind.SCATTER]):
            source = operator.inputs[-1].tensor
            if fused and operator.kind is Kind.SCATTER and source in self._graph.producer:
                self._taken.add(operator.name)
                self._aliases.append((operator.output.tensor, source))
                continue
            reader = self._only_consumer(operator.output.tensor)
            rows = reader is not None and reader.kind in VECTOR_KINDS and reader.name not in self._taken
            if fused and operator.kind is Kind.GATHER and rows:
                self._taken.add(operator.name)
                self._fused_gathers.add(operator.name)
                continue
            self._take(MovePlan(operator.name, operator))

    def take_rows(self) -> None:
        """Stages of vector work: neighbours of one group that hand tensors on share a stage."""
        rows: list[Operator] = []
        for operator in self._free(_ROW_KINDS):
            if rows and not (_continues(rows, operator) and is_convex(self._graph, [*rows, operator])):
                self._take_vector(rows)
                rows = []
            rows.append(operator)
        if rows:
            self._take_vector(rows)

    def _take_vector(self, rows: list[Operator]) -> None:
        read = {access.tensor for operator in rows for access in operator.inputs}
        gathers = tuple(
            operator
            for operator in self._graph.operators
            if operator.name in self._fused_gathers and operator.output.tensor in read
        )
        self._take(VectorPlan.of(self._graph, rows[-1].name, tuple(rows), gathers))


def _written(plan: StagePlan) -> set[str]:
    return {operator.output.tensor for operator in plan.operators}


def _read(plan: StagePlan) -> set[str]:
    gathers = plan.gathers if isinstance(plan, VectorPlan) else ()
    return {access.tensor for operator in (*plan.operators, *gathers) for access in operator.inputs}


def _rides(operator: Operator, tensor: str, contraction: Operator) -> bool:
    """Whether `operator` maps `tensor`, an output of `contraction`, element by element."""
    if operator.kind is not Kind.POINTWISE or operator.mask is not None:
        return False
    own = set(contraction.output.ranks)
    reads = [access for access in operator.inputs if access.tensor == tensor]
    plain = all(access.indices == _plain(access) and set(access.ranks) == own for access in reads)
    within = all(set(access.ranks) <= own and not _has_window(access) for access in operator.inputs)
    return plain and within and set(operator.output.ranks) == own


def _has_window(access: Access) -> bool:
    """Whether a tile may touch more elements than it has positions: sums of ranks, and steps."""
    return any(
        len(index.terms) > 1 or any(abs(term.coefficient) > 1 for term in index.terms)
        for index in access.indices
    )


def _plain(access: Access) -> tuple[object, ...]:
    return Access.of(access.tensor, *access.ranks).indices


def _same_row_roles(base: Operator, down: Operator, up: Operator) -> bool:
    """Whether y = x W and u = x A, y += u B agree in their ranks."""
    of_base, of_down, of_up = roles_of(base), roles_of(down), roles_of(up)
    return (
        base.inputs[0] == down.inputs[0]
        and not of_base.batch
        and not of_down.batch
        and of_base.m == of_down.m == of_up.m
        and of_base.k == of_down.k
        and of_base.n == of_up.n
        and of_down.n == of_up.k
    )


def _continues(rows: list[Operator], operator: Operator) -> bool:
    last = rows[-1]
    written = {op.output.tensor for op in rows}
    return (
        operator.group == last.group != ""
        and Kind.SCAN not in (last.kind, operator.kind)
        and any(access.tensor in written for access in operator.inputs)
    )


def _outside(operators: Iterable[Operator], written: set[str]) -> tuple[Access, ...]:
    """What the operators read that is not in `written`, each access once, in order."""
    found = dict.fromkeys(
        access for operator in operators for access in operator.inputs if access.tensor not in written
    )
    return tuple(found)


def _written_for_others(graph: Graph, operators: tuple[Operator, ...]) -> tuple[Access, ...]:
    """The outputs that somebody outside `operators` reads, or that leave the graph."""
    names = {operator.name for operator in operators}
    found = []
    for operator in operators:
        users = graph.consumers[operator.output.tensor]
        outside = [user for user in users if user.name not in names]
        if outside or not users or operator.output.tensor in graph.outputs:
            found.append(kept_part(graph, operator, outside))
    return tuple(found)


def _moving(graph: Graph, rows: tuple[str, ...], inputs: tuple[Access, ...]) -> tuple[Access, ...]:
    """The inputs that change with the rows.

    What lacks the outermost rank of the rows is read once and stays; with a single row that is what the
    model keeps as weights.
    """
    outermost = next((rank for rank in rows if graph.size(rank) > 1), None)
    if outermost:
        return tuple(access for access in inputs if outermost in access.ranks)
    kept = (Role.WEIGHT, Role.ADAPTER)
    return tuple(access for access in inputs if graph.tensor_by_name[access.tensor].role not in kept)


def works_of(operator: Operator, graph: Graph | None = None) -> tuple[VectorWork, ...]:
    """What an operator costs on the vector unit, per point of its iteration space.

    A reduction counts its map, if it has one, and its combination; a contraction (of one tensor, or of three
    and more) its multiply-accumulates; a selection, a sort or a transform the stages of a network over
    its innermost rank, whose size `graph` tells.
    """
    ranks, repeat = operator.ranks, operator.repeat
    if operator.kind is Kind.CONTRACTION:
        return (VectorWork("mac", ranks, repeat * max(1, len(operator.inputs) - 1)),)
    if operator.kind in (Kind.SORT, Kind.TOPK, Kind.TRANSFORM) and graph is not None:
        n_stages = max(1, (graph.size(ranks[-1]) - 1).bit_length())
        return (VectorWork("compare", ranks, repeat * n_stages),)
    works = []
    if operator.function != "identity" or not operator.reduce:
        works.append(VectorWork(operator.function, ranks, repeat))
    if operator.reduce:
        works.append(VectorWork(operator.reduce, ranks, repeat))
    return tuple(works)
