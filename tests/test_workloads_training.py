"""Backward graphs: gradients as numpy has them, and how far down a training step goes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind, Operator
from tilewright.dataflow.tensor import Role, Tensor
from tilewright.workloads.count import count
from tilewright.workloads.gradient import differentiate, needing_gradients
from tilewright.workloads.workload import Workload, load_workload

Arrays = dict[str, NDArray[np.float64]]


def _graph(operators: tuple[Operator, ...], inputs: dict[str, tuple[str, ...]], output: str) -> Graph:
    """A graph over ranks of sizes 2, 3, 4, 5 named a, b, c, d; g is half of c."""
    sizes = (("a", 2), ("b", 3), ("c", 4), ("d", 5), ("g", 2))
    tensors = [Tensor(name, ranks, "fp32", Role.WEIGHT) for name, ranks in inputs.items()]
    tensors += [Tensor(op.output.tensor, op.output.ranks, "fp32", Role.ACTIVATION) for op in operators]
    return Graph("layer", sizes, tuple(tensors), operators, tuple(inputs), (output,))


def _product(name: str, output: Access, *inputs: Access) -> Operator:
    return Operator(name, Kind.CONTRACTION, output, inputs, "mul", "sum", "linear")


def _einsum(graph: Graph, operator: Operator, arrays: Arrays) -> NDArray[np.float64]:
    """A contraction by its definition: one term per point of its iteration space."""
    shape = [graph.size(rank) for rank in operator.ranks]
    result = np.zeros([graph.size(rank) for rank in graph.tensor_by_name[operator.output.tensor].ranks])
    for point in np.ndindex(*shape):
        at = dict(zip(operator.ranks, point, strict=True))

        def place(access: Access, at: dict[str, int] = at) -> tuple[int, ...]:
            return tuple(
                index.offset + sum(t.coefficient * (at[t.rank] // t.divisor) for t in index.terms)
                for index in access.indices
            )

        values = [arrays[access.tensor][place(access)] for access in operator.inputs]
        result[place(operator.output)] += np.prod(values) if operator.function == "mul" else sum(values)
    return result


def _run(graph: Graph, arrays: Arrays) -> Arrays:
    arrays = dict(arrays)
    for operator in graph.operators:
        arrays[operator.output.tensor] = _einsum(graph, operator, arrays)
    return arrays


def _numeric(graph: Graph, arrays: Arrays, name: str, output: str, above: NDArray[np.float64]) -> Any:
    """The gradient of sum(above * output) by central differences; exact for products up to rounding."""
    gradient = np.zeros_like(arrays[name])
    for place in np.ndindex(*gradient.shape):
        sides = []
        for step in (0.5, -0.5):
            moved = arrays | {name: arrays[name].copy()}
            moved[name][place] += step
            sides.append((above * _run(graph, moved)[output]).sum())
        gradient[place] = sides[0] - sides[1]
    return gradient


def test_gradients_of_two_products_are_those_of_numpy() -> None:
    graph = _graph(
        (
            _product("down", Access.of("low", "a", "c"), Access.of("x", "a", "b"), Access.of("A", "b", "c")),
            _product("up", Access.of("y", "a", "d"), Access.of("low", "a", "c"), Access.of("B", "c", "d")),
        ),
        {"x": ("a", "b"), "A": ("b", "c"), "B": ("c", "d")},
        "y",
    )
    arrays, above = _numbers(graph, (2, 5))
    backward = differentiate(graph, ("x", "A", "B"), "fp32")
    assert backward is not None
    found = _run(backward, _run(graph, arrays) | {"d_y_in": above})
    for name, gradient in zip(("x", "A", "B"), backward.outputs, strict=True):
        np.testing.assert_allclose(found[gradient], _numeric(graph, arrays, name, "y", above), atol=1e-12)


def test_gradients_of_shared_and_shifted_reads_are_those_of_numpy() -> None:
    # K is shared by two of c and read a second time, one element further on
    shared = Access("K", (Index((IndexTerm("c", divisor=2),)),))
    shifted = Access("K", (Index((IndexTerm("c", divisor=4),), offset=1),))
    x, weight = Access.of("x", "a", "b"), Access.of("W", "b", "c")
    graph = _graph(
        (_product("y", Access.of("y", "a", "c"), x, weight, shared, shifted),),
        {"x": ("a", "b"), "W": ("b", "c"), "K": ("g",)},
        "y",
    )
    arrays, above = _numbers(graph, (2, 4))
    backward = differentiate(graph, ("K",), "fp32")
    assert backward is not None
    found = _run(backward, _run(graph, arrays) | {"d_y_in": above})
    # the placement adds to what is there already, which a constant index stands for
    expected = _numeric(graph, arrays, "K", "y", above)
    products = [op for op in backward.operators if op.kind is Kind.CONTRACTION]
    placed = np.zeros(2)
    for product, access in zip(products, (shared, shifted), strict=True):
        for c in range(4):
            index = access.indices[0]
            at = index.offset + c // index.terms[0].divisor
            placed[at] += found[product.output.tensor][c]
    np.testing.assert_allclose(placed, expected, atol=1e-12)
    assert [op.kind for op in backward.operators[2:]] == [Kind.SCATTER, Kind.SCATTER]


def _numbers(graph: Graph, output_shape: tuple[int, ...]) -> tuple[Arrays, NDArray[np.float64]]:
    """Random live-in tensors and a gradient of the output."""
    generator = np.random.default_rng(1)
    arrays = {
        name: generator.normal(size=[graph.size(rank) for rank in graph.tensor_by_name[name].ranks])
        for name in graph.inputs
    }
    return arrays, generator.normal(size=output_shape)


def test_what_no_source_reaches_needs_no_gradient() -> None:
    graph = _graph(
        (
            _product("first", Access.of("low", "a", "c"), Access.of("x", "a", "b"), Access.of("A", "b", "c")),
            _product(
                "second", Access.of("y", "a", "d"), Access.of("low", "a", "c"), Access.of("B", "c", "d")
            ),
        ),
        {"x": ("a", "b"), "A": ("b", "c"), "B": ("c", "d")},
        "y",
    )
    assert needing_gradients(graph, ["B"]) == {"B", "y"}
    backward = differentiate(graph, ("B",), "fp32")
    assert backward is not None
    assert [operator.name for operator in backward.operators] == ["second_backward_1"]
    assert differentiate(graph, (), "fp32") is None


def _train(adapter: Path | str | None = None, **terms: Any) -> Workload:
    terms = {"lowering": "reference", "optimizer": "none"} | terms
    return load_workload("tiny-gpt2", adapter=adapter, phase="train", seq=16, **terms)


def test_training_all_weights_costs_three_times_the_forward_pass() -> None:
    forward = count(load_workload("tiny-gpt2", seq=16, lowering="reference"))
    step = count(_train())
    assert step.flops_total == 3 * forward.flops_total
    assert step.kv_cache_bytes_fp16 == 0


def test_backward_classes_follow_the_forward_ones_in_reverse() -> None:
    assert [(layer.name, layer.count) for layer in _train().network] == [
        ("embed", 1),
        ("block", 2),
        ("head", 1),
        ("head_backward", 1),
        ("block_backward", 2),
        ("embed_backward", 1),
    ]


def test_a_step_goes_no_deeper_than_the_lowest_adapter() -> None:
    names = [layer.name for layer in _train("lora:r=4,targets=q,layers=1").network]
    assert names == ["embed", "block_0", "block_1", "head", "head_backward", "block_1_backward"]


def test_the_first_layer_needs_no_gradient_of_its_input_where_the_table_is_frozen() -> None:
    network = _train("lora:r=4,targets=q+o").network
    assert [layer.name for layer in network[3:]] == [
        "head_backward", "block_backward", "block_backward_first",
    ]  # fmt: skip
    later, first = (count_macs(layer.graph) for layer in network[4:])
    # no gradient of the input through c_attn and through its A
    assert later - first == 16 * 64 * 192 + 16 * 64 * 4


def count_macs(graph: Graph) -> int:
    return sum(graph.macs(operator) for operator in graph.operators)


def test_frozen_weights_get_no_gradient() -> None:
    network = _train("lora:r=4,targets=q").network
    gradients = {name for layer in network for name in layer.graph.outputs if name.startswith("d_")}
    weights = {name for name in gradients if "weight" in name or "bias" in name}
    assert weights == set()
    assert any("lora_a" in name for name in gradients)


def test_trained_rows_of_a_tied_table_need_the_gradient_of_the_head(tmp_path: Path) -> None:
    file = tmp_path / "adapter_config.json"
    fields = {"peft_type": "LORA", "r": 4, "target_modules": ["c_attn"]}
    file.write_text(json.dumps(fields))
    plain = count(_train(file)).flops_output_head
    file.write_text(json.dumps(fields | {"trainable_token_indices": {"wte": [1, 2]}}))
    assert count(_train(file)).flops_output_head - plain == 2 * 16 * 64 * 256


def test_a_recurrence_of_several_operators_cannot_be_trained_and_says_so() -> None:
    with pytest.raises(InputError, match=r"preset tiny-gpt2: phase train: the recurrence '.*' cannot be"):
        load_workload("tiny-gpt2", phase="train", seq=16, attention="one_pass")
    with pytest.raises(InputError, match="phase train holds no tokens before the step, got cache 4"):
        load_workload("gpt2", phase="train", cache=4)


def _recurrence() -> Graph:
    """y[c, a] = x[c, a] h[c] with h[c] = h[c - 1] k[c] + u[c]."""
    before = Access("h", (Index((IndexTerm("c"),), -1),))
    terms = (before, Access.of("k", "c"), Access.of("u", "c"))
    step = Operator(
        "step", Kind.SCAN, Access.of("h", "c"), terms, "mul_add", serial_rank="c",
        parameters=(("init_0", 0.0),),
    )  # fmt: skip
    read = _product("read", Access.of("y", "c", "a"), Access.of("h", "c"), Access.of("x", "c", "a"))
    return _graph((step, read), {"k": ("c",), "u": ("c",), "x": ("c", "a")}, "y")


def _recur(graph: Graph, arrays: Arrays) -> Arrays:
    """The graph's values; a scan steps in its own direction, and what lies outside a tensor is 0."""
    arrays = dict(arrays)
    for op in graph.operators:
        if op.kind is not Kind.SCAN and op.function != "mul_add_grad":
            arrays[op.output.tensor] = _einsum(graph, op, arrays)
            continue
        n_steps = graph.size("c")
        arrays[op.output.tensor] = np.zeros(n_steps)
        for c in reversed(range(n_steps)) if op.descending else range(n_steps):
            at = [c * bool(a.indices[0].terms) + a.indices[0].offset for a in op.inputs]
            read = [
                arrays[access.tensor][place] if 0 <= place < n_steps else 0.0
                for access, place in zip(op.inputs, at, strict=True)
            ]
            if op.function == "mul_add":
                arrays[op.output.tensor][c] = read[0] * read[1] + read[2]
            elif op.kind is Kind.SCAN:  # what the step behind hands back, and its own gradient
                arrays[op.output.tensor][c] = read[0] * np.prod(read[2:3]) + read[1]
            else:  # by a factor: the gradient times the other factor; by the term: the gradient
                arrays[op.output.tensor][c] = np.prod(read[:2]) if op.name == "step_backward_1" else read[0]
    return arrays


