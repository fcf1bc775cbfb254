"""Hypothesis strategies for small graphs, shared by the tests of passes."""

from hypothesis import strategies as st

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Kind, Operator
from tilewright.dataflow.tensor import Role, Tensor

SIZES = {"m": 3, "n": 4, "k": 2, "d": 5}
_UNARY = ("exp", "relu", "identity", "square")
_DTYPES = ("int4", "int8", "fp16")


@st.composite
def graphs(draw: st.DrawFn, n_operators: int = 7) -> Graph:
    """Contractions, reductions and pointwise operators that read what came before, of mixed types."""
    tensors: list[Tensor] = []

    def new_tensor(name: str, ranks: tuple[str, ...], role: Role = Role.ACTIVATION) -> Tensor:
        tensors.append(Tensor(name, ranks, draw(st.sampled_from(_DTYPES)), role))
        return tensors[-1]

    rank_sets = st.lists(st.sampled_from(sorted(SIZES)), unique=True, min_size=1, max_size=3).map(tuple)
    for number in range(draw(st.integers(2, 4))):
        new_tensor(f"in{number}", draw(rank_sets), draw(st.sampled_from([Role.ACTIVATION, Role.WEIGHT])))
    inputs = tuple(tensor.name for tensor in tensors)
    operators: list[Operator] = []
    for number in range(draw(st.integers(1, n_operators))):
        operator = draw(_operators(f"op{number}", tuple(tensors)))
        new_tensor(operator.output.tensor, operator.output.ranks)
        operators.append(operator)
    read = {access.tensor for operator in operators for access in operator.inputs}
    made = [operator.output.tensor for operator in operators]
    unread = [name for name in made if name not in read]
    outputs = tuple(draw(st.lists(st.sampled_from(made), unique=True, min_size=1)))
    keep_all = draw(st.booleans())
    return Graph(
        "random", tuple(SIZES.items()), tuple(tensors), tuple(operators), inputs,
        tuple(dict.fromkeys((*unread, *outputs))) if keep_all else outputs,
    )  # fmt: skip


@st.composite
def _operators(draw: st.DrawFn, name: str, tensors: tuple[Tensor, ...]) -> Operator:
    first = draw(st.sampled_from([tensor for tensor in tensors if tensor.ranks]))
    second = draw(st.sampled_from(tensors))
    kind = draw(st.sampled_from([Kind.CONTRACTION, Kind.REDUCTION, Kind.POINTWISE, Kind.POINTWISE]))
    output = f"{name}_out"
    if kind is Kind.POINTWISE and draw(st.booleans()):
        read = (Access.of(first.name, *first.ranks),)
        return Operator(
            name, kind, Access.of(output, *first.ranks), read, draw(st.sampled_from(_UNARY)), group="linear"
        )
    if kind is Kind.REDUCTION:
        gone = draw(st.sampled_from(first.ranks))
        kept = tuple(rank for rank in first.ranks if rank != gone)
        read = (Access.of(first.name, *first.ranks),)
        return Operator(
            name, kind, Access.of(output, *kept), read, reduce=draw(st.sampled_from(["max", "sum"]))
        )
    read = (Access.of(first.name, *first.ranks), Access.of(second.name, *second.ranks))
    ranks = tuple(dict.fromkeys((*first.ranks, *second.ranks)))
    if kind is Kind.POINTWISE:
        return Operator(name, kind, Access.of(output, *ranks), read, "add", group="linear")
    kept = ranks[: draw(st.integers(0, len(ranks) - 1))]
    return Operator(name, kind, Access.of(output, *kept), read, "mul", "sum", "linear")
