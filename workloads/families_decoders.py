"""More rotary decoders: fused projections, norms behind attention and network, mixtures of experts."""

from collections.abc import Mapping
from dataclasses import replace
from math import sqrt
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from tilewright.workloads.attention import Attention
from tilewright.workloads.block import Block
from tilewright.workloads.config import Activation, Epsilon, Layers, Rows, Width, Window, also
from tilewright.workloads.experts import Experts
from tilewright.workloads.families_llama import ATTENTION_TARGETS, TARGETS, RotaryConfig, decoder
from tilewright.workloads.family import Family
from tilewright.workloads.feed_forward import FeedForward
from tilewright.workloads.norms import Norm, layer_norm, rms_norm
from tilewright.workloads.transformer import Transformer

Count = Annotated[int, Field(gt=0, le=2**16)]


class Phi3Config(RotaryConfig):
    default_architecture: ClassVar[str] = "Phi3ForCausalLM"
    vocab_size: Rows = 32064
    hidden_size: Width = 3072
    intermediate_size: Width = 8192
    rms_norm_eps: Epsilon = 1e-5


def _phi3(config: Phi3Config, task: str) -> Transformer:
    """Queries, keys and values from one product, gate and up from another."""
    width, epsilon = config.head_width, config.rms_norm_eps
    attention = Attention(
        "self_attn", config.num_attention_heads, config.n_kv_heads, width, "o_proj", fused="qkv_proj",
        window=config.sliding_window, rotary_dim=int(width * config.rotary_fraction(1.0)),
    )  # fmt: skip
    inner = FeedForward(
        "mlp", config.intermediate_size, "gate_up_proj", "down_proj", config.hidden_act, fused=True
    )
    block = Block(
        attention, inner, rms_norm("input_layernorm", epsilon), rms_norm("post_attention_layernorm", epsilon)
    )
    blocks = ((block, config.num_hidden_layers),)
    return decoder("phi3", config, task, blocks, rms_norm("model.norm", epsilon))


class Starcoder2Config(RotaryConfig):
    default_architecture: ClassVar[str] = "Starcoder2ForCausalLM"
    vocab_size: Rows = 49152
    hidden_size: Width = 3072
    intermediate_size: Width = 12288
    num_hidden_layers: Layers = 30
    num_attention_heads: Width = 24
    num_key_value_heads: Width | None = 2
    hidden_act: Activation = "gelu_pytorch_tanh"
    norm_epsilon: Epsilon = 1e-5
    use_bias: bool = True
    tie_word_embeddings: bool = True


def _starcoder2(config: Starcoder2Config, task: str) -> Transformer:
    epsilon, bias = config.norm_epsilon, config.use_bias
    attention = Attention(
        "self_attn", config.num_attention_heads, config.n_kv_heads, config.head_width, "o_proj",
        qkv_bias=bias, output_bias=bias, window=config.sliding_window, rotary_dim=config.head_width,
    )  # fmt: skip
    inner = FeedForward("mlp", config.intermediate_size, "c_fc", "c_proj", config.hidden_act, bias=bias)
    norms = (layer_norm("input_layernorm", epsilon), layer_norm("post_attention_layernorm", epsilon))
    blocks = ((Block(attention, inner, *norms), config.num_hidden_layers),)
    return decoder("starcoder2", config, task, blocks, layer_norm("model.norm", epsilon))


class OlmoConfig(RotaryConfig):
    default_architecture: ClassVar[str] = "OlmoForCausalLM"
    vocab_size: Rows = 50304


_OLMO_EPSILON = 1e-5


def _olmo(config: OlmoConfig, task: str) -> Transformer:
    """Norms without parameters."""

    def norm(module: str) -> Norm:
        return layer_norm(module, _OLMO_EPSILON, affine=False)

    bias = config.attention_bias
    attention = Attention(
        "self_attn", config.num_attention_heads, config.n_kv_heads, config.head_width, "o_proj",
        qkv_bias=bias, output_bias=bias, rotary_dim=config.head_width,
    )  # fmt: skip
    block = Block(attention, _gated(config), norm("input_layernorm"), norm("post_attention_layernorm"))
    return decoder("olmo", config, task, ((block, config.num_hidden_layers),), norm("model.norm"))


