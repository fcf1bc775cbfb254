"""Bottlenecks behind or beside modules: Houlsby, Pfeiffer, parallel, AdaptFormer, Compacter."""

from dataclasses import dataclass

from tilewright.dataflow.operator import Access, Index, IndexTerm
from tilewright.dataflow.tensor import Role
from tilewright.workloads.adapter_plan import AdapterError, Change, TunerPlan
from tilewright.workloads.builder import LayerBuilder, Linear


@dataclass(frozen=True)
class BottleneckPlan(TunerPlan):
    """A plan with `n_shared` trained numbers that all bottlenecks share."""

    n_shared: int = 0

    def prelude(self, builder: LayerBuilder) -> str | None:
        if self.n_shared:
            builder.note_adapter("bottleneck_rule", self.n_shared)
        return None


@dataclass(frozen=True, slots=True)
class Bottleneck(Change):
    """h + U function(D h + c) + e behind a module (arXiv 1902.00751), or, `beside` a network, added to its
    result and made of its input (arXiv 2110.04366, 2205.13535); D has `rank` rows.

    A network begins with the module that is none of `ends` and ends with one of them.
    """

    rank: int
    function: str
    beside: bool
    ends: tuple[str, ...] = ()

    def before(self, builder: LayerBuilder, linear: Linear) -> Linear:
        if self.beside and not self._is_end(linear):
            self._branch(
                builder, linear.input, linear.kept, linear.inner, _PARALLEL, builder.full_path("adapter")
            )
        return linear

    def after(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        name = linear.name
        if not self.beside:
            path = f"{builder.full_path(linear.module)}.adapter"
            terms = (builder.access(output), linear.kept, linear.output)
            added = self._branch(builder, *terms, f"{name}_bottleneck", path)
        elif self._is_end(linear) and builder.has(f"{_PARALLEL}_out"):
            added = f"{_PARALLEL}_out"
        else:
            return output
        sums = (builder.access(output), builder.access(added))
        return builder.pointwise(
            f"{name}_bottleneck_add", f"{name}_adapted", sums, "scale_add", group="adapter"
        )

    def _is_end(self, linear: Linear) -> bool:
        return linear.module in self.ends

    def _branch(
        self,
        builder: LayerBuilder,
        x: Access,
        kept: tuple[str, ...],
        width: tuple[str, ...],
        name: str,
        path: str,
    ) -> str:
        """U function(D x + c) + e, ranked as `kept` and `width`."""
        rank = builder.rank(f"r_{name}", self.rank)
        down, up = self._weights(builder, name, path, width, rank)
        low = builder.contraction(f"{name}_down", f"{name}_low", (*kept, rank), (x, down), "adapter")
        offset = builder.access(builder.adapter_weight(f"{name}_c", (rank,), f"{path}.down.bias"))
        terms = (builder.access(low), offset)
        low = builder.pointwise(f"{name}_down_bias", f"{name}_shifted", terms, "add", group="adapter")
        source = (builder.access(low),)
        opened = builder.pointwise(
            f"{name}_function", f"{name}_opened", source, self.function, group="adapter"
        )
        factors = (builder.access(opened), up)
        raised = builder.contraction(f"{name}_up", f"{name}_raised", (*kept, *width), factors, "adapter")
        offset = builder.access(builder.adapter_weight(f"{name}_e", width, f"{path}.up.bias"))
        terms = (builder.access(raised), offset)
        return builder.pointwise(f"{name}_up_bias", f"{name}_out", terms, "add", group="adapter")

    def _weights(
        self, builder: LayerBuilder, name: str, path: str, width: tuple[str, ...], rank: str
    ) -> tuple[Access, Access]:
        """D[width, rank] and U[rank, width]."""
        return (
            builder.access(builder.adapter_weight(f"{name}_d", (*width, rank), f"{path}.down.weight")),
            builder.access(builder.adapter_weight(f"{name}_u", (rank, *width), f"{path}.up.weight")),
        )


#: The name of the branch beside a network: there is one in a layer.
_PARALLEL = "parallel_bottleneck"


@dataclass(frozen=True, slots=True)
class KroneckerBottleneck(Change):
    """Compacter: a bottleneck behind a module whose D and U are sums over i < `n` of A_i kron (s_i t_i), A_i
    [n, n] shared by all, s_i and t_i of rank `q` (arXiv 2106.04647).

    The reference makes both matrices at each call; hardware multiplies by the factors one after the other.
    """

    rank: int
    function: str
    n: int
    q: int

    def after(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        name, path = f"{linear.name}_bottleneck", f"{builder.full_path(linear.module)}.adapter"
        width = builder.size(linear.output)
        for number in (width, self.rank):
            if number % self.n:
                raise AdapterError(f"n {self.n} does not divide the {number} numbers of {path}")
        rank = builder.rank(f"r_{name}", self.rank)
        kept = linear.kept
        x = builder.access(output)
        low = self._product(builder, f"{name}_down", path + ".down", x, kept, (linear.output, (rank,)))
        opened = builder.pointwise(
            f"{name}_function", f"{name}_opened", (builder.access(low),), self.function, group="adapter"
        )
        source = builder.access(opened)
        raised = self._product(builder, f"{name}_up", path + ".up", source, kept, ((rank,), linear.output))
        sums = (builder.access(output), builder.access(raised))
        return builder.pointwise(f"{name}_add", f"{linear.name}_adapted", sums, "scale_add", group="adapter")

    def _product(
        self, builder: LayerBuilder, name: str, path: str, x: Access, kept: tuple[str, ...],
        widths: tuple[tuple[str, ...], tuple[str, ...]],
    ) -> str:  # fmt: skip
        """The matrix of `path` times x over the first of the widths, plus a trained offset over the second."""
        inner, outer = widths
        n_in, n_out = builder.size(inner) // self.n, builder.size(outer) // self.n
        sizes = {"i": self.n, "a": self.n, "b": self.n, "k": self.q, "c": n_in, "p": n_out}
        i, a, b, k, c, p = (builder.rank(f"{name}_{key}", size) for key, size in sizes.items())
        left = builder.adapter_weight(f"{name}_s", (i, p, k), f"{path}.s")
        right = builder.adapter_weight(f"{name}_t", (i, k, c), f"{path}.t")
        if not builder.has(f"{name}_rule"):
            builder.trained.append(builder.input(f"{name}_rule", (i, a, b), Role.ADAPTER))
        rule = builder.access(f"{name}_rule")
        factors = (builder.access(left), builder.access(right), rule)
        make = self._made if builder.run.lowering == "reference" else self._factored
        y = make(builder, name, x, kept, (inner, outer), factors)
        offset = builder.access(builder.adapter_weight(f"{name}_offset", outer, f"{path}.bias"))
        terms = (builder.access(y), offset)
        return builder.pointwise(f"{name}_bias", f"{name}_out", terms, "add", group="adapter")

    def _made(
        self, builder: LayerBuilder, name: str, x: Access, kept: tuple[str, ...],
        widths: tuple[tuple[str, ...], tuple[str, ...]], factors: tuple[Access, Access, Access],
    ) -> str:  # fmt: skip
        """The whole matrix, then one product."""
        inner, outer = widths
        left, right, rule = factors
        i, a, b, c, p = (f"{name}_{key}" for key in "iabcp")
        blocks = builder.contraction(f"{name}_blocks", f"{name}_block", (i, p, c), (left, right), "adapter")
        matrix = builder.contraction(
            f"{name}_kron", f"{name}_matrix", (b, c, a, p), (rule, builder.access(blocks)), "adapter"
        )
        read = Access(matrix, (*_split(builder, inner, self.n), *_split(builder, outer, self.n)))
        return builder.contraction(f"{name}", f"{name}_product", (*kept, *outer), (x, read), "adapter")

    def _factored(
        self, builder: LayerBuilder, name: str, x: Access, kept: tuple[str, ...],
        widths: tuple[tuple[str, ...], tuple[str, ...]], factors: tuple[Access, Access, Access],
    ) -> str:  # fmt: skip
        """t, then A, then s; x is read in n chunks."""
        inner, outer = widths
        left, right, rule = factors
        i, a, b, k, c, p = (f"{name}_{key}" for key in "iabkcp")
        flat = builder.size(inner) // self.n
        chunked = Access(x.tensor, (*map(Index.of, kept), Index((IndexTerm(b, flat), IndexTerm(c)))))
        low = builder.contraction(
            f"{name}_t_product", f"{name}_z", (*kept, i, k, b), (chunked, right), "adapter"
        )
        mixed = builder.contraction(
            f"{name}_rule_product", f"{name}_w", (*kept, i, k, a), (builder.access(low), rule), "adapter"
        )
        parts = (builder.access(mixed), left)
        parts_out = builder.contraction(f"{name}_s_product", f"{name}_parts", (*kept, a, p), parts, "adapter")
        source = (Access(parts_out, (*map(Index.of, kept), *_split(builder, outer, self.n))),)
        return builder.pointwise(
            f"{name}_join", f"{name}_product", source, "identity", ranks=(*kept, *outer), group="adapter"
        )


def _split(builder: LayerBuilder, ranks: tuple[str, ...], n: int) -> tuple[Index, Index]:
    """(chunk, place in it) of the position in one rank, cut into n chunks."""
    (rank,) = ranks
    size = builder.size(ranks) // n
    return Index((IndexTerm(rank, 1, size),)), Index((IndexTerm(rank), IndexTerm(rank, -size, size)))
