"""Compulsory traffic: touched elements of live-ins once, results once."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tests.dataflow_graphs import graphs
from tilewright.dataflow.cascade import load_cascade, parse_cascade
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind, Mask, Operator
from tilewright.dataflow.passes_traffic import Traffic, compulsory_traffic_bytes
from tilewright.dataflow.tensor import Profile, Role, Tensor


def _reads(size: int, rank_size: int, indices: list[Index], mask: Mask | None = None) -> Graph:
    """Operators that each read the bytes of X[x] at one of `indices` in the rank i (and j)."""
    ranks = (("x", size), ("i", rank_size), ("j", 2))
    tensors = [Tensor("X", ("x",), "int8", Role.ACTIVATION)]
    operators = []
    for number, index in enumerate(indices):
        read = Access("X", (index,))
        tensors.append(Tensor(f"Y{number}", read.ranks, "int8", Role.ACTIVATION))
        output = Access.of(f"Y{number}", *read.ranks)
        operators.append(Operator(f"o{number}", Kind.POINTWISE, output, (read,), mask=mask))
    outputs = tuple(tensor.name for tensor in tensors[1:])
    return Graph("g", ranks, tuple(tensors), tuple(operators), ("X",), outputs)


def test_a_linear_reads_inputs_and_weights_once_and_writes_its_result_once() -> None:
    graph = load_cascade("linear").bind({"t": 5, "o": 3, "i": 4}, {"weight": "int4", "activation": "int8"})
    assert compulsory_traffic_bytes(graph) == Traffic(
        5 * 4 + (3 * 4) // 2 + 2, 5 * 3
    )  # 3 int4 biases: 2 bytes


def test_both_forms_of_attention_have_the_same_compulsory_traffic() -> None:
    sizes = {"b": 2, "h": 4, "hkv": 2, "m": 3, "n": 7, "e": 4, "f": 6}
    three = compulsory_traffic_bytes(load_cascade("attention_three_pass").bind(sizes))
    # queries of 4 heads, keys and values of 2, two bytes each
    assert three == Traffic(2 * 2 * (4 * 3 * 4 + 2 * 7 * 4 + 2 * 7 * 6), 2 * 2 * 4 * 3 * 6)
    for tile in (1, 3, 7, 9):
        one = load_cascade("attention_one_pass").bind(sizes | {"n0": tile})
        assert compulsory_traffic_bytes(one) == three


def test_a_window_in_decode_reads_only_the_keys_under_it() -> None:
    text = """ranks m, n, e
offset c, w
in Q[m,e], K[n,e]
out S[m,n]
S[m,n] = Q * K where n <= m + c, n > m + c - w
"""
    sizes = {"m": 1, "n": 100, "e": 2, "c": 99, "w": 10}
    graph = parse_cascade(text, "text").bind(sizes, {"activation": "int8"})
    assert compulsory_traffic_bytes(graph).read_bytes == 2 + 10 * 2
    graph = parse_cascade(text, "text").bind(sizes | {"m": 3, "c": 97}, {"activation": "int8"})
    assert compulsory_traffic_bytes(graph).read_bytes == 3 * 2 + 12 * 2


def test_three_views_at_offsets_are_read_once_each_and_overlaps_only_once() -> None:
    apart = [Index((IndexTerm("i"),), offset) for offset in (0, 4, 8)]
    assert compulsory_traffic_bytes(_reads(12, 4, apart)).read_bytes == 12
    overlapping = [Index((IndexTerm("i"),), offset) for offset in (0, 2)]
    assert compulsory_traffic_bytes(_reads(12, 4, overlapping)).read_bytes == 6


VIEWS = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 5), st.booleans()), min_size=1, max_size=4
)


@given(st.integers(1, 8), VIEWS)
def test_touched_elements_are_those_that_enumeration_finds(
    size: int, views: list[tuple[int, int, int, bool]]
) -> None:
    indices, touched = [], set()
    for coefficient, divisor, offset, both in views:
        terms = [IndexTerm("i", coefficient, divisor)] + ([IndexTerm("j")] if both else [])
        indices.append(Index(tuple(terms), offset))
        for i, j in itertools.product(range(size), range(2)):
            touched.add(coefficient * (i // divisor) + offset + (j if both else 0))
    assert compulsory_traffic_bytes(_reads(40, size, indices)).read_bytes == len(touched)


@given(st.integers(1, 8), st.integers(-3, 9), st.integers(-9, 3), st.booleans())
def test_masked_elements_that_no_point_reads_are_not_counted(
    size: int, upper: int, lower: int, turned: bool
) -> None:
    # i is the mask's rank, or, turned, what the rank is set against; j has two positions
    pair = ("j", "i") if turned else ("i", "j")
    kept = set()
    for i, j in itertools.product(range(size), range(2)):
        if lower <= (j - i if turned else i - j) <= upper:
            kept.add(i)
    graph = _reads(40, size, [Index.of("i")], Mask(*pair, upper=upper, lower=lower))
    assert compulsory_traffic_bytes(graph).read_bytes == len(kept)


def _table(n_tokens: int, n_rows: int, head: bool) -> Graph:
    """Rows of E[v, d] selected by tokens[t]; with `head`, E is also the output head's weight."""
    tensors = [
        Tensor("tokens", ("t",), "int32", Role.INDEX), Tensor("E", ("v", "d"), "int8", Role.WEIGHT),
        Tensor("x", ("t", "d"), "int8", Role.ACTIVATION), Tensor("y", ("t", "v"), "int8", Role.ACTIVATION),
    ]  # fmt: skip
    row = Access("E", (Index(), Index.of("d")))
    operators = [Operator("rows", Kind.GATHER, Access.of("x", "t", "d"), (Access.of("tokens", "t"), row))]
    if head:
        reads = (Access.of("x", "t", "d"), Access.of("E", "v", "d"))
        operators.append(Operator("head", Kind.CONTRACTION, Access.of("y", "t", "v"), reads, "mul", "sum"))
    sizes = (("t", n_tokens), ("v", n_rows), ("d", 3))
    return Graph("g", sizes, tuple(tensors), tuple(operators), ("tokens", "E"), ("y" if head else "x",))


