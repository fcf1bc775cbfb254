"""Stages of roles as a pipeline, and so as a program: cores are modules, roles their loops one after another."""

from collections.abc import Sequence
from math import ceil

from tilewright.sim.reconfigurable import PACKETS, Roles, RoleStage
from tilewright.sim.spatial import ENTRY_CYCLES, End, Link, Pipeline, Process

_BEAT_BITS = 256


def roles_pipeline(roles: Roles, stages: Sequence[RoleStage]) -> Pipeline:
    """Every core's roles in turn; parts of a task on several cores all hand on to all parts of what reads it.

    A stage starts when all cores have ended the one before and what spilled is back.
    """
    processes: list[Process] = []
    links: list[Link] = []
    before: list[str] = []
    takes: dict[str, list[End]] = {}
    gives: dict[str, list[End]] = {}

    def join(giver: str, taker: str, level: int) -> None:
        name = f"{giver}>{taker}"
        links.append(Link(name, "array" if level == 0 else "stream", 1 if level == 0 else 2, 1, _BEAT_BITS))
        gives.setdefault(giver, []).append(End(name, level))
        takes.setdefault(taker, []).append(End(name, level))

    for number, stage in enumerate(stages):
        parts: dict[str, list[str]] = {}
        core = 0
        for task, n_cores in stage.roles:
            trips = PACKETS * ceil(roles.by_name[task].trips / n_cores / PACKETS)
            depth = max(1, roles.cores.stages - ENTRY_CYCLES + 1 + roles.cores.role_cycles)
            parts[task] = []
            for _ in range(n_cores):
                name = f"{number}.{task}.core{core}"
                processes.append(Process(name, f"core{core}", (), trips, PACKETS, 1, depth))
                parts[task].append(name)
                core += 1
        here = [one for names in parts.values() for one in names]
        for giver in before:
            for taker in here:
                join(giver, taker, 0)
        for task in parts:
            for source in roles.by_name[task].streams:
                for giver in parts.get(source, ()):
                    for taker in parts[task]:
                        join(giver, taker, 1)
        before = here
        if stage.spilled_bytes and number + 1 < len(stages):
            cycles = ceil(stage.spilled_bytes / roles.cores.bytes_per_cycle)
            for move in ("spill", "fill"):
                name = f"{number}.{move}"
                processes.append(Process(name, "memory", (), cycles, 1, 1, 1))
                for giver in before:
                    join(giver, name, 0)
                before = [name]
    found = tuple(
        Process(one.name, one.module, one.outer, one.trips, one.packets, one.ii, one.stages,
                takes=tuple(takes.get(one.name, ())), gives=tuple(gives.get(one.name, ())))
        for one in processes
    )  # fmt: skip
    return Pipeline("roles", found, tuple(links))
