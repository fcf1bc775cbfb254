"""`tilewright cascade check` as a user types it."""

import json
from pathlib import Path

import pytest

from tests.cascade_texts import SHIPPED_TEXTS
from tilewright.api import Workload, load_workload, workload_of
from tilewright.cli import run
from tilewright.files import StudyFile, WorkloadFile
from tilewright.studies import copy_workloads

TEXT = "# A toy.\nranks m, n, t\nin X[m,t]\nout Y[m,n]\nsplit n -> n1, n0\nin W[n,t]\nY[m,n] = X * W\n"


def test_a_check_lists_sizes_counts_and_the_statements(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cascade", "check", "sliding_window", "--dim", "m=4", "--set", "w=2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    pairs = 8 * (1 + 2 + 2 + 2)
    assert (found["macs"], found["exp"]) == (pairs * 128, pairs)
    assert found["ranks"] == {"b": 1, "h": 8, "hkv": 8, "m": 4, "n": 4, "e": 64, "f": 64}
    assert found["evaluations"] == {"div": pairs, "exp": pairs, "sub": pairs}
    assert found["passes"]["n"] == 3
    assert found["assumed sizes"] == {}
    assert [line.split()[0] for line in found["drawing"]] == ["QK[b,h,m,n]", "A[b,h,m,n]", "AV[b,h,m,f]"]
    assert found["tensors"][0]["shape"] == "1 8 4 64"


def test_sizes_that_are_neither_stated_nor_in_the_text_are_assumed_and_listed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "toy.cascade"
    file.write_text(TEXT, encoding="utf-8")
    assert run(["cascade", "check", str(file), "--dim", "M=3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["assumed sizes"] == {"n": 64, "t": 64, "n0": 16}
    assert found["macs"] == 3 * 64 * 64


def test_a_picture_is_written_and_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "picture.svg"
    assert run(["cascade", "check", "selective_scan", "--picture", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "+ step by step along t" in shown
    assert f"wrote {file}" in "".join(shown.splitlines())
    assert file.read_text(encoding="utf-8").startswith("<?xml")


def test_the_list_says_what_every_cascade_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "cascades", "--json"]) == 0
    rows = {row["cascade"]: row["summary"] for row in json.loads(capsys.readouterr().out)["cascades"]}
    assert rows["softmax"] == "Softmax of each row x[t], safe against overflow: three passes over n."
    assert run(["list", "cascades"]) == 0
    assert "each row x[t], safe" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mha", "--picture", "a.pdf"], "a.pdf: a picture is stored as .svg or .png"),
        (["mha", "--picture", "/nowhere/a.svg"], "/nowhere"),
        (["mhaa"], "cascade 'mhaa' is neither a name nor a file (did you mean 'mha'?)"),
        (["mha", "--dim", "m"], "--dim takes NAME=n, got 'm'"),
        (["mha", "--dim", "m=4", "--dim", "m=5"], "--dim gives 'm' twice"),
        (["gqa", "--dim", "hkv=3"], "gqa:9:42: an index is not whole for these sizes: 8/3"),
        (["mha", "--dim", "m=1000000000", "--dim", "h=1000000000"], "mha: tensor 'Q' has 1.02e+21 bits"),
    ],
)
def test_what_is_wrong_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["cascade", "check", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_a_study_keeps_the_texts_that_its_designs_need(tmp_path: Path) -> None:
    (tmp_path / "mine.cascade").write_text(SHIPPED_TEXTS["sliding_window"], encoding="utf-8")
    study = tmp_path / "study.yaml"
    study.write_text(
        "workloads:\n"
        "  - {name: alone, model: mine.cascade, dims: {m: 32, w: 8}}\n"
        "  - {name: inside, model: tiny-gpt2, seq: 16, attention: mine.cascade, dims: {w: 4}}\n"
        "devices: [u280]\n",
        encoding="utf-8",
    )
    out = tmp_path / "out"
    names = copy_workloads(StudyFile.load(study), out)
    (tmp_path / "mine.cascade").unlink()
    files = [out / name for name in names]
    macs = [_macs(workload_of(WorkloadFile.load(file), file.parent)) for file in files]
    assert macs[0] == 8 * (36 + 24 * 8) * 128  # pairs of a query and a key, heads of 64
    full = load_workload("tiny-gpt2", seq=16)
    windowed = load_workload("tiny-gpt2", seq=16, attention="sliding_window", dims={"w": 4})
    assert macs[1] == _macs(windowed) < _macs(full)


def _macs(workload: Workload) -> int:
    return sum(layer.count * sum(map(layer.graph.macs, layer.graph.operators)) for layer in workload.network)
