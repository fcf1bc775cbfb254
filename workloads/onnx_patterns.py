"""Patterns that exporters write as many small operators: activations, norms, rotary embeddings."""

from collections.abc import Callable

import numpy as np

from tilewright.workloads.onnx_evaluate import ELEMENTWISE, Array, UnknownValueError, erf, evaluate
from tilewright.workloads.onnx_file import Node
from tilewright.workloads.onnx_nodes import OWN, Net

_CURVED = frozenset(("Erf", "Tanh", "Sigmoid", "Exp", "Softplus", "Clip", "Relu", "HardSigmoid"))
_MAX_REGION = 16
# Where candidates are compared: no zero, no symmetric pair.
_SAMPLES = np.linspace(-3.9, 4.3, 23)
_TOLERANCE = 1e-5  # exporters write constants as 32-bit numbers


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * _sigmoid(x),
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
    "mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
    "hardswish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "softplus": lambda x: np.logaddexp(x, 0),
    "sigmoid": _sigmoid,
}


def recognise(net: Net) -> None:
    """Put one node in the place of each pattern: `Function`, `Normalise`, `Rotary`."""
    _recognise_functions(net)
    _recognise_norms(net)
    _recognise_rotary(net)


def _recognise_functions(net: Net) -> None:
    """Chains of elementwise operators and numbers on one value, told by their results at sample points."""
    wanted = {name: function(_SAMPLES) for name, function in _FUNCTIONS.items()}
    changed = {}
    for node in net.nodes:
        if node.domain or node.op not in ("Mul", "Div", "Add", "Reciprocal", "Log"):
            continue
        region = _region(net, node)
        if not any(net.producer[name].op in _CURVED for name in region):
            continue
        candidates = dict.fromkeys(n for name in region for n in net.producer[name].inputs if n not in region)
        for source in (*candidates, *region[1:]):
            if not source or net.values[source].constant:
                continue
            found = _sampled(net, region, source)
            names = (
                []
                if found is None
                else [n for n, w in wanted.items() if np.allclose(found, w, atol=_TOLERANCE)]
            )
            if names:
                changed[node.outputs[0]] = Node(
                    "Function", OWN, node.name, (source,), node.outputs[:1], {"function": names[0]}
                )
                break
    net.replace(changed)


def _region(net: Net, node: Node) -> list[str]:
    """The values that `node`'s is computed from element by element, its own first, of one shape."""
    shape = net.values[node.outputs[0]].shape
    region: dict[str, None] = {}
    pending = [node.outputs[0]]
    while pending and len(region) < _MAX_REGION:
        name = pending.pop(0)
        producer = net.producer.get(name)
        if producer is None or producer.domain or producer.op not in ELEMENTWISE or name in region:
            continue
        if net.values[name].shape == shape:
            region[name] = None
            pending.extend(operand for operand in producer.inputs if operand)
    return list(region)


def _sampled(net: Net, region: list[str], source: str) -> Array | None:
    """The first value of the region where `source` takes the sample points; None if it depends on more."""
    known: dict[str, Array] = {source: _SAMPLES}
    pending = [region[0]]
    for _ in range(4 * len(region)):
        if not pending:
            break
        name = pending[-1]
        if name in known:
            pending.pop()
            continue
        if name not in region:
            number = net.scalar(name)
            if number is None:
                return None
            known[name] = np.asarray(number)
            continue
        producer = net.producer[name]
        missing = [operand for operand in producer.inputs if operand and operand not in known]
        if missing:
            pending.extend(missing)
            continue
        operands = [known[operand] if operand else None for operand in producer.inputs]
        try:
            known[name] = evaluate(producer.op, operands, producer.attributes, 1)[0]
        except UnknownValueError:
            return None
    return known.get(region[0])


def _recognise_norms(net: Net) -> None:
    """x / sqrt(mean(x^2) + e), of x or of x less its mean, with a factor and a term per element or without."""
    changed: dict[str, Node] = {}
    for node in net.nodes:
        if node.domain or node.op not in ("Mul", "Div"):
            continue
        found = _norm(net, node)
        if found is None:
            continue
        source, axes, epsilon = found
        kind = "rmsnorm"
        if centred := _centred(net, source, axes):
            source, kind = centred, "layernorm"
        inputs, last = [source], node.outputs[0]
        for op in ("Mul", "Add"):
            reader = net.only_reader(last)
            operand = _vector(net, reader, op, last, axes) if reader else ""
            if not reader or not operand:
                break
            inputs.append(operand)
            last = reader.outputs[0]
        attributes = {"kind": kind, "axes": axes, "epsilon": epsilon}
        changed[last] = Node("Normalise", OWN, node.name, tuple(inputs), (last,), attributes)
    net.replace(changed)


