"""The way in of encoders of sound: two convolutions over frames, fixed positions."""

from dataclasses import dataclass

from tilewright.dataflow.operator import Access, Index, IndexTerm
from tilewright.dataflow.tensor import Role
from tilewright.workloads.builder import Filter, LayerBuilder

#: Taps of both convolutions, and the stride of the second one.
TAPS, STRIDE = 3, 2


@dataclass(frozen=True, slots=True)
class FrameEmbedding:
    """`n_bands` numbers per frame through two convolutions, the second halving the frames (Whisper)."""

    path: str
    n_bands: int
    n_tokens: int

    @property
    def n_frames(self) -> int:
        return STRIDE * self.n_tokens

    def fill(self, builder: LayerBuilder) -> str:
        """Add the embedding of frames[b, c, j]; returns x[b, m, d]."""
        sizes = {"c": self.n_bands, "j": self.n_frames, "w": builder.size(("d",)), "u": TAPS, "v": TAPS}
        for rank, size in sizes.items():
            builder.rank(rank, size)
        frames = builder.input("frames", ("b", "c", "j"))
        near = Index((IndexTerm("j"), IndexTerm("u")), -1)
        wide = self._convolve(
            builder,
            "conv1",
            Access(frames, (Index.of("b"), Index.of("c"), near)),
            ("c", "u"),
            ("b", "j", "w"),
        )
        near = Index((IndexTerm("m", STRIDE), IndexTerm("v")), -1)
        x = self._convolve(
            builder, "conv2", Access(wide, (Index.of("b"), near, Index.of("w"))), ("w", "v"), ("b", "m", "d")
        )
        module = f"{self.path}.embed_positions"
        builder.parameter(module, "weight", builder.size(("m", "d")), frozen=True)
        positions = builder.input("position_rows", ("m", "d"), Role.WEIGHT)
        terms = (builder.access(x), builder.access(positions))
        return builder.pointwise("positions", "placed", terms, "add", group="embedding")

    def _convolve(
        self, builder: LayerBuilder, name: str, x: Access, inner: tuple[str, ...], ranks: tuple[str, ...]
    ) -> str:
        module = f"{self.path}.{name}"
        kernel = builder.weight(module, "weight", (*inner, ranks[-1]))
        product = builder.convolution(Filter(name, module, x, inner, ranks, f"{name}_product"), kernel)
        bias = builder.access(builder.weight(module, "bias", ranks[-1:]))
        terms = (builder.access(product), bias)
        biased = builder.pointwise(f"{name}_bias", f"{name}_biased", terms, "add", group="conv")
        source = (builder.access(biased),)
        return builder.pointwise(f"{name}_activation", f"{name}_out", source, "gelu", group="conv")
