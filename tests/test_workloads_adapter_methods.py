"""Methods beside LoRA: what each adds, in both lowerings, on sizes worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.dataflow.errors import InputError
from tilewright.workloads.count import Counts, count
from tilewright.workloads.tuners import split_width
from tilewright.workloads.workload import load_workload

#: tiny-gpt2: 2 layers, width 64, c_attn 64 -> 192, c_proj 64 -> 64; 16 tokens.
_LAYERS, _TOKENS = 2, 16


def _count(folder: Path, lowering: str = "reference", mode: str = "unmerged", **fields: Any) -> Counts:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({"target_modules": ["c_attn"], **fields}))
    return count(load_workload("tiny-gpt2", adapter=file, adapter_mode=mode, seq=_TOKENS, lowering=lowering))


def _extra(folder: Path, lowering: str = "reference", **fields: Any) -> int:
    """FLOPs that the adapter adds."""
    whole = _count(folder, lowering, **fields).flops_total
    return whole - _count(folder, lowering, "none", **fields).flops_total


def test_dora_multiplies_an_identity_only_in_the_reference(tmp_path: Path) -> None:
    dora = {"peft_type": "LORA", "r": 4, "use_dora": True}
    lora = 2 * _LAYERS * _TOKENS * 4 * (64 + 192)
    identity = 2 * _LAYERS * 64 * 4 * (64 + 192)
    assert _extra(tmp_path, **dora) == lora + identity
    assert _extra(tmp_path, "hardware", **dora) == lora
    assert _count(tmp_path, **dora).params_trainable == _LAYERS * (4 * (64 + 192) + 192)


def test_ia3_scales_outputs_and_the_inputs_of_feed_forward_modules(tmp_path: Path) -> None:
    ia3 = {
        "peft_type": "IA3", "target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"],
    }  # fmt: skip
    assert _extra(tmp_path, **ia3) == 0
    assert _count(tmp_path, **ia3).params_trainable == _LAYERS * (192 + 256)
    block = load_workload("tiny-gpt2", adapter=tmp_path, seq=4).network[1].graph
    scaled = block.producer["mlp_c_proj_scaled"]
    assert [access.tensor for access in scaled.inputs] == ["activated", "mlp_c_proj_ia3_factors"]


def test_ia3_without_targets_takes_keys_values_and_the_way_down(tmp_path: Path) -> None:
    counts = _count(tmp_path, peft_type="IA3", target_modules=None)
    assert counts.params_trainable == _LAYERS * (192 + 256)


def test_adalora_has_a_number_per_rank_and_a_count_that_is_not_trained(tmp_path: Path) -> None:
    counts = _count(tmp_path, peft_type="ADALORA", init_r=6, r=2)
    assert counts.params_trainable == _LAYERS * (6 * (64 + 192) + 6)
    assert counts.params_total - counts.params_base == counts.params_trainable + _LAYERS
    assert _extra(tmp_path, peft_type="ADALORA", init_r=6) == 2 * _LAYERS * _TOKENS * 6 * (64 + 192)


def test_vera_shares_two_random_matrices_among_all_modules(tmp_path: Path) -> None:
    vera = {"peft_type": "VERA", "r": 32, "target_modules": ["c_attn", "attn.c_proj"]}
    counts = _count(tmp_path, **vera)
    assert counts.params_trainable == _LAYERS * (32 + 192 + 32 + 64)
    assert counts.adapter_buffer_elems == 32 * (64 + 192)
    assert counts.params_total - counts.params_base == counts.params_trainable


def test_shira_adds_entries_and_no_product(tmp_path: Path) -> None:
    shira = {"peft_type": "SHIRA", "r": 3}
    assert _extra(tmp_path, **shira) == 0
    assert _count(tmp_path, **shira).params_trainable == _LAYERS * 3 * (64 + 192)


def test_lokr_makes_its_update_in_full(tmp_path: Path) -> None:
    # 64 = 8 x 8 and 192 = 12 x 16: C is 12 x 8 in full, B A is 16 x 8 of rank 2
    lokr = {"peft_type": "LOKR", "r": 2}
    assert _count(tmp_path, **lokr).params_trainable == _LAYERS * (12 * 8 + 2 * (16 + 8))
    assert _extra(tmp_path, **lokr) == 2 * _LAYERS * (16 * 2 * 8 + _TOKENS * 64 * 192)


def test_boft_turns_the_input_by_a_full_matrix_in_the_reference_and_by_blocks_in_hardware(
    tmp_path: Path,
) -> None:
    boft = {"peft_type": "BOFT", "boft_block_size": 8}
    made = 3 * 64**3 + _TOKENS * 64 * 64
    assert _extra(tmp_path, **boft) == 2 * _LAYERS * made
    assert _extra(tmp_path, "hardware", **boft) == 2 * _LAYERS * _TOKENS * 64 * 8
    assert _count(tmp_path, **boft).params_trainable == _LAYERS * (64 * 8 + 192)


def test_a_training_step_of_boft_multiplies_once_more_in_the_gradient_of_its_solver(tmp_path: Path) -> None:
    file = tmp_path / "adapter_config.json"
    fields = {
        "peft_type": "BOFT", "boft_block_size": 0, "boft_block_num": 4, "target_modules": ["c_attn"],
    }  # fmt: skip
    file.write_text(json.dumps(fields))
    terms: dict[str, Any] = {"phase": "train", "seq": _TOKENS, "lowering": "reference"}
    ops = count(load_workload("tiny-gpt2", adapter=file, **terms)).ops
    macs = sum(op.repeat * op.macs for op in ops if "_boft" in op.name)
    matrix, turned = 64**3, _TOKENS * 64 * 64
    solver = 4 * 16**3
    # the gradient of the input is not needed below the first layer
    assert macs == 2 * (3 * matrix + turned + 3 * matrix + turned + solver) + turned


def test_blocks_that_do_not_divide_the_width_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"boft_block_size 7 does not divide the 64 inputs of .*c_attn"):
        _count(tmp_path, peft_type="BOFT", boft_block_size=7)
    with pytest.raises(InputError, match="exactly one must be above 0"):
        _count(tmp_path, peft_type="BOFT", boft_block_size=8, boft_block_num=8)


def test_a_prompt_lengthens_the_sequence(tmp_path: Path) -> None:
    prompt = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 5}
    longer = count(load_workload("tiny-gpt2", seq=_TOKENS + 5, lowering="reference"))
    counts = _count(tmp_path, **prompt)
    assert counts.flops_total == longer.flops_total
    assert counts.kv_cache_bytes_fp16 == longer.kv_cache_bytes_fp16
    assert counts.params_trainable == 5 * 64


def test_a_prompt_that_the_positions_do_not_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cache 0 \\+ seq 66 exceed the 64 positions"):
        _count(tmp_path, peft_type="PROMPT_TUNING", num_virtual_tokens=50)


def test_a_prefix_adds_keys_and_values_and_no_token(tmp_path: Path) -> None:
    prefix = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5}
    assert _extra(tmp_path, **prefix) == 2 * 2 * _LAYERS * _TOKENS * 5 * 64
    assert _count(tmp_path, **prefix).params_trainable == 5 * _LAYERS * 2 * 64


def test_the_network_behind_a_prefix_runs_in_the_reference_only(tmp_path: Path) -> None:
    prefix = {
        "peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5, "prefix_projection": True,
        "encoder_hidden_size": 10,
    }  # fmt: skip
    network = 2 * 5 * (64 * 10 + 10 * _LAYERS * 2 * 64)
    keys = 2 * 2 * _LAYERS * _TOKENS * 5 * 64
    assert _extra(tmp_path, **prefix) == network + keys
    assert _extra(tmp_path, "hardware", **prefix) == keys


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"num_layers": 12}, "num_layers is 12, this gpt2 model has 2"),
        ({"token_dim": 768}, "token_dim is 768, this gpt2 model has 64"),
        ({"num_virtual_tokens": 0}, "num_virtual_tokens: input should be greater than 0, got 0"),
    ],
)
def test_a_prefix_for_another_architecture_is_refused(
    tmp_path: Path, fields: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InputError, match=expected):
        _count(tmp_path, **{"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5, **fields})


def test_a_method_that_cannot_change_an_embedding_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"adapter_config\.json: .*embedding 'transformer\.wte'"):
        _count(tmp_path, peft_type="IA3", target_modules=["wte"], feedforward_modules=[])


@given(width=st.integers(2, 5000))
def test_a_width_is_cut_into_two_close_factors(width: int) -> None:
    small, large = split_width(width, -1)
    assert small * large == width
    assert small <= large
    assert not any(width % number == 0 for number in range(small + 1, int(width**0.5) + 1))


@given(width=st.integers(2, 5000), factor=st.integers(2, 64))
def test_a_stated_factor_is_an_upper_limit(width: int, factor: int) -> None:
    first, second = split_width(width, factor)
    assert first * second == width
    assert first <= factor
    assert (width % factor == 0) == (first == factor)


_QV = {
    "llama-2-7b": {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"},
    "bert-base-uncased": {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"},
    "gpt2-medium": {"target_modules": ["c_attn"], "task_type": "CAUSAL_LM"},
}


@pytest.mark.parametrize(
    ("model", "fields", "trainable", "extra_mflops"),
    [
        ("llama-2-7b", {"peft_type": "LOHA", "r": 8}, 8_388_608, 309_238),
        ("bert-base-uncased", {"peft_type": "LOHA", "r": 8}, 591_362, 4_077),
        ("llama-2-7b", {"peft_type": "FOURIERFT"}, 64_000, 274_878),
        ("gpt2-medium", {"peft_type": "FOURIERFT"}, 24_000, 19_327),
        ("llama-2-7b", {"peft_type": "ROAD", "variant": "road_1"}, 262_144, 0),
        ("bert-base-uncased", {"peft_type": "ROAD", "variant": "road_4"}, 75_266, 0),
        ("llama-2-7b", {"peft_type": "OFT"}, 4_063_232, 3_758),
        ("bert-base-uncased", {"peft_type": "OFT"}, 287_234, 264),
        ("llama-2-7b", {"peft_type": "MISS"}, 16_777_216, 4_295),
        ("bert-base-uncased", {"peft_type": "MISS"}, 1_181_186, 302),
        ("gpt2-medium", {"peft_type": "LN_TUNING", "target_modules": ["ln_1", "ln_2"]}, 98_304, 0),
        ("bert-base-uncased", {"peft_type": "LN_TUNING", "target_modules": ["LayerNorm"]}, 39_938, 0),
        (
            "llama-2-7b",
            {"peft_type": "TRAINABLE_TOKENS", "token_indices": [1, 2, 3, 4], "target_modules": None},
            16_384,
            0,
        ),
    ],
)
def test_trainable_parameters_and_extra_work_are_those_of_peft(
    tmp_path: Path, model: str, fields: dict[str, Any], trainable: int, extra_mflops: int
) -> None:
    """Expected values: peft 0.21.2 at 1 x 128 tokens, FLOPs rounded to 0.001 GFLOP."""
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(_QV[model] | fields))
    adapted, bare = (
        count(load_workload(model, adapter=file, adapter_mode=mode, seq=128, lowering="reference"))
        for mode in ("unmerged", "none")
    )
    assert adapted.params_trainable == trainable
    assert round((adapted.flops_total - bare.flops_total) / 1e6) == extra_mflops


def test_oft_blocks_are_stored_in_hardware(tmp_path: Path) -> None:
    rotation = 2 * _LAYERS * _TOKENS * 64 * 8
    oft = {"peft_type": "OFT", "oft_block_size": 8}
    assert _extra(tmp_path, "hardware", **oft) == rotation
    assert _extra(tmp_path, **oft) == rotation + 2 * _LAYERS * 3 * 8 * 8**3


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"peft_type": "OFT", "oft_block_size": 7}, "oft_block_size 7 does not divide the 64 inputs"),
        ({"peft_type": "OFT", "r": 4}, "r and oft_block_size: exactly one must be above 0"),
        ({"peft_type": "LN_TUNING", "target_modules": ["norm1"]}, "target_modules norm1 match no module"),
        ({"peft_type": "LN_TUNING", "target_modules": None}, "target_modules: input should be a valid list"),
        (
            {"peft_type": "TRAINABLE_TOKENS", "token_indices": []},
            "token_indices: list should have",
        ),
        (
            {"peft_type": "TRAINABLE_TOKENS", "token_indices": [1], "target_modules": ["embed"]},
            "target_modules embed match no module of this gpt2 model; its modules: wte,",
        ),
        (
            {"peft_type": "ROAD", "variant": "road_3"},
            "variant: input should be 'road_1'",
        ),
    ],
)
def test_wrong_files_of_these_methods_are_refused(
    tmp_path: Path, fields: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InputError) as error:
        _count(tmp_path, **fields)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
