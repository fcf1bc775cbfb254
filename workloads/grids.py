"""Attention over the positions of an image, to a coarser image of keys: pyramids and convolved projections.

A token is a position of the image, token = side * row + column, behind the class tokens.
"""

from dataclasses import dataclass, replace

from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.attention import Attention
from tilewright.workloads.block import residual
from tilewright.workloads.builder import LayerBuilder, Linear
from tilewright.workloads.convolution import Convolution, PatchStem, convolve, side_after
from tilewright.workloads.feed_forward import FeedForward, feed_forward
from tilewright.workloads.mixing import HeadRows, Heads, mix
from tilewright.workloads.norms import Norm, normalise


@dataclass(frozen=True, slots=True)
class Grid:
    """`side` x `side` positions behind `n_class` class tokens."""

    side: int
    n_class: int = 0

    @property
    def n_tokens(self) -> int:
        return self.side**2 + self.n_class

    def token(self, row: str, column: str) -> Index:
        """The token at a position of the image."""
        return Index((IndexTerm(row, self.side), IndexTerm(column)), self.n_class)


@dataclass(frozen=True, slots=True)
class GridEntry:
    """Patches as tokens behind class tokens, with learned positions of as many tokens."""

    stem: PatchStem
    grid: Grid
    path: str
    class_tokens: tuple[str, ...] = ()
    positions: str = ""

    def fill(self, builder: LayerBuilder) -> str:
        """Add the stem; returns x[b, m, d]."""
        patches = builder.access(self.stem.fill(builder))
        inputs = [patches]
        for name in self.class_tokens:
            inputs.append(builder.access(builder.weight(self.path, name, ("d",))))
        x = builder.tensor("tokens", ("b", "m", "d"), Role.ACTIVATION)
        output = Access(x, (Index.of("b"), self.grid.token("y", "x"), Index.of("d")))
        builder.add("place", Kind.SCATTER, output, tuple(inputs), group="embedding")
        if not self.positions:
            return x
        rows = builder.weight(self.path, self.positions, ("m", "d"))
        terms = (builder.access(x), builder.access(rows))
        return builder.pointwise("positions", "placed", terms, "add", group="embedding")


@dataclass(frozen=True, slots=True)
class Reduction:
    """Tokens of a coarser image: a convolution that does not overlap, or of `pooled` x `pooled` means, a norm."""

    convolution: Convolution
    norm: Norm
    pooled: int = 0
    function: str = ""

    def side(self, grid: Grid) -> int:
        """Positions along a side of the coarser image."""
        return side_after(self.pooled or grid.side, self.convolution)


@dataclass(frozen=True, slots=True)
class Projection:
    """A depthwise convolution and stored statistics before a linear module (CvT)."""

    convolution: Convolution
    norm: str


