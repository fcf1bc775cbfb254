"""A cascade with sizes filled in: the operators of a graph."""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from tilewright.dataflow.cascade_index import Affine, Exact, evaluate, named_in
from tilewright.dataflow.cascade_place import TooManyPositionsError, reach, resolve
from tilewright.dataflow.cascade_step import Step, SymbolicAccess
from tilewright.dataflow.cascade_syntax import Expr, Place
from tilewright.dataflow.errors import InputError, nearest
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Index, Kind, Mask, Operator
from tilewright.dataflow.tensor import DTYPE_BITS, Role, Tensor

if TYPE_CHECKING:
    from tilewright.dataflow.cascade import Cascade

DEFAULT_DTYPE, INDEX_DTYPE = "fp16", "int32"

#: Elements along one rank; more is taken for a slip.
MAX_RANK_SIZE = 10**9

#: Elements of a tensor and points of an operator: what an int64 counts.
MAX_COUNT = 2**63 - 1


def bind(
    cascade: "Cascade",
    ranks: Mapping[str, int | float],
    dtypes: Mapping[str, str],
    prefix: str,
    skip_masked: bool,
) -> Graph:
    """See `Cascade.bind`."""
    sizes, values = _sizes(cascade, ranks)
    _check_dtypes(cascade, dtypes)
    binding = _Binding(cascade, sizes, values, prefix, skip_masked)
    operators = tuple(binding.operator(step) for step in cascade.steps)
    declared, written = cascade.tensors, {step.name: step for step in cascade.steps}
    names = dict.fromkeys((*cascade.declarations.inputs, *written))
    carried = {access.tensor for o in operators for access in o.inputs if o.steps_back(access)}
    tensors = []
    for name in names:
        known = declared.get(name)
        role = Role.STATE if prefix + name in carried else Role.ACTIVATION
        role = known.role if known and known.role else role
        dtype = dtypes.get(name) or (known.dtype if known else None) or dtypes.get(role)
        dtype = dtype or (INDEX_DTYPE if role is Role.INDEX else DEFAULT_DTYPE)
        tensors.append(
            Tensor(prefix + name, known.ranks if known else written[name].output_ranks, dtype, role)
        )
    outputs = tuple(prefix + name for name in cascade.declarations.outputs)
    inputs = tuple(prefix + name for name in cascade.declarations.inputs)
    graph = Graph(cascade.name, tuple(sizes.items()), tuple(tensors), operators, inputs, outputs)
    _check_counts(cascade, graph)
    return graph


def _check_counts(cascade: "Cascade", graph: Graph) -> None:
    """Raises InputError where a count would overflow an int64."""
    counts = {
        f"tensor {tensor.name!r}": graph.n_elements(tensor.name) * tensor.bits for tensor in graph.tensors
    }
    counts |= {f"operator {operator.name!r}": graph.n_points(operator) for operator in graph.operators}
    for what, n in counts.items():
        if n > MAX_COUNT:
            unit = "bits" if what.startswith("tensor") else "points"
            raise InputError(f"{cascade.name}: {what} has {n:.3g} {unit}, more than {MAX_COUNT:.3g}")


def _sizes(cascade: "Cascade", given: Mapping[str, int | float]) -> tuple[dict[str, int], dict[str, Exact]]:
    """Elements of every rank, and the values of all scalars by name."""
    resolver = _Resolver(cascade, _by_name(cascade, given))
    sizes = {rank: resolver.size(rank) for rank in cascade.ranks}
    for scalar in cascade.declarations.scalars:
        resolver.value(scalar.name)
    return sizes, resolver.values


