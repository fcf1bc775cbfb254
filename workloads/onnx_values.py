"""What is known of every value of an ONNX graph before it runs: shape, type, and values that are constant."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, TypeProto, checker, defs, helper, numpy_helper, shape_inference

from tilewright.dataflow.errors import InputError
from tilewright.workloads.onnx_contrib import contrib_shapes
from tilewright.workloads.onnx_evaluate import UnknownValueError, evaluate
from tilewright.workloads.onnx_file import MAX_RANK, Node, OnnxModel
from tilewright.workloads.onnx_tensor import MAX_ELEMENTS, MAX_VALUES, StoredTensor, stored_tensor
from tilewright.workloads.read import shown

Array = NDArray[Any]

# Values of constants up to this size are computed at once, larger ones when somebody asks.
_SMALL = 2**12
# Operators on constants run at once if the product of their operands' sizes is at most this: a bound of the result.
_AT_ONCE = 2**16
# Larger ones are not kept where they are but a step towards another one.
_KEPT = 2**20
# What all constants that are computed may take together, in elements, and a product of matrices in operations.
_BUDGET = 2**27
_MAX_MACS = 2**27

#: Constants made by these keep the identity of their first operand: it is moved, not computed with.
_MOVERS = frozenset(
    ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Slice", "Split", "Gather", "Cast",
     "CastLike", "GatherElements", "Identity", "Tile", "DequantizeLinear", "QuantizeLinear", "Clip")
)  # fmt: skip
# Without operands, or of constants, and yet no constants.
_NEVER_CONSTANT = frozenset(
    ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")
)
# Sized by the values of their operands: their result is bounded by inference first.
_EXPANDING = frozenset(("Range", "ConstantOfShape", "Expand", "Tile", "Resize", "Pad", "Upsample", "OneHot"))
# Defined by a body of other operators, from which the library infers no shape; theirs is the first operand's.
_LIKE_FIRST = frozenset(
    ("GroupNormalization", "RMSNormalization", "MeanVarianceNormalization", "Gelu", "HardSwish", "Mish",
     "Swish", "Celu", "Softplus", "Softsign", "Shrink", "Selu", "Elu", "LeakyRelu",
     "ThresholdedRelu", "LogSoftmax")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Value:
    """Shape and element type; `constant` values do not depend on any input.

    `origins` are the stored tensors that a constant is made from, by name.
    """

    shape: tuple[int, ...]
    elem_type: int
    constant: bool = False
    origins: tuple[str, ...] = ()

    @property
    def n_elements(self) -> int:
        return prod(self.shape)

    @property
    def is_index(self) -> bool:
        """Whether it holds whole numbers or truth values."""
        return self.elem_type in _INDEX_TYPES


_INDEX_TYPES = frozenset((TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL, TensorProto.UINT64))


class Values:
    """The values of a graph by name; numbers of constants are computed as far as they are asked for."""

    def __init__(self, model: OnnxModel, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raises InputError for an operator that is unknown or whose operands do not fit together."""
        self._source = model.source
        self._opsets = dict(model.opsets)
        self._imports = [helper.make_opsetid(domain, version) for domain, version in model.opsets]
        self._ir_version = model.ir_version
        self.stored: dict[str, StoredTensor] = dict(model.constants)
        self._values: dict[str, Value] = {}
        self._known: dict[str, Array | None] = {}
        self._maker: dict[str, Node] = {}
        self._spent = 0
        for tensor in self.stored.values():
            self._keep(tensor)
        for value in model.inputs:
            self._values[value.name] = Value(shapes[value.name], value.elem_type)
        for node in model.nodes:
            self._take(node)

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def array(self, name: str) -> Array | None:
        """The numbers of a constant; None if it is none, or they are unknown or too many."""
        if name in self._known:
            return self._known[name]
        steps = self._ancestors(name)
        for step in steps:
            self._compute(step)
        for step in steps[:-1]:
            if self._values[step].n_elements > _KEPT:
                del self._known[step]
        return self._known.get(name)

    def scalar(self, name: str) -> float | None:
        """The number that a constant is; None if there is none such, or unknown.

        A weight is no number, even if all its elements happen to be equal.
        """
        value = self._values.get(name)
        if value is None or not value.constant or value.n_elements > _SMALL or value.origins:
            return None
        array = self.array(name)
        if array is None or array.size == 0 or array.dtype.kind not in "fiub":
            return None
        first = array.reshape(-1)[0]
        return float(first) if bool((array == first).all()) else None

    def _keep(self, tensor: StoredTensor) -> None:
        origins = (tensor.name,) if tensor.n_elements > 1 else ()
        self._values[tensor.name] = Value(tensor.shape, tensor.elem_type, True, origins)

    def _ancestors(self, name: str) -> list[str]:
        """Constants to compute before `name`, in order, `name` last."""
        order: list[str] = []
        pending = [(name, False)]
        seen: set[str] = set()
        while pending:
            current, expanded = pending.pop()
            if expanded:
                order.append(current)
                continue
            if current in seen or current in self._known:
                continue
            seen.add(current)
            pending.append((current, True))
            if maker := self._maker.get(current):
                pending.extend((operand, False) for operand in maker.inputs if operand)
        return order

    def _compute(self, name: str) -> None:
        """Note the numbers of one constant whose operands are noted."""
        value = self._values[name]
        if name in self._known:
            return
        self._known[name] = None
        self._spent += value.n_elements
        if not value.constant or value.n_elements > MAX_VALUES or self._spent > _BUDGET:
            return
        if name in self.stored:
            self._known[name] = self.stored[name].values()
        elif (maker := self._maker.get(name)) is not None:
            operands = [self._known.get(operand) if operand else None for operand in maker.inputs]
            missing = any(name and array is None for name, array in zip(maker.inputs, operands, strict=True))
            if missing or self._is_long(maker):
                return
            self._note(maker, operands)

    def _is_long(self, node: Node) -> bool:
        """Whether computing a node takes more time than its result has elements would let one think."""
        if node.op != "MatMul":
            return node.op == "Erf" and self._values[node.outputs[0]].n_elements > _AT_ONCE
        return self._values[node.outputs[0]].n_elements * self._values[node.inputs[0]].shape[-1] > _MAX_MACS

    def _note(self, node: Node, operands: list[Array | None]) -> None:
        """Note the numbers of all outputs of a node."""
        try:
            results = evaluate(node.op, operands, node.attributes, len(node.outputs))
        except UnknownValueError:
            return
        for name, array in zip(node.outputs, results, strict=False):
            known = self._values.get(name)
            if known is None or known.shape == array.shape:
                self._known[name] = array

    def _take(self, node: Node) -> None:
        """Note what is known of the outputs of one node."""
        operands = [self._values[name] for name in node.inputs if name]
        constant = all(operand.constant for operand in operands) and node.op not in _NEVER_CONSTANT
        if node.op in ("Shape", "Size") and not node.domain:
            self._take_shape(node)
            return
        if node.op == "Constant" and not node.domain:
            self._take_constant(node)
            return
        constant = constant and not node.domain
        if not (constant and self._at_once(node, operands)):
            for name, value in zip(node.outputs, self._inferred(node), strict=False):
                if name:
                    self._values[name] = value
        if constant:
            origins = self._origins(node)
            for name in filter(None, node.outputs):
                value = self._values[name]
                self._values[name] = Value(value.shape, value.elem_type, True, origins)
                self._maker[name] = node
                if value.n_elements <= _SMALL:
                    self.array(name)

    def _origins(self, node: Node) -> tuple[str, ...]:
        names = node.inputs[:1] if node.op in _MOVERS else node.inputs
        found = dict.fromkeys(origin for name in names if name for origin in self._values[name].origins)
        return tuple(found)[:8]

    def _take_shape(self, node: Node) -> None:
        shape = self._values[node.inputs[0]].shape if node.inputs else ()
        numbers = np.asarray(shape, dtype=np.int64)
        if node.op == "Size":
            numbers = np.asarray(prod(shape), dtype=np.int64)
        else:
            numbers = numbers[slice(node.attributes.get("start", 0), node.attributes.get("end"))]
        self._known[node.outputs[0]] = numbers
        self._values[node.outputs[0]] = Value(numbers.shape, TensorProto.INT64, True)

    def _take_constant(self, node: Node) -> None:
        name = node.outputs[0]
        held = node.attributes.get("value")
        if isinstance(held, TensorProto):
            named = TensorProto()
            named.CopyFrom(held)
            named.name = name
            from pathlib import Path

            self.stored[name] = stored_tensor(named, Path(self._source).parent, self._source)
            self._keep(self.stored[name])
            return
        try:
            array = evaluate("Constant", [], node.attributes, 1)[0]
        except UnknownValueError as error:
            raise InputError(f"{self._source}: {node}: {error} is not supported") from None
        self._known[name] = array
        self._values[name] = Value(array.shape, helper.np_dtype_to_tensor_dtype(array.dtype), True)

    def _at_once(self, node: Node, operands: Iterable[Value]) -> bool:
        """Compute a node of small constants without inferring its shape first; False if that is not possible."""
        if node.op in _EXPANDING or prod(max(1, operand.n_elements) for operand in operands) > _AT_ONCE:
            return False
        arrays = [self.array(name) if name else None for name in node.inputs]
        if any(name and array is None for name, array in zip(node.inputs, arrays, strict=True)):
            return False
        try:
            results = evaluate(node.op, arrays, node.attributes, len(node.outputs))
        except UnknownValueError:
            return False
        if len(results) != len(node.outputs):
            return False
        for name, array in zip(node.outputs, results, strict=True):
            if name:
                self._known[name] = array
                self._values[name] = Value(array.shape, helper.np_dtype_to_tensor_dtype(array.dtype))
        return True

    def _inferred(self, node: Node) -> list[Value]:
        """Shape and type of the outputs, by the standard's own rules.

        Raises InputError for an operator that is unknown, operands that do not fit, a shape that depends on data.
        """
        if node.domain:
            return self._of_contrib(node)
        try:
            schema = defs.get_schema(node.op, self._opsets.get("", 1), "")
        except (defs.SchemaError, TypeError):  # a version that is no version at all
            raise InputError(
                f"{self._source}: {node}: operator {shown(node.op)} is not one of the standard"
                f" (version {self._opsets.get('', 1)})"
            ) from None
        if node.op in _LIKE_FIRST and node.inputs:
            first = self._values[node.inputs[0]]
            return [Value(first.shape, first.elem_type)] * len(node.outputs)
        assert node.proto is not None, "shapes are inferred before patterns are looked for"
        types: dict[str, TypeProto] = {}
        data: dict[str, TensorProto] = {}
        for name in filter(None, node.inputs):
            value = self._values[name]
            types[name] = helper.make_tensor_type_proto(value.elem_type, value.shape)
            array = self.array(name) if value.constant and value.n_elements <= _SMALL else None
            if array is not None and array.dtype.kind in "fiub":
                data[name] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        try:
            found = shape_inference.infer_node_outputs(
                schema, node.proto, types, data, opset_imports=self._imports, ir_version=self._ir_version
            )
        except (
            shape_inference.InferenceError,
            checker.ValidationError,
            RuntimeError,
            ValueError,
            TypeError,
        ) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{self._source}: {node}: {reason[:160]}") from None
        return [self._checked(node, name, found.get(name)) for name in node.outputs]

    def _of_contrib(self, node: Node) -> list[Value]:
        operands = [self._values[name] if name else None for name in node.inputs]
        try:
            shapes = contrib_shapes(node, [operand.shape if operand else () for operand in operands])
        except (IndexError, KeyError, ValueError, TypeError):
            raise InputError(f"{self._source}: {node}: its operands do not fit together") from None
        if shapes is None:
            raise InputError(
                f"{self._source}: {node}: operator {node.op} of {node.domain!r} is not supported"
            )
        first = next((operand for operand in operands if operand and not operand.is_index), operands[0])
        elem_type = first.elem_type if first else TensorProto.FLOAT
        for shape in shapes:
            self._check_size(node, shape)
        return [Value(shape, elem_type) for shape in shapes]

    def _checked(self, node: Node, name: str, found: TypeProto | None) -> Value:
        """An inferred type as a value. Raises InputError if its shape is not known, or is out of bounds."""
        if not name:
            return Value((), TensorProto.FLOAT)
        tensor = found.tensor_type if found is not None and found.HasField("tensor_type") else None
        if tensor is None or not tensor.HasField("shape"):
            raise InputError(f"{self._source}: {node}: the shape of its result depends on data")
        shape = []
        for dim in tensor.shape.dim:
            if dim.WhichOneof("value") != "dim_value":
                raise InputError(f"{self._source}: {node}: the shape of its result depends on data")
            shape.append(dim.dim_value)
        self._check_size(node, tuple(shape))
        return Value(tuple(shape), tensor.elem_type)

    def _check_size(self, node: Node, shape: tuple[int, ...]) -> None:
        if any(size < 0 for size in shape) or prod(shape) > MAX_ELEMENTS or len(shape) > MAX_RANK:
            raise InputError(
                f"{self._source}: {node}: a result of shape {shown(list(shape))} is out of bounds, at most"
                f" {MAX_ELEMENTS} elements are supported"
            )
