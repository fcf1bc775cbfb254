"""InTAR's kernels: loops counted by hand, measured baselines, tasks whose steps take turns."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.cases import intar
from tilewright.cases.case import CaseResult, case_named
from tilewright.cases.hls_tasks import port_stages, tasks_pipeline
from tilewright.sim.spatial import ENTRY_CYCLES
from tilewright.sim.spatial_deadlock import check_deadlock
from tilewright.sim.spatial_emit import pipeline_program, simulate_pipeline

#: How far a kernel may be from a measurement on the board.
ALLOWED = {"mlp": 0.15, "vae": 0.35}
OTHERS_ALLOWED = 0.25


@pytest.fixture(scope="module")
def result() -> CaseResult:
    return intar.run()


def step(name: str, outer: str, level: int, trips: int, phase: int = 1, task: str = "t") -> dict[str, str]:
    return {
        "design": "d", "task": task, "phase": str(phase), "step": name, "outer": outer, "level": str(level),
        "trips": str(trips), "packets": "1", "ii": "1", "operations": "read mac write", "port": "", "macs": "0",
        "takes": "", "gives": "",
    }  # fmt: skip


def macs(design: str) -> int:
    return sum(one.entries * one.trips * one.macs for one in intar.pipeline(design).processes)


def test_every_measured_baseline_comes_out_of_its_loops(result: CaseResult) -> None:
    errors = {one.id: abs(one.error_fraction) for one in result.points if one.error_fraction is not None}
    assert len(errors) == 8
    for name, error in errors.items():
        assert error < ALLOWED.get(name.split("/")[0], OTHERS_ALLOWED), name


def test_every_design_is_a_point_and_every_kernel_has_three_styles(result: CaseResult) -> None:
    names = {one.id for one in result.points}
    for kernel in intar.KERNELS:
        for style in ("sequential", "dataflow", "reconfigurable"):
            assert f"{kernel}/{style}/cycles" in names
    assert len(names) == 20


@pytest.mark.parametrize("design", ["mlp/sequential", "mlp/dataflow", "mlp/reconfigurable"])
def test_the_loops_of_the_perceptron_do_all_of_its_products(design: str) -> None:
    assert macs(design) == 256 * 1024 + 1024 * 2048 + 2048 * 256


@pytest.mark.parametrize("style", ["sequential", "dataflow", "dataflow-early-871dsp"])
def test_the_loops_of_the_convolutions_do_all_of_their_products(style: str) -> None:
    assert macs(f"cnn4l/{style}") == 9 * (224**2 + 448**2 + 896**2 + 448**2)


@pytest.mark.parametrize(
    "style", ["sequential", "dataflow", "dataflow-scaled", "dataflow-loop-switched", "reconfigurable"]
)
def test_the_loops_of_the_gated_network_do_all_of_its_products(style: str) -> None:
    assert macs(f"gating_net/{style}") == 3 * 32 * 4096 * 11008


@pytest.mark.parametrize("style", ["dataflow", "reconfigurable"])
def test_the_loops_of_attention_do_all_of_its_products(style: str) -> None:
    assert macs(f"self_attention/{style}") == 3 * 256 * 1024**2 + 2 * 256**2 * 1024


@given(st.integers(1, 6), st.integers(1, 20), st.integers(1, 20), st.integers(1, 4), st.integers(1, 20))
def test_steps_of_a_task_take_turns(outer: int, first: int, second: int, inner: int, third: int) -> None:
    steps = [
        step("a", f"{outer}", 1, first),
        step("b", f"{outer} {inner}", 1, second),
        step("c", f"{outer}", 1, third),
        step("d", "", 0, third, phase=2),
    ]
    entry = 6 - 1 + ENTRY_CYCLES  # read 1, multiply and add 4, write 1
    by_hand = outer * (first + entry + inner * (second + entry) + third + entry) + third + entry
    run = simulate_pipeline(tasks_pipeline("d", steps, 300.0), "u280", 300.0, 1000.0)
    assert run.timing.latency_cycles == by_hand


def test_a_nested_sequence_takes_turns_with_what_stands_behind_it() -> None:
    steps = [step("a", "5 3", 2, 7), step("b", "5 3", 2, 9), step("c", "5", 1, 11)]
    entry = 6 - 1 + ENTRY_CYCLES
    run = simulate_pipeline(tasks_pipeline("d", steps, 300.0), "u280", 300.0, 1000.0)
    assert run.timing.latency_cycles == 5 * (3 * (7 + 9 + 2 * entry) + 11 + entry)


def test_a_request_to_memory_gathers_its_burst_and_waits_for_the_board() -> None:
    # One word and 3 idle cycles, four queue ends, 106.7 ns at 300 MHz.
    assert port_stages("wait", 256, 1, 300.0) == 4 + 4 + 33
    # 512 bit at 300 MHz are 19.2 GB/s, a third more than a channel gives; 1 KiB is 16 words.
    assert port_stages("cold", 512, 96, 300.0) == 16 + 4 + 33 + 32
    assert port_stages("sync", 32, 1, 300.0) == 64


@pytest.mark.parametrize(
    "design", [name for name in intar.designs() if name.split("/")[0] in ("mlp", "cnn4l", "vae")]
)
def test_no_design_deadlocks(design: str) -> None:
    check_deadlock(pipeline_program(intar.pipeline(design), 1000.0))


def test_cores_that_change_roles_beat_fixed_designs(result: CaseResult) -> None:
    claims = {one.name: one for one in result.claims}
    assert claims["speedup_vs_dataflow"].holds
    assert claims["speedup_vs_sequential"].holds


def test_our_stages_are_at_least_as_good_as_the_stated_ones(result: CaseResult) -> None:
    speedup = {one["id"]: one["speedup"] for one in result.alternatives}
    assert set(speedup) == {"mlp", "cnn4l", "self_attention"}
    assert min(speedup.values()) >= 1


def test_the_figure_is_written(result: CaseResult, tmp_path: Path) -> None:
    case_named("intar").draw(result, tmp_path / "intar")
    assert {file.name for file in tmp_path.iterdir()} == {"intar.png", "intar.svg"}
