"""Decoders with LayerNorm and a plain network beside or behind attention: GPT-J, GPT-NeoX, GPT-Neo, BLOOM,
Falcon."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

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
    also,
    refuse_remainder,
)
from tilewright.workloads.embedding import Embedding
from tilewright.workloads.family import Family
from tilewright.workloads.feed_forward import FeedForward
from tilewright.workloads.head import Head, text_head
from tilewright.workloads.norms import layer_norm
from tilewright.workloads.transformer import Transformer

Fraction = Annotated[float, Field(gt=0, le=1)]


class GptNeoxConfig(ConfigFile):
    """`model_type` gpt_neox; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "GPTNeoXForCausalLM"
    vocab_size: Rows = 50432
    hidden_size: Width = 6144
    num_hidden_layers: Layers = 44
    num_attention_heads: Width = 64
    intermediate_size: Width = 24576
    hidden_act: Activation = "gelu"
    rotary_pct: Fraction | None = None
    partial_rotary_factor: Fraction | None = None
    rope_parameters: dict[str, Any] | None = None
    layer_norm_eps: Epsilon = 1e-5
    use_parallel_residual: bool = True
    attention_bias: bool = True
    tie_word_embeddings: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "GptNeoxConfig":
        refuse_remainder(self.hidden_size, self.num_attention_heads, "hidden_size", "num_attention_heads")
        return self

    @property
    def rotated(self) -> float:
        """The share of a head that is rotated, in every spelling; the library's 0.25."""
        stated = (self.rope_parameters or {}).get("partial_rotary_factor")
        share = stated or self.partial_rotary_factor or self.rotary_pct or 0.25
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise ValueError(f"rope_parameters.partial_rotary_factor must be in 0..1, got {share!r}")
        return float(share)


def _gpt_neox(config: GptNeoxConfig, task: str) -> Transformer:
    heads, width, epsilon = config.num_attention_heads, config.hidden_size, config.layer_norm_eps
    rotary_dim = int(width // heads * config.rotated)
    bias = config.attention_bias
    attention = Attention(
        "attention", heads, heads, width // heads, "dense", fused="query_key_value", qkv_bias=bias,
        output_bias=bias, rotary_dim=rotary_dim,
    )  # fmt: skip
    inner = FeedForward(
        "mlp", config.intermediate_size, "dense_h_to_4h", "dense_4h_to_h", config.hidden_act, bias=True
    )
    block = Block(
        attention, inner, layer_norm("input_layernorm", epsilon),
        layer_norm("post_attention_layernorm", epsilon),
        "parallel" if config.use_parallel_residual else "pre",
    )  # fmt: skip
    table = "gpt_neox.embed_in"
    head = text_head(config, task, config.vocab_size, table, tied=config.tie_word_embeddings)
    return Transformer(
        model_type="gpt_neox",
        width=width,
        path="gpt_neox.layers",
        embedding=Embedding(
            table, config.vocab_size, n_angles=rotary_dim // 2 if config.multiplies_angles else 0
        ),
        blocks=((block, config.num_hidden_layers),),
        final_norm=layer_norm("gpt_neox.final_layer_norm", epsilon),
        head=_renamed(head, "embed_out"),
    )


def _renamed(head: Head | None, module: str) -> Head | None:
    """A language model's head under the name that the family gives it."""
    return replace(head, module=module) if head and head.module == "lm_head" else head


class GptjConfig(ConfigFile):
    """`model_type` gptj; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "GPTJForCausalLM"
    vocab_size: Rows = 50400
    n_positions: Rows = Field(2048, validation_alias=also("n_positions", "max_position_embeddings"))
    n_embd: Width = Field(4096, validation_alias=also("n_embd", "hidden_size"))
    n_layer: Layers = Field(28, validation_alias=also("n_layer", "num_hidden_layers"))
    n_head: Width = Field(16, validation_alias=also("n_head", "num_attention_heads"))
    n_inner: Width | None = None
    rotary_dim: Width | None = 64
    activation_function: Activation = "gelu_new"
    layer_norm_epsilon: Epsilon = 1e-5
    tie_word_embeddings: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "GptjConfig":
        refuse_remainder(self.n_embd, self.n_head, "n_embd", "n_head")
        return self


def _gptj(config: GptjConfig, task: str) -> Transformer:
    width, epsilon, table = config.n_embd // config.n_head, config.layer_norm_epsilon, "transformer.wte"
    attention = Attention(
        "attn", config.n_head, config.n_head, width, "out_proj", rotary_dim=config.rotary_dim or width
    )
    inner = FeedForward(
        "mlp", config.n_inner or 4 * config.n_embd, "fc_in", "fc_out", config.activation_function, bias=True
    )
    tied = config.tie_word_embeddings
    return Transformer(
        model_type="gptj",
        width=config.n_embd,
        path="transformer.h",
        embedding=Embedding(table, config.vocab_size),
        blocks=((Block(attention, inner, layer_norm("ln_1", epsilon), None, "parallel"), config.n_layer),),
        final_norm=layer_norm("transformer.ln_f", epsilon),
        head=text_head(config, task, config.vocab_size, table, tied=tied, bias=True),
        max_positions=config.n_positions,
    )


class GptNeoConfig(ConfigFile):
    """`model_type` gpt_neo; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "GPTNeoForCausalLM"
    vocab_size: Rows = 50257
    max_position_embeddings: Rows = 2048
    hidden_size: Width = 2048
    num_layers: Layers = Field(24, validation_alias=also("num_layers", "num_hidden_layers"))
    num_heads: Width = Field(16, validation_alias=also("num_heads", "num_attention_heads"))
    attention_types: list[Any] | None = None
    intermediate_size: Width | None = None
    window_size: Annotated[int, Field(gt=1)] = 256
    activation_function: Activation = "gelu_new"
    layer_norm_epsilon: Epsilon = 1e-5
    tie_word_embeddings: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> "GptNeoConfig":
        refuse_remainder(self.hidden_size, self.num_heads, "hidden_size", "num_heads")
        if len(self.kinds) != self.num_layers:
            raise ValueError(
                f"attention_types: {len(self.kinds)} layers given, num_layers is {self.num_layers}"
            )
        return self

    @property
    def kinds(self) -> tuple[str, ...]:
        """`global` or `local` for each layer, from pairs of (kinds, how often)."""
        if self.attention_types is None:
            return tuple(("global", "local")[number % 2] for number in range(self.num_layers))
        found: list[str] = []
        for pair in self.attention_types:
            if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], list)
                    and isinstance(pair[1], int) and 0 < pair[1] <= self.num_layers
                    and all(kind in ("global", "local") for kind in pair[0])):  # fmt: skip
                raise ValueError(f"attention_types: {str(pair)[:60]!r} is no [[kind, ...], count]")
            found += pair[0] * pair[1]
        return tuple(found)


