"""Functions that an ONNX file defines for itself, put in the place of the nodes that call them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnx import AttributeProto, FunctionProto, NodeProto

from tilewright.dataflow.errors import InputError

_MAX_DEPTH = 32
_MAX_BYTES = 2**28  # of nodes put in place: long names in a body that is called often add up


@dataclass(frozen=True, slots=True)
class _Call:
    """A node to place: `names` are those of the caller's values by the function's, `prefix` the others'."""

    node: NodeProto
    names: dict[str, str]
    prefix: str
    attributes: dict[str, AttributeProto]
    depth: int


def inline(
    nodes: Iterable[NodeProto], functions: Sequence[FunctionProto], max_nodes: int, source: str
) -> list[NodeProto]:
    """The nodes with each call of a function replaced by its body, in order.

    Raises InputError for more than `max_nodes` nodes, for too many bytes of them, and for calls nested deeper than
    32, recursion included.
    """
    known = {(function.domain, function.name): function for function in functions}
    pending = [_Call(node, {}, "", {}, 0) for node in nodes][::-1]
    placed: list[NodeProto] = []
    n_calls = n_bytes = 0
    while pending:
        call = pending.pop()
        node = call.node
        if call.depth:
            node = _in_place(call)
            n_bytes += node.ByteSize()
        function = known.get((node.domain, node.op_type))
        if function is None:
            placed.append(node)
        else:
            if call.depth >= _MAX_DEPTH:
                raise InputError(
                    f"{source}: function {node.op_type!r} is nested deeper than {_MAX_DEPTH} calls"
                )
            n_calls += 1
            pending.extend(reversed(_body(function, node, call.depth + 1, n_calls, source)))
        if len(placed) + len(pending) > max_nodes or n_bytes > _MAX_BYTES:
            raise InputError(f"{source}: more than {max_nodes} nodes, or {_MAX_BYTES} bytes of them")
    return placed


def _body(function: FunctionProto, node: NodeProto, depth: int, number: int, source: str) -> list[_Call]:
    if len(node.input) > len(function.input) or len(node.output) > len(function.output):
        raise InputError(f"{source}: node {node.name!r} gives function {node.op_type!r} too many operands")
    names = dict.fromkeys(function.input, "")
    names.update(zip(function.input, node.input, strict=False))
    names.update((inner, outer) for inner, outer in zip(function.output, node.output, strict=False) if outer)
    attributes = {attribute.name: attribute for attribute in function.attribute_proto}
    attributes.update((attribute.name, attribute) for attribute in node.attribute)
    prefix = f"call{number}."
    return [_Call(inner, names, prefix, attributes, depth) for inner in function.node]


def _in_place(call: _Call) -> NodeProto:
    """The node of a body with the caller's names and attributes."""
    node = NodeProto()
    node.CopyFrom(call.node)
    for field in (node.input, node.output):
        for position, name in enumerate(field):
            field[position] = call.names.get(name, f"{call.prefix}{name}") if name else ""
    node.name = f"{call.prefix}{node.name or node.op_type}"
    if any(attribute.ref_attr_name for attribute in node.attribute):
        stated = list(node.attribute)
        del node.attribute[:]
        for attribute in stated:
            if not attribute.ref_attr_name:
                node.attribute.append(attribute)
            elif attribute.ref_attr_name in call.attributes:
                placed = node.attribute.add()
                placed.CopyFrom(call.attributes[attribute.ref_attr_name])
                placed.name = attribute.name
    return node
