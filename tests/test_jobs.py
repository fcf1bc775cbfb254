"""The main job on a tiny model: the whole folder of a study, from the shell's point of view."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tilewright.cli import run

STUDY = """
name: tiny
workloads:
  - {name: prefill, weight: 2, model: tiny-gpt2, adapter: "lora:r=4,targets=q+k+v+o", phase: prefill, seq: 24}
  - {name: decode, model: tiny-gpt2, phase: decode, cache: 24}
devices: [u280, asic7]
space:
  rows: [8, 16]
  cols: [8, 16]
  arrays: [1, 2]
  precision: [int8]
  stationarity: [output]
  vector_lanes: [8, 16]
constraints: [used_fraction <= 0.8, area_mm2 <= 50]
search: {evaluations: 16, population: 8, seed: 5}
"""


def _study(folder: Path, text: str = STUDY) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "study.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study; nothing is compiled with g++ here, tests of generation do that."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        assert run(["codesign", str(_study(folder)), "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_a_study_leaves_its_whole_folder(done: Path) -> None:
    for name in ("study.sqlite", "designs.csv", "front_fpga.csv", "front_asic.csv", "report.html"):
        assert (done / name).stat().st_size > 0, name
    for stem in ("front_fpga", "front_asic", "hypervolume", "fpga_knee_breakdown", "fpga_knee_roofline"):
        assert (done / "figures" / f"{stem}.svg").is_file(), stem
        assert (done / "figures" / f"{stem}.png").is_file(), stem
    for name in ("DESIGN.yaml", "report.json", "timeline.json"):
        assert (done / "best/asic_knee" / name).is_file(), name
    assert (done / "best/fpga_knee/hls/hls/kernel.cpp").is_file()


def test_the_fronts_hold_no_design_that_another_dominates(done: Path) -> None:
    for device_class in ("fpga", "asic"):
        with (done / f"front_{device_class}.csv").open(encoding="utf-8") as file:
            rows = [
                [float(row[k]) for k in ("latency_ms", "energy_mj", "area")] for row in csv.DictReader(file)
            ]
        assert rows
        for a in rows:
            assert not any(all(x <= y for x, y in zip(b, a, strict=True)) and b != a for b in rows)


def test_without_a_compiler_the_code_is_said_to_be_unchecked(done: Path) -> None:
    checks = json.loads((done / "best/fpga_knee/hls/checks.json").read_text(encoding="utf-8"))
    verdicts = {check["rung"]: check["verdict"] for check in checks}
    assert verdicts["lint"] == "passed"
    assert verdicts["csim"] == "skipped"
    assert "g++ absent" in next(check["reason"] for check in checks if check["rung"] == "csim")
    assert "g++ absent" in (done / "report.html").read_text(encoding="utf-8")


def test_a_chosen_design_simulates_to_the_figures_of_the_front(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["simulate", "--design", str(done / "best/fpga_knee/DESIGN.yaml"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    with (done / "front_fpga.csv").open(encoding="utf-8") as file:
        knee = next(row for row in csv.DictReader(file) if row["knee"] == "true")
    assert report["latency_ms"] == pytest.approx(float(knee["prefill.latency_ms"]))


def test_the_folder_can_be_moved_and_drawn_again(done: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(done, moved)
    (moved / "report.html").unlink()
    assert run(["report", str(moved)]) == 0
    assert (moved / "figures/front_asic.svg").read_bytes() == (done / "figures/front_asic.svg").read_bytes()
    assert (moved / "report.html").is_file()
    assert run(["simulate", "--design", str(moved / "best/asic_knee/DESIGN.yaml"), "--json"]) == 0


def test_a_finished_study_is_not_overwritten_and_another_is_refused(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["codesign", str(_study(tmp_path)), "--out", str(done)]) == 2
    assert "resume" in capsys.readouterr().err
    other = _study(tmp_path, STUDY.replace("weight: 2", "weight: 3"))
    assert run(["codesign", str(other), "--out", str(done), "--resume"]) == 2
    error = capsys.readouterr().err
    assert "another study" in error
    assert error.count("\n") == 1


def test_a_killed_study_resumes_to_the_same_bytes(done: Path, tmp_path: Path) -> None:
    study, out = _study(tmp_path), tmp_path / "out"
    command = [sys.executable, "-m", "tilewright", "codesign", str(study), "--out", str(out)]
    environment = os.environ | {"PATH": ""}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (out / "study.sqlite").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert subprocess.run([*command, "--resume"], env=environment, capture_output=True).returncode == 0
    for name in ("designs.csv", "front_fpga.csv", "front_asic.csv", "figures/front_fpga.svg"):
        assert (out / name).read_bytes() == (done / name).read_bytes(), name


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("used_fraction <= 0.8, area_mm2 <= 50]", "area_mm2 <= 5]", "area_mm2 <= 5"),
        ("used_fraction <= 0.8, area_mm2 <= 50]", "area_m2 <= 5]", "did you mean 'area_mm2'"),
        ("[u280, asic7]", "[u281]", "did you mean 'u280'"),
        ("rows: [8, 16]", "row: [8, 16]", "did you mean 'rows'"),
        ("rows: [8, 16]", "rows: [5]", "rows"),
        ("evaluations: 16", "evaluations: 0", "search.evaluations"),
        ("model: tiny-gpt2,", "model: tiny-gpt3,", "tiny-gpt3"),
        ("name: decode,", "name: prefill,", "prefill"),
    ],
)
def test_a_study_that_cannot_be_run_ends_in_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, words: str
) -> None:
    assert old in STUDY
    text = STUDY.replace(old, new).replace("[u280, asic7]", "[asic7]")
    out = tmp_path / "out"
    assert run(["codesign", str(_study(tmp_path, text)), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (out / "report.html").exists()


def test_an_output_folder_that_cannot_be_made_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    out = tmp_path / "file" / "out"
    assert run(["codesign", str(_study(tmp_path)), "--out", str(out)]) == 2
    assert str(out) in capsys.readouterr().err


def test_a_sweep_writes_a_tidy_table_and_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = STUDY + "axes: {seq: [8, 16], rows: [4, 8]}\n"
    study = _study(tmp_path, text.replace("- {name: decode, model: tiny-gpt2, phase: decode, cache: 24}", ""))
    out = tmp_path / "out"
    assert run(["sweep", str(study), "--out", str(out), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == 2 * 2 * 2  # seq x rows x devices
    refused = [row for row in rows if row["refused"]]
    assert {(row["device"], row["rows"]) for row in refused} == {("asic7", 4)}  # its rows begin at 8
    assert (out / "figures/sweep.svg").is_file()
    table = (out / "sweep.csv").read_bytes()
    journal = out / "sweep.jsonl"
    lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    journal.write_text("".join(lines[:3]) + lines[3][:10], encoding="utf-8")  # as a kill leaves it
    assert run(["sweep", str(study), "--out", str(out), "--json"]) == 0
    assert (out / "sweep.csv").read_bytes() == table


@pytest.mark.parametrize(
    ("axes", "words"), [("{}", "axes"), ("{sec: [1]}", "'sec' is unknown"), ("{seq: []}", "axes.seq")]
)
def test_a_wrong_sweep_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], axes: str, words: str
) -> None:
    study = _study(tmp_path, STUDY + f"axes: {axes}\n")
    assert run(["sweep", str(study), "--out", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err
