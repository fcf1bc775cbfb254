"""Batches of several lengths: counts that are the sums over plain runs, and times between the extremes."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.cli import run as command
from tilewright.dataflow.errors import InputError
from tilewright.dataflow.tensor import Role
from tilewright.sim.design import Design
from tilewright.sim.evaluate import evaluate
from tilewright.workloads.count import Counts, count
from tilewright.workloads.workload import Workload, load_workload

_SUMS = (
    "flops_total", "flops_linear", "flops_bmm_all", "flops_output_head", "out_elems_linear", "out_elems_bmm",
    "kv_cache_bytes_fp16",
)  # fmt: skip
_SAME = ("params_total", "params_trainable", "weight_bytes", "n_ops_linear")


def _sizes(phase: str, length: int) -> dict[str, int]:
    return {"cache": length} if phase == "decode" else {"seq": length}


def _check_sum(model: str, phase: str, lengths: dict[int, int], **terms: Any) -> None:
    ours = count(load_workload(model, phase=phase, lengths=lengths, **terms))
    alone = [
        count(load_workload(model, phase=phase, batch=n, **_sizes(phase, length), **terms))
        for length, n in lengths.items()
    ]
    for name in _SUMS:
        if phase == "train" and name.startswith("out_elems"):
            continue  # a weight's gradient is one sum over all sequences
        assert getattr(ours, name) == sum(getattr(counts, name) for counts in alone), name
    for name in _SAME:
        assert getattr(ours, name) == getattr(alone[0], name), name


@pytest.mark.parametrize("lowering", ["reference", "hardware"])
@pytest.mark.parametrize("phase", ["prefill", "decode", "train"])
@pytest.mark.parametrize("model", ["tiny-gpt2", "llama-3.2-1b", "mixtral-8x7b"])
def test_counts_are_the_sums_over_runs_of_one_length(model: str, phase: str, lowering: str) -> None:
    _check_sum(model, phase, {3: 2, 5: 1, 12: 4}, lowering=lowering)


def test_a_window_bounds_each_sequence_by_itself() -> None:
    _check_sum("mistral-7b-v0.1", "decode", {8: 1, 8000: 2})
    _check_sum("mistral-7b-v0.1", "prefill", {8: 1, 8000: 2})


def test_an_encoder_and_an_adapter_take_several_lengths() -> None:
    _check_sum("bert-base-uncased", "prefill", {16: 3, 40: 1}, adapter="lora:r=4")
    _check_sum("tiny-gpt2", "train", {4: 3, 9: 1}, adapter="lora:r=4,targets=q+o", lowering="reference")


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.integers(1, 60), st.integers(1, 5), min_size=2, max_size=5))
def test_any_histogram_counts_as_its_parts(lengths: dict[int, int]) -> None:
    _check_sum("tiny-gpt2", "prefill", lengths, lowering="hardware", logits="all")
    _check_sum("tiny-gpt2", "decode", lengths, lowering="hardware")


def test_one_length_is_a_plain_batch() -> None:
    assert load_workload("tiny-gpt2", lengths={12: 3}) == load_workload("tiny-gpt2", batch=3, seq=12)
    plain = load_workload("tiny-gpt2", phase="decode", batch=3, cache=12)
    assert load_workload("tiny-gpt2", phase="decode", lengths={12: 3}) == plain


def test_attention_is_built_once_for_each_length_and_weights_are_read_once() -> None:
    (block,) = (layer.graph for layer in load_workload("tiny-gpt2", lengths={4: 3, 9: 2}).network[1:2])
    scores = {op.name: block.n_points(op) for op in block.operators if op.name.startswith("score")}
    # heads x channels x sequences x pairs of a token and one that is not behind it
    assert scores == {"score_4": 4 * 16 * 3 * 10, "score_9": 4 * 16 * 2 * 45}
    weights = [tensor.name for tensor in block.tensors if tensor.role is Role.WEIGHT]
    for name in weights:
        assert len([op for op in block.operators if name in {a.tensor for a in op.inputs}]) == 1
    (product,) = (op for op in block.operators if op.name == "mlp_c_fc")
    assert block.n_points(product) == (3 * 4 + 2 * 9) * 64 * 256


def test_each_sequence_reads_its_own_rows() -> None:
    (block,) = (layer.graph for layer in load_workload("tiny-gpt2", lengths={4: 3, 9: 2}).network[1:2])
    rows: list[int] = []
    for ending, seq, n in (("_4", 4, 3), ("_9", 9, 2)):
        (score,) = (op for op in block.operators if op.name == f"score{ending}")
        token = score.inputs[0].indices[1]
        steps = {term.rank: term.coefficient for term in token.terms}
        assert steps == {f"b{ending}": seq, f"m{ending}": 1}
        rows += [token.offset + b * seq + m for b in range(n) for m in range(seq)]
    assert rows == list(range(3 * 4 + 2 * 9))


def _cycles(workload: Workload) -> int:
    report = evaluate(workload.network, Design("sequential", "u280", {}), workload="w", tokens=1)
    return report.latency_cycles


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_ragged_batch_takes_between_its_shortest_and_its_longest_sequences(phase: str) -> None:
    mixed = _cycles(load_workload("gpt2", phase=phase, lengths={32: 3, 128: 1}))
    short, long = (
        _cycles(load_workload("gpt2", phase=phase, batch=4, **_sizes(phase, n))) for n in (32, 128)
    )
    assert short < mixed < long


def test_the_command_line_and_a_file_take_the_same_histogram(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "WORKLOAD.yaml"
    file.write_text("model: tiny-gpt2\nphase: decode\nlengths: {7: 2, 30: 1}\n")
    found: list[Counts] = []
    for arguments in ([str(file)], ["tiny-gpt2", "--phase", "decode", "--lengths", "7:2,30"]):
        assert command(["count", *arguments, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"model": "t5-small"}, "preset t5-small: lengths: t5 takes sequences of one length"),
        ({"model": "mamba-130m"}, "preset mamba-130m: lengths: the layers of mamba take"),
        ({"seq": 4}, "lengths stand in the place of batch and seq; state one or the other"),
        ({"phase": "decode", "cache": 4}, "lengths stand in the place of batch and cache"),
        ({"phase": "generate"}, "lengths belong to the phases prefill, decode, train, got phase 'generate'"),
        ({"lengths": {}}, "lengths must hold 1 to 256 lengths, got 0"),
        ({"lengths": {4: 0}}, "lengths: the sequences of length 4 must be an integer in"),
        ({"lengths": {4: 1, 3000: 1}}, "cache 0 \\+ seq 3000 exceed the .* positions"),
        ({"lengths": {2**23: 1, 2**23 + 1: 1}}, "lengths: at most 16777216 tokens are computed at once"),
    ],
)
def test_a_wrong_histogram_is_refused_in_one_line(terms: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_workload(**({"model": "tiny-gpt2", "lengths": {4: 1, 8: 2}} | terms))


def test_too_many_lengths_are_refused_with_the_limit_and_the_number(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stated = ",".join(f"{length}:1" for length in range(1, 300))
    assert command(["count", "gpt2", "--lengths", stated]) == 2
    assert capsys.readouterr().err == "tilewright: lengths must hold 1 to 256 lengths, got 299\n"
