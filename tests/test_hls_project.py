"""The folder as a whole: its text, who may be overwritten, and what is refused."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.hls_programs import Gemm, every_kind, machine, program
from tilewright.dataflow.errors import InputError
from tilewright.dataflow.program import Program
from tilewright.hls_templates import project
from tilewright.hls_templates.project import generate
from tilewright.hls_templates.quantise import FixedPoint, Quantisation, StageScales
from tilewright.sim.architecture import Dram, MatrixArray

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden" / "hls" / "two_products"


def _two_products() -> Program:
    """A low-rank product whose result the second product takes, with a table between them."""
    return program(
        Gemm("up", m=10, n=24, k=20, rank=3, functions=("add@bias", "gelu_new", "requantize")),
        Gemm("down", m=10, n=17, k=24, x="up_y", x_ranks=("up_m", "up_n")),
        name="two_products",
    )


def _texts(folder: Path) -> Mapping[str, str]:
    """Everything but our own headers, which have a file of their own in the package."""
    return {
        str(file.relative_to(folder)): file.read_text(encoding="utf-8")
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.parent.name != "include"
    }


def test_the_generated_text_is_the_golden_one(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Run pytest with --update-golden and read the difference to accept a change."""
    folder = generate(
        _two_products(), machine(rows=4, cols=8), tmp_path / "project", title="Two products",
        figures={"latency": "0.5 ms", "energy": "1.2 mJ"},
    ).folder  # fmt: skip
    texts = _texts(folder)
    if pytestconfig.getoption("--update-golden"):
        for name, text in texts.items():
            (GOLDEN / name).parent.mkdir(parents=True, exist_ok=True)
            (GOLDEN / name).write_text(text, encoding="utf-8")
    assert texts == _texts(GOLDEN)


