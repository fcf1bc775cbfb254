"""Families of small convolutional image networks: PoolFormer, MobileNetV2, SwiftFormer."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tilewright.workloads.chains import Chain, Step
from tilewright.workloads.config import Activation, ConfigFile, Pixels, Width, scaled_width
from tilewright.workloads.convolution import Convolution, PatchStem, side_after
from tilewright.workloads.family import Family
from tilewright.workloads.head import Head, task_of
from tilewright.workloads.mixers import AdditiveBlock, PoolingBlock
from tilewright.workloads.norms import Norm, batch_norm
from tilewright.workloads.transformer import Entry, Layer, Stage, Staged, Transformer

Channels = Annotated[int, Field(gt=0, le=4096)]
Padding = Annotated[int, Field(ge=0, le=2**14)]
Widths = Annotated[list[Width], Field(min_length=1, max_length=16)]
Depths = Annotated[list[Annotated[int, Field(gt=0, le=4096)]], Field(min_length=1, max_length=16)]
Sides = Annotated[list[Pixels], Field(min_length=1, max_length=16)]
Ratio = Annotated[float, Field(gt=0, le=1024)]

Blocks = tuple[tuple[Layer, int], ...]


def labels_head(config: ConfigFile, task: str, head: Head) -> Head | None:
    """`head` for classification, none for bare features. Raises ValueError for other tasks."""
    match task_of(config, task):
        case "IMAGE_CLS" | "":
            return head
        case "FEATURE_EXTRACTION":
            return None
        case _ as found:
            raise ValueError(f"the task {found} is not supported here")


def stage_of(model_type: str, path: str, width: int, entry: Entry | None, blocks: Blocks, side: int) -> Stage:
    """A stage over side x side positions. Raises ValueError where nothing is left of the image."""
    if side < 1:
        raise ValueError(f"the image is too small: nothing is left of it at {path}")
    return Stage(Transformer(model_type, width, path, entry, blocks, None, None), side**2)


def closed(stages: list[Stage], norm: Norm | None, head: Head | None) -> tuple[Stage, ...]:
    """The stages, the last one with final norm and head."""
    last = stages[-1]
    return (*stages[:-1], replace(last, stack=replace(last.stack, final_norm=norm, head=head)))


class PoolFormerConfig(ConfigFile):
    """`model_type` poolformer; defaults are the library's class defaults. The file states no image size."""

    default_architecture: ClassVar[str] = "PoolFormerForImageClassification"
    num_channels: Channels = 3
    image_size: Pixels = 224
    pool_size: Annotated[int, Field(gt=0, le=255)] = 3
    mlp_ratio: Ratio = 4.0
    depths: Depths = Field(default_factory=lambda: [2, 2, 6, 2])
    hidden_sizes: Widths = Field(default_factory=lambda: [64, 128, 320, 512])
    patch_sizes: Sides = Field(default_factory=lambda: [7, 3, 3, 3])
    strides: Sides = Field(default_factory=lambda: [4, 2, 2, 2])
    padding: list[Padding] = Field(default_factory=lambda: [2, 1, 1, 1])
    num_encoder_blocks: Annotated[int, Field(gt=0, le=16)] = 4
    hidden_act: Activation = "gelu"
    use_layer_scale: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> "PoolFormerConfig":
        if self.pool_size % 2 == 0:
            raise ValueError(f"pool_size must be odd, got {self.pool_size}")
        for name in ("depths", "hidden_sizes", "patch_sizes", "strides", "padding"):
            n_stages = len(getattr(self, name))
            if n_stages < self.num_encoder_blocks:
                raise ValueError(
                    f"{name} has {n_stages} stages, num_encoder_blocks is {self.num_encoder_blocks}"
                )
        return self


def _poolformer(config: PoolFormerConfig, task: str) -> Staged:
    head = Head("classifier", config.n_labels, bias=True, selects="mean", adapts=True, owns_norm=True)
    found = labels_head(config, task, head)
    return Staged("poolformer", config.image_size, lambda image: _poolformer_stages(config, image, found))


#: Epsilon of PyTorch's group norm.
_GROUP_EPSILON = 1e-5


