"""Convolutions over images as contractions with affine indices, and the layers made of them."""

from dataclasses import dataclass

from tilewright.dataflow.operator import Access, Index, IndexTerm
from tilewright.workloads.builder import Filter, LayerBuilder, Linear, word
from tilewright.workloads.norms import Norm, normalise

#: The ranks of an image between layers: batch, row, column, channel.
IMAGE_RANKS = ("b", "y", "x", "d")


@dataclass(frozen=True, slots=True)
class Convolution:
    """`kernel` x `kernel` taps, `stride` apart; each channel by itself if `depthwise`.

    `padding` stands before the image and, where `padding_after` says nothing else, behind it too. Taps are
    `dilation` positions apart.
    """

    module: str
    kernel: int
    stride: int = 1
    padding: int = 0
    depthwise: bool = False
    bias: bool = True
    dilation: int = 1
    padding_after: int | None = None


def convolve(
    builder: LayerBuilder, source: Access, spec: Convolution, channels: str, ranks: tuple[str, ...],
    flat_side: int = 0,
) -> str:  # fmt: skip
    """Convolve source[b, row, column, channels] into a tensor over `ranks` (batch, row, column, channel).

    The indices of `source` for rows and columns are replaced by stride * position + tap - padding. With
    `flat_side` the source is [b, flat_side * row + column, channels], which knows no padding.
    """
    name = word(spec.module)
    taps = tuple(builder.rank(f"{axis}_{name}", spec.kernel) for axis in "uv")
    rows, columns = (
        Index((IndexTerm(position, spec.stride), IndexTerm(tap, spec.dilation)), -spec.padding)
        for position, tap in zip(ranks[1:3], taps, strict=True)
    )
    if flat_side:
        down = tuple(IndexTerm(term.rank, term.coefficient * flat_side) for term in rows.terms)
        place: tuple[Index, ...] = (Index((*down, *columns.terms)),)
    else:
        place = (rows, columns)
    channel = ranks[3] if spec.depthwise else channels
    image = Access(source.tensor, (source.indices[0], *place, Index.of(channel)))
    inner = taps if spec.depthwise else (*taps, channels)
    kernel = builder.weight(spec.module, "weight", (*inner, ranks[3]))
    product = builder.convolution(
        Filter(
            name, spec.module, image, inner, ranks, f"{name}_product", dilation=spec.dilation,
            n_groups=builder.size(ranks[3:]) if spec.depthwise else 1,
        ),
        kernel,
    )  # fmt: skip
    if not spec.bias:
        return product
    bias = builder.access(builder.weight(spec.module, "bias", ranks[3:]))
    terms = (builder.access(product), bias)
    return builder.pointwise(f"{name}_bias", f"{name}_out", terms, "add", group="conv")


@dataclass(frozen=True, slots=True)
class PatchStem:
    """The way in of a staged network: patches of an image or of the stage before, with norms.

    `n_channels` and `side` are those of what comes in; the first stage reads `image`, the others `x`.
    """

    source: str
    convolution: Convolution
    n_channels: int
    side: int
    before: Norm | None = None
    after: Norm | None = None

    def fill(self, builder: LayerBuilder) -> str:
        """Add the stem on source[b, i, j, c]; returns x[b, y, x, d]."""
        out_side = side_after(self.side, self.convolution)
        sizes = {"c": self.n_channels, "i": self.side, "j": self.side, "y": out_side, "x": out_side}
        for rank, size in sizes.items():
            builder.rank(rank, size)
        source = builder.access(builder.input(self.source, ("b", "i", "j", "c")))
        if self.before:
            source = builder.access(normalise(builder, source, self.before))
        x = convolve(builder, source, self.convolution, "c", IMAGE_RANKS)
        return normalise(builder, builder.access(x), self.after) if self.after else x


@dataclass(frozen=True, slots=True)
class InvertedBottleneck:
    """ConvNeXt: x += scale * down(function(up(norm(depthwise convolution of x)))) (arXiv 2201.03545).

    `response` is a module that normalises the opened channels by their length over the image and adds them
    (arXiv 2301.00808).
    """

    convolution: Convolution
    norm: Norm
    inner_width: int
    function: str
    side: int
    scale: str = ""
    response: str = ""

    @property
    def keeps_cache(self) -> bool:
        return False

    @property
    def input_ranks(self) -> tuple[str, ...]:
        return IMAGE_RANKS

    def declare(self, builder: LayerBuilder) -> None:
        """Declare the ranks of the image that comes in."""
        for rank, size in {"y": self.side, "x": self.side, "i": self.inner_width}.items():
            builder.rank(rank, size)

    def fill(self, builder: LayerBuilder, x: str) -> str:
        y = convolve(builder, builder.access(x), self.convolution, "d", IMAGE_RANKS)
        inner = builder.access(normalise(builder, builder.access(y), self.norm))
        up = builder.linear(Linear("pwconv1", inner, ("i",), ("d",), bias=True))
        source = (builder.access(up),)
        opened = builder.access(
            builder.pointwise("activation", "activated", source, self.function, group="ffn")
        )
        if self.response:
            opened = builder.access(_normalise_response(builder, opened, self.response))
        y = builder.linear(Linear("pwconv2", opened, ("d",), ("i",), bias=True))
        if self.scale:
            factors = (builder.access(y), builder.access(builder.weight("", self.scale, ("d",))))
            y = builder.pointwise("layer_scale", "scaled", factors, "mul", group="residual")
        terms = (builder.access(x), builder.access(y))
        return builder.pointwise("residual", "y_out", terms, "add", group="residual")


