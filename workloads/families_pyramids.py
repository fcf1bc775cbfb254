"""Families of staged vision transformers that attend to a coarser image: SegFormer, PVT, PVT v2, CvT."""

from collections.abc import Mapping
from dataclasses import replace
from math import isqrt
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tilewright.workloads.attention import Attention
from tilewright.workloads.config import Activation, ConfigFile, Epsilon, Pixels, Width, also, scaled_width
from tilewright.workloads.convolution import Convolution, PatchStem, side_after
from tilewright.workloads.decode_heads import JoinedMaps
from tilewright.workloads.family import Family
from tilewright.workloads.feed_forward import FeedForward
from tilewright.workloads.grids import Grid, GridBlock, GridEntry, Projection, Reduction
from tilewright.workloads.head import Head, task_of
from tilewright.workloads.norms import Norm, layer_norm
from tilewright.workloads.transformer import Layer, Stage, Staged, Transformer

Channels = Annotated[int, Field(gt=0, le=4096)]
Depth = Annotated[int, Field(gt=0, le=4096)]
Widths = Annotated[list[Width], Field(min_length=1, max_length=16)]
Depths = Annotated[list[Depth], Field(min_length=1, max_length=16)]
Sides = Annotated[list[Pixels], Field(min_length=1, max_length=16)]
Paddings = Annotated[list[Annotated[int, Field(ge=0, le=2**14)]], Field(min_length=1, max_length=16)]
Ratios = Annotated[list[Annotated[float, Field(gt=0, le=1024)]], Field(min_length=1, max_length=16)]
Flags = Annotated[list[bool], Field(min_length=1, max_length=16)]

#: Epsilon of norms for which the library takes PyTorch's default.
_DEFAULT_EPSILON = 1e-5


class PyramidConfig(ConfigFile):
    """What pyramids share; a list has a value per stage, `num_encoder_blocks` of them."""

    num_channels: Channels = 3
    image_size: Pixels = 224
    num_encoder_blocks: Annotated[int, Field(gt=0, le=16)] = 4
    depths: Depths = Field(default_factory=lambda: [2, 2, 2, 2])
    sr_ratios: Sides = Field(default_factory=lambda: [8, 4, 2, 1])
    hidden_sizes: Widths = Field(default_factory=lambda: [32, 64, 160, 256])
    patch_sizes: Sides = Field(default_factory=lambda: [7, 3, 3, 3])
    strides: Sides = Field(default_factory=lambda: [4, 2, 2, 2])
    num_attention_heads: Widths = Field(default_factory=lambda: [1, 2, 5, 8])
    mlp_ratios: Ratios = Field(default_factory=lambda: [8.0, 8.0, 4.0, 4.0])
    hidden_act: Activation = "gelu"
    layer_norm_eps: Epsilon = 1e-6
    qkv_bias: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> "PyramidConfig":
        per_stage = (
            "depths", "sr_ratios", "hidden_sizes", "patch_sizes", "strides", "num_attention_heads",
            "mlp_ratios",
        )  # fmt: skip
        for name in per_stage:
            if len(getattr(self, name)) < self.num_encoder_blocks:
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} stages, num_encoder_blocks is"
                    f" {self.num_encoder_blocks}"
                )
        _refuse_heads(self.hidden_sizes, self.num_attention_heads, "num_attention_heads")
        return self


def _refuse_heads(widths: list[int], heads: list[int], name: str) -> None:
    for number, (width, n_heads) in enumerate(zip(widths, heads, strict=False)):
        if width % n_heads:
            raise ValueError(f"the width {width} of stage {number} is not a multiple of {name} {n_heads}")


class SegformerConfig(PyramidConfig):
    """`model_type` segformer; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "SegformerForImageClassification"
    mlp_ratios: Ratios = Field(default_factory=lambda: [4.0, 4.0, 4.0, 4.0])
    decoder_hidden_size: Width = 256

    def segments(self, task: str) -> bool:
        """Whether the head gives a class per position."""
        return not task and self.architecture.endswith("ForSemanticSegmentation")


class PvtConfig(PyramidConfig):
    """`model_type` pvt; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "PvtForImageClassification"
    sr_ratios: Sides = Field(
        default_factory=lambda: [8, 4, 2, 1], validation_alias=also("sequence_reduction_ratios")
    )
    hidden_sizes: Widths = Field(default_factory=lambda: [64, 128, 320, 512])
    patch_sizes: Sides = Field(default_factory=lambda: [4, 2, 2, 2])

    @property
    def n_labels(self) -> int:
        """The library's class has its own default, which the names of labels do not change."""
        return self.num_labels or 1000


