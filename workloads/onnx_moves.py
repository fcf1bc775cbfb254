"""Lowering of nodes that move data: views where index expressions do, gathers and scatters where they do not."""

from collections.abc import Mapping
from dataclasses import replace

from tilewright.dataflow.operator import Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.onnx_builder import Builder, IrOperator, Lower, Read
from tilewright.workloads.onnx_file import Node
from tilewright.workloads.onnx_ranks import Dim, Item, View


def _reshape(builder: Builder, node: Node) -> None:
    builder.bind(
        node.outputs[0], builder.reshape(builder.view(node.inputs[0]), builder.shape(node.outputs[0]))
    )


def _transpose(builder: Builder, node: Node) -> None:
    view = builder.view(node.inputs[0])
    order = node.attributes.get("perm") or range(len(view.dims))[::-1]
    builder.bind(node.outputs[0], view.transposed([int(axis) for axis in order]))


def _expand(builder: Builder, node: Node) -> None:
    view = builder.view(node.inputs[0])
    builder.bind(node.outputs[0], builder.viewer.expanded(view, builder.shape(node.outputs[0])))


def _tile(builder: Builder, node: Node) -> None:
    view, shape = builder.view(node.inputs[0]), builder.shape(node.outputs[0])
    dims = []
    for dim, size in zip(view.dims, shape, strict=True):
        repeats = size // max(1, builder.size(dim))
        dims.append(((builder.classes.atom(repeats),) if repeats != 1 else ()) + dim)
    builder.bind(node.outputs[0], replace(view, dims=tuple(dims)))


def _slice(builder: Builder, node: Node) -> None:
    view, shape = builder.view(node.inputs[0]), builder.shape(node.inputs[0])
    starts = builder.numbers(node, 1, "starts") or []
    axes = builder.numbers(node, 3, "axes") or list(range(len(starts)))
    steps = builder.numbers(node, 4, "") or [1] * len(starts)
    for axis, start, step in zip(axes, starts, steps, strict=True):
        axis %= len(shape)
        size, length = shape[axis], builder.shape(node.outputs[0])[axis]
        first = min(max(start + size if start < 0 else start, 0), size - 1)
        if length == 0:
            raise builder.refuse("its result is empty")
        if step > 0:
            view = builder.slice(view, axis, first, length, step)
        else:  # read backwards: the positions of a slice in ascending order, as far as cost goes
            view = builder.slice(view, axis, first + step * (length - 1), length, -step)
    builder.bind(node.outputs[0], view)


def _split(builder: Builder, node: Node) -> None:
    view = builder.view(node.inputs[0])
    axis = int(node.attributes.get("axis", 0)) % len(view.dims)
    start = 0
    for name in node.outputs:
        if name:
            length = builder.shape(name)[axis]
            builder.bind(name, builder.slice(view, axis, start, length))
            start += length


def _concat(builder: Builder, node: Node) -> None:
    """Pieces written one by one into a tensor of its own; behind a live-in that is kept, it is a cache."""
    names = [name for name in node.inputs if 0 not in builder.shape(name)]
    views = [builder.view(name) for name in names]
    axis = int(node.attributes["axis"]) % len(builder.shape(node.outputs[0]))
    if len(views) == 1:
        builder.bind(node.outputs[0], views[0])
        return
    total = builder.shape(node.outputs[0])[axis]
    first = next((v for v in views if not builder.tensors[v.tensor].constant), views[0])
    shape = tuple(1 if i == axis else size for i, size in enumerate(builder.shape(node.outputs[0])))
    dims = [builder.classes.dim_like(dim) for dim in first.dims]
    dims = [dim if builder.size(dim) == size else () for dim, size in zip(dims, shape, strict=True)]
    dims[axis] = builder.whole_dim(total)
    cached = names[0] in builder.net.inputs and node.outputs[0] in builder.net.outputs
    role, group = (Role.KV_CACHE, "kv_cache") if cached else (Role.ACTIVATION, builder.group(views))
    below: View | None = None
    start = 0
    if cached:
        builder.tensors[views[0].tensor] = replace(builder.tensors[views[0].tensor], role=Role.KV_CACHE)
        below, start = views.pop(0), builder.shape(names[0])[axis]
    for view in views:
        own = [builder.classes.dim_like(dim) for dim in dims]
        piece = builder.scatter(view, own, {axis: start}, below, group, role)
        start += builder.size(view.dims[axis])
        below = piece
    assert below is not None
    builder.bind(node.outputs[0], below)