class _Resolver:
    """Values of sizes and scalars, each from what is stated, its split or its default; none needs itself."""

    def __init__(self, cascade: "Cascade", stated: Mapping[str, int | float]) -> None:
        self._cascade = cascade
        self._stated = stated
        self._rank_of = {rank.upper(): rank for rank in cascade.ranks}
        self._scalars = {scalar.name: scalar for scalar in cascade.declarations.scalars}
        self._split_of = {outer: (rank, inner) for rank, (outer, inner) in cascade.splits.items()}
        self.values: dict[str, Exact] = {}

    def size(self, rank: str) -> int:
        return int(self.value(rank.upper()))

    def value(self, name: str) -> Exact:
        if name not in self.values:
            is_size = name in self._rank_of
            self.values[name] = self._size(self._rank_of[name]) if is_size else self._scalar(name)
        return self.values[name]

    def _size(self, rank: str) -> int:
        if rank in self._split_of:
            whole, inner = self._split_of[rank]
            return -(-self.size(whole) // self.size(inner))
        what = f"{self._cascade.name}: rank {rank!r}"
        if rank not in self._stated and rank not in self._cascade.declarations.default_sizes:
            raise InputError(f"{what} needs a size")
        default = self._cascade.declarations.default_sizes.get(rank)
        size = _whole(what, self._stated[rank] if default is None else self._given(rank, default))
        if not 1 <= size <= MAX_RANK_SIZE:
            raise InputError(f"{what} must be in 1..{MAX_RANK_SIZE}, got {size}")
        return size

    def _scalar(self, name: str) -> Exact:
        scalar = self._scalars[name]
        if scalar.default is None and name not in self._stated:
            raise InputError(f"{self._cascade.name}: {name!r} needs a value")
        value = self._stated[name] if scalar.default is None else self._given(name, scalar.default)
        return _whole(f"{self._cascade.name}: offset {name!r}", value) if scalar.whole else value

    def _given(self, name: str, default: Expr) -> Exact:
        """What is stated for a name, else its default."""
        if name in self._stated:
            return self._stated[name]
        for other in named_in(default):
            self.value(other)
        return _evaluated(self._cascade, default, self.values, default.place)


def _by_name(cascade: "Cascade", given: Mapping[str, int | float]) -> dict[str, int | float]:
    """The stated sizes by rank name. Raises InputError for a name that the text does not have."""
    outer_parts = [outer for outer, _ in cascade.splits.values()]
    by_size = {rank.upper(): rank for rank in cascade.ranks}
    known = [rank for rank in cascade.ranks if rank not in outer_parts]
    known += [scalar.name for scalar in cascade.declarations.scalars]
    found: dict[str, int | float] = {}
    for key, value in given.items():
        name = by_size.get(key, key)
        if name in outer_parts:
            raise InputError(f"{cascade.name}: rank {name!r} follows from its split, give the inner part")
        if name not in known:
            raise InputError(f"{cascade.name}: {key!r} is no rank or scalar{nearest(key, known)}")
        if name in found:
            raise InputError(f"{cascade.name}: {key!r} is given twice")
        found[name] = value
    return found


def _whole(what: str, value: Exact) -> int:
    if isinstance(value, bool) or value != value or abs(value) == float("inf") or int(value) != value:
        raise InputError(f"{what} must be a whole number, got {value}")
    return int(value)


def _evaluated(cascade: "Cascade", expr: Expr, values: Mapping[str, Exact], place: Place) -> Exact:
    source = cascade.declarations.names.source
    try:
        return evaluate(expr, values)
    except KeyError as error:
        raise place.refuse(source, f"{error.args[0]!r} has no value here") from None
    except (ArithmeticError, ValueError) as error:
        raise place.refuse(source, f"a number here has no value: {error}") from None


def _check_dtypes(cascade: "Cascade", dtypes: Mapping[str, str]) -> None:
    known = [*(role.value for role in Role), *cascade.tensors]
    for key, dtype in dtypes.items():
        if key not in known:
            raise InputError(f"{cascade.name}: {key!r} is neither a tensor nor a role{nearest(key, known)}")
        if dtype not in DTYPE_BITS:
            raise InputError(
                f"{cascade.name}: data type {dtype!r} of {key!r} is unknown{nearest(dtype, list(DTYPE_BITS))}"
            )


class _Binding:
    """Steps to operators under one set of sizes."""

    def __init__(
        self,
        cascade: "Cascade",
        sizes: Mapping[str, int],
        values: Mapping[str, Exact],
        prefix: str,
        skip_masked: bool,
    ) -> None:
        self._cascade = cascade
        self._source = cascade.declarations.names.source
        self._sizes = sizes
        self._values = values
        self._prefix = prefix
        self._skip_masked = skip_masked
        self._tensor_ranks = {name: tensor.ranks for name, tensor in cascade.tensors.items()}
        self._tensor_ranks |= {step.name: step.output_ranks for step in cascade.steps}

    def operator(self, step: Step) -> Operator:
        mask = self._mask(step)
        inputs = tuple(self._access(access, step, mask) for access in step.inputs)
        name = self._prefix + step.name
        output = Access.of(name, *step.output_ranks)
        parameters = [(key, self._number(value, step.place)) for key, value in step.scalars]
        operator = Operator(
            name, step.kind, output, inputs, step.function, step.reduce, step.group,
            mask if self._skip_masked or step.mask is None else self._tail(step),
            serial_rank=step.serial_rank,
        )  # fmt: skip
        for position, (access, symbolic) in enumerate(zip(inputs, step.inputs, strict=True)):
            if operator.steps_back(access):
                init = self._cascade.tensors[symbolic.tensor].init
                assert init is not None
                parameters.append((f"init_{position}", self._number(init, init.place)))
        return replace(operator, parameters=tuple(parameters))

    def _value(self, expr: Expr, place: Place) -> Exact:
        return _evaluated(self._cascade, expr, self._values, place)

    def _number(self, expr: Expr, place: Place) -> float:
        try:
            number = float(self._value(expr, place))
        except OverflowError:
            raise place.refuse(self._source, "a number here is too large") from None
        if number != number:
            raise place.refuse(self._source, "a number here has no value: it is not a number")
        return number

    def _integer(self, expr: Expr, place: Place) -> int:
        value = self._value(expr, place)
        if isinstance(value, float) or Fraction(value).denominator != 1:
            raise place.refuse(self._source, f"an index is not whole for these sizes: {value}")
        return int(value)

    # Indices

    def _access(self, access: SymbolicAccess, step: Step, mask: Mask | None) -> Access:
        indices = tuple(self._index(index, step.place) for index in access.indices)
        for rank, index, symbolic in zip(
            self._tensor_ranks[access.tensor], indices, access.indices, strict=True
        ):
            past = bool(step.serial_rank) and index.offset < 0 and symbolic.ranks == (step.serial_rank,)
            if not past:
                self._check_range(access.tensor, rank, index, mask, step)
        return Access(self._prefix + access.tensor, indices)

    def _index(self, index: Affine, place: Place) -> Index:
        terms, offset = resolve(index, lambda expr: self._integer(expr, place), place, self._source)
        return Index(terms, offset)

    def _check_range(self, tensor: str, rank: str, index: Index, mask: Mask | None, step: Step) -> None:
        """Raises InputError if the index leaves the tensor at a point that is computed."""
        try:
            low, high = self._range(rank, index, mask)
        except TooManyPositionsError:
            raise step.place.refuse(
                self._source, f"{tensor!r} is read along {rank!r} in more pieces than can be checked"
            ) from None
        if low >= 0 and high < self._sizes[rank]:
            return
        known = self._cascade.tensors.get(tensor)
        inside = high >= 0 and low < self._sizes[rank]
        if known and known.padded and inside:
            if step.kind in (Kind.CONTRACTION, Kind.REDUCTION):
                return
            raise step.place.refuse(
                self._source, f"{tensor!r} is read beyond its ends along {rank!r} outside of a reduction"
            )
        raise step.place.refuse(
            self._source,
            f"{tensor!r} is read at {low}..{high} along {rank!r}, which has {self._sizes[rank]} elements",
        )

    def _range(self, rank: str, index: Index, mask: Mask | None) -> tuple[int, int]:
        parts = self._cascade.splits.get(rank)
        if parts and tuple(term.rank for term in index.terms) == parts and index.offset == 0:
            return 0, self._sizes[rank] - 1  # the mask cuts the tail of the last tile
        low, high = reach(index, self._sizes)
        if mask and _difference(index) == (mask.rank, mask.of):
            low = low if mask.lower is None else max(low, index.offset + mask.lower)
            high = high if mask.upper is None else min(high, index.offset + mask.upper)
        if mask and _difference(index) == (mask.of, mask.rank):
            low = low if mask.upper is None else max(low, index.offset - mask.upper)
            high = high if mask.lower is None else min(high, index.offset - mask.lower)
        return low, high

    # Masks

    def _mask(self, step: Step) -> Mask | None:
        """The step's mask with its bounds, or the one that cuts a split rank's tail."""
        if (symbolic := step.mask) is None:
            return self._tail(step)
        mask = Mask(
            symbolic.rank, symbolic.of, self._bound(symbolic.upper, step), self._bound(symbolic.lower, step),
            symbolic.rank_parts, symbolic.of_parts,
        )  # fmt: skip
        if mask.lower is not None and mask.upper is not None and mask.lower > mask.upper:
            of = f" - {mask.of}" if mask.of else ""
            raise step.place.refuse(
                self._source,
                f"no position is left of {mask.rank!r}: {mask.rank}{of} must be at least {mask.lower}"
                f" and at most {mask.upper}",
            )
        for rank in self._ragged(step):
            if rank not in (symbolic.rank, symbolic.of):
                raise step.place.refuse(
                    self._source,
                    f"beside the mask the inner part of {rank!r} must divide {self._sizes[rank]}",
                )
        return mask

    def _bound(self, expr: Expr | None, step: Step) -> int | None:
        return None if expr is None else self._integer(expr, step.place)

    def _tail(self, step: Step) -> Mask | None:
        ragged = self._ragged(step)
        if len(ragged) > 1:
            rank = ragged[1]
            raise step.place.refuse(
                self._source, f"the inner part of {rank!r} must divide {self._sizes[rank]}"
            )
        return Mask(ragged[0], "", rank_parts=self._cascade.splits[ragged[0]]) if ragged else None

    def _ragged(self, step: Step) -> list[str]:
        """Split ranks whose last tile is not full and whose two parts the step runs over."""
        return [
            rank
            for rank, (outer, inner) in self._cascade.splits.items()
            if self._sizes[rank] % self._sizes[inner] and {outer, inner} <= set(step.ranks)
        ]


def _difference(index: Index) -> tuple[str, str] | None:
    """(i, j), if the index is i - j plus a number."""
    by_sign = {term.coefficient: term.rank for term in index.terms if term.divisor == 1}
    if len(index.terms) == 2 and set(by_sign) == {1, -1}:
        return by_sign[1], by_sign[-1]
    return None
