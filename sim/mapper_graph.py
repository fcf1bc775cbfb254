"""A whole layer on a hierarchy: which operators to fuse, and the certified mapping of every group.

The space: runs of neighbouring operators. A contraction may take with it the vector operators that follow;
operators of the group `attention`, and neighbours that are all vector operators, may be fused too; everything
may run alone. Groups run one after the other, and what passes between them goes through the backing store. Copies
(scatter) move nothing: what makes their input writes it where it belongs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import inf

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Kind, Operator
from tilewright.sim.hierarchy import Hierarchy
from tilewright.sim.mapper_fused import FusedMapping, FusedObjective, group_of, map_fused
from tilewright.sim.mapper_nest import NestMapping
from tilewright.sim.mapper_onto import map_onto
from tilewright.sim.mapping import MappingError
from tilewright.sim.mapspace import Tiles
from tilewright.sim.mapspace_problem import contraction_of

#: Kinds that a vector unit runs element by element.
_VECTOR = (Kind.POINTWISE, Kind.REDUCTION)
#: Relative difference under which two divisions cost the same, and the one with less energy is taken.
_TIE = 1e-9


#: Cost by the objective, energy, and the groups of the first operators.
_Division = tuple[float, float, tuple[FusedMapping | NestMapping, ...]]


@dataclass(frozen=True)
class LayerMapping:
    """The groups of one layer in order; figures are their sums."""

    objective: str
    parts: tuple[FusedMapping | NestMapping, ...]
    left_out: tuple[str, ...]

    @property
    def cycles(self) -> float:
        return sum(part.cycles for part in self.parts)

    @property
    def energy_pj(self) -> float:
        return sum(part.energy_pj for part in self.parts)

    @property
    def backing_words(self) -> float:
        return sum(part.backing_words for part in self.parts)

    @property
    def optimal(self) -> bool:
        """Whether every group, and so the sum, is certified."""
        return all(part.certificate is not None and part.certificate.optimal for part in self.parts)


def map_layer(
    graph: Graph, hierarchy: Hierarchy, objective: FusedObjective = "energy", tiles: Tiles = "divisors"
) -> LayerMapping:
    """The best division of a layer into groups and their best mappings. Raises MappingError if none exists."""
    operators = [o for o in graph.operators if o.kind in (*_VECTOR, Kind.CONTRACTION)]
    least: list[_Division] = [(0.0, 0.0, ())]
    for end in range(1, len(operators) + 1):
        best: _Division = (inf, inf, ())
        for start in _starts(operators, end):
            before, energy, parts = least[start]
            if before == inf:
                continue
            part = _mapped(graph, tuple(o.name for o in operators[start:end]), hierarchy, objective, tiles)
            if part is None:
                continue
            cost = before + (part.energy_pj if objective == "energy" else part.cycles)
            energy += part.energy_pj
            if cost < best[0] * (1 - _TIE) or (cost <= best[0] * (1 + _TIE) and energy < best[1]):
                best = (cost, energy, (*parts, part))
        least.append(best)
    if least[-1][0] == inf:
        raise MappingError(f"graph {graph.name!r}: no division into groups fits hierarchy {hierarchy.name!r}")
    left = tuple(o.name for o in graph.operators if o not in operators)
    return LayerMapping(objective, least[-1][2], left)


def _starts(operators: list[Operator], end: int) -> Iterator[int]:
    """Where a group that ends before `end` may start."""
    last = end - 1
    yield last
    attention = operators[last].group == "attention"
    start = last - 1
    while start >= 0 and attention and operators[start].group == "attention":
        start -= 1
    if attention and start + 1 < last:
        yield start + 1
    start = last
    while operators[start].kind in _VECTOR and start > 0:
        start -= 1
        if not (attention and operators[start].group == "attention"):
            yield start  # attention is fused from its first operator on


@lru_cache(maxsize=1024)
def _mapped(
    graph: Graph, names: tuple[str, ...], hierarchy: Hierarchy, objective: FusedObjective, tiles: Tiles
) -> FusedMapping | NestMapping | None:
    (first,) = [o for o in graph.operators if o.name == names[0]]
    try:
        if len(names) == 1 and first.kind is Kind.CONTRACTION:
            return map_onto(contraction_of(graph, first), hierarchy, objective, tiles)
        return map_fused(group_of(graph, names), hierarchy, objective, tiles)
    except MappingError:
        return None
