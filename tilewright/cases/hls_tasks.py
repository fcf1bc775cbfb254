"""Tasks of HLS kernels as pipelines: steps that follow one another inside a task, tasks that meet at streams."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from math import ceil

from tilewright.cases.case import rows
from tilewright.sim.spatial import End, Link, Pipeline, Process, stages_of
from tilewright.sim.technology import rows as measured

#: A channel of the HBM: 256 bit at 450 MHz (platform of the board).
CHANNEL_GB_S = 14.4
#: Bursts are merged up to 1 KiB and close after three idle cycles (asynchronous ports of TAPA).
_BURST_BYTES = 1024
_IDLE_CYCLES = 3
_QUEUES = ("write", "read", "write", "read")  # request queue, then the queue of data or responses
_BEATS, _DEPTH = "1", "2"


@dataclass(frozen=True, slots=True)
class Step:
    """One loop of a task; `level` of its outer loops are those around the sequence it stands in."""

    task: str
    phase: int
    level: int
    process: Process


def tasks_pipeline(name: str, loops: Iterable[Mapping[str, str]], clock_mhz: float) -> Pipeline:
    """The pipeline of a kernel's loops (`data/intar_steps.csv` says what the columns are)."""
    links: list[Link] = []
    steps = [_step(row, clock_mhz, links) for row in loops]
    order = list(dict.fromkeys(step.task for step in steps))
    processes: list[Process] = []
    for task in order:
        own = sorted((step for step in steps if step.task == task), key=lambda step: step.phase)
        processes += _in_turns(own, links)
    return Pipeline(name, tuple(processes), tuple(links))


def _step(row: Mapping[str, str], clock_mhz: float, links: list[Link]) -> Step:
    trips, port = int(row["trips"]), row["port"]
    kind, bits = port.rstrip("0123456789"), int(port.lstrip("abcdefghijklmnopqrstuvwxyz") or 0)
    gives = []
    for one in row["gives"].split():
        end, *rest = one.split(":")
        beats, depth = (*rest, *(_BEATS, _DEPTH)[len(rest) :])
        link, level = end.split("@")
        whole = depth == "array"
        links.append(Link(link, "array" if whole else "stream", 1 if whole else int(depth), int(beats), 256))
        gives.append(End(link, int(level)))
    taken = [one.split("@") for one in row["takes"].split()]
    own = _depth(row["operations"].split()) + port_stages(kind, bits, trips, clock_mhz)
    ii = stages_of(["float_add"]) if row["ii"] == "sum" else int(row["ii"])
    process = Process(
        f"{row['task']}.{row['phase']}.{row['step']}", row["task"],
        tuple(int(one) for one in row["outer"].split()), trips, int(row["packets"]), ii, max(own, ii),
        "load" if kind == "stream" else "compute", bits, int(row["macs"]),
        tuple(End(link, int(level)) for link, level in taken), tuple(gives),
    )  # fmt: skip
    return Step(row["task"], int(row["phase"]), int(row["level"]), process)


def _depth(operations: Sequence[str]) -> int:
    """Stages of operations in a row; integer ones that only these kernels have stand in a table of their own."""
    extra = {row["operation"]: int(row["stages"]) for row in rows("intar_operations.csv")}
    own = [extra[operation] for operation in operations if operation in extra]
    return sum(own) + stages_of(operation for operation in operations if operation not in extra)


def port_stages(kind: str, bits: int, trips: int, clock_mhz: float) -> int:
    """Cycles that a loop at a memory port is deeper than its body.

    Asynchronous: the burst is gathered, crosses the queues and takes the idle read latency of the board's HBM (a
    write response is taken to need as long); a port that is wider than its channel waits for the rest.
    """
    if not kind:
        return 0
    if kind == "sync":
        return stages_of(["port"])
    longest = _BURST_BYTES * 8 // bits
    gather = min(trips + _IDLE_CYCLES, longest)
    late = trips * max(0.0, bits / 8 * clock_mhz / (CHANNEL_GB_S * 1e3) - 1)
    return gather + stages_of(_QUEUES) + ceil(_idle_read_ns() * clock_mhz * 1e-3) + ceil(late)


@cache
def _idle_read_ns() -> float:
    """Shuhai's idle page hit on the HBM of a U280 (`data/dram_measured.csv`)."""
    (row,) = (
        one for one in measured("dram_measured.csv")
        if one["device"] == "HBM2 on U280" and one["other_dims"] == "state=page_hit"
        and one["metric"] == "idle read latency"
    )  # fmt: skip
    return float(row["value"])


def _in_turns(steps: Sequence[Step], links: list[Link]) -> list[Process]:
    """The processes of a task, joined so that no step starts before the one ahead of it has drained."""
    takes: dict[str, list[End]] = {step.process.name: [] for step in steps}
    gives: dict[str, list[End]] = {step.process.name: [] for step in steps}

    def join(giver: Process, taker: Process, level: int) -> None:
        name = f"{giver.name}>{taker.name}@{level}"
        links.append(Link(name, "array", 1, 1, 1))
        gives[giver.name].append(End(name, level))
        takes[taker.name].append(End(name, level))

    for before, after in pairwise(steps):
        same = before.phase == after.phase
        join(before.process, after.process, min(before.level, after.level) if same else 0)
    for phase in dict.fromkeys(step.phase for step in steps):
        body = [step for step in steps if step.phase == phase]
        for level in sorted({step.level for step in body} - {0}):
            inside = [step.process for step in body if step.level >= level]
            # The first step's next turn waits for the last one's: of neighbours the chain says so.
            if len(inside) > 2 or (
                len(inside) == 2 and level < min(s.level for s in body if s.level >= level)
            ):
                join(inside[0], inside[-1], level)
    return [
        replace(
            step.process,
            takes=(*step.process.takes, *takes[step.process.name]),
            gives=(*step.process.gives, *gives[step.process.name]),
        )
        for step in steps
    ]
