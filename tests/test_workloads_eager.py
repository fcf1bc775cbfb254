"""What eager execution keeps for a backward pass: by hand, and against the reference's rows, to the byte."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tilewright.dataflow.errors import InputError
from tilewright.validation import validate
from tilewright.workloads.eager import check_rules, eager_saved_bytes
from tilewright.workloads.workload import load_workload

_FP32 = dict.fromkeys(("weights", "activations", "accumulators", "kv_cache"), "fp32")
_LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 50,
}  # fmt: skip
_GPT2 = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 64, "n_layer": 2, "n_head": 4,
    "vocab_size": 50, "n_positions": 32,
}  # fmt: skip


def _bytes(folder: Path, config: dict[str, Any], batch: int, seq: int, adapter: str | None = None) -> int:
    file = folder / "config.json"
    file.write_text(json.dumps(config))
    workload = load_workload(
        file, adapter=adapter, phase="train", batch=batch, seq=seq, lowering="reference", precision=_FP32,
        optimizer="none",
    )  # fmt: skip
    return eager_saved_bytes(workload, config)


def test_a_llama_keeps_ten_rows_of_its_width_and_four_of_its_network_in_each_layer(tmp_path: Path) -> None:
    b, s, d, i, heads, v = 3, 8, 64, 96, 4, 50
    rows = b * s
    # norms: input, normalised, weighted (twice); queries, keys and values as all heads read them; mixed
    layer = 10 * rows * d + 4 * rows * i + 2 * rows + b * heads * s * s
    head = 3 * rows * d + rows + rows * v
    angles = 2 * s * 16
    indices = 8 * rows + 8 * rows  # tokens, targets
    assert _bytes(tmp_path, _LLAMA, b, s) == 4 * (2 * layer + head + angles) + indices + 4


def test_dropout_keeps_masks_and_dropped_shares(tmp_path: Path) -> None:
    b, s, d, heads = 2, 8, 64, 4
    none = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    plain = _bytes(tmp_path, _GPT2 | none, b, s)
    by_field = {
        "attn_pdrop": 2 * 2 * b * heads * s * s,  # two layers; a mask and the dropped shares
        "embd_pdrop": b * s * d,
        "resid_pdrop": 2 * 2 * b * s * d,
    }
    for field, n_elements in by_field.items():
        assert _bytes(tmp_path, _GPT2 | none | {field: 0.1}, b, s) - plain == 4 * n_elements, field
    assert _bytes(tmp_path, _GPT2, b, s) - plain == 4 * sum(by_field.values())


def test_a_mask_is_kept_where_a_gradient_passes_alone(tmp_path: Path) -> None:
    b, s, d = 2, 8, 64
    fields = {"attn_pdrop": 0.0, "embd_pdrop": 0.1, "resid_pdrop": 0.0}
    adapter = "lora:r=2,targets=o,layers=1"
    plain = _bytes(tmp_path, _GPT2 | fields | {"embd_pdrop": 0.0}, b, s, adapter)
    assert _bytes(tmp_path, _GPT2 | fields, b, s, adapter) == plain
    # layer 1: attention's branch and the network's
    masked = _bytes(tmp_path, _GPT2 | fields | {"resid_pdrop": 0.1}, b, s, adapter)
    assert masked - plain == 4 * 2 * b * s * d


def test_a_single_sequence_keeps_one_target_more(tmp_path: Path) -> None:
    one, two = (_bytes(tmp_path, _LLAMA, b, 8) for b in (1, 2))
    shared = 4 * 2 * 8 * 16 + 4  # angles, the weight of the mean
    assert two - shared == 2 * (one - shared - 8)


@pytest.mark.parametrize(
    ("config", "adapter", "what"),
    [
        ({"model_type": "swin"}, None, "swin"),
        (_LLAMA | {"architectures": ["LlamaForSequenceClassification"]}, None, "LlamaForSequenceCl"),
        (_LLAMA, {"peft_type": "LORA", "use_dora": True}, "use_dora"),
        (_LLAMA, {"peft_type": "LORA", "lora_dropout": 0.1}, "lora_dropout"),
        (_LLAMA, {"peft_type": "OFT"}, "OFT"),
    ],
)
def test_what_has_no_rule_is_refused_by_name(
    config: dict[str, Any], adapter: dict[str, Any] | None, what: str
) -> None:
    with pytest.raises(InputError, match=f"what eager execution of {what}.* keeps is not modelled"):
        check_rules(config, adapter)


def test_kept_bytes_equal_the_reference(reference_folder: Path, tmp_path: Path) -> None:
    source = reference_folder / "golden_counts_public.csv"
    with source.open(newline="") as stream:
        reader = csv.DictReader(stream)
        rows = [row for row in reader if row["metric"] == "saved_for_backward_bytes_fp32"]
        names = list(reader.fieldnames or ())
    for name in ("hf_configs", "adapter_configs"):
        (tmp_path / name).symlink_to(reference_folder / name)
    points = tmp_path / "points.csv"
    with points.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(rows)
    (found,) = validate("counts", points, None)["sets"]
    assert found["worst_abs_error_fraction"] == 0
    assert found["n_points"] >= 76
