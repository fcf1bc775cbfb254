"""Calibration finds the constants that made a set of times, and refuses files that mean nothing."""

from pathlib import Path
from statistics import mean

import pandas as pd
import pytest
import yaml

from tilewright.calibration import calibrate, fit_constants
from tilewright.cli import run
from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Graph
from tilewright.hardware import predict
from tilewright.hardware_models import MeasuredModel
from tilewright.hardware_points import HardwarePoint, Layer, in_first_half, read_points
from tilewright.sim import fitted
from tilewright.sim.fitted import constants_of
from tilewright.validation import validate

HEADER = "source,device,op,m,n,k,other_dims,dtype,metric,value,unit\n"
ROWS = (
    "matmul,4096,4096,4096,,fp16", "matmul,8192,8192,8192,,fp16", "matmul,2048,12288,12288,,fp16",
    "gelu,,,,elements=33554432,fp16", "gelu,,,,elements=268435456,fp16", "relu,,,,elements=1024,fp16",
    "relu,,,,elements=2048,fp16", "add,,,,rows=65536 cols=4096,fp16", "layernorm,4096,2048,,,fp16",
    "softmax,65536,1024,,,fp16",
)  # fmt: skip
TRUE = {"launch_us": 12.0, "dram_efficiency": 0.7, "compute_efficiency": 0.6}
DATA = Path(fitted.__file__).parent / "data"


def _file(tmp_path: Path, times: list[float], unit: str = "us") -> Path:
    file = tmp_path / "mine.csv"
    lines = [f"me,h100,{row},latency,{time!r},{unit}\n" for row, time in zip(ROWS, times, strict=True)]
    file.write_text(HEADER + "".join(lines), encoding="utf-8")
    return file


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """Times that the model itself gives on an H100 with the constants TRUE."""
    blank = read_points(_file(tmp_path, [1.0] * len(ROWS)))
    return _file(tmp_path, [predict(point, TRUE) for point in blank])


def test_the_constants_behind_a_set_of_times_are_found(measured: Path) -> None:
    fit = calibrate(read_points(measured), "gpu_like", "h100", n_folds=3)
    for name, value in TRUE.items():
        assert fit.constants[name] == pytest.approx(value, rel=0.05)
    assert fit.mean_abs_error_fraction < 0.02
    assert fit.held_out_error_fraction < 0.1
    assert fit.n_folds == 3


def test_points_of_one_layer_are_left_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [point for point in read_points(DATA / "gemmini_points.csv") if point.set == "gemmini_mapped"]
    kept: list[list[str]] = []

    def fit(fitted_to: list[HardwarePoint], *_: object) -> dict[str, float]:
        kept.append([point.group for point in fitted_to])
        return {}

    monkeypatch.setattr("tilewright.calibration.fit_constants", fit)
    calibrate(points, "systolic_ws", "asic45", n_folds=3, run=lambda point, _: point.reference)
    every, *folds = kept
    assert len(every) == len(points)
    assert len(folds) == 3
    for fold in folds:  # a layer is in a fit with all of its rows or with none
        assert all(fold.count(group) in (0, every.count(group)) for group in set(every))
    assert sum(len(every) - len(fold) for fold in folds) == len(points)


def test_few_points_leave_a_constant_where_it_was() -> None:
    # one product says nothing of the launch, which stays at its own value
    constants = constants_of("gpu_like", "h100")
    point = next(point for point in read_points(DATA / "gpu_points.csv") if point.set == "a100_matmul")
    values = fit_constants(
        [point], constants, lambda one, given: one.reference * 0.9 / given["compute_efficiency"]
    )
    assert values["launch_us"] == pytest.approx(20.0)
    assert 0.85 < values["compute_efficiency"] < 0.92


