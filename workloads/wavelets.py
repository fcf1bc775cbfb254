"""WaveFT: updates that are sparse in the wavelet domain."""

from dataclasses import dataclass, replace

from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.adapter_plan import AdapterError, Change
from tilewright.workloads.builder import LayerBuilder, Linear, flat_index

_N_BANDS = 4


@dataclass(frozen=True, slots=True)
class Wavelets(Change):
    """y = W x + V x, V the inverse wavelet transform of a matrix with `n_coefficients` trained entries.

    Filters have `n_taps` taps (2: Haar's); 0 is no transform, the entries are V's own. The reference makes V
    at each call by a transposed convolution of four bands and multiplies by it. V is a transform of rows, the
    sparse matrix and a transform of columns: hardware applies these to x one after the other.
    """

    n_coefficients: int
    n_taps: int = 2

    def linear(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        name, path = linear.name, builder.full_path(linear.module)
        n_in, n_out = builder.size(linear.inner), builder.size(linear.output)
        if self.n_coefficients > n_in * n_out:
            raise AdapterError(
                f"n_frequency {self.n_coefficients} exceeds the {n_in * n_out} entries of {path}"
            )
        rank = builder.rank(f"k_{name}", self.n_coefficients)
        entries = builder.adapter_weight(f"{name}_wavelets", (rank,), f"{path}.waveft_spectrum")
        if builder.run.lowering == "hardware":
            return self._one_after_the_other(builder, linear, output, entries)
        weight = self._made(builder, linear, entries)
        product = builder.contraction(
            f"{name}_waveft", f"{name}_waveft_out", (*linear.kept, *linear.output), (linear.input, weight),
            "adapter",
        )  # fmt: skip
        return self._added(builder, linear, output, product)

    def _made(self, builder: LayerBuilder, linear: Linear, entries: str) -> Access:
        """V by inner and output ranks.

        Position p of a side of V reads the coefficients p // 2 - u by the taps 2 u + p % 2; a side has a few
        coefficients more than V has positions where filters are longer than 2 taps.
        """
        name, places = linear.name, self._places(builder, linear)
        if not self.n_taps:
            ranks = (*linear.output, *linear.inner)
            return builder.access(_spread(builder, name, ranks, (places[0], places[1], entries)))
        sides = [_padded(builder.size(ranks), self.n_taps) for ranks in (linear.output, linear.inner)]
        bands = builder.rank(f"wave_g_{name}", _N_BANDS)
        halves = tuple(
            builder.rank(f"wave_{key}_{name}", side // 2) for key, side in zip("hw", sides, strict=True)
        )
        wide = tuple(builder.rank(f"wave_{key}_{name}", side) for key, side in zip("pq", sides, strict=True))
        near = tuple(builder.rank(f"wave_{key}_{name}", self.n_taps // 2) for key in "uv")
        taps = tuple(builder.rank(f"wave_{key}_{name}", self.n_taps) for key in "st")
        spectrum = _spread(builder, name, (bands, *halves), (*places, entries))
        filters = builder.input(f"{name}_wave_filters", (bands, *taps), Role.ADAPTER)
        coefficients = tuple(
            Index((IndexTerm(p, 1, 2), IndexTerm(u, -1))) for p, u in zip(wide, near, strict=True)
        )
        chosen = tuple(
            Index((IndexTerm(p), IndexTerm(p, -2, 2), IndexTerm(u, 2)))
            for p, u in zip(wide, near, strict=True)
        )
        factors = (
            Access(spectrum, (Index.of(bands), *coefficients)), Access(filters, (Index.of(bands), *chosen)),
        )  # fmt: skip
        whole = builder.contraction(f"{name}_wave", f"{name}_wave_delta", wide, factors, "conv")
        return Access(whole, (flat_index(builder, linear.output), flat_index(builder, linear.inner)))

    def _one_after_the_other(self, builder: LayerBuilder, linear: Linear, output: str, entries: str) -> str:
        """output + V x by coefficients of x, the entries' products, and back."""
        name, kept, rank = linear.name, tuple(map(Index.of, linear.kept)), builder.ranks_of(entries)[0]
        rows, columns = self._places(builder, linear)
        known = set(linear.kept)
        source = replace(
            linear.input,
            indices=tuple(
                index if {term.rank for term in index.terms} <= known else Index()
                for index in linear.input.indices
            ),
        )
        if self.n_taps:
            side = builder.rank(f"wave_q_{name}", _padded(builder.size(linear.inner), self.n_taps))
            x = builder.tensor(f"{name}_wave_x", (*linear.kept, side), Role.ACTIVATION)
            _transform(builder, f"{name}_wave_forward", builder.access(x), source, "wavelet")
            source = Access(x, (*kept, Index()))
        ranks = (*linear.kept, rank)
        inputs = (builder.access(columns), source)
        picked = builder.gather(f"{name}_wave_pick", f"{name}_wave_picked", ranks, inputs, "adapter")
        factors = (builder.access(picked), builder.access(entries))
        scaled = builder.pointwise(
            f"{name}_wave_scale", f"{name}_wave_scaled", factors, "mul", group="adapter"
        )
        side_ranks = linear.output
        if self.n_taps:
            n_rows = _padded(builder.size(linear.output), self.n_taps)
            side_ranks = (builder.rank(f"wave_p_{name}", n_rows),)
        y = builder.tensor(f"{name}_wave_y", (*linear.kept, *side_ranks), Role.ACTIVATION)
        behind = Access(y, (*kept, *(Index() for _ in side_ranks)))
        builder.add(
            f"{name}_wave_put", Kind.SCATTER, behind, (builder.access(rows), builder.access(scaled)),
            function="add", reduce="sum", group="adapter",
        )  # fmt: skip
        if self.n_taps:
            update = builder.tensor(f"{name}_wave_update", (*linear.kept, *linear.output), Role.ACTIVATION)
            y = _transform(builder, f"{name}_wave_inverse", builder.access(update), behind, "inverse_wavelet")
        return self._added(builder, linear, output, y)

    def _places(self, builder: LayerBuilder, linear: Linear) -> tuple[str, str]:
        """Rows and columns of the entries, drawn once."""
        name = linear.name
        rank = f"k_{name}"
        rows, columns = (
            builder.input(f"{name}_wave_{key}", (rank,), Role.INDEX) for key in ("rows", "columns")
        )
        return rows, columns

    def _added(self, builder: LayerBuilder, linear: Linear, output: str, update: str) -> str:
        terms = (builder.access(output), builder.access(update))
        return builder.pointwise(
            f"{linear.name}_waveft_join", f"{linear.name}_adapted", terms, "add", group="adapter"
        )


def _padded(n_positions: int, n_taps: int) -> int:
    """Coefficients along a side whose transform has that many positions; an even number."""
    n_coefficients = n_positions + n_taps - 2
    return n_coefficients + n_coefficients % 2


def _spread(builder: LayerBuilder, name: str, ranks: tuple[str, ...], inputs: tuple[str, ...]) -> str:
    """The entries, last of the inputs, at their places in a tensor of zeros."""
    spectrum = builder.tensor(f"{name}_wave_spectrum", ranks, Role.ACTIVATION)
    output = Access(spectrum, tuple(Index() for _ in ranks))
    read = tuple(map(builder.access, inputs))
    return builder.add(f"{name}_wave_spread", Kind.SCATTER, output, read, group="adapter")


def _transform(builder: LayerBuilder, name: str, output: Access, source: Access, function: str) -> str:
    return builder.add(name, Kind.TRANSFORM, output, (source,), function=function, group="adapter")
