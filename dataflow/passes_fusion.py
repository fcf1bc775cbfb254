"""Fusion: which pointwise operators and reductions ride on the operator that makes their input."""

from dataclasses import dataclass

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Index, Kind, Operator


@dataclass(frozen=True, slots=True)
class FusionPlan:
    """Groups of operators by name, in execution order; each operator stands in exactly one.

    The first operator of a group makes tiles, the others work on a tile while it is at hand. Groups may
    run one after the other in this order.
    """

    groups: tuple[tuple[str, ...], ...]

    def group_of(self, operator: str) -> tuple[str, ...]:
        """The group that an operator stands in; KeyError without one."""
        for group in self.groups:
            if operator in group:
                return group
        raise KeyError(operator)

    def internal_tensors(self, graph: Graph) -> frozenset[str]:
        """Tensors that only their own group reads and that are not live-out: never needed in full."""
        group_of = {name: i for i, group in enumerate(self.groups) for name in group}
        found = set()
        for name, producer in graph.producer.items():
            readers = graph.consumers[name]
            own = all(group_of[reader.name] == group_of[producer.name] for reader in readers)
            if readers and own and name not in graph.outputs:
                found.add(name)
        return frozenset(found)


def unfused(graph: Graph) -> FusionPlan:
    """Every operator for itself."""
    return FusionPlan(tuple((operator.name,) for operator in graph.operators))


def fuse_pointwise(graph: Graph) -> FusionPlan:
    """Let pointwise operators and reductions ride on the group that makes their latest input.

    An operator rides if it runs over just the points of that input, element by element, under the same
    mask and serial rank, and all else that it reads is made by earlier groups or, elementwise, by this
    one. What reads the result of a reduction over tiles never stands in that reduction's group: the
    reduction has its value only when all tiles have passed. Nothing is recomputed and no operator is
    left out, so every count of the graph stays.
    """
    groups: list[list[str]] = []
    group_of: dict[str, int] = {}  # by tensor
    for operator in graph.operators:
        target = _group_to_ride(graph, operator, group_of)
        if target is None:
            target = len(groups)
            groups.append([])
        groups[target].append(operator.name)
        group_of[operator.output.tensor] = target
    return FusionPlan(tuple(tuple(group) for group in groups))


def _group_to_ride(graph: Graph, operator: Operator, group_of: dict[str, int]) -> int | None:
    if operator.kind not in (Kind.POINTWISE, Kind.REDUCTION):
        return None
    if any(operator.steps_back(access) for access in operator.inputs):
        return None
    made = [access for access in operator.inputs if access.tensor in group_of]
    if not made:
        return None
    target = max(group_of[access.tensor] for access in made)
    here = [access for access in made if group_of[access.tensor] == target]
    return target if all(_is_tile_of(graph, operator, access) for access in here) else None


def _is_tile_of(graph: Graph, operator: Operator, access: Access) -> bool:
    """Whether `operator` can take `access` tile by tile from its producer."""
    producer = graph.producer[access.tensor]
    if producer.kind not in (Kind.CONTRACTION, Kind.POINTWISE):
        return False
    plain = tuple(Index.of(rank) for rank in access.ranks)
    same_points = set(operator.ranks) == set(access.ranks) and access.indices == plain
    return (
        same_points
        and access.indices == producer.output.indices
        and operator.mask == producer.mask
        and operator.repeat == producer.repeat
        and operator.serial_rank == producer.serial_rank
    )
