"""Families of encoders with a decoder: T5, BART and its like, Whisper."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from tilewright.workloads.attention import Attention
from tilewright.workloads.audio import FrameEmbedding
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
from tilewright.workloads.embedding import Embedding, RelativeBias
from tilewright.workloads.family import Family
from tilewright.workloads.feed_forward import FeedForward
from tilewright.workloads.head import Head, Stage, task_of
from tilewright.workloads.norms import layer_norm, rms_norm
from tilewright.workloads.transformer import EncoderDecoder, Entry, Transformer


class T5Config(ConfigFile):
    """`model_type` t5; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "T5ForConditionalGeneration"
    vocab_size: Rows = 32128
    d_model: Width = Field(512, validation_alias=also("d_model", "hidden_size"))
    d_kv: Width = 64
    d_ff: Width = 2048
    num_layers: Layers = Field(6, validation_alias=also("num_layers", "num_hidden_layers"))
    num_decoder_layers: Layers | None = None
    num_heads: Width = Field(8, validation_alias=also("num_heads", "num_attention_heads"))
    relative_attention_num_buckets: Width = 32
    layer_norm_epsilon: Epsilon = 1e-6
    feed_forward_proj: Literal["relu", "gelu", "silu", "gated-gelu", "gated-silu", "gated-relu"] = "relu"
    tie_word_embeddings: bool = True


def _t5(config: T5Config, task: str) -> EncoderDecoder | Transformer:
    n_layers, found = config.num_layers, task_of(config, task)
    tied = config.tie_word_embeddings
    if found == "TOKEN_CLS" or (config.architecture.endswith("EncoderModel") and not task):
        labels = Head("classifier", config.n_labels, bias=True, adapts=True)
        alone = _t5_stack(config, "encoder", n_layers, labels if found == "TOKEN_CLS" else None)
        assert isinstance(alone.embedding, Embedding)
        return replace(alone, embedding=replace(alone.embedding, table="shared", tied_to=""))
    head = Head(
        "lm_head", config.vocab_size, "shared" if tied else "",
        input_scale=config.d_model**-0.5 if tied else 1.0,
    )  # fmt: skip
    end, repeats = _end(config, task, head)
    return EncoderDecoder(
        model_type="t5",
        encoder=_t5_stack(config, "encoder", n_layers, None),
        decoder=_t5_stack(config, "decoder", config.num_decoder_layers or n_layers, end),
        shared=("shared", config.vocab_size),
        repeats_input=repeats,
    )  # fmt: skip


def _t5_stack(config: T5Config, path: str, n_layers: int, head: Head | None) -> Transformer:
    decodes, epsilon = path == "decoder", config.layer_norm_epsilon
    heads, width = config.num_heads, config.d_kv
    own = Attention(
        "layer.0.SelfAttention", heads, heads, width, "o", query="q", key="k", value="v",
        causal=decodes, cached=decodes, biased=True, scale=1.0,
    )  # fmt: skip
    cross = Attention(
        "layer.1.EncDecAttention", heads, heads, width, "o", query="q", key="k", value="v",
        causal=False, from_encoder=True, scale=1.0,
    )  # fmt: skip
    last = 2 if decodes else 1
    gate, _, name = config.feed_forward_proj.rpartition("-")
    function = "gelu_new" if gate and name == "gelu" else name
    inner = FeedForward(
        f"layer.{last}.DenseReluDense", config.d_ff, "wi_1" if gate else "wi", "wo", function,
        "wi_0" if gate else "",
    )  # fmt: skip
    block = Block(
        own, inner, rms_norm("layer.0.layer_norm", epsilon), rms_norm(f"layer.{last}.layer_norm", epsilon),
        cross=cross if decodes else None,
        cross_norm=rms_norm("layer.1.layer_norm", epsilon) if decodes else None,
    )  # fmt: skip
    bias = f"{path}.block.0.layer.0.SelfAttention.relative_attention_bias"
    return Transformer(
        model_type="t5",
        width=config.d_model,
        path=f"{path}.block",
        embedding=Embedding(
            f"{path}.embed_tokens", config.vocab_size, tied_to="shared.weight",
            relative=RelativeBias(bias, config.relative_attention_num_buckets, config.num_heads),
        ),
        blocks=((block, n_layers),),
        final_norm=rms_norm(f"{path}.final_layer_norm", epsilon),
        head=head,
    )  # fmt: skip


