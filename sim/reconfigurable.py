"""Cores that change roles: tasks of a graph placed on a few alike cores, stage by stage, before anything runs.

In a stage every core has one task, alone or together with others; tasks of one stage hand on through streams, and
stages through on-chip memory. The idea is that of InTAR (arXiv 2502.08807).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from tilewright.dataflow.errors import InputError, nearest

#: Parts in which tasks of a stage hand on to each other: a task that reads a stream starts after the first of them.
PACKETS = 16
#: Graphs up to this many tasks are scheduled exactly; larger ones keep this many ways to have done as many tasks.
EXACT_TASKS = 12
BEAM = 8
#: A few cores: all ways to share them out are tried.
MAX_CORES = 8


@dataclass(frozen=True, slots=True)
class Task:
    """`trips` of a pipelined loop of interval 1 on one core; fewer on each where it is split.

    `streams` are tasks whose results it can take as they come, `wholes` those that must have ended before.
    """

    name: str
    trips: int
    output_bytes: int
    streams: tuple[str, ...] = ()
    wholes: tuple[str, ...] = ()
    max_cores: int = MAX_CORES


@dataclass(frozen=True, slots=True)
class Cores:
    """`count` alike cores of pipelines `stages` deep, `role_cycles` to take another role, one memory for what waits."""

    count: int
    stages: int
    role_cycles: int
    memory_bytes: int
    bytes_per_cycle: float  # to and from DRAM, for what does not fit


@dataclass(frozen=True, slots=True)
class RoleStage:
    """How many cores work on each task, and when it ends; `spilled_bytes` leave the chip behind it and come back."""

    roles: tuple[tuple[str, int], ...]
    cycles: int
    spilled_bytes: int

    @property
    def names(self) -> frozenset[str]:
        return frozenset(name for name, _ in self.roles)


@dataclass(frozen=True)
class Roles:
    """A graph of tasks and the cores that they are to run on. Raises InputError for what cannot be."""

    tasks: tuple[Task, ...]
    cores: Cores

    def __post_init__(self) -> None:
        _check(self)

    @cached_property
    def by_name(self) -> Mapping[str, Task]:
        return {task.name: task for task in self.tasks}

    def stage(self, names: Sequence[str], done: frozenset[str]) -> RoleStage | None:
        """The best stage of exactly these tasks behind those done; None where it cannot be.

        All ways to share out the cores are tried. None is left idle unless no task can take it: another core never
        makes a task slower.
        """
        own = set(names)
        for name in names:
            task = self.by_name[name]
            if not (done.issuperset(task.wholes) and all(one in done or one in own for one in task.streams)):
                return None
        key = tuple(self._ordered(names))
        if key not in self._shared:
            limits = [self.by_name[name].max_cores for name in key]
            shares = _shares(min(self.cores.count, sum(limits)), limits)
            options = [tuple(zip(key, share, strict=True)) for share in shares]
            self._shared[key] = min(((self._worked(one), one) for one in options), default=None)
        best = self._shared[key]
        return None if best is None else self._with_spill(best[1], best[0], done)

    def timed(self, roles: tuple[tuple[str, int], ...], done: frozenset[str]) -> RoleStage:
        """A stage of these roles with its cycles and with what has to leave the chip behind it."""
        return self._with_spill(roles, self._worked(roles), done)

    def _with_spill(
        self, roles: tuple[tuple[str, int], ...], worked: float, done: frozenset[str]
    ) -> RoleStage:
        behind = done.union(name for name, _ in roles)
        if behind not in self._waiting:
            self._waiting[behind] = self.waiting_bytes(behind)
        spilled = max(0, self._waiting[behind] - self.cores.memory_bytes)
        moved = 2 * spilled / self.cores.bytes_per_cycle
        return RoleStage(roles, round(worked + self.cores.role_cycles + moved), spilled)

    def _worked(self, roles: tuple[tuple[str, int], ...]) -> float:
        """Cycles until the last task of a stage ends."""
        start: dict[str, float] = {}
        end: dict[str, float] = {}
        took: dict[str, float] = {}
        for name, n_cores in roles:
            task = self.by_name[name]
            took[name] = -(-task.trips // n_cores) + self.cores.stages
            givers = [one for one in task.streams if one in took]
            start[name] = max((start[one] + took[one] / PACKETS for one in givers), default=0.0)
            last = max((end[one] for one in givers), default=0.0) + took[name] / PACKETS * bool(givers)
            end[name] = max(start[name] + took[name], last)
        return max(end.values())

    def waiting_bytes(self, done: frozenset[str]) -> int:
        """What stays on chip for tasks that come later."""
        needed = {
            one for task in self.tasks if task.name not in done for one in (*task.streams, *task.wholes)
        }
        return sum(task.output_bytes for task in self.tasks if task.name in done & needed)

    @cached_property
    def _shared(self) -> dict[tuple[str, ...], tuple[float, tuple[tuple[str, int], ...]] | None]:
        """The fastest shares of the cores of tasks that stood in a stage together: what was done before changes
        only what spills."""
        return {}

    @cached_property
    def _waiting(self) -> dict[frozenset[str], int]:
        return {}

    def next_stages(self, done: frozenset[str]) -> Iterator[RoleStage]:
        """All stages that may follow."""
        rest: list[str] = []
        for task in self.tasks:  # those whose results could be there in time
            may = done.issuperset(task.wholes) and all(one in done or one in rest for one in task.streams)
            if may and task.name not in done:
                rest.append(task.name)
        for size in range(1, min(len(rest), self.cores.count) + 1):
            for names in combinations(rest, size):
                stage = self.stage(names, done)
                if stage is not None:
                    yield stage

    def _ordered(self, names: Sequence[str]) -> list[str]:
        return [task.name for task in self.tasks if task.name in set(names)]


def _shares(n_cores: int, limits: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All ways to give `n_cores` to tasks, each at least one and no more than its limit."""
    if not limits:
        if n_cores == 0:
            yield ()
        return
    for first in range(1, min(limits[0], n_cores - len(limits) + 1) + 1):
        for rest in _shares(n_cores - first, limits[1:]):
            yield (first, *rest)


