from functools import lru_cache
from math import inf

import numpy as np
import pytest

from tilewright.dataflow.errors import InputError
from tilewright.search.judge import Judge
from tilewright.search.objective import METRICS
from tilewright.search.run import run_study
from tilewright.search.simulator import Simulator
from tilewright.search.space import search_spaces
from tilewright.search.study import StudyPlan, StudyWorkload
from tilewright.sim.design import Design
from tilewright.sim.die_cost import die_cost_usd
from tilewright.sim.evaluate import evaluate
from tilewright.workloads.workload import load_workload


@lru_cache(maxsize=1)
def _workloads() -> tuple[StudyWorkload, ...]:
    prefill = load_workload("gpt2", phase="prefill", batch=1, seq=64)
    decode = load_workload("gpt2", phase="decode", batch=1, seq=1, cache=128)
    return (
        StudyWorkload("prefill", prefill.network, prefill.tokens, "p", phase="prefill"),
        StudyWorkload("decode", decode.network, decode.tokens, "d", weight=8.0, phase="decode"),
    )


def _plan(**changes: object) -> StudyPlan:
    fields: dict[str, object] = {
        "workloads": _workloads(),
        "templates": ("sequential",),
        "devices": ("u280", "asic7"),
        "objectives": ("latency_ms", "energy_mj", "area"),
    }
    return StudyPlan(**(fields | changes))  # type: ignore[arg-type]


def _some_designs(device: str, n: int) -> list[Design]:
    simulator = Simulator(_plan())
    (space,) = search_spaces({("sequential", device): simulator.space("sequential", device)}, {})
    vectors = space.seeds(n, np.random.default_rng(5)).tolist()
    return [Design("sequential", device, space.decode(vector)) for vector in vectors]


@pytest.mark.parametrize("device", ["u280", "asic7"])
def test_no_simulated_figure_is_better_than_its_bound(device: str) -> None:
    simulator = Simulator(_plan())
    judge = Judge(simulator, ("latency_ms",), ())
    checked = 0
    for design in _some_designs(device, 16):
        if judge.screen(design)[0].violation:
            continue
        bounds, metrics = simulator.bound(design), simulator.simulate(design).metrics
        assert "latency_ms" in bounds
        assert "energy_mj" in bounds
        for name, bound in bounds.items():
            if METRICS[name.rpartition(".")[2]].maximise:
                assert metrics[name] <= bound, name
            else:
                assert metrics[name] >= bound, name
        checked += 1
    assert checked >= 4


def test_metrics_are_those_of_the_reports_combined() -> None:
    design = Design("sequential", "asic7", {"rows": 64})
    metrics = Simulator(_plan()).simulate(design).metrics
    prefill, decode = (evaluate(w.network, design, tokens=w.tokens) for w in _workloads())
    assert metrics["latency_ms"] == prefill.latency_ms + 8 * decode.latency_ms
    assert metrics["energy_mj"] == pytest.approx(1e-9 * (prefill.energy_pj + 8 * decode.energy_pj))
    assert metrics["decode.latency_ms"] == decode.latency_ms
    assert metrics["ttft_ms"] == prefill.latency_ms
    assert metrics["tokens_per_s"] == pytest.approx(1e3 / decode.latency_ms)
    assert metrics["area"] == metrics["area_mm2"] == prefill.area.mm2


def test_a_design_that_does_not_fit_is_measured_and_not_simulated() -> None:
    judge = Judge(Simulator(_plan()), ("latency_ms",), ())
    largest = {"rows": 128, "cols": 128, "arrays": 16}
    screening, metrics = judge.screen(Design("sequential", "u280", largest))
    assert metrics["used_fraction"] > 1
    assert screening.violation == pytest.approx(metrics["used_fraction"] - 1)
    assert screening.reason.startswith("used_fraction <= 1, has ")


def test_a_design_that_the_family_cannot_build_is_beyond_measure() -> None:
    judge = Judge(Simulator(_plan()), ("latency_ms",), ())
    screening, metrics = judge.screen(Design("sequential", "u280", {"rows": 0}))
    assert screening.violation == inf
    assert "rows" in screening.reason
    assert metrics == {}


def test_an_asic_has_a_price_and_an_fpga_has_none() -> None:
    priced = Simulator(_plan(devices=("asic7",), objectives=("latency_ms", "cost")))
    metrics = priced.screen(Design("sequential", "asic7", {}))
    assert metrics["cost"] == die_cost_usd(metrics["area_mm2"], 7)
    assert "cost" not in priced.screen(Design("sequential", "u280", {}))
    with pytest.raises(InputError, match="objective 'cost' is known of asic devices only"):
        run_study(_plan(objectives=("cost",)), "unused")  # type: ignore[arg-type]


def test_the_bound_as_fidelity_has_nothing_to_prune_with() -> None:
    design = Design("sequential", "asic7", {})
    quick = Simulator(_plan(fidelity="bound"))
    assert quick.bound(design) == {}
    least = Simulator(_plan()).bound(design)
    assert quick.simulate(design).metrics["latency_ms"] == least["latency_ms"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"devices": ("u281",)}, "did you mean 'u280'"),
        ({"templates": ("sequental",)}, "did you mean 'sequential'"),
        ({"space": {"rows": (7,)}}, "parameter 'rows': 7 is not one of"),
        ({"constraints": ("dsp_fraction <= 0",)}, "'dsp_fraction <= 0' rules them out"),
    ],
)
def test_a_wrong_study_of_the_simulator_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as refusal:
        run_study(_plan(**({"devices": ("u280",)} | change)), "unused")  # type: ignore[arg-type]
    assert said in str(refusal.value)
