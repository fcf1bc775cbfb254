"""Products with weights that the data picks (mixtures of experts): grouped by what is picked."""

from dataclasses import replace
from functools import lru_cache
from math import prod

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Index, Kind, Operator
from tilewright.dataflow.tensor import Role, Tensor

Aliases = tuple[tuple[str, str], ...]


@lru_cache(maxsize=256)
def with_grouped_picks(graph: Graph) -> tuple[Graph, Aliases]:
    """`graph` with every product by picked weights as one product per weight that is picked, and aliases.

    y[picks, n] = x[.., k] w[picked, k, n] becomes one of all rows that pick the same weights: `min(weights,
    picks)` of them are picked, each by equally many rows (rounded up), so each is read once. Rows are read from
    and written to their places, which the product sees as tensors of its own: an alias (a, b) says that a is in
    memory when b is.
    """
    tensors, operators, inputs = list(graph.tensors), [], list(graph.inputs)
    sizes, aliases = list(graph.rank_sizes), []
    for operator in graph.operators:
        if not _is_picked(graph, operator):
            operators.append(operator)
            continue
        x, w, chosen = operator.inputs
        picked = next(i for i, index in enumerate(w.indices) if not index.terms)
        n_picks = prod(graph.size(rank) for rank in chosen.ranks)
        n_groups = min(graph.size(graph.tensor_by_name[w.tensor].ranks[picked]), n_picks)
        group, row = f"{operator.name}_group", f"{operator.name}_row"
        sizes += [(group, n_groups), (row, -(-n_picks // n_groups))]
        views = []
        for access in (x, operator.output):
            ranks = (group, row, *(rank for rank in access.ranks if rank not in chosen.ranks))
            name = f"{access.tensor}_of_{operator.name}"
            known = graph.tensor_by_name[access.tensor]
            tensors.append(Tensor(name, ranks, known.dtype, known.role))
            views.append(Access.of(name, *ranks))
        indices = (*w.indices[:picked], Index.of(group), *w.indices[picked + 1 :])
        operators.append(replace(operator, output=views[1], inputs=(views[0], Access(w.tensor, indices))))
        inputs += [views[0].tensor, operator.output.tensor]
        aliases += [(views[0].tensor, x.tensor), (operator.output.tensor, views[1].tensor)]
    if not aliases:
        return graph, ()
    grouped = replace(
        graph,
        rank_sizes=tuple(sizes),
        tensors=tuple(tensors),
        operators=tuple(operators),
        inputs=tuple(inputs),
    )
    return grouped, tuple(aliases)


def _is_picked(graph: Graph, operator: Operator) -> bool:
    """Whether the last of three inputs only says which of the second one's weights a row meets."""
    if operator.kind is not Kind.CONTRACTION or len(operator.inputs) != 3 or operator.mask is not None:
        return False
    x, w, chosen = operator.inputs
    rows = set(chosen.ranks)
    constant = [index for index in w.indices if not index.terms]
    plain = all(index == Index.of(index.terms[0].rank) for a in (x, w) for index in a.indices if index.terms)
    return (
        graph.tensor_by_name[chosen.tensor].role is Role.INDEX
        and len(constant) == 1
        and plain
        and rows <= set(operator.output.ranks)
        and not rows & set(w.ranks)
        and set(x.ranks) - rows == set(operator.reduced_ranks)
    )
