"""ONNX files as workloads: counts, symbolic dimensions, layers, parameters, patterns; what is refused by name."""

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.onnx_models import decoder, floats, ints, node, save
from tilewright.dataflow.errors import InputError
from tilewright.dataflow.operator import Kind
from tilewright.dataflow.passes_fusion import fuse_pointwise
from tilewright.dataflow.tensor import Role
from tilewright.sim.sequential_plan import AttentionPlan, Fusion, plan_graph
from tilewright.workloads.count import count
from tilewright.workloads.onnx_attention import Band, band_of
from tilewright.workloads.onnx_census import census
from tilewright.workloads.onnx_dims import OnnxTerms
from tilewright.workloads.workload import Workload, load_workload

F = TensorProto.FLOAT
#: (model, metric) of the reference that its file does not hold: exporters leave out biases that are all zero, rows of
#: position tables that are not used, and a pooler whose result is not exported.
NOT_IN_THE_FILE = {
    ("tiny-gpt2-2l-64d", "params_total"): 2 * (192 + 64 + 256 + 64) + 48 * 64,
    ("tiny-bert-2l-64d", "params_total"): 64 * 64 + 64 + 32 * 64,
    ("tiny-bert-2l-64d", "flops_total"): 2 * 64 * 64,
    ("tiny-vit-2l-64d", "params_total"): 64 + 10,
    ("tiny-convnext-4s", "params_total"): 2 * (16 + 24 + 32 + 48) + 32 + 10,
}


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "golden_counts_public.csv").open(encoding="utf-8", newline="") as table:
        return [row for row in csv.DictReader(table) if row["config_file"].endswith(".onnx")]


def _terms(row: dict[str, str]) -> dict[str, Any]:
    name = "image" if "x" in row["seq"] else "seq"
    return {
        "batch": int(row["batch"]),
        "cache": int(row["cache"] or 0),
        name: int(row["seq"].partition("x")[0]),
    }


def test_every_row_of_the_reference_is_met_to_the_unit_or_lacks_what_the_file_lacks(
    reference_folder: Path,
) -> None:
    rows = _rows(reference_folder)
    assert len(rows) > 80
    differences = []
    for row in rows:
        file, terms = reference_folder / row["config_file"], _terms(row)
        held = census(file, OnnxTerms(**terms))
        held |= count(load_workload(file, lowering="reference", **terms)).to_dict()
        lacking = NOT_IN_THE_FILE.get((row["model"], row["metric"]), 0)
        if held[row["metric"]] + lacking != int(row["value"]):
            differences.append((row["model"], row["metric"], row["value"], held[row["metric"]]))
    assert differences == []


def test_the_flops_of_the_lowered_graph_are_those_of_the_nodes(reference_folder: Path) -> None:
    for file in sorted((reference_folder / "onnx").glob("*.onnx")):
        counts, held = count(load_workload(file, lowering="reference")), census(file, OnnxTerms())
        assert counts.flops_total == held["onnx_flops_total"]
        assert counts.flops_conv == held["onnx_flops_Conv"]
        assert counts.flops_linear + counts.flops_attention_bmm == counts.flops_total - counts.flops_conv


def test_a_decoder_counts_by_hand(tmp_path: Path) -> None:
    workload = load_workload(decoder(tmp_path / "m.onnx", 3), lowering="reference")
    counts = count(workload)
    per_layer = 16 * 48 + 48 + 16 * 16 + 16 * 64 + 64 + 64 * 16 + 2 * 16
    assert counts.params_total == 3 * per_layer + 32 * 16  # the head is the table
    assert counts.params_input_embedding == 32 * 16
    assert counts.params_with_tied_counted_twice == counts.params_total + 32 * 16
    assert counts.flops_linear == 2 * 8 * (3 * (16 * 48 + 16 * 16 + 2 * 16 * 64) + 16 * 32)
    assert counts.flops_output_head == 2 * 8 * 16 * 32
    assert counts.flops_attention_bmm == 3 * 2 * 2 * (8 * 8 * 16)
    assert counts.flops_conv == counts.flops_other == 0
    assert counts.output_elems == 8 * 32
    assert (workload.batch, workload.seq, workload.tokens) == (1, 8, 8)
    assert (workload.model_type, workload.name) == ("onnx", "m prefill 1x8")


