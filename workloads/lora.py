"""LoRA: y = W x + scale * B (A x), three operators beside the module's own (arXiv 2106.09685); DoRA."""

from dataclasses import dataclass
from math import sqrt

from tilewright.dataflow.operator import Access, Index
from tilewright.dataflow.tensor import Role
from tilewright.workloads.adapter_plan import AdapterError, Change
from tilewright.workloads.builder import Filter, LayerBuilder, Linear, word
from tilewright.workloads.gradient import DETACHED


@dataclass(frozen=True, slots=True)
class Lora(Change):
    """The change of one module: A is d_in x rank, B is rank x d_out; `bias` adds one behind B."""

    rank: int
    scale: float
    bias: bool = False

    def linear(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        """Add down, up and scaled add behind the product `output` of a linear module."""
        name, path = linear.name, builder.full_path(linear.module)
        terms = [builder.access(output), builder.access(self.update(builder, linear))]
        if self.bias:
            bias = builder.adapter_weight(f"{name}_lora_bias", linear.output, f"{path}.lora_B.bias")
            terms.append(builder.access(bias))
        return self._add(builder, name, terms)

    def update(self, builder: LayerBuilder, linear: Linear) -> str:
        """B A x of a linear module, ranked as its output."""
        name, path = linear.name, builder.full_path(linear.module)
        rank = builder.rank(f"r_{name}", self.rank)
        down = builder.adapter_weight(f"{name}_lora_a", (*linear.inner, rank), f"{path}.lora_A.weight")
        up = builder.adapter_weight(f"{name}_lora_b", (rank, *linear.output), f"{path}.lora_B.weight")
        low = builder.contraction(
            f"{name}_lora_down", f"{name}_lora_low", (*linear.kept, rank),
            (linear.input, builder.access(down)), "adapter",
        )  # fmt: skip
        return builder.contraction(
            f"{name}_lora_up", f"{name}_lora_update", (*linear.kept, *linear.output),
            (builder.access(low), builder.access(up)), "adapter",
        )  # fmt: skip

    def convolution(self, builder: LayerBuilder, spec: Filter, output: str) -> str:
        """Add A, a convolution into `rank` channels, B, one of a single tap, and the scaled sum."""
        name, path, rank = spec.name, builder.full_path(spec.module), f"r_{spec.name}"
        if spec.n_groups > 1:
            raise AdapterError(
                f"LoRA of the convolution {path!r} of {spec.n_groups} groups of channels is not supported"
            )
        if spec.dilation > 1:
            raise AdapterError(f"LoRA of the dilated convolution {path!r} is not supported")
        builder.rank(rank, self.rank)
        down = builder.adapter_weight(f"{name}_lora_a", (*spec.inner, rank), f"{path}.lora_A.weight")
        up = builder.adapter_weight(f"{name}_lora_b", (rank, spec.output[-1]), f"{path}.lora_B.weight")
        low = builder.contraction(
            f"{name}_lora_down", f"{name}_lora_low", (*spec.output[:-1], rank),
            (spec.image, builder.access(down)), spec.group,
        )  # fmt: skip
        factors = (builder.access(low), builder.access(up))
        raised = builder.contraction(
            f"{name}_lora_up", f"{name}_lora_update", spec.output, factors, spec.group
        )
        terms = [builder.access(output), builder.access(raised)]
        if self.bias:
            bias = builder.adapter_weight(f"{name}_lora_bias", spec.output[-1:], f"{path}.lora_B.bias")
            terms.append(builder.access(bias))
        return self._add(builder, name, terms)

    def embedding(self, builder: LayerBuilder, table: str, tokens: str, output: str) -> str:
        """Add the rows of A that the tokens select, up and scaled add behind an embedding's rows."""
        name, path = word(table), builder.full_path(table)
        ranks = builder.ranks_of(output)
        rank = builder.rank(f"r_{name}", self.rank)
        rows = builder.adapter_weight(f"{name}_lora_a", ("v", rank), f"{path}.lora_embedding_A")
        up = builder.adapter_weight(f"{name}_lora_b", (rank, ranks[-1]), f"{path}.lora_embedding_B")
        low = builder.gather(
            f"{name}_lora_rows", f"{name}_lora_low", (*builder.ranks_of(tokens), rank),
            (builder.access(tokens), Access(rows, (Index(), Index.of(rank)))), group="adapter",
        )  # fmt: skip
        factors = (builder.access(low), builder.access(up))
        raised = builder.contraction(f"{name}_lora_up", f"{name}_lora_update", ranks, factors, "adapter")
        return self._add(builder, name, [builder.access(output), builder.access(raised)])

    def _add(self, builder: LayerBuilder, name: str, terms: list[Access]) -> str:
        return builder.pointwise(
            f"{name}_lora_add", f"{name}_adapted", tuple(terms), "scale_add", group="adapter",
            parameters=(("scale", self.scale),),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dora(Lora):
    """LoRA with a trained magnitude per output: y = g (W x + scale B A x), g = magnitude / norm of the
    rows of W + scale B A (arXiv 2402.09353).

    The reference computes the norm at each call, from B A times an identity matrix; hardware stores g.
    """

    def linear(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        name, path = linear.name, builder.full_path(linear.module)
        update = self.update(builder, linear)
        parameter = f"{path}.lora_magnitude_vector.weight"
        magnitude = builder.adapter_weight(f"{name}_dora_magnitude", linear.output, parameter)
        terms = [builder.access(output), builder.access(update), builder.access(magnitude)]
        if builder.run.lowering == "reference":
            terms.append(builder.access(self._norm(builder, linear)))
        return builder.pointwise(
            f"{name}_dora", f"{name}_adapted", tuple(terms), "scale_add_mul", group="adapter",
            parameters=(("scale", self.scale),),
        )  # fmt: skip

    def convolution(self, builder: LayerBuilder, spec: Filter, output: str) -> str:
        raise AdapterError(f"DoRA of the convolution {builder.full_path(spec.module)!r} is not supported")

    def embedding(self, builder: LayerBuilder, table: str, tokens: str, output: str) -> str:
        raise AdapterError(f"DoRA of the embedding {builder.full_path(table)!r} is not supported")

    def _norm(self, builder: LayerBuilder, linear: Linear) -> str:
        """The norm of each row of W + scale B A, its product made from an identity matrix."""
        name = linear.name
        square = tuple(
            builder.rank(f"{rank}_{name}_identity", builder.size((rank,))) for rank in linear.inner
        )
        identity = builder.input(f"{name}_identity", (*square, *linear.inner), Role.ACTIVATION)
        low = builder.contraction(
            f"{name}_dora_down", f"{name}_dora_low", (*square, f"r_{name}"),
            (builder.access(identity), builder.access(f"{name}_lora_a")), "adapter",
        )  # fmt: skip
        delta = builder.contraction(
            f"{name}_dora_up", f"{name}_dora_delta", (*square, *linear.output),
            (builder.access(low), builder.access(f"{name}_lora_b")), "adapter",
        )  # fmt: skip
        rows = (
            builder.access(word(f"{linear.module}.weight")),
            Access.of(delta, *linear.inner, *linear.output),
        )
        return builder.reduction(
            f"{name}_dora_norm", f"{name}_dora_norms", linear.output, rows, "l2", function="add",
            group="adapter", parameters=((DETACHED, 1.0),),
        )  # fmt: skip


def lora_scale(alpha: float, rank: int, rank_stabilised: bool) -> float:
    """alpha / rank, or alpha / sqrt(rank) (rank-stabilised, arXiv 2312.03732)."""
    return alpha / (sqrt(rank) if rank_stabilised else rank)
