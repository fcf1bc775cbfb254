"""Decoders without a row among the golden counts: published sizes, and shapes worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from tilewright.dataflow.errors import InputError
from tilewright.workloads.count import Counts, count
from tilewright.workloads.workload import Workload, load_workload


def _load(folder: Path, model_type: str, fields: dict[str, Any], **terms: Any) -> Workload:
    file = folder / "config.json"
    file.write_text(json.dumps({"model_type": model_type, **fields}))
    return load_workload(file, **{"lowering": "reference", "seq": 8, **terms})


def _count(folder: Path, model_type: str, fields: dict[str, Any], **terms: Any) -> Counts:
    return count(_load(folder, model_type, fields, **terms))


@pytest.mark.parametrize(
    ("model_type", "fields", "n_parameters"),
    [
        ("falcon", {}, 6_921_720_704),  # falcon-7b
        ("gpt_neox", {}, 20_554_567_680),  # gpt-neox-20b
        (
            "gpt_neox",  # pythia-70m
            {"vocab_size": 50304, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6,
             "num_attention_heads": 8},
            70_426_624,
        ),
        ("gptj", {}, 6_050_882_784),  # gpt-j-6b
        ("gpt_neo", {"hidden_size": 768, "num_layers": 12, "num_heads": 12}, 125_198_592),  # gpt-neo-125m
        ("bloom", {"hidden_size": 1024, "n_layer": 24, "n_head": 16}, 559_214_592),  # bloom-560m
        ("phi3", {}, 3_821_079_552),  # phi-3-mini
        ("starcoder2", {}, 3_030_371_328),  # starcoder2-3b
        (
            "olmo",  # olmo-1b
            {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
             "num_attention_heads": 16, "tie_word_embeddings": True},
            1_176_764_416,
        ),
        ("gemma2", {}, 2_614_341_888),  # gemma-2-2b
        (
            "gemma3_text",  # gemma-3-1b
            {"hidden_size": 1152, "intermediate_size": 6912, "num_attention_heads": 4,
             "num_key_value_heads": 1, "vocab_size": 262144},
            999_885_952,
        ),
        (
            "qwen3",  # qwen3-0.6b
            {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
             "num_attention_heads": 16, "num_key_value_heads": 8, "tie_word_embeddings": True},
            596_049_920,
        ),
        ("qwen2_moe", {}, 14_315_784_192),  # qwen1.5-moe-a2.7b
        ("qwen3_moe", {"num_hidden_layers": 48, "head_dim": 128}, 30_532_122_624),  # qwen3-30b-a3b
        ("olmoe", {"intermediate_size": 1024}, 6_919_161_856),  # olmoe-1b-7b
    ],
)  # fmt: skip
def test_published_models_have_their_published_number_of_parameters(
    tmp_path: Path, model_type: str, fields: dict[str, Any], n_parameters: int
) -> None:
    assert _count(tmp_path, model_type, fields).params_total == n_parameters


#: 2 layers, width 16, 4 heads of 4, 2 heads of keys and values, inner width 24, 10 tokens known.
_ROTARY = {
    "vocab_size": 10, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


def test_a_fused_projection_with_shared_keys_writes_every_head_once(tmp_path: Path) -> None:
    fused = _load(tmp_path, "phi3", _ROTARY)
    apart = _count(tmp_path, "llama", _ROTARY)
    block = fused.network[1].graph
    assert block.size("s") == 4 + 2 + 2
    assert count(fused).flops_total == apart.flops_total
    assert count(fused).params_total == apart.params_total


def test_windows_come_and_go_by_turns(tmp_path: Path) -> None:
    blocks = _load(tmp_path, "gemma3_text", _ROTARY | {"num_hidden_layers": 8, "sliding_window": 4}).network[
        1:-1
    ]
    assert [(block.name, block.count) for block in blocks] == [("block_0", 5), ("block_5", 1), ("block_6", 2)]
    assert blocks[0].graph is blocks[2].graph


def test_scores_are_bounded_where_the_file_says_so(tmp_path: Path) -> None:
    block = _load(tmp_path, "gemma2", _ROTARY).network[1].graph
    softcap = next(operator for operator in block.operators if operator.name == "softcap")
    assert (softcap.function, softcap.parameters) == ("tanh", (("limit", 50.0),))
    with pytest.raises(InputError, match="'one_pass' does not know what this model does to its scores"):
        _load(tmp_path, "gemma2", _ROTARY, attention="one_pass")


def test_a_local_mask_does_not_shorten_the_cache(tmp_path: Path) -> None:
    fields = {"vocab_size": 10, "hidden_size": 16, "num_layers": 2, "num_heads": 4, "window_size": 3}
    step = _count(tmp_path, "gpt_neo", fields, phase="decode", seq=1, cache=20)
    assert step.kv_cache_bytes_fp16 == 2 * 2 * 21 * 16 * 2
    hardware = _count(tmp_path, "gpt_neo", fields, phase="decode", seq=1, cache=20, lowering="hardware")
    assert hardware.flops_attention_bmm == 2 * 2 * (21 + 3) * 16


def test_only_the_layers_that_the_file_wants_are_mixtures(tmp_path: Path) -> None:
    fields = _ROTARY | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 6}
    mixed = _load(tmp_path, "qwen3_moe", fields | {"num_hidden_layers": 3, "mlp_only_layers": [0]})
    assert [(block.name, block.count) for block in mixed.network[1:-1]] == [("block_0", 1), ("block_1", 2)]
    counts = count(mixed)
    assert counts.flops_moe_expert_bmm == 2 * 2 * 8 * 2 * 3 * 16 * 6


@pytest.mark.parametrize(
    ("model_type", "fields", "expected"),
    [
        (
            "gpt_neo",
            {"attention_types": [[["global"], 3]]},
            "attention_types: 3 layers given",
        ),
        ("gpt_neo", {"attention_types": [["global"]]}, "is no [[kind, ...], count]"),
        ("gpt_neo", {"attention_types": [[["far"], 24]]}, "is no [[kind, ...], count]"),
        (
            "falcon",
            {"num_attention_heads": 70},
            "hidden_size 4544 is not a multiple",
        ),
        ("gpt_neox", {"rope_parameters": {"partial_rotary_factor": "all"}}, "partial_rotary_factor must be"),
        ("qwen3_moe", {"num_experts_per_tok": 200}, "num_experts_per_tok 200 exceeds num_experts 128"),
    ],
)
def test_contradictory_fields_are_refused(
    tmp_path: Path, model_type: str, fields: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InputError) as error:
        _load(tmp_path, model_type, fields)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