class PvtV2Config(PyramidConfig):
    """`model_type` pvt_v2; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "PvtV2ForImageClassification"
    linear_attention: bool = False


def _labels(config: ConfigFile, task: str, head: Head) -> Head | None:
    """`head` for classification, none for bare features. Raises ValueError for other tasks."""
    match task_of(config, task):
        case "IMAGE_CLS" | "":
            return head
        case "FEATURE_EXTRACTION":
            return None
        case _ as found:
            raise ValueError(f"the task {found} is not supported here")


def _classifier(config: ConfigFile, selects: Literal["mean", "first"]) -> Head:
    return Head("classifier", config.n_labels, bias=True, selects=selects, adapts=True)


def _stage(model_type: str, path: str, width: int, entry: Any, layer: Layer, depth: int, n: int) -> Stage:
    return Stage(Transformer(model_type, width, path, entry, ((layer, depth),), None, None), n)


def _closed(stages: list[Stage], norm: Norm | None, head: Head | None) -> tuple[Stage, ...]:
    """The stages, the last one with final norm and head."""
    last = stages[-1]
    return (*stages[:-1], replace(last, stack=replace(last.stack, final_norm=norm, head=head)))


def _refuse_small(image: int, side: int, number: int, reduction: int = 1) -> None:
    if side < max(1, reduction):
        raise ValueError(
            f"image {image}: stage {number} has {side} positions along a side, fewer than needed"
        )


def _overlapping_stem(
    config: PyramidConfig,
    number: int,
    side: int,
    modules: tuple[str, str],
    before: Norm | None,
    epsilon: float,
) -> PatchStem:
    """The convolution of overlapping patches and its norm, behind the norm of the stage before."""
    kernel, width = config.patch_sizes[number], config.hidden_sizes
    convolution = Convolution(modules[0], kernel, config.strides[number], kernel // 2)
    n_channels = width[number - 1] if number else config.num_channels
    source = "x" if number else "image"
    return PatchStem(source, convolution, n_channels, side, before, layer_norm(modules[1], epsilon))


def _segformer(config: SegformerConfig, task: str) -> Staged:
    segments = config.segments(task)
    head = None if segments else _labels(config, task, _classifier(config, "mean"))

    def stages(image: int) -> tuple[Stage, ...]:
        found = _segformer_stages(config, image, head)
        return (*found, _segmentation(config, found)) if segments else found

    return Staged("segformer", config.image_size, stages)


def _segmentation(config: SegformerConfig, stages: tuple[Stage, ...]) -> Stage:
    """The head over the results of all stages."""
    sizes = tuple((isqrt(stage.n_tokens), stage.stack.width) for stage in stages)
    width = config.decoder_hidden_size
    joined = JoinedMaps("decode_head", sizes, width, config.n_labels)
    return Stage(Transformer("segformer", width, "decode_head", joined, (), None, None), stages[0].n_tokens)


def _segformer_stages(config: SegformerConfig, image: int, head: Head | None) -> tuple[Stage, ...]:
    """SegFormer (arXiv 2105.15203). Raises ValueError for an image that is too small for the stages."""
    stages, side, before, epsilon = [], image, None, _DEFAULT_EPSILON
    for number in range(config.num_encoder_blocks):
        path = f"segformer.stages.{number}"
        patches = f"{path}.patch_embeddings"
        stem = _overlapping_stem(
            config, number, side, (f"{patches}.proj", f"{patches}.layer_norm"), before, epsilon
        )
        side = side_after(side, stem.convolution)
        ratio, heads, width = (
            values[number] for values in (config.sr_ratios, config.num_attention_heads, config.hidden_sizes)
        )
        _refuse_small(image, side, number, ratio)
        reduced = "attention.sequence_reduction"
        reduction = Reduction(
            Convolution(f"{reduced}.sequence_reduction", ratio, ratio),
            layer_norm(f"{reduced}.layer_norm", epsilon),
        )
        layer = GridBlock(
            Attention(
                "attention", heads, heads, width // heads, "o_proj", qkv_bias=True, output_bias=True,
                causal=False, cached=False,
            ),
            FeedForward("mlp", _inner(config, number), "fc1", "fc2", config.hidden_act, bias=True),
            layer_norm("layernorm_before", epsilon), layer_norm("layernorm_after", epsilon), Grid(side),
            reduction if ratio > 1 else None,
            depthwise=Convolution("mlp.dwconv.dwconv", 3, 1, 1, depthwise=True),
        )  # fmt: skip
        depth = config.depths[number]
        stages.append(_stage("segformer", f"{path}.blocks", width, stem, layer, depth, side**2))
        before = Norm(f"{path}.layer_norm", "layernorm", epsilon, ("c",), bias=True)
    last = f"segformer.stages.{config.num_encoder_blocks - 1}.layer_norm"
    return _closed(stages, layer_norm(last, epsilon), head)


def _inner(config: PyramidConfig, number: int) -> int:
    return scaled_width(config.hidden_sizes[number], config.mlp_ratios[number], "mlp_ratios")


def _pvt(config: PvtConfig, task: str) -> Staged:
    head = _labels(config, task, _classifier(config, "first"))
    return Staged("pvt", config.image_size, lambda image: _pvt_stages(config, image, head))


def _pvt_stages(config: PvtConfig, image: int, head: Head | None) -> tuple[Stage, ...]:
    """PVT (arXiv 2102.12122). Raises ValueError for an image that its positions are not learned for."""
    stages, side, epsilon = [], image, config.layer_norm_eps
    for number in range(config.num_encoder_blocks):
        is_last = number == config.num_encoder_blocks - 1
        patch, width = config.patch_sizes[number], config.hidden_sizes[number]
        path = f"pvt.encoder.patch_embeddings.{number}"
        n_channels = config.hidden_sizes[number - 1] if number else config.num_channels
        stem = PatchStem(
            "x" if number else "image", Convolution(f"{path}.projection", config.strides[number], patch),
            n_channels, side, after=layer_norm(f"{path}.layer_norm", epsilon),
        )  # fmt: skip
        learned = config.image_size // (2 ** (number + 1) if number else 1) // patch
        side, ratio = side_after(side, stem.convolution), config.sr_ratios[number]
        _refuse_small(image, side, number, ratio)
        if side != learned:
            raise ValueError(
                f"image {image}: stage {number} has {side} positions along a side, {learned} are learned"
            )
        if is_last and ratio > 1:
            raise ValueError(f"the last stage, which has a class token, reduces by 1, got {ratio}")
        grid = Grid(side, 1 if is_last else 0)
        names = ("cls_token",) if is_last else ()
        entry = GridEntry(stem, grid, path, names, "position_embeddings")
        attention = _inner_attention(config, number, "attention", "self.", "output.dense")
        layer = GridBlock(
            attention, FeedForward("mlp", _inner(config, number), "dense1", "dense2", config.hidden_act, bias=True),
            layer_norm("layer_norm_1", epsilon), layer_norm("layer_norm_2", epsilon), grid,
            Reduction(
                Convolution("attention.self.sequence_reduction", ratio, ratio),
                layer_norm("attention.self.layer_norm", epsilon),
            ) if ratio > 1 else None,
        )  # fmt: skip
        blocks = f"pvt.encoder.block.{number}"
        stages.append(_stage("pvt", blocks, width, entry, layer, config.depths[number], grid.n_tokens))
    return _closed(stages, layer_norm("pvt.encoder.layer_norm", epsilon), head)


def _inner_attention(config: PyramidConfig, number: int, path: str, prefix: str, output: str) -> Attention:
    heads, width = config.num_attention_heads[number], config.hidden_sizes[number]
    return Attention(
        path, heads, heads, width // heads, output, query=f"{prefix}query", key=f"{prefix}key",
        value=f"{prefix}value", qkv_bias=config.qkv_bias, output_bias=True, causal=False, cached=False,
    )  # fmt: skip


#: Means along a side that the linear attention of PVT v2 leaves.
_POOLED_SIDE = 7


def _pvt_v2(config: PvtV2Config, task: str) -> Staged:
    head = _labels(config, task, _classifier(config, "mean"))
    return Staged("pvt_v2", config.image_size, lambda image: _pvt_v2_stages(config, image, head))


def _pvt_v2_stages(config: PvtV2Config, image: int, head: Head | None) -> tuple[Stage, ...]:
    """PVT v2 (arXiv 2106.13797). Raises ValueError for an image that is too small for the stages."""
    stages, side, before, epsilon = [], image, None, config.layer_norm_eps
    linear = config.linear_attention
    for number in range(config.num_encoder_blocks):
        path, width = f"pvt_v2.encoder.layers.{number}", config.hidden_sizes[number]
        patches = f"{path}.patch_embedding"
        modules = (f"{patches}.proj", f"{patches}.layer_norm")
        stem = _overlapping_stem(config, number, side, modules, before, epsilon)
        side, ratio = side_after(side, stem.convolution), 1 if linear else config.sr_ratios[number]
        _refuse_small(image, side, number, ratio)
        reduction = Reduction(
            Convolution("attention.spatial_reduction", ratio, ratio),
            layer_norm("attention.layer_norm", epsilon), _POOLED_SIDE if linear else 0,
            "gelu" if linear else "",
        )  # fmt: skip
        inner = FeedForward("mlp", _inner(config, number), "dense1", "dense2", config.hidden_act, bias=True)
        layer = GridBlock(
            _inner_attention(config, number, "attention", "", "proj"), inner,
            layer_norm("layer_norm_1", epsilon), layer_norm("layer_norm_2", epsilon), Grid(side),
            reduction if linear or ratio > 1 else None,
            depthwise=Convolution("mlp.dwconv.dwconv", 3, 1, 1, depthwise=True),
            opened_by="relu" if linear else "",
        )  # fmt: skip
        stages.append(_stage("pvt_v2", f"{path}.blocks", width, stem, layer, config.depths[number], side**2))
        before = Norm(f"{path}.layer_norm", "layernorm", epsilon, ("c",), bias=True)
    last = f"pvt_v2.encoder.layers.{config.num_encoder_blocks - 1}.layer_norm"
    return _closed(stages, layer_norm(last, epsilon), head)


#: How CvT makes queries, keys and values: the one way that the library can run.
Method = Literal["dw_bn"]


def _methods() -> list[Method]:
    return ["dw_bn", "dw_bn", "dw_bn"]


class CvtConfig(ConfigFile):
    """`model_type` cvt; defaults are the library's class defaults. The file states no image size."""

    default_architecture: ClassVar[str] = "CvtForImageClassification"
    num_channels: Channels = 3
    image_size: Pixels = 224
    patch_sizes: Sides = Field(default_factory=lambda: [7, 3, 3])
    patch_stride: Sides = Field(default_factory=lambda: [4, 2, 2])
    patch_padding: Paddings = Field(default_factory=lambda: [2, 1, 1])
    embed_dim: Widths = Field(default_factory=lambda: [64, 192, 384])
    num_heads: Widths = Field(default_factory=lambda: [1, 3, 6])
    depth: Depths = Field(default_factory=lambda: [1, 2, 10])
    mlp_ratio: Ratios = Field(default_factory=lambda: [4.0, 4.0, 4.0])
    qkv_bias: Flags = Field(default_factory=lambda: [True, True, True])
    cls_token: Flags = Field(default_factory=lambda: [False, False, True])
    qkv_projection_method: list[Method] = Field(default_factory=_methods)
    kernel_qkv: Sides = Field(default_factory=lambda: [3, 3, 3])
    padding_kv: Paddings = Field(default_factory=lambda: [1, 1, 1])
    stride_kv: Sides = Field(default_factory=lambda: [2, 2, 2])
    padding_q: Paddings = Field(default_factory=lambda: [1, 1, 1])
    stride_q: Sides = Field(default_factory=lambda: [1, 1, 1])

    @model_validator(mode="after")
    def _consistent(self) -> "CvtConfig":
        per_stage = (
            "patch_sizes", "patch_stride", "patch_padding", "embed_dim", "num_heads", "mlp_ratio", "qkv_bias",
            "cls_token", "qkv_projection_method", "kernel_qkv", "padding_kv", "stride_kv", "padding_q",
            "stride_q",
        )  # fmt: skip
        for name in per_stage:
            if len(getattr(self, name)) < len(self.depth):
                raise ValueError(f"{name} has {len(getattr(self, name))} stages, depth {len(self.depth)}")
        if any(self.cls_token[: len(self.depth) - 1]):
            raise ValueError("cls_token: only the last stage may have one")
        _refuse_heads(self.embed_dim, self.num_heads, "num_heads")
        return self