def _gated(config: RotaryConfig) -> FeedForward:
    return FeedForward(
        "mlp", config.intermediate_size, "up_proj", "down_proj", config.hidden_act, "gate_proj",
        config.mlp_bias,
    )  # fmt: skip


class Gemma2Config(RotaryConfig):
    """Layers with a window and without one by turns; norms behind attention and network too."""

    default_architecture: ClassVar[str] = "Gemma2ForCausalLM"
    #: A layer whose number is a multiple of this sees everything.
    full_every: ClassVar[int] = 2
    head_norms: ClassVar[bool] = False
    vocab_size: Rows = 256000
    hidden_size: Width = 2304
    intermediate_size: Width = 9216
    num_hidden_layers: Layers = 26
    num_attention_heads: Width = 8
    num_key_value_heads: Width | None = 4
    head_dim: Width | None = 256
    hidden_act: Activation = Field("gelu_pytorch_tanh", alias="hidden_activation")
    tie_word_embeddings: bool = True
    sliding_window: Window = 4096
    query_pre_attn_scalar: Annotated[float, Field(gt=0)] = 256
    attn_logit_softcapping: Annotated[float, Field(gt=0)] | None = 50.0

    @property
    def seen(self) -> tuple[int | None, ...]:
        """The window of each layer."""
        if self.layer_types is not None:
            return tuple(
                self.sliding_window if kind == "sliding_attention" else None for kind in self.layer_types
            )
        numbers = range(1, self.num_hidden_layers + 1)
        return tuple(None if number % self.full_every == 0 else self.sliding_window for number in numbers)


class Gemma3Config(Gemma2Config):
    default_architecture: ClassVar[str] = "Gemma3ForCausalLM"
    full_every: ClassVar[int] = 6
    head_norms: ClassVar[bool] = True
    vocab_size: Rows = 262208
    attn_logit_softcapping: Annotated[float, Field(gt=0)] | None = None


def _gemma2(model_type: str, config: Gemma2Config, task: str) -> Transformer:
    epsilon = config.rms_norm_eps

    def block(window: int | None) -> Block:
        norms = [
            Norm(f"self_attn.{name}", "rmsnorm", epsilon, ("e",)) if config.head_norms else None
            for name in ("q_norm", "k_norm")
        ]
        attention = Attention(
            "self_attn", config.num_attention_heads, config.n_kv_heads, config.head_width, "o_proj",
            qkv_bias=config.attention_bias, output_bias=config.attention_bias, window=window,
            rotary_dim=config.head_width, scale=config.query_pre_attn_scalar**-0.5,
            softcap=config.attn_logit_softcapping, query_norm=norms[0], key_norm=norms[1],
        )  # fmt: skip
        return Block(
            attention, _gated(config), rms_norm("input_layernorm", epsilon),
            rms_norm("pre_feedforward_layernorm", epsilon),
            attention_out_norm=rms_norm("post_attention_layernorm", epsilon),
            feed_forward_out_norm=rms_norm("post_feedforward_layernorm", epsilon),
        )  # fmt: skip

    blocks = {window: block(window) for window in set(config.seen)}
    runs = tuple((blocks[window], 1) for window in config.seen)
    # with norms of the heads, local and global layers have angles of their own
    return decoder(
        model_type, config, task, runs, rms_norm("model.norm", epsilon),
        scale=sqrt(config.hidden_size), angle_sets=2 if config.head_norms else 1,
    )  # fmt: skip


_EXPERTS = also("num_experts", "num_local_experts")


