"""Dimensions as products of ranks, and views: how reshapes and transposes become index expressions.

A dimension is a sequence of atoms, outermost first, whose sizes multiply to its own. Atoms of equal meaning share a
class; a class may split into an outer and an inner one, for all of its atoms at once. So where one operator takes a
row as 64 elements and the next as 4 heads of 16, both run over (4, 16) and nothing moves.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import gcd, prod


class Atom:
    """One rank of one tensor or view, of a class; identity counts."""

    __slots__ = ("cls",)

    def __init__(self, cls: int) -> None:
        self.cls = cls


Dim = tuple[Atom, ...]


class RankClasses:
    """The classes of atoms: which are one, which are split, which must stay whole."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._size: list[int] = []
        self._parts: list[tuple[int, int] | None] = []
        self._whole: list[bool] = []

    def atom(self, size: int) -> Atom:
        """An atom of a class of its own."""
        return Atom(self._new(size))

    def like(self, atom: Atom) -> Atom:
        """Another atom of the same class."""
        return Atom(atom.cls)

    def dim_like(self, dim: Dim) -> Dim:
        return tuple(map(self.like, dim))

    def _new(self, size: int) -> int:
        self._parent.append(len(self._parent))
        self._size.append(size)
        self._parts.append(None)
        self._whole.append(False)
        return len(self._parent) - 1

    def _find(self, cls: int) -> int:
        while self._parent[cls] != cls:
            self._parent[cls] = self._parent[self._parent[cls]]
            cls = self._parent[cls]
        return cls

    def size(self, atom: Atom) -> int:
        return self._size[self._find(atom.cls)]

    def dim_size(self, dim: Iterable[Atom]) -> int:
        return prod(self.size(atom) for atom in dim)

    def size_of_class(self, cls: int) -> int:
        return self._size[self._find(cls)]

    def leaves(self, atom: Atom) -> list[int]:
        """The classes that an atom is a product of, outermost first."""
        found: list[int] = []
        pending = [self._find(atom.cls)]
        while pending:
            cls = self._find(pending.pop())
            if parts := self._parts[cls]:
                pending += [parts[0], parts[1]][::-1]
            else:
                found.append(cls)
        return found

    def keep_whole(self, atom: Atom) -> bool:
        """Never split an atom's class from now on; False if it is split already."""
        leaves = self.leaves(atom)
        if len(leaves) == 1:
            self._whole[leaves[0]] = True
        return len(leaves) == 1

    def _split(self, cls: int, inner: int) -> tuple[int, int] | None:
        """Split a class that is no product yet; None if it must stay whole."""
        if self._whole[cls] or self._size[cls] % inner:
            return None
        self._parts[cls] = self._new(self._size[cls] // inner), self._new(inner)
        return self._parts[cls]

    def unify(self, first: Iterable[Atom], second: Iterable[Atom]) -> bool:
        """Make two dimensions one and the same product of classes; False if that is not possible.

        Atoms of size 1 that have no partner are passed over.
        """
        a = [leaf for atom in first for leaf in self.leaves(atom)]
        b = [leaf for atom in second for leaf in self.leaves(atom)]
        return self._unify(a, b)

    def _unify(self, a: list[int], b: list[int]) -> bool:
        while a and b:
            x, y = self._find(a.pop()), self._find(b.pop())
            if x != y and self._parts[x]:
                a += self._parts[x] or ()
                b.append(y)
            elif x != y and self._parts[y]:
                b += self._parts[y] or ()
                a.append(x)
            elif self._size[x] == self._size[y]:
                self._join(x, y)
            elif self._size[x] == 1:
                b.append(y)
            elif self._size[y] == 1:
                a.append(x)
            else:
                larger, smaller, stack = (x, y, a) if self._size[x] > self._size[y] else (y, x, b)
                parts = self._split(larger, self._size[smaller])
                if parts is None:
                    return False
                stack.append(parts[0])
                self._join(parts[1], smaller)
        return all(self._size[self._find(leaf)] == 1 for leaf in (*a, *b))

    def _join(self, x: int, y: int) -> None:
        """Make two classes of one size, neither of them split, one."""
        if x != y:
            self._parent[y] = x
            self._whole[x] = self._whole[x] or self._whole[y]

    def divide(self, atom: Atom, inner: int) -> tuple[Atom, Atom] | None:
        """An atom as (outer, inner) ones of its parts, `inner` elements inside; None if it cannot be cut there."""
        inside, outside = 1, self.leaves(atom)
        taken: list[int] = []
        while inside < inner:
            leaf = outside.pop()
            size = self._size[leaf]
            if inside * size <= inner and inner % (inside * size) == 0:
                taken.insert(0, leaf)
                inside *= size
                continue
            want = inner // inside
            parts = self._split(leaf, want) if inner % inside == 0 and size % want == 0 else None
            if parts is None:
                return None
            outside.append(parts[0])
            taken.insert(0, parts[1])
            inside *= want
        return self._product(outside), self._product(taken)

    def _product(self, leaves: Sequence[int]) -> Atom:
        """An atom that is the product of some classes."""
        if not leaves:
            return self.atom(1)
        cls = leaves[0]
        for leaf in leaves[1:]:
            joint = self._new(self.size_of_class(cls) * self.size_of_class(leaf))
            self._parts[joint] = cls, leaf
            cls = joint
        return Atom(cls)


@dataclass(frozen=True, slots=True)
class Item:
    """Where along `atom`, a rank of a tensor, a view reads: at itself, or at sum(coefficient * atom) + offset.

    `terms` is None for the former: the view's own atom is `atom`. A constant position has no terms.
    """

    atom: Atom
    terms: tuple[tuple[Atom, int], ...] | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """A tensor as an operator sees it: its dimensions, and an item per rank of the tensor, in order."""

    tensor: str
    dims: tuple[Dim, ...]
    items: tuple[Item, ...]

    @property
    def atoms(self) -> tuple[Atom, ...]:
        return tuple(atom for dim in self.dims for atom in dim)

    def transposed(self, order: Sequence[int]) -> "View":
        return replace(self, dims=tuple(self.dims[axis] for axis in order))

    def with_dim(self, axis: int, dim: Dim) -> "View":
        return replace(self, dims=(*self.dims[:axis], dim, *self.dims[axis + 1 :]))

    def without(self, axis: int) -> "View":
        return replace(self, dims=(*self.dims[:axis], *self.dims[axis + 1 :]))

    @property
    def is_plain(self) -> bool:
        """Whether every element of the tensor is seen once and in place, dimensions in any order."""
        own = {id(item.atom) for item in self.items if item.terms is None}
        return len(own) == len(self.items) and {id(atom) for atom in self.atoms} <= own


class Viewer:
    """Changes views without moving anything; None is the answer where that is not possible."""

    def __init__(self, classes: RankClasses) -> None:
        self._classes = classes

    def reshaped(self, view: View, shape: Sequence[int]) -> View | None:
        """The view with its elements, in row-major order, in another shape of as many elements."""
        classes, left, dims = self._classes, list(view.atoms), []
        for size in reversed(shape):
            taken: list[Atom] = []
            have = 1
            while have < size or (size == 1 and not taken and left and classes.size(left[-1]) == 1):
                atom = left.pop()
                own, want = classes.size(atom), size // have
                if size % have:
                    return None
                if want % own == 0:
                    taken.insert(0, atom)
                    have *= own
                    continue
                parts = classes.divide(atom, want) if own % want == 0 else None
                if parts is None:
                    return None
                view = self._substituted(view, atom, parts)
                left.append(parts[0])
                taken.insert(0, parts[1])
                have *= want
            dims.append(tuple(taken))
        dims.reverse()
        if left and dims:
            dims[0] = (*left, *dims[0])
        return replace(view, dims=tuple(dims))

    def _substituted(self, view: View, atom: Atom, parts: tuple[Atom, Atom]) -> View:
        """The view with an atom in two parts."""
        inner = self._classes.size(parts[1])
        items: list[Item] = []
        for item in view.items:
            if item.terms is None:
                items += [Item(part) for part in parts] if item.atom is atom else [item]
                continue
            terms: list[tuple[Atom, int]] = []
            for own, coefficient in item.terms:
                if own is atom:
                    terms += [(parts[0], coefficient * inner), (parts[1], coefficient)]
                else:
                    terms.append((own, coefficient))
            items.append(replace(item, terms=tuple(terms)))
        dims = tuple(
            tuple(part for own in dim for part in (parts if own is atom else (own,))) for dim in view.dims
        )
        return replace(view, dims=dims, items=tuple(items))

    def _placed(
        self, view: View, atom: Atom, terms: tuple[tuple[Atom, int], ...], offset: int
    ) -> View | None:
        """The view with an atom replaced by sum(coefficient * atom) + offset."""
        items: list[Item] = []
        for item in view.items:
            if item.terms is None:
                if item.atom is atom:
                    if terms and not self._classes.keep_whole(atom):
                        return None
                    item = Item(atom, terms, offset)
            elif factor := sum(coefficient for own, coefficient in item.terms if own is atom):
                rest = tuple(term for term in item.terms if term[0] is not atom)
                scaled = tuple((own, coefficient * factor) for own, coefficient in terms)
                item = replace(item, terms=rest + scaled, offset=item.offset + factor * offset)
            items.append(item)
        return replace(view, items=tuple(items))

    def sliced(self, view: View, axis: int, start: int, length: int, step: int = 1) -> View | None:
        """`length` positions of a dimension from `start`, `step` apart; heads stay whole where they can."""
        classes = self._classes
        total = classes.dim_size(view.dims[axis])
        if (start, length, step) == (0, total, 1):
            return view
        inner = gcd(start, length, total) if step == 1 else 1
        found = self.cut(view, axis, inner)
        if found is None:
            return None
        view, outer, inside = found
        outer = tuple(atom for atom in outer if classes.size(atom) > 1)
        start, length = start // inner, length // inner
        if length == 1:
            for atom in reversed(outer):
                placed = self._placed(view, atom, (), start % classes.size(atom))
                if placed is None:
                    return None
                view, start = placed, start // classes.size(atom)
            return view.with_dim(axis, inside)
        if len(outer) != 1:
            return None
        fresh = classes.atom(length)
        placed = self._placed(view, outer[0], ((fresh, step),), start)
        return None if placed is None else placed.with_dim(axis, (fresh, *inside))

    def cut(self, view: View, axis: int, inner: int) -> tuple[View, Dim, Dim] | None:
        """The view with a dimension cut where `inner` elements are inside: its atoms outside and inside."""
        classes = self._classes
        outside, have = list(view.dims[axis]), 1
        inside: list[Atom] = []
        while have < inner:
            atom = outside.pop()
            own, want = classes.size(atom), inner // have
            if want % own == 0:
                inside.insert(0, atom)
                have *= own
                continue
            parts = classes.divide(atom, want) if inner % have == 0 and own % want == 0 else None
            if parts is None:
                return None
            view = self._substituted(view, atom, parts)
            outside.append(parts[0])
            inside.insert(0, parts[1])
            have *= want
        return view, tuple(outside), tuple(inside)

    def expanded(self, view: View, shape: Sequence[int]) -> View:
        """The view repeated along dimensions of size 1, new ones in front of the others."""
        dims = [()] * (len(shape) - len(view.dims)) + list(view.dims)
        fresh = [
            dim if self._classes.dim_size(dim) == size else (self._classes.atom(size),)
            for dim, size in zip(dims, shape, strict=True)
        ]
        return replace(view, dims=tuple(fresh))
