"""What a cascade costs at given sizes, in one value."""

from collections.abc import Mapping
from dataclasses import dataclass

from tilewright.dataflow.cascade import Cascade
from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Kind
from tilewright.dataflow.passes import PassError
from tilewright.dataflow.passes_footprint import Footprint, live_footprint_bytes
from tilewright.dataflow.passes_fusion import fuse_pointwise
from tilewright.dataflow.passes_traffic import Traffic, compulsory_traffic_bytes
from tilewright.dataflow.passes_traversals import count_passes
from tilewright.dataflow.tensor import Role


@dataclass(frozen=True, slots=True)
class TensorSummary:
    """A tensor of the text; `direction` is "in", "out" or "" for an intermediate."""

    name: str
    ranks: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    role: Role
    direction: str


@dataclass(frozen=True, slots=True)
class OperatorSummary:
    """An operator: `points` are those of its iteration space that are computed."""

    name: str
    kind: Kind
    function: str
    reduce: str
    group: str
    points: int
    macs: int


@dataclass(frozen=True, slots=True)
class CascadeSummary:
    """Counts of a bound cascade.

    `evaluations`: points of pointwise operators and scans by function. `reductions`: points by what
    reduces them. `moves`: elements that data pick, by kind. `passes`: traversals by rank. `footprint` is
    the peak of live tensors unfused, with `fused_footprint` pointwise operators ride on what makes their
    input; `traffic` is compulsory.
    """

    name: str
    ranks: tuple[tuple[str, int], ...]
    tensors: tuple[TensorSummary, ...]
    operators: tuple[OperatorSummary, ...]
    macs: int
    evaluations: tuple[tuple[str, int], ...]
    reductions: tuple[tuple[str, int], ...]
    moves: tuple[tuple[str, int], ...]
    passes: tuple[tuple[str, int], ...]
    footprint: Footprint
    fused_footprint: Footprint
    traffic: Traffic

    @property
    def exponentials(self) -> int:
        """Evaluations of exp."""
        return dict(self.evaluations).get("exp", 0)


def describe_cascade(cascade: Cascade, ranks: Mapping[str, int | float]) -> CascadeSummary:
    """Sizes, counts, passes and footprint of `cascade` bound to `ranks` (see `Cascade.bind`).

    Raises InputError as `bind` does, and for a recurrence or an index that cannot be followed.
    """
    graph = cascade.bind(ranks)
    try:
        return describe_graph(cascade, graph)
    except PassError as error:
        raise InputError(f"{cascade.name}: {error}") from None


def describe_graph(cascade: Cascade, graph: Graph) -> CascadeSummary:
    """The summary of a graph that `cascade` was bound to. Raises PassError where a pass does not apply."""
    evaluations: dict[str, int] = {}
    reductions: dict[str, int] = {}
    moves: dict[str, int] = {}
    for operator in graph.operators:
        points = graph.n_points(operator)
        if operator.kind in (Kind.POINTWISE, Kind.SCAN):
            evaluations[operator.function] = evaluations.get(operator.function, 0) + points
        elif operator.kind is Kind.REDUCTION:
            reductions[operator.reduce] = reductions.get(operator.reduce, 0) + points
        elif operator.kind is Kind.GATHER:
            moves[operator.kind.value] = moves.get(operator.kind.value, 0) + points
    passes = ((rank, count_passes(graph, rank)) for rank in cascade.ranks)
    return CascadeSummary(
        cascade.name,
        tuple((rank, graph.size(rank)) for rank in cascade.ranks),
        _tensors(cascade, graph),
        tuple(
            OperatorSummary(o.name, o.kind, o.function, o.reduce, o.group, graph.n_points(o), graph.macs(o))
            for o in graph.operators
        ),
        sum(graph.macs(operator) for operator in graph.operators),
        tuple(sorted(evaluations.items())),
        tuple(sorted(reductions.items())),
        tuple(sorted(moves.items())),
        tuple((rank, count) for rank, count in passes if count),
        live_footprint_bytes(graph),
        live_footprint_bytes(graph, plan=fuse_pointwise(graph)),
        compulsory_traffic_bytes(graph),
    )


def _tensors(cascade: Cascade, graph: Graph) -> tuple[TensorSummary, ...]:
    """The tensors of the text, live-ins first, in the text's order."""
    found = []
    for name in cascade.tensors:
        tensor = graph.tensor_by_name[name]
        shape = tuple(graph.size(rank) for rank in tensor.ranks)
        direction = "in" if name in graph.inputs else "out" if name in graph.outputs else ""
        found.append(TensorSummary(name, tensor.ranks, shape, tensor.dtype, tensor.role, direction))
    return tuple(found)
