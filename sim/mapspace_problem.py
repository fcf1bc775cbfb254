"""One contraction as a mapper sees it: ranks with sizes, and operands with the ranks of their indices."""

from dataclasses import dataclass
from math import prod

from tilewright.dataflow.errors import InputError, nearest
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Kind, Operator

#: Counts stay exact in a 64-bit integer with room for the copies that fan-outs make.
MAX_MACS = 1 << 62


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor of a contraction: for every index the (rank, step) pairs that it sums."""

    name: str
    indices: tuple[tuple[tuple[str, int], ...], ...]
    bits: int

    @property
    def ranks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(rank for index in self.indices for rank, _ in index))


@dataclass(frozen=True)
class Contraction:
    """output += product of the inputs, over all ranks; `sizes` are (rank, size) pairs."""

    name: str
    sizes: tuple[tuple[str, int], ...]
    inputs: tuple[Operand, ...]
    output: Operand

    @property
    def has_strided_window(self) -> bool:
        """Whether an index sums ranks with a step above 1, as a strided or dilated convolution does."""
        operands = (*self.inputs, self.output)
        sums = [index for operand in operands for index in operand.indices if len(index) > 1]
        return any(step > 1 for index in sums for _, step in index)

    def __post_init__(self) -> None:
        place = f"contraction {self.name!r}"
        sizes = dict(self.sizes)
        if bad := [(rank, size) for rank, size in self.sizes if size <= 0]:
            raise InputError(f"{place}: rank {bad[0][0]!r} must have size > 0, got {bad[0][1]}")
        for operand in self.operands:
            if missing := [rank for rank in operand.ranks if rank not in sizes]:
                raise InputError(
                    f"{place}: {operand.name!r} has rank {missing[0]!r} without a size"
                    f"{nearest(missing[0], list(sizes))}"
                )
            if len(operand.ranks) != sum(len(index) for index in operand.indices):
                raise InputError(f"{place}: {operand.name!r} has a rank in two of its indices")
        if any(len(index) > 1 for index in self.output.indices):
            raise InputError(f"{place}: an index of the output {self.output.name!r} sums ranks")
        if self.macs >= MAX_MACS:
            raise InputError(f"{place}: {self.macs} multiply-accumulates, the limit is {MAX_MACS}")

    @property
    def operands(self) -> tuple[Operand, ...]:
        """The inputs, then the output."""
        return (*self.inputs, self.output)

    @property
    def macs(self) -> int:
        return prod(size for _, size in self.sizes)

    def merged(self) -> "Contraction":
        """The same with ranks that stand in the same operands, alone in their indices, made one; size 1 left out.

        Tiles of a merged rank are runs of its parts in order, so the space holds all tiles of the parts that
        are runs, and more.
        """
        if self.macs == 1:
            return self
        summed = {
            rank for one in self.operands for index in one.indices if len(index) > 1 for rank, _ in index
        }
        groups: dict[object, list[tuple[str, int]]] = {}
        for rank, size in self.sizes:
            if size == 1:
                continue
            where = tuple(rank in operand.ranks for operand in self.operands)
            groups.setdefault(rank if rank in summed else where, []).append((rank, size))
        names = {rank: "*".join(r for r, _ in group) for group in groups.values() for rank, _ in group}
        heads = {group[0][0] for group in groups.values()}

        def mended(operand: Operand) -> Operand:
            indices = (tuple((names[r], s) for r, s in index if r in heads) for index in operand.indices)
            return Operand(operand.name, tuple(index for index in indices if index), operand.bits)

        sizes = tuple((names[group[0][0]], prod(n for _, n in group)) for group in groups.values())
        return Contraction(self.name, sizes, tuple(map(mended, self.inputs)), mended(self.output))


def gemm(m: int, n: int, k: int, bits: int = 16, name: str = "gemm") -> Contraction:
    """C[m, n] += A[m, k] * B[k, n]."""

    def operand(tensor: str, *ranks: str) -> Operand:
        return Operand(tensor, tuple(((rank, 1),) for rank in ranks), bits)

    return Contraction(
        name, (("m", m), ("n", n), ("k", k)), (operand("A", "m", "k"), operand("B", "k", "n")),
        operand("C", "m", "n"),
    )  # fmt: skip


def contraction_of(graph: Graph, operator: Operator) -> Contraction:
    """The contraction that an operator of a graph is; a mask is left out, so masked points are counted.

    Raises InputError for another kind, or indices that are no sums of ranks.
    """
    if operator.kind is not Kind.CONTRACTION:
        raise InputError(f"operator {operator.name!r} is a {operator.kind.value}, not a contraction")
    return statement_of(graph, operator)


def statement_of(graph: Graph, operator: Operator) -> Contraction:
    """Ranks and operands of an operator of any kind, in the shape of a contraction."""
    sizes = {rank: graph.size(rank) for rank in operator.ranks}
    parts = _divided(operator, sizes)
    n_times: dict[str, int] = {}
    operands = []
    for access in (*operator.inputs, operator.output):
        n_times[access.tensor] = n_times.get(access.tensor, 0) + 1
        again = n_times[access.tensor]
        name = access.tensor if again == 1 else f"{access.tensor}#{again}"
        operands.append(Operand(name, _indices(access, parts), graph.tensor_by_name[access.tensor].bits))
    whole = {part: n for rank, size in sizes.items() for part, n in parts.get(rank, ((rank, size),))}
    if operator.repeat > 1:
        whole["repeat"] = operator.repeat
        operands = [Operand(o.name, ((("repeat", 1),), *o.indices), o.bits) for o in operands]
    return Contraction(operator.name, tuple(whole.items()), tuple(operands[:-1]), operands[-1])


def _divided(operator: Operator, sizes: dict[str, int]) -> dict[str, tuple[tuple[str, int], ...]]:
    """Ranks that an index divides, as (part, size) pairs: the quotient and the rest."""
    parts: dict[str, tuple[tuple[str, int], ...]] = {}
    for access in (*operator.inputs, operator.output):
        for term in (term for index in access.indices for term in index.terms if term.divisor > 1):
            size, divisor = sizes[term.rank], term.divisor
            known = parts.setdefault(
                term.rank, ((f"{term.rank}/{divisor}", size // divisor), (f"{term.rank}%{divisor}", divisor))
            )
            if size % divisor or known[1][1] != divisor:
                raise InputError(
                    f"operator {operator.name!r}: rank {term.rank!r} of size {size} is divided by {divisor},"
                    " which must divide it and be the only divisor"
                )
    return parts


def _indices(
    access: Access, parts: dict[str, tuple[tuple[str, int], ...]]
) -> tuple[tuple[tuple[str, int], ...], ...]:
    found: list[tuple[tuple[str, int], ...]] = []
    for index in access.indices:
        if len(index.terms) == 1 and index.terms[0].rank in parts:
            quotient, rest = parts[index.terms[0].rank]
            found.append(((quotient[0], 1),))
            if index.terms[0].divisor == 1:
                found.append(((rest[0], 1),))
            continue
        if any(term.rank in parts for term in index.terms):
            raise InputError(f"tensor {access.tensor!r}: an index sums a rank that another index divides")
        if index.terms:
            found.append(tuple((term.rank, abs(term.coefficient)) for term in index.terms))
    return tuple(found)
