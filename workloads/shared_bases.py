"""Low-rank updates whose factors come from numbers that all modules share: VB-LoRA, RandLoRA."""

from dataclasses import dataclass

from tilewright.dataflow.operator import Access, Index
from tilewright.dataflow.tensor import Role
from tilewright.workloads.adapter_plan import AdapterError, Change, TunerPlan
from tilewright.workloads.builder import LayerBuilder, Linear
from tilewright.workloads.tuners import note_recomputed


@dataclass(frozen=True)
class BankPlan(TunerPlan):
    """A plan with `n_shared` trained numbers beside the modules."""

    n_shared: int = 0

    def prelude(self, builder: LayerBuilder) -> str | None:
        builder.note_adapter("vblora_vector_bank", self.n_shared)
        return None


@dataclass(frozen=True, slots=True)
class VectorBank(Change):
    """VB-LoRA: y = W x + B A x, A and B put together from the best `top_k` of `n_vectors` shared vectors of
    `length` numbers each, weighed by their trained scores (arXiv 2405.15179).

    The reference puts them together at each call; hardware stores A and B.
    """

    rank: int
    n_vectors: int
    length: int
    top_k: int

    def linear(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        name, rank = linear.name, builder.rank(f"r_{linear.name}", self.rank)
        down = self._factor(builder, linear, "A", (*linear.inner, rank), linear.inner)
        up = self._factor(builder, linear, "B", (rank, *linear.output), linear.output)
        low = builder.contraction(
            f"{name}_vb_down", f"{name}_vb_low", (*linear.kept, rank), (linear.input, builder.access(down)),
            "adapter",
        )  # fmt: skip
        return _added(builder, linear, output, low, builder.access(up), "vb")

    def _factor(
        self, builder: LayerBuilder, linear: Linear, part: str, ranks: tuple[str, ...], wide: tuple[str, ...]
    ) -> str:
        """A factor over `ranks`, of scores [rank, part of the width, vector]."""
        name, path, width = f"{linear.name}_vb_{part}", builder.full_path(linear.module), builder.size(wide)
        if width % self.length:
            raise AdapterError(f"vector_length {self.length} does not divide the {width} numbers of {path}")
        n_scores = self.rank * (width // self.length) * self.n_vectors
        parameter = f"{path}.vblora_logits_{part}"
        if builder.run.lowering == "hardware":
            builder.note_adapter(parameter, n_scores)
            return builder.input(name, ranks, Role.ADAPTER)
        flat = builder.rank(f"s_{name}", n_scores)
        scores = builder.adapter_weight(f"{name}_scores", (flat,), parameter)
        number, vector = builder.rank("vb_number", self.n_vectors), builder.rank("vb_place", self.length)
        if not builder.has("vector_bank"):
            builder.trained.append(builder.input("vector_bank", (number, vector), Role.ADAPTER))
        inputs = (Access("vector_bank", (Index(), Index())), Access(scores, (Index(),)))
        return builder.pointwise(f"{name}_choose", name, inputs, "top_k_mean", ranks=ranks, group="adapter")


@dataclass(frozen=True, slots=True)
class RandomBases(Change):
    """RandLoRA: y = W x + scale * (sum over bases of B_i L A G_i) x, A and B random and shared, one number
    per rank and base in L and per base and entry in G trained; full rank in all (arXiv 2502.00987)."""

    rank: int

    def linear(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        name, path = linear.name, builder.full_path(linear.module)
        n_in, n_out = builder.size(linear.inner), builder.size(linear.output)
        small, n_bases = min(n_in, n_out), -(-min(n_in, n_out) // self.rank)
        builder.note_buffer("randlora_A", self.rank * small, shared=True)
        builder.note_buffer("randlora_B", max(n_in, n_out) * n_bases * self.rank, shared=True)
        base, row = builder.rank(f"base_{name}", n_bases), builder.rank(f"r_{name}", self.rank)
        narrow = linear.inner if n_in == small else linear.output
        wide = linear.output if n_in == small else linear.inner
        fixed = builder.input(f"{name}_randlora_a", (row, *narrow), Role.ADAPTER)
        weights = builder.adapter_weight(f"{name}_randlora_l", (row, base), f"{path}.randlora_lambda")
        scales = builder.adapter_weight(f"{name}_randlora_g", (base, *narrow), f"{path}.randlora_gamma")
        inputs = tuple(map(builder.access, (fixed, weights, scales)))
        made = builder.pointwise(
            f"{name}_randlora_scale", f"{name}_randlora_scaled", inputs, "mul", ranks=(base, row, *narrow),
            group="adapter",
        )  # fmt: skip
        if builder.run.phase == "train" and builder.run.lowering == "reference":
            for number, ranks, factor in (("0", (row, base), scales), ("1", (base, *narrow), weights)):
                factors = (builder.access(made), builder.access(factor))
                note_recomputed(builder, f"{name}_randlora_d{number}", ranks, factors, linear.bmm_group)
        other = builder.input(f"{name}_randlora_b", (base, row, *wide), Role.ADAPTER)
        down, up = (made, other) if n_in == small else (other, made)
        low = builder.contraction(
            f"{name}_randlora_down", f"{name}_randlora_low", (*linear.kept, base, row),
            (linear.input, builder.access(down)), "adapter",
        )  # fmt: skip
        return _added(builder, linear, output, low, builder.access(up), "randlora")


def _added(builder: LayerBuilder, linear: Linear, output: str, low: str, up: Access, method: str) -> str:
    """output + low times up."""
    name, ranks = f"{linear.name}_{method}", (*linear.kept, *linear.output)
    update = builder.contraction(f"{name}_up", f"{name}_update", ranks, (builder.access(low), up), "adapter")
    terms = (builder.access(output), builder.access(update))
    return builder.pointwise(f"{name}_add", f"{linear.name}_adapted", terms, "scale_add", group="adapter")
