"""Whether a spatial program can run to its end, found without a clock.

Nests that meet only at bounded queues do the same whatever their speed: a run in any order ends where every run
ends. So counting tokens is enough to find a deadlock before anything is simulated.
"""

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


def check_deadlock(program: Program) -> None:
    """Raises InputError, in one line, where the program cannot run to its end: who waits for whom at which link."""
    queues = {buffer.name: _Queue(buffer.copies) for buffer in program.buffers}
    walks = [_walk(nest, stage.name) for stage in program.stages for nest in stage.nests]
    for walk in walks:
        for buffer, _, reads in walk.ports:
            if reads:
                queues[buffer].taken[walk.nest.name] = queues[buffer].freed[walk.nest.name] = 0
    done: set[str] = set()
    waiting = list(walks)
    moved = True
    while moved and waiting:
        moved = False
        for walk in waiting:
            moved = _advance(walk, queues, done) or moved
        waiting = [walk for walk in waiting if walk.nest.name not in done]
    if waiting:
        raise InputError(_circle(program, waiting, queues, done))


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


def _circle(program: Program, waiting: list[_Walk], queues: dict[str, _Queue], done: set[str]) -> str:
    """One line about the nests that wait for each other."""
    by_name = {walk.nest.name: walk for walk in waiting}
    writer = {b: w for w in waiting for b, _, reads in w.ports if not reads}
    seen: list[str] = []
    said: dict[str, str] = {}
    shallow: dict[str, int] = {}
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
            shallow[name] = copies
            slowest = min(queues[buffer].freed, key=lambda one: queues[buffer].freed[one])
            name = slowest if slowest in by_name else None
    circle = seen[seen.index(name) :] if name is not None else seen
    why = "a link is too shallow" if any(one in shallow for one in circle) else "links form a cycle"
    told = ", ".join(dict.fromkeys(said[one] for one in circle))
    return f"pipeline {program.name!r} deadlocks, {why}: {told}"