def test_a_gather_reads_a_row_per_index_and_at_most_all_rows() -> None:
    assert compulsory_traffic_bytes(_table(5, 100, head=False)).read_bytes == 5 * 4 + 5 * 3
    assert compulsory_traffic_bytes(_table(500, 100, head=False)).read_bytes == 500 * 4 + 100 * 3
    assert compulsory_traffic_bytes(_table(5, 100, head=True)).read_bytes == 5 * 4 + 100 * 3


def test_appending_to_a_cache_writes_the_new_rows_and_reading_it_reads_the_old_ones() -> None:
    tensors = (
        Tensor("past", ("p", "e"), "int8", Role.KV_CACHE), Tensor("new", ("m", "e"), "int8", Role.ACTIVATION),
        Tensor("cache", ("n", "e"), "int8", Role.KV_CACHE), Tensor("s", ("e",), "int8", Role.ACTIVATION),
    )  # fmt: skip
    rows = Access("cache", (Index((IndexTerm("m"),), 7), Index.of("e")))
    kept = Access("past", (Index(), Index.of("e")))
    append = Operator("append", Kind.SCATTER, rows, (kept, Access.of("new", "m", "e")))
    total = Operator(
        "total", Kind.REDUCTION, Access.of("s", "e"), (Access.of("cache", "n", "e"),), reduce="sum"
    )
    sizes = (("p", 7), ("m", 2), ("n", 9), ("e", 4))
    unread = Graph("g", sizes, tensors, (append,), ("past", "new"), ("cache",))
    assert compulsory_traffic_bytes(unread) == Traffic(2 * 4, 2 * 4)
    read = Graph("g", sizes, tensors, (append, total), ("past", "new"), ("cache", "s"))
    assert compulsory_traffic_bytes(read) == Traffic(2 * 4 + 7 * 4, 2 * 4 + 4)


@given(graphs())
def test_compulsory_traffic_is_at_most_the_live_tensors(graph: Graph) -> None:
    found = compulsory_traffic_bytes(graph)
    read = {access.tensor for operator in graph.operators for access in operator.inputs}
    assert found.read_bytes == sum(graph.n_bytes(name) for name in graph.inputs if name in read)
    assert found.write_bytes == sum(graph.n_bytes(name) for name in graph.outputs)


def test_a_rank_of_varying_size_counts_all_its_instances() -> None:
    ragged = Profile(((2, 3), (5, 1)))
    tensors = (Tensor("x", ("m",), "int8", Role.ACTIVATION), Tensor("y", ("m",), "int8", Role.ACTIVATION))
    copy = Operator("copy", Kind.POINTWISE, Access.of("y", "m"), (Access.of("x", "m"),))
    graph = Graph("g", (("m", ragged),), tensors, (copy,), ("x",), ("y",))
    assert compulsory_traffic_bytes(graph) == Traffic(2 * 3 + 5, 2 * 3 + 5)
