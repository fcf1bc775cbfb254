"""Index expressions, masks and scalars of a cascade before sizes are known."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tilewright.dataflow.cascade_syntax import (
    Binary,
    Call,
    Condition,
    Expr,
    Name,
    Number,
    Pair,
    Place,
)

#: The lowest finite number of a 32-bit float: a start for running maxima that stays a number.
LOWEST = -(2.0 - 2.0**-23) * 2.0**127

#: Names that a scalar may use anywhere.
CONSTANTS: Mapping[str, float] = {"inf": math.inf, "lowest": LOWEST}

#: Functions of scalars, evaluated when ranks are bound.
SCALAR_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "max": max,
    "min": min,
}

ZERO, ONE = Number(0), Number(1)
Exact = int | float | Fraction


@dataclass(frozen=True, slots=True)
class Term:
    """coefficient * floor(rank / divisor); both are scalars."""

    rank: str
    coefficient: Expr = ONE
    divisor: Expr = ONE


@dataclass(frozen=True, slots=True)
class Affine:
    """The sum of its terms plus an offset; `last_of` marks the last step of an iterated rank."""

    terms: tuple[Term, ...] = ()
    offset: Expr = ZERO
    last_of: str = ""

    @property
    def plain(self) -> str:
        """The rank, if the expression is just that, else the empty string."""
        if len(self.terms) == 1 and self.offset == ZERO and self.terms[0] == Term(self.terms[0].rank):
            return self.terms[0].rank
        return ""

    @property
    def ranks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(term.rank for term in self.terms))

    def shift_of(self, rank: str) -> int | None:
        """k, if the expression is `rank + k` with a literal whole k, else None."""
        if self.terms == (Term(rank),) and isinstance(self.offset, Number):
            return int(self.offset.value)
        return None


def plain(rank: str) -> Affine:
    return Affine((Term(rank),))


@dataclass(frozen=True, slots=True)
class SymbolicMask:
    """`dataflow.operator.Mask` with bounds that are still scalars."""

    rank: str
    of: str
    upper: Expr | None
    lower: Expr | None
    rank_parts: tuple[str, ...] = ()
    of_parts: tuple[str, ...] = ()

    @property
    def ranks(self) -> tuple[str, ...]:
        """The iteration ranks that the mask decides over."""
        return (self.rank_parts or (self.rank,)) + (self.of_parts or (self.of,))

    def turned(self) -> "SymbolicMask":
        """The same points, said of `of` against `rank`."""
        upper = None if self.lower is None else scaled(self.lower, Number(-1))
        lower = None if self.upper is None else scaled(self.upper, Number(-1))
        return SymbolicMask(self.of, self.rank, upper, lower, self.of_parts, self.rank_parts)

    def joined(self, other: "SymbolicMask") -> "SymbolicMask | None":
        """The points under both masks; None if they are about different ranks."""
        if (other.rank, other.of) == (self.of, self.rank):
            other = other.turned()
        if (self.rank, self.of, self.ranks) != (other.rank, other.of, other.ranks):
            return None
        upper, lower = _both("min", self.upper, other.upper), _both("max", self.lower, other.lower)
        return SymbolicMask(self.rank, self.of, upper, lower, self.rank_parts, self.of_parts)


def _both(function: str, first: Expr | None, second: Expr | None) -> Expr | None:
    if first is None or second is None or first == second:
        return second if first is None else first
    return Call(function, (first, second))


def added(left: Expr, right: Expr) -> Expr:
    """left + right, literals folded."""
    if isinstance(left, Number) and isinstance(right, Number):
        return Number(left.value + right.value)
    if ZERO in (left, right):
        return right if left == ZERO else left
    return Binary("+", left, right)


def scaled(left: Expr, right: Expr) -> Expr:
    """left * right, literals folded."""
    if isinstance(left, Number) and isinstance(right, Number):
        return Number(left.value * right.value)
    if ONE in (left, right):
        return right if left == ONE else left
    return Binary("*", left, right)


def quotient(left: Expr, right: Expr) -> Expr:
    return left if right == ONE else Binary("/", left, right)


@dataclass(frozen=True)
class Names:
    """What the names of a cascade stand for, and the text that they come from."""

    source: str
    ranks: tuple[str, ...]
    splits: Mapping[str, tuple[str, str]]  # rank -> (outer, inner)
    maps: Mapping[str, tuple[str, Expr]]  # index map -> (variable, value)
    scalars: frozenset[str]  # sizes, offsets and parameters
    iterated: tuple[str, ...]

    def affine(self, expr: Expr, place: Place) -> Affine:
        """An index expression in normal form. Raises InputError where it is not affine in ranks."""
        match expr:
            case Number():
                return Affine((), expr)
            case Name(name):
                if name in self.ranks:
                    return plain(name)
                return Affine((), self.scalar(expr))
            case Call("last", (Name(rank),)) if rank in self.iterated:
                return Affine((), added(Name(rank.upper()), Number(-1)), last_of=rank)
            case Call("last", _):
                raise expr.place.refuse(self.source, "last(...) takes one iterated rank")
            case Call(function, (argument,)) if function in self.maps:
                variable, value = self.maps[function]
                return self._substituted(value, variable, self.affine(argument, place), place)
            case Pair(items):
                return self._joint(items, expr.place)
            case Binary(operator, left, right):
                first, second = self.affine(left, place), self.affine(right, place)
                return self._combined(operator, first, second, expr.place)
        raise expr.place.refuse(self.source, "an index is made of ranks, numbers and index maps")

    def scalar(self, expr: Expr) -> Expr:
        """`expr` itself, if it is made of numbers and known scalars only; else InputError."""
        match expr:
            case Number():
                return expr
            case Name(name) if name in self.scalars or name in CONSTANTS:
                return expr
            case Binary(_, left, right):
                self.scalar(left), self.scalar(right)
                return expr
            case Call(function, arguments) if function in SCALAR_FUNCTIONS:
                for argument in arguments:
                    self.scalar(argument)
                return expr
            case Name(name):
                raise expr.place.refuse(self.source, f"{name!r} is not a rank, size, offset or parameter")
        raise expr.place.refuse(self.source, "a number is expected here, not a tensor")

    def mask(self, condition: Condition) -> SymbolicMask:
        """`n <= m + c`. Raises InputError unless it sets one rank against another."""
        left, right = self._side(condition.left), self._side(condition.right)
        (over,), (of,) = left.ranks, right.ranks
        if over == of:
            raise condition.place.refuse(self.source, f"the condition is about rank {over!r} alone")
        bound = added(right.offset, scaled(left.offset, Number(-1)))
        upper = lower = None
        if condition.comparison in ("<=", "<"):
            upper = bound if condition.comparison == "<=" else added(bound, Number(-1))
        else:
            lower = bound if condition.comparison == ">=" else added(bound, ONE)
        parts = self.splits.get(over, ()), self.splits.get(of, ())
        return SymbolicMask(over, of, upper, lower, *parts)

    def _side(self, expr: Expr) -> Affine:
        """One side of a condition, a rank plus a number; joint parts stand for the rank they split."""
        if isinstance(expr, Pair):
            found = self._joint(expr.items, expr.place)
            whole = next(rank for rank, parts in self.splits.items() if parts == found.ranks)
            return plain(whole)
        if isinstance(expr, Binary) and expr.operator in "+-" and isinstance(expr.left, Pair):
            shift = self.scalar(expr.right)
            shift = shift if expr.operator == "+" else scaled(shift, Number(-1))
            return Affine(self._side(expr.left).terms, shift)
        found = self.affine(expr, expr.place)
        if len(found.terms) != 1 or found.terms[0] != Term(found.terms[0].rank):
            raise expr.place.refuse(self.source, "each side of a condition is a rank plus or minus a number")
        return found

    def _joint(self, items: tuple[Expr, ...], place: Place) -> Affine:
        names = tuple(item.name for item in items if isinstance(item, Name))
        if names not in self.splits.values():
            known = ", ".join(f"({outer}, {inner})" for outer, inner in self.splits.values()) or "none"
            raise place.refuse(self.source, f"({', '.join(names)}) is not a split rank; split ranks: {known}")
        outer, inner = names
        return Affine((Term(outer, Name(inner.upper())), Term(inner)))

    def _substituted(self, value: Expr, variable: str, argument: Affine, place: Place) -> Affine:
        match value:
            case Name(name) if name == variable:
                return argument
            case Binary(operator, left, right):
                first = self._substituted(left, variable, argument, place)
                second = self._substituted(right, variable, argument, place)
                return self._combined(operator, first, second, place)
        return Affine((), self.scalar(value))

    def _combined(self, operator: str, left: Affine, right: Affine, place: Place) -> Affine:
        if operator == "-":
            return self._combined("+", left, _times(right, Number(-1)), place)
        if operator == "+":
            return Affine(left.terms + right.terms, added(left.offset, right.offset))
        if operator == "*":
            if left.terms and right.terms:
                raise place.refuse(self.source, "a product of two ranks is not an affine index")
            return _times(left, right.offset) if left.terms else _times(right, left.offset)
        if right.terms:
            raise place.refuse(self.source, "an index cannot divide by a rank")
        if not left.terms:
            return Affine((), quotient(left.offset, right.offset))
        if not left.plain:
            raise place.refuse(self.source, "only a plain rank can be divided in an index (floor division)")
        return Affine((Term(left.plain, ONE, right.offset),))


def _times(value: Affine, factor: Expr) -> Affine:
    terms = tuple(Term(term.rank, scaled(term.coefficient, factor), term.divisor) for term in value.terms)
    return Affine(terms, scaled(value.offset, factor))


def evaluate(expr: Expr, values: Mapping[str, Exact]) -> Exact:
    """A scalar with sizes, offsets and parameters filled in; whole numbers are divided exactly.

    Raises ArithmeticError or ValueError where the scalar has no value.
    """
    match expr:
        case Number(value):
            return value
        case Name(name):
            return CONSTANTS[name] if name in CONSTANTS else values[name]
        case Call(function, arguments):
            value = SCALAR_FUNCTIONS[function](*(evaluate(argument, values) for argument in arguments))
            assert isinstance(value, Exact)
            return value
        case Binary(operator, left_expr, right_expr):
            left, right = evaluate(left_expr, values), evaluate(right_expr, values)
            if operator == "+":
                return left + right
            if operator == "-":
                return left - right
            if operator == "*":
                return left * right
            if right == 0:
                raise ZeroDivisionError("division by zero")
            both_exact = not isinstance(left, float) and not isinstance(right, float)
            return Fraction(left) / Fraction(right) if both_exact else left / right
    raise TypeError(f"not a scalar: {expr}")
