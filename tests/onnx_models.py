"""Small ONNX models for tests, made by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str]


def save(
    file: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Shape]],
    outputs: Sequence[str],
    weights: Mapping[str, NDArray[Any]],
    opset: int = 18,
) -> Path:
    """Write a model; outputs state no shape."""
    graph = helper.make_graph(
        list(nodes),
        "model",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    file.write_bytes(model.SerializeToString())
    return file


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node; inputs and outputs are names apart by blanks, "_" for one that is left out."""
    read, written = (["" if name == "_" else name for name in text.split()] for text in (inputs, outputs))
    return helper.make_node(op, read, written, name=f"{op}_{outputs.split()[0]}", **attributes)


def floats(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(scale=0.5, size=shape).astype(np.float32)


def ints(*values: int) -> NDArray[np.int64]:
    return np.asarray(values, dtype=np.int64)


def decoder(file: Path, n_layers: int, batch: int | str = 1, seq: int | str = 8) -> Path:
    """A GPT-like decoder: width 16, 2 heads, table of 32 rows tied to the head, learned positions, causal mask.

    The mask is made at run time from the shape of the tokens, as tracing exporters write it.
    """
    weights: dict[str, NDArray[Any]] = {
        "wte.weight": floats(0, 32, 16), "lowest": np.asarray(-1e9, np.float32),
        "scale": np.asarray(8**-0.5, np.float32),
        "one": np.asarray(1.0, np.float32), "axis0": ints(0), "index1": np.asarray(1), "heads": ints(0, 0, 2, 8),
        "merged": ints(0, 0, 16), "sizes": ints(16, 16, 16), "zero": np.asarray(0), "step": np.asarray(1),
    }  # fmt: skip
    nodes = [
        node("Gather", "wte.weight tokens", "x.0"),
        node("Shape", "tokens", "shape"),
        node("Gather", "shape index1", "length"),
        node("Unsqueeze", "length axis0", "length1"),
        node("Concat", "length1 length1", "square", axis=0),
        node("Expand", "one square", "ones"),
        node("Trilu", "ones", "seen", upper=0),
        node("Sub", "one seen", "unseen"),
        node("Mul", "unseen lowest", "mask"),
    ]
    for layer in range(n_layers):
        p = f"h.{layer}"
        weights |= {
            f"{p}.ln_1.weight": floats(1 + layer, 16), f"{p}.ln_1.bias": floats(2 + layer, 16),
            f"{p}.attn.weight": floats(3 + layer, 16, 48), f"{p}.attn.bias": floats(4 + layer, 48),
            f"{p}.proj.weight": floats(5 + layer, 16, 16), f"{p}.up.weight": floats(6 + layer, 16, 64),
            f"{p}.up.bias": floats(8 + layer, 64), f"{p}.down.weight": floats(7 + layer, 64, 16),
        }  # fmt: skip
        nodes += [
            node("LayerNormalization", f"x.{layer} {p}.ln_1.weight {p}.ln_1.bias", f"n.{layer}", axis=-1),
            node("MatMul", f"n.{layer} {p}.attn.weight", f"qkv0.{layer}"),
            node("Add", f"{p}.attn.bias qkv0.{layer}", f"qkv.{layer}"),
            node("Split", f"qkv.{layer} sizes", f"q0.{layer} k0.{layer} v0.{layer}", axis=-1),
            *(node("Reshape", f"{n}0.{layer} heads", f"{n}1.{layer}") for n in "qkv"),
            node("Transpose", f"q1.{layer}", f"q.{layer}", perm=[0, 2, 1, 3]),
            node("Transpose", f"k1.{layer}", f"k.{layer}", perm=[0, 2, 3, 1]),
            node("Transpose", f"v1.{layer}", f"v.{layer}", perm=[0, 2, 1, 3]),
            node("MatMul", f"q.{layer} k.{layer}", f"s0.{layer}"),
            node("Mul", f"s0.{layer} scale", f"s1.{layer}"),
            node("Add", f"s1.{layer} mask", f"s.{layer}"),
            node("Softmax", f"s.{layer}", f"p.{layer}", axis=-1),
            node("MatMul", f"p.{layer} v.{layer}", f"a0.{layer}"),
            node("Transpose", f"a0.{layer}", f"a1.{layer}", perm=[0, 2, 1, 3]),
            node("Reshape", f"a1.{layer} merged", f"a.{layer}"),
            node("MatMul", f"a.{layer} {p}.proj.weight", f"o.{layer}"),
            node("Add", f"x.{layer} o.{layer}", f"r.{layer}"),
            node("MatMul", f"r.{layer} {p}.up.weight", f"u0.{layer}"),
            node("Add", f"u0.{layer} {p}.up.bias", f"u.{layer}"),
            node("Relu", f"u.{layer}", f"g.{layer}"),
            node("MatMul", f"g.{layer} {p}.down.weight", f"d.{layer}"),
            node("Add", f"r.{layer} d.{layer}", f"x.{layer + 1}"),
        ]  # fmt: skip
    nodes += [
        node("Transpose", "wte.weight", "head", perm=[1, 0]),
        node("MatMul", f"x.{n_layers} head", "logits"),
    ]
    return save(file, nodes, {"tokens": (TensorProto.INT64, (batch, seq))}, ["logits"], weights)
