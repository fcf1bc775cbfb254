"""The compiled engine, with and without fast-forward, against its plain Python twin."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine_twin import DeadlockError, Twin
from tests.strategies import architectures, programs
from tilewright.dataflow.program import Program
from tilewright.sim.architecture import Architecture
from tilewright.sim.engine import EngineError, FixedBandwidth, Timing, compile_program, run


def figures(timing: Timing) -> list[tuple[str, int, int, int, int]]:
    return [(n.name, n.start_cycle, n.end_cycle, n.busy_cycles, n.dram_cycles) for n in timing.nests]


def twin_figures(program: Program, architecture: Architecture, memory: FixedBandwidth) -> list[object]:
    return [
        (s.nest.name, s.start, s.end, s.busy, s.dram) for s in Twin(program, architecture, memory).run().nests
    ]


memories = st.builds(FixedBandwidth, st.sampled_from((1, 3, 16, 64)), st.sampled_from((0, 7, 60)))


@settings(max_examples=150)
@given(programs(), architectures(), memories)
def test_the_engine_gives_the_figures_of_its_plain_twin(
    program: Program, architecture: Architecture, memory: FixedBandwidth
) -> None:
    tasks = compile_program(program, architecture, memory)
    try:
        expected = twin_figures(program, architecture, memory)
    except DeadlockError:
        expected = []
    try:
        slow = figures(run(tasks, fast_forward=False))
    except EngineError:
        slow = []
    assert slow == expected


@settings(max_examples=300)
@given(programs(max_extent=60), architectures(), memories)
def test_fast_forward_changes_no_figure(
    program: Program, architecture: Architecture, memory: FixedBandwidth
) -> None:
    tasks = compile_program(program, architecture, memory)
    try:
        slow = run(tasks, fast_forward=False)
    except EngineError as error:
        with pytest.raises(EngineError) as again:
            run(tasks)
        assert str(again.value) == str(error)
        return
    fast = run(tasks)
    assert figures(fast) == figures(slow)
    assert (fast.busy_cycles, fast.stages) == (slow.busy_cycles, slow.stages)
    assert fast.n_simulated <= slow.n_simulated