def total_cycles(stages: Sequence[RoleStage]) -> int:
    """Cycles of stages one after another."""
    return sum(stage.cycles for stage in stages)


def best_stages(roles: Roles) -> tuple[RoleStage, ...]:
    """The fastest stages: of all where there are `EXACT_TASKS` tasks or fewer, of those a beam keeps beyond.

    What a stage costs depends only on what was done before, so one best way to every set of tasks done is enough.
    """
    keep = None if len(roles.tasks) <= EXACT_TASKS else BEAM
    levels: list[dict[frozenset[str], tuple[int, tuple[RoleStage, ...]]]] = [
        {} for _ in range(len(roles.tasks) + 1)
    ]
    levels[0][frozenset()] = (0, ())
    for level in levels[:-1]:
        ranked = sorted(level.items(), key=lambda one: (one[1][0], sorted(one[0])))
        for done, (cycles, path) in ranked[:keep]:
            for stage in roles.next_stages(done):
                reached = done | stage.names
                known = levels[len(reached)].get(reached)
                total = cycles + stage.cycles
                if known is None or total < known[0]:
                    levels[len(reached)][reached] = (total, (*path, stage))
    (found,) = levels[-1].values()
    return found[1]


def _check(roles: Roles) -> None:
    """Raises InputError for tasks that stand twice, are unknown, come later, or for cores that cannot work."""
    if not roles.tasks:
        raise InputError("a graph of roles needs 1 task or more, got 0")
    if not 1 <= roles.cores.count <= MAX_CORES or roles.cores.bytes_per_cycle <= 0:
        raise InputError(
            f"cores: count must be in 1..{MAX_CORES} and bytes_per_cycle > 0, got {roles.cores.count} and"
            f" {roles.cores.bytes_per_cycle}"
        )
    seen: list[str] = []
    for task in roles.tasks:
        if task.trips < 1 or task.max_cores < 1:
            raise InputError(
                f"task {task.name!r}: trips and max_cores must be >= 1, got {task.trips} and {task.max_cores}"
            )
        for one in (*task.streams, *task.wholes):
            if one not in seen:
                raise InputError(
                    f"task {task.name!r} takes {one!r}, which is no task ahead of it{nearest(one, seen)}"
                )
        if task.name in seen:
            raise InputError(f"task {task.name!r} stands there twice")
        seen.append(task.name)
