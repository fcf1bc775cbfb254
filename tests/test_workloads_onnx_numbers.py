"""Lowered ONNX graphs compute what the standard's reference evaluator computes."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from tests.onnx_models import decoder, floats, ints, node, save
from tests.onnx_numbers import both

F = TensorProto.FLOAT
Array = NDArray[Any]


def _check(file: Path, feeds: dict[str, Array], **terms: Any) -> None:
    ours, theirs = both(file, feeds, **terms)
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        assert np.allclose(mine, other, atol=1e-4), np.abs(mine - other).max()


def _case(name: str, nodes: list[onnx.NodeProto], x: Array, opset: int = 18, **weights: Array) -> Any:
    return pytest.param(nodes, x, weights, opset, id=name)


X3 = floats(0, 2, 6, 12)
IMAGE = floats(1, 2, 4, 9, 8)
CASES = [
    _case("a product of three by two dimensions", [node("MatMul", "x w", "y")], X3, w=floats(2, 12, 5)),
    _case("a product of a weight by what runs", [node("MatMul", "w x", "y")], X3, w=floats(2, 5, 6)),
    _case("a product with a vector", [node("MatMul", "x w", "y")], X3, w=floats(2, 12)),
    _case("a product of a batch with itself", [node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "x t", "y")],
          X3),
    _case("a square product added to its input", [node("MatMul", "x w", "t"), node("Add", "t x", "y")], X3,
          w=floats(2, 12, 12)),
    _case("gemm of transposed operands", [node("Gemm", "x w c", "y", transA=1, transB=1)], floats(3, 6, 4),
          w=floats(2, 5, 6), c=floats(4, 5)),
    _case("reshapes that cut and join dimensions",
          [node("Reshape", "x a", "t"), node("Transpose", "t", "u", perm=[0, 2, 1, 3]), node("Reshape", "u b", "v"),
           node("MatMul", "v w", "y")], X3, a=ints(2, 6, 3, 4), b=ints(2, 3, 24), w=floats(2, 24, 5)),
    _case("a reshape that no product of ranks expresses",
          [node("Reshape", "x a", "t"), node("Relu", "t", "u"), node("Reshape", "u b", "v"), node("Neg", "v", "y")], X3,
          a=ints(2, 8, 9), b=ints(4, 36)),
    _case("a window partition and its merge",
          [node("Reshape", "x a", "t"), node("Transpose", "t", "u", perm=[0, 2, 1, 3]), node("Reshape", "u b", "v"),
           node("Softmax", "v", "s"), node("MatMul", "s w", "y")], floats(5, 1, 6, 4),
          a=ints(1, 3, 2, 4), b=ints(2, 3, 4), w=floats(2, 4, 3)),
    _case("a split into unequal parts",
          [node("Split", "x n", "a b", axis=-1), node("MatMul", "a w", "t"), node("MatMul", "b v", "u"),
           node("Add", "t u", "y")], X3, n=ints(8, 4), w=floats(2, 8, 5), v=floats(4, 4, 5)),
    _case("a slice at odd positions and a step",
          [node("Slice", "x s e d k", "t"), node("Relu", "t", "y")], X3, s=ints(1), e=ints(11), d=ints(2), k=ints(3)),
    _case("a slice of a slice", [node("Slice", "x s e d", "t"), node("Slice", "t a b d", "u"), node("Neg", "u", "y")],
          X3, s=ints(1), e=ints(10), d=ints(2), a=ints(2), b=ints(7)),
    _case("pieces put one behind the other",
          [node("Slice", "x s e d", "t"), node("Neg", "t", "u"), node("Concat", "u x w", "y", axis=2)],
          X3, s=ints(3), e=ints(8), d=ints(2), w=floats(6, 2, 6, 2)),
    _case("an expansion that is reshaped",
          [node("Unsqueeze", "x a", "t"), node("Expand", "t e", "u"), node("Reshape", "u b", "v"),
           node("Mul", "v w", "y")], X3, a=ints(2), e=ints(2, 6, 3, 12), b=ints(2, 18, 12), w=floats(2, 18, 12)),
    _case("a convolution with padding, stride and groups",
          [node("Conv", "x w b", "y", pads=[1, 0, 1, 2], strides=[2, 1], group=2)], IMAGE,
          w=floats(2, 6, 2, 3, 3), b=floats(3, 6)),
    _case("a depthwise convolution with a residual",
          [node("Conv", "x w", "t", pads=[1, 1, 1, 1], group=4), node("Add", "t x", "y")], IMAGE,
          w=floats(2, 4, 1, 3, 3)),
    _case("a dilated convolution in one dimension", [node("Conv", "x w", "y", dilations=[2], pads=[2, 2])], X3,
          w=floats(2, 4, 6, 3)),
    _case("a convolution of single taps", [node("Conv", "x w", "t"), node("Relu", "t", "y")], IMAGE,
          w=floats(2, 5, 4, 1, 1)),
    _case("a convolution of a reshaped image",
          [node("Reshape", "x a", "t"), node("Conv", "t w", "y", auto_pad="SAME_UPPER")], floats(7, 1, 36, 2),
          a=ints(1, 2, 6, 6), w=floats(2, 3, 2, 3, 3)),
    _case("a convolution behind a transpose of tokens",
          [node("Transpose", "x", "t", perm=[0, 2, 1]), node("Reshape", "t a", "u"), node("Conv", "u w", "v", group=12),
           node("Reshape", "v b", "q"), node("Transpose", "q", "r", perm=[0, 2, 1]), node("MatMul", "r m", "y")], X3,
          a=ints(2, 12, 2, 3), b=ints(2, 12, 2), w=floats(2, 12, 1, 2, 2), m=floats(3, 12, 5)),
    _case("a transposed convolution", [node("ConvTranspose", "x w b", "y", strides=[2, 1], pads=[1, 0, 0, 1])], IMAGE,
          w=floats(2, 4, 3, 3, 2), b=floats(3, 3)),
    _case("pooling by the largest", [node("MaxPool", "x", "y", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0])],
          IMAGE),
    _case("pooling by the mean", [node("AveragePool", "x", "y", kernel_shape=[3, 2], strides=[3, 2])], IMAGE),
    _case("pooling over all",
          [node("GlobalAveragePool", "x", "t"), node("Flatten", "t", "u"), node("MatMul", "u w", "y")],
          IMAGE, w=floats(2, 4, 3)),
    _case("a norm over channels and positions", [node("GroupNormalization", "x w b", "y", num_groups=2)], IMAGE, 21,
          w=floats(2, 4), b=floats(3, 4)),
    _case("a norm of each channel", [node("InstanceNormalization", "x w b", "y")], IMAGE, w=floats(2, 4),
          b=floats(3, 4)),
    _case("a norm over two dimensions", [node("LayerNormalization", "x w b", "y", axis=1)], X3, w=floats(2, 6, 12),
          b=floats(3, 6, 12)),
    _case("a sum of products by letters", [node("Einsum", "x w", "y", equation="bmd,hde->bhme")], X3,
          w=floats(2, 3, 12, 4)),
    _case("a sum of products with an ellipsis", [node("Einsum", "x w", "y", equation="...d,dk->k...")], X3,
          w=floats(2, 12, 4)),
    _case("a sum by letters of one operand", [node("Einsum", "x", "y", equation="bmd->dm")], X3),
    _case("a softmax in the middle", [node("Softmax", "x", "y", axis=1)], X3),
    _case("the logarithm of a softmax", [node("LogSoftmax", "x", "y")], X3),
    _case("sums, means and maxima",
          [node("ReduceSum", "x a", "s", keepdims=0), node("ReduceMax", "x a", "m", keepdims=0),
                                     node("Add", "s m", "y")], X3, a=ints(1)),
    _case("the length of a vector", [node("ReduceL2", "x a", "s"), node("Div", "x s", "y")], X3, a=ints(-1)),
    _case("numbers as operands", [node("Div", "x two", "t"), node("Sub", "two t", "u"), node("Pow", "u two", "v"),
                                  node("Div", "two v", "y")], X3 + 9, two=np.asarray(2.0, np.float32)),
    _case("a border", [node("Pad", "x p", "t"), node("MatMul", "t w", "y")], X3, p=ints(0, 1, 2, 0, 3, 0),
          w=floats(2, 14, 3)),
    _case("depth to space", [node("DepthToSpace", "x", "t", blocksize=2), node("Relu", "t", "y")], IMAGE),
    _case("space to depth", [node("Slice", "x s e d", "t"), node("SpaceToDepth", "t", "u", blocksize=2),
                             node("Relu", "u", "y")], IMAGE, s=ints(0), e=ints(8), d=ints(2)),
    _case("tiles", [node("Tile", "x n", "t"), node("Mul", "t w", "y")], X3, n=ints(1, 2, 1), w=floats(2, 12, 12)),
    _case("rows that stand in a table at even distances",
          [node("Gather", "x n", "t", axis=1), node("Relu", "t", "y")], X3,
          n=ints(1, 3, 5)),
    _case("one row", [node("Gather", "x n", "t", axis=1), node("MatMul", "t w", "y")], X3, n=np.asarray(-1),
          w=floats(2, 12, 3)),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "x", "weights", "opset"), CASES)
def test_a_graph_computes_what_the_standard_says(
    tmp_path: Path, nodes: list[onnx.NodeProto], x: Array, weights: dict[str, Array], opset: int
) -> None:
    file = save(tmp_path / "m.onnx", nodes, {"x": (F, x.shape)}, ["y"], weights, opset)
    _check(file, {"x": x})


def _activation(kind: str) -> list[onnx.NodeProto]:
    """How exporters spell an activation."""
    match kind:
        case "gelu":
            return [node("Div", "x root", "a"), node("Erf", "a", "b"), node("Add", "b one", "c"),
                    node("Mul", "x c", "d"), node("Mul", "d half", "y")]  # fmt: skip
        case "silu":
            return [node("Sigmoid", "x", "a"), node("Mul", "x a", "y")]
        case "quick_gelu":
            return [node("Mul", "x slope", "a"), node("Sigmoid", "a", "b"), node("Mul", "x b", "y")]
    return [node("Pow", "x three", "a"), node("Mul", "a cube", "b"), node("Add", "x b", "c"),
            node("Mul", "c wide", "d"),
            node("Tanh", "d", "e"), node("Add", "e one", "f"), node("Mul", "x half", "g"),
            node("Mul", "g f", "y")]  # fmt: skip


NUMBERS = {"root": 2**0.5, "one": 1.0, "half": 0.5, "slope": 1.702, "three": 3.0, "cube": 0.044715,
           "wide": (2 / np.pi) ** 0.5}  # fmt: skip


@pytest.mark.parametrize("kind", ["gelu", "silu", "quick_gelu", "gelu_tanh"])
def test_an_activation_of_several_nodes_is_one_operator_with_its_values(tmp_path: Path, kind: str) -> None:
    weights = {name: np.asarray(value, np.float32) for name, value in NUMBERS.items()}
    nodes = [node("MatMul", "z w", "x"), *_activation(kind)]
    file = save(tmp_path / "m.onnx", nodes, {"z": (F, (2, 6, 12))}, ["y"], weights | {"w": floats(1, 12, 8)})
    _check(file, {"z": X3})


def test_a_norm_of_several_nodes_has_its_values(tmp_path: Path) -> None:
    nodes = [
        node("ReduceMean", "x a", "m"), node("Sub", "x m", "c"), node("Pow", "c two", "s"),
        node("ReduceMean", "s a", "v"),
        node("Add", "v e", "t"), node("Sqrt", "t", "r"), node("Div", "c r", "n"), node("Mul", "n w", "g"),
        node("Add", "g b", "y"),
    ]  # fmt: skip
    weights = {"a": ints(-1), "two": np.asarray(2.0, np.float32), "e": np.asarray(1e-5, np.float32), "w": floats(1, 12),
               "b": floats(2, 12)}  # fmt: skip
    file = save(tmp_path / "m.onnx", nodes, {"x": (F, (2, 6, 12))}, ["y"], weights)
    _check(file, {"x": X3})


@pytest.mark.parametrize("n_layers", [1, 3])
def test_a_decoder_with_a_mask_made_at_run_time_has_its_values(tmp_path: Path, n_layers: int) -> None:
    file = decoder(tmp_path / "m.onnx", n_layers, "batch", "seq")
    _check(file, {"tokens": np.arange(10).reshape(2, 5) * 3}, batch=2, seq=5)


def test_grouped_queries_that_repeat_keys_have_their_values(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", "x wq", "q0"), node("Reshape", "q0 hq", "q1"), node("Transpose", "q1", "q", perm=[0, 2, 1, 3]),
        node("MatMul", "x wk", "k0"), node("Reshape", "k0 hk", "k1"), node("Transpose", "k1", "k2", perm=[0, 2, 1, 3]),
        node("Unsqueeze", "k2 a", "k3"), node("Expand", "k3 e", "k4"), node("Reshape", "k4 m", "k5"),
        node("Transpose", "k5", "k", perm=[0, 1, 3, 2]), node("MatMul", "q k", "s"), node("Softmax", "s", "p"),
        node("MatMul", "p k5", "o"), node("Transpose", "o", "o1", perm=[0, 2, 1, 3]), node("Reshape", "o1 j", "y"),
    ]  # fmt: skip
    weights = {"wq": floats(1, 12, 32), "wk": floats(2, 12, 8), "hq": ints(2, 6, 8, 4), "hk": ints(2, 6, 2, 4),
               "a": ints(2), "e": ints(2, 2, 4, 6, 4), "m": ints(2, 8, 6, 4), "j": ints(2, 6, 32)}  # fmt: skip
    file = save(tmp_path / "m.onnx", nodes, {"x": (F, (2, 6, 12))}, ["y"], weights)
    _check(file, {"x": X3})


@pytest.mark.parametrize("causal", [0, 1])
def test_attention_as_one_node_has_its_values(tmp_path: Path, causal: int) -> None:
    attributes = {"q_num_heads": 4, "kv_num_heads": 2, "is_causal": causal}
    nodes = [node("Attention", "q k v", "y", **attributes)]
    inputs = {"q": (F, (2, 5, 16)), "k": (F, (2, 5, 8)), "v": (F, (2, 5, 8))}
    file = save(tmp_path / "m.onnx", nodes, inputs, ["y"], {}, 23)
    _check(file, {"q": floats(1, 2, 5, 16), "k": floats(2, 2, 5, 8), "v": floats(3, 2, 5, 8)})


@pytest.mark.parametrize("name", ["tiny-gpt2-2l-64d", "tiny-vit-2l-64d", "tiny-convnext-4s"])
def test_an_exported_model_computes_what_the_standard_says(reference_folder: Path, name: str) -> None:
    image = floats(4, 1, 3, 32, 32)
    feed: Array = np.arange(16).reshape(1, 16) * 7 if "gpt2" in name else image
    _check(reference_folder / "onnx" / f"{name}.onnx", {"input": feed})
