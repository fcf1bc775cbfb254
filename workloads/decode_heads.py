"""The way out of a segmentation network: all stages' images joined, a class per position (SegFormer)."""

from dataclasses import dataclass

from tilewright.dataflow.operator import Access, Index, Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.builder import Filter, LayerBuilder, Linear
from tilewright.workloads.norms import batch_norm, normalise


@dataclass(frozen=True, slots=True)
class JoinedMaps:
    """Linear modules bring the stages' images to one width, resizing to one side; then two 1 x 1 convolutions.

    `stages` are (side, width) of each, the first one the largest; arXiv 2105.15203.
    """

    path: str
    stages: tuple[tuple[int, int], ...]
    width: int
    n_classes: int

    def fill(self, builder: LayerBuilder) -> str:
        """Add the head over features_<stage>[b, row, column, channel]; returns logits[b, y, x, v]."""
        sizes = {
            "y": self.stages[0][0], "x": self.stages[0][0], "k": len(self.stages), "w": self.width,
            "f": self.width, "v": self.n_classes,
        }  # fmt: skip
        for rank, size in sizes.items():
            builder.rank(rank, size)
        maps = [self._map(builder, number) for number in range(len(self.stages))]
        joined = builder.tensor("joined", ("b", "y", "x", "k", "w"), Role.ACTIVATION)
        place = (*(Index.of(rank) for rank in ("b", "y", "x")), Index(), Index.of("w"))
        builder.add(
            "join", Kind.SCATTER, Access(joined, place), tuple(map(builder.access, maps)), group="layout"
        )
        fused = self._convolved(builder, "linear_fuse", builder.access(joined), ("k", "w"), "f", "conv")
        normed = normalise(
            builder, builder.access(fused), batch_norm(f"{self.path}.batch_norm", ("f",)), "head"
        )
        inputs = (builder.access(normed),)
        opened = builder.pointwise("fuse_activation", "fused_opened", inputs, "relu", group="conv")
        logits = self._convolved(builder, "classifier", builder.access(opened), ("f",), "v", "head_conv")
        bias = builder.weight(f"{self.path}.classifier", "bias", ("v",), part="head")
        terms = (builder.access(logits), builder.access(bias))
        return builder.pointwise("classifier_bias", "logits", terms, "add", group="conv")

    def _map(self, builder: LayerBuilder, number: int) -> str:
        """One stage's image in the common width, resized to the side of the first."""
        side, width = self.stages[number]
        ranks = (f"y{number}", f"x{number}", f"c{number}")
        for rank, size in zip(ranks, (side, side, width), strict=True):
            builder.rank(rank, size)
        features = builder.access(builder.input(f"features_{number}", ("b", *ranks)))
        module = f"{self.path}.linear_projections.{number}.proj"
        found = builder.linear(Linear(module, features, ("w",), ranks[2:], bias=True, part="head"))
        there = (Access(found, (Index.of("b"), Index(), Index(), Index.of("w"))),)
        common = ("b", "y", "x", "w")
        return builder.pointwise(
            f"resize_{number}", f"map_{number}", there, "resize", ranks=common, group="layout"
        )

    def _convolved(
        self, builder: LayerBuilder, name: str, x: Access, inner: tuple[str, ...], output: str, group: str
    ) -> str:
        """A convolution of one tap."""
        module, ranks = f"{self.path}.{name}", ("b", "y", "x", output)
        kernel = builder.weight(module, "weight", (*inner, output), part="head")
        return builder.convolution(Filter(name, module, x, inner, ranks, f"{name}_product", group), kernel)
