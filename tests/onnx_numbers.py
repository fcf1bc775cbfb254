"""Lowered ONNX graphs evaluated in numpy, point by point, beside the standard's own reference evaluator.

Only the documented meaning of operators is used: kinds, functions, index expressions, masks and parameters. A position
outside of a tensor is padding.
"""

from collections.abc import Mapping
from math import erf
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Index, Kind, Operator
from tilewright.workloads.onnx_attention import mark_attention
from tilewright.workloads.onnx_builder import Builder
from tilewright.workloads.onnx_dims import OnnxTerms, bind
from tilewright.workloads.onnx_emit import GraphEmitter
from tilewright.workloads.onnx_file import read_onnx
from tilewright.workloads.onnx_lower import lower_nodes
from tilewright.workloads.onnx_nodes import running
from tilewright.workloads.onnx_patterns import recognise
from tilewright.workloads.onnx_values import Values
from tilewright.workloads.onnx_workload import declare_inputs, output_tensors
from tilewright.workloads.precision import Precision

Array = NDArray[Any]
_erf = np.vectorize(erf, otypes=[np.float64])
_MAPS: dict[str, Any] = {
    "add": lambda *x: sum(x), "sub": np.subtract, "mul": lambda *x: np.prod(np.broadcast_arrays(*x), axis=0),
    "div": np.divide, "exp": lambda x, top=0.0: np.exp(x - top), "scale": lambda x: x, "identity": lambda x: x,
    "copy": lambda x: x, "square": np.square, "sqrt": np.sqrt, "reciprocal": np.reciprocal, "neg": np.negative,
    "relu": lambda x: np.maximum(x, 0), "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "tanh": np.tanh,
    "gelu": lambda x: 0.5 * x * (1 + _erf(x / np.sqrt(2))), "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)), "abs": np.abs, "pow": np.power, "max": np.maximum,
    "cast": lambda x: x, "where": np.where, "log": lambda x, total=1.0: np.log(x / total), "erf": _erf,
}  # fmt: skip


def both(file: Path, feeds: Mapping[str, Array], **terms: Any) -> tuple[list[Array], list[Array]]:
    """The outputs of a file: by its lowered graph, and by the reference evaluator; flattened."""
    model = read_onnx(file)
    bound = bind(model, OnnxTerms(**terms))
    values = Values(model, bound.shapes)
    net = running(model, values)
    recognise(net)
    mark_attention(net)
    builder = Builder(net)
    names = declare_inputs(builder, model, bound)
    lower_nodes(builder)
    outputs = output_tensors(builder, net)
    emitter = GraphEmitter(builder, outputs, names, Precision(), "hardware")
    graph = emitter.graph("whole", 0, len(builder.operators))
    tensors = list(_live_in(builder))
    fed = {}
    for name, tensor in zip(graph.inputs, tensors, strict=True):
        source = builder.tensors[tensor].source
        array = feeds[_input_of(builder, feeds, tensor)] if not source else values.array(source)
        assert array is not None
        shape = tuple(graph.size(rank) for rank in graph.tensor_by_name[name].ranks)
        fed[name] = np.asarray(array, dtype=np.float64).reshape(shape)
    found = run(graph, fed)
    expected = ReferenceEvaluator(onnx.load(file)).run(None, dict(feeds))
    views = [builder.view(name) for name in net.outputs]
    ours = []
    for name, view, theirs in zip(graph.outputs, views, expected, strict=True):
        array = found[name]
        if view.is_plain:  # the tensor's ranks in another order than the view's
            own = [id(atom) for atom in builder.tensors[view.tensor].atoms]
            sizes = [builder.classes.size(atom) for atom in builder.tensors[view.tensor].atoms]
            order = [own.index(id(atom)) for atom in view.atoms if id(atom) in own]
            order += [place for place in range(len(own)) if place not in order]
            array = array.reshape(sizes).transpose(order)
        ours.append(array.reshape(np.shape(theirs)))
    return ours, [np.asarray(array) for array in expected]


def _live_in(builder: Builder) -> list[str]:
    produced = {operator.output for operator in builder.operators}
    read = [read.view.tensor for operator in builder.operators for read in operator.reads]
    return list(dict.fromkeys(name for name in read if name not in produced))


def _input_of(builder: Builder, feeds: Mapping[str, Array], tensor: str) -> str:
    return next(name for name in feeds if builder.is_known(name) and builder.view(name).tensor == tensor)


