"""Families of two towers: CLIP, SigLIP."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
from tilewright.workloads.embedding import Embedding
from tilewright.workloads.family import Family
from tilewright.workloads.feed_forward import FeedForward
from tilewright.workloads.head import Head, task_of
from tilewright.workloads.norms import Norm, layer_norm
from tilewright.workloads.patches import PatchEmbedding
from tilewright.workloads.towers import (
    AttentionPool,
    FirstNorm,
    LastToken,
    Match,
    PooledMatch,
    TwoTower,
    VisionTower,
)
from tilewright.workloads.transformer import Entry, Transformer

#: What is described: both towers, or the tower of images with a classifier.
_TASKS = ("FEATURE_EXTRACTION", "IMAGE_CLS")


class _Tower(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)
    hidden_size: Width = 512
    intermediate_size: Width = 2048
    num_hidden_layers: Layers = 12
    num_attention_heads: Width = 8
    hidden_act: Activation = "quick_gelu"
    layer_norm_eps: Epsilon = 1e-5

    @model_validator(mode="after")
    def _consistent(self) -> "_Tower":
        refuse_remainder(self.hidden_size, self.num_attention_heads, "hidden_size", "num_attention_heads")
        return self


class _TextTower(_Tower):
    vocab_size: Rows = 49408
    max_position_embeddings: Rows = 77


class _VisionTower(_Tower):
    hidden_size: Width = 768
    intermediate_size: Width = 3072
    num_attention_heads: Width = 12
    image_size: Pixels = 224
    patch_size: Pixels = 32
    num_channels: Annotated[int, Field(gt=0, le=4096)] = 3

    @model_validator(mode="after")
    def _has_patches(self) -> "_VisionTower":
        if self.patch_size > self.image_size:
            raise ValueError(f"patch_size {self.patch_size} exceeds image_size {self.image_size}")
        return self


class _TowersConfig(ConfigFile):
    """A model of two towers; older files state some fields of a tower a second time, and those win."""

    @model_validator(mode="before")
    @classmethod
    def _merged(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        found = dict(values)
        for name in ("text_config", "vision_config"):
            again = found.get(f"{name}_dict")
            if isinstance(again, dict) and isinstance(stated := found.get(name) or {}, dict):
                found[name] = stated | again
        return found


class ClipConfig(_TowersConfig):
    """`model_type` clip; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "CLIPModel"
    projection_dim: Width = 512
    text_config: _TextTower = Field(default_factory=_TextTower)
    vision_config: _VisionTower = Field(default_factory=_VisionTower)


def _clip(config: ClipConfig, task: str) -> TwoTower | VisionTower:
    if (found := task_of(config, task)) not in _TASKS:
        raise ValueError(
            f"architectures: {config.architecture[:60]!r}: only the model of both towers is supported"
        )
    text, vision = config.text_config, config.vision_config
    tokens = Embedding(
        "text_model.embeddings.token_embedding", text.vocab_size,
        positions="text_model.embeddings.position_embedding", n_positions=text.max_position_embeddings,
    )  # fmt: skip
    patches = PatchEmbedding(
        "vision_model.embeddings", vision.image_size, vision.image_size, vision.patch_size,
        vision.num_channels, class_tokens=("class_embedding",), projection="patch_embedding",
        projection_bias=False, positions="position_embedding.weight",
        norm=layer_norm("vision_model.pre_layrnorm", vision.layer_norm_eps),
    )  # fmt: skip
    final = layer_norm("text_model.final_layer_norm", text.layer_norm_eps)
    pooled = Norm("vision_model.post_layernorm", "layernorm", vision.layer_norm_eps, ("v",), bias=True)
    if found == "IMAGE_CLS":
        alone = _tower("vision_model", vision, patches, None, False, None)
        unused = FirstNorm(replace(pooled, over=("d",)))
        return VisionTower("clip", alone, unused, _labels(config, skips=1))
    return TwoTower(
        model_type="clip",
        text=_tower("text_model", text, tokens, final, True, text.max_position_embeddings),
        vision=_tower("vision_model", vision, patches, None, False, None),
        match=Match(text.hidden_size, vision.hidden_size, pooled),
        match_width=config.projection_dim,
    )


def _labels(config: ConfigFile, skips: int) -> Head:
    """A classifier of the mean of an image's patches."""
    return Head("classifier", config.n_labels, bias=True, selects="mean", skips=skips, adapts=True)


