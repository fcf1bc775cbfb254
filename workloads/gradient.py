"""Differentiating a layer's graph: the graph of its backward pass.

Each operator that leads from a tensor that needs a gradient to the layer's outputs gets one operator per
such input. A contraction's is a contraction over the same points; a gradient that several readers
contribute to is the sum of their contributions. A softmax, which the forward pass computes in four
operators, has a gradient of its own that reads nothing but its result; a recurrence of one operator has
one that runs from the last step to the first.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind, Operator
from tilewright.dataflow.tensor import Role, Tensor
from tilewright.workloads.derivative import read_for


class GradientError(ValueError):
    """The layer cannot be differentiated; the message names the operator."""


#: An operator with this parameter passes no gradient on.
DETACHED = "detached"
#: One with this parameter has the gradients of all its inputs computed, needed or not.
ALL_GRADIENTS = "all_gradients"
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
    have the type `dtype`. None where no output depends on a source. Raises GradientError for a recurrence
    that goes through several operators.
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


@dataclass(frozen=True, slots=True)
class _Softmax:
    """The operators of a softmax: exponents of scores, their sum, the shares; with a sink, its score."""

    shares: Operator
    exponents: Operator
    total: Operator
    inner: frozenset[str]  # operators whose gradients the one of the whole stands for


@dataclass
class _Backward:
    graph: Graph
    needs: frozenset[str]
    dtype: str
    operators: list[Operator] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    parts: dict[str, list[tuple[str, Access]]] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)

    def receive(self, tensor: str) -> None:
        """The gradient of a live-out tensor comes in."""
        ranks = self.graph.tensor_by_name[tensor].ranks
        name = self._tensor(f"d_{tensor}_in", ranks)
        self.inputs.append(name)
        self.parts.setdefault(tensor, []).append((name, Access.of(tensor, *ranks)))

    def pass_through(self, operator: Operator) -> None:
        """Add the operators from the gradient of an operator's output to those of its inputs."""
        if operator.name in self.done:
            return
        past = [access for access in operator.inputs if self._is_past(operator, access)]
        if past and (len(past) > 1 or past[0].tensor != operator.output.tensor):
            raise GradientError(f"the recurrence {operator.name!r} cannot be differentiated")
        gradient = self._gradient(operator.output.tensor)
        if gradient is None:
            return
        if softmax := _softmax_of(self.graph, operator):
            self.done |= softmax.inner
            self._through_softmax(softmax, Access(gradient, operator.output.indices))
            return
        if past:
            gradient = self._run_back(operator, past[0], gradient)
        above = Access(gradient, operator.output.indices)
        computes_all = ALL_GRADIENTS in dict(operator.parameters)
        for position, access in enumerate(operator.inputs):
            if (access.tensor in self.needs or computes_all) and access not in past:
                self._contribute(operator, position, access, above)

    def _is_past(self, operator: Operator, access: Access) -> bool:
        """Whether an input is what an earlier step of the operator's recurrence wrote."""
        producer = self.graph.producer.get(access.tensor)
        in_loop = producer is not None and producer.serial_rank == operator.serial_rank
        return in_loop and operator.steps_back(access) > 0

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

    def _tensor(self, name: str, ranks: tuple[str, ...]) -> str:
        self.tensors[name] = Tensor(name, ranks, self.dtype, Role.GRADIENT)
        return name

    def _contribute(self, operator: Operator, position: int, access: Access, above: Access) -> None:
        """One reader's share of the gradient of what it reads, over the ranks that it reads it by."""
        name = self._tensor(f"d_{access.tensor}_{operator.name}_{position}", access.ranks)
        if operator.kind is Kind.SCATTER:
            above = _slot(above, access)
        read = read_for(self.graph, operator, position)
        if operator.kind is Kind.CONTRACTION:
            kind, function, reduce = Kind.CONTRACTION, "mul", "sum"
        else:
            over = {rank for one in (above, *read) for rank in one.ranks} - set(access.ranks)
            reduce = "sum" if over else ""
            kind = Kind.REDUCTION if reduce else Kind.POINTWISE
            function = f"{operator.reduce or operator.function}_grad"
        self.operators.append(
            Operator(
                f"{operator.name}_backward_{position}", kind, Access.of(name, *access.ranks), (above, *read),
                function=function, reduce=reduce, group=operator.group, mask=operator.mask,
                repeat=operator.repeat,
            )
        )  # fmt: skip
        self.parts.setdefault(access.tensor, []).append((name, access))

    def _through_softmax(self, softmax: _Softmax, above: Access) -> None:
        """d_scores = shares * (d_shares - sum of d_shares * shares); a sink's is less its share of the sum."""
        shares, scores = softmax.shares, softmax.exponents.inputs[0]
        rows = softmax.total.output
        dot = Access(self._tensor(f"d_{shares.output.tensor}_dot", rows.ranks), rows.indices)
        whole = Operator(
            f"{shares.name}_backward_dot", Kind.REDUCTION, dot, (above, shares.output), "mul", "sum",
            group=shares.group, mask=shares.mask, repeat=shares.repeat,
        )  # fmt: skip
        self.operators.append(whole)
        if scores.tensor in self.needs:
            name = self._tensor(f"d_{scores.tensor}_{shares.name}", scores.ranks)
            self.operators.append(
                replace(
                    whole, name=f"{shares.name}_backward", kind=Kind.POINTWISE, function="softmax_grad",
                    output=Access.of(name, *scores.ranks), inputs=(above, shares.output, dot), reduce="",
                )
            )  # fmt: skip
            self.parts.setdefault(scores.tensor, []).append((name, scores))
        if softmax.total.function == "exp_add" and softmax.total.inputs[1].tensor in self.needs:
            self._into_sink(softmax, dot)

    def _into_sink(self, softmax: _Softmax, dot: Access) -> None:
        total, sink = softmax.total, softmax.total.inputs[1]
        name = self._tensor(f"d_{sink.tensor}_{total.name}", sink.ranks)
        inputs = (dot, *total.inputs[1:], total.output)
        self.operators.append(
            Operator(
                f"{total.name}_backward", Kind.REDUCTION, Access.of(name, *sink.ranks), inputs,
                "softmax_grad", "sum", group=total.group, repeat=total.repeat,
            )
        )  # fmt: skip
        self.parts.setdefault(sink.tensor, []).append((name, sink))

    def _run_back(self, operator: Operator, past: Access, gradient: str) -> str:
        """The gradient of a recurrence's result with what the step behind hands back; returns its tensor.

        d[step] = gradient[step] + d[step + 1] * (the derivative by the past, at step + 1).
        """
        output, serial = operator.output, operator.serial_rank
        back = operator.steps_back(past)
        name = self._tensor(f"d_{output.tensor}_carried", self.graph.tensor_by_name[output.tensor].ranks)
        read = read_for(self.graph, operator, operator.inputs.index(past))
        behind = tuple(_moved(access, serial, back) for access in (Access(name, output.indices), *read))
        inputs = (behind[0], Access(gradient, output.indices), *behind[1:])
        self.operators.append(
            Operator(
                f"{operator.name}_backward", Kind.SCAN, Access(name, output.indices), inputs,
                f"{operator.function}_grad", group=operator.group, repeat=operator.repeat,
                serial_rank=serial, parameters=(("init_0", 0.0),), descending=not operator.descending,
            )
        )  # fmt: skip
        return name

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
        name = self._tensor(f"d_{tensor}{suffix}", self.graph.tensor_by_name[tensor].ranks)
        operator = f"{tensor}_gradient{suffix}"
        output = Access(name, where.indices)
        self.operators.append(Operator(operator, kind, output, terms, "add", "sum", group="gradient"))
        return name


