"""A graph evaluated in numpy, point by point along every operator's iteration space.

It knows nothing of how a graph came to be: kinds, functions, index terms, masks, serial ranks and
parameters are taken at their documented meaning. A masked point of a tensor is absent; absent points
hold NaN and a masked operator never reads them. What a reduction reads beyond the ends of a tensor is absent too.
A gather reads its table, the last input, where the first one says, at the rank that has a constant index.
"""

from collections.abc import Callable, Mapping
from itertools import groupby
from math import erf

import numpy as np
from numpy.typing import NDArray

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Index, Kind, Mask, Operator

Array = NDArray[np.float64]
_FUNCTIONS: dict[str, Callable[..., Array]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum,
    "min": np.minimum, "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "square": np.square, "tanh": np.tanh,
    "rsqrt": lambda x: 1 / np.sqrt(x), "identity": lambda x: x, "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0), "erf": np.vectorize(erf, otypes=[np.float64]),
    "silu": lambda x: x / (1 + np.exp(-x)), "softplus": lambda x: np.log1p(np.exp(x)),
}  # fmt: skip
_REDUCTIONS: dict[str, tuple[float, Callable[..., Array]]] = {
    "sum": (0.0, np.sum), "max": (-np.inf, np.max), "min": (np.inf, np.min), "prod": (1.0, np.prod),
}  # fmt: skip


