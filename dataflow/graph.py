"""The graph: ranks with sizes, tensors, operators in order; frozen."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

from tilewright.dataflow.operator import Access, Kind, Operator
from tilewright.dataflow.tensor import Profile, Tensor

if TYPE_CHECKING:
    import networkx as nx


class GraphError(ValueError):
    """The graph is not well formed; the message names the operator, tensor or rank."""


@dataclass(frozen=True)
class Graph:
    """A dataflow graph: each tensor is produced at most once, operators stand in execution order.

    An operator with a serial rank may also read what it, or a later operator of the same recurrence,
    wrote in an earlier step; before the first step such a read gives its initial value, the operator's
    parameter `init_<position of the input>`.

    `rank_sizes` are (name, size) pairs. `inputs` are the live-in tensors, `outputs` the live-out.
    """

    name: str
    rank_sizes: tuple[tuple[str, int | Profile], ...]
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[str, ...] = field(default=())
    outputs: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        _check(self)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Taken once: it walks the whole graph, and graphs are the keys of many tables."""
        return hash((self.name, self.rank_sizes, self.tensors, self.operators, self.inputs, self.outputs))

    def __getstate__(self) -> dict[str, object]:
        """Without the hash, which another process would compute differently."""
        return {name: value for name, value in self.__dict__.items() if name != "_hash"}

    @cached_property
    def ranks(self) -> Mapping[str, int | Profile]:
        return dict(self.rank_sizes)

    @cached_property
    def tensor_by_name(self) -> Mapping[str, Tensor]:
        return {tensor.name: tensor for tensor in self.tensors}

    @cached_property
    def producer(self) -> Mapping[str, Operator]:
        """The operator that writes a tensor, by the tensor's name."""
        return {operator.output.tensor: operator for operator in self.operators}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Operator, ...]]:
        """The operators that read a tensor, by the tensor's name."""
        found: dict[str, list[Operator]] = {tensor.name: [] for tensor in self.tensors}
        for operator in self.operators:
            for name in dict.fromkeys(access.tensor for access in operator.inputs):
                found[name].append(operator)
        return {name: tuple(operators) for name, operators in found.items()}

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Elements along each rank; the largest instance of a profile."""
        return {rank: size.largest if isinstance(size, Profile) else size for rank, size in self.rank_sizes}

    def size(self, rank: str) -> int:
        """Elements along a rank; the largest instance of a profile."""
        return self.sizes[rank]

    def n_elements(self, tensor: str) -> int:
        return prod(self.size(rank) for rank in self.tensor_by_name[tensor].ranks)

    def n_bytes(self, tensor: str) -> int:
        """Bytes of a tensor, packed, rounded up to whole bytes."""
        return -(-self.n_elements(tensor) * self.tensor_by_name[tensor].bits // 8)

    def n_points(self, operator: Operator) -> int:
        """Points of the operator's iteration space that are computed: mask and repeat included.

        A profile contributes the sum over its instances. Density is not included.
        """
        sizes = {rank: _total(self.ranks[rank]) for rank in operator.ranks}
        if (mask := operator.mask) is None:
            return operator.repeat * prod(sizes.values())
        pair = mask.n_points(self.size(mask.rank), self.size(mask.of) if mask.of else 1)
        decided = mask.iteration_ranks
        rest = prod(size for rank, size in sizes.items() if rank not in decided)
        return operator.repeat * pair * rest

    def macs(self, operator: Operator) -> int:
        """Multiply-accumulates of a contraction, 0 for other kinds; density applied."""
        if operator.kind is not Kind.CONTRACTION:
            return 0
        points = self.n_points(operator)
        return points if operator.density == 1.0 else round(points * operator.density)

    def to_networkx(self) -> "nx.MultiDiGraph[str]":
        """Operators as nodes, tensors as edges; a derived view for algorithms and drawing.

        What a step of a recurrence reads from an earlier step is no edge: the view has no cycles.
        """
        import networkx as nx

        view: nx.MultiDiGraph[str] = nx.MultiDiGraph()
        for operator in self.operators:
            view.add_node(operator.name, kind=operator.kind.value, group=operator.group)
        for operator in self.operators:
            for access in operator.inputs:
                source = self.producer.get(access.tensor)
                if source and not operator.steps_back(access):
                    view.add_edge(source.name, operator.name, tensor=access.tensor)
        return view


@dataclass(frozen=True, slots=True)
class LayerClass:
    """`count` layers that share one graph; a network is a tuple of them, in execution order.

    `shares` names the class whose parameters and caches these layers use once more: a later step's, or a
    backward pass's.
    """

    name: str
    graph: Graph
    count: int
    shares: str = ""

    def __post_init__(self) -> None:
        if self.count <= 0:
            raise GraphError(f"layer class {self.name!r}: count must be > 0, got {self.count}")


Network = tuple[LayerClass, ...]


def _total(size: int | Profile) -> int:
    return size.total if isinstance(size, Profile) else size


def _check(graph: Graph) -> None:
    ranks = dict(graph.rank_sizes)
    if len(ranks) != len(graph.rank_sizes):
        raise GraphError(f"graph {graph.name!r}: a rank is declared twice")
    for rank, size in graph.rank_sizes:
        if not isinstance(size, Profile) and size <= 0:
            raise GraphError(f"graph {graph.name!r}: rank {rank!r} must have size > 0, got {size}")
    tensors = {tensor.name: tensor for tensor in graph.tensors}
    if len(tensors) != len(graph.tensors):
        raise GraphError(f"graph {graph.name!r}: a tensor is declared twice")
    for tensor in graph.tensors:
        if missing := [rank for rank in tensor.ranks if rank not in ranks]:
            raise GraphError(f"tensor {tensor.name!r}: rank {missing[0]!r} has no size")
    if len({operator.name for operator in graph.operators}) != len(graph.operators):
        raise GraphError(f"graph {graph.name!r}: an operator's name is used twice")
    known = set(graph.inputs)
    carried = {operator.output.tensor: operator.serial_rank for operator in graph.operators}
    if unknown := [name for name in (*graph.inputs, *graph.outputs) if name not in tensors]:
        raise GraphError(f"graph {graph.name!r}: tensor {unknown[0]!r} is not declared")
    for operator in graph.operators:
        for access in operator.inputs:
            past = operator.steps_back(access) and carried.get(access.tensor) == operator.serial_rank
            if access.tensor not in known and not past:
                raise GraphError(f"operator {operator.name!r} reads {access.tensor!r} before it is produced")
        for access in (*operator.inputs, operator.output):
            _check_access(operator, access, tensors, ranks)
        if operator.output.tensor in known:
            raise GraphError(f"operator {operator.name!r} writes {operator.output.tensor!r} again")
        known.add(operator.output.tensor)
    if missing := [name for name in graph.outputs if name not in known]:
        raise GraphError(f"graph {graph.name!r}: output {missing[0]!r} is never produced")


def _check_access(
    operator: Operator,
    access: Access,
    tensors: Mapping[str, Tensor],
    ranks: Mapping[str, int | Profile],
) -> None:
    tensor = tensors.get(access.tensor)
    if tensor is None:
        raise GraphError(f"operator {operator.name!r}: tensor {access.tensor!r} is not declared")
    if len(access.indices) != len(tensor.ranks):
        raise GraphError(
            f"operator {operator.name!r}: {access.tensor!r} has {len(tensor.ranks)} ranks,"
            f" {len(access.indices)} indices given"
        )
    if missing := [rank for rank in access.ranks if rank not in ranks]:
        raise GraphError(f"operator {operator.name!r}: rank {missing[0]!r} has no size")
