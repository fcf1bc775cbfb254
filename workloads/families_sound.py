"""Families of encoders of sound: wav2vec 2.0, and the audio spectrogram transformer."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tilewright.workloads.attention import Attention
from tilewright.workloads.block import Block
from tilewright.workloads.config import Activation, ConfigFile, Epsilon, Layers, Rows, Width, refuse_remainder
from tilewright.workloads.family import Family
from tilewright.workloads.feed_forward import FeedForward
from tilewright.workloads.head import Head, Stage, task_of
from tilewright.workloads.norms import Norm, layer_norm
from tilewright.workloads.sequence_convolution import SequenceConvolution
from tilewright.workloads.sound import Quantiser, SpectrogramEmbedding, WaveEmbedding
from tilewright.workloads.transformer import Transformer

Taps = Annotated[int, Field(gt=0, le=4096)]

#: A second of sound at the rate that the models are trained on.
DEFAULT_SAMPLES = 16_000


class Wav2Vec2Config(ConfigFile):
    """`model_type` wav2vec2; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "Wav2Vec2ForCTC"
    vocab_size: Rows = 32
    hidden_size: Width = 768
    num_hidden_layers: Layers = 12
    num_attention_heads: Width = 12
    intermediate_size: Width = 3072
    hidden_act: Activation = "gelu"
    layer_norm_eps: Epsilon = 1e-5
    feat_extract_norm: Literal["group", "layer"] = "group"
    feat_extract_activation: Activation = "gelu"
    conv_dim: tuple[Width, ...] = Field((512,) * 7, strict=False, min_length=1, max_length=64)
    conv_stride: tuple[Taps, ...] = Field((5, 2, 2, 2, 2, 2, 2), strict=False)
    conv_kernel: tuple[Taps, ...] = Field((10, 3, 3, 3, 3, 2, 2), strict=False)
    conv_bias: bool = False
    num_conv_pos_embeddings: Taps = 128
    num_conv_pos_embedding_groups: Width = 16
    do_stable_layer_norm: bool = False
    mask_time_prob: Annotated[float, Field(ge=0, le=1)] = 0.05
    mask_feature_prob: Annotated[float, Field(ge=0, le=1)] = 0.0
    num_codevectors_per_group: Width = 320
    num_codevector_groups: Width = 2
    codevector_dim: Width = 256
    proj_codevector_dim: Width = 256
    classifier_proj_size: Width = 256
    use_weighted_layer_sum: Literal[False] = False
    add_adapter: Literal[False] = False
    adapter_attn_dim: None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Wav2Vec2Config":
        refuse_remainder(self.hidden_size, self.num_attention_heads, "hidden_size", "num_attention_heads")
        groups = "num_conv_pos_embedding_groups"
        refuse_remainder(self.hidden_size, self.num_conv_pos_embedding_groups, "hidden_size", groups)
        refuse_remainder(
            self.codevector_dim, self.num_codevector_groups, "codevector_dim", "num_codevector_groups"
        )
        for name in ("conv_stride", "conv_kernel"):
            if len(getattr(self, name)) != len(self.conv_dim):
                raise ValueError(
                    f"{name}: {len(getattr(self, name))} given, conv_dim has {len(self.conv_dim)}"
                )
        return self


def _wav2vec2(config: Wav2Vec2Config, task: str) -> Transformer:
    heads, width, epsilon = config.num_attention_heads, config.hidden_size, config.layer_norm_eps
    prefix, stable = "wav2vec2", config.do_stable_layer_norm
    attention = Attention(
        "attention", heads, heads, width // heads, "out_proj", qkv_bias=True, output_bias=True, causal=False,
        cached=False,
    )  # fmt: skip
    inner = FeedForward(
        "feed_forward", config.intermediate_size, "intermediate_dense", "output_dense", config.hidden_act,
        bias=True,
    )  # fmt: skip
    norms = (layer_norm("layer_norm", epsilon), layer_norm("final_layer_norm", epsilon))
    block = Block(attention, inner, *norms, "pre" if stable else "post")
    norm = layer_norm(f"{prefix}.encoder.layer_norm", epsilon)
    return Transformer(
        model_type="wav2vec2",
        width=width,
        path=f"{prefix}.encoder.layers",
        embedding=_wave(prefix, config, None if stable else norm),
        blocks=((block, config.num_hidden_layers),),
        final_norm=norm if stable else None,
        head=_wave_head(config, task),
    )


def _wave(prefix: str, config: Wav2Vec2Config, norm: Norm | None) -> WaveEmbedding:
    module = f"{prefix}.feature_extractor.conv_layers"
    shapes = zip(config.conv_kernel, config.conv_stride, strict=True)
    convolutions = tuple(
        SequenceConvolution(f"{module}.{number}.conv", taps, stride, bias=config.conv_bias)
        for number, (taps, stride) in enumerate(shapes)
    )
    by_group = config.feat_extract_norm == "group"

    def norm_of(number: int) -> Norm | None:
        """Over the channels of a position, or the first layer's over the positions of a channel."""
        name = f"{module}.{number}.layer_norm"
        if by_group:
            return None if number else Norm(name, "layernorm", 1e-5, (f"w{number}",), bias=True)
        return Norm(name, "layernorm", 1e-5, (f"w{number}",), bias=True)

    taps, last = config.num_conv_pos_embeddings, len(config.conv_dim) - 1
    pretrains = config.architecture.endswith("ForPreTraining")
    quantiser = Quantiser(
        "quantizer", "project_q", config.num_codevector_groups, config.num_codevectors_per_group,
        config.codevector_dim, config.proj_codevector_dim,
    )  # fmt: skip
    return WaveEmbedding(
        prefix, DEFAULT_SAMPLES, convolutions, config.conv_dim,
        tuple(norm_of(number) for number in range(last + 1)), config.feat_extract_activation,
        Norm(f"{prefix}.feature_projection.layer_norm", "layernorm", config.layer_norm_eps, (f"w{last}",), bias=True),
        SequenceConvolution(
            f"{prefix}.encoder.pos_conv_embed.conv", taps, 1, taps // 2, config.num_conv_pos_embedding_groups
        ),
        config.feat_extract_activation, norm,
        has_mask=config.mask_time_prob > 0 or config.mask_feature_prob > 0,
        quantiser=quantiser if pretrains else None, by_channel=by_group,
    )  # fmt: skip