def run(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Every tensor of the graph by name."""
    values = dict(inputs)
    for operator in graph.operators:
        shape = tuple(graph.size(rank) for rank in graph.tensor_by_name[operator.output.tensor].ranks)
        values[operator.output.tensor] = _evaluated(graph, operator, values, shape)
    return values


def _evaluated(graph: Graph, operator: Operator, values: dict[str, Array], shape: tuple[int, ...]) -> Array:
    sizes = [graph.size(rank) for rank in operator.ranks]
    grid = np.indices(sizes).reshape(len(sizes), -1) if sizes else np.zeros((0, 1), dtype=np.int64)
    points = dict(zip(operator.ranks, grid, strict=True))
    if mask := operator.mask:
        distance = points[mask.rank] - points[mask.of]
        upper = np.inf if mask.upper is None else mask.upper
        lower = -np.inf if mask.lower is None else mask.lower
        points = {rank: at[(distance <= upper) & (distance >= lower)] for rank, at in points.items()}
    n_points = len(next(iter(points.values()))) if points else 1
    target = tuple(_position(index, points, n_points) for index in operator.output.indices)
    if operator.kind is Kind.SCATTER:
        return _scattered(operator, points, values, shape, target, n_points)
    if operator.kind is Kind.GATHER:
        operands = [_gathered(operator, points, values, n_points)]
    else:
        padding = -np.inf if operator.reduce == "max" else 0.0
        operands = [_read(access, points, values, n_points, padding) for access in operator.inputs]
    result = _mapped(operator, operands)
    inside = np.ones(n_points, dtype=bool)
    for at, size in zip(target, shape, strict=True):
        inside &= (at >= 0) & (at < size)
    result = np.broadcast_to(result, (n_points,))[inside]
    target = tuple(at[inside] for at in target)
    flat = np.ravel_multi_index(target, shape) if shape else np.zeros(n_points, dtype=np.int64)
    return _combined(operator, result, flat, shape)


def _mapped(operator: Operator, operands: list[Array]) -> Array:
    parameters = dict(operator.parameters)
    if operator.function == "layernorm" or operator.function == "rmsnorm":
        return _normalised(operator.function, operands, parameters["epsilon"])
    if operator.function == "batchnorm":
        return operands[0] * operands[1] + operands[2]
    for place in range(3):
        if f"operand_{place}" in parameters:
            operands.insert(place, np.float64(parameters[f"operand_{place}"]))
    result = np.asarray(_MAPS[operator.function](*operands), dtype=operands[0].dtype)
    return result * parameters.get("scale", 1.0)


def _normalised(kind: str, operands: list[Array], epsilon: float) -> Array:
    """Moments travel as complex numbers: the mean, and i times the variance."""
    x, moments = operands[:2]
    if kind == "layernorm":
        result = (x.real - moments.real) / np.sqrt(moments.imag + epsilon)
    else:
        result = x / np.sqrt(moments + epsilon)
    for place, operand in enumerate(operands[2:]):
        result = result + operand if place else result * operand
    return np.asarray(result)


def _combined(operator: Operator, result: Array, flat: Array, shape: tuple[int, ...]) -> Array:
    n = int(np.prod(shape, dtype=np.int64))
    if not operator.reduce:
        output = np.full(n, np.nan, dtype=result.dtype)
        output[flat] = result
        return output.reshape(shape)
    if operator.reduce == "max":
        output = np.full(n, -np.inf)
        np.maximum.at(output, flat, result)
        return output.reshape(shape)
    total, count = np.zeros(n), np.zeros(n)
    np.add.at(total, flat, result)
    np.add.at(count, flat, 1.0)
    if operator.reduce == "sum":
        return total.reshape(shape)
    mean = total / count
    if operator.reduce == "mean":
        return mean.reshape(shape)
    assert operator.reduce == "mean_variance"
    squares = np.zeros(n)
    np.add.at(squares, flat, (result - mean[flat]) ** 2)
    return (mean + 1j * squares / count).reshape(shape)


def _read(
    access: Access, points: dict[str, Array], values: dict[str, Array], n_points: int, padding: float
) -> Array:
    tensor = values[access.tensor]
    where = [_position(index, points, n_points) for index in access.indices]
    inside = np.ones(n_points, dtype=bool)
    for at, size in zip(where, tensor.shape, strict=True):
        inside &= (at >= 0) & (at < size)
    read = tensor[tuple(np.where(inside, at, 0) for at in where)]
    read = np.broadcast_to(read, (n_points,))
    return read if inside.all() else np.where(inside, read, padding)


def _position(index: Index, points: dict[str, Array], n_points: int) -> Array:
    found = np.full(n_points, index.offset)
    for term in index.terms:
        found = found + term.coefficient * (points[term.rank] // term.divisor)
    return found


def _gathered(operator: Operator, points: dict[str, Array], values: dict[str, Array], n_points: int) -> Array:
    """The one rank of the table at a constant position is where the first input says."""
    rows = _read(operator.inputs[0], points, values, n_points, 0.0).astype(np.int64)
    table = operator.inputs[1]
    where = [_position(index, points, n_points) for index in table.indices]
    (place,) = (p for p, index in enumerate(table.indices) if not index.terms)
    where[place] = rows
    return np.asarray(values[table.tensor][tuple(where)])


def _scattered(
    operator: Operator, points: dict[str, Array], values: dict[str, Array], shape: tuple[int, ...],
    target: tuple[Array, ...], n_points: int,
) -> Array:  # fmt: skip
    """The last input written into the first one, or into zeros."""
    output = np.zeros(shape)
    if len(operator.inputs) == 2:
        below = values[operator.inputs[0].tensor]
        output[tuple(slice(0, size) for size in below.shape)] = below
    output[target] = _read(operator.inputs[-1], points, values, n_points, 0.0)
    return output