def _end(config: ConfigFile, task: str, head: Head) -> tuple[Head | None, bool]:
    """The decoder's end, and whether the decoder reads what the encoder does.

    `head` for generation, none for bare states; classifiers and finders of answers feed the text to both.
    Raises ValueError for other tasks.
    """
    if config.architecture.endswith("ForCausalLM") and not task:
        raise ValueError(f"architectures: {config.architecture[:60]!r}: a decoder alone is not supported")
    match task_of(config, task):
        case "" | "SEQ_2_SEQ_LM":
            return head, False
        case "FEATURE_EXTRACTION":
            return None, False
        case "SEQ_CLS":
            dense = Stage("classification_head.dense", "tanh")
            module = "classification_head.out_proj"
            return Head(
                module, config.n_labels, bias=True, adapts=True, stages=(dense,), selects="last"
            ), True
        case "QUESTION_ANS":
            return Head("qa_outputs", 2, bias=True, adapts=True), True
        case _ as found:
            raise ValueError(f"the task {found} of an encoder with a decoder is not supported")


class BartConfig(ConfigFile):
    """`model_type` bart; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "BartForConditionalGeneration"
    vocab_size: Rows = 50265
    d_model: Width = Field(1024, validation_alias=also("d_model", "hidden_size"))
    encoder_layers: Layers = 12
    decoder_layers: Layers = 12
    encoder_attention_heads: Width = 16
    decoder_attention_heads: Width = 16
    encoder_ffn_dim: Width = 4096
    decoder_ffn_dim: Width = 4096
    activation_function: Activation = "gelu"
    max_position_embeddings: Rows = 1024
    scale_embedding: bool = False
    tie_word_embeddings: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> "BartConfig":
        for name in ("encoder_attention_heads", "decoder_attention_heads"):
            refuse_remainder(self.d_model, getattr(self, name), "d_model", name)
        return self


class WhisperConfig(BartConfig):
    """`model_type` whisper; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "WhisperForConditionalGeneration"
    vocab_size: Rows = 51865
    d_model: Width = Field(384, validation_alias=also("d_model", "hidden_size"))
    encoder_layers: Layers = 4
    decoder_layers: Layers = 4
    encoder_attention_heads: Width = 6
    decoder_attention_heads: Width = 6
    encoder_ffn_dim: Width = 1536
    decoder_ffn_dim: Width = 1536
    num_mel_bins: Width = 80
    max_source_positions: Rows = 1500
    max_target_positions: Rows = 448
    classifier_proj_size: Width = 256
    use_weighted_layer_sum: Literal[False] = False


class PegasusConfig(BartConfig):
    """`model_type` pegasus; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "PegasusForConditionalGeneration"


#: Rows before the first position in BART's tables of positions, and the library's fixed epsilon.
_BART_POSITION_OFFSET, _EPSILON = 2, 1e-5


@dataclass(frozen=True, slots=True)
class _Traits:
    """How the families of BART's kind differ."""

    before: bool  # norms stand before attention and network, and one more behind the last layer
    key_bias: bool = True


def _stack(
    model_type: str, config: BartConfig, traits: _Traits, side: Literal["encoder", "decoder"],
    embedding: Entry, max_positions: int, head: Head | None,
) -> Transformer:  # fmt: skip
    decodes, width = side == "decoder", config.d_model
    heads = config.decoder_attention_heads if decodes else config.encoder_attention_heads
    inner_width = config.decoder_ffn_dim if decodes else config.encoder_ffn_dim

    def attention(path: str, **terms: Any) -> Attention:
        return Attention(
            path, heads, heads, width // heads, "out_proj", qkv_bias=True, output_bias=True,
            key_bias=traits.key_bias, **terms,
        )  # fmt: skip

    block = Block(
        attention("self_attn", causal=decodes, cached=decodes),
        FeedForward("", inner_width, "fc1", "fc2", config.activation_function, bias=True),
        layer_norm("self_attn_layer_norm", _EPSILON),
        layer_norm("final_layer_norm", _EPSILON),
        "pre" if traits.before else "post",
        cross=attention("encoder_attn", causal=False, from_encoder=True) if decodes else None,
        cross_norm=layer_norm("encoder_attn_layer_norm", _EPSILON) if decodes else None,
    )
    return Transformer(
        model_type=model_type,
        width=width,
        path=f"model.{side}.layers",
        embedding=embedding,
        blocks=((block, config.decoder_layers if decodes else config.encoder_layers),),
        final_norm=layer_norm(f"model.{side}.layer_norm", _EPSILON) if traits.before else None,
        head=head,
        max_positions=max_positions,
    )


