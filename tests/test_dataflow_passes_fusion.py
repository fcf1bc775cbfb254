"""Fusion plans: every operator once, in an order that runs, and no reduction over tiles hidden."""

from hypothesis import given

from tests.dataflow_graphs import graphs
from tilewright.dataflow.cascade import load_cascade, parse_cascade
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Kind
from tilewright.dataflow.passes_fusion import FusionPlan, fuse_pointwise, unfused


def _operator(graph: Graph, name: str) -> Kind:
    return next(operator.kind for operator in graph.operators if operator.name == name)


@given(graphs())
def test_every_operator_stands_in_one_group_and_groups_run_in_order(graph: Graph) -> None:
    plan = fuse_pointwise(graph)
    assert sorted(name for group in plan.groups for name in group) == sorted(o.name for o in graph.operators)
    done = set(graph.inputs)
    by_name = {operator.name: operator for operator in graph.operators}
    for group in plan.groups:
        for name in group:
            assert all(access.tensor in done for access in by_name[name].inputs)
            done.add(by_name[name].output.tensor)


@given(graphs())
def test_only_pointwise_operators_and_reductions_ride_and_nothing_rides_on_a_reduction(graph: Graph) -> None:
    plan = fuse_pointwise(graph)
    for group in plan.groups:
        kinds = [_operator(graph, name) for name in group]
        assert set(kinds[1:]) <= {Kind.POINTWISE, Kind.REDUCTION}
        made_here = {
            operator.output.tensor: operator for operator in graph.operators if operator.name in group
        }
        for operator in made_here.values():
            for access in operator.inputs:
                if access.tensor in made_here:
                    source = made_here[access.tensor]
                    assert source.kind is not Kind.REDUCTION
                    assert set(operator.ranks) == set(source.output.ranks)


@given(graphs())
def test_internal_tensors_are_read_by_their_own_group_alone(graph: Graph) -> None:
    plan = fuse_pointwise(graph)
    for name in plan.internal_tensors(graph):
        group = plan.group_of(graph.producer[name].name)
        assert {reader.name for reader in graph.consumers[name]} <= set(group)
        assert name not in graph.outputs
    assert unfused(graph).internal_tensors(graph) == frozenset()


def test_softmax_attention_fuses_into_its_three_passes() -> None:
    graph = load_cascade("attention_three_pass").bind(
        {"b": 1, "h": 2, "hkv": 2, "m": 3, "n": 4, "e": 2, "f": 2}
    )
    assert fuse_pointwise(graph).groups == (
        ("QK", "A.max"), ("A.sub", "A.exp", "A.sum"), ("A",), ("AV",),
    )  # fmt: skip


def test_the_epilogue_of_a_linear_rides_on_it_up_to_the_statistics_of_the_next_norm() -> None:
    text = """ranks t, d, i
in X[t,i], W[d,i] : weight, B[d] : weight, R[t,d]
out Y[t,d]
P[t,d] = X * W
Q[t,d] = gelu(P + B) + R
M[t]   = mean[d] Q
Y[t,d] = Q - M
"""
    graph = parse_cascade(text, "text").bind({"t": 2, "d": 3, "i": 4})
    plan = fuse_pointwise(graph)
    assert plan.groups == (("P", "Q.add", "Q.gelu", "Q", "M"), ("Y",))
    assert plan.internal_tensors(graph) == {"P", "Q.add", "Q.gelu"}


def test_an_operator_that_spreads_a_row_over_a_new_rank_does_not_ride() -> None:
    text = "ranks t, d, i\nin X[t,i], W[i] : weight, R[t,d]\nout Y[t,d]\nP[t] = X * W\nY[t,d] = P * R\n"
    graph = parse_cascade(text, "text").bind({"t": 2, "d": 3, "i": 4})
    assert fuse_pointwise(graph) == FusionPlan((("P",), ("Y",)))
