"""Generation is a prompt's run and its steps: sums over representative steps are those over all."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.dataflow.errors import InputError
from tilewright.workloads.count import Counts, count
from tilewright.workloads.generation import steps
from tilewright.workloads.workload import load_workload

_SUMMED = (
    "flops_total",
    "flops_linear",
    "flops_attention_bmm",
    "flops_other",
    "flops_output_head",
    "n_ops_bmm",
)
_WINDOWED = {
    "model_type": "gemma3_text", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
    "sliding_window": 9, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}  # fmt: skip
_GPT_OSS = {
    "model_type": "gpt_oss", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
    "sliding_window": 7, "num_local_experts": 4, "num_experts_per_tok": 2,
}  # fmt: skip


def _one_by_one(model: str | Path, n_prompt: int, n_output: int, **terms: Any) -> list[Counts]:
    prompt = load_workload(model, seq=n_prompt, logits="last", **terms)
    held = range(n_prompt, n_prompt + n_output - 1)
    each = [load_workload(model, phase="decode", cache=length, logits="last", **terms) for length in held]
    return [count(workload) for workload in (prompt, *each)]


@pytest.mark.parametrize("lowering", ["reference", "hardware"])
@pytest.mark.parametrize("adapter", [None, "lora:r=2"])
@pytest.mark.parametrize("config", [_WINDOWED, _GPT_OSS])
def test_counts_of_generation_are_the_sums_of_its_runs(
    tmp_path: Path, config: dict[str, Any], adapter: str | None, lowering: str
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    terms = {"adapter": adapter, "lowering": lowering}
    whole = count(load_workload(file, phase="generate", seq=4, output_tokens=12, **terms))
    runs = _one_by_one(file, 4, 12, **terms)
    for metric in _SUMMED:
        assert getattr(whole, metric) == sum(getattr(run, metric) for run in runs), metric
    assert whole.kv_cache_bytes_fp16 == runs[-1].kv_cache_bytes_fp16
    assert whole.params_total == runs[0].params_total


@pytest.mark.parametrize("model", ["tiny-gpt2", "mamba-130m"])
def test_the_prompt_gives_the_first_token(model: str) -> None:
    whole = load_workload(model, phase="generate", seq=5, output_tokens=1)
    prompt = load_workload(model, seq=5)
    assert [layer.name for layer in whole.network] == [layer.name for layer in prompt.network]
    assert count(whole).flops_total == count(prompt).flops_total


def test_an_encoder_runs_once_for_all_tokens() -> None:
    whole = load_workload("t5-small", phase="generate", seq=20, output_tokens=4)
    steps_only = [
        count(load_workload("t5-small", phase="decode", seq=20, cache=c)).flops_total for c in (1, 2, 3)
    ]
    first = count(load_workload("t5-small", seq=20, decoder_seq=1)).flops_total
    assert count(whole).flops_total == first + sum(steps_only)


@given(st.integers(1, 50), st.integers(1, 80), st.lists(st.integers(-5, 100), max_size=3), st.integers(0, 9))
def test_chosen_lengths_sum_anything_with_kinks_at_the_limits(
    n_prompt: int, n_output: int, limits: list[int], slope: int
) -> None:
    def work(held: int) -> int:
        return 7 + slope * held + sum(min(held, limit) for limit in limits)

    chosen = steps(n_prompt, n_output, tuple(limits))
    each = range(n_prompt, n_prompt + n_output - 1)
    assert sum(times for _, times in chosen) == len(each)
    assert sum(times * work(held) for held, times in chosen) == sum(map(work, each))


@pytest.mark.parametrize(
    ("model", "terms", "message"),
    [
        ("bert-base-uncased", {}, "is an encoder: it generates no tokens"),
        ("tiny-gpt2", {"cache": 3}, "holds no tokens before the prompt"),
        ("tiny-gpt2", {"seq": 60, "output_tokens": 10}, "exceed the 64 positions"),
        ("tiny-gpt2", {"output_tokens": 0}, "output_tokens must be an integer"),
    ],
)
def test_what_cannot_be_generated_is_refused(model: str, terms: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_workload(model, phase="generate", **terms)