def _poolformer_stages(config: PoolFormerConfig, image: int, head: Head | None) -> tuple[Stage, ...]:
    """PoolFormer (arXiv 2111.11418). Raises ValueError for an image that is too small for the stages."""
    stages, side = [], image
    for number in range(config.num_encoder_blocks):
        width, kernel = config.hidden_sizes[number], config.patch_sizes[number]
        convolution = Convolution(
            f"poolformer.encoder.patch_embeddings.{number}.projection", kernel, config.strides[number],
            config.padding[number],
        )  # fmt: skip
        n_channels = config.hidden_sizes[number - 1] if number else config.num_channels
        stem = PatchStem("x" if number else "image", convolution, n_channels, side)
        side = side_after(side, convolution)
        norms = tuple(
            Norm(name, "layernorm", _GROUP_EPSILON, ("y", "x", channel), bias=True, factors=(channel,))
            for name, channel in (("before_norm", "d"), ("after_norm", "d"))
        )
        inner = scaled_width(width, config.mlp_ratio, "mlp_ratio")
        steps = (
            Step(Convolution("output.conv1", 1), inner, function=config.hidden_act),
            Step(Convolution("output.conv2", 1), width),
        )
        scales = ("layer_scale_1", "layer_scale_2") if config.use_layer_scale else ("", "")
        layer = PoolingBlock(config.pool_size, steps, side, (norms[0], norms[1]), scales)
        path = f"poolformer.encoder.block.{number}"
        stages.append(stage_of("poolformer", path, width, stem, ((layer, config.depths[number]),), side))
    final = Norm("norm", "layernorm", _GROUP_EPSILON, ("t", "d"), bias=True, factors=("d",))
    return closed(stages, final if head else None, head)


