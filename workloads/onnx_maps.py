"""Lowering of nodes that map element by element, reduce, or pick the largest."""

from collections.abc import Mapping

from tilewright.dataflow.operator import Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.onnx_attention import Band
from tilewright.workloads.onnx_builder import Builder, IrOperator, Lower, Read
from tilewright.workloads.onnx_file import Node
from tilewright.workloads.onnx_ranks import View

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


MAPS: Mapping[str, Lower] = {
    **dict.fromkeys(FUNCTIONS, _pointwise), **dict.fromkeys(_REDUCTIONS, _reduce), "Softmax": _softmax,
    "LogSoftmax": _softmax, "TopK": _top, "ArgMax": _top, "ArgMin": _top, "CumSum": _cumulate,
    "Function": _own_function, "Rotary": _rotary,
}  # fmt: skip
