"""The cascades that come with Tilewright: their results against plain numpy, their costs against formulas."""

from collections.abc import Mapping

import numpy as np
import pytest

from tests.dataflow_interpreter import Array, run_graph
from tilewright.dataflow.cascade import cascade_names, load_cascade
from tilewright.dataflow.cascade_summary import CascadeSummary, describe_cascade
from tilewright.dataflow.tensor import Role

Sizes = Mapping[str, int | float]
SHIPPED = {
    "attention_one_pass", "attention_three_pass", "attention_two_pass", "block_sparse", "convolution_mixer",
    "cross_attention_decoupled", "gqa", "layernorm", "linear", "linear_attention", "linear_attention_causal",
    "linear_attention_chunked", "lora", "mha", "mla_absorbed", "mla_expanded", "mqa", "pooling_mixer",
    "retention_chunked", "retention_parallel", "retention_recurrent", "selective_scan",
    "shifted_window_attention", "sliding_window", "softmax", "window_attention",
}  # fmt: skip


def _random(name: str, sizes: Sizes, seed: int = 3) -> dict[str, Array]:
    """Normal numbers for every live-in of a cascade."""
    graph = load_cascade(name).bind(sizes)
    rng = np.random.default_rng(seed)
    return {
        tensor: rng.normal(size=[graph.size(rank) for rank in graph.tensor_by_name[tensor].ranks])
        for tensor in graph.inputs
    }


def _run(name: str, sizes: Sizes, inputs: Mapping[str, Array]) -> Array:
    graph = load_cascade(name).bind(sizes)
    found = run_graph(graph, inputs)[graph.outputs[0]]
    assert np.isfinite(found).all()
    return found


def _cost(name: str, sizes: Sizes) -> CascadeSummary:
    return describe_cascade(load_cascade(name), sizes)


def _softmax(scores: Array) -> Array:
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def _masked(scores: Array, kept: Array) -> Array:
    return _softmax(np.where(kept, scores, -np.inf))


def _distance(n_queries: int, n_keys: int, past: int) -> Array:
    """Position of the query less that of the key."""
    return np.arange(n_queries)[:, None] + past - np.arange(n_keys)[None, :]


def _positive(x: Array) -> Array:
    """elu(x) + 1."""
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def test_all_that_is_shipped_is_named_here_and_says_in_a_line_what_it_is() -> None:
    assert set(cascade_names()) == SHIPPED
    for name in SHIPPED:
        summary = load_cascade(name).summary
        assert 30 < len(summary) <= 110, name
        assert summary.endswith("."), name


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_shipped_cascade_is_bound_without_any_size(name: str) -> None:
    found = _cost(name, {})
    held = [
        int(np.prod(t.shape)) * (4 if t.role is Role.INDEX else 2)
        for t in found.tensors
        if t.direction == "in"
    ]
    made = sum(2 * int(np.prod(t.shape)) for t in found.tensors if t.direction == "out")
    assert found.traffic.write_bytes == made
    assert max(held) <= found.footprint.total_bytes
    assert found.traffic.read_bytes <= sum(held)


# Softmax attention

ATTENTION = {"b": 2, "h": 4, "m": 3, "n": 7, "e": 5, "f": 6}
PAIRS = 5 + 6 + 7  # keys that the queries 0..2 see behind 4 cached tokens


