"""Statements of a cascade to steps: one primitive each, macros expanded, sums made explicit."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tilewright.dataflow.cascade_declare import Declarations, DeclaredTensor
from tilewright.dataflow.cascade_index import (
    CONSTANTS,
    ONE,
    SCALAR_FUNCTIONS,
    Affine,
    SymbolicMask,
    plain,
    quotient,
    scaled,
)
from tilewright.dataflow.cascade_syntax import (
    Binary,
    Call,
    Expr,
    MacroLine,
    Name,
    Number,
    Pair,
    Place,
    Read,
    Reduce,
    Statement,
)
from tilewright.dataflow.errors import InputError, nearest
from tilewright.dataflow.operator import Kind

#: Functions of one tensor, and of two.
UNARY = (
    "exp", "log", "sqrt", "rsqrt", "reciprocal", "square", "abs", "sign", "sigmoid", "tanh", "relu",
    "gelu", "gelu_tanh", "silu", "softplus", "erf", "sin", "cos", "identity",
)  # fmt: skip
BINARY = ("max", "min", "add", "sub", "mul", "div", "pow")
REDUCTIONS = ("sum", "max", "min", "mean", "prod")
_ARITHMETIC = {"+": "add", "-": "sub", "*": "mul", "/": "div"}


@dataclass(frozen=True, slots=True)
class SymbolicAccess:
    tensor: str
    indices: tuple[Affine, ...]

    @property
    def ranks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(rank for index in self.indices for rank in index.ranks))


@dataclass(frozen=True, slots=True)
class Step:
    """One operator before sizes are known; it writes the tensor of its own name at plain ranks.

    `scalars` are operands that are numbers: "left" and "right" of a two-sided function, "scale" of a
    contraction.
    """

    name: str
    kind: Kind
    function: str
    reduce: str
    output_ranks: tuple[str, ...]
    inputs: tuple[SymbolicAccess, ...]
    scalars: tuple[tuple[str, Expr], ...]
    mask: SymbolicMask | None
    group: str
    serial_rank: str
    place: Place

    @property
    def ranks(self) -> tuple[str, ...]:
        """The iteration space: output ranks, then the reduced ones."""
        return _united(self.output_ranks, *(access.ranks for access in self.inputs))


@dataclass(frozen=True, slots=True)
class _Operand:
    """`scale` times what `access` reads; without an access the scalar alone."""

    access: SymbolicAccess | None
    scale: Expr = ONE

    @property
    def ranks(self) -> tuple[str, ...]:
        return self.access.ranks if self.access else ()


def lower(declarations: Declarations) -> tuple[Step, ...]:
    """The steps of all statements in order.

    Raises InputError at the line and column of an undeclared tensor, unknown function, wrong number of
    indices, a read ahead, or a sum that the text leaves open.
    """
    masks: dict[str, SymbolicMask] = {}
    steps: list[Step] = []
    for order, (statement, group) in enumerate(declarations.statements):
        lowering = _StatementLowering(declarations, statement, order, group, masks)
        steps.extend(lowering.run())
    return tuple(steps)


class _StatementLowering:
    """Turns one statement into steps; `masks` are those of tensors assigned so far, by name."""

    def __init__(
        self,
        declarations: Declarations,
        statement: Statement,
        order: int,
        group: str,
        masks: dict[str, SymbolicMask],
    ) -> None:
        self._declared = declarations
        self._names = declarations.names
        self._statement = statement
        self._order = order
        self._group = group
        self._masks = masks
        self._target = declarations.tensors[statement.name.name].ranks
        self._steps: list[Step] = []
        self._condition = self._conditions()

    def run(self) -> tuple[Step, ...]:
        statement, place = self._statement, self._statement.name.place
        if statement.init is not None:
            self._names.scalar(statement.init)
        operand = self._expression(statement.value, frozenset(self._target), implicit=True)
        if operand.access is None:
            raise self._refuse(place, f"{statement.name.name!r} is assigned a number; no tensor is read")
        if missing := [rank for rank in self._target if rank not in operand.ranks]:
            raise self._refuse(
                place, f"rank {missing[0]!r} is on the left side and on no tensor at the right"
            )
        access = self._materialised(operand, place)
        if not self._steps or self._steps[-1].name != access.tensor:
            self._emit(Kind.POINTWISE, "identity", "", (access,), (), place, access.ranks)
        self._name_root(statement.name.name)
        self._check_condition()
        return tuple(self._steps)

    def _name_root(self, name: str) -> None:
        last = self._steps[-1]
        self._steps[-1] = replace(last, name=name, output_ranks=self._target)
        if mask := self._masks.pop(last.name, None):
            self._masks[name] = mask

    def _refuse(self, place: Place, message: str) -> InputError:
        return place.refuse(self._names.source, message)

    # Expressions

    def _expression(self, expr: Expr, allowed: frozenset[str] | None, *, implicit: bool) -> _Operand:
        """The value of `expr`, whose ranks must be among `allowed` (None: any).

        With `implicit`, a product of two tensors sums over the ranks that are not allowed.
        """
        match expr:
            case Binary("+" | "-", left, right):
                first = self._expression(left, allowed, implicit=implicit)
                second = self._expression(right, allowed, implicit=implicit)
                operand = self._two_sided(_ARITHMETIC[expr.operator], first, second, expr)
            case Binary():
                operand = self._product(expr, allowed if implicit else None, ())
            case _:
                operand = self._atom(expr, allowed)
        if allowed is not None and (excess := [rank for rank in operand.ranks if rank not in allowed]):
            raise self._refuse(
                expr.place,
                f"rank {excess[0]!r} is not on the left side: a sum is implied only for a product of two"
                f" tensors that is a term of its own; write sum[{excess[0]}] or name an intermediate",
            )
        return operand

    def _atom(self, expr: Expr, allowed: frozenset[str] | None) -> _Operand:
        match expr:
            case Number():
                return _Operand(None, expr)
            case Name(name) if name in self._names.scalars or name in CONSTANTS:
                return _Operand(None, expr)
            case Name(name) if name in self._names.ranks:
                raise self._refuse(expr.place, f"rank {name!r} is not a value; its size is {name.upper()!r}")
            case Name(name):
                ranks = self._tensor(name, expr.place).ranks
                return self._read(Read(name, tuple(Name(rank, expr.place) for rank in ranks), expr.place))
            case Read():
                return self._read(expr)
            case Reduce():
                return self._reduce(expr, allowed)
            case Call():
                return self._call(expr, allowed)
            case Pair():
                raise self._refuse(expr.place, "a pair of ranks stands only in an index")
            case Binary():
                return self._expression(expr, allowed, implicit=False)

    def _call(self, expr: Call, allowed: frozenset[str] | None) -> _Operand:
        name, n_arguments = expr.function, len(expr.arguments)
        known = {1: UNARY, 2: BINARY}.get(n_arguments, ())
        arguments = [self._expression(value, allowed, implicit=False) for value in expr.arguments]
        if all(argument.access is None for argument in arguments) and name in SCALAR_FUNCTIONS:
            return _Operand(None, Call(name, tuple(argument.scale for argument in arguments), expr.place))
        if name not in known:
            if name in (*UNARY, *BINARY):
                wanted = 1 if name in UNARY else 2
                raise self._refuse(
                    expr.place, f"function {name!r} takes {wanted} arguments, got {n_arguments}"
                )
            hint = nearest(name, [*UNARY, *BINARY, *self._declared.macros])
            raise self._refuse(expr.place, f"function {name!r} is unknown{hint}")
        if n_arguments == 2:
            return self._two_sided(name, arguments[0], arguments[1], expr)
        if arguments[0].access is None:
            raise self._refuse(expr.place, f"function {name!r} of a number alone is not evaluated")
        access = self._materialised(arguments[0], expr.place)
        return self._emit(Kind.POINTWISE, name, "", (access,), (), expr.place, access.ranks)

    def _two_sided(self, function: str, left: _Operand, right: _Operand, expr: Expr) -> _Operand:
        if left.access is None and right.access is None:
            signs = {name: sign for sign, name in _ARITHMETIC.items()}
            if function in signs:
                return _Operand(None, Binary(signs[function], left.scale, right.scale, expr.place))  # type: ignore[arg-type]
            return _Operand(None, Call(function, (left.scale, right.scale), expr.place))
        inputs, scalars = [], []
        for side, operand in (("left", left), ("right", right)):
            if operand.access is None:
                scalars.append((side, operand.scale))
            else:
                inputs.append(self._materialised(operand, expr.place))
        ranks = _united(*(access.ranks for access in inputs))
        return self._emit(Kind.POINTWISE, function, "", tuple(inputs), tuple(scalars), expr.place, ranks)

    # Products, and the sums over them

    def _product(self, expr: Binary, allowed: frozenset[str] | None, summed: tuple[str, ...]) -> _Operand:
        """A chain of factors, left to right.

        It sums over `summed`, or, if `allowed` is given, over the ranks that are not allowed: a
        contraction where the sum is over a product of just two tensors.
        """
        factors = [
            (sign, value, self._expression(value, None, implicit=False)) for sign, value in _chain(expr)
        ]
        scale: Expr = ONE
        for sign, _, operand in factors:
            scale = scaled(scale, operand.scale) if sign == "*" else quotient(scale, operand.scale)
        tensors = [(sign, operand.access) for sign, _, operand in factors if operand.access]
        if not tensors:
            return _Operand(None, scale)
        ranks = _united(*(access.ranks for _, access in tensors))
        implied = tuple(rank for rank in ranks if allowed is not None and rank not in allowed)
        if implied and not summed:
            self._check_implied(expr, implied, factors)
        over = summed or implied
        numerators = [access for sign, access in tensors if sign == "*"]
        divides = any(set(access.ranks) & set(over) for sign, access in tensors if sign == "/")
        contracts = bool(over) and len(numerators) == 2 and not divides
        result = self._folded(tensors, scale, over if contracts else (), numerators, expr.place)
        if summed and not contracts:
            return self._reduction("sum", summed, result, expr.place)
        return result

    def _check_implied(
        self, expr: Expr, implied: tuple[str, ...], factors: list[tuple[str, Expr, _Operand]]
    ) -> None:
        numerators = [value for sign, value, operand in factors if operand.access and sign == "*"]
        names = ", ".join(repr(rank) for rank in implied)
        advice = "write sum[...] or name an intermediate"
        if len(numerators) != 2:
            raise self._refuse(
                expr.place, f"the sum over {names} is implied over {len(numerators)} tensors, not 2; {advice}"
            )
        if any(_multiplies(value) for value in numerators):
            raise self._refuse(
                expr.place, f"the sum over {names} is implied over a product within a product; {advice}"
            )
        for sign, value, operand in factors:
            if sign == "/" and (shared := set(operand.ranks) & set(implied)):
                raise self._refuse(
                    value.place,
                    f"it is open whether the sum over {min(shared)!r} includes the division; {advice}",
                )

    def _folded(
        self,
        tensors: list[tuple[str, SymbolicAccess]],
        scale: Expr,
        over: tuple[str, ...],
        numerators: list[SymbolicAccess],
        place: Place,
    ) -> _Operand:
        """The factors combined left to right; at the second numerator the sum over `over`, if any."""
        left: SymbolicAccess | None = None
        n_numerators = 0
        for sign, access in tensors:
            n_numerators += sign == "*"
            if left is None and sign == "*":
                left = access
            elif left is None:
                left = self._emitted("div", (access,), (("left", scale),), place)
                scale = ONE
            elif over and sign == "*" and n_numerators == len(numerators):
                ranks = tuple(rank for rank in _united(left.ranks, access.ranks) if rank not in over)
                scalars = () if scale == ONE else (("scale", scale),)
                pair = (left, access)
                left = self._emit(Kind.CONTRACTION, "mul", "sum", pair, scalars, place, ranks).access
                scale = ONE
            else:
                left = self._emitted(_ARITHMETIC[sign], (left, access), (), place)
        return _Operand(left, scale)

    def _emitted(
        self,
        function: str,
        inputs: tuple[SymbolicAccess, ...],
        scalars: tuple[tuple[str, Expr], ...],
        place: Place,
    ) -> SymbolicAccess:
        ranks = _united(*(access.ranks for access in inputs))
        operand = self._emit(Kind.POINTWISE, function, "", inputs, scalars, place, ranks)
        assert operand.access is not None
        return operand.access

    def _reduce(self, expr: Reduce, allowed: frozenset[str] | None) -> _Operand:
        ranks = self._reduced_ranks(expr)
        if macro := self._declared.macros.get(expr.function):
            return self._expression(self._expanded(macro, expr, ranks), allowed, implicit=False)
        if expr.function not in REDUCTIONS:
            hint = nearest(expr.function, [*REDUCTIONS, *self._declared.macros])
            raise self._refuse(expr.place, f"reduction {expr.function!r} is unknown{hint}")
        inner = None if allowed is None else allowed | set(ranks)
        if expr.function == "sum" and isinstance(expr.argument, Binary) and expr.argument.operator in "*/":
            operand = self._product(expr.argument, None, ranks)
            self._check_summed(operand, inner, expr)
            return operand
        operand = self._expression(expr.argument, inner, implicit=False)
        return self._reduction(expr.function, ranks, operand, expr.place)

    def _check_summed(self, operand: _Operand, allowed: frozenset[str] | None, expr: Reduce) -> None:
        left = [rank for rank in operand.ranks if allowed is not None and rank not in allowed]
        if left:
            raise self._refuse(
                expr.place,
                f"a sum over {left[0]!r} is implied beside an explicit one; name it in sum[...] too",
            )

    def _reduced_ranks(self, expr: Reduce) -> tuple[str, ...]:
        found = []
        for rank in expr.ranks:
            if not isinstance(rank, Name):
                raise self._refuse(rank.place, f"{expr.function}[...] takes ranks")
            if rank.name not in self._names.ranks:
                hint = nearest(rank.name, list(self._names.ranks))
                raise self._refuse(rank.place, f"rank {rank.name!r} is not declared{hint}")
            found.append(rank.name)
        if not found:
            raise self._refuse(expr.place, f"{expr.function}[] needs a rank")
        return tuple(found)

    def _reduction(self, reduce: str, ranks: tuple[str, ...], operand: _Operand, place: Place) -> _Operand:
        if missing := [rank for rank in ranks if rank not in operand.ranks]:
            raise self._refuse(place, f"{reduce}[{missing[0]}]: what is reduced has no rank {missing[0]!r}")
        linear = reduce in ("sum", "mean")
        scale = operand.scale if linear else ONE
        access = operand.access if linear else self._materialised(operand, place)
        assert access is not None
        kept = tuple(rank for rank in access.ranks if rank not in ranks)
        result = self._emit(Kind.REDUCTION, "identity", reduce, (access,), (), place, kept)
        return replace(result, scale=scale)

    def _expanded(self, macro: MacroLine, expr: Reduce, ranks: tuple[str, ...]) -> Expr:
        """The macro's body with the ranks and the argument in place of their names."""
        if len(macro.ranks) != len(ranks) or len(macro.arguments) != 1:
            wanted = f"{len(macro.ranks)} ranks and {len(macro.arguments)} argument"
            raise self._refuse(
                expr.place, f"macro {macro.name.name!r} takes {wanted}, got {len(ranks)} and 1"
            )
        values: dict[str, Expr] = {
            name.name: Name(rank, expr.place) for name, rank in zip(macro.ranks, ranks, strict=True)
        }
        values[macro.arguments[0].name] = expr.argument
        return substituted(macro.body, values, expr.place)

    # Reads

    def _tensor(self, name: str, place: Place) -> DeclaredTensor:
        if name not in self._declared.tensors:
            hint = nearest(name, list(self._declared.tensors))
            raise self._refuse(place, f"tensor {name!r} is not declared{hint}")
        return self._declared.tensors[name]

    def _read(self, expr: Read) -> _Operand:
        tensor = self._tensor(expr.tensor, expr.place)
        indices = tuple(self._names.affine(index, expr.place) for index in expr.indices)
        if len(indices) == 1 < len(tensor.ranks):
            indices = self._in_step(indices[0], tensor)
        if len(indices) != len(tensor.ranks):
            raise self._refuse(
                expr.place,
                f"tensor {tensor.name!r} has {len(tensor.ranks)} ranks, {len(indices)} indices given",
            )
        past = any(
            self._check_step(rank, index, tensor, expr.place)
            for rank, index in zip(tensor.ranks, indices, strict=True)
        )
        if not past and tensor.order >= self._order:
            when = (
                "by the statement that assigns it" if tensor.order == self._order else "before it is assigned"
            )
            raise self._refuse(expr.place, f"tensor {tensor.name!r} is read {when}")
        if past and tensor.init is None:
            raise self._refuse(
                expr.place, f"tensor {tensor.name!r} is read before its first step; give it an 'init'"
            )
        return _Operand(SymbolicAccess(tensor.name, indices))

    def _in_step(self, index: Affine, tensor: DeclaredTensor) -> tuple[Affine, ...]:
        """`RM[n1-1]` is short for all ranks of RM plain but the iterated one."""
        for rank in self._names.iterated:
            if rank in tensor.ranks and (index.last_of == rank or index.shift_of(rank)):
                return tuple(index if name == rank else plain(name) for name in tensor.ranks)
        return (index,)

    def _check_step(self, rank: str, index: Affine, tensor: DeclaredTensor, place: Place) -> bool:
        """Whether `index` reads an earlier step of the iterated `rank`. Raises InputError on a read ahead."""
        if rank not in self._names.iterated or tensor.order < 0 or index.plain == rank:
            return False
        if index.last_of == rank:
            if rank in self._target:
                raise self._refuse(
                    place, f"last({rank}) is read within the steps of {rank!r}, before the last one"
                )
            return False
        shift = index.shift_of(rank)
        if shift is None:
            raise self._refuse(
                place,
                f"iterated rank {rank!r} of {tensor.name!r} is read at {rank}, {rank} - k or last({rank})",
            )
        if shift > 0:
            raise self._refuse(
                place, f"tensor {tensor.name!r} is read {shift} steps of {rank!r} in the future"
            )
        if rank not in self._target:
            raise self._refuse(place, f"an earlier step is read outside of the steps of {rank!r}")
        return True

    # Steps

    def _materialised(self, operand: _Operand, place: Place) -> SymbolicAccess:
        """The operand as a tensor, its scale multiplied in."""
        assert operand.access is not None
        if operand.scale == ONE:
            return operand.access
        return self._emitted("mul", (operand.access,), (("right", operand.scale),), place)

    def _emit(
        self,
        kind: Kind,
        function: str,
        reduce: str,
        inputs: tuple[SymbolicAccess, ...],
        scalars: tuple[tuple[str, Expr], ...],
        place: Place,
        ranks: tuple[str, ...],
    ) -> _Operand:
        """Add a step, or find the same one in this statement; returns a plain read of its result."""
        ordered = tuple(r for r in self._target if r in ranks) + tuple(
            r for r in ranks if r not in self._target
        )
        for step in self._steps:
            if (step.kind, step.function, step.reduce, step.inputs, step.scalars, step.output_ranks) == (
                kind, function, reduce, inputs, scalars, ordered,
            ):  # fmt: skip
                return _Operand(SymbolicAccess(step.name, tuple(plain(rank) for rank in ordered)))
        label = {Kind.CONTRACTION: "dot", Kind.REDUCTION: reduce}.get(kind, function)
        name = f"{self._statement.name.name}.{label}"
        taken = [step.name for step in self._steps]
        if name in taken:
            name = next(f"{name}{k}" for k in range(2, len(taken) + 3) if f"{name}{k}" not in taken)
        mask = self._mask(inputs, place)
        serial = self._serial_rank(ordered, place)
        step = Step(name, kind, function, reduce, ordered, inputs, scalars, mask, self._group, serial, place)
        self._steps.append(step)
        if mask and set(mask.ranks) <= set(ordered):
            self._masks[name] = mask
        return _Operand(SymbolicAccess(name, tuple(plain(rank) for rank in ordered)))

    def _serial_rank(self, ranks: tuple[str, ...], place: Place) -> str:
        found = [rank for rank in self._names.iterated if rank in ranks]
        if len(found) > 1:
            raise self._refuse(place, f"two iterated ranks in one statement: {', '.join(found)}")
        return found[0] if found else ""

    # Masks

    def _conditions(self) -> SymbolicMask | None:
        found: SymbolicMask | None = None
        for condition in self._statement.conditions:
            mask = self._names.mask(condition)
            if found is not None and (mask := found.joined(mask)) is None:  # type: ignore[assignment]
                raise self._refuse(
                    condition.place, "the conditions of a statement are about one pair of ranks"
                )
            found = mask
        return found

    def _check_condition(self) -> None:
        if self._condition and not any(set(self._condition.ranks) <= set(step.ranks) for step in self._steps):
            place = self._statement.conditions[0].place
            ranks = ", ".join(self._condition.ranks)
            raise self._refuse(place, f"the statement does not run over the ranks of its condition: {ranks}")

    def _mask(self, inputs: tuple[SymbolicAccess, ...], place: Place) -> SymbolicMask | None:
        """The statement's condition and the masks of what is read, as one mask."""
        ranks = {rank for access in inputs for rank in access.ranks}
        found = self._condition if self._condition and set(self._condition.ranks) <= ranks else None
        for access in inputs:
            if (mask := self._read_mask(access, place)) is None:
                continue
            joined = mask if found is None else found.joined(mask)
            if joined is None:
                raise self._refuse(place, "tensors under masks of different ranks meet in one operation")
            found = joined
        return found

    def _read_mask(self, access: SymbolicAccess, place: Place) -> SymbolicMask | None:
        """The mask of a tensor, said in the ranks that read it."""
        mask = self._masks.get(access.tensor)
        if mask is None:
            return None
        ranks = self._ranks_of(access.tensor)
        read = {rank: index.plain for rank, index in zip(ranks, access.indices, strict=True)}
        renamed = tuple(read[rank] for rank in mask.ranks)
        if renamed == mask.ranks:
            return mask
        if "" in renamed or mask.rank_parts or mask.of_parts:
            raise self._refuse(
                place, f"tensor {access.tensor!r} has a mask and is read at an index other than its own"
            )
        return replace(mask, rank=renamed[0], of=renamed[1])

    def _ranks_of(self, tensor: str) -> tuple[str, ...]:
        for step in self._steps:
            if step.name == tensor:
                return step.output_ranks
        return self._declared.tensors[tensor].ranks


