"""Attention written as products and a softmax: which products belong to it, its scale, its mask."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tilewright.workloads.onnx_evaluate import Array
from tilewright.workloads.onnx_file import Node, renamed
from tilewright.workloads.onnx_nodes import Net

# A score with this much added, or less, has no share: exporters write the lowest number of a type, or -10000.
_MASKED = -9e3
_PRODUCTS = ("MatMul", "Einsum", "FusedMatMul")
_VIEWS = ("Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Where", "Mul")
_MAX_STEPS = 12


@dataclass(frozen=True, slots=True)
class Band:
    """The keys that a query sees: lower <= key - query <= upper; None is unbounded."""

    upper: int | None = None
    lower: int | None = None


@dataclass(slots=True)
class _Scores:
    """What lies between the product of queries and keys and the softmax."""

    product: Node
    scale: float = 1.0
    band: Band | None = None
    passed: tuple[str, ...] = ()


def mark_attention(net: Net) -> None:
    """Give products and softmax of each attention the attributes `group`, `scale`, `upper`, `lower`.

    A scale that is one number, and a constant mask that is a band, are taken into them; what else is done to the
    scores stays.
    """
    changed: dict[str, Node] = {}
    renames: dict[str, str] = {}
    bands = _Bands()
    for softmax in [node for node in net.nodes if node.op == "Softmax" and not node.domain]:
        scores = _behind(net, softmax, bands)
        mixes = list(_mixes(net, softmax.outputs[0]))
        if scores is None or not mixes or scores.product.outputs[0] in changed:
            continue
        band = scores.band or Band()
        marks = {"group": "attention", "upper": band.upper, "lower": band.lower}
        for node in (softmax, *mixes):
            changed[node.outputs[0]] = renamed(node, attributes={**node.attributes, **marks})
        product = scores.product
        score_marks = {**product.attributes, **marks, "scale": scores.scale}
        changed[product.outputs[0]] = renamed(product, attributes=score_marks)
        renames |= dict.fromkeys(scores.passed, product.outputs[0])
    net.replace(changed, renames)


def _behind(net: Net, softmax: Node, bands: "_Bands") -> _Scores | None:
    """The scores that a softmax takes; None if they are no product of two values that run."""
    name = softmax.inputs[0]
    steps: list[Node] = []
    for _ in range(_MAX_STEPS):
        node = net.producer.get(name)
        if node is None:
            return None
        if node.op in _PRODUCTS:
            runs = len(node.inputs) == 2 and not any(net.values[operand].constant for operand in node.inputs)
            return _folded(net, node, steps, bands) if runs else None
        if node.domain or node.op not in ("Add", "Mul", "Div", "Where", "Reshape", "Unsqueeze", "Squeeze"):
            return None
        steps.append(node)
        follow = _towards_scores(net, node)
        if not follow:
            return None
        name = follow
    return None


def _towards_scores(net: Net, node: Node) -> str:
    """The operand of a step that the scores come through."""
    operands = node.inputs[1:] if node.op == "Where" else node.inputs[:2]
    if node.op in ("Div", "Reshape", "Unsqueeze", "Squeeze"):
        return node.inputs[0]
    running = [name for name in operands if not net.values[name].constant]
    if len(running) == 1:
        return running[0]
    for name in running:  # a bias or a mask that is computed stands beside the scores
        found: str = name
        for _ in range(_MAX_STEPS):
            producer = net.producer.get(found)
            if producer is None or producer.op in _PRODUCTS:
                break
            found = producer.inputs[0]
        if producer is not None and not any(net.values[operand].constant for operand in producer.inputs[:2]):
            return name
    return ""


def _folded(net: Net, product: Node, steps: list[Node], bands: "_Bands") -> _Scores:
    """Take scale and mask, from the product on, into it as far as they are numbers and bands."""
    scores = _Scores(product)
    name, square = product.outputs[0], net.values[product.outputs[0]].shape[-2:]
    for node in reversed(steps):
        if net.only_reader(name) is not node:
            break
        others = [operand for operand in node.inputs if operand != name]
        scales = node.op == "Mul" or (node.op == "Div" and node.inputs[0] == name)
        if scales and len(others) == 1 and (number := net.scalar(others[0])):
            scores.scale *= number if node.op == "Mul" else 1 / number
        elif node.op in ("Add", "Where") and scores.band is None:
            band = bands.of(net, node, name, square)
            if band is None:
                break
            scores.band = band
        else:
            break
        name = node.outputs[0]
        scores.passed += (name,)
    return scores


class _Bands:
    """The bands of constant masks; layers share theirs, which is looked at once."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], Band | None] = {}

    def of(self, net: Net, node: Node, name: str, square: tuple[int, ...]) -> Band | None:
        """The band that `node` leaves of the scores `name`; None for any other mask."""
        key = (node.op, *((operand if operand != name else "") for operand in node.inputs), square)
        if key not in self._known:
            self._known[key] = _band_of(net, node, name, square)
        return self._known[key]


def _band_of(net: Net, node: Node, name: str, square: tuple[int, ...]) -> Band | None:
    """The band that an addition or a selection leaves of the scores; None for any other mask."""
    if node.op == "Add":
        other = next((operand for operand in node.inputs if operand != name), "")
        array = net.values.array(other) if other and net.values[other].constant else None
        if array is None or array.dtype.kind not in "fiu":
            return None
        allowed = array > _MASKED
        if np.any(array[allowed] != 0):
            return None
    else:
        array = net.values.array(node.inputs[0]) if net.values[node.inputs[0]].constant else None
        filler = net.scalar(node.inputs[1 if node.inputs[2] == name else 2])
        if array is None or filler is None or filler > _MASKED:
            return None
        allowed = np.asarray(array if node.inputs[1] == name else ~array, dtype=bool)
    if len(square) != 2 or net.values[node.outputs[0]].shape[-2:] != square:
        return None
    return band_of(np.broadcast_to(allowed, np.broadcast_shapes(allowed.shape, square)))


def band_of(allowed: Array) -> Band | None:
    """The band lower <= key - query <= upper that is allowed[..., query, key]; None if it is no band."""
    rows, columns = allowed.shape[-2:]
    if not allowed.size:
        return None
    squares = allowed.reshape(-1, rows, columns)
    if not bool((squares[1:] == squares[0]).all()) or not squares[0].any():
        return None
    rows_seen = squares[0]
    place = np.arange(rows)
    first, last = rows_seen.argmax(axis=1), columns - 1 - rows_seen[:, ::-1].argmax(axis=1)
    some = rows_seen.any(axis=1)
    upper, lower = int((last - place)[some].max()), int((first - place)[some].min())
    expected_first, expected_last = np.maximum(place + lower, 0), np.minimum(place + upper, columns - 1)
    n_expected = np.maximum(expected_last - expected_first + 1, 0)
    in_place = (first == expected_first) & (last == expected_last)
    if not bool(((in_place & some) | (n_expected == 0)).all()) or bool(
        (rows_seen.sum(axis=1) != n_expected).any()
    ):
        return None
    return Band(None if upper >= columns - 1 else upper, None if lower <= 1 - rows else lower)


def _mixes(net: Net, name: str) -> Iterator[Node]:
    """The products of the shares with values that run."""
    pending = [name]
    for _ in range(_MAX_STEPS):
        if not pending:
            return
        for reader in net.readers.get(pending.pop(), []):
            if reader.op in _PRODUCTS and not any(
                net.values[operand].constant for operand in reader.inputs[:2]
            ):
                yield reader
            elif reader.op in _VIEWS and not reader.domain:
                pending.append(reader.outputs[0])
