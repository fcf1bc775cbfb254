"""Merging adapters: W' = W + scale * B A ahead of time, so that the adapter costs nothing at run time."""

from dataclasses import replace

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Kind, Operator
from tilewright.dataflow.passes import PassError, prune_dead
from tilewright.dataflow.tensor import Role

#: The group of an adapter's operators.
ADAPTER_GROUP = "adapter"

_SUMS = ("add", "scale_add")
_LINEAR_POINTWISE = (*_SUMS, "identity", "dropout", "scale")


def has_adapters(graph: Graph) -> bool:
    """Whether an operator of the graph belongs to an adapter that is kept apart."""
    return any(operator.group == ADAPTER_GROUP for operator in graph.operators)


def merge_adapters(graph: Graph) -> Graph:
    """`graph` with every adapter folded into the weight of the operator that it changes.

    An adapter merges if it is linear (contractions, row gathers, sums and factors), starts from what its
    base operator reads, and is added to what that operator writes; a bias of its own needs a bias
    behind the base. The operators of other groups, their multiply-accumulates, the weights and their
    shapes, and the live-outs stay as they were; the adapters' operators and tensors are gone.
    Without adapters the graph is returned as it is.

    Raises PassError, which names the operator, for an adapter that cannot be merged.
    """
    adapters = {operator.name for operator in graph.operators if operator.group == ADAPTER_GROUP}
    if not adapters:
        return graph
    base_of: dict[str, str] = {}  # result of a merged adapter -> result of its base operator
    for operator in graph.operators:
        if operator.name in adapters and _leaves(graph, operator, adapters):
            base_of[operator.output.tensor] = _base(graph, operator, adapters, base_of)
    renamed = {base_of[name]: name for name in graph.outputs if name in base_of}
    kept = []
    for operator in graph.operators:
        if operator.name not in adapters:
            inputs = tuple(_redirected(access, base_of, renamed) for access in operator.inputs)
            output = _redirected(operator.output, {}, renamed)
            kept.append(replace(operator, inputs=inputs, output=output))
    return prune_dead(
        replace(
            graph,
            operators=tuple(kept),
            tensors=tuple(t for t in graph.tensors if t.name not in renamed),
        )
    )


def _redirected(access: Access, base_of: dict[str, str], renamed: dict[str, str]) -> Access:
    name = base_of.get(access.tensor, access.tensor)
    return Access(renamed.get(name, name), access.indices)


def _leaves(graph: Graph, operator: Operator, adapters: set[str]) -> bool:
    """Whether the adapter's result goes on to operators that are none of an adapter, or is live-out.

    A sum that a next adapter adds to (several adapters on one module) leaves as well.
    """
    name = operator.output.tensor
    readers = graph.consumers[name]
    outside = any(reader.name not in adapters for reader in readers)
    return outside or name in graph.outputs or (_is_result(graph, operator, adapters) and bool(readers))


def _is_result(graph: Graph, operator: Operator, adapters: set[str]) -> bool:
    """Whether the operator adds to what an operator of another group made."""
    producers = [graph.producer.get(access.tensor) for access in operator.inputs]
    return operator.function in _SUMS and any(p is not None and p.name not in adapters for p in producers)


def _base(graph: Graph, result: Operator, adapters: set[str], base_of: dict[str, str]) -> str:
    """The tensor that `result` adds an adapter to. Raises PassError if that sum is no merge."""
    if result.kind is not Kind.POINTWISE or result.function not in _SUMS:
        raise PassError(
            f"adapter operator {result.name!r} ({result.function}) is no sum with a base operator"
        )
    bases: list[Access] = []
    terms: list[Access] = []
    for access in result.inputs:
        producer = graph.producer.get(access.tensor)
        is_base = access.tensor in base_of or (producer is not None and producer.name not in adapters)
        (bases if is_base else terms).append(access)
    if len(bases) != 1:
        raise PassError(
            f"adapter operator {result.name!r} adds to {len(bases)} results of base operators, not 1"
        )
    base = base_of.get(bases[0].tensor, bases[0].tensor)
    if bases[0].indices != result.output.indices:
        raise PassError(f"adapter operator {result.name!r} reads its base at other indices than it writes")
    if readers := [r for r in graph.consumers[bases[0].tensor] if r.name != result.name]:
        raise PassError(f"{bases[0].tensor!r} is read without its adapter by {readers[0].name!r}")
    operator = graph.producer[base]
    weights = [
        access for access in operator.inputs if graph.tensor_by_name[access.tensor].role is Role.WEIGHT
    ]
    if operator.kind not in (Kind.CONTRACTION, Kind.GATHER) or not weights:
        raise PassError(f"adapter operator {result.name!r} adds to {operator.name!r}, which has no weight")
    sources = {access for access in operator.inputs if access not in weights}
    for term in terms:
        _check_term(graph, term, result, sources, adapters)
    return base


def _check_term(
    graph: Graph, term: Access, result: Operator, sources: set[Access], adapters: set[str]
) -> None:
    """Raises PassError unless `term` is linear in what the base operator reads, or a bias."""
    producer = graph.producer.get(term.tensor)
    if producer is None:
        _check_bias(graph, term, result)
        return
    if producer.kind is Kind.POINTWISE:
        if producer.function not in _LINEAR_POINTWISE and not _scales(producer):
            raise PassError(f"adapter operator {producer.name!r} ({producer.function}) is not linear")
    elif producer.kind not in (Kind.CONTRACTION, Kind.GATHER):
        raise PassError(f"adapter operator {producer.name!r} ({producer.kind.value}) is not linear")
    followed = 0
    for access in producer.inputs:
        inner = graph.producer.get(access.tensor)
        if access in sources:
            followed += 1
        elif inner is not None and inner.name in adapters:
            _check_term(graph, access, result, sources, adapters)
            followed += 1
        elif graph.tensor_by_name[access.tensor].role is not Role.ADAPTER:
            raise PassError(f"adapter operator {producer.name!r} reads {access.tensor!r}, its base does not")
    many = followed != 1 and producer.function not in _SUMS
    if many and producer.kind is not Kind.GATHER:
        raise PassError(f"adapter operator {producer.name!r} is not linear: it multiplies {followed} results")


def _scales(operator: Operator) -> bool:
    """Whether the operator multiplies by a number, or by a tensor of the adapter elementwise."""
    return operator.function in ("mul", "div") and dict(operator.parameters).get("right") is not None


def _check_bias(graph: Graph, term: Access, result: Operator) -> None:
    """An adapter's own bias merges into the one that is added behind the base."""
    bias = graph.tensor_by_name[term.tensor]
    for reader in graph.consumers[result.output.tensor]:
        for access in reader.inputs if reader.function == "add" else ():
            other = graph.tensor_by_name[access.tensor]
            if other.role is Role.WEIGHT and other.ranks == bias.ranks:
                return
    raise PassError(
        f"adapter operator {result.name!r}: bias {bias.name!r} finds no bias of the base to merge into"
    )
