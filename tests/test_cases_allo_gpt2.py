"""The Allo layer against the static reports that its artifact published."""

from pathlib import Path

import pytest

from tilewright.cases import allo_gpt2
from tilewright.cases.case import CaseResult, case_named, design_file
from tilewright.runs import from_file


@pytest.fixture(scope="module")
def result() -> CaseResult:
    return allo_gpt2.run()


def test_modules_and_intervals_come_out_within_three_percent(result: CaseResult) -> None:
    errors = {one.id: abs(one.error_fraction) for one in result.points if one.error_fraction is not None}
    latencies = [name for name in errors if "/latency/" in name]
    assert len(errors) == 18
    assert len(latencies) == 2
    assert max(errors.values()) < 0.03


def test_every_module_that_the_setup_names_is_a_point(result: CaseResult) -> None:
    names = {one.id for one in result.points}
    for region, modules in (
        (1, "latency interval weight_loader linear_qkv_each input_loader"),
        (2, "latency interval weight_loader_ds0 attention mask softmax context linear_ds0 residual layernorm"
            " K_writer V_writer Q_buffer"),
        (3, "latency interval weight_loader linear_ds1 gelu linear_ds2 residual layernorm output_writer"),
    ):  # fmt: skip
        assert {f"region{region}/{module}/cycles" for module in modules.split()} <= names


def test_no_loop_is_faster_than_its_multiply_accumulates_or_its_port() -> None:
    layer = allo_gpt2.pipeline()
    macs = sum(one.entries * one.trips * one.macs for one in layer.processes)
    # Four products of 128 x 1024 x 1024, two of the feed-forward network, scores and mixing of 16 heads of 64.
    assert macs == 128 * 1024 * 1024 * 4 + 2 * 128 * 1024 * 4096 + 2 * 16 * 128 * 128 * 64
    for region in allo_gpt2.REGIONS:
        report = allo_gpt2.region_report(region)
        for module, cycles in report.modules:
            own = [one for one in layer.processes if one.module == module]
            assert cycles >= max(one.entries * one.trips * one.ii for one in own)
        assert report.interval_cycles <= report.latency_cycles + 1


def test_the_simulated_layer_waits_where_a_static_report_does_not(result: CaseResult) -> None:
    ours = {one.id: one.ours for one in result.points}
    # K is an array: no query is scored before region 1 has written all of it.
    started = {module: first for module, first, _ in allo_gpt2.layer_run().active()}
    assert started["region2/mask"] > ours["region1/linear_qkv_each/cycles"] - 1024
    assert ours["layer/latency/cycles"] > max(
        ours[f"region{region}/latency/cycles"] for region in allo_gpt2.REGIONS
    )
    assert ours["layer/latency/cycles"] < sum(
        ours[f"region{region}/latency/cycles"] for region in allo_gpt2.REGIONS
    )


def test_a_figure_is_drawn(result: CaseResult, tmp_path: Path) -> None:
    case_named("allo_gpt2").draw(result, tmp_path / "allo_gpt2")
    assert {file.name for file in tmp_path.iterdir()} == {"allo_gpt2.png", "allo_gpt2.svg"}


def test_our_own_choice_is_no_slower_than_the_source_on_no_more_dsps(result: CaseResult) -> None:
    alike, best = result.alternatives
    assert best["dsp"] <= 1776 + 4
    assert best["speedup"] >= max(1, alike["speedup"])
    layer = next(one.ours for one in result.points if one.id == "layer/latency/cycles")
    assert best["latency_cycles"] == pytest.approx(layer / best["speedup"])


def test_the_design_file_of_the_case_runs_by_itself(result: CaseResult) -> None:
    report = from_file(design_file("allo_gpt2", "dataflow"), None).simulate("tile")
    block = [one for one in report.operators if one.layer_class == "block"]
    assert max(one.end_cycle for one in block) == result.alternatives[0]["latency_cycles"]
    assert report.interval_cycles is not None