@pytest.mark.parametrize(
    ("name", "kv_heads"), [("mha", 4), ("mqa", 1), ("gqa", 2), ("attention_two_pass", 2)]
)
@pytest.mark.parametrize("past", [4, 7])
def test_attention_with_fewer_heads_of_keys_repeats_them(name: str, kv_heads: int, past: int) -> None:
    sizes = ATTENTION | {"c": past} | ({"hkv": 2} if kv_heads == 2 else {})
    inputs = _random(name, sizes)
    key, value = (inputs[x].reshape(2, kv_heads, 7, -1).repeat(4 // kv_heads, axis=1) for x in "KV")
    scores = np.einsum("bhme,bhne->bhmn", inputs["Q"], key) / np.sqrt(5)
    expected = np.einsum("bhmn,bhnf->bhmf", _masked(scores, _distance(3, 7, past) >= 0), value)
    np.testing.assert_allclose(_run(name, sizes, inputs), expected, rtol=1e-12)


@pytest.mark.parametrize(("name", "kv_heads"), [("mha", 4), ("mqa", 1), ("gqa", 2)])
def test_fewer_heads_of_keys_cost_the_same_products_and_less_cache(name: str, kv_heads: int) -> None:
    found = _cost(name, ATTENTION | ({"hkv": 2} if kv_heads == 2 else {}))
    assert found.macs == 2 * 4 * PAIRS * (5 + 6)
    assert found.exponentials == 2 * 4 * PAIRS
    assert dict(found.evaluations)["div"] == 2 * 4 * PAIRS
    cache = sum(int(np.prod(t.shape)) for t in found.tensors if t.role.value == "kv_cache")
    assert cache == 2 * kv_heads * 7 * (5 + 6)


def test_the_worked_numbers_of_a_layer_of_4096_tokens_come_out() -> None:
    """s = 4096, 16 heads of 64: 2 s^2 d = 34.36 GMAC and h s^2 = 268.4 M exponentials where all is seen."""
    layer = {"h": 16, "m": 4096, "e": 64, "f": 64}
    full = _cost("mha", layer | {"c": 4096})
    assert (full.macs, full.exponentials) == (2 * 4096**2 * 1024, 16 * 4096**2)
    causal = 4096 * 4097 // 2
    assert _cost("gqa", layer | {"hkv": 4}).macs == 2 * causal * 1024
    window = 1024 * 1025 // 2 + 3072 * 1024
    slide = _cost("sliding_window", layer | {"w": 1024})
    assert (slide.macs, slide.exponentials) == (2 * window * 1024, 16 * window)
    linear = _cost("linear_attention", layer)
    assert linear.macs - 16 * 4096 * 64 == 2 * 4096 * 1024 * 64  # beside the denominators: 0.54 GMAC
    scan = _cost("selective_scan", {"t": 4096, "i": 2048, "n": 16})
    assert scan.exponentials == 4096 * 2048 * 16  # 134.2 M
    mixer = _cost("convolution_mixer", {"y": 64, "x": 64, "d": 1024})
    assert mixer.macs == 49 * 4096 * 1024  # 0.21 GMAC
    tiles = {"y": 64, "x": 64, "y0": 16, "x0": 16, "h": 16, "e": 64}
    assert _cost("window_attention", tiles).macs == 2 * 4096 * 256 * 1024  # 2.15 GMAC


def test_deferred_division_divides_results_and_not_shares() -> None:
    found = _cost("attention_two_pass", ATTENTION)
    assert dict(found.evaluations)["div"] == 2 * 4 * 3 * 6
    assert dict(found.passes)["n"] == 2


def test_a_sliding_window_equals_attention_under_a_band() -> None:
    sizes = ATTENTION | {"w": 3}
    inputs = _random("sliding_window", sizes)
    scores = np.einsum("bhme,bhne->bhmn", inputs["Q"], inputs["K"]) / np.sqrt(5)
    distance = _distance(3, 7, 4)
    shares = _masked(scores, (distance >= 0) & (distance < 3))
    expected = np.einsum("bhmn,bhnf->bhmf", shares, inputs["V"])
    np.testing.assert_allclose(_run("sliding_window", sizes, inputs), expected, rtol=1e-12)
    found = _cost("sliding_window", sizes)
    assert (found.macs, found.exponentials) == (2 * 4 * 9 * (5 + 6), 2 * 4 * 9)  # 3 queries of 3 keys
    assert found.traffic.read_bytes == 2 * 2 * 4 * (3 * 5 + 5 * (5 + 6))  # keys 2..6 of 7, two bytes each


# Latent attention

LATENT = {"b": 2, "h": 3, "m": 2, "n": 4, "d": 6, "r": 2, "e": 5, "f": 4}


def _latent(inputs: Mapping[str, Array]) -> Array:
    key = np.einsum("bnd,hed->bhne", inputs["C"], inputs["UK"])
    value = np.einsum("bnd,hfd->bhnf", inputs["C"], inputs["UV"])
    query = np.concatenate([inputs["Q"], inputs["QR"]], axis=-1)
    rotary = np.broadcast_to(inputs["KR"][:, None], (2, 3, 4, 2))
    scores = query @ np.concatenate([key, rotary], axis=-1).swapaxes(-1, -2) / np.sqrt(5 + 2)
    return _masked(scores, _distance(2, 4, 2) >= 0) @ value


@pytest.mark.parametrize("name", ["mla_absorbed", "mla_expanded"])
def test_both_forms_of_latent_attention_equal_attention_over_expanded_keys(name: str) -> None:
    inputs = _random(name, LATENT)
    np.testing.assert_allclose(_run(name, LATENT, inputs), _latent(inputs), rtol=1e-10)


def test_absorbing_moves_products_from_keys_to_queries() -> None:
    pairs = 2 * 3 * (3 + 4)  # batch, heads, keys that both queries see
    absorbed, expanded = _cost("mla_absorbed", LATENT), _cost("mla_expanded", LATENT)
    # queries into the latent space and results out of it; scores and values over 2 d + r
    assert absorbed.macs == 2 * 3 * 2 * 6 * (5 + 4) + pairs * (2 * 6 + 2)
    # every key and value expanded; scores over e + r, values over f
    assert expanded.macs == 2 * 3 * 4 * 6 * (5 + 4) + pairs * (5 + 2 + 4)
    assert absorbed.exponentials == expanded.exponentials == pairs
    cache = [t.shape for t in absorbed.tensors if t.role.value == "kv_cache"]
    assert cache == [(2, 4, 6), (2, 4, 2)]


# Sparse patterns


def test_block_sparse_attention_sees_just_the_blocks_of_its_list() -> None:
    sizes = {"b": 2, "h": 4, "hkv": 2, "m1": 3, "m0": 2, "n1": 5, "n0": 3, "j": 2, "e": 4, "f": 5}
    inputs = _random("block_sparse", sizes)
    rng = np.random.default_rng(5)
    blocks = np.array([[rng.permutation(5)[:2] for _ in range(3)] for _ in range(4)])
    inputs["BLOCK"] = blocks.astype(np.float64)
    query = inputs["Q"].reshape(2, 4, 6, 4)
    key, value = (inputs[x].reshape(2, 2, 15, -1).repeat(2, axis=1) for x in "KV")
    kept = np.zeros((4, 6, 15), dtype=bool)
    for head in range(4):
        for token in range(6):
            for block in blocks[head, token // 2]:
                kept[head, token, 3 * block : 3 * block + 3] = True
    expected = _masked(query @ key.swapaxes(-1, -2) / 2.0, kept) @ value
    found = _run("block_sparse", sizes, inputs).reshape(2, 4, 6, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    cost = _cost("block_sparse", sizes)
    pairs = 2 * 4 * 6 * (2 * 3)
    assert (cost.macs, cost.exponentials) == (pairs * (4 + 5), pairs)
    assert dict(cost.moves) == {"gather": 2 * 4 * 3 * 2 * 3 * (4 + 5)}


WINDOWS = {"b": 2, "y": 6, "x": 4, "y0": 3, "x0": 2, "h": 2, "e": 3, "f": 4}


def _windows(image: Array) -> Array:
    """[b, y, x, h, c] to [b, windows, h, tokens of a window, c]."""
    b, _, _, h, c = image.shape
    tiles = image.reshape(b, 2, 3, 2, 2, h, c).transpose(0, 1, 3, 5, 2, 4, 6)
    return tiles.reshape(b, 4, h, 6, c)


def _bias(table: Array) -> Array:
    """[h, tokens, tokens] from one number for every offset of rows and columns."""
    place = [(y, x) for y in range(3) for x in range(2)]
    return np.array([[[head[y - v + 2, x - u + 1] for v, u in place] for y, x in place] for head in table])


def _image(windows: Array) -> Array:
    b, _, h, _, c = windows.shape
    tiles = windows.reshape(b, 2, 2, h, 3, 2, c).transpose(0, 1, 4, 2, 5, 3, 6)
    return tiles.reshape(b, 6, 4, h, c)


def test_window_attention_attends_within_windows_under_a_relative_bias() -> None:
    inputs = _random("window_attention", WINDOWS)
    query, key, value = (_windows(inputs[x]) for x in "QKV")
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(3) + _bias(inputs["BIAS"])
    expected = _image(_softmax(scores) @ value)
    found = _run("window_attention", WINDOWS, inputs)  # b y1 x1 h y0 x0 f
    found = found.transpose(0, 1, 4, 2, 5, 3, 6).reshape(2, 6, 4, 2, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    cost, pairs = _cost("window_attention", WINDOWS), 2 * 2 * (6 * 4) * (3 * 2)
    assert (cost.macs, cost.exponentials) == (pairs * (3 + 4), pairs)


def test_shifted_windows_equal_rolled_images_under_a_mask_of_regions() -> None:
    inputs = _random("shifted_window_attention", WINDOWS)
    regions = np.zeros((6, 4))
    for number, rows in enumerate((slice(0, -3), slice(-3, -1), slice(-1, None))):
        for other, columns in enumerate((slice(0, -2), slice(-2, -1), slice(-1, None))):
            regions[rows, columns] = 3 * number + other
    region = _windows(regions[None, :, :, None, None])[0, :, 0, :, 0]
    apart = np.where(region[:, :, None] == region[:, None, :], 0.0, -100.0)  # [windows, tokens, tokens]
    inputs["MASK"] = apart.reshape(2, 2, 3, 2, 3, 2)
    query, key, value = (_windows(np.roll(inputs[x], (-1, -1), (1, 2))) for x in "QKV")
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(3) + _bias(inputs["BIAS"]) + apart[None, :, None]
    expected = np.roll(_image(_softmax(scores) @ value), (1, 1), (1, 2))
    found = _run("shifted_window_attention", WINDOWS, inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    cost, pairs = _cost("shifted_window_attention", WINDOWS), 2 * 2 * (6 * 4) * (3 * 2)
    assert (cost.macs, cost.exponentials) == (pairs * (3 + 4), pairs)
    assert dict(cost.evaluations)["identity"] == 2 * 24 * 2 * (3 + 3 + 4 + 4)  # what the rolls move


@pytest.mark.parametrize("shift", [1, 2, 4, 5])
def test_any_roll_is_undone(shift: int) -> None:
    sizes = WINDOWS | {"k": shift, "l": shift % 4}
    inputs = _random("shifted_window_attention", sizes)
    query, key, value = (_windows(np.roll(inputs[x], (-shift, -(shift % 4)), (1, 2))) for x in "QKV")
    mask = inputs["MASK"].reshape(4, 6, 6)
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(3) + _bias(inputs["BIAS"]) + mask[None, :, None]
    expected = np.roll(_image(_softmax(scores) @ value), (shift, shift % 4), (1, 2))
    np.testing.assert_allclose(_run("shifted_window_attention", sizes, inputs), expected, rtol=1e-10)


# Linear attention and retention

KERNEL = {"b": 2, "h": 2, "e": 3, "f": 4}


def _kernel_attention(inputs: Mapping[str, Array], causal: bool) -> Array:
    scores = _positive(inputs["Q"]) @ _positive(inputs["K"]).swapaxes(-1, -2)
    if causal:
        scores = np.tril(scores)
    return scores @ inputs["V"] / scores.sum(axis=-1, keepdims=True)


def test_linear_attention_equals_its_square() -> None:
    sizes = KERNEL | {"m": 5, "n": 7}
    inputs = _random("linear_attention", sizes)
    expected = _kernel_attention(inputs, causal=False)
    np.testing.assert_allclose(_run("linear_attention", sizes, inputs), expected, rtol=1e-12)
    cost = _cost("linear_attention", sizes)
    assert cost.macs == 2 * 2 * (7 * 3 * 4 + 5 * 3 * 4 + 5 * 3)  # K V, Q S, denominators
    assert cost.exponentials == 2 * 2 * (5 + 7) * 3
    assert dict(cost.evaluations)["div"] == 2 * 2 * 5 * 4


def test_causal_linear_attention_equals_its_square_by_state_and_by_chunk() -> None:
    sizes = KERNEL | {"t": 6}
    inputs = _random("linear_attention_causal", sizes)
    expected = _kernel_attention(inputs, causal=True)
    np.testing.assert_allclose(_run("linear_attention_causal", sizes, inputs), expected, rtol=1e-12)
    for chunk in (1, 2, 3, 6):
        found = _run("linear_attention_chunked", sizes | {"t0": chunk}, inputs)
        np.testing.assert_allclose(found.reshape(2, 2, 6, 4), expected, rtol=1e-10)


def test_the_costs_of_causal_linear_attention_by_state_and_by_chunk() -> None:
    token = _cost("linear_attention_causal", KERNEL | {"t": 6})
    rows, evaluations = 2 * 2 * 6, dict(token.evaluations)
    assert token.macs == rows * (3 * 4 + 3)  # query with the state, with the sum of keys
    assert evaluations["mul"] == rows * 3 * 4  # key times value
    assert token.exponentials == rows * 2 * 3
    chunked = _cost("linear_attention_chunked", KERNEL | {"t": 6, "t0": 3})
    triangle = 2 * 2 * 2 * 6  # two chunks of 1 + 2 + 3 pairs
    assert chunked.macs == triangle * (3 + 4) + rows * (2 * 3 * 4 + 3)
    assert chunked.exponentials == token.exponentials
    states = {t.name: t.shape for t in token.tensors if t.role.value == "state"}
    assert states == {"S": (2, 2, 6, 3, 4), "Z": (2, 2, 6, 3)}


def test_three_forms_of_retention_give_one_result() -> None:
    sizes, decay = KERNEL | {"t": 6}, np.array([0.9, 0.5])
    inputs = _random("retention_recurrent", sizes) | {"L": decay}
    distance = _distance(6, 6, 0)
    weights = np.where(distance >= 0, decay[:, None, None] ** np.maximum(distance, 0), 0)
    expected = (inputs["Q"] @ inputs["K"].swapaxes(-1, -2) * weights) @ inputs["V"]
    np.testing.assert_allclose(_run("retention_recurrent", sizes, inputs), expected, rtol=1e-12)
    powers = decay[:, None] ** np.arange(7)
    square = inputs | {"L": powers[:, :6]}
    found = _run("retention_parallel", KERNEL | {"m": 6, "n": 6}, square)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    for chunk in (1, 2, 3, 6):
        chunked = inputs | {"L": powers[:, : chunk + 1]}
        found = _run("retention_chunked", sizes | {"t0": chunk}, chunked)
        np.testing.assert_allclose(found.reshape(2, 2, 6, 4), expected, rtol=1e-10)


def test_the_costs_of_three_forms_of_retention() -> None:
    square = _cost("retention_parallel", KERNEL | {"m": 6, "n": 6})
    assert square.macs == 2 * 2 * 21 * (3 + 4)
    assert dict(square.evaluations) == {"mul": 2 * 2 * 21}
    state = _cost("retention_recurrent", KERNEL | {"t": 6})
    rows = 2 * 2 * 6
    assert state.macs == rows * 3 * 4
    assert dict(state.evaluations) == {"mul": rows * 2 * 3 * 4, "add": rows * 3 * 4}
    chunked = _cost("retention_chunked", KERNEL | {"t": 6, "t0": 3})
    assert chunked.macs == 2 * 2 * 2 * 6 * (3 + 4) + rows * 2 * 3 * 4
    assert square.exponentials == state.exponentials == chunked.exponentials == 0


def test_the_selective_scan_equals_a_loop_over_tokens() -> None:
    sizes = {"b": 2, "t": 5, "i": 3, "n": 4}
    inputs = _random("selective_scan", sizes)
    step = np.log1p(np.exp(inputs["DT"] + inputs["BIAS"]))
    state, expected = np.zeros((2, 3, 4)), np.zeros((2, 5, 3))
    for t in range(5):
        decay = np.exp(step[:, t, :, None] * inputs["A"])
        state = decay * state + (step[:, t] * inputs["U"][:, t])[:, :, None] * inputs["BT"][:, t, None, :]
        expected[:, t] = (state * inputs["CT"][:, t, None, :]).sum(axis=-1) + inputs["D"] * inputs["U"][:, t]
    expected *= inputs["Z"] / (1 + np.exp(-inputs["Z"]))
    np.testing.assert_allclose(_run("selective_scan", sizes, inputs), expected, rtol=1e-12)
    cost, channels = _cost("selective_scan", sizes), 2 * 5 * 3
    evaluations = dict(cost.evaluations)
    assert cost.macs == channels * 4  # C H
    assert cost.exponentials == channels * 4
    # with the state: step A, decay H, input B; per channel: step u, D u, the gate
    assert evaluations["mul"] == channels * (3 * 4 + 3)
    assert (evaluations["softplus"], evaluations["silu"]) == (channels, channels)


# Cross-attention and mixers


def test_decoupled_cross_attention_adds_two_softmaxes_of_one_query() -> None:
    sizes = {"b": 2, "h": 2, "m": 3, "n": 5, "i": 2, "e": 4, "f": 3, "scale": 0.6}
    inputs = _random("cross_attention_decoupled", sizes)

    def attend(key: Array, value: Array) -> Array:
        return _softmax(inputs["Q"] @ key.swapaxes(-1, -2) / 2.0) @ value

    expected = attend(inputs["K"], inputs["V"]) + 0.6 * attend(inputs["KI"], inputs["VI"])
    np.testing.assert_allclose(_run("cross_attention_decoupled", sizes, inputs), expected, rtol=1e-12)
    cost = _cost("cross_attention_decoupled", sizes)
    assert (cost.macs, cost.exponentials) == (2 * 2 * 3 * (5 + 2) * (4 + 3), 2 * 2 * 3 * (5 + 2))


def test_the_pooling_mixer_leaves_neighbours_outside_of_the_image_out_of_the_mean() -> None:
    sizes = {"b": 2, "y": 4, "x": 5, "d": 3}
    inputs = _random("pooling_mixer", sizes)
    image, expected = inputs["T"], np.zeros((2, 4, 5, 3))
    for y in range(4):
        for x in range(5):
            near = image[:, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            expected[:, y, x] = near.mean(axis=(1, 2)) - image[:, y, x]
    np.testing.assert_allclose(_run("pooling_mixer", sizes, inputs), expected, rtol=1e-10, atol=1e-12)
    cost = _cost("pooling_mixer", sizes)
    assert (cost.macs, cost.exponentials) == (0, 0)
    assert dict(cost.reductions) == {"mean": 9 * 2 * 4 * 5 * 3}


def test_the_convolution_mixer_finds_zeros_around_the_image() -> None:
    sizes = {"b": 2, "y": 4, "x": 5, "d": 3, "i": 3}
    inputs = _random("convolution_mixer", sizes)
    around = np.pad(inputs["T"], ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.zeros((2, 4, 5, 3)) + inputs["BIAS"]
    for i in range(3):
        for j in range(3):
            expected += around[:, i : i + 4, j : j + 5] * inputs["W"][:, i, j]
    np.testing.assert_allclose(_run("convolution_mixer", sizes, inputs), expected, rtol=1e-10, atol=1e-12)
    assert _cost("convolution_mixer", sizes).macs == 9 * 2 * 4 * 5 * 3
