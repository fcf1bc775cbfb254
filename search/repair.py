"""Repair: the nearest feasible point of a space, and what empties a space that has none."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from math import inf

from tilewright.search.space import SearchSpace, Vector

#: Points that a repair may look at: screening one takes some 0.1 ms, a simulation some 20 ms.
REPAIR_LIMIT = 100


@dataclass(frozen=True, slots=True)
class Screening:
    """What is known of a point before it is simulated.

    `violation` is 0 for a point worth simulating and infinite for one that cannot be built; `violated` names
    (constraint, violation) pairs, `reason` says the same with values.
    """

    violation: float
    violated: tuple[tuple[str, float], ...] = ()
    reason: str = ""


Screen = Callable[[Vector], Screening]


def nearest_feasible(space: SearchSpace, start: Vector, screen: Screen, limit: int = REPAIR_LIMIT) -> Vector:
    """A feasible point near `start`, reached by stepping ordered parameters; `start` if none is found.

    Where the violation cannot be measured (a point that cannot be built), points are gone through by the
    number of steps from `start` until it can. From there the parameters take turns: each makes one step down,
    or else up, if that lessens the violation. A feasible point is then drawn back towards `start` for as long
    as it stays feasible, so that it lies at the edge of what is allowed. Categories stay as they are; about
    `limit` points are looked at.
    """
    looked_at = _Counter(screen, limit)
    point = start
    if looked_at(start).violation == inf:
        point = _first_measurable(space, start, looked_at)
    point = _descended(space, point, looked_at)
    if looked_at(point).violation > 0:
        return start
    return _drawn_back(space, point, start, screen)


class _Counter:
    """A screen that knows how many points it has looked at."""

    def __init__(self, screen: Screen, limit: int) -> None:
        self._screen, self._left = screen, limit

    def __call__(self, vector: Vector) -> Screening:
        self._left -= 1
        return self._screen(vector)

    @property
    def is_used_up(self) -> bool:
        return self._left <= 0


def _first_measurable(space: SearchSpace, start: Vector, screen: _Counter) -> Vector:
    """The point of finite violation the fewest steps from `start`; `start` if none is found in time."""
    met, queue = {start}, deque([start])
    while queue:
        for neighbour in space.neighbours(queue.popleft()):
            if screen.is_used_up:
                return start
            if neighbour not in met:
                met.add(neighbour)
                queue.append(neighbour)
                if screen(neighbour).violation < inf:
                    return neighbour
    return start


def _descended(space: SearchSpace, point: Vector, screen: _Counter) -> Vector:
    """Where steps that lessen the violation lead, each parameter in turn, until it is 0 or none does."""
    violation = screen(point).violation
    turns, idle = cycle(range(len(space.parameters))), 0
    while violation > 0 and idle < len(space.parameters):
        axis, idle = next(turns), idle + 1
        for neighbour in space.neighbours(point, axis):
            if screen.is_used_up:
                return point
            if (stepped := screen(neighbour).violation) < violation:
                point, violation, idle = neighbour, stepped, 0
                break
    return point


def _drawn_back(space: SearchSpace, point: Vector, start: Vector, screen: Screen) -> Vector:
    """`point` with each parameter in turn stepped back towards `start` while the point stays feasible."""
    for axis in range(len(space.parameters)):
        while point[axis] != start[axis]:
            step = 1 if start[axis] > point[axis] else -1
            nearer = (*point[:axis], point[axis] + step, *point[axis + 1 :])
            if screen(nearer).violation > 0:
                break
            point = nearer
    return point


def why_empty(space: SearchSpace, screenings: Sequence[Screening]) -> str:
    """One line on what empties a space in which every point that was tried is infeasible.

    Named is the constraint that every point violates, of several the one that the closest point misses by
    most; failing that, the constraints that are violated among them; or why a point cannot be built.
    """
    where = f"{space.template} on {space.device}"
    buildable = [screening for screening in screenings if screening.violated]
    if not buildable:
        return f"{where}: none of {len(screenings)} designs can be built: {screenings[0].reason}"
    least: dict[str, float] = {}
    count: dict[str, int] = {}
    for screening in buildable:
        for name, violation in screening.violated:
            least[name] = min(violation, least.get(name, violation))
            count[name] = count.get(name, 0) + 1
    closest = min(buildable, key=lambda screening: screening.violation).reason
    always = [name for name in least if count[name] == len(buildable)]
    named = [max(always, key=lambda name: least[name])] if always else sorted(least)
    constraints = " and ".join(repr(name) for name in named)
    return (
        f"{where}: no feasible design among {len(screenings)} tried: {constraints}"
        f" {'rules' if len(named) == 1 else 'rule'} them out; closest: {closest}"
    )
