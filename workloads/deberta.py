"""What DeBERTa adds around its layers: rows of relative positions, a convolution beside the first layer."""

from dataclasses import dataclass

from tilewright.dataflow.operator import Access
from tilewright.workloads.block import Block, residual
from tilewright.workloads.builder import LayerBuilder, Module
from tilewright.workloads.disentangled import POSITION_ROWS
from tilewright.workloads.embedding import Embedding
from tilewright.workloads.norms import Norm, normalise
from tilewright.workloads.sequence_convolution import SequenceConvolution, convolve_sequence


@dataclass(frozen=True, slots=True)
class RelativeEmbedding:
    """Rows of tokens, and beside them `n_distances` rows of relative positions, normalised or not."""

    words: Embedding
    module: str
    n_distances: int
    norm: Norm | None

    def fill(self, builder: LayerBuilder) -> str:
        """Add the embedding of tokens[b, m]; returns x[b, m, d], keeps relative_rows[z, d]."""
        if self.n_distances:
            builder.rank("z", self.n_distances)
            rows = builder.access(builder.weight(self.module, "weight", ("z", "d")))
            builder.modules.append(Module(builder.full_path(self.module), "embedding"))
            if self.norm:
                rows = builder.access(normalise(builder, rows, self.norm))
            builder.keep(builder.pointwise("relative", POSITION_ROWS, (rows,), "identity", group="embedding"))
        elif self.norm:
            for parameter in ("weight", "bias"):
                builder.parameter(self.norm.module, parameter, builder.size(("d",)))
        return self.words.fill(builder)


@dataclass(frozen=True, slots=True)
class ConvolvedBlock:
    """norm(block(x) + function(convolution of x)); convolution and norm are modules below `path`."""

    block: Block
    convolution: SequenceConvolution
    norm: Norm
    function: str
    path: str

    @property
    def keeps_cache(self) -> bool:
        return False

    @property
    def input_ranks(self) -> tuple[str, ...]:
        return self.block.input_ranks

    def declare(self, builder: LayerBuilder) -> None:
        self.block.declare(builder)

    def fill(self, builder: LayerBuilder, x: str) -> str:
        y = self.block.fill(builder, x)
        below, builder.path = builder.path, self.path
        builder.rank("w", builder.size(("d",)))  # channels that come in
        source = Access.of(x, "b", "m", "w")
        beside = convolve_sequence(builder, source, self.convolution, ("b", "m", "d"))
        terms = (builder.access(beside),)
        opened = builder.pointwise("conv_activation", "conv_opened", terms, self.function, group="conv")
        summed = residual(builder, "conv_residual", "x_convolved", y, opened)
        result = normalise(builder, builder.access(summed), self.norm)
        builder.path = below
        return result
