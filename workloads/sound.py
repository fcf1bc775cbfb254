"""The way in of encoders of sound: convolutions along a wave, overlapping patches of a spectrogram."""

from dataclasses import dataclass
from itertools import accumulate

from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.block import residual
from tilewright.workloads.builder import Filter, LayerBuilder, Linear
from tilewright.workloads.norms import Norm, normalise
from tilewright.workloads.sequence_convolution import SequenceConvolution, convolve_sequence


@dataclass(frozen=True, slots=True)
class Quantiser:
    """Features as the best of `n_entries` code vectors of `width` in each of `n_groups`, projected."""

    module: str
    project: str
    n_groups: int
    n_entries: int
    width: int
    projected_width: int


@dataclass(frozen=True, slots=True)
class WaveEmbedding:
    """Samples through convolutions, a projection, and positions by a convolution (wav2vec 2.0).

    `widths` are the channels behind each convolution; `norms` stand behind them where not None, over the
    channels of a position, or `by_channel` over the positions of a channel. The kernel of `positions` is a
    direction times a length per tap, made at each call in the reference.
    """

    path: str
    n_samples: int
    convolutions: tuple[SequenceConvolution, ...]
    widths: tuple[int, ...]
    norms: tuple[Norm | None, ...]
    function: str
    feature_norm: Norm
    positions: SequenceConvolution
    position_function: str
    norm: Norm | None = None
    has_mask: bool = True
    quantiser: Quantiser | None = None
    by_channel: bool = False

    @property
    def lengths(self) -> tuple[int, ...]:
        """Positions behind each convolution; none or fewer where the wave is too short."""
        steps = accumulate(self.convolutions, lambda n, spec: spec.n_positions(n), initial=self.n_samples)
        return tuple(steps)[1:]

    @property
    def n_tokens(self) -> int:
        return self.lengths[-1] if min(self.lengths) > 0 else 0

    @property
    def least_samples(self) -> int:
        """The shortest wave that becomes one token."""
        n_inputs = 1
        for spec in reversed(self.convolutions):
            n_inputs = (n_inputs - 1) * spec.stride + spec.taps
        return n_inputs

    def fill(self, builder: LayerBuilder) -> str:
        """Add the embedding of wave[b, j, i] with one channel i; returns x[b, m, d]."""
        builder.rank("j", self.n_samples)
        builder.rank("i", 1)
        x = builder.input("wave", ("b", "j", "i"))
        if builder.run.lowering == "reference":
            builder.trained.append(x)  # the library asks for the gradient of the wave in training
        for number, spec in enumerate(self.convolutions):
            x = self._convolve(builder, x, number, spec)
        features = normalise(builder, builder.access(x), self.feature_norm)
        if self.quantiser:
            _quantise(builder, features, self.quantiser)
        projection = f"{self.path}.feature_projection.projection"
        width = builder.ranks_of(features)[2]
        x = builder.linear(Linear(projection, builder.access(features), ("d",), (width,), bias=True))
        if self.has_mask:
            builder.parameter(self.path, "masked_spec_embed", builder.size(("d",)))
        x = residual(builder, "positions", "placed", x, self._positions(builder, x))
        return normalise(builder, builder.access(x), self.norm) if self.norm else x

    def _convolve(self, builder: LayerBuilder, x: str, number: int, spec: SequenceConvolution) -> str:
        last = number == len(self.convolutions) - 1
        position = "m" if last else builder.rank(f"j{number}", self.lengths[number])
        width = builder.rank(f"w{number}", self.widths[number])
        x = convolve_sequence(builder, builder.access(x), spec, ("b", position, width))
        if norm := self.norms[number]:
            normalised = _normalise_channels if self.by_channel else normalise
            x = normalised(builder, builder.access(x), norm)
        source = (builder.access(x),)
        return builder.pointwise(
            f"function_{number}", f"opened_{number}", source, self.function, group="conv"
        )

    def _positions(self, builder: LayerBuilder, x: str) -> str:
        """What the convolution over the tokens gives each of them; the last of an even kernel is dropped."""
        spec = self.positions
        kernel = _weight_by_length(builder, spec)
        n_computed = (
            spec.n_positions(builder.run.seq) if builder.run.lowering == "reference" else builder.run.seq
        )
        position = builder.rank("o", n_computed)
        builder.rank("w", builder.size(("d",)))
        source = Access.of(x, "b", "m", "w")
        y = convolve_sequence(builder, source, spec, ("b", position, "d"), weight=kernel)
        terms = (Access.of(y, "b", "m", "d"),)
        return builder.pointwise(
            "position_function", "position_rows", terms, self.position_function, group="conv"
        )


def _normalise_channels(builder: LayerBuilder, x: Access, norm: Norm) -> str:
    """Each channel of x[b, position, channel] normalised over its positions."""
    name, ranks = norm.module.replace(".", "_"), (x.ranks[0], x.ranks[2])
    moments = builder.reduction(
        f"{name}_statistics", f"{name}_moments", ranks, (x,), "mean_variance", group="norm"
    )
    weights = (builder.weight(norm.module, parameter, norm.over) for parameter in ("weight", "bias"))
    inputs = (x, builder.access(moments), *map(builder.access, weights))
    epsilon = (("epsilon", norm.epsilon),)
    return builder.pointwise(name, f"{name}_out", inputs, "layernorm", group="norm", parameters=epsilon)


