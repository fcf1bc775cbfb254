"""The way in of vision transformers: a convolution over patches, class tokens, positions."""

from dataclasses import dataclass

from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.builder import Filter, LayerBuilder
from tilewright.workloads.embedding import RelativeBias, score_bias
from tilewright.workloads.norms import Norm, normalise


@dataclass(frozen=True, slots=True)
class PatchEmbedding:
    """Square patches of a square image, `class_tokens` in front of them, learned positions.

    `path` holds the parameters; `projection` is the convolution. `trained_image` is the size that the
    positions are learned for: another `image` resizes them; no name: there are none. `unused` are
    (parameter, elements) that no operator reads. `relative` is a bias of the scores that all layers share.
    """

    path: str
    image: int
    trained_image: int
    patch: int
    n_channels: int
    class_tokens: tuple[str, ...] = ("cls_token",)
    projection: str = "patch_embeddings.projection"
    projection_bias: bool = True
    positions: str = "position_embeddings"
    unused: tuple[tuple[str, int], ...] = ()
    norm: Norm | None = None
    relative: RelativeBias | None = None

    def fill(self, builder: LayerBuilder) -> str:
        """Add the embedding of image[b, c, i, j]; returns x[b, m, d]."""
        return embed_patches(builder, self)

    @property
    def side(self) -> int:
        """Patches along one side."""
        return self.image // self.patch

    @property
    def n_tokens(self) -> int:
        return self.side**2 + len(self.class_tokens)

    @property
    def n_positions(self) -> int:
        return (self.trained_image // self.patch) ** 2 + len(self.class_tokens)


def embed_patches(builder: LayerBuilder, spec: PatchEmbedding) -> str:
    """Add the embedding of image[b, c, i, j]; returns x[b, m, d], class tokens first."""
    patches = _convolve(builder, spec)
    for name, n_elements in spec.unused:
        builder.parameter(spec.path, name, n_elements)
    x = _place(builder, spec, patches)
    if spec.relative:
        score_bias(builder, spec.relative)
    if spec.positions:
        terms = (builder.access(x), Access.of(_positions(builder, spec), "m", "d"))
        x = builder.pointwise("positions", "placed", terms, "add", group="embedding")
    return normalise(builder, builder.access(x), spec.norm) if spec.norm else x


def _convolve(builder: LayerBuilder, spec: PatchEmbedding) -> str:
    """patches[b, y, x, d] = sum over c, u, v of image[b, c, patch y + u, patch x + v] * W[c, u, v, d]."""
    sizes = {
        "c": spec.n_channels, "i": spec.image, "j": spec.image, "y": spec.side, "x": spec.side,
        "u": spec.patch, "v": spec.patch,
    }  # fmt: skip
    for rank, size in sizes.items():
        builder.rank(rank, size)
    image = builder.input("image", ("b", "c", "i", "j"))
    module = f"{spec.path}.{spec.projection}"
    weight = builder.weight(module, "weight", ("c", "u", "v", "d"))
    rows, columns = (
        Index((IndexTerm(outer, spec.patch), IndexTerm(inner))) for outer, inner in (("y", "u"), ("x", "v"))
    )
    source = Access(image, (Index.of("b"), Index.of("c"), rows, columns))
    inner, ranks = ("c", "u", "v"), ("b", "y", "x", "d")
    patches = builder.convolution(Filter("patch_projection", module, source, inner, ranks, "patches"), weight)
    if not spec.projection_bias:
        return patches
    bias = builder.weight(module, "bias", ("d",))
    terms = (builder.access(patches), builder.access(bias))
    return builder.pointwise("patch_projection_bias", "patches_out", terms, "add", group="conv")


def _place(builder: LayerBuilder, spec: PatchEmbedding, patches: str) -> str:
    """The patches in rows behind the class tokens: x[b, side y + x + class tokens, d]."""
    inputs = [builder.access(patches)]
    for name in spec.class_tokens:
        builder.parameter(spec.path, name, builder.size(("d",)))
        inputs.append(Access.of(builder.weight_input(name, ("d",), spec.path, name), "d"))
    token = Index((IndexTerm("y", spec.side), IndexTerm("x")), len(spec.class_tokens))
    x = builder.tensor("tokens", ("b", "m", "d"), Role.ACTIVATION)
    output = Access(x, (Index.of("b"), token, Index.of("d")))
    return builder.add("place", Kind.SCATTER, output, tuple(inputs), group="embedding")


def _positions(builder: LayerBuilder, spec: PatchEmbedding) -> str:
    """positions[m, d], resized where the image is not of the size that they are learned for."""
    name = spec.positions
    if spec.n_positions == spec.n_tokens:
        builder.parameter(spec.path, name, builder.size(("m", "d")))
        return builder.weight_input("position_rows", ("m", "d"), spec.path, name)
    builder.rank("p", spec.n_positions)
    builder.parameter(spec.path, name, builder.size(("p", "d")))
    learned = builder.weight_input("learned_positions", ("p", "d"), spec.path, name)
    source = (Access(learned, (Index(), Index.of("d"))),)
    return builder.pointwise("resize", "position_rows", source, "resize", ranks=("m", "d"), group="embedding")
