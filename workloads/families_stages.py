"""Families of staged image networks: Swin, ConvNeXt, ResNet."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tilewright.workloads.attention import Attention
from tilewright.workloads.block import Block
from tilewright.workloads.config import (
    Activation,
    ConfigFile,
    Epsilon,
    Pixels,
    Width,
    refuse_remainder,
    scaled_width,
)
from tilewright.workloads.convolution import (
    POOLING,
    Convolution,
    ConvolutionChain,
    InvertedBottleneck,
    PatchStem,
    PooledStem,
    side_after,
)
from tilewright.workloads.family import Family
from tilewright.workloads.feed_forward import FeedForward
from tilewright.workloads.head import Head, task_of
from tilewright.workloads.merging import FirstPatches, MergedPatches
from tilewright.workloads.norms import Norm, layer_norm
from tilewright.workloads.transformer import Layer, Stage, Staged, Transformer

Channels = Annotated[int, Field(gt=0, le=4096)]
Depths = Annotated[list[Annotated[int, Field(gt=0, le=4096)]], Field(min_length=1, max_length=16)]
Widths = Annotated[list[Width], Field(min_length=1, max_length=16)]


class StagedConfig(ConfigFile):
    """What staged networks share."""

    num_channels: Channels = 3
    depths: Depths
    image_size: Pixels = 224

    def of_task(self, task: str, head: Head) -> Head | None:
        """`head` for classification, none for bare features. Raises ValueError for other tasks."""
        match task_of(self, task):
            case "IMAGE_CLS" | "":
                return head
            case "FEATURE_EXTRACTION":
                return None
            case _ as found:
                raise ValueError(f"the task {found} is not supported here")


class SwinConfig(StagedConfig):
    """`model_type` swin; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "SwinForImageClassification"
    depths: Depths = Field(default_factory=lambda: [2, 2, 6, 2])
    num_heads: Widths = Field(default_factory=lambda: [3, 6, 12, 24])
    embed_dim: Width = 96
    patch_size: Pixels = 4
    window_size: Annotated[int, Field(gt=0, le=256)] = 7
    mlp_ratio: Annotated[float, Field(gt=0, le=1024)] = 4.0
    qkv_bias: bool = True
    hidden_act: Activation = "gelu"
    layer_norm_eps: Epsilon = 1e-5
    use_absolute_embeddings: Literal[False] = False

    @model_validator(mode="after")
    def _consistent(self) -> "SwinConfig":
        if len(self.depths) != len(self.num_heads):
            raise ValueError(f"depths has {len(self.depths)} stages, num_heads {len(self.num_heads)}")
        for number, heads in enumerate(self.num_heads):
            refuse_remainder(self.embed_dim * 2**number, heads, f"the width of stage {number}", "num_heads")
        return self


def _swin(config: SwinConfig, task: str) -> Staged:
    head = config.of_task(task, Head("classifier", config.n_labels, bias=True, selects="mean", adapts=True))
    return Staged("swin", config.image_size, lambda image: _swin_stages(config, image, head))


