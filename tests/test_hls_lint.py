"""The linter against generated text with one thing wrong at a time, and against text of its own."""

import shutil
from pathlib import Path

import pytest

from tests.hls_programs import every_kind, machine
from tilewright.hls_templates.lint import lint_source
from tilewright.hls_templates.lint_files import lint_project
from tilewright.hls_templates.project import generate
from tilewright.hls_templates.source import read_source
from tilewright.hls_templates.verify import read_description


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lint") / "project"
    return generate(every_kind(), machine(rows=4, cols=8), folder).folder


@pytest.fixture
def folder(generated: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(generated, tmp_path / "project"))


def _findings(folder: Path) -> list[str]:
    return [str(finding) for finding in lint_project(folder, read_description(folder))]


def test_generated_code_has_no_findings(folder: Path) -> None:
    assert _findings(folder) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("kernel.cpp", "PIPELINE II=1", "PIPELINE II=one", "option 'II' needs an integer, got 'one'"),
        ("kernel.cpp", "PIPELINE II=1", "PIPELINE I=1", "PIPELINE has no option 'I'"),
        ("kernel.cpp", "PIPELINE II=1", "PIPELINE II=0", "ii must be at least 1, got 0"),
        ("kernel.cpp", "variable=pe ", "variable=pf ", "variable 'pf' is not declared in gemm0_compute"),
        ("kernel.cpp", "type=complete dim=0", "type=complet dim=0", "option 'type' cannot be 'complet'"),
        ("kernel.cpp", "type=complete dim=0", "type=complete dim=3", "'pe' has 2 dimensions, dim=3 given"),
        ("kernel.cpp", "factor=8 dim=2", "factor=7 dim=2", "factor 7 does not divide dimension 2"),
        ("kernel.cpp", "m_axi port=w ", "m_axi port=v ", "layer has no argument 'v'"),
        ("kernel.cpp", "m_axi port=w ", "m_axi port=x ", "pointer 'w' has 0 m_axi interfaces"),
        ("kernel.cpp", "bundle=gmem_w ", "bundle=gmem_x ", "ports x, w share a bundle"),
        ("kernel.cpp", "s_axilite port=return", "s_axilite port=w", "no s_axilite interface for port"),
        ("kernel.cpp", "LOOP_TRIPCOUNT min=3 max=3", "LOOP_TRIPCOUNT min=4 max=3", "min 4 is above max 3"),
        ("kernel.cpp", "// Elements that it", "#pragma HLS UNROLL\n//", "stands outside of any function"),
        ("kernel.cpp", "#pragma HLS DATAFLOW\n", "#pragma HLS DATAFLOW\n  s.m = 1;\n", "more than channels"),
        ("kernel.cpp", "gemm0_feed_w(s, w_blocks", "gemm0_feed_w(s, x_blocks", "'x_blocks' has 2 consumers"),
        ("kernel.cpp", "gemm0_load_w(w, s", "gemm0_load_w(x, s", "pointer 'x' is used by 2 processes"),
        ("kernel.cpp", "  vectors.write(beat);", "", "'x_vectors' has 0 producers, exactly 1 is needed"),
        ("run.tcl", "csynth_design", "exec rm", "command 'exec' is not one of the script's known ones"),
        ("run.tcl", "set_top layer", "set_top other", "set_top names 'other', the kernel is 'layer'"),
        ("run.tcl", "create_clock -period 5.000", "create_clock -period fast", "needs a period in ns"),
        ("run.tcl", "add_files kernel.cpp", "add_files colonel.cpp", "'colonel.cpp', which does not exist"),
        ("run.tcl", "open_project -reset", "open_project -rest", "open_project has no option '-rest'"),
        ("link.cfg", "sp=layer_1.w:HBM[", "sp=layer_1.w:HBM[1", "is not below the 8 that the design uses"),
        ("link.cfg", "sp=layer_1.w:", "sp=layer_1.x:", "port 'x' is mapped 2 times"),
        ("link.cfg", "sp=layer_1.w:", "sp=other_1.w:", "names compute unit 'other_1', nk makes 'layer_1'"),
        ("link.cfg", "nk=layer:", "nk=lair:", "nk does not name kernel 'layer'"),
        ("link.cfg", "[connectivity]", "[conectivity]", "section 'conectivity' is unknown"),
    ],
)  # fmt: skip
def test_one_wrong_thing_is_found(folder: Path, file: str, old: str, new: str, message: str) -> None:
    path = folder / "hls" / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    findings = _findings(folder)
    assert any(message in finding for finding in findings), findings


def test_a_finding_names_file_and_line(folder: Path) -> None:
    path = folder / "hls" / "kernel.cpp"
    lines = path.read_text(encoding="utf-8").splitlines()
    line = next(i for i, text in enumerate(lines) if text.startswith("#pragma HLS INLINE"))
    lines[line] = "#pragma HLS INLNE"
    path.write_text("\n".join(lines), encoding="utf-8")
    assert _findings(folder) == [
        f"hls/kernel.cpp:{line + 1}: directive 'INLNE' is unknown (did you mean 'INLINE'?)"
    ]


def test_a_process_that_writes_two_channels_is_refused() -> None:
    """x goes straight and through `middle` to `last`: with full channels each may wait for the other."""
    text = """
    static void first(hls::stream<int, 2> &p, hls::stream<int, 2> &q) { p.write(1); q.write(2); }
    static void middle(hls::stream<int, 2> &p, hls::stream<int, 2> &r) { r.write(p.read()); }
    static void last(hls::stream<int, 2> &q, hls::stream<int, 2> &r) { q.read(); r.read(); }
    void region() {
    #pragma HLS DATAFLOW
      hls::stream<int, 2> p;
      hls::stream<int, 2> q;
      hls::stream<int, 2> r;
      first(p, q);
      middle(p, r);
      last(q, r);
    }
    """
    findings = [finding.message for finding in lint_source(read_source("own.cpp", text))]
    assert findings == ["process first writes 2 channels, which may block each other: ['p', 'q']"]


def test_a_pragma_behind_a_statement_of_the_loop_is_refused() -> None:
    text = """
    void scale(int *values) {
      for (int i = 0; i < 4; i++) {
        values[i] = 2 * values[i];
    #pragma HLS PIPELINE II=1
      }
    }
    """
    findings = [finding.message for finding in lint_source(read_source("own.cpp", text))]
    assert findings == ["PIPELINE is not at the start of a loop's body"]


def test_pragmas_in_comments_are_no_pragmas() -> None:
    text = "void f() {\n  // #pragma HLS NONSENSE\n  /* \n#pragma HLS NONSENSE\n */\n}\n"
    assert lint_source(read_source("own.cpp", text)) == []