def _weight_by_length(builder: LayerBuilder, spec: SequenceConvolution) -> str:
    """kernel[tap, near, d] = length[tap] * direction[tap, near, d] / |direction[tap]|."""
    name = spec.module.replace(".", "_")
    n_near = builder.size(("d",)) // spec.n_groups
    ranks = (builder.rank(f"tap_{name}", spec.taps), builder.rank(f"near_{name}", n_near), "d")
    module = f"{spec.module}.parametrizations.weight"
    length = builder.access(builder.weight(module, "original0", ranks[:1]))
    direction = builder.access(builder.weight(module, "original1", ranks))
    norm = builder.reduction("kernel_norm", "kernel_norms", ranks[:1], (direction,), "l2", group="conv")
    terms = (direction, length, builder.access(norm))
    return builder.pointwise("kernel_scale", "kernel", terms, "mul_div", group="conv")


def _quantise(builder: LayerBuilder, features: str, spec: Quantiser) -> None:
    """The code vectors that the features choose, projected: an output beside the states."""
    sizes = {
        "g": spec.n_groups, "k": spec.n_entries, "a": spec.width // spec.n_groups, "q": spec.projected_width,
        "r": 1,
    }  # fmt: skip
    for rank, size in sizes.items():
        builder.rank(rank, size)
    width = builder.ranks_of(features)[2]
    module = f"{spec.module}.weight_proj"
    scores = builder.linear(Linear(module, builder.access(features), ("g", "k"), (width,), bias=True))
    chosen = builder.tensor("chosen_codes", ("b", "m", "g", "r"), Role.INDEX)
    inputs = (builder.access(scores),)
    builder.add("choose_codes", Kind.TOPK, builder.access(chosen), inputs, reduce="top_k", group="head")
    builder.parameter(spec.module, "codevectors", builder.size(("g", "k", "a")))
    table = builder.weight_input("code_vectors", ("g", "k", "a"), spec.module, "codevectors")
    rows = (
        Access(chosen, (*map(Index.of, "bmg"), Index())),
        Access(table, (Index.of("g"), Index(), Index.of("a"))),
    )
    codes = builder.gather("gather_codes", "codes", ("b", "m", "g", "a"), rows, "head")
    builder.keep(builder.linear(Linear(spec.project, builder.access(codes), ("q",), ("g", "a"), bias=True)))


@dataclass(frozen=True, slots=True)
class SpectrogramEmbedding:
    """Overlapping square patches of a spectrogram, two class tokens before them, learned positions (AST)."""

    path: str
    n_bands: int
    n_frames: int
    patch: int
    band_stride: int
    frame_stride: int

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along bands and along frames."""
        return (
            (self.n_bands - self.patch) // self.band_stride + 1,
            (self.n_frames - self.patch) // self.frame_stride + 1,
        )

    @property
    def n_tokens(self) -> int:
        return self.grid[0] * self.grid[1] + len(_CLASS_TOKENS)

    def fill(self, builder: LayerBuilder) -> str:
        """Add the embedding of spectrogram[b, i, j] (band, frame); returns x[b, m, d]."""
        n_high, n_wide = self.grid
        sizes = {
            "i": self.n_bands, "j": self.n_frames, "y": n_high, "x": n_wide, "u": self.patch, "v": self.patch
        }  # fmt: skip
        for rank, size in sizes.items():
            builder.rank(rank, size)
        module = f"{self.path}.patch_embeddings.projection"
        kernel = builder.weight(module, "weight", ("u", "v", "d"))
        bands, frames = (
            Index((IndexTerm(outer, stride), IndexTerm(inner)))
            for outer, inner, stride in (("y", "u", self.band_stride), ("x", "v", self.frame_stride))
        )
        source = Access(builder.input("spectrogram", ("b", "i", "j")), (Index.of("b"), bands, frames))
        ranks = ("b", "y", "x", "d")
        patches = builder.convolution(
            Filter("patch_projection", module, source, ("u", "v"), ranks, "patches"), kernel
        )
        terms = (builder.access(patches), builder.access(builder.weight(module, "bias", ("d",))))
        patches = builder.pointwise("patch_projection_bias", "patches_out", terms, "add", group="conv")
        return self._place(builder, patches)

    def _place(self, builder: LayerBuilder, patches: str) -> str:
        inputs = [builder.access(patches)]
        for name in _CLASS_TOKENS:
            builder.parameter(self.path, name, builder.size(("d",)))
            inputs.append(Access.of(builder.weight_input(name, ("d",), self.path, name), "d"))
        token = Index((IndexTerm("y", self.grid[1]), IndexTerm("x")), len(_CLASS_TOKENS))
        x = builder.tensor("tokens", ("b", "m", "d"), Role.ACTIVATION)
        place = Access(x, (Index.of("b"), token, Index.of("d")))
        builder.add("place", Kind.SCATTER, place, tuple(inputs), group="embedding")
        builder.parameter(self.path, "position_embeddings", builder.size(("m", "d")))
        rows = builder.weight_input("position_rows", ("m", "d"), self.path, "position_embeddings")
        terms = (builder.access(x), builder.access(rows))
        return builder.pointwise("positions", "placed", terms, "add", group="embedding")


_CLASS_TOKENS = ("cls_token", "distillation_token")
