"""What ran when, as trace events that chrome://tracing and Perfetto open."""

import heapq
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tilewright.dataflow.textfile import write_whole
from tilewright.sim.engine import Tasks, run, simulated
from tilewright.sim.memory_report import bandwidth_over_time

Event = dict[str, Any]

#: Leaves up to which every leaf is an event of its own; a program of more shows one event per nest.
MAX_LEAVES = 20_000


def timeline_events(
    tasks: Tasks, process: int = 0, label: str = "", max_leaves: int = MAX_LEAVES
) -> list[Event]:
    """Complete events (`ph` X) of one program, times in microseconds, and the names of their tracks.

    A program of at most `max_leaves` leaves has a track per component (per channel of a DMA) and an event per
    leaf. A longer one has a track per nest and one event from the nest's start to its end, so that there are
    never more events than `max_leaves` or nests. `process` numbers the program among those of one file.
    """
    n_leaves = sum(nest.n_leaves for nest in tasks.program.nests)
    if n_leaves <= max_leaves:
        spans, tracks = _leaf_spans(tasks, n_leaves)
    else:
        spans, tracks = _nest_spans(tasks)
    events: list[Event] = [_name("process_name", process, 0, label or tasks.program.name)]
    events += [_name("thread_name", process, track, name) for track, name in enumerate(tracks)]
    stage_of = {nest.name: stage.name for stage in tasks.program.stages for nest in stage.nests}
    clock_mhz = tasks.architecture.clock_mhz
    for track, nest, start, end in spans:
        events.append(
            {
                "name": nest,
                "ph": "X",
                "pid": process,
                "tid": track,
                "ts": start / clock_mhz,
                "dur": (end - start) / clock_mhz,
                "args": {"stage": stage_of[nest], "start_cycle": start, "cycles": end - start},
            }
        )
    return [*events, *_bandwidth(tasks, process)]


def _bandwidth(tasks: Tasks, process: int) -> list[Event]:
    """Counter events (`ph` C): GB/s that cross the memory's interface, by kind of tensor and direction."""
    found = bandwidth_over_time(tasks, run(tasks))
    events = []
    for index, start_us in enumerate(found.edges_us):
        last = index == len(found.edges_us) - 1
        rates = {key: 0.0 if last else row[index] for key, row in found.gb_per_s}
        if rates:
            events.append({"name": "DRAM GB/s", "ph": "C", "pid": process, "ts": start_us, "args": rates})
    return events


def write_timeline(
    path: str | Path, layers: Sequence[tuple[str, Tasks]], max_leaves: int = MAX_LEAVES
) -> None:
    """Write the timelines of (label, tasks) as one JSON file; the file is whole or not there.

    Raises InputError if it cannot be written, or names a device.
    """
    events = [
        event
        for process, (label, tasks) in enumerate(layers)
        for event in timeline_events(tasks, process, label, max_leaves)
    ]
    text = json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}, separators=(",", ":"))
    write_whole(Path(path), text)


def _name(kind: str, process: int, track: int, name: str) -> Event:
    return {"name": kind, "ph": "M", "pid": process, "tid": track, "args": {"name": name}}


Span = tuple[int, str, int, int]  # track, nest, first cycle, last cycle


def _leaf_spans(tasks: Tasks, n_leaves: int) -> tuple[list[Span], list[str]]:
    """A span per leaf on a track per component; leaves of a pool go to the channel that is free longest."""
    _, trace = simulated(tasks, fast_forward=False, n_traced=n_leaves)
    tracks: list[str] = []
    free: list[list[tuple[int, int]]] = []  # per resource: (free since, track)
    for name, capacity in tasks.resources:
        free.append([(0, len(tracks) + channel) for channel in range(capacity)])
        tracks += [name] if capacity == 1 else [f"{name} {channel}" for channel in range(capacity)]
    spans: list[Span] = []
    for nest, start, end in trace.tolist():
        pool = free[tasks.resource_of[nest]]
        _, track = heapq.heappop(pool)
        heapq.heappush(pool, (end, track))
        spans.append((track, tasks.program.nests[nest].name, start, end))
    return spans, tracks


def _nest_spans(tasks: Tasks) -> tuple[list[Span], list[str]]:
    spans: list[Span] = []
    tracks: list[str] = []
    for nest, resource in zip(run(tasks).nests, tasks.resource_of, strict=True):
        spans.append((len(tracks), nest.name, nest.start_cycle, nest.end_cycle))
        tracks.append(f"{tasks.resources[resource][0]}: {nest.name}")
    return spans, tracks
