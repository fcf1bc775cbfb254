"""DeepSeek's families: latent attention and shared beside routed experts."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from tilewright.workloads.block import Block
from tilewright.workloads.config import Activation, ConfigFile, Epsilon, Layers, Rows, Width, also
from tilewright.workloads.embedding import Embedding
from tilewright.workloads.experts import Experts
from tilewright.workloads.family import Family
from tilewright.workloads.feed_forward import FeedForward
from tilewright.workloads.head import text_head
from tilewright.workloads.latent import LatentAttention
from tilewright.workloads.norms import rms_norm
from tilewright.workloads.transformer import Transformer

Count = Annotated[int, Field(gt=0, le=2**16)]

_EXPERTS = also("n_routed_experts", "num_experts", "num_local_experts")


class DeepseekV2Config(ConfigFile):
    """`model_type` deepseek_v2; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "DeepseekV2ForCausalLM"
    scoring: ClassVar[str] = "softmax"
    vocab_size: Rows = 32000
    hidden_size: Width = 4096
    intermediate_size: Width = 11008
    moe_intermediate_size: Width = 1407
    num_hidden_layers: Layers = 32
    num_attention_heads: Width = 32
    n_shared_experts: Annotated[int, Field(ge=0, le=1024)] | None = 2
    n_routed_experts: Count = Field(64, validation_alias=_EXPERTS)
    num_experts_per_tok: Count = 8
    first_k_dense_replace: Annotated[int, Field(ge=0)] = 0
    kv_lora_rank: Width = 512
    q_lora_rank: Width | None = 1536
    qk_rope_head_dim: Width = 64
    qk_nope_head_dim: Width = 128
    v_head_dim: Width = 128
    hidden_act: Activation = "silu"
    rms_norm_eps: Epsilon = 1e-6
    attention_bias: bool = False
    tie_word_embeddings: bool = False

    @model_validator(mode="after")
    def _enough_experts(self) -> "DeepseekV2Config":
        if self.num_experts_per_tok > self.n_routed_experts:
            raise ValueError(
                f"num_experts_per_tok {self.num_experts_per_tok} exceeds n_routed_experts"
                f" {self.n_routed_experts}"
            )
        return self


class DeepseekV3Config(DeepseekV2Config):
    """`model_type` deepseek_v3; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "DeepseekV3ForCausalLM"
    scoring: ClassVar[str] = "sigmoid"
    vocab_size: Rows = 129280
    hidden_size: Width = 7168
    intermediate_size: Width = 18432
    moe_intermediate_size: Width = 2048
    num_hidden_layers: Layers = 61
    num_attention_heads: Width = 128
    n_shared_experts: Annotated[int, Field(ge=0, le=1024)] | None = 1
    n_routed_experts: Count = Field(256, validation_alias=_EXPERTS)
    first_k_dense_replace: Annotated[int, Field(ge=0)] = 3


def _deepseek(model_type: str, config: DeepseekV2Config, task: str) -> Transformer:
    epsilon, function = config.rms_norm_eps, config.hidden_act
    attention = LatentAttention(
        "self_attn", config.num_attention_heads, config.qk_nope_head_dim, config.qk_rope_head_dim,
        config.v_head_dim, config.kv_lora_rank, config.q_lora_rank or 0, epsilon,
        (config.qk_nope_head_dim + config.qk_rope_head_dim) ** -0.5, config.attention_bias,
    )  # fmt: skip

    def gated(path: str, width: int) -> FeedForward:
        return FeedForward(path, width, "up_proj", "down_proj", function, "gate_proj")

    n_shared = config.n_shared_experts or 0
    experts = Experts(
        "mlp", config.n_routed_experts, config.num_experts_per_tok, config.moe_intermediate_size, function,
        scoring="sigmoid" if config.scoring == "sigmoid" else "softmax",
        shared=gated("mlp.shared_experts", config.moe_intermediate_size * n_shared) if n_shared else None,
    )  # fmt: skip
    norms = (rms_norm("input_layernorm", epsilon), rms_norm("post_attention_layernorm", epsilon))
    n_dense = min(config.first_k_dense_replace, config.num_hidden_layers)
    runs = (
        (Block(attention, gated("mlp", config.intermediate_size), *norms), n_dense),
        (Block(attention, experts, *norms), config.num_hidden_layers - n_dense),
    )
    table = "model.embed_tokens"
    n_angles = config.qk_rope_head_dim // 2 if config.multiplies_angles else 0
    return Transformer(
        model_type=model_type,
        width=config.hidden_size,
        path="model.layers",
        embedding=Embedding(table, config.vocab_size, n_angles=n_angles),
        blocks=tuple((block, count) for block, count in runs if count),
        final_norm=rms_norm("model.norm", epsilon),
        head=text_head(config, task, config.vocab_size, table, tied=config.tie_word_embeddings),
    )


_TARGETS: Mapping[str, str | tuple[str, ...]] = {
    "q": ("self_attn.q_proj", "self_attn.q_a_proj", "self_attn.q_b_proj"),
    "k": ("self_attn.kv_a_proj_with_mqa", "self_attn.kv_b_proj"),
    "v": ("self_attn.kv_a_proj_with_mqa", "self_attn.kv_b_proj"),
    "o": "self_attn.o_proj",
}

FAMILIES: Mapping[str, Family[Any]] = {
    "deepseek_v2": Family(
        DeepseekV2Config, lambda config, task: _deepseek("deepseek_v2", config, task), _TARGETS
    ),
    "deepseek_v3": Family(
        DeepseekV3Config, lambda config, task: _deepseek("deepseek_v3", config, task), _TARGETS
    ),
}