def _cvt(config: CvtConfig, task: str) -> Staged:
    has_class = config.cls_token[len(config.depth) - 1]
    head = _labels(
        config, task, replace(_classifier(config, "first" if has_class else "mean"), owns_norm=True)
    )
    return Staged("cvt", config.image_size, lambda image: _cvt_stages(config, image, head))


def _cvt_stages(config: CvtConfig, image: int, head: Head | None) -> tuple[Stage, ...]:
    """CvT (arXiv 2103.15808). Raises ValueError for an image or paddings that do not fit the stages."""
    stages, side, epsilon = [], image, _DEFAULT_EPSILON
    for number, depth in enumerate(config.depth):
        width, path = config.embed_dim[number], f"cvt.encoder.stages.{number}"
        patches = f"{path}.embedding.convolution_embeddings"
        convolution = Convolution(
            f"{patches}.projection", config.patch_sizes[number], config.patch_stride[number],
            config.patch_padding[number],
        )  # fmt: skip
        n_channels = config.embed_dim[number - 1] if number else config.num_channels
        stem = PatchStem(
            "x" if number else "image", convolution, n_channels, side,
            after=layer_norm(f"{patches}.normalization", epsilon),
        )  # fmt: skip
        side = side_after(side, convolution)
        _refuse_small(image, side, number)
        grid = Grid(side, 1 if config.cls_token[number] else 0)
        entry = GridEntry(stem, grid, path, ("cls_token",)) if grid.n_class else stem
        layer = _cvt_layer(config, number, grid)
        stages.append(_stage("cvt", f"{path}.layers", width, entry, layer, depth, grid.n_tokens))
    return _closed(stages, layer_norm("layernorm", epsilon) if head else None, head)


