"""The cascades that come with Tilewright, evaluated in numpy against plain formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataflow_interpreter import Array, run_graph
from tilewright.dataflow.cascade import load_cascade, parse_cascade

SIZES = {"b": 2, "h": 4, "hkv": 2, "m": 3, "n": 7, "e": 5, "f": 6}


def _inputs(seed: int = 7, **shapes: tuple[int, ...]) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def _heads(sizes: dict[str, int], seed: int = 7) -> dict[str, Array]:
    b, h, g, m, n, e, f = (sizes[rank] for rank in ("b", "h", "hkv", "m", "n", "e", "f"))
    return _inputs(seed, Q=(b, h, m, e), K=(b, g, n, e), V=(b, g, n, f))


def _softmax(scores: Array) -> Array:
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def _attention(inputs: dict[str, Array], past: int) -> Array:
    """Plain causal attention; keys and values are repeated for the heads that share them."""
    query, key, value = inputs["Q"], inputs["K"], inputs["V"]
    shared = query.shape[1] // key.shape[1]
    key, value = np.repeat(key, shared, axis=1), np.repeat(value, shared, axis=1)
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1])
    n_queries, n_keys = scores.shape[-2:]
    ahead = np.arange(n_keys)[None, :] > np.arange(n_queries)[:, None] + past
    return _softmax(np.where(ahead, -np.inf, scores)) @ value


@pytest.mark.parametrize("past", [0, 4, 7])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_three_passes_equal_plain_attention(kv_heads: int, past: int) -> None:
    sizes = SIZES | {"hkv": kv_heads}
    inputs = _heads(sizes)
    graph = load_cascade("attention_three_pass").bind(sizes | {"c": past})
    np.testing.assert_allclose(run_graph(graph, inputs)["AV"], _attention(inputs, past), rtol=1e-12)


@given(
    st.integers(1, 3), st.sampled_from([(4, 1), (4, 2), (2, 2)]), st.integers(1, 5), st.integers(1, 9),
    st.integers(1, 10), st.integers(0, 9),
)  # fmt: skip
def test_one_pass_equals_plain_attention_for_any_tile_and_offset(
    batch: int, heads: tuple[int, int], n_queries: int, n_keys: int, tile: int, past: int
) -> None:
    sizes = {"b": batch, "h": heads[0], "hkv": heads[1], "m": n_queries, "n": n_keys, "e": 3, "f": 2}
    inputs = _heads(sizes, seed=tile)
    graph = load_cascade("attention_one_pass").bind(sizes | {"n0": tile, "c": past})
    np.testing.assert_allclose(run_graph(graph, inputs)["AV"], _attention(inputs, past), rtol=1e-10)


def test_scores_that_overflow_an_exponential_stay_finite_in_both_forms() -> None:
    inputs = {name: value * 40 for name, value in _heads(SIZES).items()}
    three = run_graph(load_cascade("attention_three_pass").bind(SIZES), inputs)["AV"]
    one = run_graph(load_cascade("attention_one_pass").bind(SIZES | {"n0": 2}), inputs)["AV"]
    assert np.isfinite(three).all()
    np.testing.assert_allclose(one, three, rtol=1e-10)


def test_without_an_offset_the_queries_are_the_last_of_the_keys() -> None:
    inputs = _heads(SIZES)
    graph = load_cascade("attention_one_pass").bind(SIZES | {"n0": 3})
    np.testing.assert_allclose(run_graph(graph, inputs)["AV"], _attention(inputs, 7 - 3), rtol=1e-12)


def test_a_window_that_leaves_whole_tiles_empty_equals_masked_attention() -> None:
    text = """
ranks   m, n, e, f
offset  w = 2
in      Q[m,e], K[n,e], V[n,f]
out     AV[m,f]
split   n -> n1, n0 : N0
iterate n1
QK[m,n1,n0]  = Q[m,e] * K[(n1,n0),e]               where n <= m, n > m - w
RM[m,n1]     = max(RM[n1-1], max[n0] QK)           init lowest
SLN[m,n1,n0] = exp(QK - RM)
PRM[m,n1]    = exp(RM[n1-1] - RM)
RD[m,n1]     = RD[n1-1] * PRM + sum[n0] SLN        init 0
RNV[m,n1,f]  = RNV[n1-1] * PRM + sum[n0] (SLN * V[(n1,n0),f])   init 0
AV[m,f]      = RNV[last(n1)] / RD[last(n1)]
"""
    inputs = _inputs(Q=(8, 3), K=(8, 3), V=(8, 4))
    graph = parse_cascade(text, "window").bind({"m": 8, "n": 8, "n0": 2, "e": 3, "f": 4})
    scores = inputs["Q"] @ inputs["K"].T
    distance = np.arange(8)[None, :] - np.arange(8)[:, None]
    kept = (distance <= 0) & (distance > -2)
    expected = _softmax(np.where(kept, scores, -np.inf)) @ inputs["V"]
    np.testing.assert_allclose(run_graph(graph, inputs)["AV"], expected, rtol=1e-12)
    assert sum(graph.macs(operator) for operator in graph.operators) == (1 + 2 * 7) * (3 + 4)


def test_an_adapter_kept_apart_equals_the_merged_weight() -> None:
    inputs = _inputs(X=(3, 5), W=(4, 5), A=(2, 5), B=(4, 2))
    graph = load_cascade("lora").bind({"t": 3, "o": 4, "i": 5, "r": 2, "alpha": 32})
    merged = inputs["W"] + 32 / 2 * inputs["B"] @ inputs["A"]
    np.testing.assert_allclose(run_graph(graph, inputs)["Y"], inputs["X"] @ merged.T, rtol=1e-12)


def test_softmax_linear_and_layernorm_equal_their_formulas() -> None:
    inputs = _inputs(X=(3, 5), W=(4, 5), B=(4,), G=(5,), S=(5,))
    x = inputs["X"]
    softmax = load_cascade("softmax").bind({"t": 3, "n": 5})
    np.testing.assert_allclose(run_graph(softmax, {"X": x})["Y"], _softmax(x), rtol=1e-12)
    linear = load_cascade("linear").bind({"t": 3, "o": 4, "i": 5})
    affine = {name: inputs[name] for name in "XWB"}
    np.testing.assert_allclose(run_graph(linear, affine)["Y"], x @ inputs["W"].T + inputs["B"], rtol=1e-12)
    norm = load_cascade("layernorm").bind({"t": 3, "d": 5, "eps": 0.1})
    shifted = x - x.mean(axis=1, keepdims=True)
    scale = 1 / np.sqrt(x.var(axis=1, keepdims=True) + 0.1)
    read = {name: inputs[name] for name in "XGS"}
    np.testing.assert_allclose(
        run_graph(norm, read)["Y"], shifted * scale * inputs["G"] + inputs["S"], rtol=1e-12
    )


def test_queries_in_tiles_as_well_equal_plain_attention() -> None:
    text = """