class MobileNetV2Config(ConfigFile):
    """`model_type` mobilenet_v2; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "MobileNetV2ForImageClassification"
    num_channels: Channels = 3
    image_size: Pixels = 224
    depth_multiplier: Annotated[float, Field(gt=0, le=64)] = 1.0
    depth_divisible_by: Annotated[int, Field(gt=0, le=4096)] = 8
    min_depth: Annotated[int, Field(gt=0, le=4096)] = 8
    expand_ratio: Annotated[float, Field(gt=0, le=64)] = 6.0
    output_stride: Literal[8, 16, 32] = 32
    first_layer_is_expansion: bool = True
    finegrained_output: bool = True
    hidden_act: Activation = "relu6"
    tf_padding: bool = True

    def channels(self, base: int) -> int:
        """Channels of a layer that has `base` of them at multiplier 1."""
        return divisible(round(base * self.depth_multiplier), self.depth_divisible_by, self.min_depth)


def divisible(value: float, divisor: int, least: int) -> int:
    """`value` rounded to a multiple of `divisor`, at least `least`, and no more than a tenth below it."""
    rounded = max(least, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


#: Channels behind each layer of MobileNetV2 and the layers' strides, from table 2 of arXiv 1801.04381.
_MOBILE_CHANNELS = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
_MOBILE_STRIDES = (2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
_MOBILE_FIRST, _MOBILE_LAST = 32, 1280


def _mobilenet_v2(config: MobileNetV2Config, task: str) -> Staged:
    head = labels_head(
        config, task, Head("classifier", config.n_labels, bias=True, selects="mean", adapts=True)
    )
    return Staged("mobilenet_v2", config.image_size, lambda image: _mobilenet_stages(config, image, head))


def _mobilenet_stages(config: MobileNetV2Config, image: int, head: Head | None) -> tuple[Stage, ...]:
    """MobileNetV2 (arXiv 1801.04381). Raises ValueError for an image that is too small."""
    channels = [config.channels(base) for base in _MOBILE_CHANNELS]
    stem = _mobilenet_stem(config, image, channels[0])
    side = stem.out_side
    layers: list[tuple[Layer, int]] = []
    for (in_width, width), (stride, dilation) in zip(
        pairwise(channels), _strides(config.output_stride), strict=True
    ):
        inner = divisible(round(in_width * config.expand_ratio), config.depth_divisible_by, config.min_depth)
        steps = (
            *_widened(config, "expand_1x1", side, inner),
            _mobile_step(config, "conv_3x3", side, inner, 3, stride, depthwise=True, dilation=dilation),
        )
        behind = side_after(side, steps[-1].convolution)
        steps = (*steps, _mobile_step(config, "reduce_1x1", behind, width, 1, opened=False))
        layers.append((Chain(steps, side, in_width, stride == 1 and in_width == width), 1))
        side = behind
    fine = config.finegrained_output and config.depth_multiplier < 1
    width = _MOBILE_LAST if fine else config.channels(_MOBILE_LAST)
    path = "mobilenet_v2"
    first = stage_of(path, f"{path}.layer", channels[-1], stem, tuple(layers), stem.out_side)
    last = Chain(_widened(config, f"{path}.conv_1x1", side, width), side, channels[-1])
    return closed([first, stage_of(path, f"{path}.conv_1x1", width, last, (), side)], None, head)


def _strides(output_stride: int) -> list[tuple[int, int]]:
    """Stride and dilation of each layer: once the whole stride is reached, taps move apart instead."""
    found, whole, dilation = [], 2, 1
    for stride in _MOBILE_STRIDES:
        if whole == output_stride:
            found.append((1, dilation))
            dilation *= stride
        else:
            found.append((stride, 1))
            whole *= stride
    return found


def _mobilenet_stem(config: MobileNetV2Config, image: int, width: int) -> Chain:
    path, wide = "mobilenet_v2.conv_stem", config.channels(_MOBILE_FIRST)
    first = _mobile_step(config, f"{path}.first_conv", image, wide, 3, 2)
    side = side_after(image, first.convolution)
    widened = () if config.first_layer_is_expansion else _widened(config, f"{path}.expand_1x1", side, wide)
    steps = (
        first, *widened, _mobile_step(config, f"{path}.conv_3x3", side, wide, 3, depthwise=True),
        _mobile_step(config, f"{path}.reduce_1x1", side, width, 1, opened=False),
    )  # fmt: skip
    return Chain(steps, image, config.num_channels, source="image")


def _widened(config: MobileNetV2Config, path: str, side: int, width: int) -> tuple[Step, ...]:
    return (_mobile_step(config, path, side, width, 1),)


def _mobile_step(
    config: MobileNetV2Config, path: str, side: int, width: int, kernel: int, stride: int = 1, *,
    depthwise: bool = False, dilation: int = 1, opened: bool = True,
) -> Step:  # fmt: skip
    """A convolution whose padding is symmetric, or so that ceil(side / stride) positions remain."""
    if config.tf_padding:
        whole = max(kernel - (side % stride or stride), 0)
        padding = (whole // 2 * dilation, (whole - whole // 2) * dilation)
    else:
        padding = ((kernel - 1) // 2 * dilation,) * 2
    convolution = Convolution(
        f"{path}.convolution", kernel, stride, padding[0], depthwise, False, dilation, padding[1]
    )
    return Step(convolution, width, f"{path}.normalization", config.hidden_act if opened else "")


class SwiftFormerConfig(ConfigFile):
    """`model_type` swiftformer; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "SwiftFormerForImageClassification"
    num_channels: Channels = 3
    image_size: Pixels = 224
    depths: Depths = Field(default_factory=lambda: [3, 3, 6, 4])
    embed_dims: Widths = Field(default_factory=lambda: [48, 56, 112, 220])
    mlp_ratio: Ratio = 4
    downsamples: list[bool] = Field(default_factory=lambda: [True, True, True, True])
    hidden_act: Activation = "gelu"
    down_patch_size: Pixels = 3
    down_stride: Pixels = 2
    down_pad: Padding = 1
    use_layer_scale: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> "SwiftFormerConfig":
        n_stages = len(self.depths)
        if len(self.embed_dims) != n_stages or len(self.downsamples) < n_stages - 1:
            raise ValueError(
                f"depths has {n_stages} stages, embed_dims {len(self.embed_dims)}, downsamples"
                f" {len(self.downsamples)}"
            )
        if self.embed_dims[0] < 2:
            raise ValueError(f"embed_dims: the first must be at least 2, got {self.embed_dims[0]}")
        return self


