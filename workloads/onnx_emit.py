"""Emitting a stretch of operators as a graph: names of ranks and tensors, index expressions, live-in and live-out."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Index, IndexTerm, Mask, Operator
from tilewright.dataflow.tensor import Tensor
from tilewright.workloads.onnx_builder import Builder, IrOperator, MaskOf, Read
from tilewright.workloads.onnx_ranks import Atom, Dim, Item
from tilewright.workloads.precision import Precision

_MAX_NAME = 60


class GraphEmitter:
    """Makes graphs of stretches of a builder's operators."""

    def __init__(
        self,
        builder: Builder,
        outputs: Sequence[str],
        names: Mapping[str, str],
        precision: Precision,
        lowering: str,
    ) -> None:
        """`names` are those of live-in tensors of the model."""
        self.builder = builder
        self.precision = precision
        self.lowering = lowering
        self.input_names = names
        self._outputs = tuple(dict.fromkeys(outputs))
        self._made_at = {operator.output: place for place, operator in enumerate(builder.operators)}
        self._last_read: dict[str, int] = {}
        for place, operator in enumerate(builder.operators):
            for read in operator.reads:
                self._last_read[read.view.tensor] = place
        for name in self._outputs:
            self._last_read[name] = len(builder.operators)
        steps = np.zeros(len(builder.operators) + 2, dtype=np.int64)
        for name, made in self._made_at.items():
            steps[made + 1] += 1
            steps[max(made, self._last_read.get(name, made)) + 1] -= 1
        self._crossing = np.cumsum(steps)  # by cut: computed tensors that are made before and read behind it

    def labels(self, first: int, period: int) -> list[str]:
        """The labels of a stretch's operators, the numbers of layers left out."""
        return [label_of(operator.label) for operator in self.builder.operators[first : first + period]]

    def best_cut(self, first: int, length: int, period: int) -> int:
        """How far to shift the cuts between layers so that the fewest computed tensors cross one.

        Shifts that keep the number of layers come before others.
        """
        spare = length % period
        crossing = []
        for shift in range(min(period, length - period + 1)):
            loses = shift > spare
            price = int(loses) if length >= 3 * period else 2 * loses
            crossing.append((int(self._crossing[first + shift + period]) + price, shift))
        return min(crossing)[1]

    def graph(self, name: str, first: int, period: int, labels: Sequence[str] | None = None) -> Graph:
        """The graph of `period` operators from `first` on; `labels` are those of an equal stretch."""
        stretch = _Stretch(self, first, first + period, labels or self.labels(first, period))
        return stretch.graph(name)

    def leaves_later(self, tensor: str, end: int) -> bool:
        """Whether a tensor is read behind `end`, or leaves the graph."""
        return self._last_read.get(tensor, -1) >= end

    @property
    def outputs(self) -> tuple[str, ...]:
        return self._outputs


