"""Tensors on groups of channels, and what transfers cost in company: the engine against its plain twin."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine_twin import DeadlockError, Twin
from tests.strategies import architectures, programs
from tilewright.dataflow.program import Program
from tilewright.dataflow.tensor import Role, Tensor
from tilewright.sim.architecture import Architecture
from tilewright.sim.engine import EngineError, Timing, compile_program, run
from tilewright.sim.memory import service_table
from tilewright.sim.placed_memory import PlacedMemory, Slowdowns, placed_memory
from tilewright.sim.placement import Placement, Rule
from tilewright.sim.slowdown_file import add_slowdowns, read_slowdowns
from tilewright.sim.traffic import UNIT, members, traffic_class


@dataclass
class _Arithmetic(Slowdowns):
    """Slowdowns that a rule gives instead of the banks: quick, and different for every company."""

    def learn(self, companies: list[int]) -> None:
        for company in companies:
            self.known[company] = UNIT + company * 7919 % 50021
        self.table = np.array([(0, UNIT), *sorted(self.known.items())], dtype=np.int64)


def memory(placement: Placement | None = None) -> PlacedMemory:
    made = PlacedMemory("hbm2_pc_bg", 4, 500.0, placement)
    made.slowdowns = _Arithmetic("hbm2_pc_bg")
    return made


PLACEMENTS = (
    None,
    Placement((Rule("activation", (0, 1)), Rule("weight", (1, 2, 3)))),
    Placement((Rule("a*", (0,)), Rule("x*", (0, 3))), interleave_bytes=64),
)


def figures(timing: Timing) -> list[tuple[str, int, int, int, int]]:
    return [(n.name, n.start_cycle, n.end_cycle, n.busy_cycles, n.dram_cycles) for n in timing.nests]


@settings(max_examples=80)
@given(programs(), architectures(), st.sampled_from(PLACEMENTS))
def test_the_engine_gives_the_figures_of_its_twin_in_company_and_on_groups(
    program: Program, architecture: Architecture, placement: Placement | None
) -> None:
    try:
        twin = Twin(program, architecture, memory(placement)).run()
        expected = [(s.nest.name, s.start, s.end, s.busy, s.dram) for s in twin.nests]
    except DeadlockError:
        expected = []
    try:
        slow = figures(run(compile_program(program, architecture, memory(placement)), fast_forward=False))
    except EngineError:
        slow = []
    assert slow == expected


@settings(max_examples=150)
@given(programs(max_extent=60), architectures(), st.sampled_from(PLACEMENTS))
def test_fast_forward_changes_no_figure_in_company_and_on_groups(
    program: Program, architecture: Architecture, placement: Placement | None
) -> None:
    tasks = compile_program(program, architecture, memory(placement))
    try:
        slow = run(tasks, fast_forward=False)
    except EngineError:
        return
    fast = run(tasks)
    assert figures(fast) == figures(slow)
    assert (fast.busy_cycles, fast.stages) == (slow.busy_cycles, slow.stages)


def test_channels_that_no_rule_tells_apart_are_one_group() -> None:
    placement = Placement((Rule("weight", (0, 1, 2)), Rule("kv_cache", (2, 3))))
    made = PlacedMemory("hbm2_pc_bg", 5, 500.0, placement)
    assert made.groups == ((0, 1), (2,), (3,), (4,))
    weight = made.place_of(Tensor("w", ("k",), "int8", Role.WEIGHT), False)
    assert (weight.channels, weight.groups) == ((0, 1, 2), 0b0011)
    assert made.place_of(Tensor("x", ("k",), "int8", Role.ACTIVATION), False).groups == 0b1111


def test_a_transfer_takes_as_long_as_its_channels_need() -> None:
    placement = Placement((Rule("weight", (0,)),))
    place = PlacedMemory("hbm2_pc_bg", 4, 500.0, placement).place_of(
        Tensor("w", ("k",), "int8", Role.WEIGHT), False
    )
    assert place.service is service_table("hbm2_pc_bg", 1, 500.0)


def test_a_run_falls_apart_into_portions_or_shares() -> None:
    placement = Placement((Rule("weight", (0, 1, 2, 3)),), interleave_bytes=256)
    made = PlacedMemory("hbm2_pc_bg", 4, 500.0, placement)
    weight = made.place_of(Tensor("w", ("k",), "int8", Role.WEIGHT), False)
    assert [weight.run_bytes(n) for n in (100, 256, 512, 4096)] == [100, 256, 256, 1024]
    cache = made.place_of(Tensor("c", ("k",), "int8", Role.KV_CACHE), False)
    assert cache.page_bytes == 4096
    assert cache.run_bytes(1 << 20) == 1024


def test_a_class_stands_for_runs_shorter_than_three_times_its_own() -> None:
    assert [traffic_class(n, False, False) // 4 for n in (1, 383, 384, 3071, 3072, 1 << 20)] == [
        0, 0, 1, 1, 2, 2,
    ]  # fmt: skip
    company = (1 << 3 * traffic_class(64, True, False)) + 2 * (1 << 3 * traffic_class(9999, False, True))
    assert members(company) == ((128, True, False), (8192, False, True), (8192, False, True))


def test_a_reader_and_a_writer_in_company_are_slowed_down_and_nobody_is_sped_up() -> None:
    slowdowns = placed_memory("hbm2_pc_bg", 2, 500.0, None).slowdowns
    pair = (1 << 3 * traffic_class(16384, True, False)) + (1 << 3 * traffic_class(16384, False, False))
    alone = 1 << 3 * traffic_class(64, False, True)
    slowdowns.learn([pair, alone])
    assert slowdowns.known[pair] > 1.1 * UNIT
    assert slowdowns.known[alone] == UNIT
    assert (np.diff(slowdowns.table[:, 0]) > 0).all()


@pytest.mark.parametrize("channel", [-1, 4])
def test_a_channel_that_is_not_there_is_refused(channel: int) -> None:
    with pytest.raises(ValueError, match=rf"'weight': channel must be in 0\.\.3, got {channel}"):
        PlacedMemory("hbm2_pc_bg", 4, 500.0, Placement((Rule("weight", (channel,)),)))


def test_a_slowdown_is_found_once_and_read_by_the_processes_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "known.txt"
    pair = (1 << 3 * traffic_class(16384, True, False)) + (1 << 3 * traffic_class(16384, False, False))
    first = Slowdowns("hbm2_pc_bg", file)
    first.learn([pair])

    def forbidden(*_: object) -> float:
        raise AssertionError("simulated again")

    monkeypatch.setattr("tilewright.sim.dram_contention.slowdown", forbidden)
    second = Slowdowns("hbm2_pc_bg", file)
    assert second.known == first.known == {pair: second.known[pair]}
    assert second.table.tolist() == first.table.tolist() == [[0, UNIT], [pair, first.known[pair]]]


def test_a_line_that_was_cut_short_is_passed_over_and_spoils_no_other(tmp_path: Path) -> None:
    file = tmp_path / "known.txt"
    file.write_text("8 70000 .\n9 7000")
    assert read_slowdowns(file) == {8: 70000}
    add_slowdowns(file, {10: 80000})
    assert read_slowdowns(file) == {8: 70000, 10: 80000}
    assert read_slowdowns(tmp_path / "absent.txt") == {}
    add_slowdowns(tmp_path / "no_folder" / "known.txt", {1: UNIT})