def _tower(
    prefix: str, config: _Tower, entry: Entry, final_norm: Norm | None, causal: bool,
    max_positions: int | None,
) -> Transformer:  # fmt: skip
    heads, width = config.num_attention_heads, config.hidden_size
    attention = Attention(
        "self_attn", heads, heads, width // heads, "out_proj", qkv_bias=True, output_bias=True,
        causal=causal, cached=False,
    )  # fmt: skip
    inner = FeedForward("mlp", config.intermediate_size, "fc1", "fc2", config.hidden_act, bias=True)
    epsilon = config.layer_norm_eps
    block = Block(attention, inner, layer_norm("layer_norm1", epsilon), layer_norm("layer_norm2", epsilon))
    return Transformer(
        model_type="clip",
        width=width,
        path=f"{prefix}.encoder.layers",
        embedding=entry,
        blocks=((block, config.num_hidden_layers),),
        final_norm=final_norm,
        head=None,
        max_positions=max_positions,
    )


class _SiglipText(_TextTower):
    hidden_size: Width = 768
    intermediate_size: Width = 3072
    num_attention_heads: Width = 12
    hidden_act: Activation = "gelu_pytorch_tanh"
    layer_norm_eps: Epsilon = 1e-6
    vocab_size: Rows = 32000
    max_position_embeddings: Rows = 64
    projection_size: Width | None = None

    @property
    def pooled_width(self) -> int:
        return self.projection_size or self.hidden_size


class _SiglipVision(_VisionTower):
    patch_size: Pixels = 16
    hidden_act: Activation = "gelu_pytorch_tanh"
    layer_norm_eps: Epsilon = 1e-6
    vision_use_head: Literal[True] = True


class SiglipConfig(_TowersConfig):
    """`model_type` siglip; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "SiglipModel"
    text_config: _SiglipText = Field(default_factory=_SiglipText)
    vision_config: _SiglipVision = Field(default_factory=_SiglipVision)

    @model_validator(mode="after")
    def _pools_alike(self) -> "SiglipConfig":
        text, vision = self.text_config.pooled_width, self.vision_config.hidden_size
        if text != vision:
            raise ValueError(
                f"the text's projection_size {text} and the vision's hidden_size {vision} must be equal"
            )
        return self


def _siglip(config: SiglipConfig, task: str) -> TwoTower | VisionTower:
    """SigLIP (arXiv 2303.15343): the text is not causal, the image is pooled by attention."""
    if (found := task_of(config, task)) not in _TASKS:
        raise ValueError(
            f"architectures: {config.architecture[:60]!r}: only the model of both towers is supported"
        )
    text, vision = config.text_config, config.vision_config
    tokens = Embedding(
        "text_model.embeddings.token_embedding", text.vocab_size,
        positions="text_model.embeddings.position_embedding", n_positions=text.max_position_embeddings,
    )  # fmt: skip
    patches = PatchEmbedding(
        "vision_model.embeddings", vision.image_size, vision.image_size, vision.patch_size,
        vision.num_channels, class_tokens=(), projection="patch_embedding",
        positions="position_embedding.weight",
    )  # fmt: skip
    heads, width, pool = vision.num_attention_heads, vision.hidden_size, "vision_model.head"
    looks = Attention(
        f"{pool}.attention", heads, heads, width // heads, "out_proj", causal=False, cached=False,
        from_encoder=True,
    )  # fmt: skip
    network = FeedForward(f"{pool}.mlp", vision.intermediate_size, "fc1", "fc2", vision.hidden_act, bias=True)
    final = layer_norm("text_model.final_layer_norm", text.layer_norm_eps)
    after = layer_norm("vision_model.post_layernorm", vision.layer_norm_eps)
    pooling = AttentionPool(pool, looks, layer_norm(f"{pool}.layernorm", vision.layer_norm_eps), network)
    if found == "IMAGE_CLS":
        alone = _tower("vision_model", vision, patches, after, False, None)
        return VisionTower("siglip", alone, replace(pooling, unused=True), _labels(config, skips=0))
    return TwoTower(
        model_type="siglip",
        text=_tower("text_model", text, tokens, final, False, text.max_position_embeddings),
        vision=_tower("vision_model", vision, patches, after, False, None),
        match=PooledMatch(),
        match_width=width,
        text_end=LastToken("text_model.head", text.pooled_width),
        vision_end=pooling,
    )


_TARGETS: Mapping[str, str] = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
    "o": "self_attn.out_proj", "up": "mlp.fc1", "down": "mlp.fc2",
}  # fmt: skip


FAMILIES: Mapping[str, Family[Any]] = {
    "clip": Family(ClipConfig, _clip, _TARGETS),
    "siglip": Family(SiglipConfig, _siglip, _TARGETS),
}
