"""The synthesis rung: what a report says, a model beside it, and verdicts with and without the tool."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.hls_programs import Gemm, machine, program
from tilewright.hls_templates import verify as rungs
from tilewright.hls_templates.project import generate
from tilewright.hls_templates.rtl import synthesis
from tilewright.hls_templates.rtl.array import array_grid, grid_of
from tilewright.hls_templates.rtl.synthesis import (
    SynthesisError,
    Yosys,
    array_of,
    compared,
    find_yosys,
    read_report,
    synthesise,
)
from tilewright.hls_templates.rtl.tools import ToolAbsentError
from tilewright.hls_templates.rtl.verilog import TEST_BENCH, array_files
from tilewright.hls_templates.verify import read_description, verify
from tilewright.sim.architecture import MatrixArray
from tilewright.sim.fpga_array import array_resources
from tilewright.sim.fpga_counts import Resources

ARRAY = MatrixArray("array", 3, 2, "output", (8, 8), 32)
REPORT = """
=== array_pe ===
     FDRE    7
   Estimated number of LCs:          2
=== design hierarchy ===
   array_top                         1
     CARRY4                        197
     DSP48E2                        16
     FDRE                         1255
     FDSE                            3
     LUT6                          584
     RAM32M16                        2
     RAMB18E2                        3
     SRL16E                          5
   Estimated number of LCs:       1306
"""


@pytest.fixture
def yosys() -> Iterator[Yosys]:
    try:
        yield find_yosys()
    except ToolAbsentError as absent:
        pytest.skip(str(absent))


def test_a_report_counts_the_hierarchy_with_memories_and_shift_registers_in_luts() -> None:
    assert read_report(REPORT) == Resources(lut=1306 + 2 * 8 + 5, ff=1258, dsp=16, bram36=1.5)
    with pytest.raises(SynthesisError, match="no estimate"):
        read_report("=== array_top ===\n")


def test_a_model_more_than_fifteen_percent_off_fails_by_name() -> None:
    tool = Resources(lut=1000, ff=1000, dsp=10)
    assert compared(Resources(lut=1150, ff=850, dsp=10), tool).startswith("1,000 LUT (model 1,150)")
    for name, value in (("lut", 1151), ("ff", 849), ("dsp", 12)):
        with pytest.raises(SynthesisError, match=f"{name.upper()} after synthesis"):
            compared(replace(tool, **{name: value}), tool)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "array",
    [
        ARRAY,
        replace(ARRAY, stationarity="weight", arithmetic="packed_mac", drain_overlap=True),
        replace(ARRAY, operand_bits=(2, 8), arithmetic="ternary_add"),
        replace(ARRAY, operand_bits=(16, 16), pe_cycles=(1, 2)),
    ],
)  # fmt: skip
def test_a_grid_is_the_array_that_it_was_built_from(array: MatrixArray) -> None:
    assert array_of(grid_of(array)) == array


def test_a_synthesised_array_has_the_models_registers_and_another_one_is_told_apart(
    yosys: Yosys, tmp_path: Path
) -> None:
    files = {name: text for name, text in array_files(grid_of(ARRAY)).items() if name != TEST_BENCH}
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = synthesise(yosys, [tmp_path / name for name in files], "array_top")
    ours = array_resources(ARRAY)
    assert found.dsp == ours.dsp == 6
    assert found.ff == pytest.approx(ours.ff, abs=4)  # the controller's counters lose constant bits
    assert found.lut == pytest.approx(ours.lut, rel=0.15)
    # the seeded fault: a design that says that it overlaps, with Verilog that does not
    with pytest.raises(SynthesisError, match="FF after synthesis"):
        compared(array_resources(replace(ARRAY, drain_overlap=True)), found)


def test_verilog_that_does_not_parse_fails_with_the_tools_line(yosys: Yosys, tmp_path: Path) -> None:
    broken = tmp_path / "broken.v"
    broken.write_text("module array_top(;\n", encoding="utf-8")
    with pytest.raises(SynthesisError, match="yosys"):
        synthesise(yosys, [broken], "array_top")


def test_without_the_tool_the_rung_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate(program(Gemm("only", m=10, n=19, k=20)), machine(), tmp_path)
    monkeypatch.setitem(rungs.LEVELS, "synth", ("synth",))  # type: ignore[misc]
    monkeypatch.setattr(shutil, "which", lambda _: None)
    (check,) = verify(tmp_path, "synth")
    assert (check.verdict, check.reason) == ("skipped", "yosys absent")


def test_the_rung_fails_where_the_tool_counts_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate(program(Gemm("only", m=10, n=19, k=20)), machine(), tmp_path)
    monkeypatch.setitem(rungs.LEVELS, "synth", ("synth",))  # type: ignore[misc]
    monkeypatch.setattr(rungs, "find_yosys", lambda: Yosys("yosys", "0"))
    monkeypatch.setattr(synthesis, "synthesise", lambda *_: Resources(lut=1, ff=1, dsp=1))
    (check,) = verify(tmp_path, "synth")
    assert (check.verdict, check.tool) == ("failed", "yosys")
    assert "LUT after synthesis" in check.reason


def test_a_projects_description_gives_the_grid_that_is_synthesised(tmp_path: Path) -> None:
    generate(program(Gemm("only", m=10, n=19, k=20)), machine(), tmp_path)
    found = read_description(tmp_path)["rtl"]
    assert array_of(rungs.described_grid({"rtl": found})).rows == found["rows"]
    assert array_of(array_grid(4, 4, pe="int16")).operand_bits == (16, 16)
