"""Model families: how the fields of a configuration describe a stack of blocks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tilewright.dataflow.errors import InputError, nearest
from tilewright.workloads.attention import Attention
from tilewright.workloads.config import ConfigFile, Gpt2Config
from tilewright.workloads.embedding import Embedding
from tilewright.workloads.feed_forward import FeedForward
from tilewright.workloads.head import Head
from tilewright.workloads.norms import layer_norm
from tilewright.workloads.read import checked
from tilewright.workloads.transformer import Block, Transformer

C = TypeVar("C", bound=ConfigFile)


@dataclass(frozen=True, slots=True)
class Family(Generic[C]):
    """One `model_type`: the fields of its file, what they describe, its modules by logical target.

    `targets` maps q, k, v, o, up, gate and down to module names; a fused module stands for each of its
    parts, so that an adapter on one of them adapts all.
    """

    config: type[C]
    describe: Callable[[C, str], Transformer]
    targets: Mapping[str, str]

    def read(self, values: Mapping[str, Any], source: str, task: str) -> Transformer:
        """The model of a file. `task` overrides the task of the file if it is not empty."""
        return self.describe(checked(self.config, values, source), task)


def _gpt2(config: Gpt2Config, task: str) -> Transformer:
    attention = Attention(
        path="attn", n_heads=config.n_head, n_kv_heads=config.n_head,
        head_dim=config.n_embd // config.n_head, fused="c_attn", output="c_proj",
        qkv_bias=True, output_bias=True,
    )  # fmt: skip
    inner = FeedForward(
        "mlp", config.n_inner or 4 * config.n_embd, "c_fc", "c_proj", config.activation_function, bias=True
    )
    epsilon = config.layer_norm_epsilon
    block = Block(attention, inner, layer_norm("ln_1", epsilon), layer_norm("ln_2", epsilon))
    return Transformer(
        model_type="gpt2",
        width=config.n_embd,
        path="transformer.h",
        embedding=Embedding(
            "transformer.wte", config.vocab_size, positions="transformer.wpe", n_positions=config.n_positions
        ),
        blocks=((block, config.n_layer),),
        final_norm=layer_norm("transformer.ln_f", epsilon),
        head=_text_head(config, task, config.vocab_size, "transformer.wte", config.tie_word_embeddings),
        max_positions=config.n_positions,
    )


def _text_head(config: ConfigFile, task: str, vocab_size: int, table: str, tied: bool) -> Head | None:
    """The head of a decoder: language model, classifier over tokens' states, or none."""
    architecture = config.architecture
    if task == "SEQ_CLS" or (not task and architecture.endswith("ForSequenceClassification")):
        return Head("score", config.n_labels)
    if task == "TOKEN_CLS" or (not task and architecture.endswith("ForTokenClassification")):
        return Head("classifier", config.n_labels, bias=True)
    if task == "FEATURE_EXTRACTION" or (
        not task and architecture.endswith("Model") and "LM" not in architecture
    ):
        return None
    return Head("lm_head", vocab_size, tied_to=table if tied else "")


FAMILIES: Mapping[str, Family[Any]] = {
    "gpt2": Family(
        Gpt2Config, _gpt2,
        {"q": "c_attn", "k": "c_attn", "v": "c_attn", "o": "attn.c_proj", "up": "c_fc", "down": "mlp.c_proj"},
    ),
}  # fmt: skip


def family_of(values: Mapping[str, Any], source: str) -> tuple[str, Family[Any]]:
    """The family that a file names. Raises InputError for a missing or unknown `model_type`."""
    known = sorted(FAMILIES)
    model_type = values.get("model_type")
    if not isinstance(model_type, str):
        raise InputError(f"{source}: model_type: missing; supported: {', '.join(known)}")
    if model_type not in FAMILIES:
        raise InputError(
            f"{source}: model_type: {model_type[:60]!r} is unknown{nearest(model_type, known)};"
            f" supported: {', '.join(known)}"
        )
    return model_type, FAMILIES[model_type]
