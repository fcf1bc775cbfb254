"""Families of the ViT kind: encoders of image patches."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tilewright.workloads.attention import Attention
from tilewright.workloads.block import Block
from tilewright.workloads.config import ConfigFile, Epsilon, Layers, Width, refuse_remainder
from tilewright.workloads.family import Family
from tilewright.workloads.feed_forward import FeedForward
from tilewright.workloads.head import Head, Stage, task_of
from tilewright.workloads.norms import layer_norm
from tilewright.workloads.patches import PatchEmbedding
from tilewright.workloads.transformer import Transformer

Pixels = Annotated[int, Field(gt=0, le=2**14)]


class VitConfig(ConfigFile):
    """`model_type` vit and deit; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "ViTForImageClassification"
    hidden_size: Width = 768
    num_hidden_layers: Layers = 12
    num_attention_heads: Width = 12
    intermediate_size: Width = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: Epsilon = 1e-12
    image_size: Pixels = 224
    patch_size: Pixels = 16
    num_channels: Annotated[int, Field(gt=0, le=4096)] = 3
    qkv_bias: bool = True
    pooler_output_size: Width | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "VitConfig":
        refuse_remainder(self.hidden_size, self.num_attention_heads, "hidden_size", "num_attention_heads")
        if self.patch_size > self.image_size:
            raise ValueError(f"patch_size {self.patch_size} exceeds image_size {self.image_size}")
        return self


class DeitConfig(VitConfig):
    default_architecture: ClassVar[str] = "DeiTForImageClassification"


class Dinov2Config(VitConfig):
    """`model_type` dinov2; its network's width is a multiple of the model's."""

    default_architecture: ClassVar[str] = "Dinov2Model"
    mlp_ratio: Annotated[int, Field(gt=0, le=1024)] = 4
    layer_norm_eps: Epsilon = 1e-6
    use_swiglu_ffn: Literal[False] = False
    use_mask_token: bool = True

    @model_validator(mode="after")
    def _without_head(self) -> "Dinov2Config":
        if not self.architecture.endswith("Model"):
            raise ValueError(f"architectures: only Dinov2Model is supported, got {self.architecture!r}")
        return self


def _attention(config: VitConfig) -> Attention:
    heads = config.num_attention_heads
    return Attention(
        "attention", heads, heads, config.hidden_size // heads, "o_proj",
        qkv_bias=config.qkv_bias, output_bias=True, causal=False, cached=False,
    )  # fmt: skip


#: Modules as releases before 5 named them, below the stack of layers.
_OLD_ATTENTION = (
    (".attention.q_proj", ".attention.attention.query"),
    (".attention.k_proj", ".attention.attention.key"),
    (".attention.v_proj", ".attention.attention.value"),
    (".attention.o_proj", ".attention.output.dense"),
)


def _vit(model_type: str, class_tokens: tuple[str, ...], config: VitConfig, task: str) -> Transformer:
    prefix, epsilon = model_type, config.layer_norm_eps
    inner = FeedForward("mlp", config.intermediate_size, "fc1", "fc2", config.hidden_act, bias=True)
    norms = (layer_norm("layernorm_before", epsilon), layer_norm("layernorm_after", epsilon))
    pooled = config.pooler_output_size or 0
    match task_of(config, task):
        case "FEATURE_EXTRACTION":
            pooler = Stage(f"{prefix}.pooler.dense", "tanh", part="body", width=pooled)
            head = Head(stages=(pooler,), selects="first")
        case _:
            head = Head("classifier", config.n_labels, bias=True, selects="first", adapts=True)
    return Transformer(
        model_type=model_type,
        width=config.hidden_size,
        path=f"{prefix}.layers",
        embedding=PatchEmbedding(
            f"{prefix}.embeddings", config.image_size, config.image_size, config.patch_size,
            config.num_channels, class_tokens,
        ),
        blocks=((Block(_attention(config), inner, *norms), config.num_hidden_layers),),
        final_norm=layer_norm(f"{prefix}.layernorm", epsilon),
        head=head,
        old_names=(
            (f"{prefix}.layers.", f"{prefix}.encoder.layer."), *_OLD_ATTENTION,
            (".mlp.fc1", ".intermediate.dense"), (".mlp.fc2", ".output.dense"),
        ),
    )  # fmt: skip


def _dinov2(config: Dinov2Config, _task: str) -> Transformer:
    width, epsilon = config.hidden_size, config.layer_norm_eps
    inner_width = width * config.mlp_ratio
    inner = FeedForward("mlp", inner_width, "fc1", "fc2", config.hidden_act, bias=True)
    block = Block(
        _attention(config), inner, layer_norm("norm1", epsilon), layer_norm("norm2", epsilon),
        scales=("layer_scale1", "layer_scale2"),
    )  # fmt: skip
    return Transformer(
        model_type="dinov2",
        width=width,
        path="layers",
        embedding=PatchEmbedding(
            "embeddings", config.image_size, config.image_size, config.patch_size, config.num_channels,
            unused=(("mask_token", width),) if config.use_mask_token else (),
        ),
        blocks=((block, config.num_hidden_layers),),
        final_norm=layer_norm("layernorm", epsilon),
        head=None,
        old_names=(("layers.", "encoder.layer."), *_OLD_ATTENTION),
    )  # fmt: skip


_TARGETS: Mapping[str, str] = {
    "q": "attention.q_proj", "k": "attention.k_proj", "v": "attention.v_proj", "o": "attention.o_proj",
    "up": "mlp.fc1", "down": "mlp.fc2",
}  # fmt: skip


FAMILIES: Mapping[str, Family[Any]] = {
    "vit": Family(VitConfig, lambda config, task: _vit("vit", ("cls_token",), config, task), _TARGETS),
    "deit": Family(
        DeitConfig,
        lambda config, task: _vit("deit", ("cls_token", "distillation_token"), config, task),
        _TARGETS,
    ),
    "dinov2": Family(Dinov2Config, _dinov2, _TARGETS),
}
