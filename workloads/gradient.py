"""Differentiating a layer's graph: the graph of its backward pass.

Each operator that leads from a tensor that needs a gradient to the layer's outputs gets one operator per
such input. A contraction's is a contraction over the same points; a gradient that several readers
contribute to is the sum of their contributions.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Index, Kind, Operator
from tilewright.dataflow.tensor import Role, Tensor


class GradientError(ValueError):
    """The layer cannot be differentiated; the message names the operator."""


#: An operator with this parameter passes no gradient on.
DETACHED = "detached"
#: Functions whose derivative does not depend on the inputs, so that none is kept for it.
_LINEAR_FUNCTIONS = frozenset({"add", "identity", "scale", "resize", "scale_add", "rotary"})
_NO_DERIVATIVE = frozenset({Kind.TOPK, Kind.SORT})


def needing_gradients(graph: Graph, sources: Iterable[str]) -> frozenset[str]:
    """The tensors that depend on `sources` through operators with a derivative, sources included."""
    needs = set(sources)
    for operator in graph.operators:
        if operator.kind in _NO_DERIVATIVE or DETACHED in dict(operator.parameters):
            continue
        if any(access.tensor in needs for access in operator.inputs):
            needs.add(operator.output.tensor)
    return frozenset(needs)


def differentiate(graph: Graph, sources: tuple[str, ...], dtype: str) -> Graph | None:
    """The backward pass of `graph` for gradients of the live-in tensors `sources`.

    Live-in: gradients `d_<output>`, and what the forward pass keeps. Live-out: `d_<source>`. Gradients
    have the type `dtype`. None where no output depends on a source. Raises GradientError for a recurrence.
    """
    needs = needing_gradients(graph, sources)
    backward = _Backward(graph, needs, dtype)
    outputs = [name for name in graph.outputs if name in needs and name in graph.producer]
    for name in outputs:
        backward.receive(name)
    for operator in reversed(graph.operators):
        if operator.output.tensor in needs:
            backward.pass_through(operator)
    return backward.build(sources)


@dataclass
class _Backward:
    graph: Graph
    needs: frozenset[str]
    dtype: str
    operators: list[Operator] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    parts: dict[str, list[tuple[str, Access]]] = field(default_factory=dict)

    def receive(self, tensor: str) -> None:
        """The gradient of a live-out tensor comes in."""
        name = f"d_{tensor}_in"
        ranks = self.graph.tensor_by_name[tensor].ranks
        self.tensors[name] = Tensor(name, ranks, self.dtype, Role.GRADIENT)
        self.inputs.append(name)
        self.parts.setdefault(tensor, []).append((name, Access.of(tensor, *ranks)))

    def pass_through(self, operator: Operator) -> None:
        """Add the operators from the gradient of an operator's output to those of its inputs."""
        if operator.serial_rank:
            raise GradientError(f"the recurrence {operator.name!r} cannot be differentiated")
        gradient = self._gradient(operator.output.tensor)
        if gradient is None:
            return
        above = Access(gradient, operator.output.indices)
        for position, access in enumerate(operator.inputs):
            if access.tensor in self.needs:
                self._contribute(operator, position, access, above)

    def build(self, sources: tuple[str, ...]) -> Graph | None:
        results = [found for name in sources if (found := self._gradient(name)) is not None]
        if not results:
            return None
        used = {access.tensor for op in self.operators for access in (*op.inputs, op.output)}
        kept = [tensor for tensor in self.graph.tensors if tensor.name in used]
        tensors = (
            *kept,
            *(tensor for name, tensor in self.tensors.items() if name in used or name in results),
        )
        inputs = (*(t.name for t in kept), *(name for name in self.inputs if name in used or name in results))
        ranks = self.graph.rank_sizes
        return Graph(
            f"{self.graph.name}_backward", ranks, tensors, tuple(self.operators), inputs, tuple(results)
        )

    def _contribute(self, operator: Operator, position: int, access: Access, above: Access) -> None:
        """One reader's share of the gradient of what it reads, over the ranks that it reads it by."""
        name = f"d_{access.tensor}_{operator.name}_{position}"
        others = tuple(other for place, other in enumerate(operator.inputs) if place != position)
        if operator.kind is Kind.CONTRACTION:
            kind, function, reduce, inputs = Kind.CONTRACTION, "mul", "sum", (above, *others)
        else:
            reduce = "sum" if set(above.ranks) - set(access.ranks) else ""
            kind = Kind.REDUCTION if reduce else Kind.POINTWISE
            function = f"{operator.reduce or operator.function}_grad"
            linear = operator.function in _LINEAR_FUNCTIONS and operator.reduce in ("", "sum")
            inputs = (above,) if linear else (above, *operator.inputs)
        self.tensors[name] = Tensor(name, access.ranks, self.dtype, Role.GRADIENT)
        self.operators.append(
            Operator(
                f"{operator.name}_backward_{position}", kind, Access.of(name, *access.ranks), inputs,
                function=function, reduce=reduce, group=operator.group, mask=operator.mask,
                repeat=operator.repeat,
            )
        )  # fmt: skip
        self.parts.setdefault(access.tensor, []).append((name, access))

    def _gradient(self, tensor: str) -> str | None:
        """The whole gradient of a tensor, summed once all its readers have contributed."""
        parts = self.parts.get(tensor)
        if not parts:
            return None
        plain = Access.of(tensor, *self.graph.tensor_by_name[tensor].ranks)
        whole = [part for part, access in parts if access == plain]
        found = whole[0] if len(whole) == 1 else self._sum(tensor, whole) if whole else ""
        for number, (part, access) in enumerate(parts):
            if access != plain:
                found = self._place(tensor, number, part, access, found)
        self.parts[tensor] = [(found, plain)]
        return found

    def _sum(self, tensor: str, parts: list[str]) -> str:
        """The sum of contributions that are laid out as the tensor is."""
        plain = Access.of(tensor, *self.graph.tensor_by_name[tensor].ranks)
        terms = tuple(Access(part, plain.indices) for part in parts)
        return self._add(plain, "", Kind.POINTWISE, terms)

    def _place(self, tensor: str, number: int, part: str, access: Access, found: str) -> str:
        """`found` with a contribution added where its reader reads; the rest of `found` stays in place."""
        terms = [Access.of(part, *self.tensors[part].ranks)]
        if found:
            terms.insert(0, Access(found, tuple(Index() for _ in self.tensors[found].ranks)))
        return self._add(access, f"_{number}", Kind.SCATTER, tuple(terms))

    def _add(self, where: Access, suffix: str, kind: Kind, terms: tuple[Access, ...]) -> str:
        """The terms added into a gradient, laid out as its tensor is, at the place `where` of that."""
        tensor = where.tensor
        name = f"d_{tensor}{suffix}"
        ranks = self.graph.tensor_by_name[tensor].ranks
        self.tensors[name] = Tensor(name, ranks, self.dtype, Role.GRADIENT)
        output = Access(name, where.indices)
        operator = f"{tensor}_gradient{suffix}"
        self.operators.append(Operator(operator, kind, output, terms, "add", "sum", group="gradient"))
        return name
