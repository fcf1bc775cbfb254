"""Passes to a new graph: what they conserve, and what they refuse by name."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataflow_graphs import graphs
from tests.dataflow_interpreter import Array, run_graph
from tilewright.dataflow.cascade import load_cascade, parse_cascade
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.passes import PassError, concat_graphs, prune_dead, rename_graph

ATTENTION = {"b": 1, "h": 2, "hkv": 1, "m": 3, "n": 6, "n0": 4, "e": 2, "f": 2}


def _macs(graph: Graph) -> int:
    return sum(graph.macs(operator) for operator in graph.operators)


def _values(graph: Graph) -> dict[str, Array]:
    rng = np.random.default_rng(3)
    shapes = {name: [graph.size(r) for r in graph.tensor_by_name[name].ranks] for name in graph.inputs}
    inputs = {name: rng.uniform(-1, 1, size=shape) for name, shape in shapes.items()}
    with np.errstate(all="ignore"):
        return run_graph(graph, inputs)


@given(graphs())
def test_pruning_keeps_live_outs_their_values_and_the_operators_they_need(graph: Graph) -> None:
    pruned = prune_dead(graph)
    assert pruned.outputs == graph.outputs
    assert set(pruned.operators) <= set(graph.operators)
    assert set(pruned.inputs) <= set(graph.inputs)
    read = {access.tensor for operator in pruned.operators for access in operator.inputs}
    assert all(operator.output.tensor in read | set(graph.outputs) for operator in pruned.operators)
    assert prune_dead(pruned) == pruned
    before = _values(graph)
    with np.errstate(all="ignore"):
        after = run_graph(pruned, {name: before[name] for name in pruned.inputs})
    for name in graph.outputs:
        np.testing.assert_array_equal(after[name], before[name])


def test_pruning_keeps_what_a_recurrence_reads_from_its_past() -> None:
    text = """ranks t
in X[t]
out Y[t]
iterate t
P[t] = Q[t-1] + X
Q[t] = exp(P) init 0
Z[t] = relu(X)
Y[t] = P * 2
"""
    graph = parse_cascade(text, "text").bind({"t": 4})
    assert [operator.name for operator in prune_dead(graph).operators] == ["P", "Q", "Y"]


@given(graphs(), st.text("ab", max_size=2))
def test_renaming_there_and_back_gives_the_same_graph(graph: Graph, prefix: str) -> None:
    tensors = {tensor.name: f"{tensor.name}'" for tensor in graph.tensors}
    ranks = {"m": "n", "n": "m"}
    renamed = rename_graph(graph, tensors=tensors, ranks=ranks, prefix=prefix)
    assert [operator.name for operator in renamed.operators] == [prefix + o.name for o in graph.operators]
    back = rename_graph(renamed, tensors={new: old for old, new in tensors.items()}, ranks=ranks)
    assert rename_graph(back, prefix="") == replace(
        graph, operators=tuple(replace(o, name=prefix + o.name) for o in graph.operators)
    )


def test_renaming_carries_masks_and_serial_ranks_along() -> None:
    graph = load_cascade("attention_one_pass").bind(ATTENTION)
    renamed = rename_graph(graph, ranks={"n": "s", "n1": "s1", "m": "q"})
    mask = renamed.operators[0].mask
    assert mask is not None
    assert (mask.rank, mask.of, mask.rank_parts) == ("s", "q", ("s1", "n0"))
    assert renamed.operators[0].serial_rank == "s1"
    assert _macs(renamed) == _macs(graph)


def test_renaming_refuses_unknown_names_and_names_that_would_meet() -> None:
    graph = load_cascade("linear").bind({"t": 2, "o": 3, "i": 4})
    with pytest.raises(PassError, match="graph 'linear' has no tensor 'Z' to rename"):
        rename_graph(graph, tensors={"Z": "A"})
    with pytest.raises(PassError, match="two ranks would be named 'i'"):
        rename_graph(graph, ranks={"o": "i"})


@given(graphs(), graphs())
def test_joined_graphs_have_the_work_and_the_live_ins_of_both(first: Graph, second: Graph) -> None:
    tensors = {tensor.name: f"{tensor.name}'" for tensor in second.tensors}
    other = rename_graph(second, tensors=tensors, prefix="second_")
    joined = concat_graphs("both", (first, other))
    assert _macs(joined) == _macs(first) + _macs(second)
    assert joined.inputs == first.inputs + other.inputs
    assert joined.outputs == first.outputs + other.outputs
    assert concat_graphs(first.name, (first,)) == first


def test_a_later_graph_reads_what_an_earlier_one_produced() -> None:
    sizes = {"t": 2, "o": 4, "i": 4}
    first = load_cascade("linear").bind(sizes, prefix="a_")
    second = rename_graph(load_cascade("linear").bind(sizes, prefix="b_"), tensors={"b_X": "a_Y"}, ranks={})
    with pytest.raises(PassError, match="tensor 'a_Y' of 'linear' differs from an earlier one"):
        concat_graphs("both", (first, second))  # a_Y is [t,o] there and [t,i] here
    second = rename_graph(second, ranks={"i": "o", "o": "p"})
    both = concat_graphs("both", (first, second))
    assert both.inputs == ("a_X", "a_W", "a_B", "b_W", "b_B")
    assert both.outputs == ("b_Y",)
    assert concat_graphs("both", (first, second), outputs=("a_Y", "b_Y")).outputs == ("a_Y", "b_Y")


def test_joining_refuses_sizes_and_names_that_differ() -> None:
    first = load_cascade("linear").bind({"t": 2, "o": 4, "i": 4})
    larger = load_cascade("linear").bind({"t": 3, "o": 4, "i": 4}, prefix="b_")
    with pytest.raises(PassError, match="rank 't' is 2 and in 'linear' 3"):
        concat_graphs("both", (first, larger))
    with pytest.raises(
        PassError, match=r"tensor 'Y\.dot' of 'linear' is read or produced by an earlier graph"
    ):
        concat_graphs("both", (first, first))
    renamed = rename_graph(first, tensors={tensor.name: f"{tensor.name}2" for tensor in first.tensors})
    with pytest.raises(PassError, match=r"operator 'Y\.dot' of 'linear' has the name of an earlier one"):
        concat_graphs("both", (first, renamed))
