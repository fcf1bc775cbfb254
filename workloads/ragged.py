"""Batches of sequences that are not all of one length: attention for each length, everything else for all.

The tokens of all sequences stand in one row, `b` = 1 and `m` = all of them, shortest sequences first. An
attention is built once for each distinct length, over ranks of its own, and reads its part of the row.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind, Mask, Operator
from tilewright.dataflow.tensor import Role
from tilewright.workloads.builder import LayerBuilder
from tilewright.workloads.run import Run


@dataclass(frozen=True, slots=True)
class Sequences:
    """The sequences of one length: their own run, and where their tokens start in the row of all."""

    run: Run
    first: int

    @property
    def ending(self) -> str:
        """What sets their ranks, tensors and operators apart."""
        return f"_{self.run.seq}" + (f"_{self.run.cache}" if self.run.cache else "")


def sequences(run: Run) -> tuple[Sequences, ...]:
    """The sequences of a ragged run by length; in decode the lengths are those of what is held."""
    assert run.lengths is not None
    found, first = [], 0
    for length, count in run.lengths.entries:
        if run.phase == "decode":
            seq, cache = run.seq // run.lengths.n_instances, length
        else:
            seq, cache = length, run.cache
        found.append(Sequences(replace(run, batch=count, seq=seq, cache=cache, lengths=None), first))
        first += count * seq
    return tuple(found)


def mix_by_length(builder: LayerBuilder, shared: tuple[str, ...], fill: Callable[[LayerBuilder], str]) -> str:
    """`fill` for the sequences of each length, joined: mixed[b, m, h, f] of all tokens.

    `fill` adds an attention to a builder of its own run, and may read tensors [b, token, ...] of `builder`.
    `shared` are ranks that do not depend on the length.
    """
    joined = ""
    for part in sequences(builder.run):
        own = LayerBuilder(builder.name, builder.path, part.run)
        for rank in shared:
            own.rank(rank, builder.size((rank,)))
        own.rank("b", part.run.batch)
        own.rank("m", part.run.seq)
        mixed = fill(own) + part.ending
        _Graft(builder, own, part, frozenset(shared)).move()
        joined = _join(builder, mixed, part, joined)
    return joined


@dataclass(frozen=True, slots=True)
class _Graft:
    """Moves what a builder of one length holds into that of all, under names of its own."""

    builder: LayerBuilder
    own: LayerBuilder
    part: Sequences
    shared: frozenset[str]

    def move(self) -> None:
        own, builder = self.own, self.builder
        for rank, size in own.ranks.items():
            if rank not in self.shared:
                builder.rank(self._rank(rank), size)
        inputs = set(own.inputs)
        for tensor in own.tensors:
            ranks = tuple(self._rank(rank) for rank in tensor.ranks)
            name = tensor.name + self.part.ending
            if tensor.name in inputs:
                builder.input(name, ranks, tensor.role)
            else:
                builder.tensor(name, ranks, tensor.role, tensor.dtype)
        for operator in own.operators:
            builder.append(self._operator(operator))
        for name in own.kept:
            builder.keep(name + self.part.ending)
        builder.trained.extend(name + self.part.ending for name in own.trained)

    def _rank(self, rank: str) -> str:
        return rank if rank in self.shared else rank + self.part.ending

    def _operator(self, operator: Operator) -> Operator:
        return replace(
            operator,
            name=operator.name + self.part.ending,
            output=self._access(operator.output),
            inputs=tuple(map(self._access, operator.inputs)),
            mask=operator.mask and self._mask(operator.mask),
            serial_rank=operator.serial_rank and self._rank(operator.serial_rank),
        )

    def _access(self, access: Access) -> Access:
        indices = tuple(self._index(index) for index in access.indices)
        if self.own.has(access.tensor):
            return Access(access.tensor + self.part.ending, indices)
        return Access(access.tensor, (Index(), _row(self.part, indices[1]), *indices[2:]))

    def _index(self, index: Index) -> Index:
        return Index(tuple(replace(term, rank=self._rank(term.rank)) for term in index.terms), index.offset)

    def _mask(self, mask: Mask) -> Mask:
        return replace(
            mask,
            rank=self._rank(mask.rank),
            of=mask.of and self._rank(mask.of),
            rank_parts=tuple(map(self._rank, mask.rank_parts)),
            of_parts=tuple(map(self._rank, mask.of_parts)),
        )


def _row(part: Sequences, token: Index) -> Index:
    """The place of a token of each of the sequences in the row of all."""
    sequence = IndexTerm(f"b{part.ending}", part.run.seq)
    return Index((sequence, *token.terms), token.offset + part.first)


def _join(builder: LayerBuilder, mixed: str, part: Sequences, joined: str) -> str:
    """What one length adds to the row of all tokens; what stands there already stays in place."""
    source = builder.access(mixed)
    result = builder.tensor(f"joined{part.ending}", ("b", "m", *source.ranks[2:]), Role.ACTIVATION)
    token = _row(part, Index.of(f"m{part.ending}"))
    place = Access(result, (Index(), token, *source.indices[2:]))
    inputs = [source]
    if joined:
        inputs.insert(0, Access(joined, tuple(Index() for _ in builder.ranks_of(joined))))
    return builder.add(f"join{part.ending}", Kind.SCATTER, place, tuple(inputs), group="layout")