def _cvt_layer(config: CvtConfig, number: int, grid: Grid) -> GridBlock:
    width, heads = config.embed_dim[number], config.num_heads[number]
    inner = scaled_width(width, config.mlp_ratio[number], "mlp_ratio")
    strides = (config.stride_q[number], config.stride_kv[number], config.stride_kv[number])
    paddings = (config.padding_q[number], config.padding_kv[number], config.padding_kv[number])
    projections = []
    for name, stride, padding in zip(("query", "key", "value"), strides, paddings, strict=True):
        path = f"attention.attention.convolution_projection_{name}.convolution_projection"
        convolution = Convolution(
            f"{path}.convolution", config.kernel_qkv[number], stride, padding, depthwise=True, bias=False
        )
        projections.append(Projection(convolution, f"{path}.normalization"))
        if side_after(grid.side, convolution) < 1:
            raise ValueError(f"stage {number}: {grid.side} positions along a side are too few for {name}")
    if side_after(grid.side, projections[0].convolution) != grid.side:
        raise ValueError(f"stage {number}: stride_q, padding_q and kernel_qkv do not keep the positions")
    attention = Attention(
        "attention", heads, heads, width // heads, "output.dense", query="attention.projection_query",
        key="attention.projection_key", value="attention.projection_value",
        qkv_bias=config.qkv_bias[number], output_bias=True, causal=False, cached=False, scale=width**-0.5,
    )  # fmt: skip
    return GridBlock(
        attention, FeedForward("", inner, "intermediate.dense", "output.dense", "gelu", bias=True),
        layer_norm("layernorm_before", _DEFAULT_EPSILON), layer_norm("layernorm_after", _DEFAULT_EPSILON),
        grid, projections=tuple(projections),
    )  # fmt: skip


FAMILIES: Mapping[str, Family[Any]] = {
    "segformer": Family(
        SegformerConfig, _segformer,
        {
            "q": "attention.q_proj", "k": "attention.k_proj", "v": "attention.v_proj",
            "o": "attention.o_proj", "up": "mlp.fc1", "down": "mlp.fc2",
        },
        ("ForSemanticSegmentation",),
    ),
    "pvt": Family(
        PvtConfig, _pvt,
        {
            "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
            "o": "attention.output.dense", "up": "mlp.dense1", "down": "mlp.dense2",
        },
    ),
    "pvt_v2": Family(
        PvtV2Config, _pvt_v2,
        {
            "q": "attention.query", "k": "attention.key", "v": "attention.value", "o": "attention.proj",
            "up": "mlp.dense1", "down": "mlp.dense2",
        },
    ),
    "cvt": Family(
        CvtConfig, _cvt,
        {
            "q": "attention.attention.projection_query", "k": "attention.attention.projection_key",
            "v": "attention.attention.projection_value", "o": "attention.output.dense",
            "up": "intermediate.dense", "down": "output.dense",
        },
    ),
}  # fmt: skip