def test_halves_are_told_by_layer_and_by_row() -> None:
    layers = [point for point in read_points(DATA / "gemmini_points.csv") if point.set == "gemmini_mapped"]
    first = {point.group for point in layers if in_first_half(point, layers)}
    second = {point.group for point in layers if not in_first_half(point, layers)}
    assert not first & second
    assert abs(len(first) - len(second)) <= 1


def test_the_verb_writes_constants_that_simulate_takes(measured: Path, tmp_path: Path) -> None:
    out = tmp_path / "h100.yaml"
    assert (
        run(["calibrate", str(measured), "--template", "gpu_like", "--device", "h100", "--out", str(out)])
        == 0
    )
    assert out.with_suffix(".png").stat().st_size > 10_000
    written = yaml.safe_load(out.read_text(encoding="utf-8"))
    assert written["device"] == "h100"
    assert written["parameters"]["launch_us"] == pytest.approx(12, rel=0.05)
    simulate = ["simulate", "tiny-gpt2", "--template", "gpu_like", "--device", "h100", "--set", f"@{out}"]
    assert run(simulate) == 0
    design = tmp_path / "DESIGN.yaml"
    design.write_text(out.read_text(encoding="utf-8") + "workload: {model: tiny-gpt2}\n", encoding="utf-8")
    assert run(["simulate", "--design", str(design)]) == 0


@pytest.mark.parametrize(
    ("change", "template", "device", "said"),
    [
        (("us", "furlong"), "gpu_like", "h100", "row 1: unit 'furlong' is none of us, ms, s, ns"),
        (("latency,", "latency,x"), "gpu_like", "h100", "is not a number"),
        (("latency,", "latency,-"), "gpu_like", "h100", "value must be > 0"),
        (("device", "gadget"), "gpu_like", "h100", "column 'device' is missing"),
        (("h100", "t4"), "gpu_like", "h100", "0 points of h100 can be used, 3 constants need at least 6"),
        (("", ""), "gpu_lik", "h100", "did you mean 'gpu_like'"),
        (("", ""), "gpu_like", "h10", "did you mean 'h100'"),
        (("", ""), "sequential", "u280", "has no constants that are fitted"),
        (("", ""), "gpu_like", "u280", "is for devices of class gpu"),
    ],
)
def test_a_file_that_means_nothing_is_one_line_and_writes_nothing(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    change: tuple[str, str], template: str, device: str, said: str,
) -> None:  # fmt: skip
    measured.write_text(measured.read_text(encoding="utf-8").replace(*change), encoding="utf-8")
    out = tmp_path / "out" / "c.yaml"
    status = run(["calibrate", str(measured), "--template", template, "--device", device, "--out", str(out)])
    assert status == 2
    assert said in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
    assert not out.parent.exists()


@pytest.fixture(scope="module")
def hardware() -> dict[str, dict[str, float]]:
    """The sets of the project's own points, whole models left out."""
    errors: dict[str, list[tuple[float, float]]] = {}
    for name in ("gemmini_points.csv", "gpu_points.csv"):
        for point in read_points(DATA / name):
            if isinstance(point.work, Graph | Layer):
                errors.setdefault(point.set, []).append((point.reference, predict(point, {})))
    return {name: _summary(pairs) for name, pairs in errors.items()}


def _summary(pairs: list[tuple[float, float]]) -> dict[str, float]:
    ranks = pd.DataFrame(pairs, columns=["reference", "ours"]).rank()
    return {
        "n_points": len(pairs),
        "mean_abs_error_fraction": mean(abs(ours / reference - 1) for reference, ours in pairs),
        "spearman": ranks["reference"].corr(ranks["ours"]),
    }


