"""Operators: one small set of kinds over an iteration space with affine projections."""

from dataclasses import dataclass
from enum import StrEnum


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
    """coefficient * floor(rank / divisor)."""

    rank: str
    coefficient: int = 1
    divisor: int = 1


@dataclass(frozen=True, slots=True)
class Index:
    """An affine index expression: the sum of its terms plus an offset."""

    terms: tuple[IndexTerm, ...] = ()
    offset: int = 0

    @staticmethod
    def of(rank: str) -> "Index":
        return Index((IndexTerm(rank),))


@dataclass(frozen=True, slots=True)
class Access:
    """How an operator reads or writes a tensor: one index expression per rank of the tensor."""

    tensor: str
    indices: tuple[Index, ...]

    @staticmethod
    def of(tensor: str, *ranks: str) -> "Access":
        """The plain access `tensor[r0, r1, ...]`."""
        return Access(tensor, tuple(Index.of(rank) for rank in ranks))

    @property
    def ranks(self) -> tuple[str, ...]:
        """The iteration ranks that appear, each once, in order of appearance."""
        return tuple(dict.fromkeys(t.rank for index in self.indices for t in index.terms))


@dataclass(frozen=True, slots=True)
class Mask:
    """Only points with lower <= rank - of <= upper are computed (None is unbounded).

    Causal attention over `cache` earlier tokens is Mask("n", "m", upper=cache); a sliding window of
    w tokens adds lower = cache - w + 1.
    """

    rank: str
    of: str
    upper: int | None = None
    lower: int | None = None

    def n_points(self, rank_size: int, of_size: int) -> int:
        """Unmasked (rank, of) pairs, counted exactly."""
        total = 0
        for position in range(of_size):
            high = rank_size - 1 if self.upper is None else min(rank_size - 1, position + self.upper)
            low = 0 if self.lower is None else max(0, position + self.lower)
            total += max(0, high - low + 1)
        return total


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator.

    `function` names the map ("mul", "exp", "gelu", "add", "identity" ...); `reduce` names what
    combines values along the ranks absent from the output ("sum", "max", "mean", ""). `group` is the
    share of the counts that it belongs to ("linear", "attention", "head", "adapter", "embedding",
    "norm", ...). `parameters` are named numbers of the function (alpha / rank, epsilon).
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

    @property
    def ranks(self) -> tuple[str, ...]:
        """The iteration space: output ranks first, then the reduced ones."""
        found = dict.fromkeys(self.output.ranks)
        for access in self.inputs:
            found.update(dict.fromkeys(access.ranks))
        return tuple(found)

    @property
    def reduced_ranks(self) -> tuple[str, ...]:
        kept = set(self.output.ranks)
        return tuple(rank for rank in self.ranks if rank not in kept)