def _norm(net: Net, node: Node) -> tuple[str, tuple[int, ...], float] | None:
    """(x, axes, epsilon) of x / sqrt(mean over axes of x^2 + epsilon)."""
    if node.op == "Div":
        pairs = [(node.inputs[0], _under_root(net, node.inputs[1]))]
    else:
        pairs = [(x, _under_inverse_root(net, other)) for x, other in net.operand_pairs(node)]
    for x, inner in pairs:
        add = net.made_by(inner, "Add") if inner else None
        for mean, term in net.operand_pairs(add) if add else ():
            epsilon = net.scalar(term)
            reduced = net.made_by(mean, "ReduceMean")
            if epsilon is None or reduced is None or not _squares(net, reduced.inputs[0], x):
                continue
            axes = net.axes_of(reduced)
            if axes and reduced.attributes.get("keepdims", 1):
                return x, axes, epsilon
    return None


def _under_root(net: Net, name: str) -> str:
    """y of sqrt(y), "" for anything else."""
    if node := net.made_by(name, "Sqrt"):
        return node.inputs[0]
    node = net.made_by(name, "Pow")
    return node.inputs[0] if node and net.scalar(node.inputs[1]) == 0.5 else ""


def _under_inverse_root(net: Net, name: str) -> str:
    """y of 1 / sqrt(y), "" for anything else."""
    if node := net.made_by(name, "Reciprocal"):
        return _under_root(net, node.inputs[0])
    if (node := net.made_by(name, "Pow")) and net.scalar(node.inputs[1]) == -0.5:
        return node.inputs[0]
    node = net.made_by(name, "Div")
    return _under_root(net, node.inputs[1]) if node and net.scalar(node.inputs[0]) == 1 else ""


def _squares(net: Net, name: str, x: str) -> bool:
    node = net.made_by(name, "Pow", "Mul")
    if node is None or node.inputs[0] != x:
        return False
    return node.inputs[1] == x if node.op == "Mul" else net.scalar(node.inputs[1]) == 2


def _centred(net: Net, name: str, axes: tuple[int, ...]) -> str:
    """y of y - mean(y), "" for anything else."""
    node = net.made_by(name, "Sub")
    mean = net.made_by(node.inputs[1], "ReduceMean") if node else None
    if node and mean and mean.inputs[0] == node.inputs[0] and net.axes_of(mean) == axes:
        return node.inputs[0]
    return ""


def _vector(net: Net, node: Node, op: str, name: str, axes: tuple[int, ...]) -> str:
    """The constant that `node` multiplies with, or adds to, `name`, if it has the size of the axes."""
    if node.op != op or node.domain or len(node.inputs) != 2:
        return ""
    other = node.inputs[1] if node.inputs[0] == name else node.inputs[0]
    value, shape = net.values[other], net.values[name].shape
    size = 1
    for axis in axes:
        size *= shape[axis]
    return other if value.constant and value.n_elements == size > 1 else ""


_MOVERS = frozenset(
    ("Concat", "Neg", "Slice", "Split", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Flatten", "Gather")
)


def _recognise_rotary(net: Net) -> None:
    """x * c + r * s, where r is x with its parts swapped and some of them negated."""
    changed = {}
    for node in net.nodes:
        if node.domain or node.op != "Add":
            continue
        for straight, turned in net.operand_pairs(node):
            first, second = net.made_by(straight, "Mul"), net.made_by(turned, "Mul")
            found = _rotation(net, first, second) if first and second else None
            if found:
                changed[node.outputs[0]] = Node("Rotary", OWN, node.name, found, node.outputs, {})
                break
    net.replace(changed)


def _rotation(net: Net, first: Node, second: Node) -> tuple[str, str, str] | None:
    for x, cosines in net.operand_pairs(first):
        for turned, sines in net.operand_pairs(second):
            if net.made_by(turned, "Concat", "Reshape", "Flatten") and _is_turned(net, turned, x):
                return x, cosines, sines
    return None


def _is_turned(net: Net, name: str, x: str) -> bool:
    """Whether a value is made of parts of `x` and their negatives and of nothing else."""
    pending = [name]
    ops: set[str] = set()
    for _ in range(_MAX_REGION):
        if not pending:
            return {"Neg", "Concat"} <= ops
        current = pending.pop()
        if current == x or net.values[current].constant:
            continue
        node = net.producer.get(current)
        if node is None or node.domain or node.op not in _MOVERS:
            return False
        ops.add(node.op)
        pending.extend(operand for operand in node.inputs if operand)
    return False
