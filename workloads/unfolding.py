"""Ways between an image and sequences of its patches' equal positions (MobileViT, arXiv 2110.02178)."""

from dataclasses import dataclass

from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.builder import LayerBuilder
from tilewright.workloads.chains import Step, run_steps
from tilewright.workloads.norms import Norm, normalise


@dataclass(frozen=True, slots=True)
class Patches:
    """Patches of `patch` x `patch` positions of an image, which is resized to whole patches."""

    side: int
    patch: int

    @property
    def across(self) -> int:
        """Patches along a side."""
        return -(-self.side // self.patch)

    @property
    def whole_side(self) -> int:
        """Positions along a side of the resized image."""
        return self.across * self.patch

    @property
    def n_sequences(self) -> int:
        """Sequences of one image: the positions in a patch."""
        return self.patch**2

    def indices(self, image: str, row: str, column: str) -> tuple[Index, Index]:
        """The sequence and the place in it of a position."""
        p = self.patch
        inside = (
            IndexTerm(image, p * p), IndexTerm(row, p), IndexTerm(row, -p * p, p), IndexTerm(column),
            IndexTerm(column, -p, p),
        )  # fmt: skip
        return Index(inside), Index((IndexTerm(row, self.across, p), IndexTerm(column, 1, p)))


@dataclass(frozen=True, slots=True)
class Unfolding:
    """Steps on an image, whose positions become sequences: one per position in a patch."""

    steps: tuple[Step, ...]
    patches: Patches
    in_width: int

    def fill(self, builder: LayerBuilder) -> str:
        """Add the steps on x[a, i, j, c]; returns x[b, m, d], b an image's position in a patch."""
        side = self.patches.side
        sizes = {
            "a": builder.size(("b",)) // self.patches.n_sequences, "i": side, "j": side, "c": self.in_width,
        }  # fmt: skip
        for rank, size in sizes.items():
            builder.rank(rank, size)
        source = builder.access(builder.input("x", ("a", "i", "j", "c")))
        y = run_steps(builder, source, side, self.steps)
        if self.patches.whole_side != side:
            y = _resized(builder, "whole", y, self.patches.whole_side)
        batch, row, column, channel = builder.ranks_of(y)
        sequences = builder.tensor("sequences", ("b", "m", channel), Role.ACTIVATION)
        place = (*self.patches.indices(batch, row, column), Index.of(channel))
        return builder.add(
            "unfold", Kind.SCATTER, Access(sequences, place), (builder.access(y),), group="layout"
        )


@dataclass(frozen=True, slots=True)
class Folding:
    """Sequences back to an image, through steps, beside what the unfolding took, through more steps.

    `width` is the width of the sequences, `kept_width` that of the image before the unfolding.
    """

    norm: Norm
    projection: tuple[Step, ...]
    fusion: tuple[Step, ...]
    patches: Patches
    width: int
    kept_width: int

    def fill(self, builder: LayerBuilder) -> str:
        """Add the folding of x[o, t, w] beside features[b, y, x, c]; returns the image, of d channels."""
        patches = self.patches
        side, whole = patches.side, patches.whole_side
        sizes = {
            "o": builder.size(("b",)) * patches.n_sequences, "t": patches.across**2, "w": self.width,
            "y": side, "x": side, "c": self.kept_width, "i": whole, "j": whole, "p": 2 * self.kept_width,
        }  # fmt: skip
        for rank, size in sizes.items():
            builder.rank(rank, size)
        x = builder.input("x", ("o", "t", "w"))
        normed = normalise(builder, builder.access(x), self.norm)
        there = (Access(normed, (*patches.indices("b", "i", "j"), Index.of("w"))),)
        image = builder.pointwise(
            "fold", "folded", there, "identity", ranks=("b", "i", "j", "w"), group="layout"
        )
        if whole != side:
            image = _resized(builder, "fitted", image, side)
        projected = run_steps(builder, builder.access(image), side, self.projection, "projection_")
        features = builder.input("features", ("b", "y", "x", "c"))
        joined = builder.tensor("joined", ("b", "y", "x", "p"), Role.ACTIVATION)
        batch, row, column, channel = builder.ranks_of(projected)
        output = (
            *(Index.of(rank) for rank in (batch, row, column)),
            Index((IndexTerm(channel),), self.kept_width),
        )
        first = Access(features, (Index.of(batch), Index.of(row), Index.of(column), Index.of("c")))
        inputs = (builder.access(projected), first)
        builder.add("join", Kind.SCATTER, Access(joined, output), inputs, group="layout")
        return run_steps(builder, builder.access(joined), side, self.fusion, "fusion_")


def _resized(builder: LayerBuilder, name: str, image: str, side: int) -> str:
    """The image interpolated to another side."""
    batch, _, _, channel = builder.ranks_of(image)
    ranks = (batch, builder.rank(f"y_{name}", side), builder.rank(f"x_{name}", side), channel)
    source = (Access(image, (Index.of(batch), Index(), Index(), Index.of(channel))),)
    return builder.pointwise(f"resize_{name}", name, source, "resize", ranks=ranks, group="layout")