def test_fresh_processes_write_the_same_bytes(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.hls_programs import every_kind, machine\n"
        "from tilewright.hls_templates.project import generate\n"
        "generate(every_kind(), machine(), sys.argv[2])\n"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", code, str(ROOT), str(tmp_path / seed)]
        subprocess.run(command, check=True, env=environment, timeout=120)
    assert _texts(tmp_path / "1") == _texts(tmp_path / "2")


def test_stages_of_one_structure_share_an_engine(tmp_path: Path) -> None:
    """`a` and `b` differ in sizes only; `c` keeps all of k of its x on chip."""
    folder = generate(
        program(Gemm("a1"), Gemm("b1", m=6, n=30, k=11), Gemm("c1", x_panel=True)), machine(), tmp_path / "p"
    ).folder
    stages = json.loads((folder / "design.json").read_text(encoding="utf-8"))["stages"]
    assert [stage["engine"] for stage in stages] == ["gemm0", "gemm0", "gemm1"]
    kernel = (folder / "hls" / "kernel.cpp").read_text(encoding="utf-8")
    assert kernel.count("#pragma HLS DATAFLOW") == 2


def test_what_is_not_covered_is_said_with_the_reason(tmp_path: Path) -> None:
    odd = Gemm("odd", functions=("exp", "requantize"))
    result = generate(program(Gemm("fine"), odd), machine(), tmp_path / "p")
    assert result.covered == ("fine",)
    assert [(one.stage, one.reason) for one in result.uncovered] == [
        ("odd", "function 'exp' has no integer form here")
    ]
    assert "| odd | function 'exp' has no integer form here |" in (tmp_path / "p" / "README.md").read_text()
    description = json.loads((tmp_path / "p" / "design.json").read_text(encoding="utf-8"))
    assert description["uncovered"] == [{"stage": "odd", "reason": "function 'exp' has no integer form here"}]


def test_a_program_without_any_covered_stage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="odd: function 'exp' has no integer form here"):
        generate(program(Gemm("odd", functions=("exp",))), machine(), tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


def test_every_port_has_a_channel_of_the_design(tmp_path: Path) -> None:
    """Activations share channel 0; w, a, b and bias stand 8 / 5 = 1 apart."""
    generate(every_kind(), machine(channels=8), tmp_path / "p")
    link = (tmp_path / "p" / "hls" / "link.cfg").read_text(encoding="utf-8")
    assert [line for line in link.splitlines() if line.startswith("sp=")] == [
        "sp=layer_1.x:HBM[0]", "sp=layer_1.w:HBM[1]", "sp=layer_1.a:HBM[2]", "sp=layer_1.b:HBM[3]",
        "sp=layer_1.bias:HBM[4]", "sp=layer_1.residual:HBM[0]", "sp=layer_1.residual2:HBM[0]",
        "sp=layer_1.y:HBM[0]",
    ]  # fmt: skip


def test_a_device_that_is_no_part_is_noted(tmp_path: Path) -> None:
    generate(program(Gemm("only")), machine(device="asic7"), tmp_path / "p")
    assert "asic7 is no part of the vendor" in (tmp_path / "p" / "README.md").read_text(encoding="utf-8")


def test_a_design_whose_array_has_no_rtl_says_so(tmp_path: Path) -> None:
    architecture = machine()
    parts = tuple(
        replace(one, count=4, arithmetic="lookup") if isinstance(one, MatrixArray) else one
        for one in architecture.components
    )
    generate(program(Gemm("only")), replace(architecture, components=parts), tmp_path / "p")
    assert "No RTL: " in (tmp_path / "p" / "README.md").read_text(encoding="utf-8")


def test_stated_scales_reach_the_table(tmp_path: Path) -> None:
    stated = Quantisation(stages={"only": StageScales(FixedPoint(12345, 21))})
    generate(program(Gemm("only")), machine(), tmp_path / "p", quantisation=stated)
    params = (tmp_path / "p" / "hls" / "params.h").read_text(encoding="utf-8")
    assert params.count("12345,  // y_multiplier") == 2  # small and full
    assert params.count("21,  // y_shift") == 2


def test_scales_for_an_unknown_stage_are_refused(tmp_path: Path) -> None:
    stated = Quantisation(stages={"onyl": StageScales(FixedPoint(12345, 21))})
    with pytest.raises(InputError, match="stage 'onyl'"):
        generate(program(Gemm("only")), machine(), tmp_path / "p", quantisation=stated)


def test_scales_that_lack_what_a_stage_needs_are_refused(tmp_path: Path) -> None:
    stated = Quantisation(stages={"only": StageScales(FixedPoint(12345, 21))})
    with pytest.raises(InputError, match="scales of stage 'only' lack 'adapter'"):
        generate(program(Gemm("only", rank=4)), machine(), tmp_path / "p", quantisation=stated)


def test_a_bias_that_would_leave_the_sums_is_refused(tmp_path: Path) -> None:
    stated = Quantisation(stages={"only": StageScales(FixedPoint(12345, 21), bias_shift=23)})
    biased = program(Gemm("only", functions=("add@bias",)))
    with pytest.raises(InputError, match=r"bias_shift of stage 'only' must be in 0..22, got 23"):
        generate(biased, machine(), tmp_path / "p", quantisation=stated)


@pytest.mark.parametrize("name", ["../escape", "a b", "1st", "int", "gemm0", "with-dash", 'quote"', "x", ""])
def test_a_program_name_that_c_refuses_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        generate(program(Gemm("only"), name=name), machine(), tmp_path / "p")
    assert "\n" not in str(caught.value)
    assert repr(name) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_stage_name_that_c_refuses_is_named(tmp_path: Path) -> None:
    given = program(Gemm("only"))
    stage = replace(given.stages[0], name="mlp.c_fc")
    with pytest.raises(InputError, match=r"stage name 'mlp.c_fc' is no C identifier"):
        generate(replace(given, stages=(stage,)), machine(), tmp_path / "p")


def test_a_title_that_would_leave_its_comment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="title must be one line"):
        generate(program(Gemm("only")), machine(), tmp_path / "p", title="fine\n#error")


def test_an_architecture_without_an_array_is_refused(tmp_path: Path) -> None:
    given = machine()
    parts = tuple(part for part in given.components if not isinstance(part, MatrixArray))
    bare = replace(given, components=parts, slots=())
    with pytest.raises(InputError, match="has no MatrixArray"):
        generate(program(Gemm("only")), bare, tmp_path / "p")
    assert any(isinstance(part, Dram) for part in bare.components)


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="holds no generated project"):
        generate(program(Gemm("only")), machine(), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_target_that_is_no_folder_is_refused(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "file":
        target.write_text("mine", encoding="utf-8")
    else:
        (tmp_path / "elsewhere").mkdir()
        target.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is no folder"):
        generate(program(Gemm("only")), machine(), target)


def test_an_earlier_project_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    generate(program(Gemm("old")), machine(), folder)
    (folder / "data").mkdir()
    (folder / "data" / "old.bin").write_bytes(b"1")
    generate(program(Gemm("new")), machine(), folder)
    assert not (folder / "data").exists()
    assert '"name": "new"' in (folder / "design.json").read_text(encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["p"]


def test_a_disk_that_fills_up_leaves_the_earlier_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "p"
    generate(program(Gemm("old")), machine(), folder)
    before = _texts(folder)
    n_written = 0

    def write(_: Path, text: str, **__: str) -> int:
        nonlocal n_written
        n_written += 1
        if n_written > 3:
            raise OSError(28, "No space left on device")
        return len(text)

    monkeypatch.setattr(project.Path, "write_text", write)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        generate(program(Gemm("new")), machine(), folder)
    monkeypatch.undo()
    assert _texts(folder) == before
    assert [file.name for file in tmp_path.iterdir()] == ["p"]
