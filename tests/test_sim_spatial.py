"""Spatial pipelines: loops and links by hand, static reports, deadlocks found before anything runs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.dataflow.errors import InputError
from tilewright.sim.engine import EngineError, compile_program, run
from tilewright.sim.engine_leaf import FixedBandwidth
from tilewright.sim.spatial import ENTRY_CYCLES, End, Link, Pipeline, Process, stages_of
from tilewright.sim.spatial_deadlock import check_deadlock
from tilewright.sim.spatial_emit import pipeline_architecture, pipeline_program, simulate_pipeline
from tilewright.sim.spatial_static import static_report

RATE = 1840.0


def cycles(pipeline: Pipeline) -> int:
    return simulate_pipeline(pipeline, "u280", 250.0, RATE).timing.latency_cycles


def loop(
    name: str,
    outer: tuple[int, ...],
    trips: int,
    *,
    ii: int = 1,
    stages: int = 1,
    packets: int = 1,
    takes: tuple[End, ...] = (),
    gives: tuple[End, ...] = (),
    module: str = "",
) -> Process:
    return Process(name, module or name, outer, trips, packets, ii, stages, takes=takes, gives=gives)


def chain(depth: int) -> Pipeline:
    """A producer of 8 x 64 beats and a consumer of twice its interval."""
    return Pipeline(
        "chain",
        (
            loop("fast", (8,), 64, packets=4, gives=(End("s", 2),)),
            loop("slow", (8,), 64, ii=2, packets=4, takes=(End("s", 2),)),
        ),
        (Link("s", "stream", depth, 16, 8),),
    )


@given(st.integers(1, 9), st.integers(1, 60), st.integers(1, 5), st.integers(1, 20))
def test_a_loop_drains_each_time_it_is_entered(outer: int, trips: int, ii: int, more: int) -> None:
    stages = ii + more
    alone = Pipeline("p", (loop("a", (outer,), trips, ii=ii, stages=stages),), ())
    assert cycles(alone) == outer * ((trips - 1) * ii + stages + ENTRY_CYCLES)


def test_packets_change_nothing_for_a_loop_alone() -> None:
    for packets in (1, 2, 8, 32):
        pipeline = Pipeline("p", (loop("a", (5,), 64, stages=9, packets=packets),), ())
        assert cycles(pipeline) == 5 * (63 + 9 + ENTRY_CYCLES)


def test_the_first_request_of_a_port_is_paid_once() -> None:
    port = Process("load", "load", (), 4096, 16, 1, stages_of(["port", "read", "write"]), "load", 128)
    assert cycles(Pipeline("p", (port,), ())) == 4096 + 64 + 1 + 1 + 1


def test_a_fast_loop_is_held_back_by_a_slow_one() -> None:
    # The slow one takes 8 x (128 + 2 + 1 - 2) cycles after the first packet of 16 beats.
    assert cycles(chain(32)) == 16 + 8 * (64 * 2 + 1 - 2 + ENTRY_CYCLES)


def serial(copies: int) -> Pipeline:
    return Pipeline(
        "p",
        (
            loop("write", (10,), 100, gives=(End("a", 1),), module="m"),
            loop("read", (10,), 200, takes=(End("a", 1),), module="m"),
        ),
        (Link("a", "array", copies, 100, 8),),
    )


def test_an_array_of_one_copy_makes_two_loops_take_turns_and_two_copies_overlap_them() -> None:
    first, second = 100 + ENTRY_CYCLES, 200 + ENTRY_CYCLES
    assert cycles(serial(1)) == 10 * (first + second)
    assert cycles(serial(2)) == first + 10 * second


def test_packets_do_not_let_loops_that_share_one_array_overlap() -> None:
    def with_packets(n: int) -> Pipeline:
        return Pipeline(
            "p",
            (
                loop("write", (10,), 100, stages=7, packets=n, gives=(End("a", 1),), module="m"),
                loop("read", (10,), 200, stages=9, packets=n, takes=(End("a", 1),), module="m"),
            ),
            (Link("a", "array", 1, 100, 8),),
        )

    entry = (99 + 7 + ENTRY_CYCLES) + (199 + 9 + ENTRY_CYCLES)
    assert cycles(with_packets(1)) == cycles(with_packets(10)) == 10 * entry


def test_modules_at_a_stream_start_together_and_at_an_array_one_after_the_other() -> None:
    pipeline = Pipeline(
        "p",
        (
            loop("a", (), 100, packets=10, gives=(End("s", 1),)),
            loop("b", (), 100, ii=3, stages=3, packets=10, takes=(End("s", 1),), gives=(End("x", 0),)),
            loop("c", (), 50, takes=(End("x", 0),)),
        ),
        (Link("s", "stream", 4, 10, 8), Link("x", "array", 1, 100, 8)),
    )
    report = static_report(pipeline, pipeline.modules, "u280", 250.0, RATE)
    one, two, three = 100 + 2, 300 + 2, 50 + 2
    assert dict(report.modules) == {"a": one, "b": two, "c": three}
    assert report.interval_cycles == two + 1
    assert report.latency_cycles == two + three


def fork(copy_depth: int) -> Pipeline:
    """A whole block of ten packets is summed before it is scaled, and comes along a second way meanwhile."""
    return Pipeline(
        "norm",
        (
            loop("source", (3,), 100, packets=10, gives=(End("values", 2), End("copy", 2))),
            loop("sum", (3,), 100, packets=10, takes=(End("values", 2),), gives=(End("total", 1),)),
            loop("scale", (3,), 100, packets=10, takes=(End("total", 1), End("copy", 2))),
        ),
        (Link("values", "stream", 20, 10, 8), Link("copy", "stream", copy_depth, 10, 8),
         Link("total", "array", 1, 1, 8)),
    )  # fmt: skip


def test_a_stream_that_is_too_shallow_beside_a_reduction_is_named_before_simulation() -> None:
    assert cycles(fork(100)) > 0
    with pytest.raises(InputError) as raised:
        cycles(fork(90))
    line = str(raised.value)
    assert "'norm' deadlocks, a link is too shallow" in line
    assert "'source' waits for room in 'copy', 9 deep" in line
    assert "'sum' waits for 'values' to be filled" in line
    assert line.endswith("; 'copy' runs with 10")
    assert "\n" not in line


def test_a_cycle_of_links_is_named() -> None:
    pipeline = Pipeline(
        "ring",
        (
            loop("a", (), 10, takes=(End("back", 1),), gives=(End("there", 1),)),
            loop("b", (), 10, takes=(End("there", 1),), gives=(End("back", 1),)),
        ),
        (Link("there", "stream", 4, 2, 8), Link("back", "stream", 4, 2, 8)),
    )
    with pytest.raises(InputError, match="links form a cycle: 'a' waits for 'back' to be filled, 'b' waits"):
        cycles(pipeline)


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_the_check_without_a_clock_agrees_with_the_engine(
    depth: int, blocks: int, ii: int, whole: bool
) -> None:
    level = 1 if whole else 2
    pipeline = Pipeline(
        "p",
        (
            loop("source", (blocks,), 8, packets=8, gives=(End("left", 2), End("right", 2))),
            loop(
                "middle",
                (blocks,),
                8,
                ii=ii,
                stages=4,
                packets=8,
                takes=(End("left", 2),),
                gives=(End("done", level),),
            ),
            loop("join", (blocks,), 8, packets=8, takes=(End("done", level), End("right", 2))),
        ),
        (
            Link("left", "stream", 2, 1, 8),
            Link("right", "stream", depth, 1, 8),
            Link("done", "array", 2, 1, 8),
        ),
    )
    program = pipeline_program(pipeline, RATE)
    tasks = compile_program(
        program, pipeline_architecture(pipeline, "u280", 250.0, RATE), FixedBandwidth(1024, 0)
    )
    try:
        run(tasks)
        runs = True
    except EngineError:
        runs = False
    try:
        check_deadlock(program)
        found = False
    except InputError:
        found = True
    assert found != runs


@pytest.mark.parametrize(
    ("processes", "links", "said"),
    [
        ((loop("a", (), 4, gives=(End("s", 1),)),), (Link("s", "stream", 2, 1, 8),),
         "link 's' joins nothing: it needs 1 process that gives and 1 or more that take, has 1 and 0"),
        ((loop("a", (), 4, gives=(End("out", 1),)),), (Link("outs", "stream", 2, 1, 8),),
         "process 'a': link 'out' is not declared"),
        ((loop("a", (), 4, packets=2, gives=(End("s", 1),)), loop("b", (), 4, takes=(End("s", 1),))),
         (Link("s", "stream", 2, 1, 8),), "link 's': 'a' passes 2 packets, 'b' passes 1"),
        ((loop("a", (), 4), loop("a", (), 4)), (), "process 'a' stands there twice"),
    ],
)  # fmt: skip
def test_wrong_pipelines_are_refused_in_one_line(
    processes: tuple[Process, ...], links: tuple[Link, ...], said: str
) -> None:
    with pytest.raises(InputError) as raised:
        Pipeline("p", processes, links)
    assert said in str(raised.value)


def test_wrong_loops_are_refused() -> None:
    with pytest.raises(InputError, match="3 packets do not divide 10 trips"):
        loop("a", (), 10, packets=3)
    with pytest.raises(InputError, match="stages must be >= 4, one less than its interval, got 3"):
        loop("a", (), 10, ii=5, stages=3)
    with pytest.raises(InputError, match="trips must be >= 1, got 0"):
        loop("a", (), 0)
    with pytest.raises(InputError, match=r"level of link 's' must be in 0\.\.1, got 2"):
        loop("a", (), 4, gives=(End("s", 2),))
    with pytest.raises(InputError, match=r"operation 'float_ad' is unknown.*float_add"):
        stages_of(["float_ad"])