class MoeConfig(RotaryConfig):
    """Decoders whose networks are mixtures of experts in some or all layers."""

    moe_intermediate_size: Width = 768
    num_experts: Count = Field(128, validation_alias=_EXPERTS)
    num_experts_per_tok: Count = 8
    use_sliding_window: bool = False
    sliding_window: Window = 4096
    decoder_sparse_step: Count = 1
    mlp_only_layers: list[Annotated[int, Field(ge=0)]] | None = None

    @model_validator(mode="after")
    def _enough_experts(self) -> "MoeConfig":
        if self.num_experts_per_tok > self.num_experts:
            raise ValueError(
                f"num_experts_per_tok {self.num_experts_per_tok} exceeds num_experts {self.num_experts}"
            )
        return self

    @property
    def sparse(self) -> tuple[bool, ...]:
        """Which layers are mixtures."""
        dense = set(self.mlp_only_layers or ())
        step = self.decoder_sparse_step
        return tuple(i not in dense and (i + 1) % step == 0 for i in range(self.num_hidden_layers))

    @property
    def seen(self) -> tuple[int | None, ...]:
        """The window of each layer: none unless the file asks for windows."""
        if not self.use_sliding_window:
            return (None,) * self.num_hidden_layers
        return tuple(window for window, count in self.windows for _ in range(count))


class Qwen2MoeConfig(MoeConfig):
    default_architecture: ClassVar[str] = "Qwen2MoeForCausalLM"
    vocab_size: Rows = 151936
    hidden_size: Width = 2048
    intermediate_size: Width = 5632
    num_hidden_layers: Layers = 24
    num_attention_heads: Width = 16
    moe_intermediate_size: Width = 1408
    shared_expert_intermediate_size: Width = 5632
    num_experts: Count = Field(60, validation_alias=_EXPERTS)
    num_experts_per_tok: Count = 4
    max_window_layers: Annotated[int, Field(ge=0)] = 28
    qkv_bias: bool = True

    @property
    def windows(self) -> tuple[tuple[int | None, int], ...]:
        """Without layer types every second one of the first `max_window_layers` is bounded."""
        if self.layer_types is not None:
            return super().windows
        layers = range(self.num_hidden_layers)
        bounded = (layer % 2 == 0 and layer < self.max_window_layers for layer in layers)
        return tuple((self.sliding_window if found else None, 1) for found in bounded)


class Qwen3MoeConfig(MoeConfig):
    default_architecture: ClassVar[str] = "Qwen3MoeForCausalLM"
    vocab_size: Rows = 151936
    hidden_size: Width = 2048
    intermediate_size: Width = 6144
    num_hidden_layers: Layers = 24
    num_key_value_heads: Width | None = 4


class OlmoeConfig(MoeConfig):
    """All layers are mixtures of networks of the `intermediate_size`."""

    default_architecture: ClassVar[str] = "OlmoeForCausalLM"
    vocab_size: Rows = 50304
    hidden_size: Width = 2048
    intermediate_size: Width = 2048
    num_hidden_layers: Layers = 16
    num_attention_heads: Width = 16
    rms_norm_eps: Epsilon = 1e-5
    num_experts: Count = Field(64, validation_alias=_EXPERTS)


def _qwen2_moe(config: Qwen2MoeConfig, task: str) -> Transformer:
    shared = FeedForward(
        "mlp.shared_expert", config.shared_expert_intermediate_size, "up_proj", "down_proj",
        config.hidden_act, "gate_proj",
    )  # fmt: skip
    experts = Experts(
        "mlp", config.num_experts, config.num_experts_per_tok, config.moe_intermediate_size,
        config.hidden_act, shared=shared, shared_gate="shared_expert_gate",
    )  # fmt: skip
    attention = Attention(
        "self_attn", config.num_attention_heads, config.n_kv_heads, config.head_width, "o_proj",
        qkv_bias=config.qkv_bias, rotary_dim=config.head_width,
    )  # fmt: skip
    return _mixed("qwen2_moe", config, task, attention, experts)