def test_the_hardware_computes_the_masked_triangle_alone(tmp_path: Path) -> None:
    counts = count(load_workload(decoder(tmp_path / "m.onnx", 1)))
    assert counts.flops_attention_bmm == 2 * 2 * (8 * 9 // 2) * 16


def test_equal_layers_are_one_class_with_a_count(tmp_path: Path) -> None:
    workload = load_workload(decoder(tmp_path / "m.onnx", 5))
    assert [(layer.name, layer.count) for layer in workload.network] == [
        ("embed", 1),
        ("block", 5),
        ("head", 1),
    ]
    block = workload.network[1].graph
    activations = [name for name in block.inputs if block.tensor_by_name[name].role is Role.ACTIVATION]
    assert (len(activations), len(block.outputs)) == (1, 1)
    assert {"attn", "proj", "up", "down"} <= {operator.name for operator in block.operators}


def test_the_time_does_not_grow_with_the_square_of_the_layers(tmp_path: Path) -> None:
    workload = load_workload(decoder(tmp_path / "m.onnx", 60))
    assert [layer.count for layer in workload.network] == [1, 60, 1]


def test_attention_is_one_stage_of_the_family_sequential(tmp_path: Path) -> None:
    block = load_workload(decoder(tmp_path / "m.onnx", 2)).network[1].graph
    stages = list(plan_graph(block, Fusion(True, True, True)).stages)
    fused = [stage for stage in stages if isinstance(stage, AttentionPlan)]
    assert [operator.function for operator in fused[0].operators] == [
        "mul",
        "identity",
        "exp",
        "identity",
        "div",
        "mul",
    ]
    assert dict(fused[0].score.parameters)["scale"] == pytest.approx(8**-0.5)
    mask = fused[0].score.mask
    assert mask is not None
    assert (mask.upper, mask.lower) == (0, None)
    assert fuse_pointwise(block).group_of("up") == ("up", "up_bias", "relu")


def test_a_fused_projection_is_read_at_constant_positions(tmp_path: Path) -> None:
    block = load_workload(decoder(tmp_path / "m.onnx", 2)).network[1].graph
    projected = next(operator for operator in block.operators if operator.name == "attn")
    sizes = [block.size(rank) for rank in projected.output.ranks]
    assert sizes == [1, 8, 3, 2, 8]  # batch, tokens, queries / keys / values, heads, channels
    assert [operator.kind for operator in block.operators].count(Kind.SCATTER) == 0


@pytest.mark.parametrize("file_batch", [1, "batch_size"])
def test_symbolic_dimensions_take_the_sizes_of_the_run_by_their_usual_names(
    tmp_path: Path, file_batch: Any
) -> None:
    file = decoder(tmp_path / "m.onnx", 1, file_batch, "sequence_length")
    workload = load_workload(file, seq=24, batch=1 if file_batch == 1 else 3)
    assert (workload.batch, workload.seq) == (1 if file_batch == 1 else 3, 24)


def test_symbolic_dimensions_are_bound_by_name_and_in_sums(tmp_path: Path) -> None:
    nodes = [node("Add", "x y", "z")]
    inputs = {"x": (F, ("k", "past + new + 1")), "y": (F, (1, "past + new + 1"))}
    file = save(tmp_path / "m.onnx", nodes, inputs, ["z"], {})
    (layer,) = load_workload(file, dims={"k": 3, "past": 4, "new": 2}).network
    assert layer.graph.n_elements(layer.graph.outputs[0]) == 21


def test_dimensions_without_a_size_are_named(tmp_path: Path) -> None:
    file = decoder(tmp_path / "m.onnx", 1, "groups", "seq")
    with pytest.raises(
        InputError, match=r"symbolic dimensions without a size: 'groups', 'seq'; state them by name"
    ):
        load_workload(file)
    with pytest.raises(InputError, match=r"dims: no dimension is named 'group' \(did you mean 'groups'\?\)"):
        load_workload(file, seq=3, dims={"group": 1})
    nameless = save(tmp_path / "n.onnx", [node("Relu", "x", "y")], {"x": (F, (None, 4))}, ["y"], {})  # type: ignore[dict-item]
    with pytest.raises(InputError, match=r"without a size: 'x\[0\]'"):
        load_workload(nameless)
    assert count(load_workload(nameless, dims={"x[0]": 5})).output_elems == 20


def test_sizes_that_the_file_fixes_are_not_changed(tmp_path: Path) -> None:
    file = decoder(tmp_path / "m.onnx", 1)
    load_workload(file, seq=8)
    with pytest.raises(InputError, match="seq 16 is not what the file fixes: 8"):
        load_workload(file, seq=16)
    with pytest.raises(InputError, match="batch 2 is not what the file fixes: 1"):
        load_workload(file, batch=2)


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"adapter": "lora:r=8"}, "adapter 'lora:r=8': an ONNX file is a fixed graph"),
        ({"logits": "last"}, "logits 'last': an ONNX file is a fixed graph"),
        ({"phase": "train"}, "phase 'train' of an ONNX file is not supported"),
        ({"phase": "decode"}, "phase 'decode': no input of the graph is a cache"),
        ({"lowering": "hard"}, r"lowering 'hard' is unknown \(did you mean 'hardware'"),
        ({"batch": 0}, r"batch must be an integer in 1\.\."),
        ({"dims": {"seq": 3}}, "dims: no dimension is named 'seq'"),
    ],
)
def test_terms_that_a_fixed_graph_does_not_know_are_refused(
    tmp_path: Path, terms: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InputError, match=expected):
        load_workload(decoder(tmp_path / "m.onnx", 1), **terms)
    with pytest.raises(InputError, match=r"dims bind dimensions of an \.onnx file, 'gpt2' is none"):
        load_workload("gpt2", dims={"seq": 3})


