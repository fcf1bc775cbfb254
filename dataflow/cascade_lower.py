"""Statements of a cascade to steps: one primitive each, macros expanded, sums made explicit."""

from collections.abc import Mapping
from dataclasses import dataclass

from tilewright.dataflow.cascade_declare import Declarations
from tilewright.dataflow.cascade_index import (
    CONSTANTS,
    ONE,
    SCALAR_FUNCTIONS,
    SymbolicMask,
    quotient,
    scaled,
)
from tilewright.dataflow.cascade_read import Reader
from tilewright.dataflow.cascade_step import MAX_STEPS, Step, StepBuilder, SymbolicAccess, united
from tilewright.dataflow.cascade_sums import check_sums, n_terms
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
    Sign,
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

#: Expansions of macros within a statement, and terms of what one expands to; more is no cascade.
MAX_EXPANSIONS = 256
MAX_TERMS = 4096

_SIGNS: Mapping[str, Sign] = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_ARITHMETIC: Mapping[str, str] = {sign: name for name, sign in _SIGNS.items()}


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
        place, source = statement.name.place, declarations.names.source
        try:
            steps.extend(_StatementLowering(declarations, statement, order, group, masks).run())
        except RecursionError:
            raise place.refuse(source, "the expression is nested too deeply") from None
        if len(steps) > MAX_STEPS:
            raise place.refuse(source, f"a cascade has at most {MAX_STEPS} operators")
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
        self._target = declarations.tensors[statement.name.name].ranks
        self._reader = Reader(declarations, order, self._target)
        self._steps = StepBuilder(declarations.names, declarations.tensors, statement, group, masks)
        self._n_expanded = 0
        self._known: dict[int, tuple[Expr, int]] = {}

    def run(self) -> tuple[Step, ...]:
        name, place = self._statement.name.name, self._statement.name.place
        if self._statement.init is not None:
            self._names.scalar(self._statement.init)
        check_sums(self._statement.value, self._names.source)
        operand = self._expression(self._statement.value, frozenset(self._target), implicit=True)
        if operand.access is None:
            raise self._refuse(place, f"{name!r} is assigned a number; no tensor is read")
        if missing := [rank for rank in self._target if rank not in operand.ranks]:
            raise self._refuse(
                place, f"rank {missing[0]!r} is on the left side and on no tensor at the right"
            )
        return self._steps.finish(self._materialised(operand, place))

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
            case Name():
                return _Operand(self._reader.bare(expr))
            case Read():
                return _Operand(self._read(expr))
            case Reduce():
                return self._reduce(expr, allowed)
            case Call():
                return self._call(expr, allowed)
            case Pair():
                raise self._refuse(expr.place, "a pair of ranks stands only in an index")
            case Binary():
                return self._expression(expr, allowed, implicit=False)

    def _read(self, expr: Read) -> SymbolicAccess:
        """The access of a read; what data pick is gathered first."""
        access, selector = self._reader.access(expr), self._reader.selector(expr)
        if selector is None:
            return access
        return self._steps.emit(Kind.GATHER, "identity", "", (selector, access), (), expr.place)

    def _call(self, expr: Call, allowed: frozenset[str] | None) -> _Operand:
        name, n_arguments = expr.function, len(expr.arguments)
        known = {1: UNARY, 2: BINARY}.get(n_arguments, ())
        arguments = [self._expression(value, allowed, implicit=False) for value in expr.arguments]
        if all(argument.access is None for argument in arguments) and name in SCALAR_FUNCTIONS:
            self._names.check_call(expr)
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
        return _Operand(self._pointwise(name, (access,), (), expr.place))

    def _two_sided(self, function: str, left: _Operand, right: _Operand, expr: Expr) -> _Operand:
        if left.access is None and right.access is None:
            if function in _SIGNS:
                return _Operand(None, Binary(_SIGNS[function], left.scale, right.scale, expr.place))
            return _Operand(None, Call(function, (left.scale, right.scale), expr.place))
        inputs, scalars = [], []
        for side, operand in (("left", left), ("right", right)):
            if operand.access is None:
                scalars.append((side, operand.scale))
            else:
                inputs.append(self._materialised(operand, expr.place))
        return _Operand(self._pointwise(function, tuple(inputs), tuple(scalars), expr.place))

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
        ranks = united(*(access.ranks for _, access in tensors))
        implied = tuple(rank for rank in ranks if allowed is not None and rank not in allowed)
        if implied:
            self._check_implied(expr, implied, factors)
        over = summed or implied
        result = self._folded(tensors, scale, over, expr.place)
        unsummed = result.access is not None and any(rank in result.ranks for rank in over)
        if summed and (unsummed or not set(summed) <= set(ranks)):
            return self._reduction("sum", summed, result, expr.place)
        return result

    def _check_implied(
        self, expr: Expr, implied: tuple[str, ...], factors: list[tuple[str, Expr, _Operand]]
    ) -> None:
        """Raises InputError unless it is clear what an implied sum is over."""
        numerators = [value for sign, value, operand in factors if operand.access and sign == "*"]
        names = ", ".join(repr(rank) for rank in implied)
        advice = "write sum[...] or name an intermediate"
        if len(numerators) != 2:
            raise self._refuse(
                expr.place, f"the sum over {names} is implied over {len(numerators)} tensors, not 2; {advice}"
            )
        if any(self._multiplies(value) for value in numerators):
            raise self._refuse(
                expr.place, f"the sum over {names} is implied over a product within a product; {advice}"
            )
        last = max(i for i, factor in enumerate(factors) if factor[1] is numerators[1])
        for sign, value, operand in factors[last:]:
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
        place: Place,
    ) -> _Operand:
        """The factors combined left to right.

        Where two tensors are multiplied in all, and nothing behind them has a rank of `over`, the product
        sums over those ranks; otherwise it leaves them.
        """
        numerators = [i for i, (sign, _) in enumerate(tensors) if sign == "*"]
        contracted = -1
        if over and len(numerators) == 2:
            behind = {rank for _, access in tensors[numerators[1] + 1 :] for rank in access.ranks}
            before = {rank for _, access in tensors[: numerators[1] + 1] for rank in access.ranks}
            if not behind & set(over) and set(over) <= before:
                contracted = numerators[1]
        left: SymbolicAccess | None = None
        for position, (sign, access) in enumerate(tensors):
            if left is None and sign == "*":
                left = access
            elif left is None:
                left = self._pointwise("div", (access,), (("left", scale),), place)
                scale = ONE
            elif position == contracted:
                ranks = tuple(rank for rank in united(left.ranks, access.ranks) if rank not in over)
                scalars = () if scale == ONE else (("scale", scale),)
                left = self._steps.emit(Kind.CONTRACTION, "mul", "sum", (left, access), scalars, place, ranks)
                scale = ONE
            else:
                left = self._pointwise(_ARITHMETIC[sign], (left, access), (), place)
        return _Operand(left, scale)

    def _pointwise(
        self,
        function: str,
        inputs: tuple[SymbolicAccess, ...],
        scalars: tuple[tuple[str, Expr], ...],
        place: Place,
    ) -> SymbolicAccess:
        return self._steps.emit(Kind.POINTWISE, function, "", inputs, scalars, place)

    def _materialised(self, operand: _Operand, place: Place) -> SymbolicAccess:
        """The operand as a tensor, its scale multiplied in."""
        assert operand.access is not None
        if operand.scale == ONE:
            return operand.access
        return self._pointwise("mul", (operand.access,), (("right", operand.scale),), place)

    def _multiplies(self, expr: Expr) -> bool:
        """Whether a product of two tensors stands within, outside of explicit reductions."""
        match expr:
            case Binary(operator, left, right):
                both = operator == "*" and self._has_tensor(left) and self._has_tensor(right)
                return both or self._multiplies(left) or self._multiplies(right)
            case Call(_, arguments):
                return any(self._multiplies(argument) for argument in arguments)
        return False

    def _has_tensor(self, expr: Expr) -> bool:
        match expr:
            case Name(name):
                return name in self._declared.tensors
            case Binary(_, left, right):
                return self._has_tensor(left) or self._has_tensor(right)
            case Call(_, arguments):
                return any(self._has_tensor(argument) for argument in arguments)
        return isinstance(expr, Read | Reduce)

    # Reductions and macros

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
            if rank.name in found:
                raise self._refuse(rank.place, f"{expr.function}[...] names rank {rank.name!r} twice")
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
        result = self._steps.emit(Kind.REDUCTION, "identity", reduce, (access,), (), place, kept)
        return _Operand(result, scale)

    def _expanded(self, macro: MacroLine, expr: Reduce, ranks: tuple[str, ...]) -> Expr:
        """The macro's body with the ranks and the argument in place of their names.

        A macro of one rank takes several as one. Raises InputError where expansions go on without end.
        """
        self._n_expanded += 1
        if self._n_expanded > MAX_EXPANSIONS:
            raise self._refuse(
                expr.place,
                f"macro {macro.name.name!r} expands without end, or more than {MAX_EXPANSIONS} times",
            )
        if len(macro.ranks) not in (1, len(ranks)) or len(macro.arguments) != 1:
            wanted = f"{len(macro.ranks)} ranks and {len(macro.arguments)} argument"
            raise self._refuse(
                expr.place, f"macro {macro.name.name!r} takes {wanted}, got {len(ranks)} and 1"
            )
        named: tuple[Expr, ...] = tuple(Name(rank, expr.place) for rank in ranks)
        together = len(macro.ranks) < len(ranks)
        places = (Pair(named, expr.place),) if together else named
        values = {name.name: place for name, place in zip(macro.ranks, places, strict=True)}
        values[macro.arguments[0].name] = expr.argument
        found = substituted(macro.body, values, expr.place)
        if n_terms(found, self._known) > MAX_TERMS:
            raise self._refuse(
                expr.place, f"macro {macro.name.name!r} expands to more than {MAX_TERMS} terms"
            )
        return found


def _chain(expr: Expr) -> list[tuple[str, Expr]]:
    """a * b / c as [("*", a), ("*", b), ("/", c)]; what stands in brackets stays one factor."""
    if isinstance(expr, Binary) and expr.operator in "*/":
        return [*_chain(expr.left), (expr.operator, expr.right)]
    return [("*", expr)]


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
            named = (inner(rank) for rank in ranks)
            flat = (name for rank in named for name in (rank.items if isinstance(rank, Pair) else (rank,)))
            return Reduce(function, tuple(flat), inner(argument), place)
        case Call(function, arguments):
            return Call(function, tuple(inner(argument) for argument in arguments), place)
        case Binary(operator, left, right):
            return Binary(operator, inner(left), inner(right), place)
        case Pair(items):
            return Pair(tuple(inner(item) for item in items), place)
