"""Passes that give a new graph: renamed, joined, pruned, adapters merged; and the error of all passes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Index, Mask, Operator
from tilewright.dataflow.tensor import Profile, Tensor


class PassError(ValueError):
    """The pass does not apply to this graph; the message names the operator, tensor or rank."""


def rename_graph(
    graph: Graph,
    *,
    tensors: Mapping[str, str] | None = None,
    ranks: Mapping[str, str] | None = None,
    prefix: str = "",
) -> Graph:
    """`graph` with tensors and ranks renamed and `prefix` before the operators' names.

    Names that the mappings lack stay. Raises PassError for a name that the graph does not have, or two
    ranks or tensors that would take one name.
    """
    tensors, ranks = tensors or {}, ranks or {}
    for kind, names, known in (("tensor", tensors, graph.tensor_by_name), ("rank", ranks, graph.ranks)):
        if unknown := [name for name in names if name not in known]:
            raise PassError(f"graph {graph.name!r} has no {kind} {unknown[0]!r} to rename")
        renamed = [names.get(name, name) for name in known]
        if twice := [name for name in renamed if renamed.count(name) > 1]:
            raise PassError(f"graph {graph.name!r}: two {kind}s would be named {twice[0]!r}")

    def rank(name: str) -> str:
        return ranks.get(name, name)

    def access(value: Access) -> Access:
        indices = tuple(
            Index(tuple(replace(term, rank=rank(term.rank)) for term in index.terms), index.offset)
            for index in value.indices
        )
        return Access(tensors.get(value.tensor, value.tensor), indices)

    return replace(
        graph,
        rank_sizes=tuple((rank(name), size) for name, size in graph.rank_sizes),
        tensors=tuple(
            replace(t, name=tensors.get(t.name, t.name), ranks=tuple(rank(name) for name in t.ranks))
            for t in graph.tensors
        ),
        operators=tuple(
            replace(
                operator,
                name=prefix + operator.name,
                output=access(operator.output),
                inputs=tuple(access(value) for value in operator.inputs),
                mask=_renamed_mask(operator.mask, rank),
                serial_rank=rank(operator.serial_rank),
            )
            for operator in graph.operators
        ),
        inputs=tuple(tensors.get(name, name) for name in graph.inputs),
        outputs=tuple(tensors.get(name, name) for name in graph.outputs),
    )


def _renamed_mask(mask: Mask | None, rank: Callable[[str], str]) -> Mask | None:
    if mask is None:
        return None
    parts = (tuple(rank(name) for name in names) for names in (mask.rank_parts, mask.of_parts))
    return Mask(rank(mask.rank), rank(mask.of), mask.upper, mask.lower, *parts)


def concat_graphs(name: str, graphs: Iterable[Graph], outputs: tuple[str, ...] | None = None) -> Graph:
    """The graphs one after the other; tensors of one name are one tensor.

    What an earlier graph produces feeds a later one that reads it. Live-in is what none of the earlier
    ones produces; live-out is `outputs`, else every live-out that no later graph reads. Multiply-
    accumulates add up. Raises PassError where a rank or a tensor of one name differs, a tensor is
    produced twice or after it is read, or an operator's name repeats.
    """
    ranks: dict[str, int | Profile] = {}
    tensors: dict[str, Tensor] = {}
    operators: dict[str, Operator] = {}
    inputs: dict[str, None] = {}
    ends: dict[str, None] = {}
    for graph in graphs:
        for rank, size in graph.rank_sizes:
            if ranks.setdefault(rank, size) != size:
                raise PassError(f"rank {rank!r} is {ranks[rank]} and in {graph.name!r} {size}")
        for tensor in graph.tensors:
            if tensors.setdefault(tensor.name, tensor) != tensor:
                raise PassError(f"tensor {tensor.name!r} of {graph.name!r} differs from an earlier one")
        produced = {operator.output.tensor for operator in operators.values()}
        if late := [made for made in graph.producer if made in inputs or made in produced]:
            raise PassError(f"tensor {late[0]!r} of {graph.name!r} is read or produced by an earlier graph")
        for operator in graph.operators:
            if operators.setdefault(operator.name, operator) is not operator:
                raise PassError(
                    f"operator {operator.name!r} of {graph.name!r} has the name of an earlier one"
                )
        inputs.update(dict.fromkeys(read for read in graph.inputs if read not in produced))
        ends = {end: None for end in ends if end not in graph.inputs}
        ends.update(dict.fromkeys(graph.outputs))
    live_out = tuple(ends) if outputs is None else outputs
    return Graph(
        name,
        tuple(ranks.items()),
        tuple(tensors.values()),
        tuple(operators.values()),
        tuple(inputs),
        live_out,
    )


def prune_dead(graph: Graph) -> Graph:
    """`graph` without operators that no live-out needs, and without tensors and live-ins left unread.

    Live-outs and the operators that they need stay as they are; ranks that nothing names go.
    """
    needed, grew = set(graph.outputs), True
    while grew:  # more than one round only where a step reads what a later one wrote before
        size = len(needed)
        for operator in reversed(graph.operators):
            if operator.output.tensor in needed:
                needed |= {access.tensor for access in operator.inputs}
        grew = len(needed) > size
    operators = tuple(operator for operator in graph.operators if operator.output.tensor in needed)
    return _with_operators(graph, operators, keep=graph.outputs)


def _with_operators(graph: Graph, operators: tuple[Operator, ...], keep: tuple[str, ...]) -> Graph:
    """`graph` with these operators and only the tensors, live-ins and ranks that they or `keep` name."""
    named = set(keep)
    ranks: set[str] = set()
    for operator in operators:
        named |= {access.tensor for access in (*operator.inputs, operator.output)}
        ranks |= set(operator.ranks)
        if mask := operator.mask:
            ranks |= {mask.rank, mask.of}
    tensors = tuple(tensor for tensor in graph.tensors if tensor.name in named)
    ranks |= {rank for tensor in tensors for rank in tensor.ranks}
    return replace(
        graph,
        rank_sizes=tuple((rank, size) for rank, size in graph.rank_sizes if rank in ranks),
        tensors=tensors,
        operators=operators,
        inputs=tuple(name for name in graph.inputs if name in named),
    )