def _one(
    tmp_path: Path, nodes: list[onnx.NodeProto], shape: tuple[int, ...], opset: int = 18, **weights: Any
) -> Workload:
    return load_workload(
        save(tmp_path / "m.onnx", nodes, {"x": (F, shape)}, ["y"], weights, opset), lowering="reference"
    )


def test_a_grouped_convolution_counts_its_own_channels_only(tmp_path: Path) -> None:
    counts = count(
        _one(tmp_path, [node("Conv", "x w", "y", group=4)], (2, 8, 6, 6), w=floats(0, 12, 2, 3, 3))
    )
    assert counts.flops_conv == counts.flops_total == 2 * (2 * 12 * 4 * 4) * (2 * 3 * 3)
    assert counts.params_total == 12 * 2 * 9


def test_products_of_two_running_values_outside_attention_are_other(tmp_path: Path) -> None:
    counts = count(
        _one(tmp_path, [node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "x t", "y")], (2, 5, 7))
    )
    assert counts.flops_other_bmm == counts.flops_total == 2 * 2 * 5 * 5 * 7


def test_a_cache_is_kept_in_place(tmp_path: Path) -> None:
    nodes = [
        node("Concat", "past new", "present", axis=2), node("Transpose", "present", "k", perm=[0, 1, 3, 2]),
        node("MatMul", "q k", "s"), node("Softmax", "s", "p"), node("MatMul", "p present", "y"),
    ]  # fmt: skip
    inputs = {
        "q": (F, (1, 2, 1, 4)), "past": (F, (1, 2, "past_sequence_length", 4)), "new": (F, (1, 2, 1, 4)),
    }  # fmt: skip
    file = save(tmp_path / "m.onnx", nodes, inputs, ["y", "present"], {})
    workload = load_workload(file, phase="decode", cache=7)
    counts = count(workload)
    assert counts.kv_cache_bytes_fp16 == 2 * 2 * 8 * 4
    assert counts.flops_attention_bmm == 2 * 2 * 2 * 8 * 4
    assert (workload.cache, workload.phase) == (7, "decode")
    append = next(op for op in workload.network[0].graph.operators if op.kind is Kind.SCATTER)
    assert [index.offset for index in append.output.indices] == [0, 0, 7, 0]
    first = load_workload(file, cache=0)  # nothing is held: the new rows are all
    assert count(first).flops_attention_bmm == 2 * 2 * 2 * 1 * 4


