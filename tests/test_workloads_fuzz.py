"""Mutated files: whatever stands in them, they load or are refused in one line, in bounded time."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from tilewright.dataflow.errors import InputError
from tilewright.workloads.adapter_methods import METHODS
from tilewright.workloads.count import count
from tilewright.workloads.families import model_types
from tilewright.workloads.read import read_preset
from tilewright.workloads.workload import load_workload, model_names

_VALUES: tuple[Any, ...] = (
    0, -1, 1, 2, 3, 7, 64, 10**9, 10**30, True, False, None, "12", "", [], [1], [1, 2], {}, {"a": 1},
    1.5, -0.5, 1e-9, float("nan"), float("inf"), "none", "all", ["c_attn"], "all-linear", ".*", "(",
    ["AnyForSequenceClassification"], ["AnyForPreTraining"], ["AnyForImageClassificationWithTeacher"],
    ["AnyModel"], ["AnyForAudioClassification"], ["AnyForQuestionAnswering"], "bat", "gelu",
)  # fmt: skip
_MODEL_FIELDS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size", "sliding_window", "layer_types", "image_size", "patch_size", "depths", "hidden_sizes",
    "num_heads", "text_config", "rope_parameters", "architectures", "id2label", "num_experts",
    "attention_types", "embedding_size", "num_hidden_groups", "pos_att_type", "position_buckets",
    "conv_kernel_size", "conv_groups", "conv_dim", "conv_kernel", "conv_stride", "chunk_size", "n_groups",
    "num_heads", "max_length", "num_local_experts", "local_attention", "transformers_version",
    "use_sliding_window", "max_window_layers", "text_config_dict", "hidden_act", "num_labels",
    "new_decoder_architecture", "do_layer_norm_before", "word_embed_proj_dim", "num_experts_per_tok",
)  # fmt: skip
_ADAPTER_FIELDS = (
    "target_modules", "exclude_modules", "r", "bias", "task_type", "layers_to_transform", "modules_to_save",
    "rank_pattern", "num_virtual_tokens", "oft_block_size", "boft_block_size", "trainable_token_indices",
    "apply_GS", "num_vectors", "vector_length", "topk", "block_size", "block_size_pattern",
    "encoder_hidden_size", "encoder_reparameterization_type", "encoder_num_layers", "layers_pattern",
    "init_weights", "use_cayley_neumann", "block_share", "decompose_factor", "n_frequency_pattern", "mini_r",
    "config_A_B", "alpha_pattern", "use_dora", "feedforward_modules",
)  # fmt: skip
_TERMS: tuple[dict[str, Any], ...] = (
    {}, {"phase": "decode", "cache": 3}, {"phase": "train"}, {"lowering": "reference"},
    {"attention": "one_pass"}, {"adapter": "lora"}, {"phase": "generate", "seq": 5, "output_tokens": 9},
    {"adapter": "bottleneck:r=8,style=compacter"}, {"adapter": "bottleneck:style=invertible"},
    {"adapter": "bottleneck:style=invertible", "phase": "train"},
)  # fmt: skip
_SECONDS_PER_FILE = 5.0  # most take milliseconds; a shared machine may be slow
_FILES_PER_SEED = 250


def _mutated(source: dict[str, Any], fields: tuple[str, ...], chance: random.Random) -> dict[str, Any]:
    """`source` with one to three of its own or of the given fields set to something."""
    changed = dict(source)
    for _ in range(chance.randint(1, 3)):
        field = chance.choice((*source, *fields))
        if field not in ("model_type", "peft_type"):
            changed[field] = chance.choice(_VALUES)
    return changed


def _loads_or_is_refused(model: str | Path, terms: dict[str, Any]) -> bool:
    """Whether it loads. Fails for any error but one line of InputError, and for a slow answer."""
    start = time.process_time()
    try:
        count(load_workload(model, **terms))
        loaded = True
    except InputError as error:
        assert "\n" not in str(error)
        loaded = False
    assert time.process_time() - start < _SECONDS_PER_FILE
    return loaded


def _seeds(n_default: int, n_slow: int) -> list[Any]:
    """Seeds of the usual run, and more of the slow one."""
    later = range(n_default, n_slow)
    return [*range(n_default), *(pytest.param(seed, marks=pytest.mark.slow) for seed in later)]


def _written(file: Path, values: dict[str, Any], chance: random.Random) -> None:
    """Write `values`; one file in ten is cut off, or has a byte of something else in it."""
    data = bytearray(json.dumps(values).encode())
    if chance.random() < 0.05:
        del data[chance.randrange(len(data)) :]
    elif chance.random() < 0.05:
        data[chance.randrange(len(data))] = chance.randrange(256)
    file.write_bytes(data)


@pytest.mark.parametrize("seed", _seeds(4, 20))
def test_mutated_configurations_load_or_are_refused(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    sources = [read_preset("models", name) for name in model_names()]
    sources += [{"model_type": name} for name in model_types()]
    file = tmp_path / "config.json"
    n_loaded = 0
    for _ in range(_FILES_PER_SEED):
        _written(file, _mutated(chance.choice(sources), _MODEL_FIELDS, chance), chance)
        n_loaded += _loads_or_is_refused(file, chance.choice(_TERMS))
    assert n_loaded > 10


@pytest.mark.parametrize("seed", _seeds(4, 20))
def test_mutated_adapters_load_or_are_refused(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    targets = ["c_attn", "q_proj", "query"]
    sources = [{"peft_type": name, "target_modules": targets, "r": 4} for name in METHODS]
    file = tmp_path / "adapter_config.json"
    models = ("tiny-gpt2", "tinyllama-1.1b", "bert-base-uncased", "t5-small", "mamba-130m", "mixtral-8x7b")
    n_loaded = 0
    for _ in range(_FILES_PER_SEED):
        _written(file, _mutated(chance.choice(sources), _ADAPTER_FIELDS, chance), chance)
        terms = {"adapter": file, **chance.choice(_TERMS[:4])}
        n_loaded += _loads_or_is_refused(chance.choice(models), terms)
    assert n_loaded > 10
