"""Merging adapters: the base stays as it is, the adapter is gone, and what cannot be merged is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataflow_interpreter import run_graph
from tilewright.dataflow.cascade import load_cascade, parse_cascade
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.passes import PassError, concat_graphs, rename_graph
from tilewright.dataflow.passes_adapters import has_adapters, merge_adapters
from tilewright.dataflow.tensor import Role
from tilewright.workloads.run import Lowering
from tilewright.workloads.workload import load_workload

HEAD = """ranks t, o, i, r
in  X[t,i], Z[t,i], W[o,i] : weight, A[r,i] : adapter, B[o,r] : adapter, L[o] : adapter, C[o] : weight
out Y[t,o]
group linear
Y0[t,o] = X[t,i] * W[o,i]
"""
SIZES = {"t": 2, "o": 3, "i": 4, "r": 2}


def _bound(text: str) -> Graph:
    return parse_cascade(HEAD + text, "text").bind(SIZES)


def _base_macs(graph: Graph) -> int:
    return sum(graph.macs(operator) for operator in graph.operators if operator.group != "adapter")


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_merging_conserves_the_base_its_work_and_the_live_outs(
    tokens: int, outputs: int, inputs: int, rank: int
) -> None:
    graph = load_cascade("lora").bind({"t": tokens, "o": outputs, "i": inputs, "r": rank})
    merged = merge_adapters(graph)
    assert has_adapters(graph)
    assert not has_adapters(merged)
    assert sum(merged.macs(operator) for operator in merged.operators) == _base_macs(graph)
    assert merged.outputs == graph.outputs
    assert merged.tensor_by_name["Y"].ranks == graph.tensor_by_name["Y"].ranks
    weights = [tensor for tensor in graph.tensors if tensor.role is Role.WEIGHT]
    assert [tensor for tensor in merged.tensors if tensor.role is Role.WEIGHT] == weights
    assert not [tensor for tensor in merged.tensors if tensor.role is Role.ADAPTER]
    assert merge_adapters(merged) is merged


def test_the_merged_graph_with_the_merged_weight_computes_the_same() -> None:
    rng = np.random.default_rng(5)
    shapes = {"X": (2, 4), "W": (3, 4), "A": (2, 4), "B": (3, 2)}
    inputs = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    graph = load_cascade("lora").bind(SIZES | {"alpha": 6})
    merged_weight = inputs["W"] + 6 / 2 * inputs["B"] @ inputs["A"]
    after = run_graph(merge_adapters(graph), {"X": inputs["X"], "W": merged_weight})["Y"]
    np.testing.assert_allclose(after, run_graph(graph, inputs)["Y"], rtol=1e-12)


def test_an_adapted_tensor_that_goes_on_is_replaced_by_its_base() -> None:
    graph = _bound(
        "group adapter\nU[t,r] = X * A\nD[t,o] = 2 * U * B\nE[t,o] = Y0 + D\ngroup act\nY[t,o] = gelu(E)"
    )
    merged = merge_adapters(graph)
    assert [(o.name, o.inputs[0].tensor) for o in merged.operators] == [("Y0", "X"), ("Y", "Y0")]
    assert "r" not in merged.ranks


def test_two_adapters_on_one_weight_both_merge() -> None:
    text = """group adapter
U[t,r] = X * A
D[t,o] = U * B
E[t,o] = Y0 + D
U2[t,r] = X * A
D2[t,o] = U2 * B
F[t,o] = E + D2
group act
Y[t,o] = gelu(F)
"""
    merged = merge_adapters(_bound(text))
    assert [(o.name, o.inputs[0].tensor) for o in merged.operators] == [("Y0", "X"), ("Y", "Y0")]


def test_the_adapters_of_several_linears_all_merge() -> None:
    first = load_cascade("lora").bind(SIZES, prefix="a_")
    second = rename_graph(first, tensors={t.name: f"b_{t.name}" for t in first.tensors}, prefix="b_")
    merged = merge_adapters(concat_graphs("both", (first, second)))
    assert [operator.name for operator in merged.operators] == ["a_Y0", "b_a_Y0"]
    assert merged.outputs == ("a_Y", "b_a_Y")


def test_an_adapters_bias_merges_into_the_one_behind_the_base() -> None:
    adapter = "group adapter\nU[t,r] = X * A\nD[t,o] = U * B\nE0[t,o] = Y0 + D\nE[t,o] = E0 + L\n"
    merged = merge_adapters(_bound(adapter + "group linear\nY[t,o] = E + C"))
    assert [operator.name for operator in merged.operators] == ["Y0", "Y"]
    with pytest.raises(PassError, match="'E': bias 'L' finds no bias of the base to merge into"):
        merge_adapters(_bound(adapter + "group act\nY[t,o] = gelu(E)"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "group adapter\nU[t,r] = X * A\nG[t,r] = gelu(U)\nD[t,o] = G * B\nY[t,o] = Y0 + D",
            "adapter operator 'G' (gelu) is not linear",
        ),
        (
            "group adapter\nU[t,r] = Z * A\nD[t,o] = U * B\nY[t,o] = Y0 + D",
            "adapter operator 'U' reads 'Z', its base does not",
        ),
        (
            "group adapter\nU[t,r] = X * A\nS[t,r] = U * U\nD[t,o] = S * B\nY[t,o] = Y0 + D",
            "adapter operator 'S' (mul) is not linear",
        ),
        ("group adapter\nY[t,o] = Y0 * L", "adapter operator 'Y' (mul) is no sum with a base operator"),
        (
            "group adapter\nU[t,r] = X * A\nD[t,o] = U * B\nE[t,o] = Y0 + D\ngroup act\nY[t,o] = E * Y0",
            "'Y0' is read without its adapter by 'Y'",
        ),
        (
            "H[t,o] = relu(Y0)\ngroup adapter\nU[t,r] = X * A\nD[t,o] = U * B\nY[t,o] = H + D",
            "adapter operator 'Y' adds to 'H', which has no weight",
        ),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(PassError) as caught:
        merge_adapters(_bound(text))
    assert message in str(caught.value)


@pytest.mark.parametrize("lowering", ["reference", "hardware"])
@pytest.mark.parametrize("preset", ["lora:r=16,targets=q+k+v+o", "lora:r=4,targets=all,bias=lora_only"])
def test_a_model_with_its_adapter_merged_is_the_model(preset: str, lowering: Lowering) -> None:
    adapted = load_workload("gpt2", adapter=preset, lowering=lowering)
    plain = load_workload("gpt2", lowering=lowering)
    assert any(has_adapters(layer.graph) for layer in adapted.network)
    assert [merge_adapters(layer.graph) for layer in adapted.network] == [
        layer.graph for layer in plain.network
    ]