def test_a_vector_of_one_number_that_several_nodes_read_is_several_parameters(tmp_path: Path) -> None:
    nodes = [
        node("LayerNormalization", "x ones", "a"), node("LayerNormalization", "a ones", "b"),
        node("LayerNormalization", "b trained", "c"), node("LayerNormalization", "c trained", "y"),
    ]  # fmt: skip
    workload = _one(tmp_path, nodes, (2, 6), ones=np.ones(6, np.float32), trained=floats(0, 6))
    assert count(workload).params_total == 6 + 6 + 6
    assert [p.tied_to for p in workload.parameters if "trained" in p.name] == ["", "trained"]


def test_weights_are_counted_without_their_values(tmp_path: Path) -> None:
    file = decoder(tmp_path / "m.onnx", 2)
    whole = count(load_workload(file))
    model = onnx.load(file)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("h."):
            tensor.ClearField("raw_data")
    file.write_bytes(model.SerializeToString())
    assert count(load_workload(file)) == whole


def test_functions_of_the_file_are_put_in_place(tmp_path: Path) -> None:
    body = [helper.make_node("Mul", ["a", "a"], ["b"]), helper.make_node("Relu", ["b"], ["c"])]
    function = helper.make_function("own", "Squared", ["a"], ["c"], body, [helper.make_opsetid("", 18)])
    calls = [
        helper.make_node("Squared", ["x"], ["t"], domain="own"),
        helper.make_node("Squared", ["t"], ["y"], domain="own"),
    ]
    file = save(tmp_path / "m.onnx", calls, {"x": (F, (2, 3))}, ["y"], {})
    model = onnx.load(file)
    model.functions.append(function)
    file.write_bytes(model.SerializeToString())
    (layer,) = load_workload(file).network
    assert [operator.function for operator in layer.graph.operators] == ["mul", "relu", "mul", "relu"]


def test_a_band_is_found_in_a_mask_and_nothing_else_is_taken_for_one() -> None:
    distance = np.arange(6)[None, :] - np.arange(4)[:, None]
    assert band_of(distance <= 2) == Band(2, None)
    assert band_of((distance <= 2) & (distance > -1)) == Band(2, 0)
    assert band_of(np.ones((1, 1, 4, 6), bool)) == Band()
    assert band_of(distance != 1) is None
    assert band_of(np.zeros((4, 6), bool)) is None
    assert band_of(np.stack([distance <= 0, distance <= 1])) is None


def test_a_mask_that_is_no_band_stays_an_addition(tmp_path: Path) -> None:
    mask = np.where(np.eye(4, dtype=bool), -1e9, 0).astype(np.float32)
    nodes = [
        node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "x t", "s"), node("Add", "s mask", "m"),
        node("Softmax", "m", "p"), node("MatMul", "p x", "y"),
    ]  # fmt: skip
    (layer,) = _one(tmp_path, nodes, (2, 4, 3), mask=mask).network
    assert [op.function for op in layer.graph.operators] == [
        "mul",
        "add",
        "identity",
        "exp",
        "identity",
        "div",
        "mul",
    ]
    assert all(op.mask is None for op in layer.graph.operators)


def test_rotated_channels_are_one_operator(tmp_path: Path) -> None:
    nodes = [
        node("Slice", "x zero four last", "low"), node("Slice", "x four eight last", "high"),
        node("Neg", "high", "minus"),
        node("Concat", "minus low", "turned", axis=-1), node("Mul", "x cos", "a"), node("Mul", "turned sin", "b"),
        node("Add", "a b", "y"),
    ]  # fmt: skip
    angles = floats(0, 5, 8)
    workload = _one(
        tmp_path,
        nodes,
        (2, 5, 8),
        zero=ints(0),
        four=ints(4),
        eight=ints(8),
        last=ints(2),
        cos=angles,
        sin=angles,
    )
    (layer,) = workload.network
    assert [operator.function for operator in layer.graph.operators] == ["rotary"]
    assert count(workload).params_total == 0


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (
            [node("LSTM", "x w w", "y", hidden_size=2)],
            r"node 'LSTM_y' \(LSTM\): operator LSTM is not supported",
        ),
        (
            [node("NonZero", "x", "y")],
            r"node 'NonZero_y' \(NonZero\): the shape of its result depends on data",
        ),
        (
            [node("Foo", "x", "y")],
            r"node 'Foo_y' \(Foo\): operator 'Foo' is not one of the standard \(version 18\)",
        ),
        ([node("MatMul", "x w", "y")], r"node 'MatMul_y' \(MatMul\): .*[Ii]ncompatible dimensions"),
        (
            [helper.make_node("Thing", ["x"], ["y"], name="n", domain="com.acme")],
            "operator Thing of 'com.acme' is not supp",
        ),
        ([node("Reshape", "x s", "y")], r"node 'Reshape_y' \(Reshape\)"),
    ],
)
def test_a_node_that_cannot_be_lowered_is_named(
    tmp_path: Path, nodes: list[onnx.NodeProto], expected: str
) -> None:
    with pytest.raises(InputError, match=expected) as error:
        _one(tmp_path, nodes, (2, 3, 4), w=floats(0, 2, 8, 5), s=ints(7, 7))
    assert "\n" not in str(error.value)


