"""LoRA: y = W x + scale * B (A x), three operators beside the module's own (arXiv 2106.09685)."""

from dataclasses import dataclass
from math import sqrt

from tilewright.dataflow.operator import Access, Index
from tilewright.workloads.builder import LayerBuilder, Linear, word


@dataclass(frozen=True, slots=True)
class Lora:
    """The change of one module: A is d_in x rank, B is rank x d_out; `bias` adds one behind B."""

    rank: int
    scale: float
    bias: bool = False

    def linear(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        """Add down, up and scaled add behind the product `output` of a linear module."""
        name, path = linear.name, builder.full_path(linear.module)
        rank = builder.rank(f"r_{name}", self.rank)
        down = builder.adapter_weight(f"{name}_lora_a", (*linear.inner, rank), f"{path}.lora_A.weight")
        low = builder.contraction(
            f"{name}_lora_down", f"{name}_lora_low", (*linear.kept, rank),
            (linear.input, builder.access(down)), "adapter",
        )  # fmt: skip
        return self._raise(builder, name, path, low, linear.output, output)

    def embedding(self, builder: LayerBuilder, table: str, tokens: str, output: str) -> str:
        """Add the rows of A that the tokens select, up and scaled add behind an embedding's rows."""
        name, path = word(table), builder.full_path(table)
        rank = builder.rank(f"r_{name}", self.rank)
        rows = builder.adapter_weight(f"{name}_lora_a", ("v", rank), f"{path}.lora_embedding_A")
        low = builder.gather(
            f"{name}_lora_rows", f"{name}_lora_low", (*builder.ranks_of(tokens), rank),
            (builder.access(tokens), Access(rows, (Index(), Index.of(rank)))), group="adapter",
        )  # fmt: skip
        width = builder.ranks_of(output)[-1:]
        return self._raise(builder, name, path, low, width, output, suffix="embedding_B")

    def _raise(
        self,
        builder: LayerBuilder,
        name: str,
        path: str,
        low: str,
        output_ranks: tuple[str, ...],
        output: str,
        suffix: str = "B.weight",
    ) -> str:
        rank = f"r_{name}"
        up = builder.adapter_weight(f"{name}_lora_b", (rank, *output_ranks), f"{path}.lora_{suffix}")
        ranks = builder.ranks_of(output)
        inputs = (builder.access(low), builder.access(up))
        raised = builder.contraction(f"{name}_lora_up", f"{name}_lora_update", ranks, inputs, "adapter")
        terms = [builder.access(output), builder.access(raised)]
        if self.bias:
            bias = builder.adapter_weight(f"{name}_lora_bias", output_ranks, f"{path}.lora_B.bias")
            terms.append(builder.access(bias))
        return builder.pointwise(
            f"{name}_lora_add", f"{name}_adapted", tuple(terms), "scale_add", group="adapter",
            parameters=(("scale", self.scale),),
        )  # fmt: skip


def lora_scale(alpha: float, rank: int, rank_stabilised: bool) -> float:
    """alpha / rank, or alpha / sqrt(rank) (rank-stabilised, arXiv 2312.03732)."""
    return alpha / (sqrt(rank) if rank_stabilised else rank)