class _Stretch:
    """The graph of some consecutive operators, being built."""

    def __init__(self, emitter: GraphEmitter, first: int, end: int, labels: Sequence[str]) -> None:
        self._emitter = emitter
        self._builder = emitter.builder
        self._operators = emitter.builder.operators[first:end]
        self._labels, self._end = labels, end
        self._sizes: dict[str, int] = {}
        self._rank_of_class: dict[int, str] = {}
        self._tensors: dict[str, Tensor] = {}  # by the builder's name
        self._used: set[str] = set()
        self._inputs: list[str] = []

    def graph(self, name: str) -> Graph:
        produced = {operator.output for operator in self._operators}
        names = self._operator_names()
        emitted = []
        for operator, own in zip(self._operators, names, strict=True):
            for number, read in enumerate(operator.reads):
                if read.view.tensor not in produced:
                    self._declare_input(read.view.tensor, own, number)
            self._declare(operator.output, f"{own}_out")
            emitted.append(self._operator(operator, own))
        leaving = [
            operator.output
            for operator in self._operators
            if self._emitter.leaves_later(operator.output, self._end)
        ]
        passed = [
            tensor for tensor in self._tensors if tensor in self._emitter.outputs and tensor not in produced
        ]
        first = [tensor for tensor in self._emitter.outputs if tensor in leaving or tensor in passed]
        outputs = dict.fromkeys((*first, *leaving))
        return Graph(
            name, tuple(self._sizes.items()), tuple(self._tensors.values()), tuple(emitted), tuple(self._inputs),
            tuple(self._tensors[tensor].name for tensor in outputs),
        )  # fmt: skip

    def _operator_names(self) -> list[str]:
        """Names of the operators: labels, with a number where several have one."""
        seen: dict[str, int] = {}
        names = []
        for label in self._labels:
            number = seen.get(label, 0)
            seen[label] = number + 1
            name = f"{label}_{number}" if number else label
            while name in names:
                name += "_"
            names.append(name)
        return names

    def _declare_input(self, tensor: str, operator: str, number: int) -> None:
        if tensor in self._tensors:
            return
        ir = self._builder.tensors[tensor]
        if ir.constant:
            hint = f"{operator}_weight" if number else f"{operator}_constant"
        else:
            hint = self._emitter.input_names.get(tensor) or "x"
        self._declare(tensor, hint)
        self._inputs.append(self._tensors[tensor].name)

    def _declare(self, tensor: str, hint: str) -> None:
        ir = self._builder.tensors[tensor]
        name, number = hint, 1
        while name in self._used:
            name, number = f"{hint}_{number}", number + 1
        self._used.add(name)
        precision = self._emitter.precision
        dtype = precision.accumulators if ir.wide else precision.dtype(ir.role)
        ranks: list[str] = []
        for atom in ir.atoms:
            for leaf in self._builder.classes.leaves(atom):
                ranks.append(self._rank(leaf, ranks))
        self._tensors[tensor] = Tensor(name, tuple(ranks), dtype, ir.role)

    def _rank(self, leaf: int, taken: Sequence[str]) -> str:
        """The name of a class as a rank, another one of its names where it is taken."""
        base = self._rank_of_class.setdefault(leaf, f"r{len(self._rank_of_class)}")
        name, number = base, 1
        while name in taken:
            name, number = f"{base}_{number}", number + 1
        self._sizes.setdefault(name, self._builder.classes.size_of_class(leaf))
        return name

    def _operator(self, operator: IrOperator, name: str) -> Operator:
        tensor, builder = self._builder.tensors[operator.output], self._builder
        named: dict[tuple[int, int], str] = {}
        ranks = list(self._tensors[operator.output].ranks)
        place = 0
        own = None if operator.items is None else {id(i.atom) for i in operator.items if i.terms is None}
        taken: list[str] = []
        for atom in tensor.atoms:
            n_leaves = len(builder.classes.leaves(atom))
            if own is None or id(atom) in own:
                for number in range(n_leaves):
                    named[id(atom), number] = ranks[place + number]
                    taken.append(ranks[place + number])
            place += n_leaves
        for atom in operator.extra:
            for number, leaf in enumerate(builder.classes.leaves(atom)):
                taken.append(self._rank(leaf, taken))
                named[id(atom), number] = taken[-1]
        items = operator.items or tuple(Item(atom) for atom in tensor.atoms)
        output = Access(self._tensors[operator.output].name, self._indices(items, named, {}))
        inputs = tuple(self._access(read, named) for read in operator.reads)
        return Operator(
            name, operator.kind, output, inputs, function=operator.function, reduce=operator.reduce,
            group=operator.group, mask=self._mask(operator.mask, named),
            parameters=operator.parameters,
        )  # fmt: skip

    def _access(self, read: Read, named: dict[tuple[int, int], str]) -> Access:
        own: dict[tuple[int, int], str] = {}
        for view_dim, dim in read.pairs:
            own.update(self._paired(view_dim, dim, named))
        moved: dict[int, tuple[tuple[IndexTerm, ...], int]] = {}
        for atom, terms, offset in read.moved:
            moved[id(atom)] = self._terms(terms, named), offset
        return Access(self._tensors[read.view.tensor].name, self._indices(read.view.items, own, moved))

    def _paired(
        self, view_dim: Dim, dim: Dim, named: dict[tuple[int, int], str]
    ) -> dict[tuple[int, int], str]:
        """The names of a view's ranks, from those of the operator's; ranks of size 1 may have no partner."""
        classes = self._builder.classes
        a = [((id(atom), n), leaf) for atom in view_dim for n, leaf in enumerate(classes.leaves(atom))]
        b = [((id(atom), n), leaf) for atom in dim for n, leaf in enumerate(classes.leaves(atom))]
        found = {}
        while a and b:
            (key, x), (other, y) = a[-1], b[-1]
            if classes.size_of_class(x) == classes.size_of_class(y):
                if other in named:
                    found[key] = named[other]
                a.pop()
                b.pop()
            elif classes.size_of_class(x) == 1:
                a.pop()
            else:
                assert classes.size_of_class(y) == 1, (
                    "dimensions that are read together are one product of ranks"
                )
                b.pop()
        return found

    def _terms(
        self, terms: Sequence[tuple[Atom, int]], named: dict[tuple[int, int], str]
    ) -> tuple[IndexTerm, ...]:
        """coefficient * atom, for each rank that the atom is a product of."""
        classes = self._builder.classes
        found: list[IndexTerm] = []
        for atom, coefficient in terms:
            leaves = classes.leaves(atom)
            for number in reversed(range(len(leaves))):
                name = named.get((id(atom), number))
                if name is not None:
                    found.append(IndexTerm(name, coefficient))
                coefficient *= classes.size_of_class(leaves[number])
        return tuple(found)

    def _indices(
        self,
        items: Sequence[Item],
        named: dict[tuple[int, int], str],
        moved: dict[int, tuple[tuple[IndexTerm, ...], int]],
    ) -> tuple[Index, ...]:
        """One index expression per rank of the tensor."""
        found: list[Index] = []
        classes = self._builder.classes
        for item in items:
            leaves = classes.leaves(item.atom)
            source = item.atom
            if item.terms is not None and len(item.terms) == 1 and item.terms[0][1] == 1 and item.offset == 0:
                source = item.terms[0][0] if len(classes.leaves(item.terms[0][0])) == len(leaves) else source
            if id(source) in moved:
                terms, offset = moved[id(source)]
                found.append(Index(terms, offset))
            elif item.terms is None or source is not item.atom:
                for number in range(len(leaves)):
                    name = named.get((id(source), number))
                    found.append(Index() if name is None else Index.of(name))
            elif not item.terms:
                found += self._constant(leaves, item.offset)
            else:
                found.append(Index(self._terms(item.terms, named), item.offset))
        return tuple(found)

    def _constant(self, leaves: list[int], position: int) -> list[Index]:
        """A constant position along a product of ranks."""
        found: list[Index] = []
        for leaf in reversed(leaves):
            size = self._builder.classes.size_of_class(leaf)
            found.insert(0, Index(offset=position % size))
            position //= size
        return found

    def _mask(self, mask: MaskOf | None, named: dict[tuple[int, int], str]) -> Mask | None:
        """The mask over an operator's ranks in the hardware's lowering, where keys and queries are one rank each."""
        if mask is None or self._emitter.lowering == "reference":
            return None
        found = []
        for dim in (mask.keys, mask.queries):
            leaves = [(id(atom), n) for atom in dim for n, _ in enumerate(self._builder.classes.leaves(atom))]
            names = [named[leaf] for leaf in leaves if leaf in named]
            names = [name for name in names if self._sizes[name] > 1] or names
            if len(names) != 1:
                return None
            found.append(names[0])
        return Mask(found[0], found[1], mask.band.upper, mask.band.lower)


def label_of(path: str) -> str:
    """A parameter's path, or an operator's type, as a word: what is behind the number of a layer."""
    parts = [part for part in re.split(r"[./:]+", path) if part]
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    behind = parts[numbers[-1] + 1 :] if numbers else parts[-2:]
    kept = [re.sub(r"^(weight|bias)(_|$)", "", part) for part in behind]
    words = [part for part in kept if part] or [part for part in parts if not part.isdigit()][-2:-1]
    text = re.sub(r"\W+", "_", "_".join(words))
    return text[:_MAX_NAME].strip("_").lower() or "operator"