def _swiftformer(config: SwiftFormerConfig, task: str) -> Staged:
    second = Head("dist_head", config.n_labels, bias=True, adapts=True)
    head = Head(
        "head", config.n_labels, bias=True, selects="mean", adapts=True, owns_norm=True, beside=second
    )
    found = labels_head(config, task, head)
    return Staged("swiftformer", config.image_size, lambda image: _swiftformer_stages(config, image, found))


def _swiftformer_stages(config: SwiftFormerConfig, image: int, head: Head | None) -> tuple[Stage, ...]:
    """SwiftFormer (arXiv 2303.15446). Raises ValueError for an image that is too small for the stages."""
    widths = config.embed_dims
    entry: Chain | None = two_step_stem(
        "swiftformer.patch_embed.patch_embedding",
        ("0", "3"),
        ("1", "4"),
        config.num_channels,
        widths[0],
        image,
    )
    stages, side, place = [], image, 0
    for number, (depth, width) in enumerate(zip(config.depths, widths, strict=True)):
        if number:
            entry = None
            if config.downsamples[number - 1] or widths[number - 1] != width:
                path = f"swiftformer.encoder.network.{place}"
                convolution = Convolution(
                    f"{path}.proj", config.down_patch_size, config.down_stride, config.down_pad
                )
                entry = Chain((Step(convolution, width, f"{path}.norm"),), side, widths[number - 1])
                place += 1
        side = entry.out_side if entry else side
        blocks: list[tuple[Layer, int]] = [(_swift_block(config, width, side), 1)]
        if depth > 1:
            steps = _swift_steps("", width, scaled_width(width, config.mlp_ratio, "mlp_ratio"))
            blocks.insert(0, (Chain(steps, side, width, residual=True, scale="layer_scale"), depth - 1))
        path = f"swiftformer.encoder.network.{place}.blocks"
        stages.append(stage_of("swiftformer", path, width, entry, tuple(blocks), side))
        place += 1
    return closed(stages, batch_norm("norm") if head else None, head)


def two_step_stem(
    path: str, convolutions: tuple[str, str], norms: tuple[str, str], n_channels: int, width: int, image: int
) -> Chain:
    """Two convolutions of 3 x 3 taps, 2 apart, to half and all of the channels."""
    steps = tuple(
        Step(Convolution(f"{path}.{name}", 3, 2, 1), found, f"{path}.{norm}", "relu")
        for name, norm, found in zip(convolutions, norms, (width // 2, width), strict=True)
    )
    return Chain(steps, image, n_channels, source="image")


def _swift_steps(path: str, width: int, inner: int) -> tuple[Step, ...]:
    """A depthwise convolution and two over channels, in `path`."""
    return (
        Step(Convolution(f"{path}depth_wise_conv", 3, 1, 1, depthwise=True), width, f"{path}norm"),
        Step(Convolution(f"{path}point_wise_conv1", 1), inner, function="gelu"),
        Step(Convolution(f"{path}point_wise_conv2", 1), width),
    )


def _swift_block(config: SwiftFormerConfig, width: int, side: int) -> AdditiveBlock:
    local = "local_representation"
    steps = (
        Step(
            Convolution("linear.fc1", 1),
            scaled_width(width, config.mlp_ratio, "mlp_ratio"),
            function=config.hidden_act,
        ),
        Step(Convolution("linear.fc2", 1), width),
    )
    scales = ("layer_scale_1", "layer_scale_2") if config.use_layer_scale else ("", "")
    return AdditiveBlock(
        _swift_steps(f"{local}.", width, width), f"{local}.layer_scale", "attn", "linear.norm1", steps, side,
        scales,
    )  # fmt: skip


FAMILIES: Mapping[str, Family[Any]] = {
    "poolformer": Family(PoolFormerConfig, _poolformer, {}),
    "mobilenet_v2": Family(MobileNetV2Config, _mobilenet_v2, {}),
    "swiftformer": Family(
        SwiftFormerConfig, _swiftformer,
        {"q": "attn.to_query", "k": "attn.to_key", "o": "attn.final"},
    ),
}  # fmt: skip