def run_graph(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Every tensor of the graph by name; the operators of a serial rank run step by step."""
    values = {name: np.asarray(value, dtype=np.float64) for name, value in inputs.items()}
    for tensor in graph.tensors:
        shape = tuple(graph.size(rank) for rank in tensor.ranks)
        if tensor.name in values:
            assert values[tensor.name].shape == shape, (tensor.name, values[tensor.name].shape, shape)
        else:
            values[tensor.name] = np.full(shape, np.nan)
    with np.errstate(over="ignore"):  # exp(lowest - x) is 0 after an overflow to -inf
        for serial, loop in groupby(graph.operators, key=lambda operator: operator.serial_rank):
            body = list(loop)
            for step in range(graph.size(serial)) if serial else (None,):
                for operator in body:
                    _evaluate(graph, operator, values, step)
    return values


def _evaluate(graph: Graph, operator: Operator, values: dict[str, Array], step: int | None) -> None:
    sizes = [graph.size(rank) for rank in operator.ranks]
    grid = np.indices(sizes).reshape(len(sizes), -1) if sizes else np.zeros((0, 1), dtype=np.int64)
    points = dict(zip(operator.ranks, grid, strict=True))
    if step is not None:
        here = points[operator.serial_rank] == step
        points = {rank: position[here] for rank, position in points.items()}
    if operator.mask:
        here = _unmasked(graph, operator.mask, points)
        points = {rank: position[here] for rank, position in points.items()}
    if operator.kind in (Kind.CONTRACTION, Kind.REDUCTION):
        points = _inside(graph, operator, points)
    n_points = len(next(iter(points.values()))) if points else 1
    result = _function(operator, points, values, n_points)
    target = tuple(_position(index, points, n_points) for index in operator.output.indices)
    if operator.kind in (Kind.CONTRACTION, Kind.REDUCTION):
        _combine(operator, values[operator.output.tensor], target, result, step)
    else:
        output = values[operator.output.tensor]
        output.reshape(-1)[_flat(target, output.shape, n_points)] = result


def _inside(
    graph: Graph, operator: Operator, points: dict[str, NDArray[np.int64]]
) -> dict[str, NDArray[np.int64]]:
    """The points whose reads lie in their tensors, or before the first step of a recurrence."""
    n_points = len(next(iter(points.values()))) if points else 1
    here = np.ones(n_points, dtype=bool)
    for access in operator.inputs:
        ranks = graph.tensor_by_name[access.tensor].ranks
        for rank, index in zip(ranks, access.indices, strict=True):
            position = _position(index, points, n_points)
            here &= position < graph.size(rank)
            if not operator.steps_back(access):
                here &= position >= 0
    return {rank: position[here] for rank, position in points.items()}


def _function(
    operator: Operator, points: dict[str, NDArray[np.int64]], values: dict[str, Array], n_points: int
) -> Array:
    parameters = dict(operator.parameters)
    operands = []
    if operator.kind is Kind.GATHER:
        picked, table = operator.inputs
        numbers = _read(picked, points, values, n_points, None).astype(np.int64)
        where = [_position(index, points, n_points) if index.terms else numbers for index in table.indices]
        return values[table.tensor][tuple(where)]
    for position, access in enumerate(operator.inputs):
        operands.append(_read(access, points, values, n_points, parameters.get(f"init_{position}")))
    if "left" in parameters:
        operands.insert(0, np.float64(parameters["left"]))
    if "right" in parameters:
        operands.append(np.float64(parameters["right"]))
    result = np.asarray(_FUNCTIONS[operator.function](*operands))
    return result * parameters.get("scale", 1.0)


def _read(
    access: Access,
    points: dict[str, NDArray[np.int64]],
    values: dict[str, Array],
    n_points: int,
    init: float | None,
) -> Array:
    where = [_position(index, points, n_points) for index in access.indices]
    before = np.zeros(n_points, dtype=bool)
    for position in where:
        before |= position < 0
    assert init is not None or not before.any(), f"{access.tensor} is read at a negative index"
    read = values[access.tensor][tuple(np.where(before, 0, position) for position in where)]
    return np.where(before, 0.0 if init is None else init, read)


def _position(index: Index, points: dict[str, NDArray[np.int64]], n_points: int) -> NDArray[np.int64]:
    found = np.full(n_points, index.offset)
    for term in index.terms:
        found = found + term.coefficient * ((points[term.rank] + term.shift) // term.divisor)
    return found


def _unmasked(graph: Graph, mask: Mask, points: dict[str, NDArray[np.int64]]) -> NDArray[np.bool_]:
    def joint(rank: str, parts: tuple[str, ...]) -> NDArray[np.int64]:
        found = np.zeros_like(next(iter(points.values())))
        for part in parts or (rank,):
            found = found * graph.size(part) + points[part]
        return found

    position = joint(mask.rank, mask.rank_parts)
    kept = position < graph.size(mask.rank)
    if mask.of:
        of = joint(mask.of, mask.of_parts)
        kept &= of < graph.size(mask.of)
        if mask.upper is not None:
            kept &= position - of <= mask.upper
        if mask.lower is not None:
            kept &= position - of >= mask.lower
    return kept


def _flat(target: tuple[NDArray[np.int64], ...], shape: tuple[int, ...], n_points: int) -> NDArray[np.int64]:
    """Positions in the flattened array; a tensor without ranks has one element."""
    found = np.zeros(n_points, dtype=np.int64)
    for position, size in zip(target, shape, strict=True):
        found = found * size + position
    return found


def _combine(
    operator: Operator,
    output: Array,
    target: tuple[NDArray[np.int64], ...],
    result: Array,
    step: int | None,
) -> None:
    """Reduce the results that share a target; a target without any point holds the neutral element."""
    neutral, _ = _REDUCTIONS["sum" if operator.reduce == "mean" else operator.reduce]
    combine = {"max": np.maximum, "min": np.minimum, "prod": np.multiply}.get(operator.reduce, np.add)
    cells: tuple[slice | int, ...] = tuple(
        step if step is not None and index == Index.of(operator.serial_rank) else slice(None)
        for index in operator.output.indices
    )
    flat = _flat(target, output.shape, len(result))
    output[cells] = neutral
    combine.at(output.reshape(-1), flat, result)
    if operator.reduce == "mean":
        counts = np.zeros(output.size)
        np.add.at(counts, flat, 1.0)
        output[cells] = output[cells] / counts.reshape(output.shape)[cells]
