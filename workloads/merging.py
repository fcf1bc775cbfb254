"""The ways into the stages of a window transformer: patches of the image, merged patches."""

from dataclasses import dataclass

from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.builder import LayerBuilder, Linear
from tilewright.workloads.convolution import Convolution, convolve
from tilewright.workloads.norms import Norm, layer_norm, normalise


@dataclass(frozen=True, slots=True)
class FirstPatches:
    """Patches of the image, `side` of them along a side, in windows of `window` x `window`."""

    path: str
    n_channels: int
    patch: int
    side: int
    window: int
    epsilon: float

    def fill(self, builder: LayerBuilder) -> str:
        """Add the embedding of image[n, i, j, c]; returns x[b, m, d], b a window of an image."""
        n_windows = (self.side // self.window) ** 2
        sizes = {
            "a": builder.size(("b",)) // n_windows, "c": self.n_channels, "i": self.side * self.patch,
            "j": self.side * self.patch, "y": self.side, "x": self.side,
        }  # fmt: skip
        for rank, size in sizes.items():
            builder.rank(rank, size)
        image = builder.access(builder.input("image", ("a", "i", "j", "c")))
        spec = Convolution(f"{self.path}.patch_embeddings.projection", self.patch, self.patch)
        patches = convolve(builder, image, spec, "c", ("a", "y", "x", "d"))
        placed = self._partition(builder, patches)
        return normalise(builder, builder.access(placed), layer_norm(f"{self.path}.norm", self.epsilon))

    def _partition(self, builder: LayerBuilder, patches: str) -> str:
        """Rows of a window one behind the other: b counts images and windows, m positions in a window."""
        w = self.window
        across = self.side // w
        window = Index((IndexTerm("a", across * across), IndexTerm("y", across, w), IndexTerm("x", 1, w)))
        row, column = (
            (IndexTerm("y", w), IndexTerm("y", -w * w, w)),
            (IndexTerm("x"), IndexTerm("x", -w, w)),
        )
        x = builder.tensor("windows", ("b", "m", "d"), Role.ACTIVATION)
        output = Access(x, (window, Index((*row, *column)), Index.of("d")))
        return builder.add("partition", Kind.SCATTER, output, (builder.access(patches),), group="embedding")


@dataclass(frozen=True, slots=True)
class MergedPatches:
    """Four neighbours of `in_width` channels as one, normalised, through a linear module."""

    path: str
    in_width: int
    epsilon: float

    def fill(self, builder: LayerBuilder) -> str:
        """Add the merging of x[b, m, p], p four times the channels of the stage before."""
        builder.rank("p", 4 * self.in_width)
        x = builder.input("x", ("b", "m", "p"))
        norm = Norm(f"{self.path}.norm", "layernorm", self.epsilon, ("p",), bias=True)
        inner = builder.access(normalise(builder, builder.access(x), norm))
        return builder.linear(Linear(f"{self.path}.reduction", inner, ("d",), ("p",)))
