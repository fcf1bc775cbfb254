"""One evaluation end to end: what a report holds, sums and refuses."""

import json

import pytest

from tests.sequential_cases import architecture, gemm_network, small_network
from tilewright.dataflow.errors import InputError
from tilewright.sim.design import Design
from tilewright.sim.evaluate import evaluate, evaluate_architecture, layer_result, run_layer
from tilewright.sim.report import Report


def report(phase: str = "prefill", mode: str = "none", **parameters: int | str | bool) -> Report:
    return evaluate(small_network(phase, mode), Design("sequential", "u280", parameters))


def test_a_report_is_the_sum_of_its_layers() -> None:
    network = small_network("decode")
    built = architecture()
    runs = [(layer.count, run_layer(layer.graph, built)) for layer in network]
    found = report("decode")
    assert found.latency_cycles == sum(count * run.timing.latency_cycles for count, run in runs)
    assert found.dram_read_bytes == sum(count * run.counts.dram_read_bytes for count, run in runs)
    assert found.dram_write_bytes == sum(count * run.counts.dram_write_bytes for count, run in runs)


def test_energy_is_the_sum_of_components_and_of_operators_and_rest() -> None:
    found = report("prefill", "unmerged")
    assert found.energy_pj == pytest.approx(sum(part.value for part in found.energy.children))
    for part in found.energy.children:
        assert part.value == pytest.approx(sum(action.value for action in part.children))
    at_rest = sum(
        action.value
        for part in found.energy.children
        for action in part.children
        if part.name == "static" or action.name == "background"
    )
    dynamic = sum(operator.layers * operator.energy_pj for operator in found.operators)
    assert dynamic + at_rest == pytest.approx(found.energy_pj)


def test_operators_sum_to_the_traffic_and_lie_within_their_layer() -> None:
    found = report("prefill", "unmerged")
    reads = sum(operator.layers * operator.dram_read_bytes for operator in found.operators)
    writes = sum(operator.layers * operator.dram_write_bytes for operator in found.operators)
    assert (reads, writes) == (found.dram_read_bytes, found.dram_write_bytes)
    for operator in found.operators:
        assert 0 <= operator.start_cycle < operator.end_cycle
        assert operator.bottleneck in dict(found.utilisation)


def test_utilisation_and_bottleneck_agree() -> None:
    found = report("prefill")
    shares = dict(found.utilisation)
    assert all(0 <= share <= 1 for share in shares.values())
    assert shares[found.bottleneck] == max(shares.values())


def test_a_small_array_is_the_bottleneck_of_prefill_near_its_peak() -> None:
    """48 x 8 x 8 ... on 8 x 8 PEs: between the peak and twice it, folds and fills included."""
    found = report("prefill", rows=8, cols=8)
    peak_cycles = found.macs / 64
    assert found.bottleneck == "array"
    assert peak_cycles < found.latency_cycles < 2 * peak_cycles


def test_decode_on_wide_arrays_is_bound_by_the_memory() -> None:
    """1 MiB of weights once through one channel of 16 GB/s at 1050 MHz, 15.2 bytes a cycle."""
    network = gemm_network(1, 1024, 1024)
    parameters = {
        "rows": 8, "cols": 256, "hbm_channels": 1, "dma_bytes_per_cycle": 64, "weight_buffer_kib": 1024,
    }  # fmt: skip
    found = evaluate(network, Design("sequential", "asic7", parameters))
    least = 1024 * 1024 / (16e9 / 1050e6)
    assert found.bottleneck in ("dram", "dma_in")
    assert least < found.latency_cycles < 1.25 * least


def test_more_pes_make_prefill_faster() -> None:
    small, large = (report("prefill", rows=edge, cols=edge) for edge in (8, 16))
    assert large.latency_cycles < 0.6 * small.latency_cycles


def test_a_merged_adapter_costs_what_none_costs() -> None:
    merged, none, kept = (report("prefill", mode) for mode in ("merged", "none", "unmerged"))
    assert merged.latency_cycles == none.latency_cycles
    assert merged.energy_pj == none.energy_pj
    assert kept.latency_cycles > none.latency_cycles
    assert kept.macs > none.macs


def test_equal_layers_are_simulated_once() -> None:
    layer_result.cache_clear()
    report("prefill", "merged")
    before = layer_result.cache_info().misses
    report("prefill", "none")
    assert layer_result.cache_info().misses == before


def test_bound_fidelity_reports_the_bound() -> None:
    design = Design("sequential", "u280", {})
    network = small_network("prefill")
    bound = evaluate(network, design, fidelity="bound")
    tile = evaluate(network, design)
    assert bound.fidelity == "bound"
    assert bound.latency_cycles == bound.bound_cycles == tile.bound_cycles
    assert bound.latency_cycles < tile.latency_cycles
    assert bound.operators == ()
    assert bound.area == tile.area


def test_what_is_stated_is_noted() -> None:
    found = evaluate(
        small_network("decode"), Design("sequential", "asic7", {"rows": 16}),
        workload="small", lowering="hardware", tokens=1,
    )  # fmt: skip
    assert (found.workload, found.template, found.device, found.tokens) == ("small", "sequential", "asic7", 1)
    assert dict(found.parameters)["rows"] == 16
    assert dict(found.parameters)["cols"] == 32  # the default
    assert found.tables[:2] == ("energy:horowitz_jouppi", "area:synthesis")
    json.dumps(found.to_dict())


def test_a_declared_architecture_is_evaluated_alike() -> None:
    network, built = small_network("prefill"), architecture(rows=16)
    declared = evaluate_architecture(network, built)
    designed = evaluate(network, Design("sequential", "u280", {"rows": 16}))
    assert declared == designed


@pytest.mark.parametrize(
    ("design", "more", "named"),
    [
        (Design("sequental", "u280"), {}, "template 'sequental' is unknown (did you mean 'sequential'?)"),
        (Design("sequential", "u281"), {}, "device 'u281' is unknown"),
        (Design("sequential", "u280", {"row": 4}), {}, "parameter 'row' is unknown (did you mean 'rows'?)"),
        (Design("sequential", "u280", objective="latencies"), {}, "objective 'latencies' is unknown"),
        (Design("sequential", "u280"), {"fidelity": "tiles"}, "fidelity 'tiles' is unknown"),
        (Design("sequential", "u280"), {"table": "horowitz_jouppi"}, "horowitz_jouppi"),
        (
            Design("sequential", "u280", {"rows": 128, "cols": 128}),
            {},
            "design does not fit on u280",
        ),
    ],
)
def test_a_wrong_design_ends_in_one_line(design: Design, more: dict[str, str], named: str) -> None:
    with pytest.raises(InputError) as error:
        evaluate(small_network("decode"), design, **more)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_spans_sum_to_the_latency_and_no_mac_is_left_out() -> None:
    found = report("prefill", "unmerged")
    spans = sum(operator.layers * operator.span_cycles for operator in found.operators)
    assert spans == found.latency_cycles
    assert found.macs_computed == sum(operator.layers * operator.macs for operator in found.operators)
    assert found.macs_computed >= found.macs
