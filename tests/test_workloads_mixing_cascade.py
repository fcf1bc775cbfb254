"""A model's attention by a cascade: the same products, the model's mask and scale, refusals by name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.dataflow_interpreter import Array, run_graph
from tilewright.api import Design, count, load_workload, simulate
from tilewright.cli import run
from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access
from tilewright.workloads.workload import Workload

FULL = ("attention_three_pass", "attention_two_pass", "gqa", "one_pass")


def _load(attention: str, model: str = "tiny-gpt2", **terms: object) -> Workload:
    return load_workload(model, attention=attention, **{"seq": 24, **terms})  # type: ignore[arg-type]


def _flops(workload: Workload) -> int:
    return count(workload).flops_attention_bmm


@pytest.mark.parametrize("lowering", ["reference", "hardware"])
@pytest.mark.parametrize(
    ("model", "terms"),
    [
        ("tiny-gpt2", {}), ("mistral-7b-v0.1", {"seq": 100}), ("bert-base-uncased", {}),
        ("tiny-gpt2", {"phase": "decode", "seq": 1, "cache": 9}),
    ],
)  # fmt: skip
def test_full_attention_by_a_cascade_has_the_products_of_the_model(
    model: str, terms: dict[str, object], lowering: str
) -> None:
    expected = _flops(_load("three_pass", model, lowering=lowering, **terms))
    assert expected > 0
    for attention in FULL:
        assert _flops(_load(attention, model, lowering=lowering, **terms)) == expected, attention


def test_a_window_of_the_text_leaves_keys_out_and_its_width_is_stated_by_name() -> None:
    workload = _load("sliding_window", dims={"w": 4})
    layer = next(one for one in workload.network if "QK" in one.graph.producer)
    heads, width = layer.graph.size("h"), layer.graph.size("e")
    pairs = 1 + 2 + 3 + 4 * 21
    assert _flops(workload) == 2 * 2 * layer.count * heads * width * pairs
    assert _flops(_load("sliding_window", dims={"w": 4}, lowering="reference")) == _flops(
        _load("three_pass", lowering="reference")
    )


def _attention_part(workload: Workload) -> Graph:
    """The operators of one layer's attention as a graph of their own."""
    graph = next(one for one in workload.network if "QK" in one.graph.producer).graph
    operators = tuple(op for op in graph.operators if op.group == "attention")
    written = {op.output.tensor for op in operators}
    read = {access.tensor for op in operators for access in op.inputs} - written
    tensors = tuple(t for t in graph.tensors if t.name in written | read)
    return replace(
        graph, tensors=tensors, operators=operators, inputs=tuple(sorted(read)), outputs=("mixed",)
    )


def _rows(graph: Graph, access: Access, ranks: tuple[str, ...], inputs: dict[str, Array]) -> Array:
    """What an access reads, with an axis for each of `ranks`."""
    place = dict(zip(ranks, np.indices([graph.size(rank) for rank in ranks]), strict=True))
    where = [
        np.asarray(index.offset + sum(t.coefficient * (place[t.rank] // t.divisor) for t in index.terms))
        for index in access.indices
    ]
    shape = tuple(graph.size(rank) for rank in ranks)
    return inputs[access.tensor][tuple(np.broadcast_to(one, shape) for one in where)]


@pytest.mark.parametrize("attention", ["attention_two_pass", "one_pass", "gqa"])
def test_the_attention_of_a_layer_equals_plain_numpy(attention: str) -> None:
    graph = _attention_part(_load(attention, seq=5, phase="prefill", cache=0, batch=2))
    rng = np.random.default_rng(2)
    shapes = {t.name: [graph.size(rank) for rank in t.ranks] for t in graph.tensors}
    inputs = {name: rng.normal(size=shapes[name]) for name in graph.inputs}
    score = graph.producer["QK"]
    query, key = score.inputs
    value = next(
        access
        for op in graph.operators
        for access in op.inputs
        if access.tensor in inputs and op.name != "QK"
    )
    tokens = tuple(rank for rank in key.ranks if rank.startswith("n"))
    q = _rows(graph, query, ("b", "h", "m", "e"), inputs)
    k = _rows(graph, key, ("b", "h", *tokens, "e"), inputs).reshape(*q.shape[:2], 5, -1)
    v = _rows(graph, value, ("b", "h", *tokens, "f"), inputs).reshape(*q.shape[:2], 5, -1)
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    scores = np.where(np.tri(5, dtype=bool), scores, -np.inf)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    expected = (shares / shares.sum(axis=-1, keepdims=True)) @ v
    found = run_graph(graph, inputs)["mixed"]
    np.testing.assert_allclose(found, expected.transpose(0, 2, 1, 3), rtol=1e-10)


def test_a_text_of_the_users_runs_on_hardware_and_generates(tmp_path: Path) -> None:
    file = tmp_path / "capped.cascade"
    file.write_text(
        "ranks b, h, hkv, m, n, e, f\nindex g(h) = h / (H / HKV)\noffset c = N - M\nparam cap = 50\n"
        "in Q[b,h,m,e], K[b,hkv,n,e], V[b,hkv,n,f]\nout AV[b,h,m,f]\n"
        "QK[b,h,m,n] = Q * K[b,g(h),n,e] / sqrt(E) where n <= m + c\n"
        "capped[b,h,m,n] = cap * tanh(QK / cap)\n"
        "A[b,h,m,n] = softmax[n] capped\nAV[b,h,m,f] = A * V[b,g(h),n,f]\n",
        encoding="utf-8",
    )
    workload = _load(str(file), dims={"cap": 30})
    report = simulate(workload, Design("sequential", "u280", {}))
    assert report.latency_cycles >= report.bound_cycles
    assert _flops(workload) == _flops(_load("three_pass"))
    tokens = _load(str(file), phase="generate", output_tokens=3)
    assert _flops(tokens) == _flops(_load("three_pass", phase="generate", output_tokens=3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--attention", "lora"],
            "attention 'lora': must have the live-ins Q, K, V and the live-out AV, has X",
        ),
        (["--attention", "mqa"], "attention 'mqa': K has 1 heads, the model has 4 of keys for 4 of queries"),
        (["--attention", "gqaa"], "attention 'gqaa' is unknown (did you mean 'gqa'?)"),
        (["--attention", "gone.cascade"], "gone.cascade: No such file or directory"),
        (["--attention", "gqa", "--dim", "m=4"], "attention 'gqa': 'm' is the model's, it cannot be given"),
        (["--attention", "gqa", "--dim", "w=4"], "gqa: 'w' is no rank or scalar"),
        (
            ["--attention", "retention_parallel"],
            "must have the live-ins Q, K, V and the live-out AV, has Q, K, V, L",
        ),
    ],
)
def test_a_cascade_that_does_not_fit_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["count", "tiny-gpt2", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_a_model_without_attention_says_so() -> None:
    with pytest.raises(InputError, match="attention 'gqa': mamba has no attention"):
        _load("gqa", "mamba-130m")


@pytest.mark.parametrize("width", [0, -4])
def test_a_window_without_a_position_is_refused_in_one_line(width: int) -> None:
    with pytest.raises(
        InputError, match=r"^sliding_window:9:\d+: no position is left of 'n': n - m must be at"
    ):
        _load("sliding_window", seq=8, dims={"w": width})
