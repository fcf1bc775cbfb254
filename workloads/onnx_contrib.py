"""Operators beyond the standard that optimised ONNX files hold: the shapes of their results.

They are those of the domain com.microsoft, as ONNX Runtime documents them, which stand for patterns of standard ones.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tilewright.workloads.onnx_file import Node

_Shape = tuple[int, ...]

#: Results of the shape of the first operand.
_AS_FIRST = frozenset(("Gelu", "FastGelu", "BiasGelu", "QuickGelu", "SimplifiedLayerNormalization"))
_SKIPS = frozenset(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"))
CONTRIB = _AS_FIRST | _SKIPS | {"MultiHeadAttention", "FusedMatMul"}


def contrib_shapes(node: "Node", operands: Sequence[_Shape]) -> list[_Shape] | None:
    """The shapes of a node's results; None for an operator that is not known. operands: () where left out."""
    if node.domain != "com.microsoft" or node.op not in CONTRIB:
        return None
    first = operands[0]
    if node.op == "MultiHeadAttention":
        if len(first) != 3 or len(operands[1]) != 3 or len(operands[2]) != 3 or len(node.outputs) > 1:
            raise ValueError("only queries, keys and values of three dimensions, without a cache")
        return [(first[0], first[1], operands[2][2])]
    if node.op == "FusedMatMul":
        rows, columns = first[-2:], operands[1][-2:]
        m = rows[1] if node.attributes.get("transA") else rows[0]
        n = columns[0] if node.attributes.get("transB") else columns[1]
        return [(*first[:-2], m, n)]
    if node.op in _SKIPS:  # normalised, (mean, deviation), sum
        statistics = (*first[:-1], 1)
        return [first, statistics, statistics, first][: len(node.outputs)]
    return [first]
