"""Values of nodes whose inputs are constants, as far as shapes, masks and scalars need them (numpy)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]
Attributes = Mapping[str, Any]
Inputs = Sequence[Array | None]
_Evaluator = Callable[[Inputs, Attributes], Array]


class UnknownValueError(ValueError):
    """The values cannot be computed here; the message says why."""


def evaluate(op: str, inputs: Inputs, attributes: Attributes, n_outputs: int) -> list[Array]:
    """The outputs of an operator. inputs: None where one is left out.

    Raises UnknownValueError for an operator that is not known here or operands that do not fit together.
    """
    try:
        with np.errstate(all="ignore"):
            if op == "Split":
                return _split(inputs, attributes, n_outputs)
            if op not in EVALUATORS:
                raise UnknownValueError(f"operator {op} is not evaluated")
            return [np.asarray(EVALUATORS[op](inputs, attributes))]
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, ZeroDivisionError) as error:
        raise UnknownValueError(str(error)) from None


def _needed(inputs: Inputs, position: int) -> Array:
    found = inputs[position] if position < len(inputs) else None
    if found is None:
        raise UnknownValueError(f"operand {position} is missing")
    return found


def _numbers(inputs: Inputs, position: int, attributes: Attributes, name: str) -> list[int] | None:
    """Whole numbers of an operand, in older versions of an attribute; None if neither is there."""
    found = inputs[position] if position < len(inputs) else None
    if found is not None:
        if found.dtype.kind not in "iu":
            raise UnknownValueError(f"operand {position} holds no whole numbers")
        return [int(value) for value in found.reshape(-1)]
    stated = attributes.get(name)
    return None if stated is None else [int(value) for value in stated]


def _unary(function: Callable[[Array], Any]) -> _Evaluator:
    return lambda inputs, _: function(_needed(inputs, 0))


def _binary(function: Callable[[Array, Array], Any]) -> _Evaluator:
    return lambda inputs, _: function(_needed(inputs, 0), _needed(inputs, 1))


def _variadic(function: Callable[[Array, Array], Any]) -> _Evaluator:
    def run(inputs: Inputs, _: Attributes) -> Array:
        total = _needed(inputs, 0)
        for position in range(1, len(inputs)):
            total = np.asarray(function(total, _needed(inputs, position)))
        return total

    return run


def _divide(a: Array, b: Array) -> Array:
    if np.issubdtype(a.dtype, np.integer):  # rounds towards zero
        quotient = np.floor_divide(np.abs(a), np.abs(b))
        return np.asarray(np.sign(a) * np.sign(b) * quotient, dtype=a.dtype)
    return np.asarray(a / b)


def _modulo(inputs: Inputs, attributes: Attributes) -> Array:
    a, b = _needed(inputs, 0), _needed(inputs, 1)
    return np.asarray(np.fmod(a, b) if attributes.get("fmod") else np.mod(a, b))


def _cast(inputs: Inputs, attributes: Attributes) -> Array:
    values = _needed(inputs, 0)
    return values.astype(helper.tensor_dtype_to_np_dtype(int(attributes["to"])))


def _constant(_: Inputs, attributes: Attributes) -> Array:
    if "value" in attributes:
        return np.asarray(numpy_helper.to_array(attributes["value"]))
    for name, dtype in (("value_float", np.float32), ("value_floats", np.float32),
                        ("value_int", np.int64), ("value_ints", np.int64)):  # fmt: skip
        if name in attributes:
            return np.asarray(attributes[name], dtype=dtype)
    raise UnknownValueError("a constant of text")


def _constant_of_shape(inputs: Inputs, attributes: Attributes) -> Array:
    shape = tuple(int(size) for size in _needed(inputs, 0).reshape(-1))
    filler = attributes.get("value")
    value = np.zeros(1, np.float32) if filler is None else numpy_helper.to_array(filler).reshape(-1)
    return np.full(shape, value[0], dtype=value.dtype)


def _reshape(inputs: Inputs, attributes: Attributes) -> Array:
    values = _needed(inputs, 0)
    target = _numbers(inputs, 1, attributes, "shape") or []
    if not attributes.get("allowzero"):
        target = [values.shape[axis] if size == 0 else size for axis, size in enumerate(target)]
    return values.reshape(target)


def _flatten(inputs: Inputs, attributes: Attributes) -> Array:
    values, axis = _needed(inputs, 0), int(attributes.get("axis", 1))
    axis = axis + values.ndim if axis < 0 else axis
    return values.reshape(int(np.prod(values.shape[:axis], dtype=np.int64)), -1)


def _squeeze(inputs: Inputs, attributes: Attributes) -> Array:
    axes = _numbers(inputs, 1, attributes, "axes")
    return np.squeeze(_needed(inputs, 0), axis=None if axes is None else tuple(axes))


def _unsqueeze(inputs: Inputs, attributes: Attributes) -> Array:
    return np.expand_dims(_needed(inputs, 0), tuple(_numbers(inputs, 1, attributes, "axes") or ()))


def _expand(inputs: Inputs, _: Attributes) -> Array:
    values = _needed(inputs, 0)
    target = tuple(int(size) for size in _needed(inputs, 1).reshape(-1))
    return np.broadcast_to(values, np.broadcast_shapes(values.shape, target))


def _slice(inputs: Inputs, attributes: Attributes) -> Array:
    values = _needed(inputs, 0)
    starts = _numbers(inputs, 1, attributes, "starts") or []
    ends = _numbers(inputs, 2, attributes, "ends") or []
    axes = _numbers(inputs, 3, attributes, "axes") or list(range(len(starts)))
    steps = _numbers(inputs, 4, {}, "") or [1] * len(starts)
    chosen = [slice(None)] * values.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        low = -values.shape[axis] - 1
        chosen[axis] = slice(start, None if step < 0 and end <= low else end, step)
    return values[tuple(chosen)]


def _split(inputs: Inputs, attributes: Attributes, n_outputs: int) -> list[Array]:
    values, axis = _needed(inputs, 0), int(attributes.get("axis", 0))
    lengths = _numbers(inputs, 1, attributes, "split")
    if lengths is None:
        length = -(-values.shape[axis] // n_outputs)
        lengths = [length] * (n_outputs - 1)
    else:
        lengths = lengths[:-1]
    return list(np.split(values, np.cumsum(lengths, dtype=np.int64), axis=axis))


def _gather(inputs: Inputs, attributes: Attributes) -> Array:
    return np.take(_needed(inputs, 0), _needed(inputs, 1), axis=int(attributes.get("axis", 0)))


def _gather_elements(inputs: Inputs, attributes: Attributes) -> Array:
    values, axis = _needed(inputs, 0), int(attributes.get("axis", 0))
    where = _needed(inputs, 1)
    grid: list[Array] = list(np.indices(where.shape, sparse=True))
    grid[axis] = where
    return values[tuple(grid)]


def _concat(inputs: Inputs, attributes: Attributes) -> Array:
    pieces = [_needed(inputs, position) for position in range(len(inputs))]
    return np.concatenate(pieces, axis=int(attributes["axis"]))


def _transpose(inputs: Inputs, attributes: Attributes) -> Array:
    return np.transpose(_needed(inputs, 0), attributes.get("perm"))


def _range(inputs: Inputs, _: Attributes) -> Array:
    start, limit, step = (_needed(inputs, position).reshape(()) for position in range(3))
    return np.asarray(np.arange(start.item(), limit.item(), step.item(), dtype=start.dtype))


def _triangle(inputs: Inputs, attributes: Attributes) -> Array:
    k = inputs[1] if len(inputs) > 1 else None
    offset = 0 if k is None else int(k.reshape(()))
    keep = np.triu if attributes.get("upper", 1) else np.tril
    return keep(_needed(inputs, 0), offset)


def _cumulate(inputs: Inputs, attributes: Attributes) -> Array:
    values, axis = _needed(inputs, 0), int(_needed(inputs, 1).reshape(()))
    if attributes.get("reverse"):
        values = np.flip(values, axis)
    total = np.cumsum(values, axis=axis, dtype=values.dtype)
    if attributes.get("exclusive"):
        total = total - values
    return np.flip(total, axis) if attributes.get("reverse") else total


def _reduction(function: Callable[..., Any]) -> _Evaluator:
    def run(inputs: Inputs, attributes: Attributes) -> Array:
        values = _needed(inputs, 0)
        axes = _numbers(inputs, 1, attributes, "axes")
        if not axes and attributes.get("noop_with_empty_axes"):
            return values
        keep = bool(attributes.get("keepdims", 1))
        return np.asarray(function(values, axis=tuple(axes) if axes else None, keepdims=keep), values.dtype)

    return run


def _tile(inputs: Inputs, _: Attributes) -> Array:
    return np.tile(_needed(inputs, 0), [int(count) for count in _needed(inputs, 1).reshape(-1)])


def _where(inputs: Inputs, _: Attributes) -> Array:
    return np.where(_needed(inputs, 0), _needed(inputs, 1), _needed(inputs, 2))


def _clip(inputs: Inputs, attributes: Attributes) -> Array:
    values = _needed(inputs, 0)
    bounds: list[Any] = []
    for position, name in ((1, "min"), (2, "max")):
        stated = inputs[position] if position < len(inputs) else None
        bounds.append(attributes.get(name) if stated is None else stated)
    return np.asarray(
        values if bounds == [None, None] else np.clip(values, bounds[0], bounds[1]), values.dtype
    )


def _dequantise(inputs: Inputs, attributes: Attributes) -> Array:
    values, scale = _needed(inputs, 0), _needed(inputs, 1)
    zero = inputs[2] if len(inputs) > 2 else None
    if scale.ndim == 1:
        shape = [1] * values.ndim
        shape[int(attributes.get("axis", 1))] = -1
        scale, zero = scale.reshape(shape), None if zero is None else zero.reshape(shape)
    shifted = values.astype(np.float32) - (0 if zero is None else zero.astype(np.float32))
    return np.asarray(shifted * scale, scale.dtype)


def erf(values: Array) -> Array:
    """The error function, element by element."""
    from math import erf as of_one

    return np.asarray(np.vectorize(of_one, otypes=[np.float64])(values))


def _sigmoid(values: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-values)))


_MAPS: dict[str, _Evaluator] = {
    "Abs": _unary(np.abs), "Neg": _unary(np.negative), "Sqrt": _unary(np.sqrt), "Exp": _unary(np.exp),
    "Log": _unary(np.log), "Sin": _unary(np.sin), "Cos": _unary(np.cos), "Tanh": _unary(np.tanh),
    "Floor": _unary(np.floor), "Ceil": _unary(np.ceil), "Round": _unary(np.rint), "Sign": _unary(np.sign),
    "Not": _unary(np.logical_not), "Reciprocal": _unary(np.reciprocal), "Identity": _unary(np.asarray),
    "Erf": _unary(erf), "Sigmoid": _unary(_sigmoid), "IsNaN": _unary(np.isnan), "IsInf": _unary(np.isinf),
    "Relu": _unary(lambda values: np.maximum(values, 0)),
    "Softplus": _unary(lambda values: np.logaddexp(values, 0)),
    "Add": _binary(np.add), "Sub": _binary(np.subtract), "Mul": _binary(np.multiply), "Div": _binary(_divide),
    "Pow": _binary(np.power), "Mod": _modulo, "And": _binary(np.logical_and), "Or": _binary(np.logical_or),
    "Xor": _binary(np.logical_xor), "Equal": _binary(np.equal), "Less": _binary(np.less),
    "LessOrEqual": _binary(np.less_equal), "Greater": _binary(np.greater),
    "GreaterOrEqual": _binary(np.greater_equal), "Min": _variadic(np.minimum), "Max": _variadic(np.maximum),
    "Sum": _variadic(np.add), "Where": _where, "Clip": _clip, "Cast": _cast,
}  # fmt: skip
_OTHERS: dict[str, _Evaluator] = {
    "CastLike": lambda inputs, _: _needed(inputs, 0).astype(_needed(inputs, 1).dtype),
    "Dropout": _unary(np.asarray), "DequantizeLinear": _dequantise,
    "Constant": _constant, "ConstantOfShape": _constant_of_shape, "Range": _range, "Trilu": _triangle,
    "CumSum": _cumulate, "Reshape": _reshape, "Flatten": _flatten, "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze, "Expand": _expand, "Slice": _slice, "Gather": _gather,
    "GatherElements": _gather_elements, "Concat": _concat, "Transpose": _transpose, "Tile": _tile,
    "ReduceSum": _reduction(np.sum), "ReduceMean": _reduction(np.mean), "ReduceProd": _reduction(np.prod),
    "ReduceMax": _reduction(np.max), "ReduceMin": _reduction(np.min), "MatMul": _binary(np.matmul),
}  # fmt: skip
EVALUATORS = _MAPS | _OTHERS
#: Operators that map element by element.
ELEMENTWISE = frozenset(_MAPS)
