"""Adapters by file and preset: what they target, what they add, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.operator import Operator
from tilewright.dataflow.tensor import Role
from tilewright.workloads.count import count
from tilewright.workloads.workload import Workload, load_workload


def _file(folder: Path, **fields: Any) -> Path:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "LORA", "task_type": "CAUSAL_LM", **fields}))
    return file


def _with(adapter: str | Path, **terms: Any) -> Workload:
    return load_workload("tiny-gpt2", adapter=adapter, seq=16, lowering="reference", **terms)


def _adapter_operators(workload: Workload) -> list[Operator]:
    block = workload.network[1].graph
    return [operator for operator in block.operators if operator.group == "adapter"]


def test_lora_on_a_fused_projection_is_three_operators_behind_its_product() -> None:
    block = _with("lora:r=4,targets=q").network[1].graph
    names = [operator.name for operator in block.operators]
    first = names.index("attn_c_attn")
    assert names[first + 1 : first + 5] == [
        "attn_c_attn_lora_down",
        "attn_c_attn_lora_up",
        "attn_c_attn_lora_add",
        "attn_c_attn_bias",
    ]
    for tensor in ("attn_c_attn_lora_a", "attn_c_attn_lora_b"):
        assert block.tensor_by_name[tensor].role is Role.ADAPTER


def test_lora_adds_rank_times_both_widths_per_token_and_module() -> None:
    # tiny-gpt2: width 64, 2 layers, c_attn 64 -> 192, 16 tokens
    bare, adapted = count(_with("lora", adapter_mode="none")), count(_with("lora:r=4,targets=q+k+v"))
    assert adapted.flops_total - bare.flops_total == 2 * 2 * 16 * 4 * (64 + 192)
    assert adapted.params_trainable == 2 * 4 * (64 + 192)
    assert adapted.params_total - bare.params_total == adapted.params_trainable


def test_any_of_q_k_and_v_adapts_the_fused_module_once() -> None:
    whole = count(_with("lora:r=4,targets=q+k+v"))
    assert count(_with("lora:r=4,targets=v")).to_dict() == whole.to_dict()


def test_the_output_projections_of_attention_and_mlp_are_told_apart() -> None:
    # attn.c_proj is 64 -> 64, mlp.c_proj is 256 -> 64; both end with c_proj
    assert count(_with("lora:r=2,targets=o")).params_trainable == 2 * 2 * (64 + 64)
    assert count(_with("lora:r=2,targets=down")).params_trainable == 2 * 2 * (256 + 64)


def test_all_linear_leaves_the_output_head_and_the_tables_out() -> None:
    every = 2 * 8 * ((64 + 192) + (64 + 64) + (64 + 256) + (256 + 64))
    assert count(_with("lora:targets=all")).params_trainable == every


def test_a_merged_adapter_costs_nothing_and_trains_nothing() -> None:
    merged, bare = count(_with("lora", adapter_mode="merged")), count(_with("lora", adapter_mode="none"))
    assert merged.flops_total == bare.flops_total
    assert (merged.params_trainable, bare.params_trainable) == (0, bare.params_total)


def test_layers_with_different_ranks_are_different_classes(tmp_path: Path) -> None:
    file = _file(tmp_path, target_modules=["c_attn"], r=8, rank_pattern={r"h\.1\.attn\.c_attn": 2})
    blocks = _with(file).network[1:-1]
    assert [(block.name, block.count) for block in blocks] == [("block_0", 1), ("block_1", 1)]
    assert [block.graph.size("r_attn_c_attn") for block in blocks] == [8, 2]


def test_layers_that_are_left_out_are_the_bare_layer() -> None:
    workload = load_workload("gpt2", adapter="lora:layers=2-4", seq=1)
    assert [(layer.name, layer.count) for layer in workload.network[1:-1]] == [
        ("block_0", 2),
        ("block_2", 3),
        ("block_5", 7),
    ]
    assert workload.network[1].graph is workload.network[3].graph


def test_the_scale_is_alpha_over_rank_or_over_its_root() -> None:
    for text, scale in (("r=16,alpha=32", 2.0), ("r=16,alpha=32,rslora=true", 8.0)):
        add = _adapter_operators(_with(f"lora:{text}"))[-1]
        assert add.parameters == (("scale", scale),)


def test_an_embedding_is_adapted_by_rows_and_one_product(tmp_path: Path) -> None:
    file = _file(tmp_path, target_modules=["wte"], r=4)
    counts, bare = count(_with(file)), count(_with(file, adapter_mode="none"))
    assert counts.params_trainable == 4 * (256 + 64)
    assert counts.flops_total - bare.flops_total == 2 * 16 * 4 * 64


def test_a_saved_module_is_held_twice_and_its_copy_trained(tmp_path: Path) -> None:
    file = _file(tmp_path, target_modules=["c_attn"], r=4, modules_to_save=["ln_f"])
    bare = count(_with(file, adapter_mode="none"))
    adapted = count(_with(file))
    assert adapted.params_trainable == 2 * 4 * 256 + 128
    assert adapted.params_total == bare.params_total + adapted.params_trainable


def test_biases_are_trained_where_the_file_says_so(tmp_path: Path) -> None:
    lora = 2 * 4 * 256
    for bias, n_biases in (
        ("none", 0),
        ("lora_only", 2 * 192),
        ("all", 2 * (192 + 64 + 256 + 64 + 128) + 64),
    ):
        file = _file(tmp_path, target_modules=["c_attn"], r=4, bias=bias)
        assert count(_with(file)).params_trainable == lora + n_biases


def test_a_classification_task_replaces_the_head(tmp_path: Path) -> None:
    file = _file(tmp_path, target_modules=["c_attn"], r=4, task_type="SEQ_CLS")
    counts = count(_with(file))
    assert counts.flops_output_head == 2 * 16 * 64 * 2
    assert counts.params_trainable == 2 * 4 * 256 + 128


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"r": 0}, "r: input should be greater than 0, got 0"),
        ({"r": 65}, "r must be at most the model's width 64, got 65"),
        ({"r": "8"}, "r: input should be a valid integer, got '8'"),
        ({"lora_alpha": float("nan")}, "lora_alpha: input should be"),
        ({"rank_pattern": {"c_attn": 100}}, "r must be at most the model's width 64, got 100"),
        ({"rank_pattern": {"(": 2}}, "rank_pattern: '(' is not a pattern"),
        ({"target_modules": "["}, "target_modules: '[' is not a pattern"),
        (
            {"target_modules": r"(\w+\.?)+x"},
            "target_modules: '(\\\\w+\\\\.?)+x' repeats a group that repeats",
        ),
        (
            {"target_modules": ["q_proj", "v_proj"]},
            "target_modules q_proj, v_proj match no module of this gpt2 model;"
            " its modules: wte, wpe, c_attn, c_proj, c_fc, lm_head",
        ),
        (
            {"target_modules": ["c_attn"], "layers_to_transform": [7]},
            "target_modules c_attn in layers [7] match no module",
        ),
        ({"bias": "some"}, "bias: input should be 'none', 'all' or 'lora_only', got 'some'"),
        ({"task_type": "CAUSAL"}, "task_type: input should be"),
        ({"use_qalora": True}, "use_qalora: this variant of LoRA is not supported"),
        (
            {"peft_type": "LORAX"},
            "peft_type: 'LORAX' is not supported (did you mean 'LORA'?); supported: LORA",
        ),
        ({"peft_type": None}, "peft_type: missing; supported: LORA"),
    ],
)
def test_a_wrong_adapter_file_is_refused(tmp_path: Path, fields: dict[str, Any], expected: str) -> None:
    file = _file(tmp_path, **fields)
    with pytest.raises(InputError) as error:
        _with(file)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{file}: {expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lore:r=8", "is neither a file nor a preset (did you mean 'lora'?)"),
        ("lora:rank=8", "'rank=8' is not key=value"),
        ("lora:r", "'r' is not key=value"),
        ("lora:r=8,r=4", "r stands twice"),
        ("lora:r=many", "r must be a whole number, got 'many'"),
        ("lora:r=0", "r: input should be greater than 0, got 0"),
        ("lora:r=128", "r must be at most the model's width 64, got 128"),
        ("lora:targets=x", "target 'x' is unknown; known: q, k, v, o, up, gate, down, all"),
        ("lora:targets=gate", "gpt2 has no module for target 'gate'; it has q, k, v, o, up, down"),
        ("lora:layers=3-1", "layers must be a number or a range like 0-3, got '3-1'"),
        ("lora:layers=2-3", "in layers [2, 3] match no module"),
        ("lora:rslora=1", "rslora must be true or false, got '1'"),
    ],
)
def test_a_wrong_preset_is_refused(text: str, expected: str) -> None:
    with pytest.raises(InputError) as error:
        _with(text)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_adapter_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?i)adapter_config\.json: no such file or directory"):
        _with(tmp_path)


@given(rank=st.integers(1, 64), names=st.sets(st.sampled_from(["q", "o", "up", "down"]), min_size=1))
def test_the_parts_of_an_adapter_sum_to_the_whole(rank: int, names: set[str]) -> None:
    bare = count(_with("lora", adapter_mode="none")).flops_total
    whole = count(_with(f"lora:r={rank},targets={'+'.join(sorted(names))}")).flops_total - bare
    parts = [count(_with(f"lora:r={rank},targets={name}")).flops_total - bare for name in names]
    assert whole == sum(parts)


def test_patterns_that_the_library_writes_are_taken(tmp_path: Path) -> None:
    for pattern in (r".*\.(attn|mlp)\.c_(attn|proj)", r"(.*\.)?h\.[0-9]+\.attn\.c_attn"):
        file = _file(tmp_path, target_modules=pattern, r=4)
        assert count(_with(file)).params_trainable > 0


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["wpe", "c_attn"]},
        {"target_modules": ["c_attn"], "trainable_token_indices": {"wpe": [1]}},
    ],
)
def test_an_adapter_of_the_table_of_positions_is_refused_by_name(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=r"the embedding 'transformer\.wpe' is not supported"):
        _with(_file(tmp_path, r=4, **fields))
