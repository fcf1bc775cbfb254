"""Stages of roles: the scheduler against brute force, and its cycles against the simulated pipeline."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.dataflow.errors import InputError
from tilewright.sim.reconfigurable import Cores, Roles, Task, best_stages, total_cycles
from tilewright.sim.reconfigurable_emit import roles_pipeline
from tilewright.sim.spatial_emit import simulate_pipeline

CORES = Cores(2, 10, 4, 1 << 20, 32.0)


def perceptron(memory_bytes: int = 1 << 20) -> Roles:
    tasks = (
        Task("layer1", 16_384, 2048),
        Task("layer2", 131_072, 4096, wholes=("layer1",)),
        Task("layer3", 32_768, 512, streams=("layer2",)),
    )
    return Roles(tasks, Cores(2, 10, 4, memory_bytes, 32.0))


def brute_force(roles: Roles, done: frozenset[str] = frozenset()) -> int:
    """The least of all orders of stages and all shares of cores."""
    rest = [task for task in roles.tasks if task.name not in done]
    if not rest:
        return 0
    found = []
    for shares in product(range(roles.cores.count + 1), repeat=len(rest)):
        chosen = [(task, n) for task, n in zip(rest, shares, strict=True) if n]
        names = {task.name for task, _ in chosen}
        legal = all(
            set(task.wholes) <= done and set(task.streams) <= done | names and n <= task.max_cores
            for task, n in chosen
        )
        if chosen and legal and sum(shares) <= roles.cores.count:
            stage = roles.timed(tuple((task.name, n) for task, n in chosen), done)
            found.append(stage.cycles + brute_force(roles, done | names))
    return min(found)


@st.composite
def graphs(draw: st.DrawFn) -> Roles:
    n_tasks = draw(st.integers(1, 4))
    tasks = []
    for number in range(n_tasks):
        ahead = [f"t{one}" for one in range(number)]
        kinds = [draw(st.sampled_from(("none", "none", "stream", "whole"))) for _ in ahead]
        streams = tuple(one for one, kind in zip(ahead, kinds, strict=True) if kind == "stream")
        wholes = tuple(one for one, kind in zip(ahead, kinds, strict=True) if kind == "whole")
        trips, n_bytes, most = draw(st.integers(1, 4000)), draw(st.integers(0, 4000)), draw(st.integers(1, 3))
        tasks.append(Task(f"t{number}", trips, n_bytes, streams, wholes, most))
    cores = Cores(draw(st.integers(1, 3)), draw(st.integers(1, 30)), draw(st.integers(0, 20)), 3000, 8.0)
    return Roles(tuple(tasks), cores)


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_no_stages_are_faster_than_those_found(roles: Roles) -> None:
    assert total_cycles(best_stages(roles)) == brute_force(roles)


def test_a_layer_alone_takes_both_cores() -> None:
    stages = best_stages(perceptron())
    assert [stage.roles for stage in stages] == [(("layer1", 2),), (("layer2", 2),), (("layer3", 2),)]
    assert total_cycles(stages) == (16_384 + 131_072 + 32_768) // 2 + 3 * (10 + 4)


def test_what_does_not_fit_costs_its_way_out_and_back() -> None:
    # 2048 and 4096 bytes wait behind the stages of the first two layers; 1024 fit, 32 pass a cycle.
    stages = [perceptron(1024).stage(("layer1",), frozenset())]
    assert stages[0] is not None
    assert stages[0].spilled_bytes == 1024
    assert stages[0].cycles == 16_384 // 2 + 14 + 2 * 1024 // 32


def test_the_simulated_pipeline_takes_what_the_scheduler_says() -> None:
    for roles in (perceptron(), perceptron(1024)):
        stages = best_stages(roles)
        run = simulate_pipeline(roles_pipeline(roles, stages), "u280", 300.0, 1000.0)
        assert run.timing.latency_cycles == pytest.approx(total_cycles(stages), rel=0.001)


def test_a_streamed_stage_is_simulated_as_it_is_counted() -> None:
    roles = perceptron()
    first = roles.stage(("layer1",), frozenset())
    second = roles.stage(("layer2", "layer3"), frozenset({"layer1"}))
    assert first is not None
    assert second is not None
    run = simulate_pipeline(roles_pipeline(roles, (first, second)), "u280", 300.0, 1000.0)
    assert run.timing.latency_cycles == pytest.approx(first.cycles + second.cycles, rel=0.01)


def test_large_graphs_are_searched_within_a_beam() -> None:
    tasks = tuple(Task(f"t{n}", 100 + n, 64, wholes=(f"t{n - 1}",) if n else ()) for n in range(30))
    stages = best_stages(Roles(tasks, CORES))
    assert len(stages) == 30
    assert total_cycles(stages) == sum(-(-task.trips // 2) + 14 for task in tasks)


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ((), "needs 1 task or more, got 0"),
        ((Task("a", 0, 1),), "trips and max_cores must be >= 1, got 0 and 8"),
        ((Task("first", 1, 1), Task("b", 1, 1, ("firs",))), "takes 'firs', which is no task ahead of it"),
        ((Task("a", 1, 1), Task("a", 1, 1)), "'a' stands there twice"),
    ],
)
def test_a_wrong_graph_is_refused_in_one_line(tasks: tuple[Task, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Roles(tasks, CORES)
