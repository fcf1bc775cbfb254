"""Latent attention: what is cached, what the reference expands, what hardware absorbs."""

import json
from pathlib import Path
from typing import Any

import pytest

from tilewright.workloads.count import count
from tilewright.workloads.workload import Workload, load_workload

#: DeepSeek-V2-Lite.
_LITE = {
    "hidden_size": 2048, "intermediate_size": 10944, "num_hidden_layers": 27, "num_attention_heads": 16,
    "q_lora_rank": None, "moe_intermediate_size": 1408, "n_routed_experts": 64, "num_experts_per_tok": 6,
    "n_shared_experts": 2, "first_k_dense_replace": 1, "vocab_size": 102400,
}  # fmt: skip

#: 2 layers, width 16, 4 heads of 4 plain and 2 rotated numbers, values of 3, latent rows of 8; no experts.
_SMALL = {
    "vocab_size": 10, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "q_lora_rank": 5, "kv_lora_rank": 8, "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 2, "v_head_dim": 3, "first_k_dense_replace": 2,
}  # fmt: skip


def _load(folder: Path, fields: dict[str, Any], model_type: str = "deepseek_v2", **terms: Any) -> Workload:
    file = folder / "config.json"
    file.write_text(json.dumps({"model_type": model_type, **fields}))
    return load_workload(file, **terms)


def test_published_models_have_their_published_number_of_parameters(tmp_path: Path) -> None:
    assert count(_load(tmp_path, _LITE, seq=1)).params_total == 15_706_484_224
    # published with the 58 x 256 numbers that balance the experts, which are no parameters
    whole = count(_load(tmp_path, {}, "deepseek_v3", seq=1)).params_total
    assert whole + 58 * 256 == 671_026_419_200


@pytest.mark.parametrize(("cache", "gflops"), [(512, 63.0), (2048, 237.4)])
def test_a_step_of_the_reference_expands_the_whole_cache(tmp_path: Path, cache: int, gflops: float) -> None:
    """Expected values: FlopCounterMode of DeepSeek-V2-Lite, one token, in transformers 5.23.0."""
    step = count(_load(tmp_path, _LITE, phase="decode", cache=cache, lowering="reference"))
    assert round(step.flops_total / 1e9, 1) == gflops
    assert step.kv_cache_bytes_fp16 == 27 * (cache + 1) * (512 + 64) * 2


def test_a_step_on_hardware_works_on_latent_rows(tmp_path: Path) -> None:
    step = count(_load(tmp_path, _SMALL, phase="decode", cache=9))
    # per layer and head: 10 rows of 8 + 2 for the scores, of 8 for the values
    assert step.flops_attention_bmm == 2 * 2 * 4 * 10 * ((8 + 2) + 8)
    projections = 16 * 5 + 5 * 4 * 6 + 16 * 10 + 4 * 3 * 16
    absorbed = 4 * (4 * 8 + 8 * 3)
    assert step.flops_linear == 2 * (2 * (projections + absorbed + 3 * 16 * 24) + 160)


def test_both_forms_have_the_same_parameters(tmp_path: Path) -> None:
    absorbed = count(_load(tmp_path, _SMALL, phase="decode", cache=9))
    expanded = count(_load(tmp_path, _SMALL, seq=4))
    assert absorbed.params_total == expanded.params_total
    assert absorbed.n_param_tensors == expanded.n_param_tensors


def test_an_adapter_on_the_expansion_keeps_it_apart(tmp_path: Path) -> None:
    terms: dict[str, Any] = {"phase": "decode", "cache": 9, "adapter": "lora:r=2,targets=k"}
    names = {operator.name for operator in _load(tmp_path, _SMALL, **terms).network[1].graph.operators}
    assert "self_attn_kv_b_proj_lora_down" in names
    merged = _load(tmp_path, _SMALL, adapter_mode="merged", **terms).network[1].graph.operators
    assert "absorb_key" in {operator.name for operator in merged}
