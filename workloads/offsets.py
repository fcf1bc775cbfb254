"""Attention with a learned score per head and distance, and its subsampling form (LeViT, EfficientFormer)."""

from dataclasses import dataclass
from itertools import product

from tilewright.dataflow.operator import Access, Index, IndexTerm
from tilewright.dataflow.tensor import Role
from tilewright.workloads.builder import LayerBuilder, Linear
from tilewright.workloads.chains import scaled_sum
from tilewright.workloads.feed_forward import FeedForward
from tilewright.workloads.mixing import HeadRows, Heads, mix
from tilewright.workloads.norms import Norm, batch_norm, normalise


@dataclass(frozen=True, slots=True)
class OffsetAttention:
    """Attention of `side` x `side` positions with keys of `head_dim` and values of `value_dim` channels.

    `fused` writes queries, keys and values of a head one behind the other, or keys and values where `query`
    names a module of its own. Behind each linear module stands a batch norm if `normed` (and then the module
    has no bias). `function` is applied before the module `output`. Queries are `stride` positions apart.
    """

    path: str
    n_heads: int
    head_dim: int
    value_dim: int
    side: int
    fused: str
    output: str
    normed: bool = False
    function: str = ""
    query: str = ""
    stride: int = 1
    prefix: str = ""
    keys_rank: str = "n"
    biased: bool = True
    softcap: float | None = None
    sinks: bool = False

    @property
    def n_kv_heads(self) -> int:
        return self.n_heads

    @property
    def score_scale(self) -> float:
        return float(self.head_dim**-0.5)

    @property
    def out_side(self) -> int:
        """Positions of queries along a side."""
        return (self.side - 1) // self.stride + 1

    @property
    def n_offsets(self) -> int:
        """Distinct pairs of distances of a query and a key, down and across."""
        along = {abs(q * self.stride - k) for q, k in product(range(self.out_side), range(self.side))}
        return len(along) ** 2


def attend_at_offsets(builder: LayerBuilder, x: str, spec: OffsetAttention) -> str:
    """Add the attention over x[b, token, channels]; returns the result over b, m and d."""
    width = 2 * spec.head_dim + spec.value_dim if not spec.query else spec.head_dim + spec.value_dim
    sizes = {
        "h": spec.n_heads, "e": spec.head_dim, "f": spec.value_dim, "s": width, "n": spec.side**2,
        "k": spec.n_offsets,
    }  # fmt: skip
    for rank, size in sizes.items():
        builder.rank(rank, size)
    source = builder.access(x)
    both = _linear(builder, spec, spec.fused, source, ("h", "s"), source.ranks[-1:])
    keys = spec.head_dim if not spec.query else 0
    heads = Heads(
        _sampled_query(builder, spec, x) if spec.query else _part(both, 0),
        _part(both, keys), _part(both, keys + spec.head_dim),
    )  # fmt: skip
    _distance_bias(builder, spec)
    mixed = mix(builder, heads, spec, None)
    if spec.function:
        inputs = (builder.access(mixed),)
        mixed = builder.pointwise("open_mixed", "opened_mixed", inputs, spec.function, group="attention")
    return _linear(builder, spec, spec.output, builder.access(mixed), ("d",), ("h", "f"))


def _linear(
    builder: LayerBuilder, spec: OffsetAttention, module: str, x: Access, output: tuple[str, ...],
    inner: tuple[str, ...],
) -> str:  # fmt: skip
    return linear_or_normed(builder, f"{spec.path}.{module}", x, output, inner, spec.normed)


def linear_or_normed(
    builder: LayerBuilder, module: str, x: Access, output: tuple[str, ...], inner: tuple[str, ...],
    normed: bool,
) -> str:  # fmt: skip
    """A linear module with a bias, or `linear` below it without one and `batch_norm` behind that."""
    if not normed:
        return builder.linear(Linear(module, x, output, inner, bias=True, bmm_group="attention"))
    y = builder.linear(Linear(f"{module}.linear", x, output, inner, bmm_group="attention"))
    return normalise(builder, builder.access(y), batch_norm(f"{module}.batch_norm", output))


