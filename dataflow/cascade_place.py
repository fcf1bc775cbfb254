"""Places that indices give at known sizes: `IndexTerm`s of a symbolic index, and how far they reach."""

from collections.abc import Callable, Mapping
from math import lcm

from tilewright.dataflow.cascade_index import Affine, Term
from tilewright.dataflow.cascade_syntax import Expr, Place
from tilewright.dataflow.operator import Index, IndexTerm

#: Pieces of an index between the jumps of its floors that are looked at.
_MAX_PIECES = 1 << 18

#: A rank, what its floor divides by, what it adds before: floor((rank + shift) / divisor).
_Key = tuple[str, int, int]


class TooManyPositionsError(ValueError):
    """An index jumps too often along a rank for its reach to be found."""


def resolve(
    index: Affine, integer: Callable[[Expr], int], place: Place, source: str
) -> tuple[tuple[IndexTerm, ...], int]:
    """The terms and the offset of an index; `integer` gives the value of a scalar.

    floor((d A + B) / d) is A + floor(B / d), and a floor of a floor is one floor, so that splits, rolls and
    remainders of remainders come out as terms of one rank each. Raises InputError where that fails.
    """
    terms, offset = _resolved(index, integer, place, source)
    return tuple(IndexTerm(rank, n, divisor, shift) for (rank, divisor, shift), n in terms.items()), offset


def _resolved(
    index: Affine, integer: Callable[[Expr], int], place: Place, source: str
) -> tuple[dict[_Key, int], int]:
    found: dict[_Key, int] = {}
    offset = integer(index.offset)
    for term in index.terms:
        coefficient = integer(term.coefficient)
        if isinstance(term, Term):
            inner, start = {(term.rank, 1, 0): 1}, 0
        else:
            divisor = integer(term.divisor)
            if divisor < 1:
                raise place.refuse(
                    source, f"an index divides {', '.join(term.ranks) or 'a number'} by {divisor}"
                )
            argument, before = _resolved(term.argument, integer, place, source)
            inner, start = _divided(argument, before, divisor, place, source)
        offset += coefficient * start
        for key, n in inner.items():
            found[key] = found.get(key, 0) + coefficient * n
    return found, offset


def _divided(
    terms: dict[_Key, int], offset: int, divisor: int, place: Place, source: str
) -> tuple[dict[_Key, int], int]:
    """The terms and the offset of the floor of a sum divided by a number."""
    whole = {key: n // divisor for key, n in terms.items() if n % divisor == 0 and n}
    rest = {key: n for key, n in terms.items() if n % divisor}
    start, before = divmod(offset, divisor)
    if not rest:
        return whole, start
    ((rank, inner, shift), n), *others = rest.items()
    if others or n != 1:
        ranks = ", ".join(dict.fromkeys(key[0] for key in rest))
        raise place.refuse(
            source, f"an index divides {ranks} by {divisor}: beside multiples of it, one rank is divided"
        )
    extra, shift = divmod(shift + before * inner, inner * divisor)
    key = (rank, inner * divisor, shift)
    whole[key] = whole.get(key, 0) + 1
    return whole, start + extra


def reach(index: Index, sizes: Mapping[str, int]) -> tuple[int, int]:
    """The lowest and the highest value of an index over whole ranks. Raises TooManyPositionsError."""
    by_rank: dict[str, list[IndexTerm]] = {}
    for term in index.terms:
        by_rank.setdefault(term.rank, []).append(term)
    low = high = index.offset
    for rank, terms in by_rank.items():
        values = [_value(terms, position) for position in _turns(terms, sizes[rank])]
        low, high = low + min(values), high + max(values)
    return low, high


def _value(terms: list[IndexTerm], position: int) -> int:
    return sum(term.coefficient * ((position + term.shift) // term.divisor) for term in terms)


def _turns(terms: list[IndexTerm], size: int) -> set[int]:
    """The positions of a rank among which a sum of its terms has its extremes: those beside the jumps.

    Between jumps the sum is linear. One that neither climbs nor falls from one common multiple of its
    divisors to the next repeats there. Raises TooManyPositionsError.
    """
    if len(terms) == 1:
        return {0, size - 1}
    period = lcm(*(term.divisor for term in terms))
    if sum(term.coefficient * (period // term.divisor) for term in terms) == 0:
        size = min(size, period)
    jumping = [term for term in terms if term.divisor > 1]
    if sum(size // term.divisor + 1 for term in jumping) > _MAX_PIECES:
        raise TooManyPositionsError
    found = {0, size - 1}
    for term in jumping:
        for jump in range(-term.shift % term.divisor, size, term.divisor):
            found |= {jump, max(0, jump - 1)}
    return found
