"""Live footprint: hand-counted peaks, and bounds that hold for any graph."""

from hypothesis import given
from hypothesis import strategies as st

from tests.dataflow_graphs import graphs
from tilewright.dataflow.cascade import load_cascade, parse_cascade
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind, Operator
from tilewright.dataflow.passes_footprint import live_footprint_bytes
from tilewright.dataflow.passes_fusion import fuse_pointwise
from tilewright.dataflow.tensor import Role, Tensor

SIZES = {"b": 1, "h": 1, "hkv": 1, "m": 4, "e": 2, "f": 2}


def test_a_chain_holds_its_input_and_two_results_at_a_time() -> None:
    text = "ranks t\nin X[t]\nout C[t]\nA[t] = exp(X)\nB[t] = exp(A)\nC[t] = exp(B)\n"
    graph = parse_cascade(text, "text").bind({"t": 10}, {"activation": "int8", "B": "fp32"})
    found = live_footprint_bytes(graph)
    assert found.total_bytes == 10 + 40  # A and B (fp32) while B is made; X is dead by then
    assert found.at == ("B",)
    assert live_footprint_bytes(graph, plan=fuse_pointwise(graph)).total_bytes == 10 + 10


def test_scores_grow_with_the_keys_in_three_passes_and_not_in_one() -> None:
    def activations(name: str, n_keys: int) -> int:
        sizes = SIZES | {"n": n_keys} | ({"n0": 8} if name == "attention_one_pass" else {})
        graph = load_cascade(name).bind(sizes)
        return live_footprint_bytes(graph, frozenset({Role.ACTIVATION, Role.STATE})).total_bytes

    # scores and exponentials, 4 queries, 2 bytes each
    growth = activations("attention_three_pass", 1024) - activations("attention_three_pass", 512)
    assert growth == 2 * 4 * 512 * 2
    assert activations("attention_one_pass", 1024) == activations("attention_one_pass", 512)


def test_a_state_holds_as_many_steps_as_are_read_back() -> None:
    text = "ranks t, d\nin X[t,d]\nout Y[d]\niterate t\nS[t,d] = S[t-{back}] + X init 0\nY[d] = S[last(t)]\n"
    for back in (1, 3):
        graph = parse_cascade(text.replace("{back}", str(back)), "text").bind({"t": 100, "d": 5})
        assert live_footprint_bytes(graph, frozenset({Role.STATE})).total_bytes == (back + 1) * 5 * 2


def test_a_state_that_is_needed_at_every_step_is_held_in_full() -> None:
    text = "ranks t, d\nin X[t,d]\nout Y[d]\niterate t\nS[t,d] = S[t-1] + X init 0\nY[d] = sum[t] S\n"
    graph = parse_cascade(text, "text").bind({"t": 100, "d": 5})
    assert live_footprint_bytes(graph, frozenset({Role.STATE})).total_bytes == 100 * 5 * 2


def test_a_cache_that_a_scatter_extends_in_place_is_held_once() -> None:
    tensors = (
        Tensor("past", ("p", "e"), "int8", Role.KV_CACHE),
        Tensor("new", ("m", "e"), "int8", Role.ACTIVATION),
        Tensor("cache", ("n", "e"), "int8", Role.KV_CACHE),
    )
    rows = Access("cache", (Index((IndexTerm("m"),), 7), Index.of("e")))
    kept = Access("past", (Index(), Index.of("e")))
    append = Operator("append", Kind.SCATTER, rows, (kept, Access.of("new", "m", "e")))
    graph = Graph(
        "g", (("p", 7), ("m", 1), ("n", 8), ("e", 4)), tensors, (append,), ("past", "new"), ("cache",)
    )
    assert live_footprint_bytes(graph).total_bytes == 8 * 4 + 4


@given(graphs())
def test_the_peak_lies_between_the_largest_operator_and_all_tensors(graph: Graph) -> None:
    found = live_footprint_bytes(graph)
    sizes = {tensor.name: graph.n_bytes(tensor.name) for tensor in graph.tensors}
    for operator in graph.operators:
        touched = {access.tensor for access in (*operator.inputs, operator.output)}
        assert found.total_bytes >= sum(sizes[name] for name in touched)
    assert found.total_bytes <= sum(sizes.values())
    assert found.total_bytes >= sum(sizes[name] for name in graph.outputs)
    assert sum(n_bytes for _, n_bytes in found.by_role) == found.total_bytes


@given(graphs(), st.sampled_from(sorted(Role)))
def test_the_peak_of_one_role_is_at_most_the_peak_of_all(graph: Graph, role: Role) -> None:
    alone = live_footprint_bytes(graph, frozenset({role}))
    assert dict(live_footprint_bytes(graph).by_role).get(role, 0) <= alone.total_bytes
    assert alone.total_bytes <= live_footprint_bytes(graph).total_bytes
