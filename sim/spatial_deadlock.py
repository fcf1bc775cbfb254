"""Whether a spatial program can run to its end, found without a clock.

Nests that meet only at bounded queues do the same whatever their speed: a run in any order ends where every run
ends. So counting tokens is enough to find a deadlock before anything is simulated.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.program import Nest, Program


@dataclass(slots=True)
class _Queue:
    """Tokens of a buffer: claimed and filled by its writer, taken and freed by each reader."""

    copies: int
    claimed: int = 0
    filled: int = 0
    taken: dict[str, int] = field(default_factory=dict)
    freed: dict[str, int] = field(default_factory=dict)

    @property
    def has_room(self) -> bool:
        return self.claimed - min(self.freed.values(), default=0) < self.copies


@dataclass(slots=True)
class _Walk:
    """A nest on its way: `steps` turns of its loops down to its deepest port."""

    nest: Nest
    module: str
    steps: int
    # (buffer, turns between tokens, whether it reads)
    ports: tuple[tuple[str, int, bool], ...]
    position: int = 0


@dataclass(slots=True)
class _Outcome:
    """Who still waits when nothing moves any more; nobody if the program ran to its end."""

    waiting: list[_Walk]
    queues: dict[str, _Queue]
    done: set[str]


def check_deadlock(program: Program) -> None:
    """Raises InputError, in one line, where the program cannot run to its end: who waits for whom at which link,
    and how deep the one that is too shallow would have to be."""
    end = _run(program, {})
    if end.waiting:
        raise InputError(_circle(program, end))


def _run(program: Program, copies: Mapping[str, int]) -> _Outcome:
    """Count tokens until nothing moves; `copies` replace those of some buffers."""
    queues = {one.name: _Queue(copies.get(one.name, one.copies)) for one in program.buffers}
    walks = [_walk(nest, stage.name) for stage in program.stages for nest in stage.nests]
    for walk in walks:
        for buffer, _, reads in walk.ports:
            if reads:
                queues[buffer].taken[walk.nest.name] = queues[buffer].freed[walk.nest.name] = 0
    done: set[str] = set()
    waiting = walks
    moved = True
    while moved and waiting:
        moved = False
        for walk in waiting:
            moved = _advance(walk, queues, done) or moved
        waiting = [walk for walk in waiting if walk.nest.name not in done]
    return _Outcome(waiting, queues, done)


def _enough(program: Program, buffer: str, copies: int) -> int:
    """The fewest copies of a buffer with which the program runs; 0 if no number of them is enough."""
    (writer,) = (
        _walk(nest, "") for nest in program.nests if any(port.buffer == buffer for port in nest.writes)
    )
    low, high = copies, copies + writer.steps
    if _run(program, {buffer: high}).waiting:
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        if _run(program, {buffer: middle}).waiting:
            low = middle
        else:
            high = middle
    return high


def _walk(nest: Nest, module: str) -> _Walk:
    ports = [(port, True) for port in nest.reads] + [(port, False) for port in nest.writes]
    deepest = max((port.depth for port, _ in ports), default=0)
    trips = [loop.trips for loop in nest.loops[:deepest]]
    found = tuple((port.buffer, prod(trips[port.depth :]), reads) for port, reads in ports)
    return _Walk(nest, module, prod(trips), found)


def _advance(walk: _Walk, queues: dict[str, _Queue], done: set[str]) -> bool:
    """Go on as far as tokens allow; whether that was anywhere."""
    if not done.issuperset(walk.nest.after):
        return False
    start, name = walk.position, walk.nest.name
    while walk.position < walk.steps and not _lacks(walk, queues):
        for buffer, period, reads in walk.ports:
            queue = queues[buffer]
            begins, ends = walk.position % period == 0, (walk.position + 1) % period == 0
            if reads:
                queue.taken[name] += begins
                queue.freed[name] += ends
            else:
                queue.claimed += begins
                queue.filled += ends
        walk.position += 1
    if walk.position == walk.steps:
        done.add(name)
    return walk.position > start or name in done


def _lacks(walk: _Walk, queues: dict[str, _Queue]) -> tuple[str, bool] | None:
    """The first (buffer, whether it reads) that keeps a nest from its next step."""
    for buffer, period, reads in walk.ports:
        if walk.position % period:
            continue
        queue = queues[buffer]
        if (queue.taken[walk.nest.name] >= queue.filled) if reads else not queue.has_room:
            return buffer, reads
    return None


def _circle(program: Program, end: _Outcome) -> str:
    """One line about the nests that wait for each other."""
    waiting, queues, done = end.waiting, end.queues, end.done
    by_name = {walk.nest.name: walk for walk in waiting}
    writer = {b: w for w in waiting for b, _, reads in w.ports if not reads}
    seen: list[str] = []
    said: dict[str, str] = {}
    shallow: dict[str, str] = {}
    name: str | None = waiting[0].nest.name
    while name is not None and name not in seen:
        seen.append(name)
        walk = by_name[name]
        blocked = [one for one in walk.nest.after if one not in done]
        lack = _lacks(walk, queues)
        if blocked or lack is None:
            said[name] = f"{walk.module!r} waits for {blocked[0]!r} to end"
            name = blocked[0]
            continue
        buffer, reads = lack
        copies = queues[buffer].copies
        if reads:
            said[name] = f"{walk.module!r} waits for {buffer!r} to be filled"
            name = writer[buffer].nest.name if buffer in writer else None
        else:
            said[name] = f"{walk.module!r} waits for room in {buffer!r}, {copies} deep"
            shallow[name] = buffer
            slowest = min(queues[buffer].freed, key=lambda one: queues[buffer].freed[one])
            name = slowest if slowest in by_name else None
    circle = seen[seen.index(name) :] if name is not None else seen
    told = ", ".join(dict.fromkeys(said[one] for one in circle))
    full = [shallow[one] for one in circle if one in shallow]
    if not full:
        return f"pipeline {program.name!r} deadlocks, links form a cycle: {told}"
    depth = _enough(program, full[0], queues[full[0]].copies)
    enough = f"; {full[0]!r} runs with {depth}" if depth else ""
    return f"pipeline {program.name!r} deadlocks, a link is too shallow: {told}{enough}"
