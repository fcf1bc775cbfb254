"""Families of the LLaMA kind: rotary positions, grouped keys and values, mostly RMSNorm and gates."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from math import sqrt
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, model_validator

from tilewright.workloads.attention import Attention
from tilewright.workloads.block import Block
from tilewright.workloads.config import (
    Activation,
    ConfigFile,
    Epsilon,
    Layers,
    Rows,
    Width,
    Window,
    also,
    refuse_remainder,
)
from tilewright.workloads.disentangled import DisentangledAttention
from tilewright.workloads.embedding import Embedding
from tilewright.workloads.experts import Experts
from tilewright.workloads.family import Family
from tilewright.workloads.feed_forward import FeedForward
from tilewright.workloads.head import text_head
from tilewright.workloads.norms import Norm, layer_norm, rms_norm
from tilewright.workloads.transformer import Transformer

LayerType = Literal["full_attention", "sliding_attention"]
Fraction = Annotated[float, Field(gt=0, le=1)]


class RotaryConfig(ConfigFile):
    """Fields that rotary decoders share; defaults here are LLaMA's."""

    default_architecture: ClassVar[str] = "LlamaForCausalLM"
    vocab_size: Rows = 32000
    hidden_size: Width = 4096
    intermediate_size: Width = 11008
    num_hidden_layers: Layers = 32
    num_attention_heads: Width = 32
    num_key_value_heads: Width | None = None
    head_dim: Width | None = None
    hidden_act: Activation = "silu"
    rms_norm_eps: Epsilon = 1e-6
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    sliding_window: Window = None
    layer_types: list[LayerType] | None = None
    partial_rotary_factor: Fraction | None = None
    rope_parameters: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "RotaryConfig":
        heads = "num_attention_heads"
        if self.head_dim is None:
            refuse_remainder(self.hidden_size, self.num_attention_heads, "hidden_size", heads)
        refuse_remainder(self.num_attention_heads, self.n_kv_heads, heads, "num_key_value_heads")
        self.rotary_fraction(1.0)
        if self.layer_types is not None and len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"layer_types: {len(self.layer_types)} layers given, num_hidden_layers is"
                f" {self.num_hidden_layers}"
            )
        return self

    @property
    def n_kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_width(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def windows(self) -> tuple[tuple[int | None, int], ...]:
        """(window, how many) for runs of layers that see equally far."""
        if self.layer_types is None:
            return ((self.sliding_window, self.num_hidden_layers),)
        seen = (self.sliding_window if t == "sliding_attention" else None for t in self.layer_types)
        return tuple((window, sum(1 for _ in group)) for window, group in groupby(seen))

    def rotary_fraction(self, default: float) -> float:
        """The share of a head that is rotated, in both spellings."""
        stated = (self.rope_parameters or {}).get("partial_rotary_factor", self.partial_rotary_factor)
        if stated is None:
            return default
        if isinstance(stated, bool) or not isinstance(stated, int | float) or not 0 < stated <= 1:
            raise ValueError(f"rope_parameters.partial_rotary_factor must be in 0..1, got {stated!r}")
        return float(stated)


class MistralConfig(RotaryConfig):
    default_architecture: ClassVar[str] = "MistralForCausalLM"
    intermediate_size: Width = 14336
    num_key_value_heads: Width | None = 8
    sliding_window: Window = 4096


class MixtralConfig(MistralConfig):
    default_architecture: ClassVar[str] = "MixtralForCausalLM"
    sliding_window: Window = None
    num_local_experts: Annotated[int, Field(gt=0, le=2**16)] = Field(
        8, validation_alias=also("num_local_experts", "num_experts")
    )
    num_experts_per_tok: Annotated[int, Field(gt=0)] = 2

    @model_validator(mode="after")
    def _enough_experts(self) -> "MixtralConfig":
        if self.num_experts_per_tok > self.num_local_experts:
            raise ValueError(
                f"num_experts_per_tok {self.num_experts_per_tok} exceeds num_local_experts"
                f" {self.num_local_experts}"
            )
        return self


class Qwen2Config(RotaryConfig):
    default_architecture: ClassVar[str] = "Qwen2ForCausalLM"
    vocab_size: Rows = 151936
    intermediate_size: Width = 22016
    num_key_value_heads: Width | None = 32
    use_sliding_window: bool = False
    max_window_layers: Annotated[int, Field(ge=0)] = 28

    @property
    def windows(self) -> tuple[tuple[int | None, int], ...]:
        if not self.use_sliding_window or self.sliding_window is None:
            return ((None, self.num_hidden_layers),)
        if self.layer_types is not None:
            return super().windows
        n_full = min(self.max_window_layers, self.num_hidden_layers)
        runs = ((None, n_full), (self.sliding_window, self.num_hidden_layers - n_full))
        return tuple((window, count) for window, count in runs if count)


class Qwen3Config(Qwen2Config):
    default_architecture: ClassVar[str] = "Qwen3ForCausalLM"
    head_dim: Width | None = 128


class GemmaConfig(RotaryConfig):
    default_architecture: ClassVar[str] = "GemmaForCausalLM"
    vocab_size: Rows = 256000
    hidden_size: Width = 3072
    intermediate_size: Width = 24576
    num_hidden_layers: Layers = 28
    num_attention_heads: Width = 16
    num_key_value_heads: Width | None = 16
    head_dim: Width | None = 256
    hidden_act: Activation = "gelu_pytorch_tanh"
    tie_word_embeddings: bool = True


class PhiConfig(RotaryConfig):
    default_architecture: ClassVar[str] = "PhiForCausalLM"
    vocab_size: Rows = 51200
    hidden_size: Width = 2048
    intermediate_size: Width = 8192
    num_hidden_layers: Layers = 24
    hidden_act: Activation = "gelu_new"
    layer_norm_eps: Epsilon = 1e-5
    qk_layernorm: bool = False


@dataclass(frozen=True, slots=True)
class _Traits:
    """How a family differs in what its file does not say."""

    qkv_bias: bool | None = None  # None: attention_bias of the file
    output_bias: bool | None = None
    head_norm: bool = False
    scaled_rows: bool = False  # embeddings times the root of the width


R = TypeVar("R", bound=RotaryConfig)


def _gated(model_type: str, traits: _Traits, config: RotaryConfig, task: str) -> Transformer:
    """RMSNorm, attention, RMSNorm, gated network."""
    epsilon = config.rms_norm_eps
    inner = _network(config)
    blocks = tuple(
        (
            Block(
                _attention(config, traits, window), inner,
                rms_norm("input_layernorm", epsilon), rms_norm("post_attention_layernorm", epsilon),
            ),
            count,
        )
        for window, count in config.windows
    )  # fmt: skip
    scale = sqrt(config.hidden_size) if traits.scaled_rows else 1.0
    return decoder(model_type, config, task, blocks, rms_norm("model.norm", epsilon), scale=scale)


def _network(config: RotaryConfig) -> FeedForward | Experts:
    if isinstance(config, MixtralConfig):
        return Experts(
            "mlp", config.num_local_experts, config.num_experts_per_tok, config.intermediate_size,
            config.hidden_act,
        )  # fmt: skip
    return FeedForward(
        "mlp", config.intermediate_size, "up_proj", "down_proj", config.hidden_act, "gate_proj",
        config.mlp_bias,
    )  # fmt: skip


def _attention(config: RotaryConfig, traits: _Traits, window: int | None) -> Attention:
    stated = config.attention_bias
    epsilon = config.rms_norm_eps
    head_norms = [
        Norm(f"self_attn.{name}", "rmsnorm", epsilon, ("e",)) if traits.head_norm else None
        for name in ("q_norm", "k_norm")
    ]
    return Attention(
        "self_attn", config.num_attention_heads, config.n_kv_heads, config.head_width, "o_proj",
        qkv_bias=stated if traits.qkv_bias is None else traits.qkv_bias,
        output_bias=stated if traits.output_bias is None else traits.output_bias,
        window=window, rotary_dim=config.head_width,
        query_norm=head_norms[0], key_norm=head_norms[1],
    )  # fmt: skip


def _phi(config: PhiConfig, task: str) -> Transformer:
    """Attention and network beside each other behind one LayerNorm."""
    epsilon, width = config.layer_norm_eps, config.head_width
    head_norms = [
        Norm(f"self_attn.{name}", "layernorm", epsilon, ("e",), bias=True) if config.qk_layernorm else None
        for name in ("q_layernorm", "k_layernorm")
    ]
    rotary_dim = int(width * config.rotary_fraction(0.5))
    attention = Attention(
        "self_attn", config.num_attention_heads, config.n_kv_heads, width, "dense",
        qkv_bias=True, output_bias=True, rotary_dim=rotary_dim,
        query_norm=head_norms[0], key_norm=head_norms[1],
    )  # fmt: skip
    inner = FeedForward("mlp", config.intermediate_size, "fc1", "fc2", config.hidden_act, bias=True)
    block = Block(attention, inner, layer_norm("input_layernorm", epsilon), None, "parallel")
    return decoder(
        "phi", config, task, ((block, config.num_hidden_layers),),
        layer_norm("model.final_layernorm", epsilon), head_bias=True,
    )  # fmt: skip


def decoder(
    model_type: str,
    config: RotaryConfig,
    task: str,
    blocks: tuple[tuple[Block, int], ...],
    final_norm: Norm,
    *,
    scale: float = 1.0,
    head_bias: bool = False,
    angle_sets: int = 1,
) -> Transformer:
    """A stack of rotary blocks behind a table of tokens, with the head that the task wants."""
    table = "model.embed_tokens"
    attention = blocks[0][0].attention
    assert not isinstance(attention, DisentangledAttention), "it has no rotary angles"
    n_angles = attention.rotary_dim // 2 if config.multiplies_angles else 0
    tied = config.tie_word_embeddings
    return Transformer(
        model_type=model_type,
        width=config.hidden_size,
        path="model.layers",
        embedding=Embedding(
            table, config.vocab_size, scale=scale, n_angles=n_angles, n_angle_products=angle_sets
        ),
        blocks=blocks,
        final_norm=final_norm,
        head=text_head(config, task, config.vocab_size, table, tied=tied, bias=head_bias),
    )


ATTENTION_TARGETS: Mapping[str, str] = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
}  # fmt: skip
TARGETS: Mapping[str, str] = {
    **ATTENTION_TARGETS, "up": "mlp.up_proj", "gate": "mlp.gate_proj", "down": "mlp.down_proj",
}  # fmt: skip


def _family(model_type: str, config: type[R], traits: _Traits) -> Family[R]:
    return Family(config, lambda values, task: _gated(model_type, traits, values, task), TARGETS)


FAMILIES: Mapping[str, Family[Any]] = {
    "llama": _family("llama", RotaryConfig, _Traits()),
    "mistral": _family("mistral", MistralConfig, _Traits(qkv_bias=False, output_bias=False)),
    "mixtral": Family(
        MixtralConfig,
        lambda config, task: _gated("mixtral", _Traits(qkv_bias=False, output_bias=False), config, task),
        ATTENTION_TARGETS,
    ),
    "qwen2": _family("qwen2", Qwen2Config, _Traits(qkv_bias=True, output_bias=False)),
    "qwen3": _family("qwen3", Qwen3Config, _Traits(head_norm=True)),
    "gemma": _family("gemma", GemmaConfig, _Traits(scaled_rows=True)),
    "phi": Family(
        PhiConfig, _phi,
        {**ATTENTION_TARGETS, "o": "self_attn.dense", "up": "mlp.fc1", "down": "mlp.fc2"},
    ),
}  # fmt: skip