def _qwen3_moe(config: Qwen3MoeConfig, task: str) -> Transformer:
    epsilon = config.rms_norm_eps
    experts = Experts(
        "mlp", config.num_experts, config.num_experts_per_tok, config.moe_intermediate_size, config.hidden_act
    )
    attention = Attention(
        "self_attn", config.num_attention_heads, config.n_kv_heads, config.head_width, "o_proj",
        qkv_bias=config.attention_bias, output_bias=config.attention_bias, rotary_dim=config.head_width,
        query_norm=Norm("self_attn.q_norm", "rmsnorm", epsilon, ("e",)),
        key_norm=Norm("self_attn.k_norm", "rmsnorm", epsilon, ("e",)),
    )  # fmt: skip
    return _mixed("qwen3_moe", config, task, attention, experts)


def _olmoe(config: OlmoeConfig, task: str) -> Transformer:
    """Queries and keys are normalised over all heads at once."""
    epsilon = config.rms_norm_eps
    experts = Experts(
        "mlp", config.num_experts, config.num_experts_per_tok, config.intermediate_size, config.hidden_act
    )
    groups = "h" if config.n_kv_heads == config.num_attention_heads else "g"
    attention = Attention(
        "self_attn", config.num_attention_heads, config.n_kv_heads, config.head_width, "o_proj",
        qkv_bias=config.attention_bias, output_bias=config.attention_bias, rotary_dim=config.head_width,
        query_norm=Norm("self_attn.q_norm", "rmsnorm", epsilon, ("h", "e")),
        key_norm=Norm("self_attn.k_norm", "rmsnorm", epsilon, (groups, "e")),
    )  # fmt: skip
    return _mixed("olmoe", config, task, attention, experts)


def _mixed(
    model_type: str, config: MoeConfig, task: str, attention: Attention, experts: Experts
) -> Transformer:
    """Blocks with experts where the file wants them, with one network elsewhere."""
    epsilon = config.rms_norm_eps
    norms = (rms_norm("input_layernorm", epsilon), rms_norm("post_attention_layernorm", epsilon))
    layers = tuple(zip(config.sparse, config.seen, strict=True))
    kinds = {
        (sparse, window): Block(
            replace(attention, window=window), experts if sparse else _gated(config), *norms
        )
        for sparse, window in set(layers)
    }
    blocks = tuple((kinds[layer], 1) for layer in layers)
    return decoder(model_type, config, task, blocks, rms_norm("model.norm", epsilon))


_FUSED = {"q": "self_attn.qkv_proj", "k": "self_attn.qkv_proj", "v": "self_attn.qkv_proj"}

FAMILIES: Mapping[str, Family[Any]] = {
    "phi3": Family(
        Phi3Config, _phi3,
        {
            **ATTENTION_TARGETS, **_FUSED, "up": "mlp.gate_up_proj", "gate": "mlp.gate_up_proj",
            "down": "mlp.down_proj",
        },
    ),
    "starcoder2": Family(
        Starcoder2Config, _starcoder2, {**ATTENTION_TARGETS, "up": "mlp.c_fc", "down": "mlp.c_proj"}
    ),
    "olmo": Family(OlmoConfig, _olmo, TARGETS),
    "gemma2": Family(Gemma2Config, lambda config, task: _gemma2("gemma2", config, task), TARGETS),
    "gemma3_text": Family(
        Gemma3Config, lambda config, task: _gemma2("gemma3_text", config, task), TARGETS
    ),
    "qwen2_moe": Family(Qwen2MoeConfig, _qwen2_moe, ATTENTION_TARGETS),
    "qwen3_moe": Family(Qwen3MoeConfig, _qwen3_moe, ATTENTION_TARGETS),
    "olmoe": Family(OlmoeConfig, _olmoe, ATTENTION_TARGETS),
}  # fmt: skip