def _gpt_neo(config: GptNeoConfig, task: str) -> Transformer:
    """Local attention is a mask: the cache keeps every token. Scores are not scaled."""
    heads, width, epsilon, table = (
        config.num_heads, config.hidden_size, config.layer_norm_epsilon, "transformer.wte",
    )  # fmt: skip
    inner = FeedForward(
        "mlp", config.intermediate_size or 4 * width, "c_fc", "c_proj", config.activation_function, bias=True
    )

    def block(kind: str) -> Block:
        attention = Attention(
            "attn.attention", heads, heads, width // heads, "out_proj", output_bias=True, scale=1.0,
            window=config.window_size if kind == "local" else None, window_bounds_cache=False,
        )  # fmt: skip
        return Block(attention, inner, layer_norm("ln_1", epsilon), layer_norm("ln_2", epsilon))

    blocks = {kind: block(kind) for kind in set(config.kinds)}
    return Transformer(
        model_type="gpt_neo",
        width=width,
        path="transformer.h",
        embedding=Embedding(
            table, config.vocab_size,
            positions="transformer.wpe", n_positions=config.max_position_embeddings,
        ),
        blocks=tuple((blocks[kind], 1) for kind in config.kinds),
        final_norm=layer_norm("transformer.ln_f", epsilon),
        head=text_head(config, task, config.vocab_size, table, tied=config.tie_word_embeddings),
        max_positions=config.max_position_embeddings,
    )  # fmt: skip