def _wave_head(config: Wav2Vec2Config, task: str) -> Head | None:
    ending = config.architecture.removeprefix("Wav2Vec2For")
    match task_of(config, task), ending:
        case "SEQ_CLS", _:
            stage = Stage("projector", width=config.classifier_proj_size)
            return Head(
                "classifier", config.n_labels, bias=True, adapts=True, stages=(stage,), selects="mean_behind"
            )
        case "FEATURE_EXTRACTION", _:
            return None
        case _, "PreTraining":
            return Head("project_hid", config.proj_codevector_dim, bias=True)
        case _, "AudioFrameClassification":
            return Head("classifier", config.n_labels, bias=True, adapts=True)
        case _, "CTC":
            return Head("lm_head", config.vocab_size, bias=True)
    raise ValueError(f"architectures: {config.architecture[:60]!r} of wav2vec2 is not supported")


class SpectrogramConfig(ConfigFile):
    """`model_type` audio-spectrogram-transformer; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "ASTForAudioClassification"
    hidden_size: Width = 768
    num_hidden_layers: Layers = 12
    num_attention_heads: Width = 12
    intermediate_size: Width = 3072
    hidden_act: Activation = "gelu"
    layer_norm_eps: Epsilon = 1e-12
    patch_size: Taps = 16
    qkv_bias: bool = True
    frequency_stride: Taps = 10
    time_stride: Taps = 10
    max_length: Annotated[int, Field(gt=0, le=2**20)] = 1024
    num_mel_bins: Annotated[int, Field(gt=0, le=2**14)] = 128

    @model_validator(mode="after")
    def _consistent(self) -> "SpectrogramConfig":
        refuse_remainder(self.hidden_size, self.num_attention_heads, "hidden_size", "num_attention_heads")
        for name in ("max_length", "num_mel_bins"):
            if self.patch_size > getattr(self, name):
                raise ValueError(f"patch_size {self.patch_size} exceeds {name} {getattr(self, name)}")
        return self


def _spectrogram(config: SpectrogramConfig, task: str) -> Transformer:
    heads, width, epsilon = config.num_attention_heads, config.hidden_size, config.layer_norm_eps
    prefix = "audio_spectrogram_transformer"
    attention = Attention(
        "attention", heads, heads, width // heads, "o_proj", qkv_bias=config.qkv_bias, output_bias=True,
        causal=False, cached=False,
    )  # fmt: skip
    inner = FeedForward("mlp", config.intermediate_size, "fc1", "fc2", config.hidden_act, bias=True)
    norms = (layer_norm("layernorm_before", epsilon), layer_norm("layernorm_after", epsilon))
    head = Head(
        "classifier.dense", config.n_labels, bias=True, adapts=True, selects="first_two",
        norm=layer_norm("classifier.layernorm", epsilon),
    )  # fmt: skip
    bare = task_of(config, task) == "FEATURE_EXTRACTION"
    return Transformer(
        model_type="audio-spectrogram-transformer",
        width=width,
        path=f"{prefix}.layers",
        embedding=SpectrogramEmbedding(
            f"{prefix}.embeddings", config.num_mel_bins, config.max_length, config.patch_size,
            config.frequency_stride, config.time_stride,
        ),
        blocks=((Block(attention, inner, *norms), config.num_hidden_layers),),
        final_norm=layer_norm(f"{prefix}.layernorm", epsilon),
        head=None if bare else head,
        old_names=(
            (f"{prefix}.layers.", f"{prefix}.encoder.layer."),
            (".attention.q_proj", ".attention.attention.query"),
            (".attention.k_proj", ".attention.attention.key"),
            (".attention.v_proj", ".attention.attention.value"),
            (".attention.o_proj", ".attention.output.dense"),
            (".mlp.fc1", ".intermediate.dense"), (".mlp.fc2", ".output.dense"),
        ),
    )  # fmt: skip


FAMILIES: Mapping[str, Family[Any]] = {
    "wav2vec2": Family(
        Wav2Vec2Config, _wav2vec2,
        {
            "q": "attention.q_proj", "k": "attention.k_proj", "v": "attention.v_proj",
            "o": "attention.out_proj",
            "up": "feed_forward.intermediate_dense", "down": "feed_forward.output_dense",
        },
        ("ForPreTraining", "ForCTC", "ForAudioFrameClassification"),
    ),
    "audio-spectrogram-transformer": Family(
        SpectrogramConfig, _spectrogram,
        {
            "q": "attention.q_proj", "k": "attention.k_proj", "v": "attention.v_proj",
            "o": "attention.o_proj", "up": "mlp.fc1", "down": "mlp.fc2",
        },
    ),
}  # fmt: skip
