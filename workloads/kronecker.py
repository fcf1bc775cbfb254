"""Multiplying by a Kronecker product without making it: chunks of the input, one factor after the other."""

from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.builder import LayerBuilder, Linear, flat_index


def multiply_by_kronecker(
    builder: LayerBuilder, linear: Linear, output: str, outer: tuple[int, int], inner: tuple[int, int]
) -> str:
    """output + (C kron B) x with stored C, `outer` (rows, columns), and B, `inner`; the cheaper order first.

    Inputs are chunks of B's columns, as many as C has; outputs are chunks of B's rows.
    """
    name, kept = linear.name, linear.kept
    sizes = {"om": outer[0], "im": outer[1], "on": inner[0], "in": inner[1]}
    out_m, in_m, out_n, in_n = (builder.rank(f"kron_{key}_{name}", size) for key, size in sizes.items())
    c = builder.access(builder.input(f"{name}_kron_c", (out_m, in_m), Role.ADAPTER))
    b = builder.access(builder.input(f"{name}_kron_b", (out_n, in_n), Role.ADAPTER))
    chunk = Index((IndexTerm(in_m, inner[1]), IndexTerm(in_n)))
    x = Access(_flat(builder, linear), (*map(Index.of, kept), chunk))
    # B first leaves im x on numbers, C first om x in; both then sum over what is left
    b_first = inner[0] * outer[1] * (inner[1] + outer[0]) <= outer[0] * inner[1] * (outer[1] + inner[0])
    first, second, between = (b, c, (in_m, out_n)) if b_first else (c, b, (out_m, in_n))
    half = builder.contraction(
        f"{name}_kron_half", f"{name}_kron_t", (*kept, *between), (x, first), "adapter"
    )
    position = builder.rank(f"kron_y_{name}", outer[0] * inner[0])
    y = builder.tensor(f"{name}_kron_y", (*kept, position), Role.ACTIVATION)
    place = Access(y, (*map(Index.of, kept), Index((IndexTerm(out_m, inner[0]), IndexTerm(out_n)))))
    builder.add(
        f"{name}_kron", Kind.CONTRACTION, place, (builder.access(half), second), function="mul", reduce="sum",
        group="adapter",
    )  # fmt: skip
    read = Access(y, (*map(Index.of, kept), flat_index(builder, linear.output)))
    terms = (builder.access(output), read)
    return builder.pointwise(f"{name}_kron_add", f"{name}_adapted", terms, "scale_add", group="adapter")


def _flat(builder: LayerBuilder, linear: Linear) -> str:
    """The input of a module with one rank in the place of its inner ones."""
    name, kept = linear.name, linear.kept
    position = builder.rank(f"kron_x_{name}", builder.size(linear.inner))
    flat = builder.tensor(f"{name}_kron_x", (*kept, position), Role.ACTIVATION)
    place = Access(flat, (*map(Index.of, kept), flat_index(builder, linear.inner)))
    return builder.add(f"{name}_kron_flat", Kind.SCATTER, place, (linear.input,), group="adapter")
