"""Operators over atoms: what nodes are lowered to before ranks have names and layers are cut."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.operator import Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.onnx_attention import Band
from tilewright.workloads.onnx_file import Node
from tilewright.workloads.onnx_nodes import Net
from tilewright.workloads.onnx_ranks import Atom, Dim, Item, RankClasses, View, Viewer
from tilewright.workloads.read import shown

Place = Literal["", "table"]

#: Names that exporters make up.
_MADE_UP = re.compile(r"_?(val|onnx::\w+|constant|initializer|tensor)_?\d*(_output_\d+)?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class IrTensor:
    """A tensor to be; `wide` ones have the accumulators' type.

    A constant's `source` is the value that it is, `label` a name for its readers.
    """

    atoms: Dim
    role: Role
    wide: bool = False
    constant: bool = False
    label: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Read:
    """A view that an operator reads: `pairs` (dimension of the view, of the operator); `moved` overrides atoms.

    A moved atom is read at sum(coefficient * atom of the operator) + offset. What neither names is read at a
    constant position: where data say, or at the only one.
    """

    view: View
    pairs: tuple[tuple[Dim, Dim], ...]
    moved: tuple[tuple[Atom, tuple[tuple[Atom, int], ...], int], ...] = ()


@dataclass(frozen=True, slots=True)
class MaskOf:
    """Keys that queries see; each of the two must be one rank for the mask to be used."""

    keys: Dim
    queries: Dim
    band: Band


@dataclass(frozen=True, slots=True)
class IrOperator:
    """One operator: iterates over the atoms of its output, or of `items` where it writes elsewhere, and `extra`."""

    label: str
    kind: Kind
    output: str
    reads: tuple[Read, ...]
    function: str = "identity"
    reduce: str = ""
    group: str = ""
    extra: Dim = ()
    items: tuple[Item, ...] | None = None
    mask: MaskOf | None = None
    parameters: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Use:
    """A stored tensor that an operator reads as a weight, wholly or in part."""

    name: str
    place: Place
    whole: bool


def _mask(dims: Sequence[Dim], band: Band | None) -> MaskOf | None:
    """The mask of queries and keys, the last two dimensions."""
    return None if band is None or band == Band() or len(dims) < 2 else MaskOf(dims[-1], dims[-2], band)


Lower = Callable[["Builder", Node], None]


class Builder:
    """Collects the operators of a graph; views of values by name."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.values = net.values
        self.classes = RankClasses()
        self.viewer = Viewer(self.classes)
        self.tensors: dict[str, IrTensor] = {}
        self.operators: list[IrOperator] = []
        self.uses: list[Use] = []
        self.group_of: dict[str, str] = {}
        self._products: dict[str, str] = {}
        self._views: dict[str, View] = {}
        self._node: Node | None = None

    def start(self, node: Node) -> None:
        """Note which node is lowered: refusals name it, operators without weights are named after it."""
        self._node = node

    def refuse(self, reason: str) -> InputError:
        """The error that the node at hand is not supported, or wrong."""
        return InputError(f"{self.net.source}: {self._node}: {reason}")

    @property
    def label(self) -> str:
        """The name of operators of the node at hand."""
        return self._node.op.lower() if self._node else "input"

    # values

    def shape(self, name: str) -> tuple[int, ...]:
        return self.values[name].shape

    def bind(self, name: str, view: View) -> None:
        """Say what a value is."""
        self._views[name] = view

    def is_known(self, name: str) -> bool:
        return name in self._views

    def view(self, name: str, place: Place = "", *, weight: bool = True, label: str = "") -> View:
        """The view of a value; of a constant a tensor of its own each time, noted as a weight or not."""
        if name in self._views:
            return self._views[name]
        value = self.values[name]
        if not value.constant:
            raise self.refuse(f"operand {shown(name)} is of no use here")
        if 0 in value.shape:
            raise self.refuse(f"operand {shown(name)} is empty")
        if weight and not value.is_index:
            for origin in value.origins:
                stored = self.values.stored.get(origin)
                whole = stored is not None and stored.n_elements == value.n_elements
                self.uses.append(Use(origin, place, whole))
        role = Role.INDEX if value.is_index else Role.WEIGHT
        label = label or (value.origins[0] if value.origins else "")
        label = "" if _MADE_UP.match(label) else label
        return self.new(self.dims_of(value.shape), role, constant=True, label=label, source=name)

    def dims_of(self, shape: Sequence[int]) -> tuple[Dim, ...]:
        """Dimensions of atoms of their own; one of size 1 has none."""
        return tuple((self.classes.atom(size),) if size != 1 else () for size in shape)

    def new(
        self, dims: Sequence[Dim], role: Role = Role.ACTIVATION, *, wide: bool = False, constant: bool = False,
        label: str = "", source: str = "",
    ) -> View:  # fmt: skip
        """A new tensor over `dims`, whose atoms must be its own."""
        atoms = tuple(atom for dim in dims for atom in dim)
        name = f"t{len(self.tensors)}"
        self.tensors[name] = IrTensor(atoms, role, wide, constant, label, source)
        return View(name, tuple(dims), tuple(Item(atom) for atom in atoms))

    def like(self, dims: Sequence[Dim]) -> tuple[Dim, ...]:
        """Atoms of the same classes."""
        return tuple(map(self.classes.dim_like, dims))

    def size(self, dim: Dim) -> int:
        return self.classes.dim_size(dim)

    def numbers(self, node: Node, position: int, name: str) -> list[int] | None:
        """Whole numbers of a constant operand, or of an attribute; None if neither is there."""
        if operand := node.input(position):
            array = self.values.array(operand)
            if array is None or array.dtype.kind not in "iu":
                raise self.refuse(f"operand {operand!r} must be whole numbers that are constant and known")
            return [int(value) for value in array.reshape(-1)]
        stated = node.attributes.get(name)
        return None if stated is None else [int(value) for value in stated]

    # changes of views, by moving data only where they cannot be expressed

    def reshape(self, view: View, shape: Sequence[int]) -> View:
        """The view in another shape. Raises InputError for another number of elements."""
        if prod(map(self.size, view.dims)) != prod(shape):
            raise self.refuse(f"{prod(map(self.size, view.dims))} elements do not fit shape {list(shape)}")
        found = self.viewer.reshaped(view, shape)
        return found or self._of_flat(self.materialised(view), shape)

    def slice(self, view: View, axis: int, start: int, length: int, step: int = 1) -> View:
        found = self.viewer.sliced(view, axis, start, length, step)
        if found is None:
            shape = [self.size(dim) for dim in view.dims]
            fresh = self._of_flat(self.materialised(view), shape)
            found = self.viewer.sliced(fresh, axis, start, length, step)
        assert found is not None, "a row of its own can be sliced anywhere"
        return found

    def split_dim(self, view: View, axis: int, outer: int) -> View:
        """The view with a dimension as `outer` groups, in a dimension of their own in front of it."""
        size = self.size(view.dims[axis])
        if outer == 1:
            return replace(view, dims=(*view.dims[:axis], (), *view.dims[axis:]))
        found = self.viewer.cut(view, axis, size // outer)
        if found is None:
            sizes = [self.size(dim) for dim in view.dims]
            return self.reshape(view, (*sizes[:axis], outer, size // outer, *sizes[axis + 1 :]))
        cut, outside, inside = found
        return replace(cut, dims=(*cut.dims[:axis], outside, inside, *cut.dims[axis + 1 :]))

    def materialised(self, view: View) -> View:
        """The view's elements in row-major order as a tensor of one rank that stays whole."""
        dims = self.like(view.dims)
        atoms = [atom for dim in dims for atom in dim]
        flat = self.new(((self.classes.atom(prod(self.classes.size(atom) for atom in atoms)),),))
        self.classes.keep_whole(flat.items[0].atom)
        item = Item(flat.items[0].atom, self._strides(atoms))
        self.operators.append(
            IrOperator(
                "copy", Kind.POINTWISE, flat.tensor, (Read(view, tuple(zip(view.dims, dims, strict=True))),), "copy",
                group="move", extra=tuple(atoms), items=(item,),
            )
        )  # fmt: skip
        return flat

    def _strides(self, atoms: Sequence[Atom]) -> tuple[tuple[Atom, int], ...]:
        terms: list[tuple[Atom, int]] = []
        stride = 1
        for atom in reversed(atoms):
            terms.insert(0, (atom, stride))
            stride *= self.classes.size(atom)
        return tuple(terms)

    def _of_flat(self, flat: View, shape: Sequence[int]) -> View:
        """A flat tensor in a shape, with atoms of its own that may be split at will."""
        dims = self.dims_of(shape)
        atoms = [atom for dim in dims for atom in dim]
        return View(flat.tensor, dims, (Item(flat.items[0].atom, self._strides(atoms)),))

    def read(self, view: View, dims: Sequence[Dim]) -> Read:
        """The view read at the positions of an operator's dimensions, size 1 repeated.

        Raises InputError for dimensions of other sizes.
        """
        sizes = [(self.size(own), self.size(other)) for own, other in zip(view.dims, dims, strict=True)]
        if wrong := [pair for pair in sizes if pair[0] not in (1, pair[1])]:
            raise self.refuse(
                f"its operands do not fit together: {wrong[0][0]} against {wrong[0][1]} elements"
            )
        for attempt in range(2):
            fits = True
            pairs = []
            for own, other in zip(view.dims, dims, strict=True):
                if self.size(own) == 1 and self.size(other) != 1:
                    continue
                fits &= self.classes.unify(own, other)
                pairs.append((own, other))
            if fits:
                return Read(view, tuple(pairs))
            assert attempt == 0, "a tensor in row-major order can be read by any product of ranks"
            view = self._of_flat(self.materialised(view), [self.size(dim) for dim in view.dims])
        raise AssertionError

    # operators

    def append(self, operator: IrOperator) -> None:
        self.operators.append(operator)
        if operator.kind is Kind.CONTRACTION:
            self._products[operator.output] = operator.label

    def bias_label(self, views: Sequence[View]) -> str:
        """The name of an addition to a product, "" for any other pair of views."""
        running = [view.tensor for view in views if not self.tensors[view.tensor].constant]
        product = self._products.get(running[0], "") if len(running) == 1 < len(views) else ""
        return f"{product}_bias" if product else ""

    def broadcast(self, views: Sequence[View], shape: Sequence[int]) -> tuple[list[View], tuple[Dim, ...]]:
        """The views with dimensions in front as needed, and new dimensions of `shape` like theirs.

        Those of computed tensors are followed rather than those of constants.
        """
        rank = len(shape)
        full = [replace(v, dims=((),) * (rank - len(v.dims)) + v.dims) for v in views]
        order = sorted(full, key=lambda v: self.tensors[v.tensor].constant)
        dims = []
        for axis, size in enumerate(shape):
            fitting = [v.dims[axis] for v in order if self.size(v.dims[axis]) == size]
            best = next((dim for dim in fitting if dim), fitting[0] if fitting else None)
            dims.append(self.dims_of((size,))[0] if best is None else self.classes.dim_like(best))
        return full, tuple(dims)

    def pointwise(
        self, views: Sequence[View], shape: Sequence[int], function: str, *, group: str = "", label: str = "",
        band: Band | None = None, parameters: tuple[tuple[str, float], ...] = (),
        role: Role = Role.ACTIVATION,
    ) -> View:  # fmt: skip
        """An elementwise operator with broadcasting into a new tensor of `shape`.

        With `band` the last two dimensions are queries and keys, of which just the band is computed.
        """
        full, dims = self.broadcast(views, shape)
        output = self.new(dims, role)
        reads = tuple(self.read(v, dims) for v in full)
        self.append(
            IrOperator(
                label or self.label, Kind.POINTWISE, output.tensor, reads, function, group=group or self.group(views),
                mask=_mask(dims, band), parameters=parameters,
            )
        )  # fmt: skip
        self.group_of[output.tensor] = group or self.group(views)
        return output

    def group(self, views: Sequence[View]) -> str:
        """The group of an operator that has none of its own: that of what it reads first."""
        found = [
            self.group_of.get(view.tensor, "") for view in views if not self.tensors[view.tensor].constant
        ]
        if (
            self._node is not None
            and self._node.op == "Add"
            and len(found) == 2
            and set(found) != {"embedding"}
        ):
            return "attention" if found[0] == found[1] == "attention" else "residual"
        return next(filter(None, found), "elementwise")

    def reduction(
        self, view: View, axes: Sequence[int], reduce: str, *, function: str = "identity", group: str = "",
        label: str = "", keep: bool = True, band: Band | None = None,
    ) -> View:  # fmt: skip
        """A reduction over `axes`, which stay as dimensions of size 1 or go; `band` as for a pointwise one."""
        dims = self.like(view.dims)
        kept = tuple(() if axis in axes else dim for axis, dim in enumerate(dims))
        output = self.new(kept, wide=True)
        extra = tuple(atom for axis in axes for atom in dims[axis])
        read = Read(view, tuple(zip(view.dims, dims, strict=True)))
        self.append(
            IrOperator(
                label or self.label, Kind.REDUCTION, output.tensor, (read,), function, reduce,
                group or self.group((view,)), extra, mask=_mask(dims, band),
            )
        )  # fmt: skip
        self.group_of[output.tensor] = group or self.group((view,))
        if keep:
            return output
        return replace(output, dims=tuple(dim for axis, dim in enumerate(kept) if axis not in axes))

    def contraction(
        self, views: Sequence[tuple[View, Sequence[Dim]]], dims: Sequence[Dim], extra: Dim, group: str, label: str,
        *, mask: MaskOf | None = None, parameters: tuple[tuple[str, float], ...] = (),
    ) -> View:  # fmt: skip
        """A sum of products over `extra` into a new tensor over `dims`; each view with its dimensions' names."""
        output = self.new(dims)
        reads = tuple(self.read(view, own) for view, own in views)
        self.append(
            IrOperator(
                label, Kind.CONTRACTION, output.tensor, reads, "mul", "sum", group, extra, mask=mask,
                parameters=parameters,
            )
        )  # fmt: skip
        self.group_of[output.tensor] = group
        return output

    def scatter(
        self, piece: View, dims: Sequence[Dim], starts: Mapping[int, int], below: View | None, group: str,
        role: Role = Role.ACTIVATION,
    ) -> View:  # fmt: skip
        """A new tensor over `dims` with `piece` in it, at `starts` along some axes and whole along the others.

        Axes with a start must be of one atom that stays whole. The rest is `below`'s, which stays in place.
        """
        output = self.new(dims, role)
        iterated = [
            self.classes.dim_like(piece.dims[axis] if axis in starts else dim)
            for axis, dim in enumerate(dims)
        ]
        items: list[Item] = []
        for axis, (own, target) in enumerate(zip(iterated, dims, strict=True)):
            if axis in starts:
                items.append(Item(target[0], self._strides(own), starts[axis]))
            else:
                items += [Item(b, ((a, 1),)) for a, b in zip(own, target, strict=True)]
        reads = [self.read(piece, iterated)]
        if below is not None:
            reads.insert(0, Read(below, ()))
        self.append(
            IrOperator(
                self.label, Kind.SCATTER, output.tensor, tuple(reads), group=group,
                extra=tuple(atom for dim in iterated for atom in dim), items=tuple(items),
            )
        )  # fmt: skip
        self.group_of[output.tensor] = group
        return output

    def whole_dim(self, size: int) -> Dim:
        """A dimension of one atom that stays whole."""
        atom = self.classes.atom(size)
        self.classes.keep_whole(atom)
        return (atom,)

    def spread(
        self, output: View, first: int, places: Sequence[Dim], taps: Sequence[Dim], strides: Sequence[int],
        dilations: Sequence[int], pads: Sequence[int],
    ) -> tuple[Item, ...]:  # fmt: skip
        """Where a transposed convolution writes: stride * place + dilation * tap - padding along axes from `first`."""
        items = [Item(atom) for dim in output.dims[:first] for atom in dim]
        for axis, (place, tap) in enumerate(zip(places, taps, strict=True)):
            terms = [(atom, strides[axis] * step) for atom, step in self._strides(place)]
            terms += [(atom, dilations[axis] * step) for atom, step in self._strides(tap)]
            items.append(Item(output.dims[first + axis][0], tuple(terms), -pads[axis]))
        return tuple(items)
