"""Calls without a FLOP formula, by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from tilewright.workloads.uncounted import uncounted
from tilewright.workloads.workload import load_workload


def _of(model: str, **terms: Any) -> dict[str, int]:
    return uncounted(load_workload(model, lowering="reference", **terms))


def test_positions_that_are_running_sums_cover_what_is_held() -> None:
    held = _of("opt-125m", phase="decode", batch=2, cache=30)
    assert held == {"uncounted_calls:cumsum": 1, "uncounted_out_elems:cumsum": 2 * 31}
    assert _of("roberta-base", batch=2, seq=30)["uncounted_out_elems:cumsum"] == 60
    assert _of("gpt2", seq=4) == {}


def test_a_pooling_gives_values_and_places() -> None:
    # 64 channels of 56 x 56
    assert _of("resnet-50", batch=2)["uncounted_out_elems:max_pool2d_with_indices"] == 2 * 2 * 64 * 56 * 56


def test_resized_positions_leave_the_class_token_out() -> None:
    assert _of("dinov2-base", image=224)["uncounted_out_elems:upsample_bicubic2d"] == 16 * 16 * 768


@pytest.mark.parametrize("phase", ["prefill", "train"])
def test_a_norm_of_dora_has_one_number_per_output_and_runs_forward_alone(tmp_path: Path, phase: str) -> None:
    file = tmp_path / "adapter_config.json"
    fields = {"peft_type": "LORA", "r": 4, "target_modules": ["c_attn"], "use_dora": True}
    file.write_text(json.dumps(fields))
    found = _of("tiny-gpt2", adapter=file, phase=phase, seq=4)
    assert found["uncounted_calls:linalg_vector_norm"] == 2
    assert found["uncounted_out_elems:linalg_vector_norm"] == 2 * 3 * 64


def test_a_solver_returns_its_factors_beside_the_solution(tmp_path: Path) -> None:
    file = tmp_path / "adapter_config.json"
    fields = {"peft_type": "BOFT", "boft_block_size": 8, "target_modules": ["q_proj"]}
    file.write_text(json.dumps(fields))
    found = _of("llama-3.2-1b", adapter=file, seq=2)
    n_blocks = 2048 // 8
    each = 2 * n_blocks * 8 * 8 + n_blocks * 8 + n_blocks
    assert found["uncounted_out_elems:_linalg_solve_ex"] == 16 * each
    assert found["uncounted_calls:_linalg_check_errors"] == 16
    assert found["uncounted_out_elems:_linalg_check_errors"] == 0
