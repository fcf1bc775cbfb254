"""Lowering of normalisations and pooling: statistics as a reduction, the rest as one map."""

from collections.abc import Callable, Mapping
from math import prod

from tilewright.dataflow.operator import Kind
from tilewright.workloads.onnx_builder import Builder, IrOperator, Read
from tilewright.workloads.onnx_file import Node
from tilewright.workloads.onnx_ranks import Atom, Dim, View
from tilewright.workloads.onnx_windows import Windows, windows_of

_POOLS = {
    "MaxPool": "max",
    "AveragePool": "mean",
    "LpPool": "sum",
    "GlobalAveragePool": "mean",
    "GlobalMaxPool": "max",
}


def _normalise(
    builder: Builder, view: View, axes: tuple[int, ...], kind: str, vectors: list[View], epsilon: float
) -> View:
    layer = kind == "layernorm"
    shape = [builder.size(dim) for dim in view.dims]
    label = next(
        (builder.tensors[v.tensor].label for v in vectors if builder.tensors[v.tensor].label), builder.label
    )
    statistics = builder.reduction(
        view, axes, "mean_variance" if layer else "mean", function="identity" if layer else "square", group="norm",
        label=f"{label}_statistics",
    )  # fmt: skip
    return builder.pointwise(
        (view, statistics, *vectors),
        shape,
        kind,
        group="norm",
        label=label,
        parameters=(("epsilon", epsilon),),
    )


def _trailing(builder: Builder, view: View, names: list[str], axes: tuple[int, ...]) -> list[View]:
    """Factors and terms of the normalised axes, ready to be repeated along the others."""
    shape = [builder.size(dim) if axis in axes else 1 for axis, dim in enumerate(view.dims)]
    return [builder.reshape(builder.view(name), shape) for name in names if name]


def _own_norm(builder: Builder, node: Node) -> None:
    view, axes = builder.view(node.inputs[0]), tuple(node.attributes["axes"])
    vectors = _trailing(builder, view, list(node.inputs[1:]), axes)
    epsilon = float(node.attributes["epsilon"])
    builder.bind(node.outputs[0], _normalise(builder, view, axes, node.attributes["kind"], vectors, epsilon))


def _layer_norm(builder: Builder, node: Node) -> None:
    view = builder.view(node.inputs[0])
    axis = int(node.attributes.get("axis", -1)) % len(view.dims)
    kind = "layernorm" if node.op == "LayerNormalization" else "rmsnorm"
    axes = tuple(range(axis, len(view.dims)))
    vectors = _trailing(builder, view, list(node.inputs[1:3]), axes)
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    output = _normalise(builder, view, axes, kind, vectors, epsilon)
    _refuse_used(builder, node, 1)
    builder.bind(node.outputs[0], output)


def _refuse_used(builder: Builder, node: Node, first: int) -> None:
    """Raise InputError if anybody reads an output from position `first` on: statistics are no values here."""
    for name in node.outputs[first:]:
        if name and (builder.net.readers.get(name) or name in builder.net.outputs):
            raise builder.refuse(f"its output {name!r} is not supported")


def _skip_norm(builder: Builder, node: Node) -> None:
    """x + skip (+ bias), normalised; the sum itself may be the fourth output."""
    names = list(node.inputs)
    simplified = node.op == "SkipSimplifiedLayerNormalization"
    bias = node.input(3 if simplified else 4)
    terms = [builder.view(name) for name in (names[0], names[1], bias) if name]
    shape = builder.shape(node.inputs[0])
    total = builder.pointwise(terms, shape, "add", group="residual", label="residual")
    axes = (len(shape) - 1,)
    vectors = _trailing(builder, total, names[2:3] if simplified else names[2:4], axes)
    epsilon = float(node.attributes.get("epsilon", 1e-12))
    kind = "rmsnorm" if simplified else "layernorm"
    builder.bind(node.outputs[0], _normalise(builder, total, axes, kind, vectors, epsilon))
    for name in node.outputs[1:3]:
        if name and builder.net.readers.get(name):
            raise builder.refuse(f"its output {name!r} is not supported")
    if len(node.outputs) > 3 and node.outputs[3]:
        builder.bind(node.outputs[3], total)