def test_the_gradient_of_a_recurrence_runs_back_and_is_that_of_numpy() -> None:
    graph = _recurrence()
    arrays, above = _numbers(graph, (4, 2))
    backward = differentiate(graph, ("k", "u", "x"), "fp32")
    assert backward is not None
    (scan,) = [op for op in backward.operators if op.kind is Kind.SCAN]
    assert scan.descending
    assert scan.steps_back(scan.inputs[0]) == 1
    found = _recur(backward, _recur(graph, arrays) | {"d_y_in": above})
    for name, gradient in zip(("k", "u", "x"), backward.outputs, strict=True):
        expected = np.zeros_like(arrays[name])
        for place in np.ndindex(*expected.shape):
            sides = []
            for step in (1e-4, -1e-4):
                moved = arrays | {name: arrays[name].copy()}
                moved[name][place] += step
                sides.append((above * _recur(graph, moved)["y"]).sum())
            expected[place] = (sides[0] - sides[1]) / 2e-4
        np.testing.assert_allclose(found[gradient], expected, rtol=1e-6, atol=1e-8)


def test_the_gradient_of_a_softmax_reads_its_shares_alone() -> None:
    step = _train()
    block = next(layer.graph for layer in step.network if layer.name == "block_backward")
    squares = {name for name in block.inputs if {"m", "n"} <= set(block.tensor_by_name[name].ranks)}
    assert squares == {"shares"}
    names = [op.name for op in block.operators if op.name.startswith("normalise")]
    assert names == ["normalise_backward_dot", "normalise_backward"]
    assert not any(op.name.startswith(("exponent", "row_")) for op in block.operators)


