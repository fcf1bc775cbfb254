"""Steps of a cascade: one primitive operation each, with masks and serial ranks worked out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tilewright.dataflow.cascade_declare import DeclaredTensor
from tilewright.dataflow.cascade_index import Affine, Names, SymbolicMask, plain
from tilewright.dataflow.cascade_syntax import Expr, Place, Statement
from tilewright.dataflow.errors import InputError
from tilewright.dataflow.operator import Kind

#: Operators of a text; more is no cascade.
MAX_STEPS = 1000


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
        return united(self.output_ranks, *(access.ranks for access in self.inputs))


def united(*ranks: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(rank for group in ranks for rank in group))


class StepBuilder:
    """Collects the steps of one statement; `masks` are those of tensors assigned so far, by name.

    Equal operations become one step.
    """

    def __init__(
        self,
        names: Names,
        tensors: Mapping[str, DeclaredTensor],
        statement: Statement,
        group: str,
        masks: dict[str, SymbolicMask],
    ) -> None:
        self._names = names
        self._tensors = tensors
        self._statement = statement
        self._group = group
        self._masks = masks
        self._target = tensors[statement.name.name].ranks
        self._condition = self._joined_conditions()
        self._steps: list[Step] = []

    def emit(
        self,
        kind: Kind,
        function: str,
        reduce: str,
        inputs: tuple[SymbolicAccess, ...],
        scalars: tuple[tuple[str, Expr], ...],
        place: Place,
        ranks: tuple[str, ...] | None = None,
    ) -> SymbolicAccess:
        """Add a step over `ranks` (default: all of the inputs'), or find the same one; reads its result.

        Raises InputError where masks cannot be joined or two iterated ranks meet.
        """
        free = united(*(access.ranks for access in inputs)) if ranks is None else ranks
        ordered = tuple(rank for rank in self._target if rank in free)
        ordered += tuple(rank for rank in free if rank not in ordered)
        result = tuple(plain(rank) for rank in ordered)
        for step in self._steps:
            if (step.kind, step.function, step.reduce, step.inputs, step.scalars, step.output_ranks) == (
                kind, function, reduce, inputs, scalars, ordered,
            ):  # fmt: skip
                return SymbolicAccess(step.name, result)
        if len(self._steps) == MAX_STEPS:
            raise self._refuse(place, f"a cascade has at most {MAX_STEPS} operators")
        name = self._free_name({Kind.CONTRACTION: "dot", Kind.REDUCTION: reduce}.get(kind, function))
        mask = self._mask(inputs, place)
        serial = self._serial_rank(ordered, place)
        self._steps.append(
            Step(name, kind, function, reduce, ordered, inputs, scalars, mask, self._group, serial, place)
        )
        if mask and set(mask.ranks) <= set(ordered):
            self._masks[name] = mask
        return SymbolicAccess(name, result)

    def finish(self, root: SymbolicAccess) -> tuple[Step, ...]:
        """The steps; the last one computes `root` and takes the statement's name and ranks.

        Raises InputError for a condition on ranks that no step runs over.
        """
        statement = self._statement
        if not self._steps or self._steps[-1].name != root.tensor:
            self.emit(Kind.POINTWISE, "identity", "", (root,), (), statement.name.place)
        last = self._steps[-1]
        self._steps[-1] = replace(last, name=statement.name.name, output_ranks=self._target)
        if mask := self._masks.pop(last.name, None):
            self._masks[statement.name.name] = mask
        if self._condition and not any(set(self._condition.ranks) <= set(step.ranks) for step in self._steps):
            ranks = ", ".join(self._condition.ranks)
            raise self._refuse(
                statement.conditions[0].place,
                f"the statement does not run over the ranks of its condition: {ranks}",
            )
        return tuple(self._steps)

    def _refuse(self, place: Place, message: str) -> InputError:
        return place.refuse(self._names.source, message)

    def _free_name(self, label: str) -> str:
        """`tensor.label`, numbered from the second one on."""
        name, taken = f"{self._statement.name.name}.{label}", {step.name for step in self._steps}
        if name not in taken:
            return name
        return next(f"{name}{k}" for k in range(2, len(taken) + 3) if f"{name}{k}" not in taken)

    def _serial_rank(self, ranks: tuple[str, ...], place: Place) -> str:
        found = [rank for rank in self._names.iterated if rank in ranks]
        if len(found) > 1:
            raise self._refuse(place, f"two iterated ranks in one statement: {', '.join(found)}")
        return found[0] if found else ""

    def _joined_conditions(self) -> SymbolicMask | None:
        found: SymbolicMask | None = None
        for condition in self._statement.conditions:
            mask = self._names.mask(condition)
            joined = mask if found is None else found.joined(mask)
            if joined is None:
                raise self._refuse(
                    condition.place, "the conditions of a statement are about one pair of ranks"
                )
            found = joined
        return found

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
        own = next((step.output_ranks for step in self._steps if step.name == access.tensor), None)
        ranks = self._tensors[access.tensor].ranks if own is None else own
        read = {rank: index.plain for rank, index in zip(ranks, access.indices, strict=True)}
        renamed = tuple(read[rank] for rank in mask.ranks)
        if renamed == mask.ranks:
            return mask
        if "" in renamed or mask.rank_parts or mask.of_parts:
            raise self._refuse(
                place, f"tensor {access.tensor!r} has a mask and is read at an index other than its own"
            )
        return replace(mask, rank=renamed[0], of=renamed[1])
