"""Invertible bottlenecks at the table of tokens and before the output head (MAD-X, arXiv 2005.00052)."""

from dataclasses import dataclass, replace

from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.adapter_plan import AdapterError, Change, LayerChanges, TunerPlan
from tilewright.workloads.builder import LayerBuilder, Linear, Module

#: Where the parameters lie: the way in and the way out share them.
_PATH = "invertible_adapter"


@dataclass(frozen=True, slots=True)
class Coupling(Change):
    """Both halves of a row: e1 += F(e2), then e2 += G(e1); before a head e2 -= G(e1), then e1 -= F(e2).

    F and G are bottlenecks U function(D x + c) + e of `rank` rows; they are one and the same on both ends.
    """

    rank: int
    function: str

    def embedding(self, builder: LayerBuilder, table: str, tokens: str, output: str) -> str:
        output = self._moved(builder, builder.access(output), "F", first=True, function="add")
        return self._moved(builder, builder.access(output), "G", first=False, function="add")

    def before(self, builder: LayerBuilder, linear: Linear) -> Linear:
        output = self._moved(builder, linear.input, "G", first=False, function="sub")
        output = self._moved(builder, builder.access(output), "F", first=True, function="sub")
        return replace(linear, input=builder.access(output))

    def _moved(self, builder: LayerBuilder, x: Access, key: str, *, first: bool, function: str) -> str:
        """x with one half changed by the bottleneck of the other one; the other half stays in place."""
        width = builder.size((x.ranks[-1],))
        if width % 2:
            raise AdapterError(f"an invertible bottleneck needs halves of the width {width}")
        half, rank = builder.rank("invertible_h", width // 2), builder.rank("invertible_r", self.rank)
        inner = builder.rank("invertible_i", width // 2)
        name, kept, outer = f"invertible_{key.lower()}", x.ranks[:-1], x.indices[:-1]
        own, other = (
            Index((IndexTerm(r),), 0 if low else width // 2) for r, low in ((half, first), (inner, not first))
        )
        weights = {
            part: self._weight(builder, key, part, ranks)
            for part, ranks in {
                "down.weight": (inner, rank), "down.bias": (rank,), "up.weight": (rank, half), "up.bias": (half,),
            }.items()
        }  # fmt: skip
        factors = (Access(x.tensor, (*outer, other)), weights["down.weight"])
        low = builder.contraction(f"{name}_down", f"{name}_low", (*kept, rank), factors, "adapter")
        terms = (builder.access(low), weights["down.bias"])
        low = builder.pointwise(f"{name}_down_bias", f"{name}_shifted", terms, "add", group="adapter")
        source = (builder.access(low),)
        opened = builder.pointwise(
            f"{name}_function", f"{name}_opened", source, self.function, group="adapter"
        )
        factors = (builder.access(opened), weights["up.weight"])
        raised = builder.contraction(f"{name}_up", f"{name}_raised", (*kept, half), factors, "adapter")
        terms = (builder.access(raised), weights["up.bias"])
        update = builder.pointwise(f"{name}_up_bias", f"{name}_out", terms, "add", group="adapter")
        moved = builder.tensor(f"{name}_moved", x.ranks, Role.ACTIVATION)
        place = Access(moved, (*map(Index.of, kept), own))
        sums = (Access(x.tensor, (*outer, own)), builder.access(update))
        builder.add(f"{name}_{function}", Kind.SCATTER, place, sums, function=function, group="adapter")
        return moved

    def _weight(self, builder: LayerBuilder, key: str, part: str, ranks: tuple[str, ...]) -> Access:
        """A trained tensor, noted as a parameter by the way in alone."""
        name, path = f"invertible_{key}_{part}".lower().replace(".", "_"), f"{_PATH}.{key}.{part}"
        if builder.path or builder.name == "head":
            builder.trained.append(builder.input(name, ranks, Role.ADAPTER))
            return builder.access(name)
        return builder.access(builder.adapter_weight(name, ranks, path))


@dataclass(frozen=True)
class CouplingPlan(TunerPlan):
    """The coupling behind the table of tokens, its inverse before a head that gives tokens."""

    coupling: Coupling = Coupling(1, "relu")

    def resolve(self, modules: tuple[Module, ...], layer: int | None) -> LayerChanges:
        if layer is not None:
            return LayerChanges((), self.trained)
        tables = [module.path for module in modules if module.kind == "embedding"][:1]
        heads = [module.path for module in modules if module.is_head]
        return LayerChanges(tuple((path, self.coupling) for path in (*tables, *heads)), self.trained)