def _part(tensor: str, first: int) -> HeadRows:
    """Channels of a head of [b, token, h, s], the first one at `first`."""
    return lambda token, head, channel: Access(
        tensor, (Index.of("b"), token, head, Index(channel.terms, channel.offset + first))
    )


def _sampled_query(builder: LayerBuilder, spec: OffsetAttention, x: str) -> HeadRows:
    """Queries of the positions that are `stride` apart: token m is row m // side, column m % side."""
    stride, side = spec.stride, spec.out_side
    place = Index((IndexTerm("m", stride), IndexTerm("m", stride * (spec.side - side), side)))
    channel = builder.ranks_of(x)[-1]
    there = Access(x, (Index.of("b"), place, Index.of(channel)))
    rows = _linear(builder, spec, spec.query, there, ("h", "e"), (channel,))
    return lambda token, head, found: Access(rows, (Index.of("b"), token, head, found))


def _distance_bias(builder: LayerBuilder, spec: OffsetAttention) -> None:
    """position_bias[h, m, n] from the table, a column per pair of distances."""
    buckets = builder.input("buckets", ("m", "n"), Role.INDEX)
    table = builder.weight(spec.path, "attention_biases", ("h", "k"))
    inputs = (builder.access(buckets), Access(table, (Index.of("h"), Index())))
    builder.gather("distance_bias", "position_bias", ("h", "m", "n"), inputs, "attention")


@dataclass(frozen=True, slots=True)
class OffsetBlock:
    """x += scale * attention(norm x); x += scale * network(norm x); no attention: the network alone.

    The network's modules have a batch norm each where `normed`; `norms` stand before attention and network.
    """

    attention: OffsetAttention | None
    network: FeedForward
    normed: bool = False
    norms: tuple[Norm, Norm] | None = None
    scales: tuple[str, str] = ("", "")

    @property
    def keeps_cache(self) -> bool:
        return False

    @property
    def input_ranks(self) -> tuple[str, ...]:
        return ("b", "m", "d")

    def declare(self, builder: LayerBuilder) -> None:
        """b, m and d are all that it takes."""

    def fill(self, builder: LayerBuilder, x: str) -> str:
        """Add the block on x[b, m, d]; returns its result, ranked alike."""
        if self.attention:
            inner = normalise(builder, builder.access(x), self.norms[0]) if self.norms else x
            mixed = attend_at_offsets(builder, inner, self.attention)
            x = scaled_sum(builder, "attention_residual", builder.access(x), mixed, self.scales[0])
        inner = normalise(builder, builder.access(x), self.norms[1]) if self.norms else x
        fed = self._feed(builder, builder.access(inner))
        return scaled_sum(builder, "network_residual", builder.access(x), fed, self.scales[1])

    def _feed(self, builder: LayerBuilder, x: Access) -> str:
        spec = self.network
        builder.rank("i", spec.inner_width)
        prefix = f"{spec.path}." if spec.path else ""
        up = linear_or_normed(builder, prefix + spec.up, x, ("i",), ("d",), self.normed)
        inputs = (builder.access(up),)
        opened = builder.access(
            builder.pointwise("activation", "activated", inputs, spec.function, group="ffn")
        )
        return linear_or_normed(builder, prefix + spec.down, opened, ("d",), ("i",), self.normed)


@dataclass(frozen=True, slots=True)
class SampledEntry:
    """The way into a stage by attention whose queries are some of the positions of the stage before."""

    attention: OffsetAttention
    in_width: int

    def fill(self, builder: LayerBuilder) -> str:
        """Add the attention over x[b, n, c]; returns x[b, m, d]."""
        for rank, size in {"n": self.attention.side**2, "c": self.in_width}.items():
            builder.rank(rank, size)
        return attend_at_offsets(builder, builder.input("x", ("b", "n", "c")), self.attention)
