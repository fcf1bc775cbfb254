import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.dataflow.errors import InputError
from tilewright.search.objective import (
    COMBINES,
    Combine,
    Figures,
    Part,
    area_metrics,
    combined,
    cost_of,
    objective_named,
    unit_of,
)
from tilewright.sim.report import AreaReport, Breakdown, Report

# 512 tokens in 10 ms and 40 mJ; 1 token in 2 ms and 5 mJ, eight times.
PREFILL = Part("p", 1.0, "prefill", Figures(10.0, 40.0, 1000.0, 512))
DECODE = Part("d", 8.0, "decode", Figures(2.0, 5.0, 100.0, 1))


def test_a_sum_is_one_run_after_another() -> None:
    metrics = combined((PREFILL, DECODE), "sum")
    assert metrics["latency_ms"] == 10 + 8 * 2
    assert metrics["energy_mj"] == 40 + 8 * 5
    assert metrics["dram_bytes"] == 1000 + 8 * 100
    assert metrics["edp"] == 26 * 80
    assert metrics["power_w"] == pytest.approx(80 / 26)
    assert metrics["ttft_ms"] == 10
    assert metrics["tokens_per_s"] == pytest.approx(500)


def test_the_worst_is_the_largest_share_and_of_a_rate_the_lowest() -> None:
    metrics = combined((PREFILL, DECODE), "worst")
    assert metrics["latency_ms"] == 16  # eight tokens of 2 ms take longer than one prefill of 10 ms
    assert metrics["energy_mj"] == 40
    assert metrics["power_w"] == 4.0
    assert metrics["edp"] == 400


def test_a_geometric_mean_weighs_the_logarithms() -> None:
    parts = (
        Part("a", 1.0, "prefill", Figures(1.0, 1.0, 1.0, 1)),
        Part("b", 3.0, "prefill", Figures(16.0, 81.0, 1.0, 1)),
    )
    metrics = combined(parts, "geomean")
    assert metrics["latency_ms"] == pytest.approx(8.0)
    assert metrics["energy_mj"] == pytest.approx(27.0)


def test_each_workload_keeps_its_own_figures() -> None:
    metrics = combined((PREFILL, DECODE), "worst")
    assert metrics["d.latency_ms"] == 2.0
    assert metrics["p.tokens_per_s"] == pytest.approx(51_200)
    assert "d.ttft_ms" not in metrics


def test_part_of_a_model_in_prefill_counts_for_the_first_token() -> None:
    part = Part("e", 1.0, "prefill:encoder", Figures(3.0, 1.0, 1.0, 1))
    assert combined((part, DECODE), "sum")["ttft_ms"] == 3.0


figures = st.builds(
    Figures, st.floats(0.1, 1e3), st.floats(0.1, 1e3), st.floats(1, 1e6), st.integers(1, 1000)
)


@given(figures, figures, st.floats(1, 10), st.floats(1, 10), st.sampled_from(COMBINES))
def test_bounds_of_the_workloads_bound_their_combination(
    a: Figures, b: Figures, slower: float, hungrier: float, how: Combine
) -> None:
    def together(stretch: float, feed: float) -> dict[str, float]:
        taken = Figures(a.latency_ms * stretch, a.energy_mj * feed, a.dram_bytes, a.tokens)
        return combined((Part("a", 2.0, "prefill", taken), Part("b", 1.0, "decode", b)), how)

    least, real = together(1, 1), together(slower, hungrier)
    for name in ("latency_ms", "energy_mj", "edp", "ttft_ms"):
        assert least[name] <= real[name] * (1 + 1e-12)
    assert least["tokens_per_s"] >= real["tokens_per_s"] * (1 - 1e-12)


def test_figures_of_a_report_are_in_milliseconds_and_millijoules() -> None:
    report = Report(
        workload="w",
        template="t",
        device="d",
        parameters=(),
        fidelity="tile",
        lowering="hardware",
        latency_cycles=300_000,
        clock_mhz=300.0,
        energy=Breakdown("energy", 2e9),
        area=AreaReport("asic", mm2=1.0),
        dram_read_bytes=10,
        dram_write_bytes=5,
        utilisation=(),
        bound_cycles=1,
        bottleneck="",
        tokens=4,
    )
    found = Figures.of(report)
    assert (found.latency_ms, found.dram_bytes, found.tokens) == (1.0, 15.0, 4)
    assert found.energy_mj == pytest.approx(2.0)
    assert found.power_w == pytest.approx(2.0)


def test_area_is_mm2_on_an_asic_and_the_used_fraction_on_an_fpga() -> None:
    assert area_metrics(AreaReport("asic", mm2=12.5)) == {"area": 12.5, "area_mm2": 12.5}
    fpga = area_metrics(
        AreaReport("fpga", lut=100, dsp=30, used_fraction=0.5, fractions=(("lut", 0.1), ("dsp", 0.5)))
    )
    assert fpga == {
        "area": 0.5, "used_fraction": 0.5, "lut": 100, "dsp": 30, "lut_fraction": 0.1, "dsp_fraction": 0.5,
    }  # fmt: skip
    assert unit_of("area", "asic") == "mm2"
    assert unit_of("area", "fpga") == "1"
    assert unit_of("decode.latency_ms", "fpga") == "ms"


def test_a_maximised_objective_is_a_negative_cost() -> None:
    assert cost_of("tokens_per_s", {"tokens_per_s": 5.0}) == -5.0
    assert cost_of("latency_ms", {"latency_ms": 5.0}) == 5.0


def test_an_unknown_objective_names_the_closest() -> None:
    with pytest.raises(InputError, match="did you mean 'energy_mj'"):
        objective_named("energy_mJ")
