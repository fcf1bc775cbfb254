import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.search_toy import Zdt, toy_plan
from tilewright.dataflow.errors import InputError
from tilewright.search.evaluator import Simulated
from tilewright.search.front import Fronts, write_whole
from tilewright.search.outcome import Progress
from tilewright.search.pareto import pareto_mask
from tilewright.search.run import run_study
from tilewright.search.store import FILE_NAME, load_fronts
from tilewright.search.study import StudyError, StudyPlan
from tilewright.sim.design import Design
from tilewright.sim.space import Space

TABLES = ("designs.csv", "front_asic.csv")


def _tables(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.csv")}


def _simulated(fronts: Fronts) -> int:
    return sum(row.outcome.simulated for row in fronts.rows)


def test_the_known_front_is_found_in_a_hundred_thousandth_of_the_space(tmp_path: Path) -> None:
    zdt = Zdt(n_parameters=10)
    fronts = run_study(toy_plan(), tmp_path, evaluate=zdt)
    front = fronts.front("asic")
    assert front.values().tolist() == [list(point) for point in zdt.front()]
    assert _simulated(fronts) == 1500 < 8**10 / 1e5
    assert front.best == {"latency_ms": 0, "energy_mj": 7}


def test_nsga2_beats_random_points(tmp_path: Path) -> None:
    volumes = {
        sampler: run_study(toy_plan(sampler=sampler, evaluations=400), tmp_path / sampler, evaluate=Zdt())
        .front("asic")
        .hypervolume
        for sampler in ("nsga2", "random")
    }
    assert volumes["nsga2"] > 1.05 * volumes["random"]


def test_a_small_space_is_searched_whole(tmp_path: Path) -> None:
    zdt = Zdt(n_parameters=3, n_values=4)
    fronts = run_study(toy_plan(evaluations=100), tmp_path, evaluate=zdt)
    assert _simulated(fronts) == 4**3
    assert fronts.front("asic").values().tolist() == [list(point) for point in zdt.front()]


def test_the_front_is_what_brute_force_over_all_rows_says(tmp_path: Path) -> None:
    plan = toy_plan(evaluations=200, objectives=("latency_ms", "energy_mj", "area"))
    fronts = run_study(plan, tmp_path, evaluate=Zdt())
    values = np.array([[row.outcome.metrics[name] for name in plan.objectives] for row in fronts.rows])
    on_front = {fronts.rows[i].key for i in np.flatnonzero(pareto_mask(values))}
    assert {row.key for row in fronts.front("asic").rows} == on_front


def test_constraints_hold_on_the_front_and_what_misses_them_is_recorded_with_its_reason(
    tmp_path: Path,
) -> None:
    plan = toy_plan(constraints=("area <= 12", "latency_ms >= 1.5"), evaluations=300)
    fronts = run_study(plan, tmp_path, evaluate=Zdt())
    for row in fronts.front("asic").rows:
        assert row.outcome.metrics["area"] <= 12
        assert row.outcome.metrics["latency_ms"] >= 1.5
    missed = [row for row in fronts.rows if row.outcome.status == "infeasible"]
    assert missed
    assert all(row.outcome.metrics["latency_ms"] < 1.5 for row in missed)
    assert all("latency_ms >= 1.5, has " in row.outcome.reason for row in missed)


def test_infeasible_points_are_repaired_before_they_cost_a_simulation(tmp_path: Path) -> None:
    fronts = run_study(toy_plan(constraints=("area <= 12",), evaluations=300), tmp_path, evaluate=Zdt())
    # A point of the first generation misses area <= 12 almost surely, being random; a repaired one does not.
    assert all(row.outcome.status == "ok" for row in fronts.rows)


def test_a_design_that_cannot_be_built_is_recorded_and_the_search_goes_on(tmp_path: Path) -> None:
    fronts = run_study(
        toy_plan(sampler="exhaustive", evaluations=64), tmp_path, evaluate=Zdt(3, 4, forbidden=2)
    )
    reasons = [row.outcome.reason for row in fronts.rows if row.outcome.status == "infeasible"]
    assert reasons == ["x1 must not be 2"] * 16


def test_pruning_saves_simulations_and_loses_nothing(tmp_path: Path) -> None:
    plan = toy_plan(evaluations=600)
    pruned = run_study(plan, tmp_path / "pruned", evaluate=Zdt(bound_fraction=0.9))
    rows = [row for row in pruned.rows if row.outcome.status == "pruned"]
    assert len(rows) > 100
    front = pruned.front("asic").values()
    zdt = Zdt()
    for row in rows:
        real = zdt.simulate(row.design).metrics
        cost = np.array([real["latency_ms"], real["energy_mj"]])
        assert ((front <= cost).all(axis=1) & (front < cost).any(axis=1)).any()


def test_every_device_class_has_a_front_of_its_own_and_shares_the_evaluations(tmp_path: Path) -> None:
    plan = toy_plan(templates=("toy", "twice"), devices=("toy_asic", "toy_fpga"), evaluations=402)
    fronts = run_study(plan, tmp_path, evaluate=Zdt())
    assert [front.device_class for front in fronts.fronts] == ["asic", "fpga"]
    pairs = [(row.design.template, row.design.device) for row in fronts.rows]
    assert {pair: pairs.count(pair) for pair in set(pairs)} == {
        ("toy", "toy_asic"): 101,
        ("toy", "toy_fpga"): 101,
        ("twice", "toy_asic"): 100,
        ("twice", "toy_fpga"): 100,
    }
    # The second template takes twice the energy, so that only the first is on a front.
    assert {row.design.template for front in fronts.fronts for row in front.rows} == {"toy"}
    assert (tmp_path / "front_fpga.csv").is_file()


def test_what_a_used_up_space_leaves_over_goes_to_the_others(tmp_path: Path) -> None:
    plan = toy_plan(templates=("toy", "twice"), space={"x0": (0,)}, evaluations=200)

    class Narrow(Zdt):
        def space(self, template: str, device: str) -> Space:
            return super().space(template, device) if template == "twice" else Zdt(2, 8).space("", "")

    fronts = run_study(plan, tmp_path, evaluate=Narrow())
    templates = [row.design.template for row in fronts.rows]
    assert (templates.count("toy"), templates.count("twice")) == (8, 192)


def test_the_hypervolume_never_falls_and_is_told_as_it_grows(tmp_path: Path) -> None:
    told: list[Progress] = []
    fronts = run_study(toy_plan(evaluations=300), tmp_path, evaluate=Zdt(), progress=told.append)
    history = [state.hypervolume for state in fronts.front("asic").history]
    assert history == sorted(history)
    assert history[-1] == fronts.front("asic").hypervolume == dict(told[-1].hypervolume)["asic"] > history[0]
    assert [state.n_simulated for state in fronts.front("asic").history] == [
        40,
        80,
        120,
        160,
        200,
        240,
        280,
        300,
    ]
    assert (told[-1].n_simulated, told[-1].n_total) == (300, 300)


def test_seeds_change_the_path_and_equal_seeds_give_equal_bytes(tmp_path: Path) -> None:
    plans = {
        "a": toy_plan(evaluations=200),
        "b": toy_plan(evaluations=200),
        "c": toy_plan(evaluations=200, seed=1),
    }
    for name, plan in plans.items():
        run_study(plan, tmp_path / name, evaluate=Zdt())
    assert _tables(tmp_path / "a") == _tables(tmp_path / "b") != _tables(tmp_path / "c")


def test_two_workers_give_the_bytes_of_one(tmp_path: Path) -> None:
    plan = toy_plan(devices=("toy_asic", "toy_fpga"), evaluations=240)
    for name, workers in (("one", 1), ("two", 2)):
        run_study(plan, tmp_path / name, workers=workers, evaluate=Zdt(bound_fraction=0.5))
    assert len(_tables(tmp_path / "one")) == 3
    assert _tables(tmp_path / "one") == _tables(tmp_path / "two")


def test_workers_of_a_program_with_threads_are_spawned_and_give_the_same_bytes(tmp_path: Path) -> None:
    plan, stop = toy_plan(evaluations=100), threading.Event()
    run_study(plan, tmp_path / "one", evaluate=Zdt())
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        run_study(plan, tmp_path / "two", workers=2, evaluate=Zdt())
    finally:
        stop.set()
        thread.join()
    assert _tables(tmp_path / "one") == _tables(tmp_path / "two")


def test_a_finished_study_resumes_without_simulating_anything(tmp_path: Path) -> None:
    class Refusing(Zdt):
        def simulate(self, design: Design) -> Simulated:
            raise AssertionError(f"simulated {design} again")

    run_study(toy_plan(evaluations=200), tmp_path, evaluate=Zdt())
    before, told = _tables(tmp_path), list[Progress]()
    run_study(toy_plan(evaluations=200), tmp_path, evaluate=Refusing(), resume=True, progress=told.append)
    assert _tables(tmp_path) == before
    assert told[-1].n_from_store == 200


def test_more_evaluations_extend_a_study(tmp_path: Path) -> None:
    run_study(toy_plan(evaluations=200), tmp_path / "a", evaluate=Zdt())
    told = list[Progress]()
    run_study(toy_plan(evaluations=400), tmp_path / "a", evaluate=Zdt(), resume=True, progress=told.append)
    run_study(toy_plan(evaluations=400), tmp_path / "b", evaluate=Zdt())
    assert told[-1].n_from_store == 200
    assert _tables(tmp_path / "a") == _tables(tmp_path / "b")


_SLOW = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.search_toy import Zdt, toy_plan
from tilewright.search.run import run_study
zdt = Zdt(delay_s=0.01, bound_fraction=0.5)
run_study(toy_plan(evaluations=200), Path({folder!r}), workers={workers}, evaluate=zdt)
"""


def _start_slow_study(folder: Path, workers: int) -> "subprocess.Popen[bytes]":
    text = _SLOW.format(root=str(Path(__file__).parents[1]), folder=str(folder), workers=workers)
    process = subprocess.Popen([sys.executable, "-c", text], stderr=subprocess.PIPE, start_new_session=True)
    log, deadline = folder / f"{FILE_NAME}-wal", time.monotonic() + 60
    while not (log.exists() and log.stat().st_size > 400_000):  # some dozens of outcomes
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("workers", [1, 2])
def test_a_study_that_was_killed_resumes_to_the_same_bytes(tmp_path: Path, workers: int) -> None:
    zdt, plan = Zdt(bound_fraction=0.5), toy_plan(evaluations=200)
    process = _start_slow_study(tmp_path / "killed", workers)
    process.kill()  # SIGKILL
    process.wait()
    assert not (tmp_path / "killed" / "designs.csv").exists()
    told = list[Progress]()
    run_study(plan, tmp_path / "killed", evaluate=zdt, resume=True, progress=told.append)
    assert 20 < told[-1].n_from_store < 200
    run_study(plan, tmp_path / "whole", evaluate=zdt)
    assert _tables(tmp_path / "killed") == _tables(tmp_path / "whole")
    assert load_fronts(tmp_path / "killed").front("asic") == load_fronts(tmp_path / "whole").front("asic")


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    process = _start_slow_study(tmp_path, workers=2)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while _group_is_alive(process.pid):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)


def _group_is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return any(_state(pid) != "Z" for pid in _members(group))


def _members(group: int) -> list[int]:
    return [
        int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _group_of(int(p.name)) == group
    ]


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_leaves_a_study_that_resumes_to_the_same_bytes(tmp_path: Path, workers: int) -> None:
    process = _start_slow_study(tmp_path / "stopped", workers)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: to all processes
    _, errors = process.communicate(timeout=30)
    assert b"KeyboardInterrupt" in errors
    assert os.listdir(tmp_path / "stopped") == [FILE_NAME]
    zdt, plan = Zdt(bound_fraction=0.5), toy_plan(evaluations=200)
    run_study(plan, tmp_path / "stopped", evaluate=zdt, resume=True)
    run_study(plan, tmp_path / "whole", evaluate=zdt)
    assert _tables(tmp_path / "stopped") == _tables(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"constraints": ("area <= 0.5",)}, "toy on toy_asic: no feasible design among"),
        ({"constraints": ("area <= 0.5",)}, "'area <= 0.5' rules them out; closest: area <= 0.5, has 1"),
        ({"constraints": ("dsp_fraction <= 0.8",)}, "no device of the study is an fpga"),
        ({"space": {"x9": (1,)}}, "parameter 'x9' is unknown"),
        ({"sampler": "exhaustive"}, "the space has 16777216 designs, evaluations are 1500"),
        ({"devices": ("a", "b"), "evaluations": 1}, "evaluations must be >= 2"),
    ],
)
def test_a_study_that_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    with pytest.raises(InputError) as refusal:
        run_study(toy_plan(**change), tmp_path / "out", evaluate=Zdt())
    assert said in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_a_constraint_that_only_simulations_can_miss_is_named_when_none_keeps_it(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        run_study(toy_plan(constraints=("energy_mj <= 0.5",), evaluations=50), tmp_path, evaluate=Zdt())
    assert "no feasible design among 50 tried: 'energy_mj <= 0.5' rules them out" in str(refusal.value)


def test_a_bound_that_misses_a_constraint_saves_the_simulation(tmp_path: Path) -> None:
    plan = toy_plan(constraints=("energy_mj <= 4",), evaluations=100)
    fronts = run_study(plan, tmp_path, evaluate=Zdt(bound_fraction=0.9))
    ruled_out = [row for row in fronts.rows if "is at least" in row.outcome.reason]
    assert ruled_out
    assert not any(row.outcome.simulated for row in ruled_out)
    assert all(Zdt().simulate(row.design).metrics["energy_mj"] > 4 for row in ruled_out)


def test_a_device_without_a_feasible_design_is_left_out_with_its_reason(tmp_path: Path) -> None:
    plan = toy_plan(devices=("toy_asic", "toy_fpga"), constraints=("area_mm2 <= 0.5",), evaluations=100)
    fronts = run_study(plan, tmp_path, evaluate=Zdt())
    assert [front.device_class for front in fronts.fronts] == ["fpga"]
    assert len(fronts.left_out) == 1
    assert "toy on toy_asic" in fronts.left_out[0]
    assert load_fronts(tmp_path).left_out == fronts.left_out


def test_an_objective_that_is_not_positive_is_refused(tmp_path: Path) -> None:
    class Free(Zdt):
        def simulate(self, design: Design) -> Simulated:
            simulated = super().simulate(design)
            return replace(simulated, metrics={**simulated.metrics, "energy_mj": 0.0})

    with pytest.raises(StudyError, match=r"objective 'energy_mj' must be > 0, got 0\.0"):
        run_study(toy_plan(evaluations=50), tmp_path, evaluate=Free())


def test_a_fault_in_a_model_is_raised_and_not_taken_for_an_infeasible_design(tmp_path: Path) -> None:
    class Faulty(Zdt):
        def simulate(self, design: Design) -> Simulated:
            raise ZeroDivisionError(f"a fault at {design}")

    for workers in (1, 2):
        with pytest.raises(ZeroDivisionError):
            run_study(_plan(50), tmp_path / str(workers), evaluate=Faulty(), workers=workers)


def _plan(evaluations: int) -> StudyPlan:
    return toy_plan(evaluations=evaluations)


def test_workers_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="workers must be >= 1, got 0"):
        run_study(_plan(50), tmp_path / "out", evaluate=Zdt(), workers=0)
    assert not (tmp_path / "out").exists()


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "designs.csv"
    file.mkdir()
    with pytest.raises(StudyError, match=r"designs.csv: is no regular file"):
        write_whole(file, "text")
    assert os.listdir(tmp_path) == ["designs.csv"]
