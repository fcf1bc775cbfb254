"""HRA: a weight times a chain of reflections (arXiv 2405.17484)."""

from dataclasses import dataclass, replace

from tilewright.dataflow.operator import Access, Index, Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.adapter_plan import Change
from tilewright.workloads.builder import LayerBuilder, Linear, flat_index


@dataclass(frozen=True, slots=True)
class Reflections(Change):
    """y = W R x, R the product of I - 2 u u^T over `rank` trained directions u of length 1.

    `orthogonal` makes the directions orthogonal first. The reference makes R and W R in full at each call.
    Hardware stores R = I - U V in factored form and takes (U V) x from x.
    """

    rank: int
    orthogonal: bool

    def before(self, builder: LayerBuilder, linear: Linear) -> Linear:
        if builder.run.lowering == "reference":
            return self._with_made_weight(builder, linear)
        name = linear.name
        rank = builder.rank(f"r_{name}", self.rank)
        n_trained = self.rank * builder.size(linear.inner)
        builder.note_adapter(f"{builder.full_path(linear.module)}.hra_u", n_trained)
        down = builder.input(f"{name}_hra_u", (*linear.inner, rank), Role.ADAPTER)
        other = tuple(builder.rank(f"{r}_{name}_hra", builder.size((r,))) for r in linear.inner)
        up = builder.input(f"{name}_hra_v", (rank, *other), Role.ADAPTER)
        low = builder.contraction(
            f"{name}_hra_down", f"{name}_hra_low", (*linear.kept, rank),
            (linear.input, builder.access(down)), "adapter",
        )  # fmt: skip
        factors = (builder.access(low), builder.access(up))
        taken = builder.contraction(
            f"{name}_hra_up", f"{name}_hra_taken", (*linear.kept, *other), factors, "adapter"
        )
        ranks = linear.input.ranks
        terms = (linear.input, Access.of(taken, *linear.kept, *linear.inner))
        reflected = builder.pointwise(
            f"{name}_hra_subtract", f"{name}_reflected", terms, "sub", ranks=ranks, group="adapter"
        )
        return replace(linear, input=builder.access(reflected))

    def _with_made_weight(self, builder: LayerBuilder, linear: Linear) -> Linear:
        """The module with the weight W R, made as the library does."""
        name, width = linear.name, builder.size(linear.inner)
        x, y, z = (builder.rank(f"hra_{key}_{name}", width) for key in "xyz")
        rank = builder.rank(f"r_{name}", self.rank)
        path = f"{builder.full_path(linear.module)}.hra_u"
        stored = builder.adapter_weight(f"{name}_hra_u", (x, rank), path)
        source = (builder.access(stored),)
        unit = builder.pointwise(f"{name}_hra_unit", f"{name}_hra_units", source, "unit", group="adapter")
        identity = builder.input(f"{name}_hra_identity", (x, y), Role.ACTIVATION)
        make = self._orthogonal if self.orthogonal else self._chain
        chain = make(builder, name, unit, identity, (x, y, z))
        factors = (builder.access(identity), Access.of(chain, y, z))
        made = builder.contraction(f"{name}_hra_apply", f"{name}_hra_matrix", (x, z), factors, "adapter")
        weight = builder.access(builder.stored_weight(linear))
        row = Access(made, (flat_index(builder, linear.inner), Index.of(z)))
        rotated = builder.contraction(
            f"{name}_hra_rotate", f"{name}_hra_weight", (z, *linear.output), (weight, row), "adapter"
        )
        read = Access(rotated, (flat_index(builder, linear.inner), *map(Index.of, linear.output)))
        return replace(linear, made_weight=read)

    def _chain(
        self, builder: LayerBuilder, name: str, unit: str, identity: str, ranks: tuple[str, str, str]
    ) -> str:
        """One reflection behind the other; the first one is made of the identity."""
        x, y, _ = ranks
        chain = _reflected(builder, f"{name}_hra_first", unit, Access.of(identity, x, y), ranks, 1)
        if self.rank == 1:
            return chain
        return _reflected(builder, f"{name}_hra_next", unit, Access.of(chain, x, y), ranks, self.rank - 1)

    def _orthogonal(
        self, builder: LayerBuilder, name: str, unit: str, identity: str, ranks: tuple[str, str, str]
    ) -> str:
        """I - 2 U U^T of directions made orthogonal, pair by pair."""
        x, y, _ = ranks
        rank, one = f"r_{name}", builder.rank(f"one_{name}", 1)
        if n_pairs := self.rank * (self.rank - 1) // 2:
            product = builder.tensor(f"{name}_hra_cosines", (one,), Role.ACTIVATION)
            factors = (Access(unit, (Index.of(x), Index())), Access(unit, (Index.of(x), Index.of(one))))
            builder.add(
                f"{name}_hra_cosine", Kind.CONTRACTION, builder.access(product), factors, function="mul",
                reduce="sum", group="adapter", repeat=n_pairs,
            )  # fmt: skip
            terms = (builder.access(unit), Access(product, (Index(),)))
            unit = builder.pointwise(
                f"{name}_hra_orthogonal", f"{name}_hra_basis", terms, "mul_sub", group="adapter"
            )
        factors = (builder.access(unit), Access.of(unit, y, rank))
        square = builder.contraction(f"{name}_hra_square", f"{name}_hra_squares", (x, y), factors, "adapter")
        terms = (Access.of(identity, x, y), builder.access(square))
        return builder.pointwise(
            f"{name}_hra_subtract", f"{name}_hra_chain", terms, "scale_sub", group="adapter"
        )


def _reflected(
    builder: LayerBuilder, name: str, unit: str, matrix: Access, ranks: tuple[str, str, str], n_times: int
) -> str:
    """matrix (I - 2 u u^T)[x, y], `n_times` one behind the other."""
    x, y, _ = ranks
    one = builder.rank(f"one_{name}", 1)
    low = builder.tensor(f"{name}_low", (x, one), Role.ACTIVATION)
    column = Access(unit, (Index.of(y), Index.of(one)))
    builder.add(
        f"{name}_down", Kind.CONTRACTION, builder.access(low), (matrix, column), function="mul", reduce="sum",
        group="adapter", repeat=n_times,
    )  # fmt: skip
    square = builder.tensor(f"{name}_square", (x, y), Role.ACTIVATION)
    builder.add(
        f"{name}_up", Kind.CONTRACTION, builder.access(square), (builder.access(low), column),
        function="mul", reduce="sum", group="adapter", repeat=n_times,
    )  # fmt: skip
    terms = (matrix, builder.access(square))
    return builder.pointwise(f"{name}_subtract", f"{name}_chain", terms, "scale_sub", group="adapter")
