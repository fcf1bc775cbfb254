"""The timeline shows what the engine did, in bounded size, in a file that is whole or not there."""

import json
from pathlib import Path

import pytest

from tests.test_sim_engine import load_and_work, machine
from tilewright.dataflow.errors import InputError
from tilewright.sim.engine import FixedBandwidth, Tasks, compile_program, run
from tilewright.sim.timeline import timeline_events, write_timeline


def tasks(channels: int = 1) -> Tasks:
    """Four loads of 4 cycles and four leaves of 8 cycles at 200 MHz."""
    return compile_program(load_and_work(), machine(channels), FixedBandwidth(16, 0))


def spans(events: list[dict[str, object]]) -> list[tuple[object, ...]]:
    return [(e["tid"], e["name"], e["ts"], e["dur"]) for e in events if e["ph"] == "X"]


def test_every_leaf_is_an_event_in_microseconds_on_its_components_track() -> None:
    events = timeline_events(tasks())
    loads = [(0, "l", start / 200, 4 / 200) for start in (0, 4, 12, 20)]
    leaves = [(1, "w", start / 200, 8 / 200) for start in (4, 12, 20, 28)]
    assert sorted(spans(events)) == sorted(loads + leaves)
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert names == {0: "reader", 1: "lanes"}


def test_spans_of_one_track_never_overlap() -> None:
    events = [event for event in timeline_events(tasks(channels=2)) if event["ph"] == "X"]
    ends: dict[object, float] = {}
    for event in sorted(events, key=lambda event: event["ts"]):
        assert event["ts"] >= ends.get(event["tid"], 0.0)
        ends[event["tid"]] = event["ts"] + event["dur"]
    assert len({event["tid"] for event in events if event["name"] == "l"}) == 2


def test_a_long_program_shows_one_event_per_nest() -> None:
    made = tasks()
    found = spans(timeline_events(made, max_leaves=7))
    assert found == [
        (track, nest.name, nest.start_cycle / 200, (nest.end_cycle - nest.start_cycle) / 200)
        for track, nest in enumerate(run(made).nests)
    ]


def test_the_file_holds_every_layer_as_a_process(tmp_path: Path) -> None:
    path = tmp_path / "timeline.json"
    write_timeline(path, [("block", tasks()), ("head", tasks())])
    events = json.loads(path.read_text())["traceEvents"]
    assert {e["args"]["name"] for e in events if e["name"] == "process_name"} == {"block", "head"}
    assert {e["pid"] for e in events} == {0, 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"timeline\.json: cannot be written: No such file"):
        write_timeline(tmp_path / "absent" / "timeline.json", [("block", tasks())])


def test_a_file_that_cannot_be_replaced_leaves_no_draft(tmp_path: Path) -> None:
    (tmp_path / "timeline.json").mkdir()
    with pytest.raises(InputError, match=r"timeline\.json: is no regular file"):
        write_timeline(tmp_path / "timeline.json", [("block", tasks())])
    assert [entry.name for entry in tmp_path.iterdir()] == ["timeline.json"]
