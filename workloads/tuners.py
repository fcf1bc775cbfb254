"""Methods beside LoRA that change modules one by one, as the reference library runs them."""

from dataclasses import dataclass, replace

from tilewright.dataflow.operator import Access, Index, Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.adapter_plan import Change
from tilewright.workloads.builder import LayerBuilder, Linear
from tilewright.workloads.gradient import DETACHED
from tilewright.workloads.kronecker import multiply_by_kronecker


@dataclass(frozen=True, slots=True)
class Rescale(Change):
    """IA3: one factor per output, or per input where `of_input` (arXiv 2205.05638)."""

    of_input: bool

    def before(self, builder: LayerBuilder, linear: Linear) -> Linear:
        if not self.of_input:
            return linear
        factors = self._factors(builder, linear, linear.inner)
        scaled = builder.pointwise(
            f"{linear.name}_ia3", f"{linear.name}_scaled", (linear.input, factors), "mul",
            ranks=linear.input.ranks, group="adapter",
        )  # fmt: skip
        return replace(linear, input=builder.access(scaled))

    def linear(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        if self.of_input:
            return output
        terms = (builder.access(output), self._factors(builder, linear, linear.output))
        return builder.pointwise(f"{linear.name}_ia3", f"{linear.name}_scaled", terms, "mul", group="adapter")

    def _factors(self, builder: LayerBuilder, linear: Linear, ranks: tuple[str, ...]) -> Access:
        path = f"{builder.full_path(linear.module)}.ia3_l"
        return builder.access(builder.adapter_weight(f"{linear.name}_ia3_factors", ranks, path))


@dataclass(frozen=True, slots=True)
class AdaLora(Change):
    """AdaLoRA: y = W x + B (E (A x)) with one number of E per rank (arXiv 2303.10512)."""

    rank: int
    scale: float

    def linear(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        name, path = linear.name, builder.full_path(linear.module)
        rank = builder.rank(f"r_{name}", self.rank)
        down = builder.adapter_weight(f"{name}_lora_a", (*linear.inner, rank), f"{path}.lora_A")
        middle = builder.adapter_weight(f"{name}_lora_e", (rank,), f"{path}.lora_E")
        up = builder.adapter_weight(f"{name}_lora_b", (rank, *linear.output), f"{path}.lora_B")
        builder.note_adapter(f"{path}.ranknum", 1, trainable=False)
        if builder.run.phase == "train":
            for factor in (down, up):
                _penalise(builder, factor, rank)
        low = builder.contraction(
            f"{name}_lora_down", f"{name}_lora_low", (*linear.kept, rank),
            (linear.input, builder.access(down)), "adapter",
        )  # fmt: skip
        factors = (builder.access(low), builder.access(middle))
        scaled = builder.pointwise(f"{name}_lora_scale", f"{name}_lora_mid", factors, "mul", group="adapter")
        return _raised(builder, linear, output, scaled, up, self.scale)


def _penalise(builder: LayerBuilder, factor: str, rank: str) -> None:
    """The part of AdaLoRA's loss that keeps the rows of a factor orthogonal: |P P^T - 1|."""
    other = builder.rank(f"{rank}_other", builder.size((rank,)))
    swapped = Access.of(factor, *(other if r == rank else r for r in builder.ranks_of(factor)))
    inputs = (builder.access(factor), swapped)
    product = builder.contraction(f"{factor}_gram", f"{factor}_products", (rank, other), inputs, "adapter")
    source = (builder.access(product),)
    builder.keep(builder.reduction(f"{factor}_penalty", f"{factor}_loss", (), source, "l2", group="adapter"))


@dataclass(frozen=True, slots=True)
class Vera(Change):
    """VeRA: y = W x + b (B (d (A x))), A and B random and shared, b and d trained (arXiv 2310.11454)."""

    rank: int

    def linear(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        name, path = linear.name, builder.full_path(linear.module)
        rank = builder.rank(f"r_{name}", self.rank)
        builder.note_buffer("vera_A", self.rank * builder.size(linear.inner), shared=True)
        builder.note_buffer("vera_B", self.rank * builder.size(linear.output), shared=True)
        down = builder.input(f"{name}_vera_a", (*linear.inner, rank), Role.ADAPTER)
        up = builder.input(f"{name}_vera_b", (rank, *linear.output), Role.ADAPTER)
        inner = builder.adapter_weight(f"{name}_vera_d", (rank,), f"{path}.vera_lambda_d")
        outer = builder.adapter_weight(f"{name}_vera_o", linear.output, f"{path}.vera_lambda_b")
        low = builder.contraction(
            f"{name}_vera_down", f"{name}_vera_low", (*linear.kept, rank),
            (linear.input, builder.access(down)), "adapter",
        )  # fmt: skip
        factors = (builder.access(low), builder.access(inner))
        scaled = builder.pointwise(f"{name}_vera_scale", f"{name}_vera_mid", factors, "mul", group="adapter")
        factors = (builder.access(scaled), builder.access(up))
        ranks = (*linear.kept, *linear.output)
        raised = builder.contraction(f"{name}_vera_up", f"{name}_vera_update", ranks, factors, "adapter")
        terms = (builder.access(output), builder.access(raised), builder.access(outer))
        return builder.pointwise(f"{name}_vera_add", f"{name}_adapted", terms, "mul_add", group="adapter")


@dataclass(frozen=True, slots=True)
class SparseDelta(Change):
    """SHiRA: as many trained entries of W as a LoRA of this rank has, no operator (arXiv 2406.13175)."""

    rank: int

    def linear(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        n_entries = self.rank * (builder.size(linear.inner) + builder.size(linear.output))
        builder.note_adapter(f"{builder.full_path(linear.module)}.shira_weight", n_entries)
        return output


@dataclass(frozen=True, slots=True)
class Kronecker(Change):
    """LoKr: y = W x + (C kron (B A)) x (arXiv 2309.14859).

    The reference makes the update in full at each call; hardware stores C and B A and multiplies x, cut into
    chunks, by one after the other. `factor` cuts both widths in two; `decompose_both` lets C be a product
    too where that is smaller.
    """

    rank: int
    factor: int
    decompose_both: bool

    def linear(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        name, path = linear.name, builder.full_path(linear.module)
        (in_m, in_n), (out_m, out_n) = (
            split_width(builder.size(ranks), self.factor) for ranks in (linear.inner, linear.output)
        )
        if builder.run.lowering == "hardware":
            parts = (("w1", (out_m, in_m), self.decompose_both), ("w2", (out_n, in_n), True))
            for part, shape, splits in parts:
                self._note_factor(builder, path, part, shape, splits)
            return multiply_by_kronecker(builder, linear, output, (out_m, in_m), (out_n, in_n))
        outer = self._factor(builder, name, path, "w1", (out_m, in_m), self.decompose_both)
        inner = self._factor(builder, name, path, "w2", (out_n, in_n), True)
        ranks = (*linear.inner, *linear.output)
        blocks = tuple(
            Access(factor, tuple(Index() for _ in builder.ranks_of(factor))) for factor in (outer, inner)
        )
        delta = builder.pointwise(
            f"{name}_lokr_product", f"{name}_lokr_delta", blocks, "mul", ranks=ranks, group="adapter"
        )
        return _beside(builder, linear, output, delta, "lokr")

    def _note_factor(
        self, builder: LayerBuilder, path: str, part: str, shape: tuple[int, int], splits: bool
    ) -> None:
        if not splits or self.rank >= max(shape) / 2:
            builder.note_adapter(f"{path}.lokr_{part}", shape[0] * shape[1])
            return
        for side, size in zip("ab", shape, strict=True):
            builder.note_adapter(f"{path}.lokr_{part}_{side}", size * self.rank)

    def _factor(
        self, builder: LayerBuilder, name: str, path: str, part: str, shape: tuple[int, int], splits: bool
    ) -> str:
        """One factor: trained in full, or a product of two of the adapter's rank where that is small."""
        rows, columns = (
            builder.rank(f"{part}{axis}_{name}", size) for axis, size in zip("oi", shape, strict=True)
        )
        if not splits or self.rank >= max(shape) / 2:
            return builder.adapter_weight(f"{name}_lokr_{part}", (rows, columns), f"{path}.lokr_{part}")
        rank = builder.rank(f"r_{name}", self.rank)
        left = builder.adapter_weight(f"{name}_lokr_{part}_a", (rows, rank), f"{path}.lokr_{part}_a")
        right = builder.adapter_weight(f"{name}_lokr_{part}_b", (rank, columns), f"{path}.lokr_{part}_b")
        factors = (builder.access(left), builder.access(right))
        return builder.contraction(
            f"{name}_lokr_{part}_product", f"{name}_lokr_{part}", (rows, columns), factors, "adapter"
        )


@dataclass(frozen=True, slots=True)
class Hadamard(Change):
    """LoHa: y = W x + ((A B) * (C D)) x (arXiv 2108.06098).

    The reference makes both products and theirs at each call. The update has the square of the rank, in
    factors whose entries are products of those of A and C, and of B and D: hardware stores and applies these.
    """

    rank: int

    def linear(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        name, path = linear.name, builder.full_path(linear.module)
        n_in, n_out = builder.size(linear.inner), builder.size(linear.output)
        if builder.run.lowering == "hardware" and self.rank**2 * (n_in + n_out) < n_in * n_out:
            return self._factored(builder, linear, output)
        rank = builder.rank(f"r_{name}", self.rank)
        ranks = (*linear.inner, *linear.output)
        products = []
        for part in ("w1", "w2"):
            left = builder.adapter_weight(
                f"{name}_hada_{part}_a", (rank, *linear.output), f"{path}.hada_{part}_a"
            )
            right = builder.adapter_weight(
                f"{name}_hada_{part}_b", (*linear.inner, rank), f"{path}.hada_{part}_b"
            )
            factors = (builder.access(left), builder.access(right))
            product = builder.contraction(
                f"{name}_hada_{part}", f"{name}_hada_{part}_product", ranks, factors, "adapter"
            )
            products.append(builder.access(product))
            if builder.run.phase == "train" and builder.run.lowering == "reference":
                note_recomputed(builder, f"{name}_hada_{part}_again", ranks, factors, "adapter")
        delta = builder.pointwise(
            f"{name}_hada_multiply", f"{name}_hada_delta", tuple(products), "mul", group="adapter"
        )
        return _beside(builder, linear, output, delta, "loha")

    def _factored(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        """output + V U x with stored factors of rank r^2."""
        name, path = linear.name, builder.full_path(linear.module)
        rank = builder.rank(f"r2_{name}", self.rank**2)
        for part in ("w1", "w2"):
            builder.note_adapter(f"{path}.hada_{part}_a", self.rank * builder.size(linear.output))
            builder.note_adapter(f"{path}.hada_{part}_b", self.rank * builder.size(linear.inner))
        down = builder.access(builder.input(f"{name}_hada_u", (*linear.inner, rank), Role.ADAPTER))
        up = builder.input(f"{name}_hada_v", (rank, *linear.output), Role.ADAPTER)
        low = builder.contraction(
            f"{name}_hada_down", f"{name}_hada_low", (*linear.kept, rank), (linear.input, down), "adapter"
        )
        return _raised(builder, linear, output, low, up, 1.0)


@dataclass(frozen=True, slots=True)
class Spectrum(Change):
    """FourierFT: y = W x + F x, F the inverse transform of `n_frequencies` trained entries, made at each
    call (arXiv 2405.03003)."""

    n_frequencies: int

    def linear(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        name, path = linear.name, builder.full_path(linear.module)
        rank = builder.rank(f"k_{name}", self.n_frequencies)
        entries = builder.adapter_weight(f"{name}_spectrum", (rank,), f"{path}.fourierft_spectrum")
        delta = builder.tensor(f"{name}_fourier_delta", (*linear.inner, *linear.output), Role.ACTIVATION)
        source = (Access(entries, (Index(),)),)
        builder.add(
            f"{name}_fourier", Kind.TRANSFORM, builder.access(delta), source,
            function="inverse_fourier", group="adapter",
        )  # fmt: skip
        return _beside(builder, linear, output, delta, "fourierft")


@dataclass(frozen=True, slots=True)
class PlaneRotation(Change):
    """RoAd: outputs are turned in planes of two; angles and lengths per plane, or per output (road_2 and
    road_4 have two and four numbers per output) (arXiv 2409.00119)."""

    n_numbers: int

    def linear(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        name, path = linear.name, builder.full_path(linear.module)
        terms = [builder.access(output)]
        n_each = builder.size(linear.output) * self.n_numbers // 2
        for part in ("theta", "alpha"):
            builder.note_adapter(f"{path}.road_{part}", n_each)
            numbers = builder.input(f"{name}_road_{part}", linear.output, Role.ADAPTER)
            builder.trained.append(numbers)
            terms.append(builder.access(numbers))
        return builder.pointwise(
            f"{name}_road", f"{name}_rotated", tuple(terms), "rotate_pairs", group="adapter"
        )


@dataclass(frozen=True, slots=True)
class ShardSum(Change):
    """MiSS: inputs summed in `rank` shards, through one trained matrix (arXiv 2409.15371).

    With `mini_width` the matrix has that many columns, repeated over the outputs.
    """

    rank: int
    mini_width: int = 0

    def linear(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        name, path = linear.name, builder.full_path(linear.module)
        rank = builder.rank(f"r_{name}", self.rank)
        ranks = (*linear.kept, rank)
        low = builder.tensor(f"{name}_miss_low", ranks, Role.ACTIVATION)
        builder.add(
            f"{name}_miss_sum", Kind.REDUCTION, builder.access(low), (linear.input,),
            reduce="sum", group="adapter",
        )  # fmt: skip
        if self.mini_width:
            column = builder.rank(f"c_{name}", self.mini_width)
            small = builder.adapter_weight(f"{name}_miss_block", (rank, column), f"{path}.miss_block")
            repeated = builder.tensor(f"{name}_miss_matrix", (rank, *linear.output), Role.ACTIVATION)
            source = (Access(small, (Index.of(rank), Index())),)
            builder.add(
                f"{name}_miss_repeat", Kind.POINTWISE, builder.access(repeated), source, group="adapter"
            )
            up = builder.access(repeated)
        else:
            matrix = builder.adapter_weight(
                f"{name}_miss_block", (rank, *linear.output), f"{path}.miss_block"
            )
            up = builder.access(matrix)
        update = builder.contraction(
            f"{name}_miss", f"{name}_miss_update", (*linear.kept, *linear.output),
            (builder.access(low), up), "adapter",
        )  # fmt: skip
        terms = (builder.access(output), builder.access(update))
        return builder.pointwise(f"{name}_miss_add", f"{name}_adapted", terms, "add", group="adapter")


def note_recomputed(
    builder: LayerBuilder, name: str, ranks: tuple[str, ...], factors: tuple[Access, ...], group: str
) -> None:
    """Add a product that the library's own gradient computes beside the usual ones."""
    detached = ((DETACHED, 1.0),)
    builder.keep(builder.contraction(name, f"{name}_product", ranks, factors, group, parameters=detached))


def split_width(width: int, factor: int) -> tuple[int, int]:
    """Two numbers whose product is `width`: `factor` first if it divides, else the closest up to it."""
    if factor > 0 and width % factor == 0:
        return factor, width // factor
    limit = width if factor == -1 else factor
    small, large = 1, width
    while small < large:
        following = next(number for number in range(small + 1, width + 1) if width % number == 0)
        partner = width // following
        if following + partner > small + large or following > limit:
            break
        small, large = following, partner
    return min(small, large), max(small, large)


def _raised(builder: LayerBuilder, linear: Linear, output: str, low: str, up: str, scale: float) -> str:
    """output + scale * (low times up)."""
    name = linear.name
    factors = (builder.access(low), builder.access(up))
    ranks = (*linear.kept, *linear.output)
    raised = builder.contraction(f"{name}_lora_up", f"{name}_lora_update", ranks, factors, "adapter")
    terms = (builder.access(output), builder.access(raised))
    return builder.pointwise(
        f"{name}_lora_add", f"{name}_adapted", terms, "scale_add", group="adapter",
        parameters=(("scale", scale),),
    )  # fmt: skip


def _beside(builder: LayerBuilder, linear: Linear, output: str, delta: str, method: str) -> str:
    """output + delta x, with a dense delta[inner, output]."""
    name = linear.name
    factors = (linear.input, builder.access(delta))
    ranks = (*linear.kept, *linear.output)
    update = builder.contraction(f"{name}_{method}", f"{name}_{method}_update", ranks, factors, "adapter")
    terms = (builder.access(output), builder.access(update))
    return builder.pointwise(f"{name}_{method}_add", f"{name}_adapted", terms, "add", group="adapter")
