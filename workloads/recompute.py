"""Computing activations again in the backward pass instead of keeping them."""

from collections.abc import Callable
from dataclasses import replace

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Kind, Operator
from tilewright.workloads.policy import Recompute

#: What the names of operators that run once more begin with.
AGAIN = "again_"


def recomputed(forward: Graph, backward: Graph, policy: Recompute) -> Graph:
    """`backward` behind those operators of `forward` that make what it reads and is not kept."""
    again = _AGAIN[policy]
    wanted = {name for name in backward.inputs if name in forward.producer}
    chosen: list[Operator] = []
    for operator in reversed(forward.operators):
        if operator.output.tensor in wanted and again(operator):
            chosen.insert(0, operator)
            wanted |= {access.tensor for access in operator.inputs}
    made = {operator.output.tensor for operator in chosen}
    read = {access.tensor for operator in chosen for access in operator.inputs}
    declared = {tensor.name for tensor in backward.tensors}
    tensors = tuple(t for t in forward.tensors if t.name in made | read and t.name not in declared)
    inputs = dict.fromkeys(name for name in backward.inputs if name not in made)
    inputs |= dict.fromkeys(t.name for t in forward.tensors if t.name in read and t.name not in made)
    return replace(
        backward,
        tensors=(*tensors, *backward.tensors),
        operators=(*(replace(op, name=AGAIN + op.name) for op in chosen), *backward.operators),
        inputs=tuple(inputs),
    )


def _is_square(operator: Operator) -> bool:
    """Whether it goes over pairs of queries and keys and is no mixing of values, whose result is small."""
    pairs = "m" in operator.ranks and bool({"n", "l"} & set(operator.ranks))
    mixes = operator.kind is Kind.CONTRACTION and not {"n", "l"} & set(operator.output.ranks)
    return pairs and not mixes


_AGAIN: dict[Recompute, Callable[[Operator], bool]] = {
    "none": lambda _: False,
    "layer": lambda _: True,
    "attention": _is_square,
}
