"""Families of convolutions and attention in turn: MobileViT, EfficientFormer, LeViT."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from tilewright.workloads.attention import Attention
from tilewright.workloads.block import Block
from tilewright.workloads.chains import Chain, Step
from tilewright.workloads.config import Activation, ConfigFile, Epsilon, Pixels, Width, scaled_width
from tilewright.workloads.convolution import Convolution
from tilewright.workloads.families_mobile import closed, divisible, labels_head, stage_of, two_step_stem
from tilewright.workloads.family import Family
from tilewright.workloads.feed_forward import FeedForward
from tilewright.workloads.head import Head
from tilewright.workloads.mixers import PoolingBlock
from tilewright.workloads.norms import batch_norm, layer_norm
from tilewright.workloads.offsets import OffsetAttention, OffsetBlock, SampledEntry
from tilewright.workloads.transformer import Layer, Stage, Staged, Transformer
from tilewright.workloads.unfolding import Folding, Patches, Unfolding

Channels = Annotated[int, Field(gt=0, le=4096)]
Padding = Annotated[int, Field(ge=0, le=2**14)]
Ratio = Annotated[float, Field(gt=0, le=1024)]
Whole = Annotated[int, Field(gt=0, le=1024)]
Widths = Annotated[list[Width], Field(min_length=1, max_length=16)]
Depths = Annotated[list[Annotated[int, Field(gt=0, le=4096)]], Field(min_length=1, max_length=16)]
Three = Annotated[list[Width], Field(min_length=3, max_length=3)]


class MobileVitConfig(ConfigFile):
    """`model_type` mobilevit; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "MobileViTForImageClassification"
    num_channels: Channels = 3
    image_size: Pixels = 256
    patch_size: Annotated[int, Field(gt=0, le=64)] = 2
    hidden_sizes: Three = Field(default_factory=lambda: [144, 192, 240])
    neck_hidden_sizes: Annotated[list[Width], Field(min_length=7, max_length=7)] = Field(
        default_factory=lambda: [16, 32, 64, 96, 128, 160, 640]
    )
    num_attention_heads: Width = 4
    mlp_ratio: Ratio = 2.0
    expand_ratio: Ratio = 4.0
    hidden_act: Activation = "silu"
    conv_kernel_size: Annotated[int, Field(gt=0, le=63)] = 3
    output_stride: Annotated[int, Field(gt=0, le=2**14)] = 32
    layer_norm_eps: Epsilon = 1e-5
    qkv_bias: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> "MobileVitConfig":
        for width in self.hidden_sizes:
            if width % self.num_attention_heads:
                raise ValueError(
                    f"hidden_sizes {width} is not a multiple of num_attention_heads {self.num_attention_heads}"
                )
        if self.conv_kernel_size % 2 == 0:
            raise ValueError(f"conv_kernel_size must be odd, got {self.conv_kernel_size}")
        return self


#: Transformer layers of the three parts of MobileViT, from table 4 of arXiv 2110.02178.
_MOBILEVIT_DEPTHS = (2, 4, 3)


def _mobilevit(config: MobileVitConfig, task: str) -> Staged:
    head = Head("classifier", config.n_labels, bias=True, selects="mean", adapts=True)
    found = labels_head(config, task, head)
    return Staged("mobilevit", config.image_size, lambda image: _mobilevit_stages(config, image, found))