def test_a_softmax_is_differentiated_as_numpy_has_it() -> None:
    step = _train()
    block = next(layer.graph for layer in step.network if layer.name == "block_backward")
    dot, spread = (op for op in block.operators if op.name.startswith("normalise"))
    assert (dot.function, dot.reduce) == ("mul", "sum")
    assert [access.tensor for access in dot.inputs[1:]] == ["shares"]
    assert [access.tensor for access in spread.inputs] == [dot.inputs[0].tensor, "shares", dot.output.tensor]
    scores, above = np.random.default_rng(2).normal(size=(2, 5))
    shares = np.exp(scores) / np.exp(scores).sum()
    jacobian = np.diag(shares) - np.outer(shares, shares)
    np.testing.assert_allclose(shares * (above - (above * shares).sum()), jacobian @ above)


def test_the_counter_of_the_reference_states_a_grouped_weight_gradient_once_for_each_group() -> None:
    def convolutions(lowering: str) -> int:
        return count(load_workload("convnext-tiny-224", phase="train", lowering=lowering)).flops_conv

    # depthwise 7 x 7: positions x taps x channels multiply-accumulates, stated channels times
    layers = ((3, 56, 96), (3, 28, 192), (9, 14, 384), (3, 7, 768))
    extra = sum(n * 2 * side**2 * 49 * width * (width - 1) for n, side, width in layers)
    assert convolutions("reference") - convolutions("hardware") == extra


def test_the_towers_of_a_match_are_trained_down_to_what_is_trained() -> None:
    workload = load_workload("clip-vit-base-patch32", phase="train", seq=8, optimizer="none")
    names = [layer.name for layer in workload.network]
    assert names[5:] == [
        "match", "match_backward", "vision_block_backward", "vision_embed_backward", "text_head_backward",
        "text_block_backward", "text_embed_backward",
    ]  # fmt: skip
