"""GPT-OSS: mixtures of experts with biases, attention with sinks, windows in every second layer."""

from collections.abc import Mapping
from itertools import groupby
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from tilewright.workloads.attention import Attention
from tilewright.workloads.block import Block
from tilewright.workloads.config import Layers, Rows, Width, Window, also
from tilewright.workloads.experts import Experts
from tilewright.workloads.families_llama import ATTENTION_TARGETS, RotaryConfig, decoder
from tilewright.workloads.family import Family
from tilewright.workloads.norms import rms_norm
from tilewright.workloads.transformer import Transformer


class GptOssConfig(RotaryConfig):
    """`model_type` gpt_oss; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "GptOssForCausalLM"
    vocab_size: Rows = 201088
    hidden_size: Width = 2880
    intermediate_size: Width = 2880
    num_hidden_layers: Layers = 36
    num_attention_heads: Width = 64
    num_key_value_heads: Width | None = 8
    head_dim: Width | None = 64
    attention_bias: bool = True
    sliding_window: Window = 128
    num_local_experts: Annotated[int, Field(gt=0, le=2**16)] = Field(
        128, validation_alias=also("num_local_experts", "num_experts")
    )
    num_experts_per_tok: Annotated[int, Field(gt=0)] = 4

    @model_validator(mode="after")
    def _enough_experts(self) -> "GptOssConfig":
        if self.num_experts_per_tok > self.num_local_experts:
            raise ValueError(
                f"num_experts_per_tok {self.num_experts_per_tok} exceeds num_local_experts"
                f" {self.num_local_experts}"
            )
        return self

    @property
    def windows(self) -> tuple[tuple[int | None, int], ...]:
        """(window, how many) for runs of layers; without layer types every second one is bounded."""
        if self.layer_types is not None:
            return super().windows
        seen = (None if layer % 2 else self.sliding_window for layer in range(self.num_hidden_layers))
        return tuple((window, sum(1 for _ in group)) for window, group in groupby(seen))


def _gpt_oss(config: GptOssConfig, task: str) -> Transformer:
    epsilon, bias = config.rms_norm_eps, config.attention_bias
    experts = Experts(
        "mlp", config.num_local_experts, config.num_experts_per_tok, config.intermediate_size, "swiglu_clipped",
        router="router", bias=True, all_run=config.precedes_5,
    )  # fmt: skip
    norms = (rms_norm("input_layernorm", epsilon), rms_norm("post_attention_layernorm", epsilon))

    def block(window: int | None) -> Block:
        attention = Attention(
            "self_attn", config.num_attention_heads, config.n_kv_heads, config.head_width, "o_proj",
            qkv_bias=bias, output_bias=bias, window=window, rotary_dim=config.head_width, sinks=True,
        )  # fmt: skip
        return Block(attention, experts, *norms)

    blocks = tuple((block(window), count) for window, count in config.windows)
    return decoder("gpt_oss", config, task, blocks, rms_norm("model.norm", epsilon))


FAMILIES: Mapping[str, Family[Any]] = {"gpt_oss": Family(GptOssConfig, _gpt_oss, ATTENTION_TARGETS)}