def _softmax_of(graph: Graph, operator: Operator) -> _Softmax | None:
    """The softmax that ends in `operator`, if it divides exponents that nothing else reads by their sum."""
    if operator.function != "div" or operator.kind is not Kind.POINTWISE:
        return None
    exponents, total = (graph.producer.get(access.tensor) for access in operator.inputs[:2])
    if exponents is None or total is None or exponents.function != "exp" or len(exponents.inputs) != 2:
        return None
    inner = {exponents.name, total.name}
    sums = total
    if total.function == "exp_add":  # the exponent of a sink, which takes a share too
        sums = graph.producer[total.inputs[0].tensor]
        inner.add(sums.name)
    if sums.reduce != "sum" or sums.inputs != (exponents.output,):
        return None
    readers = {reader.name for reader in graph.consumers[exponents.output.tensor]}
    if readers != {sums.name, operator.name}:
        return None
    top = graph.producer.get(exponents.inputs[1].tensor)
    while top is not None and (top.reduce == "max" or top.function == "max"):
        inner.add(top.name)  # a shift of the scores, which no share depends on
        top = graph.producer.get(top.inputs[0].tensor)
    return _Softmax(operator, exponents, total, frozenset(inner))


def _slot(above: Access, source: Access) -> Access:
    """Where a scatter puts `source`: at a constant index where no rank of it decides the place."""
    known = set(source.ranks)
    return replace(
        above,
        indices=tuple(
            index if not index.terms or known & {term.rank for term in index.terms} else Index()
            for index in above.indices
        ),
    )


def _moved(access: Access, rank: str, steps: int) -> Access:
    """The access as many steps along a rank further on."""
    term = IndexTerm(rank)
    return replace(
        access,
        indices=tuple(
            replace(index, offset=index.offset + steps) if term in index.terms else index
            for index in access.indices
        ),
    )