def _batch_norm(builder: Builder, node: Node) -> None:
    """Stored statistics: one factor and one term per channel."""
    if node.attributes.get("training_mode"):
        raise builder.refuse("training mode is not supported")
    view = builder.view(node.inputs[0])
    vectors = _trailing(builder, view, list(node.inputs[1:3]), (1,))
    shape = builder.shape(node.outputs[0])
    builder.bind(node.outputs[0], builder.pointwise((view, *vectors), shape, "batchnorm", group="norm"))


def _group_norm(builder: Builder, node: Node) -> None:
    """Statistics over the channels of a group, or each by itself, and all positions."""
    view, shape = builder.view(node.inputs[0]), builder.shape(node.inputs[0])
    n_groups = (
        int(node.attributes.get("num_groups", shape[1])) if node.op == "GroupNormalization" else shape[1]
    )
    if n_groups < 1 or shape[1] % n_groups:
        raise builder.refuse(f"{shape[1]} channels are no multiple of {n_groups} groups")
    split = (shape[0], n_groups, shape[1] // n_groups, *shape[2:])
    grouped = builder.reshape(view, split)
    axes = tuple(range(2, len(split)))
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    vectors = []
    for name in filter(None, node.inputs[1:3]):
        of_channels = builder.values[name].n_elements == shape[1]
        own = (1, n_groups, shape[1] // n_groups if of_channels else 1, *[1] * (len(shape) - 2))
        vectors.append(builder.reshape(builder.view(name), own))
    output = _normalise(builder, grouped, axes, "layernorm", vectors, epsilon)
    builder.bind(node.outputs[0], builder.reshape(output, shape))


def _lp_norm(builder: Builder, node: Node) -> None:
    view = builder.view(node.inputs[0])
    axis = int(node.attributes.get("axis", -1)) % len(view.dims)
    function = "abs" if node.attributes.get("p", 2) == 1 else "square"
    total = builder.reduction(view, (axis,), "sum", function=function, group="norm")
    shape = builder.shape(node.outputs[0])
    builder.bind(node.outputs[0], builder.pointwise((view, total), shape, "div", group="norm"))


def _pool(builder: Builder, node: Node) -> None:
    """A reduction over the taps of a window, or over all positions."""
    view, shape = builder.view(node.inputs[0]), builder.shape(node.inputs[0])
    _refuse_used(builder, node, 1)
    reduce = _POOLS[node.op]
    if node.op.startswith("Global"):
        axes = tuple(range(2, len(shape)))
        builder.bind(node.outputs[0], builder.reduction(view, axes, reduce, group="conv"))
        return
    taps = [int(size) for size in node.attributes["kernel_shape"]]
    windows = windows_of(builder, node, view, taps, builder.shape(node.outputs[0])[2:])
    dims = (*builder.like(windows.view.dims[:2]), *windows.positions)
    pooled(builder, node, windows, dims, reduce)


def pooled(builder: Builder, node: Node, windows: Windows, dims: tuple[Dim, ...], reduce: str) -> None:
    """Bind the reduction over the taps of windows."""
    output = builder.new(dims, wide=False)
    own = tuple(zip(windows.view.dims[:2], dims[:2], strict=True))
    read = Read(windows.view, own + windows.pairs, windows.moved)
    taps: tuple[Atom, ...] = windows.taps
    builder.append(
        IrOperator(builder.label, Kind.REDUCTION, output.tensor, (read,), "identity", reduce, "conv", taps)
    )
    builder.group_of[output.tensor] = "conv"
    assert prod(builder.shape(node.outputs[0])) == prod(builder.size(dim) for dim in dims)
    builder.bind(node.outputs[0], output)


NORMS: Mapping[str, Callable[[Builder, Node], None]] = {
    "Normalise": _own_norm, "LayerNormalization": _layer_norm, "RMSNormalization": _layer_norm,
    "SimplifiedLayerNormalization": _layer_norm, "SkipLayerNormalization": _skip_norm,
    "SkipSimplifiedLayerNormalization": _skip_norm, "BatchNormalization": _batch_norm,
    "GroupNormalization": _group_norm, "InstanceNormalization": _group_norm, "LpNormalization": _lp_norm,
    **dict.fromkeys(_POOLS, _pool),
}  # fmt: skip
