"""Passes over a rank, by the count that is forced and not by how the text is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.dataflow.cascade import Cascade, load_cascade, parse_cascade
from tilewright.dataflow.passes import PassError
from tilewright.dataflow.passes_traversals import count_passes

SIZES = {"b": 1, "h": 4, "hkv": 2, "m": 3, "n": 8, "e": 2, "f": 2}
SCORES = """ranks m, n, e, f
in  Q[m,e], K[n,e], V[n,f]
out AV[m,f]
"""


def _cascade(text: str) -> Cascade:
    return parse_cascade(SCORES + text, "text")


def test_softmax_attention_takes_three_passes_over_its_keys_and_one_with_running_corrections() -> None:
    three, one = load_cascade("attention_three_pass"), load_cascade("attention_one_pass")
    assert (count_passes(three, "n"), count_passes(one, "n")) == (3, 1)
    assert [count_passes(three, rank) for rank in "bhmef"] == [1, 1, 1, 1, 1]
    assert count_passes(three.bind(SIZES), "n") == 3


@given(st.integers(1, 9), st.integers(1, 9))
def test_the_graph_has_the_passes_of_its_text_whatever_the_tile(n_keys: int, tile: int) -> None:
    cascade = load_cascade("attention_one_pass")
    graph = cascade.bind(SIZES | {"n": n_keys, "n0": tile})
    for rank in (*"bhmef", "n", "n0", "n1"):
        assert count_passes(graph, rank) == count_passes(cascade, rank)


def test_within_a_tile_the_maximum_and_the_sum_are_two_passes() -> None:
    assert count_passes(load_cascade("attention_one_pass"), "n0") == 2


def test_dividing_the_result_instead_of_the_shares_saves_a_pass() -> None:
    cascade = _cascade("""QK[m,n] = Q * K
GM[m]   = max[n] QK
P[m,n]  = exp(QK - GM)
D[m]    = sum[n] P
AV[m,f] = P * V / D
""")
    assert count_passes(cascade, "n") == 2


def test_tiles_of_their_own_maximum_merged_at_the_end_take_one_pass_over_the_keys() -> None:
    # a partial result per tile: the merge runs over tiles, which is no traversal of n
    cascade = _cascade(
        """split n -> n1, n0 : N0
QK[m,n1,n0] = Q[m,e] * K[(n1,n0),e]
LM[m,n1]    = max[n0] QK
P[m,n1,n0]  = exp(QK - LM)
LD[m,n1]    = sum[n0] P
LV[m,n1,f]  = P[m,n1,n0] * V[(n1,n0),f]
GM[m]       = max[n1] LM
C[m,n1]     = exp(LM - GM)
D[m]        = sum[n1] (LD * C)
N[m,f]      = sum[n1] (LV * C)
AV[m,f]     = N / D
""".replace("N[m,f] ", "T[m,f] ").replace("= N /", "= T /")
    )
    assert count_passes(cascade, "n") == 1
    assert count_passes(cascade.bind({"m": 2, "n": 6, "n0": 3, "e": 2, "f": 2}), "n") == 1
    assert count_passes(cascade, "n1") == 2


def test_two_softmaxes_in_a_row_take_their_passes_after_one_another() -> None:
    text = "ranks t, n\nin X[t,n]\nout Y[t,n]\nZ[t,n] = softmax[n] X\nY[t,n] = softmax[n] Z\n"
    # the first's division and the second's maximum share a pass: 3 + 3 - 1
    assert count_passes(parse_cascade(text, "text"), "n") == 5


def test_independent_reductions_share_a_pass() -> None:
    text = "ranks t, n\nin X[t,n]\nout Y[t]\nY[t] = max[n] X + sum[n] X\n"
    assert count_passes(parse_cascade(text, "text"), "n") == 1


def test_layer_normalisation_takes_three_passes_and_a_linear_one() -> None:
    assert count_passes(load_cascade("layernorm"), "d") == 3
    assert count_passes(load_cascade("linear"), "i") == 1


def test_a_value_taken_at_the_last_step_waits_for_the_recurrence() -> None:
    text = """ranks t, d
in X[t,d]
out Y[t,d]
iterate t
S[t,d] = S[t-1] + X init 0
F[d]   = S[last(t)] * 2
Y[t,d] = X / F
"""
    assert count_passes(parse_cascade(text, "text"), "t") == 2


def test_an_unknown_rank_is_refused_and_an_untouched_one_has_no_pass() -> None:
    cascade = load_cascade("linear")
    with pytest.raises(PassError, match="cascade 'linear' has no rank 'q'"):
        count_passes(cascade, "q")
    graph = load_cascade("attention_three_pass").bind(SIZES)
    with pytest.raises(PassError, match="graph 'attention_three_pass' has no rank 'q'"):
        count_passes(graph, "q")
    assert count_passes(graph, "hkv") == 0


def test_a_recurrence_along_another_rank_counts_the_traversals_of_a_step() -> None:
    text = """ranks t, d, j
in X[t,d], R[d,j]
out H[t,d]
iterate t
Z[t,d] = H[t-1,j] * R[d,j] + X
H[t,d] = tanh(Z) init 0
"""
    cascade = parse_cascade(text, "text")
    graph = cascade.bind({"t": 5, "d": 4, "j": 4})
    assert [count_passes(graph, rank) for rank in "tdj"] == [1, 1, 1]
    assert [count_passes(cascade, rank) for rank in "tdj"] == [1, 1, 1]
