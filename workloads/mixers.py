"""Blocks that mix the positions of an image without a product of all pairs: pooling, additive attention."""

from dataclasses import dataclass

from tilewright.dataflow.operator import Access, Index, IndexTerm
from tilewright.workloads.builder import LayerBuilder, Linear
from tilewright.workloads.chains import Step, run_steps, scaled_sum
from tilewright.workloads.convolution import IMAGE_RANKS
from tilewright.workloads.norms import Norm, batch_norm, normalise


@dataclass(frozen=True, slots=True)
class PoolingBlock:
    """x += scale * (mean of the neighbours - itself); x += scale * steps, each of norm x (arXiv 2111.11418).

    `pool` is the side of the neighbourhood; `scales` are the parameters' names, none where empty.
    """

    pool: int
    steps: tuple[Step, ...]
    side: int
    norms: tuple[Norm, Norm] | None = None
    scales: tuple[str, str] = ("", "")

    @property
    def keeps_cache(self) -> bool:
        return False

    @property
    def input_ranks(self) -> tuple[str, ...]:
        return IMAGE_RANKS

    def declare(self, builder: LayerBuilder) -> None:
        """Declare the ranks of the image that comes in."""
        for rank in ("y", "x"):
            builder.rank(rank, self.side)

    def fill(self, builder: LayerBuilder, x: str) -> str:
        """Add the block on x[b, y, x, d]; returns its result, as long as x."""
        inner = normalise(builder, builder.access(x), self.norms[0]) if self.norms else x
        mixed = self._difference(builder, inner)
        middle = scaled_sum(builder, "mixing_residual", builder.access(x), mixed, self.scales[0])
        inner = normalise(builder, builder.access(middle), self.norms[1]) if self.norms else middle
        fed = run_steps(builder, builder.access(inner), self.side, self.steps)
        return scaled_sum(builder, "network_residual", builder.access(middle), fed, self.scales[1])

    def _difference(self, builder: LayerBuilder, x: str) -> str:
        """The mean over the neighbours that lie in the image, less the position itself."""
        for rank in ("u", "v"):
            builder.rank(rank, self.pool)
        rows, columns = (
            Index((IndexTerm(position), IndexTerm(tap)), -(self.pool // 2))
            for position, tap in (("y", "u"), ("x", "v"))
        )
        near = (Access(x, (Index.of("b"), rows, columns, Index.of("d"))),)
        mean = builder.reduction("pooling", "pooled", IMAGE_RANKS, near, "mean", group="conv")
        terms = (builder.access(mean), builder.access(x))
        return builder.pointwise("difference", "mixed", terms, "sub", group="conv")


@dataclass(frozen=True, slots=True)
class AdditiveBlock:
    """A residual chain `local`, additive attention, a network of steps behind a norm (arXiv 2303.15446).

    The attention's queries, weighted by one product each, are summed to one query that meets every key.
    """

    local: tuple[Step, ...]
    local_scale: str
    attention: str
    norm: str
    steps: tuple[Step, ...]
    side: int
    scales: tuple[str, str] = ("", "")

    @property
    def keeps_cache(self) -> bool:
        return False

    @property
    def input_ranks(self) -> tuple[str, ...]:
        return IMAGE_RANKS

    def declare(self, builder: LayerBuilder) -> None:
        """Declare the ranks of the image that comes in, and of the attention."""
        width = builder.size(("d",))
        sizes = {"y": self.side, "x": self.side, "e": width, "f": width, "g": width, "o": 1}
        for rank, size in sizes.items():
            builder.rank(rank, size)

    def fill(self, builder: LayerBuilder, x: str) -> str:
        """Add the block on x[b, y, x, d]; returns its result, as long as x."""
        y = run_steps(builder, builder.access(x), self.side, self.local, "local_")
        x = scaled_sum(builder, "local_residual", builder.access(x), y, self.local_scale)
        mixed = self._attend(builder, builder.access(x))
        x = scaled_sum(builder, "attention_residual", builder.access(x), mixed, self.scales[0])
        channel = builder.ranks_of(x)[-1:]
        inner = normalise(builder, builder.access(x), batch_norm(self.norm, channel))
        fed = run_steps(builder, builder.access(inner), self.side, self.steps)
        return scaled_sum(builder, "network_residual", builder.access(x), fed, self.scales[1])

    def _attend(self, builder: LayerBuilder, x: Access) -> str:
        """final(project(sum of weighted queries * key) + query) of x[b, y, x, channel]."""
        path, channel = self.attention, (x.ranks[-1],)
        query, key = (
            self._unit(builder, name, builder.linear(Linear(f"{path}.{name}", x, ("e",), channel, True)))
            for name in ("to_query", "to_key")
        )
        learned = builder.access(builder.weight(path, "w_g", ("e", "o")))
        ranks = ("b", "y", "x", "o")
        shares = builder.contraction(
            "query_weight", "query_weights", ranks, (builder.access(query), learned), "linear"
        )
        shares = builder.pointwise(
            "query_share", "query_shares", (builder.access(shares),), "softmax", group="attention"
        )
        factors = (builder.access(shares), builder.access(query))
        weighted = builder.pointwise(
            "weigh_query", "weighted", factors, "mul", ranks=("b", "y", "x", "e"), group="attention"
        )
        whole = builder.reduction(
            "global_query",
            "global_queries",
            ("b", "e"),
            (builder.access(weighted),),
            "sum",
            group="attention",
        )
        factors = (builder.access(key), builder.access(whole))
        met = builder.access(builder.pointwise("meet", "met", factors, "mul", group="attention"))
        projected = builder.linear(Linear(f"{path}.proj", met, ("f",), ("e",), bias=True))
        there = Access(query, (*(Index.of(rank) for rank in ("b", "y", "x")), Index.of("f")))
        terms = (builder.access(projected), there)
        total = builder.access(builder.pointwise("query_sum", "summed", terms, "add", group="attention"))
        return builder.linear(Linear(f"{path}.final", total, ("g",), ("f",), bias=True))

    def _unit(self, builder: LayerBuilder, name: str, rows: str) -> str:
        """Rows of length 1."""
        source = builder.access(rows)
        length = builder.reduction(
            f"{name}_length", f"{name}_lengths", source.ranks[:-1], (source,), "l2", group="norm"
        )
        terms = (source, builder.access(length))
        return builder.pointwise(f"{name}_unit", f"{name}_units", terms, "div", group="norm")