def test_chosen_mappings_of_a_gemmini_are_met(hardware: dict[str, dict[str, float]]) -> None:
    mapped, default = hardware["gemmini_mapped"], hardware["gemmini_default"]
    assert mapped["n_points"] == default["n_points"] == 111
    assert mapped["mean_abs_error_fraction"] < 0.12
    assert mapped["spearman"] > 0.985
    assert default["mean_abs_error_fraction"] < 0.2
    assert default["spearman"] > 0.985


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("a100_matmul", 0.10), ("a100_softmax", 0.10), ("a100_gelu", 0.10),
        ("nvidia_a100_pcie_40gb_linear", 0.10), ("nvidia_a100_pcie_40gb_softmax", 0.10),
        ("nvidia_a100_pcie_40gb_ln", 0.10), ("nvidia_a100_80gb_pcie_linear", 0.10),
        ("nvidia_a100_80gb_pcie_softmax", 0.10), ("nvidia_a100_80gb_pcie_ln", 0.10),
        ("tesla_v100_pcie_32gb_linear", 0.15), ("tesla_v100_pcie_32gb_bmm", 0.15),
        ("tesla_v100_pcie_32gb_softmax", 0.15), ("tesla_v100_pcie_32gb_ln", 0.15),
        ("tesla_v100_pcie_32gb_gelu", 0.15),
    ],
)  # fmt: skip
def test_measured_operators_above_a_hundred_microseconds_are_met(
    hardware: dict[str, dict[str, float]], name: str, most: float
) -> None:
    assert hardware[name]["mean_abs_error_fraction"] <= most


def test_a_whole_model_is_met_with_the_constants_of_its_kernels() -> None:
    # GPT-2 large, batch 8 of 1024 tokens in fp32 on an A100 PCIe: 1084.7 ms measured, none of it fitted
    (point,) = (
        point for point in read_points(DATA / "gpu_points.csv")
        if isinstance(point.work, MeasuredModel) and point.work.model == "gpt2_large" and point.work.batch == 8
    )  # fmt: skip
    assert point.reference == pytest.approx(1084731)
    assert predict(point, {}) == pytest.approx(point.reference, rel=0.1)


def test_stated_errors_are_those_of_the_points(hardware: dict[str, dict[str, float]]) -> None:
    from tilewright.sim.validated import validated_errors

    (row,) = (row for row in validated_errors() if row.scope == "systolic_ws")
    assert row.error_fraction == pytest.approx(
        hardware["gemmini_mapped"]["mean_abs_error_fraction"], abs=1e-3
    )
    v100 = [
        entry for name, entry in hardware.items() if name.startswith("tesla_v100") and "_short" not in name
    ]
    n_points = sum(entry["n_points"] for entry in v100)
    mean = sum(entry["n_points"] * entry["mean_abs_error_fraction"] for entry in v100) / n_points
    (row,) = (row for row in validated_errors() if row.scope == "gpu_like/v100_pcie")
    assert (row.n_points, row.error_fraction) == (n_points, pytest.approx(mean, abs=1e-3))


def test_a_row_that_cannot_be_expressed_is_a_skip_with_its_reason(tmp_path: Path) -> None:
    file = tmp_path / "points.csv"
    file.write_text(
        HEADER
        + "me,a100_80gb,matmul,256,256,256,,fp16,latency,9,us\n"
        + "me,a100_80gb,matmul,256,256,x,,fp16,latency,9,us\n"
        + "me,a100_80gb,fft,256,,,,fp16,latency,9,us\n"
        + "me,abacus,matmul,256,256,256,,fp16,latency,9,us\n"
        + "me,a100_80gb,matmul,256,256,256,,fp16,power,9,W\n",
        encoding="utf-8",
    )
    points = validate("hardware", file, None)["points"]
    assert [point["skipped_because"] is None for point in points] == [True, False, False, False, False]
    assert points[0]["id"] == "a100_80gb_matmul_short|1"
    assert "k must be a positive whole number, got 'x'" in points[1]["skipped_because"]
    assert "'fft'" in points[2]["skipped_because"]
    assert "'abacus'" in points[3]["skipped_because"]
    assert "'power'" in points[4]["skipped_because"]


def test_a_table_of_neither_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "points.csv"
    file.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(InputError, match="column 'source' is missing"):
        read_points(file)
