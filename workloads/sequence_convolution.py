"""Convolutions along a sequence, in groups of channels, as contractions with affine indices."""

from dataclasses import dataclass

from tilewright.dataflow.operator import Access, Index, IndexTerm
from tilewright.workloads.builder import Filter, LayerBuilder, word


@dataclass(frozen=True, slots=True)
class SequenceConvolution:
    """`taps` along a sequence, `stride` apart, `padding` before it; `n_groups` of channels for themselves."""

    module: str
    taps: int
    stride: int = 1
    padding: int = 0
    n_groups: int = 1
    bias: bool = True

    def n_positions(self, n_inputs: int) -> int:
        """Positions behind the convolution where both ends are padded alike."""
        return (n_inputs + 2 * self.padding - self.taps) // self.stride + 1


def convolve_sequence(
    builder: LayerBuilder,
    x: Access,
    spec: SequenceConvolution,
    ranks: tuple[str, str, str],
    *,
    weight: str = "",
) -> str:
    """Convolve x[b, position, channel] into a tensor over `ranks` (b, position, channel); returns it.

    `weight` is a tensor [tap, channel of a group, channel] that is there already, else the module's own.
    """
    name, position, output = word(spec.module), ranks[1], ranks[2]
    (channel,) = (term.rank for term in x.indices[2].terms)
    n_in, n_out = builder.size((channel,)), builder.size((output,))
    tap = builder.rank(f"tap_{name}", spec.taps)
    inner, source = channel, Index.of(channel)
    if spec.n_groups > 1:
        inner = builder.rank(f"near_{name}", n_in // spec.n_groups)
        group = IndexTerm(output, n_in // spec.n_groups, n_out // spec.n_groups)
        source = Index((group, IndexTerm(inner)))
    place = Index((IndexTerm(position, spec.stride), IndexTerm(tap)), -spec.padding)
    kernel = weight or builder.weight(spec.module, "weight", (tap, inner, output))
    read = Access(x.tensor, (x.indices[0], place, source))
    product = builder.convolution(
        Filter(name, spec.module, read, (tap, inner), ranks, f"{name}_product", n_groups=spec.n_groups),
        kernel,
    )
    if not spec.bias:
        return product
    terms = (builder.access(product), builder.access(builder.weight(spec.module, "bias", (output,))))
    return builder.pointwise(f"{name}_bias", f"{name}_out", terms, "add", group="conv")