ranks   m, n, e, f
offset  c = N - M
in      Q[m,e], K[n,e], V[n,f]
out     AV[m1,m0,f]
split   n -> n1, n0
split   m -> m1, m0
iterate n1
QK[m1,m0,n1,n0]  = Q[(m1,m0),e] * K[(n1,n0),e] / sqrt(E)                where (n1,n0) <= (m1,m0) + c
RM[m1,m0,n1]     = max(RM[n1-1], max[n0] QK)                            init lowest
SLN[m1,m0,n1,n0] = exp(QK - RM)
PRM[m1,m0,n1]    = exp(RM[n1-1] - RM)
RD[m1,m0,n1]     = RD[n1-1] * PRM + sum[n0] SLN                         init 0
RNV[m1,m0,n1,f]  = RNV[n1-1] * PRM + sum[n0] (SLN * V[(n1,n0),f])       init 0
AV[m1,m0,f]      = RNV[last(n1)] / RD[last(n1)]
"""
    inputs = _inputs(Q=(6, 3), K=(10, 3), V=(10, 4))
    graph = parse_cascade(text, "tiled").bind({"m": 6, "n": 10, "m0": 3, "n0": 4, "e": 3, "f": 4})
    found = run_graph(graph, inputs)["AV"].reshape(6, 4)
    heads = {name: value[None, None] for name, value in inputs.items()}
    np.testing.assert_allclose(found, _attention(heads, 4)[0, 0], rtol=1e-12)
    assert sum(graph.macs(operator) for operator in graph.operators) == (5 + 6 + 7 + 8 + 9 + 10) * (3 + 4)


def test_a_recurrence_through_a_product_equals_a_loop() -> None:
    text = """
ranks   t, d, j, i
in      X[t,i], U[d,i], R[d,j]
out     H[t,d]
iterate t
Z[t,d]  = X * U + H[t-1,j] * R[d,j]
H[t,d]  = tanh(Z)                       init 0.5
"""
    inputs = _inputs(X=(6, 3), U=(4, 3), R=(4, 4))
    graph = parse_cascade(text, "rnn").bind({"t": 6, "d": 4, "j": 4, "i": 3})
    state = np.full(4, 0.5)
    for step in range(6):
        state = np.tanh(inputs["U"] @ inputs["X"][step] + inputs["R"] @ state)
        np.testing.assert_allclose(run_graph(graph, inputs)["H"][step], state, rtol=1e-12)
    # the product with the state stays a contraction and is counted as one
    assert sum(graph.macs(operator) for operator in graph.operators) == 6 * 4 * (3 + 4)


def test_linear_attention_by_a_state_equals_its_masked_square() -> None:
    text = """
ranks   t, e, f
param   decay = 0.9
in      Q[t,e], K[t,e], V[t,f]
out     O[t,f]
iterate t
KV[t,e,f] = K[t,e] * V[t,f]
S[t,e,f]  = decay * S[t-1] + KV     init 0
O[t,f]    = Q[t,e] * S[t,e,f]
"""
    inputs = _inputs(Q=(6, 3), K=(6, 3), V=(6, 2))
    graph = parse_cascade(text, "retention").bind({"t": 6, "e": 3, "f": 2})
    distance = np.arange(6)[:, None] - np.arange(6)[None, :]
    weights = np.where(distance >= 0, 0.9 ** np.maximum(distance, 0), 0) * (inputs["Q"] @ inputs["K"].T)
    np.testing.assert_allclose(run_graph(graph, inputs)["O"], weights @ inputs["V"], rtol=1e-12)


def test_a_causal_convolution_equals_numpy() -> None:
    text = "ranks t, k\nin U[t], F[k]\nout C[t]\nC[t] = U[t-k] * F[k] where k <= t\n"
    inputs = _inputs(U=(9,), F=(4,))
    graph = parse_cascade(text, "conv").bind({"t": 9, "k": 4})
    np.testing.assert_allclose(
        run_graph(graph, inputs)["C"], np.convolve(inputs["U"], inputs["F"])[:9], rtol=1e-12
    )
