"""Graphs: what is refused, and what is counted."""

import pytest

from tilewright.dataflow.graph import Graph, GraphError
from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind, Mask, Operator
from tilewright.dataflow.tensor import Profile, Role, Tensor

RANKS = (("m", 3), ("n", 7), ("k", 2), ("n1", 2), ("n0", 4))


def _tensor(name: str, *ranks: str, dtype: str = "int8") -> Tensor:
    return Tensor(name, ranks, dtype, Role.ACTIVATION)


def _product(name: str = "product", output: str = "y", mask: Mask | None = None) -> Operator:
    inputs = (Access.of("x", "m", "k"), Access.of("w", "n", "k"))
    return Operator(name, Kind.CONTRACTION, Access.of(output, "m", "n"), inputs, mask=mask)


def _graph(*operators: Operator, outputs: tuple[str, ...] = ("y",)) -> Graph:
    tensors = (_tensor("x", "m", "k"), _tensor("w", "n", "k"), _tensor("y", "m", "n"))
    return Graph("g", RANKS, tensors, operators, ("x", "w"), outputs)


def test_a_product_counts_one_multiply_accumulate_a_point() -> None:
    assert _graph(_product()).macs(_product()) == 3 * 7 * 2


def test_a_masked_product_counts_only_the_points_under_the_mask() -> None:
    masked = _product(mask=Mask("n", "m", upper=4))
    assert _graph(masked).macs(masked) == (5 + 6 + 7) * 2


def test_a_mask_over_a_split_rank_cuts_the_tail_of_the_last_tile() -> None:
    # n = 7 in tiles of 4: eight positions are iterated over, seven are computed
    inputs = (Access.of("x", "m", "k"),)
    output = Access("y", (Index.of("m"), Index((IndexTerm("n1", 4), IndexTerm("n0")))))
    whole = Operator("o", Kind.POINTWISE, output, inputs, mask=Mask("n", "", rank_parts=("n1", "n0")))
    assert _graph(whole).n_points(whole) == 3 * 7 * 2
    causal = Operator("o", Kind.POINTWISE, output, inputs, mask=Mask("n", "m", 4, None, ("n1", "n0")))
    assert _graph(causal).n_points(causal) == (5 + 6 + 7) * 2


def test_a_profile_counts_the_sum_over_its_instances_and_sizes_the_largest() -> None:
    ragged = Profile(((2, 3), (5, 1)))
    graph = Graph(
        "g",
        (("m", ragged), ("n", 7), ("k", 2)),
        _graph(_product()).tensors,
        (_product(),),
        ("x", "w"),
        ("y",),
    )
    assert graph.macs(_product()) == (2 * 3 + 5) * 7 * 2
    assert graph.n_elements("x") == 5 * 2


def test_bytes_are_rounded_up_to_whole_ones() -> None:
    graph = Graph("g", (("m", 3),), (_tensor("x", "m", dtype="int4"),), (), ("x",))
    assert graph.n_bytes("x") == 2


def test_a_step_may_read_what_an_earlier_step_wrote_but_nothing_else_ahead() -> None:
    tensors = (_tensor("x", "n1"), _tensor("y", "n1"))
    past = Access("y", (Index((IndexTerm("n1"),), -1),))
    scan = Operator(
        "scan", Kind.SCAN, Access.of("y", "n1"), (past, Access.of("x", "n1")), "add", serial_rank="n1"
    )
    graph = Graph("g", RANKS, tensors, (scan,), ("x",), ("y",))
    assert list(graph.to_networkx().edges) == []
    ahead = Access("y", (Index((IndexTerm("n1"),), 1),))
    for wrong in (ahead, Access.of("y", "n1")):
        step = Operator("scan", Kind.SCAN, Access.of("y", "n1"), (wrong,), "add", serial_rank="n1")
        with pytest.raises(GraphError, match="reads 'y' before it is produced"):
            Graph("g", RANKS, tensors, (step,), ("x",), ("y",))


@pytest.mark.parametrize(
    ("operators", "outputs", "message"),
    [
        ((_product(), _product("again")), ("y",), "writes 'y' again"),
        ((_product(), _product()), ("y",), "name is used twice"),
        ((_product(output="z"),), ("y",), "'z' is not declared"),
        ((), ("y",), "output 'y' is never produced"),
    ],
)
def test_a_graph_that_is_not_well_formed_is_refused_by_name(
    operators: tuple[Operator, ...], outputs: tuple[str, ...], message: str
) -> None:
    with pytest.raises(GraphError, match=message):
        _graph(*operators, outputs=outputs)
