"""The nodes of a graph that run, as patterns are looked for in them: who makes and who reads a value."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tilewright.workloads.onnx_file import Node, OnnxModel, renamed
from tilewright.workloads.onnx_values import Values

#: The domain of operators that stand for a recognised pattern.
OWN = "tilewright"

_BEHIND_A_HEAD = frozenset(("Add", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Flatten"))
_MAX_STEPS = 8


@dataclass
class Net:
    """Nodes in order; constants are none of them. Changes keep the order a possible one."""

    source: str
    values: Values
    nodes: list[Node]
    outputs: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    opset: int = 13
    producer: dict[str, Node] = field(default_factory=dict)
    readers: dict[str, list[Node]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.index()

    def index(self) -> None:
        """Note anew who makes and who reads each value, and drop nodes that no output needs."""
        needed = set(self.outputs)
        kept = []
        for node in reversed(self.nodes):
            if any(name in needed for name in node.outputs):
                needed.update(node.inputs)
                kept.append(node)
        self.nodes = kept[::-1]
        self.producer = {name: node for node in self.nodes for name in node.outputs if name}
        self.readers = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                self.readers.setdefault(name, []).append(node)

    def replace(self, changed: dict[str, Node], renames: dict[str, str] | None = None) -> None:
        """Put nodes in the place of those that made the same first output; read other values where renamed."""
        renames = renames or {}

        def final(name: str) -> str:
            while name in renames:
                name = renames[name]
            return name

        nodes = []
        for node in self.nodes:
            node = changed.get(node.outputs[0], node)
            if any(name in renames for name in node.inputs):
                node = renamed(node, inputs=tuple(map(final, node.inputs)))
            nodes.append(node)
        self.nodes = nodes
        self.outputs = tuple(map(final, self.outputs))
        self.index()

    def made_by(self, name: str, *ops: str) -> Node | None:
        """The node that makes a value if it is one of the standard's `ops`."""
        node = self.producer.get(name)
        return node if node is not None and node.op in ops and not node.domain else None

    def scalar(self, name: str) -> float | None:
        return self.values.scalar(name) if name else None

    def only_reader(self, name: str) -> Node | None:
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def is_head(self, node: Node) -> bool:
        """Whether nothing but a bias and moves of data lies between a product and an output of the graph."""
        name = node.outputs[0]
        for _ in range(_MAX_STEPS):
            if name in self.outputs:
                return True
            reader = self.only_reader(name)
            if reader is None or reader.op not in _BEHIND_A_HEAD:
                return False
            if reader.op == "Add" and not any(self.values[operand].constant for operand in reader.inputs):
                return False
            name = reader.outputs[0]
        return False

    def operand_pairs(self, node: Node) -> Iterator[tuple[str, str]]:
        """Both orders of the operands of a commutative node."""
        if len(node.inputs) == 2:
            yield node.inputs[0], node.inputs[1]
            yield node.inputs[1], node.inputs[0]

    def axes_of(self, node: Node) -> tuple[int, ...] | None:
        """The axes that a reduction runs over, counted from the front; None where they are unknown."""
        rank = len(self.values[node.inputs[0]].shape)
        stated: Iterable[int] | None = node.attributes.get("axes")
        if operand := node.input(1):
            array = self.values.array(operand)
            if array is None or array.dtype.kind not in "iu":
                return None
            stated = [int(axis) for axis in array.reshape(-1)]
        if not stated:
            return () if node.attributes.get("noop_with_empty_axes") else tuple(range(rank))
        return tuple(sorted({int(axis) % rank for axis in stated}))


def running(model: OnnxModel, values: Values) -> Net:
    """The nodes that run, without those that only pass a value on (copies, casts between like types)."""
    nodes = [node for node in model.nodes if any(n and not values[n].constant for n in node.outputs)]
    inputs = tuple(value.name for value in model.inputs)
    net = Net(model.source, values, nodes, model.outputs, inputs, model.opset)
    renames = {}
    for node in net.nodes:
        if node.domain:
            continue
        same = node.op in ("Identity", "Dropout") and not any(map(net.readers.get, node.outputs[1:]))
        if node.op in ("Cast", "CastLike"):
            same = values[node.inputs[0]].is_index == values[node.outputs[0]].is_index
        if same:
            renames[node.outputs[0]] = node.inputs[0]
    net.replace({}, renames)
    return net