def _united(*ranks: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(rank for group in ranks for rank in group))


def _chain(expr: Expr) -> list[tuple[str, Expr]]:
    """a * b / c as [("*", a), ("*", b), ("/", c)]; what stands in brackets stays one factor."""
    if isinstance(expr, Binary) and expr.operator in "*/":
        return [*_chain(expr.left), (expr.operator, expr.right)]
    return [("*", expr)]


def _multiplies(expr: Expr) -> bool:
    """Whether a product of two values that are no literals stands anywhere within."""
    match expr:
        case Binary("*", left, right) if not isinstance(left, Number) and not isinstance(right, Number):
            return True
        case Binary(_, left, right):
            return _multiplies(left) or _multiplies(right)
        case Call(_, arguments):
            return any(_multiplies(argument) for argument in arguments)
    return False


def substituted(expr: Expr, values: Mapping[str, Expr], place: Place) -> Expr:
    """`expr` with names replaced; everything takes the place of the macro's use."""

    def inner(value: Expr) -> Expr:
        return substituted(value, values, place)

    match expr:
        case Name(name):
            return values.get(name, Name(name, place))
        case Number(value):
            return Number(value, place)
        case Read(tensor, indices):
            return Read(tensor, tuple(inner(index) for index in indices), place)
        case Reduce(function, ranks, argument):
            return Reduce(function, tuple(inner(rank) for rank in ranks), inner(argument), place)
        case Call(function, arguments):
            return Call(function, tuple(inner(argument) for argument in arguments), place)
        case Binary(operator, left, right):
            return Binary(operator, inner(left), inner(right), place)
        case Pair(items):
            return Pair(tuple(inner(item) for item in items), place)
