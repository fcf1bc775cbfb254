"""C3A: updates of circulant blocks, applied as products of spectra (arXiv 2407.19342)."""

from dataclasses import dataclass

from tilewright.dataflow.operator import Access, Index, Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.adapter_plan import AdapterError, Change
from tilewright.workloads.builder import LayerBuilder, Linear
from tilewright.workloads.gradient import ALL_GRADIENTS


@dataclass(frozen=True, slots=True)
class Circulant(Change):
    """y = W x + C x, C of circulant blocks of `block` rows, each one trained row.

    Block by block it is the spectrum of x times that of the row; a complex product counts as one
    multiply-accumulate. Hardware stores the rows' spectra.
    """

    block: int

    def linear(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        name, path = linear.name, builder.full_path(linear.module)
        n_in, n_out = builder.size(linear.inner), builder.size(linear.output)
        for width in (n_in, n_out):
            if width % self.block:
                raise AdapterError(f"block_size {self.block} does not divide the width {width} of {path}")
        sizes = {"n": n_in // self.block, "o": n_out // self.block, "f": self.block}
        n, o, f = (builder.rank(f"c3a_{key}_{name}", size) for key, size in sizes.items())
        spectra = self._spectra(builder, name, path, (o, n, f))
        x = builder.tensor(f"{name}_c3a_x", (*linear.kept, n, f), Role.ACTIVATION)
        kept = set(linear.kept)
        indices = linear.input.indices
        whole = tuple(index if {term.rank for term in index.terms} <= kept else Index() for index in indices)
        source = Access(linear.input.tensor, whole)
        _transform(builder, f"{name}_c3a_forward", x, source, "fourier")
        factors = (builder.access(x), builder.access(spectra))
        ranks = (*linear.kept, o, f)
        # the library's own gradient of this product computes both sides
        own = ((ALL_GRADIENTS, 1.0),) if builder.run.lowering == "reference" else ()
        product = builder.contraction(
            f"{name}_c3a", f"{name}_c3a_y", ranks, factors, linear.bmm_group, parameters=own
        )
        update = builder.tensor(f"{name}_c3a_update", (*linear.kept, *linear.output), Role.ACTIVATION)
        back = Access(product, (*map(Index.of, linear.kept), Index(), Index()))
        _transform(builder, f"{name}_c3a_inverse", update, back, "inverse_fourier")
        terms = (builder.access(output), builder.access(update))
        return builder.pointwise(f"{name}_c3a_add", f"{name}_adapted", terms, "add", group="adapter")

    def _spectra(self, builder: LayerBuilder, name: str, path: str, ranks: tuple[str, str, str]) -> str:
        """The spectra of the trained rows [output block, input block, frequency]."""
        parameter = f"{path}.c3a_kernel"
        if builder.run.lowering == "hardware":
            builder.note_adapter(parameter, builder.size(ranks))
            return builder.input(f"{name}_c3a_spectra", ranks, Role.ADAPTER)
        rows = builder.adapter_weight(f"{name}_c3a_rows", ranks, parameter)
        spectra = builder.tensor(f"{name}_c3a_spectra", ranks, Role.ACTIVATION)
        source = Access(rows, (Index.of(ranks[0]), Index.of(ranks[1]), Index()))
        return _transform(builder, f"{name}_c3a_rows_forward", spectra, source, "fourier")


def _transform(builder: LayerBuilder, name: str, output: str, source: Access, function: str) -> str:
    return builder.add(
        name, Kind.TRANSFORM, builder.access(output), (source,), function=function, group="adapter"
    )