def _contrib(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    made = node(op, inputs, outputs, **attributes)
    made.domain = "com.microsoft"
    return made


def test_operators_of_optimised_files_are_what_they_stand_for(tmp_path: Path) -> None:
    nodes = [
        _contrib("SkipLayerNormalization", "x skip scale shift", "a _ _ total"), node("MatMul", "a w", "b"),
        _contrib("BiasGelu", "b bias", "c"), _contrib("SkipSimplifiedLayerNormalization", "c total scale", "d"),
        _contrib("MultiHeadAttention", "d c x", "e", num_heads=2), _contrib("FusedMatMul", "e w", "y", transB=1),
    ]  # fmt: skip
    weights = {"skip": floats(0, 2, 5, 8), "w": floats(1, 8, 8)} | {
        name: floats(2, 8) for name in ("scale", "shift", "bias")
    }
    file = save(tmp_path / "m.onnx", nodes, {"x": (F, (2, 5, 8))}, ["y"], weights)
    model = onnx.load(file)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    file.write_bytes(model.SerializeToString())
    workload = load_workload(file)
    counts = count(workload)
    assert counts.flops_linear == 2 * (2 * 2 * 5 * 8 * 8)
    assert counts.flops_attention_bmm == 2 * 2 * (2 * 2 * 5 * 5 * 4)
    functions = [operator.function for layer in workload.network for operator in layer.graph.operators]
    assert functions == [
        "add", "identity", "layernorm", "mul", "gelu", "add", "square", "rmsnorm",
        "mul", "identity", "exp", "identity", "div", "mul", "mul",
    ]  # fmt: skip


def test_a_window_of_keys_is_a_band(tmp_path: Path) -> None:
    distance = np.arange(6)[None, :] - np.arange(6)[:, None]
    window = np.where((distance <= 0) & (distance > -3), 0, -np.inf).astype(np.float32)
    nodes = [
        node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "x t", "s"), node("Add", "window s", "m"),
        node("Softmax", "m", "p"), node("MatMul", "p x", "y"),
    ]  # fmt: skip
    file = save(tmp_path / "m.onnx", nodes, {"x": (F, (2, 6, 4))}, ["y"], {"window": window})
    assert count(load_workload(file)).flops_attention_bmm == 2 * 2 * 2 * 4 * (1 + 2 + 3 * 4)
    assert count(load_workload(file, lowering="reference")).flops_attention_bmm == 2 * 2 * 2 * 4 * 36


@pytest.mark.parametrize("op", ["If", "Loop", "Scan"])
def test_control_flow_is_refused_by_name(tmp_path: Path, op: str) -> None:
    body = helper.make_graph([], "body", [], [])
    names = {"If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",)}[op]
    branches = [helper.make_node(op, ["x"], ["y"], name="here", **dict.fromkeys(names, body))]
    file = save(tmp_path / "m.onnx", branches, {"x": (TensorProto.BOOL, (1,))}, ["y"], {})
    with pytest.raises(
        InputError, match=f"node 'here': {op} is control flow .*; export the model without it"
    ):
        load_workload(file)


def test_the_package_for_onnx_is_imported_for_an_onnx_file_only() -> None:
    code = (
        "import sys, tilewright.workloads.workload as w;"
        "w.load_workload('gpt2', seq=1); assert 'onnx' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