def _mobilevit_stages(config: MobileVitConfig, image: int, head: Head | None) -> tuple[Stage, ...]:
    """Raises ValueError for an image that is too small for the stages."""
    necks, path = config.neck_hidden_sizes, "mobilevit.encoder.layer"
    stem = Chain(
        (_step(config, "mobilevit.conv_stem", necks[0], 3, 2),), image, config.num_channels, source="image"
    )
    first = _inverted(config, "", stem.out_side, necks[0], necks[1], 1)
    second = _inverted(config, "", first.out_side, necks[1], necks[2], 2)
    further = _inverted(config, "", second.out_side, necks[2], necks[2], 1)
    side = second.out_side
    stages = [
        stage_of("mobilevit", f"{path}.0.layer", necks[1], stem, ((first, 1),), first.out_side),
        stage_of("mobilevit", f"{path}.1.layer", necks[2], None, ((second, 1), (further, 2)), side),
    ]
    dilation = 1
    for number in range(3):
        if (number == 1 and config.output_stride == 8) or (number == 2 and config.output_stride in (8, 16)):
            dilation *= 2
        here = f"{path}.{number + 2}"
        shrink = _inverted(
            config, f"{here}.downsampling_layer.", side, necks[number + 2], necks[number + 3],
            2 if dilation == 1 else 1, max(1, dilation // 2),
        )  # fmt: skip
        side = shrink.out_side
        stages.append(stage_of("mobilevit", here, necks[number + 3], shrink, (), side))
        stages.extend(_transformed(config, here, number, side))
    last = Chain((_step(config, "mobilevit.conv_1x1_exp", necks[6], 1),), side, necks[5])
    return closed(
        [*stages, stage_of("mobilevit", "mobilevit.conv_1x1_exp", necks[6], last, (), side)], None, head
    )


def _step(
    config: MobileVitConfig, path: str, width: int, kernel: int, stride: int = 1, *, depthwise: bool = False,
    dilation: int = 1, bare: bool = False, opened: bool = True,
) -> Step:  # fmt: skip
    """A convolution that keeps the positions but for its stride; `bare`: without norm and function."""
    padding = (kernel - 1) // 2 * dilation
    convolution = Convolution(f"{path}.convolution", kernel, stride, padding, depthwise, False, dilation)
    function = config.hidden_act if opened and not bare else ""
    return Step(convolution, width, "" if bare else f"{path}.normalization", function)


def _inverted(
    config: MobileVitConfig, path: str, side: int, in_width: int, width: int, stride: int, dilation: int = 1
) -> Chain:
    inner = divisible(round(in_width * config.expand_ratio), 8, 8)
    steps = (
        _step(config, f"{path}expand_1x1", inner, 1),
        _step(config, f"{path}conv_3x3", inner, 3, stride, depthwise=True, dilation=dilation),
        _step(config, f"{path}reduce_1x1", width, 1, opened=False),
    )
    return Chain(steps, side, in_width, residual=stride == 1 and in_width == width)


def _transformed(config: MobileVitConfig, path: str, number: int, side: int) -> list[Stage]:
    """The stage of sequences and the one that folds them back."""
    width, neck, heads = (
        config.hidden_sizes[number],
        config.neck_hidden_sizes[number + 3],
        config.num_attention_heads,
    )
    patches, kernel = Patches(side, config.patch_size), config.conv_kernel_size
    unfold = Unfolding(
        (_step(config, f"{path}.conv_kxk", neck, kernel), _step(config, f"{path}.conv_1x1", width, 1, bare=True)),
        patches, neck,
    )  # fmt: skip
    attention = Attention(
        "attention", heads, heads, width // heads, "output.dense", query="attention.query",
        key="attention.key", value="attention.value", qkv_bias=config.qkv_bias, output_bias=True,
        causal=False, cached=False,
    )  # fmt: skip
    inner, epsilon = scaled_width(width, config.mlp_ratio, "mlp_ratio"), config.layer_norm_eps
    block = Block(
        attention,
        FeedForward("", inner, "intermediate.dense", "output.dense", config.hidden_act, bias=True),
        layer_norm("layernorm_before", epsilon), layer_norm("layernorm_after", epsilon),
    )  # fmt: skip
    stack = Transformer(
        "mobilevit",
        width,
        f"{path}.transformer.layer",
        unfold,
        ((block, _MOBILEVIT_DEPTHS[number]),),
        None,
        None,
    )
    fold = Folding(
        replace(layer_norm(f"{path}.layernorm", epsilon), over=("w",)),
        (_step(config, f"{path}.conv_projection", neck, 1),), (_step(config, f"{path}.fusion", neck, kernel),),
        patches, width, neck,
    )  # fmt: skip
    sequences = Stage(stack, patches.across**2, patches.n_sequences)
    return [sequences, stage_of("mobilevit", f"{path}.fusion", neck, fold, (), side)]


class EfficientFormerConfig(ConfigFile):
    """`model_type` efficientformer; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "EfficientFormerForImageClassification"
    num_channels: Channels = 3
    image_size: Pixels = 224
    depths: Depths = Field(default_factory=lambda: [3, 2, 6, 4])
    hidden_sizes: Widths = Field(default_factory=lambda: [48, 96, 224, 448])
    downsamples: list[bool] = Field(default_factory=lambda: [True, True, True, True])
    dim: Width = 448
    key_dim: Width = 32
    attention_ratio: Ratio = 4
    resolution: Annotated[int, Field(gt=0, le=512)] = 7
    num_attention_heads: Width = 8
    mlp_expansion_ratio: Ratio = 4
    pool_size: Annotated[int, Field(gt=0, le=255)] | None = 3
    downsample_patch_size: Pixels = 3
    downsample_stride: Pixels = 2
    downsample_pad: Padding = 1
    num_meta3d_blocks: Annotated[int, Field(ge=0, le=4096)] = 1
    use_layer_scale: bool = True
    hidden_act: Activation = "gelu"
    layer_norm_eps: Epsilon = 1e-12

    @model_validator(mode="after")
    def _consistent(self) -> "EfficientFormerConfig":
        n_stages = len(self.depths)
        if len(self.hidden_sizes) != n_stages or len(self.downsamples) < n_stages - 1:
            raise ValueError(
                f"depths has {n_stages} stages, hidden_sizes {len(self.hidden_sizes)}, downsamples"
                f" {len(self.downsamples)}"
            )
        if self.num_meta3d_blocks > self.depths[-1]:
            raise ValueError(
                f"num_meta3d_blocks {self.num_meta3d_blocks} exceeds the last of depths {self.depths[-1]}"
            )
        if self.num_meta3d_blocks and self.dim != self.hidden_sizes[-1]:
            raise ValueError(f"dim {self.dim} is not the last of hidden_sizes {self.hidden_sizes[-1]}")
        if (self.pool_size or 3) % 2 == 0:
            raise ValueError(f"pool_size must be odd, got {self.pool_size}")
        if self.hidden_sizes[0] < 2:
            raise ValueError(f"hidden_sizes: the first must be at least 2, got {self.hidden_sizes[0]}")
        return self


def _efficientformer(config: EfficientFormerConfig, task: str) -> Staged:
    second = None
    if config.architecture.endswith("WithTeacher"):
        second = Head("distillation_classifier", config.n_labels, bias=True, adapts=True)
    head = Head("classifier", config.n_labels, bias=True, selects="mean", adapts=True, beside=second)
    found = labels_head(config, task, head)
    return Staged(
        "efficientformer", config.image_size, lambda image: _efficientformer_stages(config, image, found)
    )


def _efficientformer_stages(
    config: EfficientFormerConfig, image: int, head: Head | None
) -> tuple[Stage, ...]:
    """EfficientFormer (arXiv 2206.01191). Raises ValueError for an image of another resolution."""
    widths, encoder = config.hidden_sizes, "efficientformer.encoder"
    entry: Chain | None = two_step_stem(
        "efficientformer.patch_embed", ("convolution1", "convolution2"),
        ("batchnorm_before", "batchnorm_after"), config.num_channels, widths[0], image,
    )  # fmt: skip
    stages, side, place, last = [], image, 0, len(widths) - 1
    for number, (depth, width) in enumerate(zip(config.depths, widths, strict=True)):
        if number:
            entry = None
            if config.downsamples[number - 1] or widths[number - 1] != width:
                entry = _downsampling(config, f"{encoder}.intermediate_stages.{place}", number, side)
                place += 1
        side = entry.out_side if entry else side
        n_flat = config.num_meta3d_blocks if number == last else 0
        path = f"{encoder}.last_stage" if number == last else f"{encoder}.intermediate_stages.{place}"
        place += 1
        pools: tuple[tuple[Layer, int], ...] = ((_pooling_block(config, width, side), depth - n_flat),)
        pools = pools if depth > n_flat else ()
        stages.append(stage_of("efficientformer", f"{path}.meta4D_layers.blocks", width, entry, pools, side))
        if n_flat:
            if side != config.resolution:
                raise ValueError(
                    f"image {image}: {side} positions along a side, resolution is {config.resolution}"
                )
            flat = (_flat_block(config, width), n_flat)
            stages.append(
                stage_of("efficientformer", f"{path}.meta3D_layers.blocks", width, None, (flat,), side)
            )
    return closed(stages, layer_norm("efficientformer.layernorm", config.layer_norm_eps), head)


def _downsampling(config: EfficientFormerConfig, path: str, number: int, side: int) -> Chain:
    convolution = Convolution(
        f"{path}.projection", config.downsample_patch_size, config.downsample_stride, config.downsample_pad
    )
    step = Step(convolution, config.hidden_sizes[number], f"{path}.norm")
    return Chain((step,), side, config.hidden_sizes[number - 1])


def _pooling_block(config: EfficientFormerConfig, width: int, side: int) -> PoolingBlock:
    inner = scaled_width(width, config.mlp_expansion_ratio, "mlp_expansion_ratio")
    steps = (
        Step(Convolution("mlp.convolution1", 1), inner, "mlp.batchnorm_before", config.hidden_act),
        Step(Convolution("mlp.convolution2", 1), width, "mlp.batchnorm_after"),
    )
    return PoolingBlock(config.pool_size or 3, steps, side, scales=_scales(config))


def _scales(config: EfficientFormerConfig) -> tuple[str, str]:
    return ("layer_scale_1", "layer_scale_2") if config.use_layer_scale else ("", "")


def _flat_block(config: EfficientFormerConfig, width: int) -> OffsetBlock:
    value_dim = scaled_width(config.key_dim, config.attention_ratio, "attention_ratio")
    attention = OffsetAttention(
        "token_mixer", config.num_attention_heads, config.key_dim, value_dim, config.resolution, "qkv",
        "projection",
    )  # fmt: skip
    inner = scaled_width(width, config.mlp_expansion_ratio, "mlp_expansion_ratio")
    network = FeedForward("mlp", inner, "linear_in", "linear_out", config.hidden_act, bias=True)
    epsilon = config.layer_norm_eps
    norms = (layer_norm("layernorm1", epsilon), layer_norm("layernorm2", epsilon))
    return OffsetBlock(attention, network, norms=norms, scales=_scales(config))


class LevitConfig(ConfigFile):
    """`model_type` levit; defaults are the library's class defaults. There are three stages."""

    default_architecture: ClassVar[str] = "LevitForImageClassification"
    num_channels: Channels = 3
    image_size: Pixels = 224
    kernel_size: Annotated[int, Field(gt=0, le=255)] = 3
    stride: Annotated[int, Field(gt=0, le=255)] = 2
    padding: Padding = 1
    patch_size: Pixels = 16
    hidden_sizes: Three = Field(default_factory=lambda: [128, 256, 384])
    num_attention_heads: Three = Field(default_factory=lambda: [4, 8, 12])
    depths: Annotated[Depths, Field(min_length=3, max_length=3)] = Field(default_factory=lambda: [4, 4, 4])
    key_dim: Three = Field(default_factory=lambda: [16, 16, 16])
    mlp_ratio: Annotated[list[Whole], Field(min_length=3, max_length=3)] = Field(
        default_factory=lambda: [2, 2, 2]
    )
    attention_ratio: Annotated[list[Whole], Field(min_length=3, max_length=3)] = Field(
        default_factory=lambda: [2, 2, 2]
    )

    @model_validator(mode="after")
    def _consistent(self) -> "LevitConfig":
        if self.hidden_sizes[0] < 8:
            raise ValueError(f"hidden_sizes: the first must be at least 8, got {self.hidden_sizes[0]}")
        for width in self.hidden_sizes[:2]:
            if width < self.key_dim[0]:
                raise ValueError(f"hidden_sizes {width} is less than key_dim {self.key_dim[0]}")
        if self.image_size // self.patch_size > 512:
            raise ValueError(f"image_size {self.image_size} has more than 512 patches along a side")
        return self


#: Value channels per key channel, inner width of the network and stride of LeViT's subsampling attention.
_SAMPLED_RATIO, _SAMPLED_NETWORK, _SAMPLED_STRIDE = 4, 2, 2


def _levit(config: LevitConfig, task: str) -> Staged:
    def head(path: str) -> Head:
        return Head(
            f"{path}.linear", config.n_labels, bias=True, selects="mean", adapts=True,
            norm=batch_norm(f"{path}.batch_norm"),
        )  # fmt: skip

    second = head("classifier_distill") if config.architecture.endswith("WithTeacher") else None
    found = labels_head(config, task, replace(head("classifier"), beside=second))
    return Staged("levit", config.image_size, lambda image: _levit_stages(config, image, found))


def _levit_stages(config: LevitConfig, image: int, head: Head | None) -> tuple[Stage, ...]:
    """LeViT (arXiv 2104.01136). Raises ValueError for an image that its scores are not learned for."""
    widths = config.hidden_sizes
    stem = _levit_stem(config, image)
    entry: Chain | SampledEntry = stem
    side = config.image_size // config.patch_size
    if stem.out_side != side:
        raise ValueError(
            f"image {image}: {stem.out_side} patches along a side, scores are learned for {side}"
        )
    stages: list[Stage] = []
    for number, (depth, width) in enumerate(zip(config.depths, widths, strict=True)):
        path = f"levit.encoder.stages.{number}.layers"
        layers: list[tuple[Layer, int]] = []
        if number:
            sampled, layers = _sampled(config, f"levit.encoder.stages.{number - 1}.layers", number, side)
            entry, side = sampled, sampled.attention.out_side
        attention = OffsetAttention(
            "module", config.num_attention_heads[number], config.key_dim[number],
            config.attention_ratio[number] * config.key_dim[number], side, "queries_keys_values", "projection",
            normed=True, function="hardswish",
        )  # fmt: skip
        layers.append((OffsetBlock(attention, _levit_network(config.mlp_ratio[number] * width), True), depth))
        stages.append(stage_of("levit", path, width, entry, tuple(layers), side))
    return closed(stages, None, head)


def _levit_stem(config: LevitConfig, image: int) -> Chain:
    """Four convolutions from an eighth to all of the channels."""
    steps = []
    for number, share in enumerate((8, 4, 2, 1), start=1):
        path = f"levit.patch_embeddings.embedding_layer_{number}"
        convolution = Convolution(
            f"{path}.convolution", config.kernel_size, config.stride, config.padding, bias=False
        )
        function = "hardswish" if share > 1 else ""
        steps.append(Step(convolution, config.hidden_sizes[0] // share, f"{path}.batch_norm", function))
    return Chain(tuple(steps), image, config.num_channels, source="image")


def _sampled(
    config: LevitConfig, path: str, number: int, side: int
) -> tuple[SampledEntry, list[tuple[Layer, int]]]:
    """The subsampling attention between two stages and the network behind it."""
    key_dim, in_width, width = config.key_dim[0], config.hidden_sizes[number - 1], config.hidden_sizes[number]
    attention = OffsetAttention(
        path, in_width // key_dim, key_dim, _SAMPLED_RATIO * key_dim, side, "keys_values", "projection",
        normed=True, function="hardswish", query="queries", stride=_SAMPLED_STRIDE,
    )  # fmt: skip
    network = OffsetBlock(None, _levit_network(_SAMPLED_NETWORK * width), True)
    return SampledEntry(attention, in_width), [(network, 1)]


def _levit_network(inner_width: int) -> FeedForward:
    return FeedForward("network", inner_width, "linear_up", "linear_down", "hardswish")


FAMILIES: Mapping[str, Family[Any]] = {
    "mobilevit": Family(
        MobileVitConfig, _mobilevit,
        {
            "q": "attention.attention.query", "k": "attention.attention.key",
            "v": "attention.attention.value", "o": "attention.output.dense", "up": "intermediate.dense",
            "down": "output.dense",
        },
    ),
    "efficientformer": Family(
        EfficientFormerConfig, _efficientformer,
        {
            "q": "token_mixer.qkv", "k": "token_mixer.qkv", "v": "token_mixer.qkv",
            "o": "token_mixer.projection", "up": "mlp.linear_in", "down": "mlp.linear_out",
        },
        ("ForImageClassificationWithTeacher",),
    ),
    "levit": Family(LevitConfig, _levit, {}, ("ForImageClassificationWithTeacher",)),
}  # fmt: skip
