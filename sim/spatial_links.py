"""Which stages of a graph hand what to which, and in what form: block by block, whole, or through memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Operator
from tilewright.dataflow.program import Loop
from tilewright.sim.sequential_emit import split_tile, tile_loops
from tilewright.sim.sequential_plan import GemmPlan, GraphPlan, StagePlan, VectorPlan


@dataclass(frozen=True, slots=True)
class GraphLink:
    """A tensor from one stage to one reader in another; `deep` streams hold every block."""

    tensor: str
    giver: str
    taker: str
    whole: bool  # an array: handed on when all of it is there
    deep: bool = False

    @property
    def buffer(self) -> str:
        return f"{self.tensor} to {self.taker}"


@dataclass(frozen=True)
class Layout:
    """The stages of a graph with the blocks of rows that pass from one to the next."""

    graph: Graph
    plan: GraphPlan
    rows: tuple[str, ...]
    row_tile: Mapping[str, int]
    loops: tuple[Loop, ...]

    @property
    def n_blocks(self) -> int:
        return prod(loop.trips for loop in self.loops)

    @cached_property
    def stage_of(self) -> Mapping[str, StagePlan]:
        """The stage that writes a tensor."""
        return {op.output.tensor: stage for stage in self.plan.stages for op in stage.operators}

    @cached_property
    def scatters(self) -> Mapping[str, Operator]:
        """The operator that puts rows into a cache, by the cache."""
        aliased = dict(self.plan.aliases)
        return {op.output.tensor: op for op in self.graph.operators if op.output.tensor in aliased}

    def source(self, tensor: str) -> str:
        """The tensor of a stage that holds all of `tensor`; "" if it comes from memory.

        A cache does where every row of it is new.
        """
        if tensor in self.stage_of:
            return tensor
        scatter = self.scatters.get(tensor)
        if scatter is None or self.graph.n_points(scatter) < self.graph.n_elements(tensor):
            return ""
        return self.source(scatter.inputs[-1].tensor)

    def streams(self, access: Access) -> bool:
        """Whether block i of the reader needs block i of the tensor and no other."""
        if access.tensor not in self.stage_of:
            return False
        written = next(
            op.output for op in self.stage_of[access.tensor].operators if op.output.tensor == access.tensor
        )
        for rank in self.rows:
            here = [i for i, index in enumerate(access.indices) if any(t.rank == rank for t in index.terms)]
            there = [i for i, index in enumerate(written.indices) if any(t.rank == rank for t in index.terms)]
            if len(here) != 1 or here != there or access.indices[here[0]] != written.indices[here[0]]:
                return False
            if len(access.indices[here[0]].terms) != 1:
                return False
        return True

    def links(self, deepen: bool) -> tuple[GraphLink, ...]:
        """All links between stages; with `deepen` streams that go around an array hold every block."""
        found: dict[str, GraphLink] = {}
        for stage in self.plan.stages:
            for reader, access in reads_of(stage):
                source = self.source(access.tensor)
                if source and self.stage_of[source] is not stage:
                    whole = source != access.tensor or not self.streams(access)
                    link = GraphLink(source, self.stage_of[source].name, reader, whole)
                    known = found.get(link.buffer)
                    if known is None or whole:
                        found[link.buffer] = link
        links = tuple(found.values())
        return _deepened(self.plan, links) if deepen else links


def reads_of(stage: StagePlan) -> list[tuple[str, Access]]:
    """(name of the reader, access) of all that a stage's nests read."""
    if isinstance(stage, GemmPlan):
        first, second = stage.contraction.inputs
        found = [(f"{stage.name}.a", first), (f"{stage.name}.b", second)]
        sides = (*stage.moving, *stage.fixed)
    else:
        assert isinstance(stage, VectorPlan)
        found, sides = [], (*stage.moving, *stage.fixed)
    return found + [(f"{stage.name}.{position}", access) for position, access in enumerate(sides)]


def layout_of(graph: Graph, plan: GraphPlan, block_rows: int) -> Layout | None:
    """Blocks of about `block_rows` rows; None for a graph that does not stream.

    Rows that data picks, recurrences, and stages without a common rank do not.
    """
    common: set[str] | None = None
    for stage in plan.stages:
        if isinstance(stage, GemmPlan):
            own = {*stage.roles.m, *stage.roles.batch} & set(stage.output.ranks)
        elif isinstance(stage, VectorPlan) and not stage.gathers and not stage.serial:
            own = set(stage.rows)
        else:
            return None
        common = own if common is None else common & own
    if not common:
        return None
    order = plan.stages[0].operators[-1].output.ranks
    rows = tuple(rank for rank in order if rank in common)
    sizes = [graph.size(rank) for rank in rows]
    tile = split_tile(rows, sizes, block_rows)
    return Layout(graph, plan, rows, tile, tile_loops(rows, sizes, tile))


def _deepened(plan: GraphPlan, links: tuple[GraphLink, ...]) -> tuple[GraphLink, ...]:
    """A stage that takes an array starts when all that feeds it is done, so whatever comes to it from there by
    another way must wait in its stream."""
    feeding: dict[str, set[str]] = {}
    waited: dict[str, set[str]] = {}
    into: dict[str, list[GraphLink]] = {stage.name: [] for stage in plan.stages}
    for link in links:
        into[link.taker.rsplit(".", 1)[0]].append(link)
    deep: set[GraphLink] = set()
    for stage in plan.stages:
        own = into[stage.name]
        feeding[stage.name] = {stage.name}.union(*(feeding[link.giver] for link in own))
        waited[stage.name] = set().union(
            *(feeding[link.giver] if link.whole else waited[link.giver] for link in own)
        )
        for link in own:
            if not link.whole and feeding[link.giver] & (waited[stage.name] - waited[link.giver]):
                deep.add(link)
    return tuple(GraphLink(link.tensor, link.giver, link.taker, link.whole, link in deep) for link in links)