def _bart(config: BartConfig, task: str) -> EncoderDecoder:
    scale = sqrt(config.d_model) if config.scale_embedding else 1.0

    def embedding(side: str) -> Embedding:
        return Embedding(
            f"model.{side}.embed_tokens", config.vocab_size, tied_to="model.shared.weight", scale=scale,
            positions=f"model.{side}.embed_positions",
            n_positions=config.max_position_embeddings + _BART_POSITION_OFFSET,
            position_offset=_BART_POSITION_OFFSET,
            norm=layer_norm(f"model.{side}.layernorm_embedding", _EPSILON),
        )  # fmt: skip

    tied = "model.shared" if config.tie_word_embeddings else ""
    head, repeats = _end(config, task, Head("lm_head", config.vocab_size, tied))
    traits, limit = _Traits(before=False), config.max_position_embeddings
    return EncoderDecoder(
        repeats_input=repeats,
        model_type="bart",
        encoder=_stack("bart", config, traits, "encoder", embedding("encoder"), limit, None),
        decoder=_stack("bart", config, traits, "decoder", embedding("decoder"), limit, head),
        shared=("model.shared", config.vocab_size),
    )


def _pegasus(config: PegasusConfig, task: str) -> EncoderDecoder:
    """Norms before attention and network; positions are sines, never trained."""
    scale = sqrt(config.d_model) if config.scale_embedding else 1.0

    def embedding(side: str) -> Embedding:
        return Embedding(
            f"model.{side}.embed_tokens", config.vocab_size, tied_to="model.shared.weight", scale=scale,
            positions=f"model.{side}.embed_positions", n_positions=config.max_position_embeddings,
            frozen_positions=True,
        )  # fmt: skip

    tied = "model.shared" if config.tie_word_embeddings else ""
    head, repeats = _end(config, task, Head("lm_head", config.vocab_size, tied))
    traits, limit = _Traits(before=True), config.max_position_embeddings
    return EncoderDecoder(
        repeats_input=repeats,
        model_type="pegasus",
        encoder=_stack("pegasus", config, traits, "encoder", embedding("encoder"), limit, None),
        decoder=_stack("pegasus", config, traits, "decoder", embedding("decoder"), limit, head),
        shared=("model.shared", config.vocab_size),
    )


def _whisper(config: WhisperConfig, task: str) -> EncoderDecoder | Transformer:
    traits, n_tokens = _Traits(before=True, key_bias=False), config.max_source_positions
    frames = FrameEmbedding("model.encoder", config.num_mel_bins, n_tokens)
    if config.architecture.endswith("ForAudioClassification"):
        projector = Stage("projector", width=config.classifier_proj_size)
        labels = Head(
            "classifier", config.n_labels, bias=True, adapts=True, stages=(projector,), selects="mean_behind"
        )
        return _stack("whisper", config, traits, "encoder", frames, n_tokens, labels)
    table, limit = "model.decoder.embed_tokens", config.max_target_positions
    text = Embedding(
        table, config.vocab_size, positions="model.decoder.embed_positions", n_positions=limit,
        scale=sqrt(config.d_model) if config.scale_embedding else 1.0,
    )  # fmt: skip
    head, _ = _end(config, task, Head("proj_out", config.vocab_size, table))
    return EncoderDecoder(
        model_type="whisper",
        encoder=_stack("whisper", config, traits, "encoder", frames, n_tokens, None),
        decoder=_stack("whisper", config, traits, "decoder", text, limit, head),
        encoder_tokens=n_tokens,
        encoder_frames=frames.n_frames,
    )


def _both(module: str) -> tuple[str, ...]:
    """A module of BART's attention to itself and of that to the encoder."""
    return (f"self_attn.{module}", f"encoder_attn.{module}")


def _t5_both(module: str) -> tuple[str, ...]:
    return (f"layer.0.SelfAttention.{module}", f"layer.1.EncDecAttention.{module}")


def _t5_network(module: str) -> tuple[str, ...]:
    """A module of T5's network, the second part of a layer in the encoder, the third in the decoder."""
    return tuple(f"layer.{number}.DenseReluDense.{module}" for number in (1, 2))


_BART_TARGETS: Mapping[str, str | tuple[str, ...]] = {
    "q": _both("q_proj"), "k": _both("k_proj"), "v": _both("v_proj"), "o": _both("out_proj"),
    "up": "fc1", "down": "fc2",
}  # fmt: skip

FAMILIES: Mapping[str, Family[Any]] = {
    "t5": Family(
        T5Config, _t5,
        {
            "q": _t5_both("q"), "k": _t5_both("k"), "v": _t5_both("v"), "o": _t5_both("o"),
            "up": (*_t5_network("wi"), *_t5_network("wi_1")), "gate": _t5_network("wi_0"),
            "down": _t5_network("wo"),
        },
        ("EncoderModel",),
    ),
    "bart": Family(BartConfig, _bart, _BART_TARGETS),
    "pegasus": Family(PegasusConfig, _pegasus, _BART_TARGETS),
    "whisper": Family(WhisperConfig, _whisper, _BART_TARGETS),
}  # fmt: skip
