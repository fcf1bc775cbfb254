"""Families of the GPT kind: learned positions or none, LayerNorm, a plain feed-forward network."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

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
from tilewright.workloads.head import Head, Stage, text_head
from tilewright.workloads.norms import layer_norm
from tilewright.workloads.transformer import Transformer


class Gpt2Config(ConfigFile):
    """`model_type` gpt2; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "GPT2LMHeadModel"
    vocab_size: Rows = 50257
    n_positions: Rows = Field(1024, validation_alias=also("n_positions", "max_position_embeddings"))
    n_embd: Width = Field(768, validation_alias=also("n_embd", "hidden_size"))
    n_layer: Layers = Field(12, validation_alias=also("n_layer", "num_hidden_layers"))
    n_head: Width = Field(12, validation_alias=also("n_head", "num_attention_heads"))
    n_inner: Width | None = None
    activation_function: Activation = "gelu_new"
    layer_norm_epsilon: Epsilon = 1e-5
    tie_word_embeddings: bool = True
    add_cross_attention: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "Gpt2Config":
        refuse_remainder(self.n_embd, self.n_head, "n_embd", "n_head")
        if self.add_cross_attention:
            raise ValueError("add_cross_attention: cross attention has no keys without an encoder")
        return self


def _gpt2(config: Gpt2Config, task: str) -> Transformer:
    attention = Attention(
        path="attn", n_heads=config.n_head, n_kv_heads=config.n_head,
        head_dim=config.n_embd // config.n_head, fused="c_attn", output="c_proj",
        qkv_bias=True, output_bias=True,
    )  # fmt: skip
    inner = FeedForward(
        "mlp", config.n_inner or 4 * config.n_embd, "c_fc", "c_proj", config.activation_function, bias=True
    )
    epsilon, table = config.layer_norm_epsilon, "transformer.wte"
    block = Block(attention, inner, layer_norm("ln_1", epsilon), layer_norm("ln_2", epsilon))
    return Transformer(
        model_type="gpt2",
        width=config.n_embd,
        path="transformer.h",
        embedding=Embedding(
            table, config.vocab_size, positions="transformer.wpe", n_positions=config.n_positions
        ),
        blocks=((block, config.n_layer),),
        final_norm=layer_norm("transformer.ln_f", epsilon),
        head=text_head(config, task, config.vocab_size, table, tied=config.tie_word_embeddings),
        max_positions=config.n_positions,
    )


class OptConfig(ConfigFile):
    """`model_type` opt; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "OPTForCausalLM"
    vocab_size: Rows = 50272
    hidden_size: Width = 768
    num_hidden_layers: Layers = 12
    num_attention_heads: Width = 12
    ffn_dim: Width = 3072
    max_position_embeddings: Rows = 2048
    do_layer_norm_before: bool = True
    word_embed_proj_dim: Width | None = None
    activation_function: Activation = "relu"
    enable_bias: bool = True
    layer_norm_elementwise_affine: bool = True
    tie_word_embeddings: bool = True
    remove_final_norm: bool = Field(False, validation_alias="_remove_final_layer_norm")

    @model_validator(mode="after")
    def _consistent(self) -> "OptConfig":
        refuse_remainder(self.hidden_size, self.num_attention_heads, "hidden_size", "num_attention_heads")
        return self


#: Rows before the first position in OPT's table of positions.
_OPT_POSITION_OFFSET = 2
_NORM_EPSILON = 1e-5


def _opt(config: OptConfig, task: str) -> Transformer:
    affine, bias = config.layer_norm_elementwise_affine, config.enable_bias
    heads, width = config.num_attention_heads, config.hidden_size
    attention = Attention(
        "self_attn", heads, heads, width // heads, "out_proj", qkv_bias=bias, output_bias=bias
    )
    inner = FeedForward("", config.ffn_dim, "fc1", "fc2", config.activation_function, bias=bias)
    before = config.do_layer_norm_before
    block = Block(
        attention, inner,
        layer_norm("self_attn_layer_norm", _NORM_EPSILON, affine),
        layer_norm("final_layer_norm", _NORM_EPSILON, affine),
        "pre" if before else "post",
    )  # fmt: skip
    table_width = config.word_embed_proj_dim or width
    projects = table_width != width
    table = "model.decoder.embed_tokens"
    head = text_head(config, task, config.vocab_size, table, tied=config.tie_word_embeddings)
    if projects:
        narrow = Stage("model.decoder.project_out", bias=False, part="body", width=table_width)
        head = replace(head or Head(), stages=(narrow,))
    return Transformer(
        model_type="opt",
        width=width,
        path="model.decoder.layers",
        embedding=Embedding(
            table, config.vocab_size,
            positions="model.decoder.embed_positions",
            n_positions=config.max_position_embeddings + _OPT_POSITION_OFFSET,
            position_offset=_OPT_POSITION_OFFSET,
            table_width=table_width, project="model.decoder.project_in" if projects else "",
        ),
        blocks=((block, config.num_hidden_layers),),
        final_norm=layer_norm("model.decoder.final_layer_norm", _NORM_EPSILON, affine)
        if before and not config.remove_final_norm
        else None,
        head=head,
        max_positions=config.max_position_embeddings,
    )  # fmt: skip


FAMILIES: Mapping[str, Family[Any]] = {
    "gpt2": Family(
        Gpt2Config, _gpt2,
        {
            "q": "attn.c_attn", "k": "attn.c_attn", "v": "attn.c_attn", "o": "attn.c_proj",
            "up": "mlp.c_fc", "down": "mlp.c_proj",
        },
        ("DoubleHeadsModel",),
    ),
    "opt": Family(
        OptConfig, _opt,
        {
            "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
            "o": "self_attn.out_proj", "up": "fc1", "down": "fc2",
        },
    ),
}  # fmt: skip
