"""What tensors and channels got of the memory sums to what the report says, whatever the placement."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sequential_cases import small_network
from tilewright.sim.design import Design
from tilewright.sim.evaluate import evaluate
from tilewright.sim.memory_report import MemoryReport
from tilewright.sim.placement import POLICIES, Placement, Rule
from tilewright.sim.report import Report

NETWORKS = (small_network("prefill", "none"), small_network("decode", "unmerged"))
OVERLAPPING = Placement((Rule("weight", (0, 1, 2)), Rule("activation", (2, 3))), interleave_bytes=256)


def simulated(
    index: int, device: str, channels: int, policy: str, placement: Placement | None = None
) -> Report:
    parameters = {"hbm_channels": channels, "placement": policy, "dma_channels": 2}
    return evaluate(
        NETWORKS[index], Design("sequential", device, parameters, placement=placement), memory_detail=True
    )


def memory_of(report: Report) -> MemoryReport:
    assert report.memory is not None
    return report.memory


@settings(max_examples=12)
@given(
    index=st.sampled_from((0, 1)),
    device=st.sampled_from(("u280", "asic7")),
    channels=st.sampled_from((4, 8)),
    policy=st.sampled_from(tuple(POLICIES)),
    placement=st.sampled_from((None, OVERLAPPING)),
)
def test_bytes_and_energy_by_tensor_and_by_channel_sum_to_the_total(
    index: int, device: str, channels: int, policy: str, placement: Placement | None
) -> None:
    report = simulated(index, device, channels, policy, placement)
    memory = memory_of(report)
    assert sum(one.read_bytes for one in memory.tensors) == report.dram_read_bytes
    assert sum(one.write_bytes for one in memory.tensors) == report.dram_write_bytes
    assert sum(one.read_bytes for one in memory.channels) == pytest.approx(report.dram_read_bytes)
    assert sum(one.write_bytes for one in memory.channels) == pytest.approx(report.dram_write_bytes)
    (dram,) = [part for part in report.energy.children if part.name == "dram"]
    moved = sum(action.value for action in dram.children if action.name != "background")
    assert sum(one.energy_pj for one in memory.tensors) == pytest.approx(moved)
    assert sum(one.energy_pj for one in memory.channels) == pytest.approx(moved)
    over_time = sum(
        one.layers * sum(map(sum, (row for _, row in one.gb_per_s))) * one.edges_us[1] * 1e3
        for one in memory.over_time
    )
    assert over_time == pytest.approx(report.dram_read_bytes + report.dram_write_bytes, rel=1e-6)


@settings(max_examples=8)
@given(index=st.sampled_from((0, 1)), policy=st.sampled_from(tuple(POLICIES)))
def test_no_tensor_and_no_channel_is_above_its_peak(index: int, policy: str) -> None:
    memory = memory_of(simulated(index, "u280", 4, policy))
    for one in (*memory.tensors, *memory.channels):
        assert 0 < one.bandwidth_fraction <= 1
        assert 0 <= one.row_hit_fraction <= 1
        assert one.mean_latency_ns > 0
    assert all(one.busy_fraction <= 1 for one in memory.channels)


def test_a_placement_that_keeps_channels_apart_shows_in_the_channels() -> None:
    memory = memory_of(simulated(1, "u280", 4, "weights_half"))
    by_kind = {one.kind: one.channels for one in memory.tensors}
    assert by_kind["weight"] == (0, 1)
    assert by_kind["activation"] == (2, 3)
    assert memory.channels[0].write_bytes == 0


def test_commands_are_priced_where_currents_are_known_and_left_out_elsewhere() -> None:
    known = memory_of(simulated(0, "u280", 4, "interleaved"))
    assert all(one.commands and one.commands.refresh_pj > 0 for one in known.channels)
    spent = sum(one.commands.activate_pj for one in known.tensors if one.commands)
    assert spent == pytest.approx(sum(one.commands.activate_pj for one in known.channels if one.commands))
    unknown = memory_of(simulated(0, "asic5", 4, "interleaved"))
    assert all(one.commands is None for one in (*unknown.channels, *unknown.tensors))


def test_detail_is_worked_out_only_when_asked_for_and_changes_nothing_else() -> None:
    design = Design("sequential", "u280", {"hbm_channels": 4})
    plain, detailed = evaluate(NETWORKS[0], design), evaluate(NETWORKS[0], design, memory_detail=True)
    assert plain.memory is None
    assert "memory" not in plain.to_dict()
    assert {key: value for key, value in detailed.to_dict().items() if key != "memory"} == plain.to_dict()


def test_a_wider_placement_is_rarely_slower() -> None:
    """Weights on 1, 2, 4 and then 8 of 8 channels, all else on all: of 12 steps at most one loses over 2 %.

    A step can lose where weights come to share channels with what was alone on them.
    """
    slower, n_steps = [], 0
    for index in (0, 1):
        for device in ("u280", "asic7"):
            before = None
            for n in (1, 2, 4, 8):
                placement = Placement((Rule("weight", tuple(range(n))),))
                report = simulated(index, device, 8, "interleaved", placement)
                if before is not None:
                    n_steps += 1
                    if report.latency_cycles > 1.02 * before:
                        slower.append((index, device, n, report.latency_cycles / before))
                before = report.latency_cycles
    assert n_steps == 12
    assert len(slower) <= 1, slower
