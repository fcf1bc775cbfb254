"""Whole models that measurements name: their published sizes, as configurations that the lowering reads."""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tilewright.dataflow.errors import InputError, nearest
from tilewright.dataflow.graph import Network
from tilewright.workloads.workload import load_workload


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """One run of a model: its name, a forward pass or a training step, and whether maps were fused."""

    model: str
    phase: str
    batch: int
    seq: int
    dtype: str
    fused: bool


def _gpt(n_embd: int, n_head: int, n_layer: int, n_positions: int) -> dict[str, Any]:
    return {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": n_embd, "n_head": n_head,
        "n_layer": n_layer, "n_positions": n_positions, "vocab_size": 50257, "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
    }  # fmt: skip


#: BERT large (arXiv 1810.04805), GPT-2 large, GPT-3 2.7B (arXiv 2005.14165), OPT 1.3B (arXiv 2205.01068).
_CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2_large": _gpt(1280, 20, 36, 1024),
    "gpt3_27": _gpt(2560, 32, 32, 2048),
    "bert_large": {
        "model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 1024, "num_hidden_layers": 24,
        "num_attention_heads": 16, "intermediate_size": 4096, "vocab_size": 30522, "max_position_embeddings": 512,
        "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    },
    "opt_13": {
        "model_type": "opt", "architectures": ["OPTForCausalLM"], "hidden_size": 2048, "num_hidden_layers": 24,
        "num_attention_heads": 32, "ffn_dim": 8192, "vocab_size": 50272, "max_position_embeddings": 2048,
        "activation_function": "relu", "do_layer_norm_before": True, "word_embed_proj_dim": 2048,
    },
}  # fmt: skip


def check_model(run: MeasuredModel) -> None:
    """Raises InputError for a model whose sizes are not known here."""
    if run.model not in _CONFIGS:
        raise InputError(
            f"model {run.model!r} is none whose sizes are known{nearest(run.model, list(_CONFIGS))};"
            f" known: {', '.join(_CONFIGS)}"
        )


@lru_cache(maxsize=32)
def network_of(run: MeasuredModel) -> Network:
    """The layers of a run as the reference implementation executes them. Raises as `check_model` does."""
    check_model(run)
    precision = {"weights": run.dtype, "activations": run.dtype, "accumulators": "fp32"}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(json.dumps(_CONFIGS[run.model]), encoding="utf-8")
        return load_workload(
            file, phase=run.phase, batch=run.batch, seq=run.seq, lowering="reference", logits="all",
            precision=precision,
        ).network  # fmt: skip
