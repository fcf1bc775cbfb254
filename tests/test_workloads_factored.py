"""Adapters on hardware: the factored form beside what the reference makes in full, worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from tilewright.dataflow.errors import InputError
from tilewright.workloads.count import count
from tilewright.workloads.workload import load_workload

#: tiny-gpt2: 2 layers, c_attn 64 -> 192 (three parts of 4 heads), attn.c_proj 64 -> 64; 16 tokens.
_LAYERS, _TOKENS = 2, 16


def _extra(folder: Path, lowering: str, **fields: Any) -> int:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({"target_modules": ["c_attn"], **fields}))
    terms: dict[str, Any] = {"adapter": file, "seq": _TOKENS, "lowering": lowering, "logits": "all"}
    bare = count(load_workload("tiny-gpt2", adapter_mode="none", **terms)).flops_total
    return count(load_workload("tiny-gpt2", **terms)).flops_total - bare


def test_lokr_multiplies_by_one_factor_after_the_other(tmp_path: Path) -> None:
    # 64 = 8 x 8 and 192 = 12 x 16: C is 12 x 8 on 8 numbers of each chunk, then B is 16 x 8 on 12 chunks
    assert _extra(tmp_path, "hardware", peft_type="LOKR", r=2) == 2 * _LAYERS * _TOKENS * (
        12 * 8 * 8 + 16 * 8 * 12
    )


def test_loha_has_factors_of_the_squared_rank(tmp_path: Path) -> None:
    assert _extra(tmp_path, "hardware", peft_type="LOHA", r=3) == 2 * _LAYERS * _TOKENS * 9 * (64 + 192)


def test_loha_is_made_in_full_where_that_is_less(tmp_path: Path) -> None:
    in_full = 2 * _LAYERS * (2 * 12 * 64 * 192 + _TOKENS * 64 * 192)
    assert _extra(tmp_path, "hardware", peft_type="LOHA", r=12) == in_full


def test_hra_reflects_the_input_by_one_pair_of_products(tmp_path: Path) -> None:
    hra = {"peft_type": "HRA", "r": 4}
    assert _extra(tmp_path, "hardware", **hra) == 2 * _LAYERS * _TOKENS * 4 * (64 + 64)
    chain = 4 * 2 * 64 * 64
    assert _extra(tmp_path, "reference", **hra) == 2 * _LAYERS * (chain + 64**3 + 64 * 64 * 192)


def test_waveft_transforms_a_whole_weight_in_the_reference_and_two_rows_in_hardware(tmp_path: Path) -> None:
    wave = {"peft_type": "WAVEFT", "n_frequency": 50}
    # a weight's position takes one coefficient of each of the four bands
    assert _extra(tmp_path, "reference", **wave) == 2 * _LAYERS * (4 * 64 * 192 + _TOKENS * 64 * 192)
    assert _extra(tmp_path, "hardware", **wave) == 0
    file = tmp_path / "adapter_config.json"
    graph = load_workload("tiny-gpt2", adapter=file, seq=_TOKENS).network[1].graph
    sizes = {name: graph.n_elements(f"attn_c_attn_wave_{name}") for name in ("x", "scaled", "y")}
    assert sizes == {"x": _TOKENS * 64, "scaled": _TOKENS * 50, "y": _TOKENS * 192}


@pytest.mark.parametrize(("family", "n_taps"), [("db1", 2), ("db3", 6), ("sym4", 8), ("coif2", 12)])
def test_longer_wavelets_take_more_coefficients_than_there_are_positions(
    tmp_path: Path, family: str, n_taps: int
) -> None:
    wave = {"peft_type": "WAVEFT", "n_frequency": 50, "wavelet_family": family}
    n_coefficients = (64 + n_taps - 2) * (192 + n_taps - 2)
    made = n_taps**2 * n_coefficients + _TOKENS * 64 * 192
    assert _extra(tmp_path, "reference", **wave) == 2 * _LAYERS * made


def test_waveft_without_a_transform_makes_no_sum(tmp_path: Path) -> None:
    wave = {"peft_type": "WAVEFT", "n_frequency": 50, "use_idwt": False}
    assert _extra(tmp_path, "reference", **wave) == 2 * _LAYERS * _TOKENS * 64 * 192
    with pytest.raises(InputError, match=r"n_frequency 12289 exceeds the 12288 entries of .*c_attn"):
        _extra(tmp_path, "reference", **wave | {"n_frequency": 64 * 192 + 1})


def test_the_gradient_of_a_wavelet_update_takes_its_sum_once_more(tmp_path: Path) -> None:
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "WAVEFT", "n_frequency": 50, "target_modules": ["c_attn"]}))
    counts = count(load_workload("tiny-gpt2", adapter=file, phase="train", seq=4, lowering="reference"))
    assert counts.flops_conv == 2 * 2 * _LAYERS * 4 * 64 * 192
    assert counts.params_trainable == _LAYERS * 50


@pytest.mark.parametrize(
    "fields",
    [
        {"peft_type": "WAVEFT", "n_frequency": 20},
        {"peft_type": "WAVEFT", "n_frequency": 20, "use_idwt": False},
        {"peft_type": "LOKR", "r": 2}, {"peft_type": "LOHA", "r": 3}, {"peft_type": "HRA", "r": 4},
        {"peft_type": "LOKR", "r": 2, "decompose_both": True, "decompose_factor": 4},
        {"peft_type": "VBLORA", "r": 2, "num_vectors": 8, "vector_length": 16},
        {"peft_type": "RANDLORA", "r": 8}, {"peft_type": "C3A", "block_size": 32},
        {"peft_type": "P_TUNING", "num_virtual_tokens": 4, "encoder_hidden_size": 8},
    ],
)  # fmt: skip
def test_both_forms_have_the_same_parameters(tmp_path: Path, fields: dict[str, Any]) -> None:
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({"target_modules": ["c_attn", "attn.c_proj"], **fields}))
    reference, hardware = (
        count(load_workload("tiny-gpt2", adapter=file, seq=4, lowering=lowering))
        for lowering in ("reference", "hardware")
    )
    assert reference.params_trainable == hardware.params_trainable
    assert reference.n_trainable_tensors == hardware.n_trainable_tensors
    assert hardware.flops_total <= reference.flops_total