def _pad(builder: Builder, node: Node) -> None:
    """The operand written into a larger tensor; a border that is repeated or reflected costs the same."""
    view, shape = builder.view(node.inputs[0]), builder.shape(node.outputs[0])
    rank = len(shape)
    pads = builder.numbers(node, 1, "pads") or []
    axes = builder.numbers(node, 3, "") or list(range(rank))
    before = {axis % rank: pads[place] for place, axis in enumerate(axes)}
    before = {axis: max(0, n) for axis, n in before.items() if shape[axis] != builder.size(view.dims[axis])}
    if any(shape[axis] < builder.size(view.dims[axis]) for axis in before):
        raise builder.refuse("negative padding is not supported")
    dims = [builder.classes.dim_like(dim) for dim in view.dims]
    for axis in before:
        dims[axis] = builder.whole_dim(shape[axis])
    builder.bind(node.outputs[0], builder.scatter(view, dims, before, None, builder.group((view,))))


def _gather(builder: Builder, node: Node) -> None:
    axis = int(node.attributes.get("axis", 0)) % len(builder.shape(node.inputs[0]))
    rows = builder.values[node.inputs[1]]
    if rows.constant and _gather_as_slice(builder, node, axis):
        return
    weight = builder.values[node.inputs[0]].constant
    table = builder.view(node.inputs[0], "table" if weight and axis == 0 else "")
    indices = builder.view(node.inputs[1], weight=False)
    dims = (
        *builder.like(table.dims[:axis]),
        *builder.like(indices.dims),
        *builder.like(table.dims[axis + 1 :]),
    )
    rank = len(indices.dims)
    kept = (*range(axis), *range(axis + rank, len(dims)))
    pairs = tuple(
        (own, dims[place])
        for own, place in zip((*table.dims[:axis], *table.dims[axis + 1 :]), kept, strict=True)
    )
    reads = (
        Read(indices, tuple(zip(indices.dims, dims[axis : axis + rank], strict=True))),
        Read(table, pairs),
    )
    _emit_gather(builder, node, dims, reads, "embedding" if weight else "gather")


def _emit_gather(
    builder: Builder, node: Node, dims: tuple[Dim, ...], reads: tuple[Read, ...], group: str
) -> None:
    role = Role.INDEX if builder.values[node.outputs[0]].is_index else Role.ACTIVATION
    output = builder.new(dims, role)
    builder.append(IrOperator(builder.label, Kind.GATHER, output.tensor, reads, group=group))
    builder.group_of[output.tensor] = group
    builder.bind(node.outputs[0], output)


def _gather_as_slice(builder: Builder, node: Node, axis: int) -> bool:
    """Bind evenly spaced rows as a view; False where they are not."""
    array = builder.values.array(node.inputs[1])
    if array is None or array.ndim > 1 or array.size == 0 or array.dtype.kind not in "iu":
        return False
    size = builder.shape(node.inputs[0])[axis]
    rows = [int(row) % size for row in array.reshape(-1)]
    step = rows[1] - rows[0] if len(rows) > 1 else 1
    if step < 1 or rows != list(range(rows[0], rows[0] + step * len(rows), step)):
        return False
    view = builder.slice(builder.view(node.inputs[0]), axis, rows[0], len(rows), step)
    if array.ndim == 0:
        view = builder.reshape(view, builder.shape(node.outputs[0]))
    builder.bind(node.outputs[0], view)
    return True


