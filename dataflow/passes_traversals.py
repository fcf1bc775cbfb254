"""How often a rank must be traversed from end to end: a lower bound on traffic, or on the footprint."""

from collections.abc import Mapping
from dataclasses import dataclass

from tilewright.dataflow.cascade import Cascade
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Index
from tilewright.dataflow.passes import PassError


@dataclass(frozen=True, slots=True)
class _Read:
    """`earlier` is the serial rank of which the read gives an earlier step, or the empty string."""

    tensor: str
    ranks: frozenset[str]
    earlier: str


@dataclass(frozen=True, slots=True)
class _Node:
    """An operator, as far as traversals go."""

    name: str
    output: str
    output_ranks: frozenset[str]
    reads: tuple[_Read, ...]

    @property
    def ranks(self) -> frozenset[str]:
        return self.output_ranks.union(*(read.ranks for read in self.reads))


def count_passes(source: Graph | Cascade, rank: str) -> int:
    """Full traversals of `rank` that must follow one another; 0 if no operator runs along it.

    A value that is reduced along the rank is known when a traversal has ended, so what needs both it
    and elements along the rank waits for the next one; softmax attention takes three over its keys. If
    the rank is split, running along both parts is a traversal; a value per tile is not reduced along
    it, and work on values per tile alone is no traversal. Where a recurrence along another rank runs
    along this one in each step, the traversals of one step count. Buffering everything between two traversals
    makes one of them free of traffic: the count bounds footprint or traffic.

    Raises PassError if the rank is unknown, or two steps of a recurrence need each other's end.
    """
    nodes, parts, tensor_ranks = (
        _of_cascade(source, rank) if isinstance(source, Cascade) else _of_graph(source, rank)
    )
    family = frozenset((rank, *parts))
    whole = [frozenset((rank,))] + ([frozenset(parts)] if parts else [])
    traversal = _traversals(nodes, family, tensor_ranks)
    full = {traversal[node.name] for node in nodes if any(ranks <= node.ranks for ranks in whole)}
    return len(full)


def _traversals(
    nodes: tuple[_Node, ...], family: frozenset[str], tensor_ranks: Mapping[str, frozenset[str]]
) -> dict[str, int]:
    """By operator: the traversal it runs in, or, without the rank, the one it has to wait for."""
    streams: dict[str, int] = {}  # tensors along the rank: the traversal that makes them
    settled: dict[str, int] = {}  # others: the traversals that must have ended
    at: dict[str, int] = {}
    for _ in range(len(nodes) + 1):
        before = dict(at)
        for node in nodes:
            along = bool(node.ranks & family)
            least = 1 if along else 0
            for read in node.reads:
                if read.earlier and read.earlier not in family:
                    continue
                if read.tensor in streams:
                    ended = not read.ranks & family and bool(tensor_ranks[read.tensor] & family)
                    least = max(least, streams[read.tensor] + (along and ended))
                elif read.tensor in settled:
                    least = max(least, settled[read.tensor] + along)
            at[node.name] = least
            if node.output_ranks & family:
                streams[node.output] = least
            else:
                settled[node.output] = least
        if at == before:
            return at
    raise PassError(f"the recurrences along {', '.join(sorted(family))} wait for their own end")


def _of_graph(
    graph: Graph, rank: str
) -> tuple[tuple[_Node, ...], tuple[str, ...], dict[str, frozenset[str]]]:
    if rank not in graph.ranks:
        raise PassError(f"graph {graph.name!r} has no rank {rank!r}")
    parts: dict[str, None] = {}
    for operator in graph.operators:
        if operator.mask and operator.mask.rank == rank:
            parts.update(dict.fromkeys(operator.mask.rank_parts))
        for access in operator.inputs:
            tensor = graph.tensor_by_name[access.tensor]
            for name, index in zip(tensor.ranks, access.indices, strict=True):
                if name == rank and _is_joint(index, graph):
                    parts.update(dict.fromkeys(term.rank for term in index.terms))
    nodes = tuple(
        _Node(
            operator.name,
            operator.output.tensor,
            frozenset(operator.output.ranks),
            tuple(
                _Read(
                    access.tensor,
                    frozenset(access.ranks),
                    operator.serial_rank if operator.steps_back(access) else "",
                )
                for access in operator.inputs
            ),
        )
        for operator in graph.operators
    )
    return nodes, tuple(parts), {tensor.name: frozenset(tensor.ranks) for tensor in graph.tensors}


def _is_joint(index: Index, graph: Graph) -> bool:
    """Whether the index is outer * size(inner) + inner: a split rank put together."""
    if len(index.terms) != 2 or index.offset:
        return False
    outer, inner = index.terms
    return inner.coefficient == 1 and outer.coefficient == graph.size(inner.rank)


def _of_cascade(
    cascade: Cascade, rank: str
) -> tuple[tuple[_Node, ...], tuple[str, ...], dict[str, frozenset[str]]]:
    if rank not in cascade.ranks:
        raise PassError(f"cascade {cascade.name!r} has no rank {rank!r}")

    nodes = tuple(
        _Node(
            step.name,
            step.name,
            frozenset(step.output_ranks),
            tuple(
                _Read(
                    access.tensor,
                    frozenset(access.ranks),
                    step.serial_rank
                    if any((index.shift_of(step.serial_rank) or 0) < 0 for index in access.indices)
                    else "",
                )
                for access in step.inputs
            ),
        )
        for step in cascade.steps
    )
    ranks = {name: frozenset(tensor.ranks) for name, tensor in cascade.tensors.items()}
    ranks |= {step.name: frozenset(step.output_ranks) for step in cascade.steps}
    return nodes, tuple(cascade.splits.get(rank, ())), ranks
