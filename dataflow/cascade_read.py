"""Reads of a cascade's tensors: the number of indices, the order of statements, steps of a recurrence."""

from typing import cast

from tilewright.dataflow.cascade_declare import Declarations, DeclaredTensor
from tilewright.dataflow.cascade_index import Affine, plain
from tilewright.dataflow.cascade_step import SymbolicAccess
from tilewright.dataflow.cascade_syntax import Expr, Name, Place, Read
from tilewright.dataflow.errors import InputError, nearest
from tilewright.dataflow.tensor import Role


class Reader:
    """Resolves the reads of one statement, the `order`-th, which assigns a tensor with ranks `target`."""

    def __init__(self, declared: Declarations, order: int, target: tuple[str, ...]) -> None:
        self._declared = declared
        self._names = declared.names
        self._order = order
        self._target = target

    def tensor(self, name: str, place: Place) -> DeclaredTensor:
        """Raises InputError for a tensor that is neither live-in nor assigned (closest one named)."""
        if name not in self._declared.tensors:
            hint = nearest(name, list(self._declared.tensors))
            raise self._refuse(place, f"tensor {name!r} is not declared{hint}")
        return self._declared.tensors[name]

    def bare(self, expr: Name) -> SymbolicAccess:
        """A tensor named without indices: read at the ranks that it is declared with."""
        ranks = self.tensor(expr.name, expr.place).ranks
        return self.access(Read(expr.name, tuple(Name(rank, expr.place) for rank in ranks), expr.place))

    def access(self, expr: Read) -> SymbolicAccess:
        """The access of `expr`.

        Raises InputError: undeclared tensor, wrong number of indices, a read before the tensor is
        assigned, a read of a later step, an earlier step without an initial value.
        """
        tensor = self.tensor(expr.tensor, expr.place)
        indices = tuple(
            Affine() if self._selects(index) else self._names.affine(index, expr.place)
            for index in expr.indices
        )
        if len(indices) == 1 < len(tensor.ranks):
            indices = self._in_step(indices[0], tensor)
        if len(indices) != len(tensor.ranks):
            raise self._refuse(
                expr.place,
                f"tensor {tensor.name!r} has {len(tensor.ranks)} ranks, {len(indices)} indices given",
            )
        past = [
            self._is_earlier(rank, index, tensor, expr.place)
            for rank, index in zip(tensor.ranks, indices, strict=True)
        ]
        if not any(past) and tensor.order >= self._order:
            own = tensor.order == self._order
            when = "by the statement that assigns it" if own else "before it is assigned"
            raise self._refuse(expr.place, f"tensor {tensor.name!r} is read {when}")
        if any(past) and tensor.init is None:
            raise self._refuse(
                expr.place, f"tensor {tensor.name!r} is read before its first step; give it an 'init'"
            )
        return SymbolicAccess(tensor.name, indices)

    def selector(self, expr: Read) -> SymbolicAccess | None:
        """The tensor among the indices of `expr` whose values pick positions, None if there is none.

        Raises InputError for two of them, or one beside a constant index: the graph's gather knows one
        rank that is picked from.
        """
        picking = [index for index in expr.indices if self._selects(index)]
        if not picking:
            return None
        others = (self._names.affine(index, expr.place) for index in expr.indices if index not in picking)
        if len(picking) > 1 or not all(other.terms for other in others):
            raise self._refuse(
                expr.place,
                f"tensor {expr.tensor!r} is read at data along one rank and at ranks along the others",
            )
        (index,) = picking
        return self.bare(index) if isinstance(index, Name) else self.access(cast(Read, index))

    def _selects(self, index: Expr) -> bool:
        """Whether an index is read from a tensor of the role `index`."""
        name = index.name if isinstance(index, Name) else index.tensor if isinstance(index, Read) else ""
        return name in self._declared.tensors and self._declared.tensors[name].role is Role.INDEX

    def _refuse(self, place: Place, message: str) -> InputError:
        return place.refuse(self._names.source, message)

    def _in_step(self, index: Affine, tensor: DeclaredTensor) -> tuple[Affine, ...]:
        """`RM[n1-1]` is short for all ranks of RM plain but the iterated one."""
        for rank in self._names.iterated:
            if rank in tensor.ranks and (index.last_of == rank or index.shift_of(rank)):
                return tuple(index if name == rank else plain(name) for name in tensor.ranks)
        return (index,)

    def _is_earlier(self, rank: str, index: Affine, tensor: DeclaredTensor, place: Place) -> bool:
        """Whether `index` reads an earlier step of `rank`. Raises InputError on a read ahead."""
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
