"""The rungs on generated projects: what is right passes, every seeded fault is caught."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hls_programs import Gemm, every_kind, machine, program
from tilewright.dataflow.errors import InputError
from tilewright.hls_templates import csim
from tilewright.hls_templates.csim import CsimError, ToolAbsentError, check_trips, find_toolchain
from tilewright.hls_templates.project import generate
from tilewright.hls_templates.quantise import Quantisation
from tilewright.hls_templates.verify import Check, read_description, verify


def _needs_compiler() -> None:
    try:
        find_toolchain()
    except ToolAbsentError as absent:
        pytest.skip(str(absent))


@pytest.fixture(autouse=True)
def _compile_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small shapes run in no time: compiling without optimisation saves the most."""
    flags = tuple("-O0" if flag == "-O1" else flag for flag in csim.CSIM_FLAGS)
    monkeypatch.setattr(csim, "CSIM_FLAGS", flags)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A project of one product: 3 x 3 x 3 tiles, all with remainders."""
    folder = tmp_path / "plain"
    generate(program(Gemm("only", m=10, n=19, k=20)), machine(), folder)
    return folder


def _edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(old) >= 1, old
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def _rung(folder: Path, level: str, rung: str) -> Check:
    return next(check for check in verify(folder, level) if check.rung == rung)


def _passes_all(folder: Path) -> None:
    checks = verify(folder, "csim")
    assert [(check.rung, check.verdict) for check in checks] == [
        ("lint", "passed"), ("csim", "passed"), ("trips", "passed"),
    ], checks  # fmt: skip


def test_every_kind_of_stage_equals_numpy_bit_for_bit(tmp_path: Path) -> None:
    _needs_compiler()
    project = generate(every_kind(), machine("output", rows=4, cols=8), tmp_path / "project")
    assert project.covered == ("first", "second", "third", "fourth", "fifth")
    _passes_all(project.folder)
    stored = json.loads((project.folder / "checks.json").read_text(encoding="utf-8"))
    assert [check["verdict"] for check in stored] == ["passed"] * 3
    assert all("seconds" not in check for check in stored)


@pytest.mark.slow
@pytest.mark.parametrize("stationarity", ["weight", "input"])
def test_every_kind_of_stage_equals_numpy_on_other_grids(tmp_path: Path, stationarity: str) -> None:
    _needs_compiler()
    grid = machine(stationarity, rows=8, cols=4)  # type: ignore[arg-type]
    _passes_all(generate(every_kind(), grid, tmp_path / "project").folder)


def test_both_held_operands_and_narrow_weights_equal_numpy(tmp_path: Path) -> None:
    """A transposed product on a weight stationary grid holds the activations: both forms in one kernel."""
    _needs_compiler()
    gemms = (
        Gemm("turned", m=10, n=19, k=20, transposed=True, rank=5, weight_dtype="int4"),
        Gemm("straight", m=7, n=30, k=9, weight_dtype="int4", copies=1),
    )
    grid = machine("weight", rows=3, cols=6)
    even = Quantisation(rounding="half_even")
    folder = generate(program(*gemms), grid, tmp_path / "project", quantisation=even).folder
    check = _rung(folder, "csim", "csim")
    assert check.verdict == "passed", check.reason


def test_lint_catches_a_misspelt_pragma(plain: Path) -> None:
    _edit(plain / "hls" / "kernel.cpp", "#pragma HLS PIPELINE II=1", "#pragma HLS PIPLINE II=1")
    check = _rung(plain, "lint", "lint")
    assert check.verdict == "failed"
    assert "'PIPLINE' is unknown (did you mean 'PIPELINE'?)" in check.reason


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("pe[row][col] += a_beat[row]", "pe[row][col] = a_beat[row]", "differ from numpy's"),
        ("(wide + half) >> shift", "wide >> shift", "differ from numpy's"),
        ("k < s.k.trips", "k < s.k.trips - 1", "read while it is empty"),
        ("fi < i_size", "fi < 99", "heap-buffer-overflow"),
    ],
    ids=["dropped accumulate", "wrong requantise", "stream short by one", "beyond a block"],
)
def test_csim_catches_a_seeded_fault(plain: Path, old: str, new: str, message: str) -> None:
    _needs_compiler()
    _edit(plain / "hls" / "kernel.cpp", old, new)
    check = _rung(plain, "csim", "csim")
    assert check.verdict == "failed"
    assert message in check.reason


def test_trips_catches_a_size_that_is_not_the_programs(plain: Path) -> None:
    _needs_compiler()
    text = (plain / "hls" / "params.h").read_text(encoding="utf-8")
    small, full = text.split("#else", 1)
    assert "{3, 8, 8, 3},  // n" in full
    changed = full.replace("{3, 8, 8, 3},  // n", "{4, 8, 8, 3},  // n", 1)
    (plain / "hls" / "params.h").write_text(f"{small}#else{changed}", encoding="utf-8")
    with pytest.raises(CsimError, match=r"^nest 'only_load_x' runs 36 leaves, the program has 27$"):
        check_trips(plain, read_description(plain), find_toolchain())


def test_without_a_compiler_the_rungs_are_skipped_with_the_reason(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csim.shutil, "which", lambda _: None)
    checks = verify(plain, "csim")
    assert [(check.rung, check.verdict, check.reason) for check in checks[1:]] == [
        ("csim", "skipped", "g++ absent"), ("trips", "skipped", "g++ absent"),
    ]  # fmt: skip


def test_without_the_vendor_headers_the_rungs_are_skipped(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csim.shutil, "which", lambda _: "/usr/bin/true")
    monkeypatch.setattr(csim, "ap_int_headers", lambda: None)
    check = _rung(plain, "csim", "csim")
    assert check.verdict == "skipped"
    assert check.reason.startswith("ap_int.h absent")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "design.json").unlink(), "no generated project"),
        (lambda folder: (folder / "hls" / "tb.cpp").unlink(), "lacks 'hls/tb.cpp'"),
        (
            lambda folder: _edit(folder / "design.json", '"hls/tb.cpp"', '"../tb.cpp"'),
            "outside of the folder",
        ),
    ],
)
def test_a_damaged_folder_is_one_line(plain: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(plain)
    with pytest.raises(InputError, match=message) as caught:
        verify(plain)
    assert "\n" not in str(caught.value)


def test_an_unknown_level_names_the_closest(plain: Path) -> None:
    with pytest.raises(InputError, match=r"level 'csmi' is unknown .did you mean 'csim'"):
        verify(plain, "csmi")
