"""Index expressions, masks and scalars of a cascade before sizes are known."""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
    "floor": math.floor,
    "max": max,
    "min": min,
    "mod": operator.mod,
}
_TWO_SIDED = ("max", "min", "mod")

ZERO, ONE = Number(0), Number(1)
Exact = int | float | Fraction


@dataclass(frozen=True, slots=True)
class Term:
    """coefficient * rank; the coefficient is a scalar."""

    rank: str
    coefficient: Expr = ONE

    @property
    def ranks(self) -> tuple[str, ...]:
        return (self.rank,)


@dataclass(frozen=True, slots=True)
class Floor:
    """coefficient * floor(argument / divisor); both are scalars."""

    argument: "Affine"
    divisor: Expr
    coefficient: Expr = ONE

    @property
    def ranks(self) -> tuple[str, ...]:
        return self.argument.ranks


@dataclass(frozen=True, slots=True)
class Affine:
    """The sum of its terms plus an offset; `last_of` marks the last step of an iterated rank."""

    terms: tuple[Term | Floor, ...] = ()
    offset: Expr = ZERO
    last_of: str = ""

    @property
    def plain(self) -> str:
        """The rank, if the expression is just that, else the empty string."""
        if self.offset == ZERO and len(self.terms) == 1:
            (term,) = self.terms
            return term.rank if isinstance(term, Term) and term.coefficient == ONE else ""
        return ""

    @property
    def ranks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(rank for term in self.terms for rank in term.ranks))

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
            case Call("mod", (value, by)):
                argument, modulus = self.affine(value, place), self.affine(by, place)
                if modulus.terms:
                    raise expr.place.refuse(self.source, "mod(...) takes an index and a number")
                return self._remainder(argument, modulus.offset)
            case Call("mod", _):
                raise expr.place.refuse(self.source, "mod(...) takes an index and a number")
            case Call(function, (argument,)) if function in self.maps:
                variable, value = self.maps[function]
                return self._substituted(value, variable, self.affine(argument, place), expr.place)
            case Pair(items):
                return self._joint(items, expr.place)
            case Binary(sign, left, right):
                first, second = self.affine(left, place), self.affine(right, place)
                return self._combined(sign, first, second, expr.place)
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
                self.check_call(expr)
                for argument in arguments:
                    self.scalar(argument)
                return expr
            case Name(name):
                raise expr.place.refuse(self.source, f"{name!r} is not a rank, size, offset or parameter")
        raise expr.place.refuse(self.source, "a number is expected here, not a tensor")

    def check_call(self, expr: Call) -> None:
        """Raises InputError unless a function of scalars has as many arguments as it takes."""
        wanted = 2 if expr.function in _TWO_SIDED else 1
        if len(expr.arguments) != wanted:
            raise expr.place.refuse(
                self.source, f"function {expr.function!r} takes {wanted} arguments, got {len(expr.arguments)}"
            )

    def mask(self, condition: Condition) -> SymbolicMask:
        """`n <= m + c` or `abs(n - m) < w`. Raises InputError unless it sets one rank against another."""
        left, right = condition.left, condition.right
        if isinstance(left, Call) and left.function == "abs" and len(left.arguments) == 1:
            if condition.comparison not in ("<=", "<"):
                raise condition.place.refuse(self.source, "abs(...) in a condition is bounded by < or <=")
            reach = self.scalar(right)
            reach = reach if condition.comparison == "<=" else added(reach, Number(-1))
            over, of, shift = self._compared(left.arguments[0], condition.place)
            upper: Expr | None = added(reach, scaled(shift, Number(-1)))
            lower: Expr | None = scaled(added(reach, shift), Number(-1))
        else:
            over, of, shift = self._compared(Binary("-", left, right, left.place), condition.place)
            bound = scaled(shift, Number(-1))
            upper = lower = None
            if condition.comparison in ("<=", "<"):
                upper = bound if condition.comparison == "<=" else added(bound, Number(-1))
            else:
                lower = bound if condition.comparison == ">=" else added(bound, ONE)
        parts = self.splits.get(over, ()), self.splits.get(of, ())
        return SymbolicMask(over, of, upper, lower, *parts)

    def _compared(self, expr: Expr, place: Place) -> tuple[str, str, Expr]:
        """(n, m, shift) of the difference n - m + shift of two ranks."""
        found = self.affine(self._whole(expr), place)
        ranks: dict[Expr, list[str]] = {}
        for term in found.terms:
            if not isinstance(term, Term) or term.coefficient not in (ONE, Number(-1)):
                ranks = {}
                break
            ranks.setdefault(term.coefficient, []).append(term.rank)
        over, of = ranks.get(ONE, []), ranks.get(Number(-1), [])
        if len(over) != 1 or len(of) != 1:
            raise place.refuse(
                self.source, "each side of a condition is a rank plus or minus a number, both ranks different"
            )
        if over == of:
            raise place.refuse(self.source, f"the condition is about rank {over[0]!r} alone")
        return over[0], of[0], found.offset

    def _whole(self, expr: Expr) -> Expr:
        """`expr` with the rank that is split in the place of its joint parts."""
        match expr:
            case Pair(items):
                self._joint(items, expr.place)
                parts = tuple(item.name for item in items if isinstance(item, Name))
                whole = next(rank for rank, known in self.splits.items() if known == parts)
                return Name(whole, expr.place)
            case Binary(sign, left, right):
                return Binary(sign, self._whole(left), self._whole(right), expr.place)
        return expr

    def _joint(self, items: tuple[Expr, ...], place: Place) -> Affine:
        names = tuple(item.name for item in items if isinstance(item, Name))
        if names not in self.splits.values():
            known = ", ".join(f"({outer}, {inner})" for outer, inner in self.splits.values()) or "none"
            raise place.refuse(self.source, f"({', '.join(names)}) is not a split rank; split ranks: {known}")
        outer, inner = names
        return Affine((Term(outer, Name(inner.upper())), Term(inner)))

    def _remainder(self, value: Affine, divisor: Expr) -> Affine:
        """value - divisor * floor(value / divisor), from 0 to below the divisor."""
        whole = Floor(value, divisor, scaled(divisor, Number(-1)))
        return Affine((*value.terms, whole), value.offset)

    def _substituted(self, value: Expr, variable: str, argument: Affine, place: Place) -> Affine:
        match value:
            case Name(name) if name == variable:
                return argument
            case Binary(sign, left, right):
                first = self._substituted(left, variable, argument, place)
                second = self._substituted(right, variable, argument, place)
                return self._combined(sign, first, second, place)
            case Call("mod", (inner, by)):
                return self._remainder(self._substituted(inner, variable, argument, place), self.scalar(by))
        return Affine((), self.scalar(value))

    def _combined(self, sign: str, left: Affine, right: Affine, place: Place) -> Affine:
        if sign == "-":
            return self._combined("+", left, _times(right, Number(-1)), place)
        if sign == "+":
            return Affine(left.terms + right.terms, added(left.offset, right.offset))
        if sign == "*":
            if left.terms and right.terms:
                raise place.refuse(self.source, "a product of two ranks is not an affine index")
            return _times(left, right.offset) if left.terms else _times(right, left.offset)
        if right.terms:
            raise place.refuse(self.source, "an index cannot divide by a rank")
        if not left.terms:
            return Affine((), quotient(left.offset, right.offset))
        return Affine((Floor(left, right.offset),))


def _times(value: Affine, factor: Expr) -> Affine:
    terms = tuple(replace(term, coefficient=scaled(term.coefficient, factor)) for term in value.terms)
    return Affine(terms, scaled(value.offset, factor))


def named_in(expr: Expr) -> tuple[str, ...]:
    """The names that a scalar needs the values of."""
    match expr:
        case Name(name):
            return () if name in CONSTANTS else (name,)
        case Call(_, arguments):
            return tuple(name for argument in arguments for name in named_in(argument))
        case Binary(_, left, right):
            return (*named_in(left), *named_in(right))
    return ()


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
        case Binary(sign, left_expr, right_expr):
            left, right = evaluate(left_expr, values), evaluate(right_expr, values)
            if sign == "+":
                return left + right
            if sign == "-":
                return left - right
            if sign == "*":
                return left * right
            if right == 0:
                raise ZeroDivisionError("division by zero")
            both_exact = not isinstance(left, float) and not isinstance(right, float)
            return Fraction(left) / Fraction(right) if both_exact else left / right
    raise TypeError(f"not a scalar: {expr}")