def _normalise_response(builder: LayerBuilder, x: Access, module: str) -> str:
    """x + bias + weight * x * length / mean length, of x[b, y, x, i]; a length per channel over the image."""
    name = word(module)
    lengths = builder.reduction(f"{name}_length", f"{name}_lengths", ("b", "i"), (x,), "l2", group="norm")
    source = (builder.access(lengths),)
    mean = builder.reduction(f"{name}_mean", f"{name}_means", ("b",), source, "mean", group="norm")
    factors = (builder.weight(module, parameter, ("i",)) for parameter in ("weight", "bias"))
    inputs = (x, *(builder.access(term) for term in (lengths, mean, *factors)))
    return builder.pointwise(name, f"{name}_out", inputs, "response_norm", group="norm")


@dataclass(frozen=True, slots=True)
class ConvolutionChain:
    """ResNet: x = relu(chain of normalised convolutions of x + shortcut of x) (arXiv 1512.03385).

    `widths` are the channels behind each convolution of the chain, `side` and `in_width` those of what
    comes in. The shortcut is a convolution of its own where the shape changes.
    """

    chain: tuple[Convolution, ...]
    widths: tuple[int, ...]
    side: int
    in_width: int
    shortcut: Convolution | None
    function: str

    @property
    def keeps_cache(self) -> bool:
        return False

    @property
    def input_ranks(self) -> tuple[str, ...]:
        return ("b", "i", "j", "c")

    def declare(self, builder: LayerBuilder) -> None:
        """Declare the ranks of the image that comes in."""
        for rank, size in {"i": self.side, "j": self.side, "c": self.in_width}.items():
            builder.rank(rank, size)

    def fill(self, builder: LayerBuilder, x: str) -> str:
        source, ranks, side = builder.access(x), self.input_ranks, self.side
        for place, (spec, width) in enumerate(zip(self.chain, self.widths, strict=True)):
            side = side_after(side, spec)
            found = ("b", *(builder.rank(f"{axis}{place}", side) for axis in "yx"), f"w{place}")
            builder.rank(found[3], width)
            last = place == len(self.chain) - 1
            y = _normalised(builder, source, spec, ranks[3], found, "" if last else self.function)
            source, ranks = builder.access(y), found
        other = Access(x, source.indices)
        if self.shortcut:
            beside = _normalised(builder, builder.access(x), self.shortcut, self.input_ranks[3], ranks, "")
            other = builder.access(beside)
        terms = (source, other)
        total = builder.pointwise("residual", "summed", terms, "add", ranks=ranks, group="residual")
        inputs = (builder.access(total),)
        return builder.pointwise("activation", "y_out", inputs, self.function, group="conv")


@dataclass(frozen=True, slots=True)
class PooledStem:
    """ResNet's way in: a normalised convolution and a maximum over 3 x 3 positions, 2 apart."""

    convolution: Convolution
    n_channels: int
    side: int
    function: str

    def fill(self, builder: LayerBuilder) -> str:
        """Add the stem on image[b, i, j, c]; returns x[b, y, x, d]."""
        middle = side_after(self.side, self.convolution)
        out_side = side_after(middle, POOLING)
        sizes = {
            "c": self.n_channels, "i": self.side, "j": self.side, "y0": middle, "x0": middle,
            "y": out_side, "x": out_side, "u": POOLING.kernel, "v": POOLING.kernel,
        }  # fmt: skip
        for rank, size in sizes.items():
            builder.rank(rank, size)
        image = builder.access(builder.input("image", ("b", "i", "j", "c")))
        wide = _normalised(builder, image, self.convolution, "c", ("b", "y0", "x0", "d"), self.function)
        rows, columns = (
            Index((IndexTerm(position, POOLING.stride), IndexTerm(tap)), -POOLING.padding)
            for position, tap in (("y", "u"), ("x", "v"))
        )
        near = Access(wide, (Index.of("b"), rows, columns, Index.of("d")))
        # taps are in no index of the output, so the reduction runs over them
        return builder.reduction("pooling", "pooled", IMAGE_RANKS, (near,), "max", group="conv")


POOLING = Convolution("pooler", 3, 2, 1)


def side_after(side: int, spec: Convolution) -> int:
    """Positions along a side behind a convolution."""
    after = spec.padding if spec.padding_after is None else spec.padding_after
    reach = spec.dilation * (spec.kernel - 1) + 1
    return (side + spec.padding + after - reach) // spec.stride + 1


def _normalised(
    builder: LayerBuilder,
    source: Access,
    spec: Convolution,
    channels: str,
    ranks: tuple[str, ...],
    function: str,
) -> str:
    """function(batch norm(convolution)): stored statistics, so one factor and one term per channel."""
    y = convolve(builder, source, spec, channels, ranks)
    module = f"{spec.module.rpartition('.')[0]}.normalization"
    factors = tuple(
        builder.access(builder.weight(module, parameter, ranks[3:])) for parameter in ("weight", "bias")
    )
    name = word(module)
    y = builder.pointwise(name, f"{name}_out", (builder.access(y), *factors), "batchnorm", group="norm")
    if not function:
        return y
    source = builder.access(y)
    return builder.pointwise(f"{name}_{function}", f"{name}_opened", (source,), function, group="conv")
