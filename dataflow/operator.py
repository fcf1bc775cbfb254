"""Operators: one small set of kinds over an iteration space with affine projections."""

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property


class Kind(StrEnum):
    """What an operator is, and so in what its cost is counted."""

    CONTRACTION = "contraction"  # multiply-accumulates
    POINTWISE = "pointwise"  # function evaluations
    REDUCTION = "reduction"  # element operations
    SCAN = "scan"  # steps x operations, serial in one rank
    GATHER = "gather"  # rows, bytes, random accesses
    SCATTER = "scatter"  # rows, bytes, random accesses
    TOPK = "topk"  # comparisons
    SORT = "sort"  # comparisons
    TRANSFORM = "transform"  # butterflies


@dataclass(frozen=True, slots=True)
class IndexTerm:
    """coefficient * floor((rank + shift) / divisor); a shift turns positions around, as in (rank + k) mod n."""

    rank: str
    coefficient: int = 1
    divisor: int = 1
    shift: int = 0


@dataclass(frozen=True, slots=True)
class Index:
    """An affine index expression: the sum of its terms plus an offset."""

    terms: tuple[IndexTerm, ...] = ()
    offset: int = 0

    @staticmethod
    def of(rank: str) -> "Index":
        return Index((IndexTerm(rank),))


@dataclass(frozen=True)
class Access:
    """How an operator reads or writes a tensor: one index expression per rank of the tensor."""

    tensor: str
    indices: tuple[Index, ...]

    @staticmethod
    def of(tensor: str, *ranks: str) -> "Access":
        """The plain access `tensor[r0, r1, ...]`."""
        return Access(tensor, tuple(Index.of(rank) for rank in ranks))

    @cached_property
    def ranks(self) -> tuple[str, ...]:
        """The iteration ranks that appear, each once, in order of appearance."""
        return tuple(dict.fromkeys(t.rank for index in self.indices for t in index.terms))


@dataclass(frozen=True, slots=True)
class Mask:
    """Only points with lower <= rank - of <= upper are computed (None is unbounded).

    Causal attention over `cache` earlier tokens is Mask("n", "m", upper=cache); a sliding window of
    w tokens adds lower = cache - w + 1. Where `rank` (or `of`) is split, the operator iterates over
    `rank_parts` (`of_parts`), outermost first, instead: their joint position is the position in
    `rank`, and positions from the size of `rank` on, which the last tile may hold, are not computed. An
    empty `of` leaves just that: a tail that is cut off.
    """

    rank: str
    of: str
    upper: int | None = None
    lower: int | None = None
    rank_parts: tuple[str, ...] = ()
    of_parts: tuple[str, ...] = ()

    @property
    def iteration_ranks(self) -> tuple[str, ...]:
        """The ranks of the iteration space that the mask decides over."""
        of = (self.of,) if self.of else ()
        return (self.rank_parts or (self.rank,)) + (self.of_parts or of)

    def n_points(self, rank_size: int, of_size: int) -> int:
        """Unmasked (rank, of) pairs, counted exactly; `of_size` is 1 without `of`."""
        upper = rank_size - 1 if self.upper is None else min(self.upper, rank_size - 1)
        lower = 1 - of_size if self.lower is None else max(self.lower, 1 - of_size)
        if upper < lower:
            return 0
        return _pairs_up_to(upper, rank_size, of_size) - _pairs_up_to(lower - 1, rank_size, of_size)


def _pairs_up_to(distance: int, rank_size: int, of_size: int) -> int:
    """Pairs (i < rank_size, j < of_size) with i - j <= distance.

    The triangle under the diagonal, less the two that stick out of the rectangle, plus where these overlap.
    """
    corner = distance + of_size
    return (
        _triangle(corner)
        - _triangle(distance)
        - _triangle(corner - rank_size)
        + _triangle(distance - rank_size)
    )


def _triangle(side: int) -> int:
    return side * (side + 1) // 2 if side > 0 else 0


@dataclass(frozen=True)
class Operator:
    """One operator.

    `function` names the map ("mul", "exp", "gelu", "add", "identity" ...); `reduce` names what
    combines values along the ranks absent from the output ("sum", "max", "mean", ""). `group` is the
    share of the counts that it belongs to ("linear", "attention", "head", "adapter", "embedding",
    "norm", ...). `parameters` are named numbers of the function (alpha / rank, epsilon). `serial_rank`
    names the rank of a recurrence that the operator is a step of: the operators of one recurrence run
    together, step by step in ascending order (`descending`: from the last position to the first), and may
    read what a step before wrote.
    """

    name: str
    kind: Kind
    output: Access
    inputs: tuple[Access, ...]
    function: str = "identity"
    reduce: str = ""
    group: str = ""
    mask: Mask | None = None
    density: float = 1.0
    repeat: int = 1
    serial_rank: str = ""
    parameters: tuple[tuple[str, float], ...] = ()
    descending: bool = False

    @cached_property
    def ranks(self) -> tuple[str, ...]:
        """The iteration space: output ranks first, then the reduced ones."""
        found = dict.fromkeys(self.output.ranks)
        for access in self.inputs:
            found.update(dict.fromkeys(access.ranks))
        return tuple(found)

    @cached_property
    def reduced_ranks(self) -> tuple[str, ...]:
        kept = set(self.output.ranks)
        return tuple(rank for rank in self.ranks if rank not in kept)

    def steps_back(self, access: Access) -> int:
        """How many steps of the serial rank `access` lies behind the current one, 0 for none.

        It is a read of the past if one of its indices is the serial rank less a positive number (plus one,
        where the recurrence descends).
        """
        own, sign = (IndexTerm(self.serial_rank),), 1 if self.descending else -1
        behind = [sign * index.offset for index in access.indices if index.terms == own]
        return max((0, *behind)) if self.serial_rank else 0
