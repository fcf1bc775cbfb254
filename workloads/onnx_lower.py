"""Lowering of nodes to operators: what moves data, what maps element by element, what reduces."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from tilewright.dataflow.errors import InputError, nearest
from tilewright.dataflow.operator import Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.onnx_attention import Band
from tilewright.workloads.onnx_builder import Builder, IrOperator, Read
from tilewright.workloads.onnx_file import Node
from tilewright.workloads.onnx_norms import NORMS
from tilewright.workloads.onnx_products import PRODUCTS
from tilewright.workloads.onnx_ranks import Dim, Item, View

Lower = Callable[[Builder, Node], None]

#: Elementwise operators by their function's name in the tables of the vector unit.
FUNCTIONS = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "pow", "Max": "max", "Min": "min", "Sum": "add",
    "Mean": "mean", "Mod": "mod", "Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Erf": "erf", "Exp": "exp",
    "Log": "log", "Sqrt": "sqrt", "Reciprocal": "reciprocal", "Neg": "neg", "Abs": "abs", "Sign": "sign",
    "Floor": "floor", "Ceil": "ceil", "Round": "round", "Sin": "sin", "Cos": "cos", "Tan": "tan", "Sinh": "sinh",
    "Cosh": "cosh", "Atan": "atan", "Gelu": "gelu", "FastGelu": "gelu_tanh", "QuickGelu": "quick_gelu",
    "BiasGelu": "gelu", "Softplus": "softplus", "Softsign": "softsign", "LeakyRelu": "leaky_relu", "PRelu": "prelu",
    "Elu": "elu", "Celu": "celu", "Selu": "selu", "HardSigmoid": "hardsigmoid", "HardSwish": "hardswish",
    "Mish": "mish", "Swish": "silu", "ThresholdedRelu": "relu", "Clip": "clip", "Where": "where", "Equal": "compare",
    "Less": "compare", "LessOrEqual": "compare", "Greater": "compare", "GreaterOrEqual": "compare", "And": "mask",
    "Or": "mask", "Xor": "mask", "Not": "mask", "IsNaN": "compare", "IsInf": "compare", "Cast": "cast",
    "CastLike": "cast", "QuantizeLinear": "quantize", "DequantizeLinear": "dequantize", "Trilu": "mask",
    "BitShift": "mul", "BitwiseAnd": "mask", "BitwiseOr": "mask", "BitwiseNot": "mask", "Shrink": "compare",
}  # fmt: skip
_REDUCTIONS = {
    "ReduceSum": ("sum", "identity"), "ReduceMean": ("mean", "identity"), "ReduceMax": ("max", "identity"),
    "ReduceMin": ("min", "identity"), "ReduceProd": ("prod", "identity"), "ReduceSumSquare": ("sum", "square"),
    "ReduceL1": ("sum", "abs"), "ReduceL2": ("sum", "square"), "ReduceLogSum": ("sum", "identity"),
    "ReduceLogSumExp": ("sum", "exp"),
}  # fmt: skip
_AFTER = {"ReduceL2": "sqrt", "ReduceLogSum": "log", "ReduceLogSumExp": "log"}
_CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")


def lower_nodes(builder: Builder) -> None:
    """Lower all nodes of the builder's net in order. Raises InputError for one that is not supported."""
    for node in builder.net.nodes:
        builder.start(node)
        if node.op in _CONTROL_FLOW:
            raise builder.refuse("control flow is not supported; export the model without it")
        function = _LOWERINGS.get(node.op)
        if function is None:
            raise builder.refuse(f"operator {node.op} is not supported{nearest(node.op, tuple(_LOWERINGS))}")
        for name in node.inputs:
            if (
                name
                and 0 in builder.shape(name)
                and not builder.values[name].constant
                and node.op != "Concat"
            ):
                raise builder.refuse(f"operand {name!r} is empty: it has shape {list(builder.shape(name))}")
        try:
            function(builder, node)
        except (IndexError, KeyError, TypeError, ZeroDivisionError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise builder.refuse("its operands or attributes do not fit together") from None


def numbers(builder: Builder, node: Node, position: int, name: str) -> list[int] | None:
    """Whole numbers of a constant operand, or of an attribute; None if neither is there."""
    if operand := node.input(position):
        array = builder.values.array(operand)
        if array is None or array.dtype.kind not in "iu":
            raise builder.refuse(f"operand {operand!r} must be whole numbers that are constant and known")
        return [int(value) for value in array.reshape(-1)]
    stated = node.attributes.get(name)
    return None if stated is None else [int(value) for value in stated]


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
    starts = numbers(builder, node, 1, "starts") or []
    axes = numbers(builder, node, 3, "axes") or list(range(len(starts)))
    steps = numbers(builder, node, 4, "") or [1] * len(starts)
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
    pads = numbers(builder, node, 1, "pads") or []
    axes = numbers(builder, node, 3, "") or list(range(rank))
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


def _pointwise(builder: Builder, node: Node) -> None:
    """A function of operands of like shape; numbers are parameters, not operands."""
    views: list[View] = []
    parameters: list[tuple[str, float]] = []
    index = builder.values[node.outputs[0]].is_index
    for position, name in enumerate(node.inputs):
        if not name:
            continue
        number = builder.values.scalar(name)
        if builder.values[name].constant and (number is not None or builder.values[name].n_elements == 1):
            parameters.append((f"operand_{position}", 0.0 if number is None else number))
        elif node.op in ("Trilu", "Clip", "CastLike", "DequantizeLinear", "QuantizeLinear") and position:
            continue
        else:
            views.append(builder.view(name))
    function, parameters = _with_numbers(_function(node, len(views)), parameters)
    role = Role.INDEX if index else Role.ACTIVATION
    builder.bind(
        node.outputs[0],
        builder.pointwise(
            views,
            builder.shape(node.outputs[0]),
            function,
            parameters=tuple(parameters),
            role=role,
            label=builder.bias_label(views) if node.op == "Add" else "",
        ),
    )


def _with_numbers(function: str, numbers: list[tuple[str, float]]) -> tuple[str, list[tuple[str, float]]]:
    """The function of an operator with numbers among its operands: a factor, a divisor, a square."""
    match function, numbers:
        case "scale", [(_, factor)]:
            return function, [("scale", factor)]
        case "div", [("operand_1", divisor)] if divisor:
            return "scale", [("scale", 1 / divisor)]
        case "div", [("operand_0", 1.0)]:
            return "reciprocal", []
        case "pow", [("operand_1", 2.0)]:
            return "square", []
    return function, numbers


def _function(node: Node, n_views: int) -> str:
    if node.op == "Gelu" and node.attributes.get("approximate") in (b"tanh", "tanh"):
        return "gelu_tanh"
    if n_views == 1 and node.op == "Mul":
        return "scale"
    return FUNCTIONS[node.op]


def _own_function(builder: Builder, node: Node) -> None:
    view = builder.view(node.inputs[0])
    function = str(node.attributes["function"])
    output = builder.pointwise(
        (view,), builder.shape(node.outputs[0]), function, group="activation", label=function
    )
    builder.bind(node.outputs[0], output)


def _rotary(builder: Builder, node: Node) -> None:
    """Rotated pairs of channels: each result needs its own element and its partner's."""
    view = builder.view(node.inputs[0])
    shape = builder.shape(node.outputs[0])
    tables = [name for name in node.inputs[1:] if not builder.values[name].constant]
    views = [view, *(builder.view(name) for name in tables)]
    builder.bind(
        node.outputs[0],
        builder.pointwise(views, shape, "rotary", group="attention", label="rotate",
                          parameters=(("rotary_dim", float(shape[-1])),)),
    )  # fmt: skip


def _reduce(builder: Builder, node: Node) -> None:
    axes = builder.net.axes_of(node)
    view = builder.view(node.inputs[0])
    if axes is None:
        raise builder.refuse("its axes must be constants")
    reduce, function = _REDUCTIONS[node.op]
    if not axes:
        builder.bind(node.outputs[0], view)
        return
    keep = bool(node.attributes.get("keepdims", 1))
    output = builder.reduction(view, axes, reduce, function=function, keep=keep)
    if after := _AFTER.get(node.op):
        output = builder.pointwise(
            (output,), builder.shape(node.outputs[0]), after, label=f"{builder.label}_{after}"
        )
    builder.bind(node.outputs[0], output)


def _softmax(builder: Builder, node: Node) -> None:
    """A maximum, an exponent, a sum and a division (or the logarithm of one)."""
    view = builder.view(node.inputs[0])
    rank = len(view.dims)
    old = builder.net.opset < 13
    axis = int(node.attributes.get("axis", 1 if old else -1)) % rank
    axes = tuple(range(axis, rank)) if old else (axis,)
    builder.bind(node.outputs[0], softmax(builder, view, axes, node))


def softmax(builder: Builder, view: View, axes: tuple[int, ...], node: Node) -> View:
    """The four operators of a softmax over `axes`."""
    group = str(node.attributes.get("group", "")) or "softmax"
    shape = [builder.size(dim) for dim in view.dims]
    band = Band(node.attributes.get("upper"), node.attributes.get("lower"))
    top = builder.reduction(view, axes, "max", group=group, label="row_max", band=band)
    raised = builder.pointwise((view, top), shape, "exp", group=group, label="exponent", band=band)
    total = builder.reduction(raised, axes, "sum", group=group, label="row_sum", band=band)
    last = "log" if node.op == "LogSoftmax" else "div"
    return builder.pointwise((raised, total), shape, last, group=group, label="normalise", band=band)


def _top(builder: Builder, node: Node) -> None:
    """The largest elements along an axis, or where they are."""
    view = builder.view(node.inputs[0])
    arg = node.op in ("ArgMax", "ArgMin")
    axis = int(node.attributes.get("axis", 0 if arg else -1)) % len(view.dims)
    for position, name in enumerate(node.outputs):
        if not name:
            continue
        dims = builder.like(view.dims)
        n_kept = 1 if arg else builder.shape(name)[axis]
        kept = tuple(
            builder.dims_of((n_kept,))[0] if place == axis else dim for place, dim in enumerate(dims)
        )
        role = Role.INDEX if arg or position else Role.ACTIVATION
        output = builder.new(kept, role)
        builder.append(
            IrOperator(
                builder.label, Kind.TOPK, output.tensor,
                (Read(view, tuple(zip(view.dims, dims, strict=True))),), "max", "max", "topk", dims[axis],
            )
        )  # fmt: skip
        builder.bind(name, builder.reshape(output, builder.shape(name)))


def _cumulate(builder: Builder, node: Node) -> None:
    view = builder.view(node.inputs[0])
    dims = builder.like(view.dims)
    output = builder.new(dims, Role.INDEX if builder.values[node.outputs[0]].is_index else Role.ACTIVATION)
    reads = (Read(view, tuple(zip(view.dims, dims, strict=True))),)
    builder.append(IrOperator(builder.label, Kind.SCAN, output.tensor, reads, "add", group="scan"))
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


_MOVES: Mapping[str, Lower] = {
    "Reshape": _reshape, "Flatten": _reshape, "Squeeze": _reshape, "Unsqueeze": _reshape, "Transpose": _transpose,
    "Expand": _expand, "Tile": _tile, "Slice": _slice, "Split": _split, "Concat": _concat, "Pad": _pad,
    "Gather": _gather, "GatherElements": _gather_elements, "GatherND": _gather_elements, "ScatterND": _scatter,
    "ScatterElements": _scatter, "DepthToSpace": _blocks, "SpaceToDepth": _blocks, "Resize": _resize,
    "Upsample": _resize,
}  # fmt: skip
_LOWERINGS: Mapping[str, Lower] = {
    **_MOVES, **dict.fromkeys(FUNCTIONS, _pointwise), **dict.fromkeys(_REDUCTIONS, _reduce),
    "Softmax": _softmax, "LogSoftmax": _softmax, "TopK": _top, "ArgMax": _top, "ArgMin": _top, "CumSum": _cumulate,
    "Function": _own_function, "Rotary": _rotary, **PRODUCTS, **NORMS,
}  # fmt: skip
