"""Chains of convolutions, each with stored statistics and a function, as layers and as ways in."""

from dataclasses import dataclass

from tilewright.dataflow.operator import Access, Index
from tilewright.workloads.builder import LayerBuilder, word
from tilewright.workloads.convolution import Convolution, convolve, side_after
from tilewright.workloads.norms import batch_norm, normalise


@dataclass(frozen=True, slots=True)
class Step:
    """function(norm(convolution)) into `width` channels; no name of a norm, no function: without."""

    convolution: Convolution
    width: int
    norm: str = ""
    function: str = ""


def run_steps(
    builder: LayerBuilder, source: Access, side: int, steps: tuple[Step, ...], prefix: str = ""
) -> str:
    """Add the steps on source[b, row, column, channel], `side` positions along a side; returns the result.

    Rows and columns keep their ranks where their number does not change, channels where a step is depthwise.
    """
    tensor = source.tensor
    for number, step in enumerate(steps):
        after = side_after(side, step.convolution)
        batch, row, column, channel = source.ranks
        if after != side:
            row, column = (builder.rank(f"{prefix}{axis}{number}", after) for axis in "yx")
        inner = channel
        if not step.convolution.depthwise:
            channel = builder.rank(f"{prefix}w{number}", step.width)
        tensor = convolve(builder, source, step.convolution, inner, (batch, row, column, channel))
        if step.norm:
            tensor = normalise(builder, builder.access(tensor), batch_norm(step.norm, (channel,)))
        if step.function:
            name = word(step.convolution.module)
            opened = (builder.access(tensor),)
            tensor = builder.pointwise(
                f"{name}_{step.function}", f"{name}_opened", opened, step.function, group="conv"
            )
        source, side = builder.access(tensor), after
    return tensor


def scaled_sum(builder: LayerBuilder, name: str, x: Access, y: str, scale: str) -> str:
    """x + y, or x + scale * y with a learned factor per channel; ranked as y is."""
    channel = builder.ranks_of(y)[-1]
    if scale:
        factors = (builder.access(y), builder.access(builder.weight("", scale, (channel,))))
        y = builder.pointwise(
            f"{word(scale)}_scale", f"{word(scale)}_scaled", factors, "mul", group="residual"
        )
    there = builder.access(y)
    return builder.pointwise(
        name, f"{name}_sum", (Access(x.tensor, there.indices), there), "add", ranks=there.ranks,
        group="residual",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Chain:
    """Steps one behind the other, as a layer or as a way in; a `residual` chain adds what comes in.

    `side` and `in_width` are those of what comes in, `source` is its name. `scale` is a factor per channel.
    """

    steps: tuple[Step, ...]
    side: int
    in_width: int
    residual: bool = False
    scale: str = ""
    source: str = "x"

    @property
    def keeps_cache(self) -> bool:
        return False

    @property
    def input_ranks(self) -> tuple[str, ...]:
        return ("b", "i", "j", "c")

    @property
    def out_side(self) -> int:
        """Positions along a side of what goes out."""
        side = self.side
        for step in self.steps:
            side = side_after(side, step.convolution)
        return side

    def declare(self, builder: LayerBuilder) -> None:
        """Declare the ranks of the image that comes in."""
        for rank, size in {"i": self.side, "j": self.side, "c": self.in_width}.items():
            builder.rank(rank, size)

    def fill(self, builder: LayerBuilder, x: str = "") -> str:
        """Add the chain on x[b, i, j, c], or on its own live-in source; returns its result, ranked alike."""
        if not x:
            self.declare(builder)
            x = builder.input(self.source, self.input_ranks)
        source = Access(x, tuple(Index.of(rank) for rank in self.input_ranks))
        y = run_steps(builder, source, self.side, self.steps)
        return scaled_sum(builder, "residual", source, y, self.scale) if self.residual else y