@dataclass(frozen=True, slots=True)
class GridBlock:
    """x += attention(norm x); x += network(norm x), over the tokens of `grid`.

    Keys and values come from tokens that a `reduction` leaves (arXiv 2102.12122), or each of the queries,
    keys and values through a convolution of its own (`projections`, arXiv 2103.15808). `depthwise` is a
    convolution behind the network's first module, after `opened_by`.
    """

    attention: Attention
    feed_forward: FeedForward
    attention_norm: Norm
    feed_forward_norm: Norm
    grid: Grid
    reduction: Reduction | None = None
    projections: tuple[Projection, ...] = ()
    depthwise: Convolution | None = None
    opened_by: str = ""

    @property
    def keeps_cache(self) -> bool:
        return False

    @property
    def input_ranks(self) -> tuple[str, ...]:
        return ("b", "m", "d")

    def declare(self, builder: LayerBuilder) -> None:
        """Declare the positions of the image."""
        for rank in ("y", "x"):
            builder.rank(rank, self.grid.side)

    def fill(self, builder: LayerBuilder, x: str) -> str:
        """Add the block on x[b, m, d]; returns its result over tokens, or over positions and channels."""
        inner = normalise(builder, builder.access(x), self.attention_norm)
        middle = residual(builder, "attention_residual", "x_mixed", x, self._attend(builder, inner))
        inner = normalise(builder, builder.access(middle), self.feed_forward_norm)
        if self.depthwise is None:
            fed = feed_forward(builder, inner, self.feed_forward)
            return residual(builder, "feed_forward_residual", "y_out", middle, fed)
        fed = self._convolved_network(builder, inner, self.depthwise)
        there = Access(middle, (Index.of("b"), self.grid.token("y", "x"), Index.of("d")))
        terms = (builder.access(fed), there)
        return builder.pointwise("feed_forward_residual", "y_out", terms, "add", group="residual")

    def _attend(self, builder: LayerBuilder, inner: str) -> str:
        spec = self.attention
        for rank, size in {"h": spec.n_heads, "e": spec.head_dim, "f": spec.head_dim}.items():
            builder.rank(rank, size)
        sources = [inner, inner, inner]
        if self.projections:
            image = self._as_image(builder, "image", inner, "d")
            names = ("query", "key", "value")
            sources = [
                self._projected(builder, name, image, inner, projection)
                for name, projection in zip(names, self.projections, strict=True)
            ]
        elif self.reduction:
            reduced = self._reduced(builder, inner, self.reduction)
            sources[1:] = [reduced, reduced]
        builder.rank("n", builder.size(builder.ranks_of(sources[1])[1:2]))
        rows = [
            _head_rows(builder, spec, module, source)
            for module, source in zip((spec.query, spec.key, spec.value), sources, strict=True)
        ]
        mixed = builder.access(mix(builder, Heads(*rows), spec, None))
        output = f"{spec.path}.{spec.output}"
        linear = Linear(output, mixed, ("d",), ("h", "f"), spec.output_bias, bmm_group="attention")
        return builder.linear(linear)

    def _as_image(self, builder: LayerBuilder, name: str, tokens: str, channel: str) -> str:
        """tokens[b, m, channel] without the class tokens as image[b, y, x, channel]."""
        there = Access(tokens, (Index.of("b"), self.grid.token("y", "x"), Index.of(channel)))
        ranks = ("b", "y", "x", channel)
        return builder.pointwise(f"fold_{name}", name, (there,), "identity", ranks=ranks, group="layout")

    def _reduced(self, builder: LayerBuilder, inner: str, spec: Reduction) -> str:
        """The tokens[b, n, d] of the coarser image."""
        side, flat = spec.side(self.grid), self.grid.side
        for rank, size in {"r": side, "s": side, "n": side * side, "c": builder.size(("d",))}.items():
            builder.rank(rank, size)
        source = builder.access(inner)
        if spec.pooled:
            source, flat = self._means(builder, source, spec.pooled), spec.pooled
        ranks = ("b", "r", "s", "d")
        y = convolve(builder, source, spec.convolution, "c", ranks, flat_side=flat)
        y = normalise(builder, builder.access(y), spec.norm)
        if spec.function:
            opened = (builder.access(y),)
            y = builder.pointwise(
                "reduction_activation", "reduced_opened", opened, spec.function, group="conv"
            )
        return _as_tokens(builder, "reduced", y, Grid(side), "n", ())

    def _means(self, builder: LayerBuilder, x: Access, side: int) -> Access:
        """pooled[b, p, d]: means of the image in `side` x `side` cells, of equal size where they fit."""
        builder.rank("p", side * side)
        if self.grid.side % side:  # cells that differ in size: the data to read is no affine index
            there = (Access(x.tensor, (Index.of("b"), Index(), Index.of("d"))),)
            ranks = ("b", "p", "d")
            return builder.access(
                builder.pointwise("cells", "pooled", there, "adaptive_mean", ranks=ranks, group="conv")
            )
        cell = self.grid.side // side
        for rank in ("u_cell", "v_cell"):
            builder.rank(rank, cell)
        row = IndexTerm("p", self.grid.side * cell, side)
        column = (IndexTerm("p", cell), IndexTerm("p", -cell * side, side))
        token = Index((row, *column, IndexTerm("u_cell", self.grid.side), IndexTerm("v_cell")))
        cells = (Access(x.tensor, (Index.of("b"), token, Index.of("d"))),)
        return builder.access(
            builder.reduction("cells", "pooled", ("b", "p", "d"), cells, "mean", group="conv")
        )

    def _projected(self, builder: LayerBuilder, name: str, image: str, inner: str, spec: Projection) -> str:
        """What a convolution leaves of the image, as tokens behind the class tokens."""
        grid = replace(self.grid, side=side_after(self.grid.side, spec.convolution))
        is_query = name == "query"
        rows = ("y", "x") if is_query else ("r", "s")
        token = "m" if is_query else "n"
        for rank, size in {rows[0]: grid.side, rows[1]: grid.side, token: grid.n_tokens}.items():
            builder.rank(rank, size)
        y = convolve(builder, builder.access(image), spec.convolution, "d", ("b", *rows, "d"))
        factors = (builder.weight(spec.norm, parameter, ("d",)) for parameter in ("weight", "bias"))
        inputs = (builder.access(y), *(builder.access(factor) for factor in factors))
        y = builder.pointwise(f"{name}_norm", f"{name}_normed", inputs, "batchnorm", group="norm")
        first = (Access(inner, (Index.of("b"), Index(), Index.of("d"))),) if grid.n_class else ()
        return _as_tokens(builder, f"{name}_source", y, grid, token, first)

    def _convolved_network(self, builder: LayerBuilder, x: str, convolution: Convolution) -> str:
        """down(function(depthwise(up x))) over positions and channels."""
        spec = self.feed_forward
        builder.rank("i", spec.inner_width)
        up = builder.linear(Linear(f"{spec.path}.{spec.up}", builder.access(x), ("i",), ("d",), spec.bias))
        if self.opened_by:
            inputs = (builder.access(up),)
            up = builder.pointwise("opening", "opened", inputs, self.opened_by, group="ffn")
        image = builder.access(self._as_image(builder, "inner_image", up, "i"))
        y = convolve(builder, image, convolution, "i", ("b", "y", "x", "i"))
        opened = builder.pointwise(
            "activation", "activated", (builder.access(y),), spec.function, group="ffn"
        )
        down = f"{spec.path}.{spec.down}"
        return builder.linear(Linear(down, builder.access(opened), ("d",), ("i",), spec.bias))


def _as_tokens(
    builder: LayerBuilder, name: str, image: str, grid: Grid, token: str, first: tuple[Access, ...]
) -> str:
    """image[b, row, column, d] as tokens[b, token, d], behind the class tokens `first`."""
    _, row, column, channel = builder.ranks_of(image)
    tokens = builder.tensor(f"{name}_tokens", ("b", token, channel), Role.ACTIVATION)
    output = Access(tokens, (Index.of("b"), grid.token(row, column), Index.of(channel)))
    inputs = (builder.access(image), *first)
    return builder.add(f"place_{name}", Kind.SCATTER, output, inputs, group="layout")


def _head_rows(builder: LayerBuilder, spec: Attention, module: str, source: str) -> HeadRows:
    """Heads of a linear module over source[b, token, d]."""
    access = builder.access(source)
    path = f"{spec.path}.{module}" if spec.path else module
    linear = Linear(path, access, ("h", "e"), ("d",), spec.qkv_bias, bmm_group="attention")
    tensor = builder.linear(linear)
    return lambda token, head, channel: Access(tensor, (Index.of("b"), token, head, channel))