def _swin_stages(config: SwinConfig, image: int, head: Head | None) -> tuple[Stage, ...]:
    """Windows of a stage are sequences of its batch; shifting and partitioning only move data.

    Raises ValueError for an image that windows do not cover exactly.
    """
    stages, side, epsilon = [], image // config.patch_size, config.layer_norm_eps
    last = len(config.depths) - 1
    for number, (depth, heads) in enumerate(zip(config.depths, config.num_heads, strict=True)):
        width = config.embed_dim * 2**number
        window = min(config.window_size, side)
        if image % config.patch_size or side == 0 or side % window or (number < last and side % 2):
            raise ValueError(f"image {image}: windows of {config.window_size} do not cover stage {number}")
        n_windows = (side // window) ** 2
        attention = Attention(
            "attention", heads, heads, width // heads, "o_proj", qkv_bias=config.qkv_bias, output_bias=True,
            causal=False, cached=False, biased=True, bias_rows=(2 * config.window_size - 1) ** 2,
        )  # fmt: skip
        inner = FeedForward(
            "mlp",
            scaled_width(width, config.mlp_ratio, "mlp_ratio"),
            "fc1",
            "fc2",
            config.hidden_act,
            bias=True,
        )
        norms = (layer_norm("layernorm_before", epsilon), layer_norm("layernorm_after", epsilon))
        merged = f"swin.encoder.layers.{number - 1}.downsample"
        entry = (
            MergedPatches(merged, width // 2, epsilon)
            if number
            else FirstPatches(
                "swin.embeddings", config.num_channels, config.patch_size, side, window, epsilon
            )
        )
        stack = Transformer(
            model_type="swin",
            width=width,
            path=f"swin.encoder.layers.{number}.blocks",
            embedding=entry,
            blocks=((Block(attention, inner, *norms), depth),),
            final_norm=layer_norm("swin.layernorm", epsilon) if number == last else None,
            head=replace(head, n_windows=n_windows) if head and number == last else None,
        )
        stages.append(Stage(stack, window**2, n_windows))
        side //= 2
    return tuple(stages)


class ConvNextConfig(StagedConfig):
    """`model_type` convnext; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "ConvNextForImageClassification"
    depths: Depths = Field(default_factory=lambda: [3, 3, 9, 3])
    hidden_sizes: Widths = Field(default_factory=lambda: [96, 192, 384, 768])
    patch_size: Pixels = 4
    hidden_act: Activation = "gelu"
    layer_norm_eps: Epsilon = 1e-12
    layer_scale_init_value: Annotated[float, Field(ge=0)] = 1e-6

    @model_validator(mode="after")
    def _consistent(self) -> "ConvNextConfig":
        if len(self.depths) != len(self.hidden_sizes):
            raise ValueError(f"depths has {len(self.depths)} stages, hidden_sizes {len(self.hidden_sizes)}")
        return self

    @property
    def scaled(self) -> bool:
        """Whether a learned factor stands before the sums."""
        return self.layer_scale_init_value > 0


class ConvNextV2Config(ConvNextConfig):
    """`model_type` convnextv2: the channels' response is normalised, nothing is scaled."""

    default_architecture: ClassVar[str] = "ConvNextV2ForImageClassification"

    @property
    def scaled(self) -> bool:
        return False


#: Epsilon of the norms inside ConvNeXt's stages, the library's constant.
_CONVNEXT_EPSILON = 1e-6


def _convnext(model_type: str, config: ConvNextConfig, task: str) -> Staged:
    head = config.of_task(
        task, Head("classifier", config.n_labels, bias=True, selects="mean_first", adapts=True)
    )
    return Staged(
        model_type, config.image_size, lambda image: _convnext_stages(model_type, config, image, head)
    )


def _convnext_stages(
    model_type: str, config: ConvNextConfig, image: int, head: Head | None
) -> tuple[Stage, ...]:
    """Raises ValueError for an image that is too small for the stages."""
    stages, side, in_width = [], image, config.num_channels
    for number, (depth, width) in enumerate(zip(config.depths, config.hidden_sizes, strict=True)):
        entry = _convnext_entry(model_type, config, number, side, in_width)
        side, in_width = side_after(side, entry.convolution), width
        if side <= 0:
            raise ValueError(f"image {image} is too small for {len(config.depths)} stages")
        layer = InvertedBottleneck(
            Convolution("dwconv", 7, padding=3, depthwise=True), layer_norm("layernorm", _CONVNEXT_EPSILON),
            4 * width, config.hidden_act, side,
            "layer_scale_parameter" if config.scaled else "", "" if model_type == "convnext" else "grn",
        )  # fmt: skip
        path = f"{model_type}.encoder.stages.{number}.layers"
        stages.append(_stage(model_type, path, width, entry, ((layer, depth),), side))
    final = layer_norm(f"{model_type}.layernorm", config.layer_norm_eps)
    return _with_head(stages, final, head)


def _convnext_entry(
    model_type: str, config: ConvNextConfig, number: int, side: int, in_width: int
) -> PatchStem:
    if number == 0:
        stem = Convolution(f"{model_type}.embeddings.patch_embeddings", config.patch_size, config.patch_size)
        norm = layer_norm(f"{model_type}.embeddings.layernorm", _CONVNEXT_EPSILON)
        return PatchStem("image", stem, in_width, side, after=norm)
    path = f"{model_type}.encoder.stages.{number}.downsampling_layer"
    norm = Norm(f"{path}.0", "layernorm", _CONVNEXT_EPSILON, ("c",), bias=True)
    return PatchStem("x", Convolution(f"{path}.1", 2, 2), in_width, side, before=norm)


class ResNetConfig(StagedConfig):
    """`model_type` resnet; defaults are the library's class defaults. The file states no image size."""

    default_architecture: ClassVar[str] = "ResNetForImageClassification"
    depths: Depths = Field(default_factory=lambda: [3, 4, 6, 3])
    hidden_sizes: Widths = Field(default_factory=lambda: [256, 512, 1024, 2048])
    embedding_size: Width = 64
    layer_type: Literal["bottleneck", "basic"] = "bottleneck"
    hidden_act: Activation = "relu"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "ResNetConfig":
        if len(self.depths) != len(self.hidden_sizes):
            raise ValueError(f"depths has {len(self.depths)} stages, hidden_sizes {len(self.hidden_sizes)}")
        return self


#: Channels of the inner convolution of a bottleneck are this part of the outer ones.
_REDUCTION = 4


def _resnet(config: ResNetConfig, task: str) -> Staged:
    head = config.of_task(
        task, Head("classifier.1", config.n_labels, bias=True, selects="mean_first", adapts=True)
    )
    return Staged("resnet", config.image_size, lambda image: _resnet_stages(config, image, head))


def _resnet_stages(config: ResNetConfig, image: int, head: Head | None) -> tuple[Stage, ...]:
    """Raises ValueError for an image that is too small for the stages."""
    first = Convolution("resnet.embedder.embedder.convolution", 7, 2, 3, bias=False)
    stem = PooledStem(first, config.num_channels, image, config.hidden_act)
    side, in_width, stages = side_after(side_after(image, first), POOLING), config.embedding_size, []
    if side <= 0:
        raise ValueError(f"image {image} is too small")
    stages.append(_stage("resnet", "resnet.embedder", in_width, stem, (), side))
    for number, (depth, width) in enumerate(zip(config.depths, config.hidden_sizes, strict=True)):
        stride = 2 if number or config.downsample_in_first_stage else 1
        layers: list[tuple[Layer, int]] = [(_resnet_layer(config, side, in_width, width, stride), 1)]
        side = (side - 1) // stride + 1
        if depth > 1:
            layers.append((_resnet_layer(config, side, width, width, 1), depth - 1))
        path = f"resnet.encoder.stages.{number}.layers"
        stages.append(_stage("resnet", path, width, None, tuple(layers), side))
        in_width = width
    return _with_head(stages, None, head)


def _resnet_layer(
    config: ResNetConfig, side: int, in_width: int, width: int, stride: int
) -> ConvolutionChain:
    def named(place: int, kernel: int, step: int) -> Convolution:
        return Convolution(f"layer.{place}.convolution", kernel, step, kernel // 2, bias=False)

    if config.layer_type == "basic":
        chain, widths = (named(0, 3, stride), named(1, 3, 1)), (width, width)
        return _chained(config, chain, widths, side, in_width, stride)
    early = config.downsample_in_bottleneck
    chain3 = (named(0, 1, stride if early else 1), named(1, 3, 1 if early else stride), named(2, 1, 1))
    inner = width // _REDUCTION
    return _chained(config, chain3, (inner, inner, width), side, in_width, stride)


def _chained(
    config: ResNetConfig, chain: tuple[Convolution, ...], widths: tuple[int, ...], side: int, in_width: int,
    stride: int,
) -> ConvolutionChain:  # fmt: skip
    changes = in_width != widths[-1] or stride != 1
    shortcut = Convolution("shortcut.convolution", 1, stride, bias=False) if changes else None
    return ConvolutionChain(chain, widths, side, in_width, shortcut, config.hidden_act)


def _stage(
    model_type: str, path: str, width: int, entry: PatchStem | PooledStem | None,
    layers: tuple[tuple[Layer, int], ...], side: int,
) -> Stage:  # fmt: skip
    stack = Transformer(model_type, width, path, entry, layers, None, None)
    return Stage(stack, side**2)


def _with_head(stages: list[Stage], norm: Norm | None, head: Head | None) -> tuple[Stage, ...]:
    """The stages, the last one with final norm and head."""
    last = stages[-1]
    finished = replace(last.stack, final_norm=norm, head=head)
    return (*stages[:-1], replace(last, stack=finished))


_CONVNEXT_TARGETS: Mapping[str, str] = {"up": "pwconv1", "down": "pwconv2"}


FAMILIES: Mapping[str, Family[Any]] = {
    "swin": Family(
        SwinConfig, _swin,
        {
            "q": "attention.q_proj", "k": "attention.k_proj", "v": "attention.v_proj",
            "o": "attention.o_proj", "up": "mlp.fc1", "down": "mlp.fc2",
        },
    ),
    "convnext": Family(ConvNextConfig, partial(_convnext, "convnext"), _CONVNEXT_TARGETS),
    "convnextv2": Family(ConvNextV2Config, partial(_convnext, "convnextv2"), _CONVNEXT_TARGETS),
    "resnet": Family(ResNetConfig, _resnet, {}),
}  # fmt: skip
