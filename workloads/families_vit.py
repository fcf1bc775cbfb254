"""Families of the ViT kind: encoders of image patches."""

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
    Pixels,
    Rows,
    Width,
    refuse_remainder,
)
from tilewright.workloads.embedding import RelativeBias
from tilewright.workloads.family import Family
from tilewright.workloads.feed_forward import FeedForward
from tilewright.workloads.head import Head, Stage, task_of
from tilewright.workloads.norms import Norm, layer_norm
from tilewright.workloads.patches import PatchEmbedding
from tilewright.workloads.transformer import Transformer


class VitConfig(ConfigFile):
    """`model_type` vit and deit; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "ViTForImageClassification"
    hidden_size: Width = 768
    num_hidden_layers: Layers = 12
    num_attention_heads: Width = 12
    intermediate_size: Width = 3072
    hidden_act: Activation = "gelu"
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
    use_swiglu_ffn: bool = False
    use_mask_token: bool = True


class BeitConfig(VitConfig):
    """`model_type` beit; keys have no bias."""

    default_architecture: ClassVar[str] = "BeitForImageClassification"
    vocab_size: Rows = 8192
    use_mask_token: bool = False
    use_absolute_position_embeddings: bool = False
    use_relative_position_bias: bool = False
    use_shared_relative_position_bias: bool = False
    layer_scale_init_value: Annotated[float, Field(ge=0)] = 0.1
    use_mean_pooling: bool = True

    @model_validator(mode="after")
    def _has_one_bias(self) -> "BeitConfig":
        if self.use_relative_position_bias and self.use_shared_relative_position_bias:
            raise ValueError("use_relative_position_bias and use_shared_relative_position_bias: one of them")
        return self

    @property
    def n_distances(self) -> int:
        """Distances of two patches, and those from, to and of the class token."""
        return (2 * (self.image_size // self.patch_size) - 1) ** 2 + 3


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
_OLD_NETWORK = ((".mlp.fc1", ".intermediate.dense"), (".mlp.fc2", ".output.dense"))


def _vit(model_type: str, class_tokens: tuple[str, ...], config: VitConfig, task: str) -> Transformer:
    prefix, epsilon = model_type, config.layer_norm_eps
    inner = FeedForward("mlp", config.intermediate_size, "fc1", "fc2", config.hidden_act, bias=True)
    norms = (layer_norm("layernorm_before", epsilon), layer_norm("layernorm_after", epsilon))
    pooled = config.pooler_output_size or 0
    match task_of(config, task):
        case "FEATURE_EXTRACTION":
            pooler = Stage(f"{prefix}.pooler.dense", "tanh", part="body", width=pooled)
            head = Head(stages=(pooler,), selects="first")
        case _ if config.architecture.endswith("WithTeacher"):
            taught = Head(
                "distillation_classifier", config.n_labels, bias=True, selects="second", adapts=True
            )
            head = Head(
                "cls_classifier", config.n_labels, bias=True, selects="first", adapts=True, beside=taught
            )
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
            *_OLD_NETWORK,
        ),
    )  # fmt: skip


def _dinov2(config: Dinov2Config, task: str) -> Transformer:
    width, epsilon = config.hidden_size, config.layer_norm_eps
    match task_of(config, task):
        case "FEATURE_EXTRACTION":
            prefix, head = "", None
        case "IMAGE_CLS" | "":
            prefix = "dinov2."
            head = Head(
                "classifier", config.n_labels, bias=True, selects="first_and_mean", skips=1, adapts=True
            )
        case _ as found:
            raise ValueError(f"the task {found} is not supported here")
    block = Block(
        _attention(config), _dinov2_network(config), layer_norm("norm1", epsilon),
        layer_norm("norm2", epsilon), scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
    )  # fmt: skip
    return Transformer(
        model_type="dinov2",
        width=width,
        path=f"{prefix}layers",
        embedding=PatchEmbedding(
            f"{prefix}embeddings", config.image_size, config.image_size, config.patch_size,
            config.num_channels, unused=(("mask_token", width),) if config.use_mask_token else (),
        ),
        blocks=((block, config.num_hidden_layers),),
        final_norm=layer_norm(f"{prefix}layernorm", epsilon),
        head=head,
        old_names=((f"{prefix}layers.", f"{prefix}encoder.layer."), *_OLD_ATTENTION),
    )  # fmt: skip


def _dinov2_network(config: Dinov2Config) -> FeedForward:
    """The network; a gated one has two thirds of the inner width, rounded up to a multiple of 8."""
    inner_width = config.hidden_size * config.mlp_ratio
    if not config.use_swiglu_ffn:
        return FeedForward("mlp", inner_width, "fc1", "fc2", config.hidden_act, bias=True)
    gated = (int(inner_width * 2 / 3) + 7) // 8 * 8
    return FeedForward("mlp", gated, "up_proj", "down_proj", "silu", gate="gate_proj", bias=True)


def _beit(config: BeitConfig, task: str) -> Transformer:
    """BEiT (arXiv 2106.08254): a bias per head and distance, of each layer or of all."""
    width, epsilon, heads = config.hidden_size, config.layer_norm_eps, config.num_attention_heads
    own, shared = config.use_relative_position_bias, config.use_shared_relative_position_bias
    attention = Attention(
        "attention", heads, heads, width // heads, "o_proj", qkv_bias=True, key_bias=False,
        output_bias=True, causal=False, cached=False, biased=own or shared,
        bias_rows=config.n_distances if own else 0, bias_module="relative_position_bias",
    )  # fmt: skip
    inner = FeedForward("mlp", config.intermediate_size, "fc1", "fc2", config.hidden_act, bias=True)
    block = Block(
        attention, inner, layer_norm("layernorm_before", epsilon), layer_norm("layernorm_after", epsilon),
        scales=("lambda_1", "lambda_2") if config.layer_scale_init_value else None,
    )  # fmt: skip
    bias = RelativeBias(
        "beit.shared_position_bias", config.n_distances, heads, "relative_position_bias_table"
    )
    final, head = _beit_end(config, task)
    return Transformer(
        model_type="beit",
        width=width,
        path="beit.layers",
        embedding=PatchEmbedding(
            "beit.embeddings", config.image_size, config.image_size, config.patch_size, config.num_channels,
            positions="position_embeddings" if config.use_absolute_position_embeddings else "",
            unused=(("mask_token", width),) if config.use_mask_token else (),
            relative=bias if shared else None,
        ),
        blocks=((block, config.num_hidden_layers),),
        final_norm=final,
        head=head,
        old_names=(("beit.layers.", "beit.encoder.layer."), *_OLD_ATTENTION, *_OLD_NETWORK),
    )  # fmt: skip


def _beit_end(config: BeitConfig, task: str) -> tuple[Norm | None, Head | None]:
    """Final norm and head: of the patches' mean, or of the first token, or of each patch."""
    pooled, epsilon = config.use_mean_pooling, config.layer_norm_eps
    final = None if pooled else layer_norm("beit.layernorm", epsilon)
    if config.architecture.endswith("ForMaskedImageModeling") and not task:
        own = layer_norm("layernorm", epsilon)
        return final, Head("lm_head", config.vocab_size, bias=True, skips=1, norm=own)
    match task_of(config, task):
        case "FEATURE_EXTRACTION":
            labels = Head()
        case "IMAGE_CLS" | "":
            labels = Head("classifier", config.n_labels, bias=True, adapts=True)
        case _ as found:
            raise ValueError(f"the task {found} is not supported here")
    if pooled:
        return layer_norm("beit.pooler.layernorm", epsilon), replace(labels, selects="mean_first", skips=1)
    return final, replace(labels, selects="first") if labels.module else None


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
        ("ForImageClassificationWithTeacher",),
    ),
    "dinov2": Family(Dinov2Config, _dinov2, _TARGETS),
    "beit": Family(BeitConfig, _beit, _TARGETS, ("ForMaskedImageModeling",)),
}
