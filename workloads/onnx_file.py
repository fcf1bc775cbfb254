"""Reading an ONNX file into plain values: nodes in order, constants, inputs, outputs; hostile files are refused.

The package `onnx` is imported by this module and its neighbours only, and these only for an `.onnx` file.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from onnx import AttributeProto, ModelProto, NodeProto, helper

from tilewright.dataflow.errors import InputError
from tilewright.workloads.onnx_functions import inline
from tilewright.workloads.onnx_tensor import StoredTensor, stored_tensor
from tilewright.workloads.read import shown

MAX_FILE_BYTES = 2**31 - 1  # of protobuf itself
MAX_NODES = 100_000
MAX_RANK = 64

_STANDARD = ("", "ai.onnx")


@dataclass(frozen=True, slots=True)
class Node:
    """One operator: `op` in `domain` ("" is the standard one); an absent optional input is ""."""

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    proto: NodeProto | None = None

    def __str__(self) -> str:
        return f"node {self.name!r} ({self.op})"

    def input(self, position: int) -> str:
        """The name of an input, "" if it is left out."""
        return self.inputs[position] if position < len(self.inputs) else ""


@dataclass(frozen=True, slots=True)
class GraphInput:
    """A live-in: its element type, and per dimension a size, a symbol, or "" where nothing is stated."""

    name: str
    elem_type: int
    dims: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A file's graph, functions inlined, nodes in an order in which they can run."""

    source: str
    opset: int
    opsets: tuple[tuple[str, int], ...]
    ir_version: int
    nodes: tuple[Node, ...]
    constants: Mapping[str, StoredTensor]
    inputs: tuple[GraphInput, ...]
    outputs: tuple[str, ...]


def read_onnx(file: Path) -> OnnxModel:
    """The model that a file holds.

    Raises InputError: missing, no ONNX file, control flow, a name that nothing or two things produce, a cycle,
    a wrong shape, data that are not as long as declared, data outside the file's folder.
    """
    source = str(file)
    model = _parse(file)
    graph = model.graph
    if not graph.node:
        raise InputError(f"{source}: not an ONNX model: its graph has no nodes")
    opsets = {_domain(entry.domain): entry.version for entry in model.opset_import}
    protos = inline(graph.node, model.functions, MAX_NODES, source)
    constants = {}
    for tensor in graph.initializer:
        constants[tensor.name] = stored_tensor(tensor, file.parent, source)
    for sparse in graph.sparse_initializer:
        dims = tuple(sparse.dims)
        constants[sparse.values.name] = StoredTensor(sparse.values.name, sparse.values.data_type, dims, None)
    nodes = [_node(proto, number, source) for number, proto in enumerate(protos)]
    inputs = tuple(_graph_input(value, source) for value in graph.input if value.name not in constants)
    outputs = tuple(dict.fromkeys(value.name for value in graph.output))
    if not outputs:
        raise InputError(f"{source}: the graph has no output")
    ordered = _in_order(nodes, [*constants, *(value.name for value in inputs)], outputs, source)
    return OnnxModel(
        source,
        opsets.get("", 1),
        tuple(opsets.items()),
        model.ir_version,
        ordered,
        constants,
        inputs,
        outputs,
    )


def _parse(file: Path) -> ModelProto:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{file}: larger than {MAX_FILE_BYTES} bytes, which protobuf does not read")
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: {(error.strerror or 'cannot be read').lower()}") from None
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise InputError(f"{file}: not an ONNX model: truncated, or no protobuf file at all") from None
    return model


def _domain(name: str) -> str:
    return "" if name in _STANDARD else name


def _node(proto: NodeProto, number: int, source: str) -> Node:
    """A node as plain values; a name is made up where it has none. Raises InputError for control flow."""
    name = proto.name or f"{proto.op_type}_{number}"
    attributes: dict[str, Any] = {}
    for attribute in proto.attribute:
        if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) or attribute.HasField("g"):
            raise InputError(
                f"{source}: node {name!r}: {proto.op_type} is control flow (attribute {attribute.name!r} holds a"
                " graph), which is not supported; export the model without it"
            )
        if attribute.ref_attr_name:
            raise InputError(f"{source}: node {name!r}: attribute {attribute.name!r} refers to no function")
        if attribute.name in attributes:
            raise InputError(f"{source}: node {name!r}: attribute {attribute.name!r} is stated twice")
        try:
            attributes[attribute.name] = helper.get_attribute_value(attribute)
        except ValueError:
            raise InputError(f"{source}: node {name!r}: attribute {attribute.name!r} has no type") from None
    outputs = tuple(proto.output)
    if not any(outputs):
        raise InputError(f"{source}: node {name!r} ({proto.op_type}) has no output")
    return Node(proto.op_type, _domain(proto.domain), name, tuple(proto.input), outputs, attributes, proto)


def _graph_input(value: Any, source: str) -> GraphInput:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise InputError(f"{source}: input {value.name!r} is no tensor ({kind or 'no type'})")
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise InputError(f"{source}: input {value.name!r} states no shape")
    dims: list[int | str] = []
    for axis, dim in enumerate(tensor.shape.dim):
        if dim.WhichOneof("value") == "dim_value":
            if dim.dim_value < 0:
                raise InputError(f"{source}: input {value.name!r}: dimension {axis} is {dim.dim_value}")
            dims.append(dim.dim_value)
        else:
            dims.append(dim.dim_param)
    if len(dims) > MAX_RANK:
        raise InputError(f"{source}: input {value.name!r} has {len(dims)} dimensions, at most {MAX_RANK}")
    return GraphInput(value.name, tensor.elem_type, tuple(dims))


def _in_order(
    nodes: list[Node], given: Iterable[str], outputs: tuple[str, ...], source: str
) -> tuple[Node, ...]:
    """The nodes, each behind what it reads, in the file's order where that is possible.

    Raises InputError for a name that nothing or two things produce, and for a cycle.
    """
    producer: dict[str, int] = dict.fromkeys(given, -1)
    for number, node in enumerate(nodes):
        for name in filter(None, node.outputs):
            if name in producer:
                raise InputError(f"{source}: {node} writes {shown(name)}, which something else produces too")
            producer[name] = number
    readers: list[list[int]] = [[] for _ in nodes]
    waits = [0] * len(nodes)
    for number, node in enumerate(nodes):
        for name in filter(None, dict.fromkeys(node.inputs)):
            if name not in producer:
                raise InputError(f"{source}: {node} reads {shown(name)}, which nothing produces")
            if producer[name] >= 0:
                readers[producer[name]].append(number)
                waits[number] += 1
    for name in outputs:
        if name not in producer:
            raise InputError(f"{source}: output {shown(name)} is produced by nothing")
    return tuple(nodes[number] for number in _sorted(readers, waits, nodes, source))


def _sorted(readers: list[list[int]], waits: list[int], nodes: list[Node], source: str) -> list[int]:
    """Numbers of the nodes, each behind those that it waits for, the lowest first."""
    import heapq

    ready = [number for number, count in enumerate(waits) if count == 0]
    order = []
    while ready:
        number = heapq.heappop(ready)
        order.append(number)
        for reader in readers[number]:
            waits[reader] -= 1
            if waits[reader] == 0:
                heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        stuck = next(node for node, count in zip(nodes, waits, strict=True) if count)
        raise InputError(f"{source}: {stuck} stands in or behind a cycle")
    return order


def renamed(node: Node, **changes: Any) -> Node:
    """The node with other fields; it no longer has the file's own form."""
    return replace(node, proto=None, **changes)
