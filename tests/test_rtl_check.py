"""The register-transfer rungs on generated projects: what is right passes, every seeded fault is caught."""

import json
from pathlib import Path

import pytest

from tests.hls_programs import Gemm, machine, program
from tilewright.dataflow.errors import InputError
from tilewright.hls_templates import verify as rungs
from tilewright.hls_templates.project import generate
from tilewright.hls_templates.rtl import cell, check, control
from tilewright.hls_templates.rtl.array import array_grid
from tilewright.hls_templates.rtl.check import check_pyrtl, described_grid
from tilewright.hls_templates.rtl.tools import ToolAbsentError, find_simulator
from tilewright.hls_templates.verify import Check, read_description, verify


@pytest.fixture(params=["output", "weight"])
def project(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path / "project"
    generate(program(Gemm("only")), machine(request.param, rows=3, cols=4), folder)
    return folder


def _rung(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Check:
    """One rung of `verify`, without the compilations of those before it."""
    monkeypatch.setattr(rungs, "LEVELS", {"rtl": (name,)})
    (found,) = verify(folder, "rtl")
    assert json.loads((folder / "checks.json").read_text(encoding="utf-8"))[0]["verdict"] == found.verdict
    return found


def _needs_a_simulator() -> None:
    try:
        find_simulator("iverilog")
    except ToolAbsentError as absent:
        pytest.skip(str(absent))


def _edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text, old
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_the_levels_name_both_rungs() -> None:
    assert rungs.LEVELS["rtl"][-2:] == ("pyrtl", "rtl")
    assert rungs.LEVELS["all"][-3:] == ("pyrtl", "rtl", "synth")


def test_the_array_of_a_project_passes_in_pyrtl(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _rung(project, "pyrtl", monkeypatch)
    assert (found.verdict, found.tool, found.version) == ("passed", "pyrtl", "1.0.3"), found
    assert found.reason.startswith("3 products, ")


def test_the_verilog_of_a_project_passes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _needs_a_simulator()
    found = _rung(project, "rtl", monkeypatch)
    assert (found.verdict, found.tool) == ("passed", "iverilog"), found


@pytest.mark.parametrize(
    ("module", "name", "broken", "message"),
    [
        (cell, "wrapped_sum", lambda left, right: (left - right)[: len(left)], "differ from numpy's"),
        (control, "_is_live", lambda row, left: left > row + 1, "differ from numpy's"),
    ],
    ids=["subtracts", "drops a row"],
)
def test_pyrtl_catches_a_seeded_fault(
    module: object, name: str, broken: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, broken)
    with pytest.raises(check.RtlError, match=message):
        check_pyrtl(array_grid(3, 4, "weight"))


def test_pyrtl_catches_a_cycle_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fold that is one step longer gives the same values."""
    depth = control.Grid.depth.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(control.Grid, "depth", property(lambda grid: depth(grid) + 1))
    with pytest.raises(check.RtlError, match=r"^4 x 3 x 3: 27 cycles, the model says 26$"):
        check_pyrtl(array_grid(3, 4, "output"))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("array_pe.v", " + {{", " - {{", "differ from numpy's"),
        ("array_pe.v", "advance ? west", "advance ? ~west", "differ from numpy's"),
        ("array_top.v", ".north(north_data)", ".north(~north_data)", "differ from numpy's"),
        ("array_top.v", "endmodule", "endmodul", "iverilog"),
    ],
    ids=["subtracts", "inverts an operand", "inverts an edge", "does not parse"],
)
def test_the_simulated_verilog_catches_a_seeded_fault(
    project: Path, file: str, old: str, new: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _needs_a_simulator()
    _edit(project / "rtl" / file, old, new)
    found = _rung(project, "rtl", monkeypatch)
    assert found.verdict == "failed", found
    assert message in found.reason


def test_verilog_that_never_ends_is_a_failure(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _needs_a_simulator()
    _edit(project / "rtl" / "array_top.v", ".done(done)", ".done()")
    found = _rung(project, "rtl", monkeypatch)
    assert found.verdict == "failed"
    assert "is not done after" in found.reason


def test_a_missing_simulator_is_skipped_with_the_reason(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    found = _rung(project, "rtl", monkeypatch)
    assert (found.verdict, found.reason) == ("skipped", "iverilog and verilator absent")


def test_verilator_stands_in_for_icarus_verilog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "verilator"
    tool.write_text("#!/bin/sh\necho Verilator 5.006 2023-01-22\n", encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/nowhere")
    found = check.any_simulator()
    assert (found.name, found.path, found.version) == ("verilator", str(tool), "5.006")


def test_an_array_without_rtl_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project of an earlier release, or of an array that no PE is built for, says so."""
    folder = tmp_path / "project"
    generate(program(Gemm("only")), machine("output", rows=2, cols=2), folder)
    description = json.loads((folder / "design.json").read_text(encoding="utf-8"))
    for rtl, reason in (
        ({"skipped": "array: no RTL is built for an array of 'analog'"}, "no RTL is built"),
        (description["rtl"] | {"rows": 64, "cols": 64}, "64 x 64 PEs take minutes to simulate"),
    ):
        (folder / "design.json").write_text(json.dumps(description | {"rtl": rtl}), encoding="utf-8")
        found = _rung(folder, "pyrtl", monkeypatch)
        assert found.verdict == "skipped"
        assert reason in found.reason


def test_a_damaged_description_is_one_line(project: Path) -> None:
    description = dict(read_description(project))
    rtl = dict(description["rtl"])
    del rtl["pe"]
    with pytest.raises(InputError, match=r"design.json: the description of the RTL is damaged \('pe'\)"):
        described_grid(description | {"rtl": rtl})