class BloomConfig(ConfigFile):
    """`model_type` bloom; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "BloomForCausalLM"
    vocab_size: Rows = 250880
    hidden_size: Width = Field(64, validation_alias=also("hidden_size", "n_embed"))
    n_layer: Layers = Field(2, validation_alias=also("n_layer", "num_hidden_layers"))
    n_head: Width = Field(8, validation_alias=also("n_head", "num_attention_heads"))
    layer_norm_epsilon: Epsilon = 1e-5
    tie_word_embeddings: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> "BloomConfig":
        refuse_remainder(self.hidden_size, self.n_head, "hidden_size", "n_head")
        return self


def _bloom(config: BloomConfig, task: str) -> Transformer:
    """The bias of the scores grows with the distance, per head (ALiBi)."""
    heads, width, epsilon = config.n_head, config.hidden_size, config.layer_norm_epsilon
    attention = Attention(
        "self_attention", heads, heads, width // heads, "dense", fused="query_key_value", qkv_bias=True,
        output_bias=True, biased=True,
    )  # fmt: skip
    inner = FeedForward("mlp", 4 * width, "dense_h_to_4h", "dense_4h_to_h", "gelu_new", bias=True)
    norms = (layer_norm("input_layernorm", epsilon), layer_norm("post_attention_layernorm", epsilon))
    table = "transformer.word_embeddings"
    return Transformer(
        model_type="bloom",
        width=width,
        path="transformer.h",
        embedding=Embedding(
            table, config.vocab_size, norm=layer_norm("transformer.word_embeddings_layernorm", epsilon)
        ),
        blocks=((Block(attention, inner, *norms), config.n_layer),),
        final_norm=layer_norm("transformer.ln_f", epsilon),
        head=text_head(config, task, config.vocab_size, table, tied=config.tie_word_embeddings),
    )


class FalconConfig(ConfigFile):
    """`model_type` falcon; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "FalconForCausalLM"
    vocab_size: Rows = 65024
    hidden_size: Width = 4544
    num_hidden_layers: Layers = 32
    num_attention_heads: Width = 71
    num_kv_heads: Width | None = None
    num_ln_in_parallel_attn: Annotated[int, Field(ge=1, le=2)] | None = None
    ffn_hidden_size: Width | None = None
    layer_norm_epsilon: Epsilon = 1e-5
    activation: Activation = "gelu"
    alibi: bool = False
    new_decoder_architecture: bool = False
    multi_query: bool = True
    parallel_attn: bool = True
    bias: bool = False
    tie_word_embeddings: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> "FalconConfig":
        refuse_remainder(self.hidden_size, self.num_attention_heads, "hidden_size", "num_attention_heads")
        refuse_remainder(self.num_attention_heads, self.n_kv_heads, "num_attention_heads", "num_kv_heads")
        return self

    @property
    def n_kv_heads(self) -> int:
        """One head of keys with multi-query attention, else as stated or as many as queries have."""
        if self.new_decoder_architecture:
            return self.num_kv_heads or self.num_attention_heads
        return 1 if self.multi_query else self.num_attention_heads

    @property
    def n_norms(self) -> int:
        """Norms before attention and network where they stand side by side."""
        return self.num_ln_in_parallel_attn or (2 if self.new_decoder_architecture else 1)


def _falcon(config: FalconConfig, task: str) -> Transformer:
    heads, width, epsilon = config.num_attention_heads, config.hidden_size, config.layer_norm_epsilon
    attention = Attention(
        "self_attention", heads, config.n_kv_heads, width // heads, "dense", fused="query_key_value",
        qkv_bias=config.bias, output_bias=config.bias, biased=config.alibi,
        rotary_dim=0 if config.alibi else width // heads, repeats_keys=config.new_decoder_architecture,
    )  # fmt: skip
    inner = FeedForward(
        "mlp", config.ffn_hidden_size or 4 * width, "dense_h_to_4h", "dense_4h_to_h", config.activation,
        bias=config.bias,
    )  # fmt: skip
    parallel = config.parallel_attn or config.new_decoder_architecture
    if config.new_decoder_architecture and config.n_norms == 2:
        norms = (layer_norm("ln_attn", epsilon), layer_norm("ln_mlp", epsilon))
        block = Block(attention, inner, *norms, "parallel")
    elif parallel:
        block = Block(attention, inner, layer_norm("input_layernorm", epsilon), None, "parallel")
    else:
        norms = (layer_norm("input_layernorm", epsilon), layer_norm("post_attention_layernorm", epsilon))
        block = Block(attention, inner, *norms)
    table, tied = "transformer.word_embeddings", config.tie_word_embeddings
    n_angles = width // heads // 2 if config.multiplies_angles else 0  # with ALiBi too
    return Transformer(
        model_type="falcon",
        width=width,
        path="transformer.h",
        embedding=Embedding(table, config.vocab_size, n_angles=n_angles),
        blocks=((block, config.num_hidden_layers),),
        final_norm=layer_norm("transformer.ln_f", epsilon),
        head=text_head(config, task, config.vocab_size, table, tied=tied),
    )


def _fused(attention: str) -> dict[str, str | tuple[str, ...]]:
    """Logical targets of the families with one product for queries, keys and values."""
    module = f"{attention}.query_key_value"
    return {
        "q": module, "k": module, "v": module, "o": f"{attention}.dense",
        "up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h",
    }  # fmt: skip


FAMILIES: Mapping[str, Family[Any]] = {
    "gpt_neox": Family(GptNeoxConfig, _gpt_neox, _fused("attention")),
    "bloom": Family(BloomConfig, _bloom, _fused("self_attention")),
    "falcon": Family(FalconConfig, _falcon, _fused("self_attention")),
    "gptj": Family(
        GptjConfig, _gptj,
        {
            "q": "attn.q_proj", "k": "attn.k_proj", "v": "attn.v_proj", "o": "attn.out_proj",
            "up": "mlp.fc_in", "down": "mlp.fc_out",
        },
    ),
    "gpt_neo": Family(
        GptNeoConfig, _gpt_neo,
        {
            "q": "attn.attention.q_proj", "k": "attn.attention.k_proj", "v": "attn.attention.v_proj",
            "o": "attn.attention.out_proj", "up": "mlp.c_fc", "down": "mlp.c_proj",
        },
    ),
}  # fmt: skip