def _gather_elements(builder: Builder, node: Node) -> None:
    """Single elements, or slices, that indices pick."""
    values = builder.view(node.inputs[0])
    indices = builder.view(node.inputs[1], weight=False)
    shape = builder.shape(node.outputs[0])
    dims = builder.like(indices.dims) if node.op == "GatherElements" else builder.dims_of(shape)
    own = indices.dims if node.op == "GatherElements" else ()
    reads = (Read(indices, tuple(zip(own, dims, strict=False))), Read(values, ()))
    _emit_gather(builder, node, dims, reads, "gather")


def _scatter(builder: Builder, node: Node) -> None:
    """Updates written where indices say into a tensor that stays in place."""
    below, updates = builder.view(node.inputs[0]), builder.view(node.inputs[2])
    output = builder.new(builder.dims_of(builder.shape(node.outputs[0])))
    iterated = builder.like(updates.dims)
    reads = (Read(below, ()), builder.read(updates, iterated))
    builder.append(
        IrOperator(
            builder.label, Kind.SCATTER, output.tensor, reads, group="scatter",
            extra=tuple(atom for dim in iterated for atom in dim),
            items=tuple(Item(item.atom, ()) for item in output.items),
        )
    )  # fmt: skip
    builder.bind(node.outputs[0], output)


def _resize(builder: Builder, node: Node) -> None:
    """Interpolation: one evaluation per element of the result, read where it falls."""
    view, shape = builder.view(node.inputs[0]), builder.shape(node.outputs[0])
    dims = tuple(
        builder.classes.dim_like(dim) if builder.size(dim) == size else builder.dims_of((size,))[0]
        for dim, size in zip(view.dims, shape, strict=True)
    )
    both = zip(view.dims, dims, strict=True)
    pairs = tuple((own, dim) for own, dim in both if builder.size(own) == builder.size(dim))
    output = builder.new(dims)
    group = builder.group((view,))
    builder.append(
        IrOperator(builder.label, Kind.POINTWISE, output.tensor, (Read(view, pairs),), "resize", group=group)
    )
    builder.group_of[output.tensor] = group
    builder.bind(node.outputs[0], output)


def _blocks(builder: Builder, node: Node) -> None:
    """Depth to space and back: a reshape, a transpose and a reshape."""
    size = int(node.attributes["blocksize"])
    batch, channels, height, width = builder.shape(node.inputs[0])
    view = builder.view(node.inputs[0])
    if node.op == "SpaceToDepth":
        view = builder.reshape(view, (batch, channels, height // size, size, width // size, size))
        view = view.transposed((0, 3, 5, 1, 2, 4))
    else:
        less = channels // size**2
        if node.attributes.get("mode", b"DCR") == b"DCR":
            view = builder.reshape(view, (batch, size, size, less, height, width)).transposed(
                (0, 3, 4, 1, 5, 2)
            )
        else:
            view = builder.reshape(view, (batch, less, size, size, height, width)).transposed(
                (0, 1, 4, 2, 5, 3)
            )
    builder.bind(node.outputs[0], builder.reshape(view, builder.shape(node.outputs[0])))


MOVES: Mapping[str, Lower] = {
    "Reshape": _reshape, "Flatten": _reshape, "Squeeze": _reshape, "Unsqueeze": _reshape, "Transpose": _transpose,
    "Expand": _expand, "Tile": _tile, "Slice": _slice, "Split": _split, "Concat": _concat, "Pad": _pad,
    "Gather": _gather, "GatherElements": _gather_elements, "GatherND": _gather_elements, "ScatterND": _scatter,
    "ScatterElements": _scatter, "DepthToSpace": _blocks, "SpaceToDepth": _blocks, "Resize": _resize,
    "Upsample": _resize,
}  # fmt: skip
