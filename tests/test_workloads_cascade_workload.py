"""Cascades as workloads: counted, simulated, and refused in one line where a term has no meaning."""

import json
from pathlib import Path

import pytest

from tests.test_dataflow_cascades_shipped import SHIPPED
from tilewright.api import Design, count, load_workload, simulate
from tilewright.cli import run

TEXT = "# A toy.\nranks m, n = 8\nparam alpha = 1\nin X[m,n], W[n] : weight, A[n] : adapter\nout Y[m]\n"
TEXT += "Y[m] = alpha * X[m,n] * W[n]\nlet Z[m]\nZ[m] = X[m,n] * A[n]\n"


def test_a_cascade_is_one_layer_whose_weights_are_its_parameters(tmp_path: Path) -> None:
    file = tmp_path / "toy.cascade"
    file.write_text(TEXT, encoding="utf-8")
    workload = load_workload(file, dims={"m": 3}, precision={"weights": "int4"})
    (layer,) = workload.network
    assert (workload.model_type, workload.name, layer.count) == ("cascade", "toy", 1)
    assert layer.graph.ranks == {"m": 3, "n": 8}
    assert layer.graph.tensor_by_name["W"].dtype == "int4"
    found = count(workload)
    assert (found.params_total, found.params_base, found.flops_linear) == (16, 8, 2 * 2 * 3 * 8)
    assert found.weight_bytes == 2 * 4


def test_names_are_identifiers_and_stay_apart(tmp_path: Path) -> None:
    file = tmp_path / "toy.cascade"
    text = "ranks m = 2\nin X[m], A_exp[m]\nout B[m]\nA[m] = X + exp(X)\nB[m] = A + A_exp\n"
    file.write_text(text, encoding="utf-8")
    graph = load_workload(file).network[0].graph
    assert [operator.name for operator in graph.operators] == ["A_exp_", "A", "B"]
    assert [operator.output.tensor for operator in graph.operators] == ["A_exp_", "A", "B"]
    assert "A_exp" in graph.inputs


def test_the_reference_computes_the_square_and_the_hardware_skips_what_is_masked() -> None:
    sizes = {"h": 2, "m": 4, "n": 4, "e": 3}
    square = count(load_workload("mha.cascade", dims=sizes, lowering="reference"))
    skipped = count(load_workload("mha.cascade", dims=sizes, lowering="hardware"))
    assert square.flops_attention_bmm == 2 * 2 * 16 * (3 + 3)
    assert skipped.flops_attention_bmm == 2 * 2 * 10 * (3 + 3)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_shipped_cascade_runs_on_the_sequential_template(name: str) -> None:
    workload = load_workload(f"{name}.cascade")
    report = simulate(workload, Design("sequential", "u280", {}))
    assert report.bound_cycles <= report.latency_cycles
    macs = sum(workload.network[0].graph.macs(op) for op in workload.network[0].graph.operators)
    assert report.macs == macs


def test_a_file_stands_before_the_shipped_cascade_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_workload("mha.cascade").network[0].graph.size("m") == 512
    (tmp_path / "mha.cascade").write_text(TEXT, encoding="utf-8")
    assert load_workload("mha.cascade", dims={"m": 5}).network[0].graph.size("m") == 5


def test_the_command_line_takes_sizes_and_numbers_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["count", "lora.cascade", "--dim", "t=2", "--dim", "o=3", "--dim", "i=4", "--dim", "r=1"]
    assert run([*arguments, "--dim", "alpha=0.5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["flops_total"] == 2 * (24 + 8 + 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mha.cascade", "--seq", "64"], "mha.cascade: seq 64: a cascade takes its sizes by rank"),
        (["mha.cascade", "--batch", "2"], "mha.cascade: batch 2: a cascade takes its sizes by rank"),
        (["mha.cascade", "--adapter", "lora:r=4"], "mha.cascade: adapter 'lora:r=4'"),
        (["mha.cascade", "--phase", "decode"], "phase 'decode': a cascade runs as it is written"),
        (["mha.cascade", "--dim", "q=4"], "mha: 'q' is no rank or scalar"),
        (["mha.cascade", "--dim", "m=x"], "--dim takes NAME=n, got 'm=x'"),
        (["mha.cascade", "--dim", "m=.nan"], "--dim takes NAME=n, got 'm=.nan'"),
        (["mha.cascade", "--phase", "train"], "phase 'train': a cascade runs as it is written"),
        (["mha.cascade", "--dim", "m=0"], "mha: rank 'm' must be in 1..1000000000, got 0"),
        (["gone.cascade"], "gone.cascade: No such file or directory"),
        (
            ["tiny-gpt2", "--dim", "m=4"],
            "dims bind dimensions of an .onnx file, 'tiny-gpt2' is none, and no .cascade",
        ),
    ],
)
def test_what_a_cascade_does_not_know_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["count", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err
