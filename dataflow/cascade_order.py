"""The order in which a cascade's steps run, and which of them are recurrences."""

from collections.abc import Mapping
from dataclasses import replace

from tilewright.dataflow.cascade_step import Step
from tilewright.dataflow.operator import Kind


def in_loops(steps: tuple[Step, ...], source: str) -> tuple[Step, ...]:
    """The steps with those of one iterated rank next to each other, the text's order kept otherwise.

    What does not depend on a recurrence moves before it, what needs its end stays behind. A pointwise
    step on a cycle through an earlier step is a scan. Raises InputError if a recurrence would span two
    traversals of its rank.
    """
    writer = {step.name: step for step in steps}
    past = {step.name: _read_earlier(step, writer) for step in steps}
    ordered: list[Step] = []
    loop_of: dict[str, int] = {}
    waiting, serial, n_loops = list(steps), "", 0
    while waiting:
        ready = [step for step in waiting if _is_ready(step, past[step.name], writer, loop_of)]
        step = next((s for s in ready if s.serial_rank == serial), ready[0])
        if step.serial_rank != serial:
            step = next((s for s in ready if not s.serial_rank), step)
            serial, n_loops = step.serial_rank, n_loops + 1
        waiting.remove(step)
        ordered.append(step)
        loop_of[step.name] = n_loops
    for step in ordered:
        for name in past[step.name]:
            if loop_of[name] != loop_of[step.name]:
                raise step.place.refuse(
                    source,
                    f"{step.name!r} reads an earlier step of {name!r}, which another traversal of"
                    f" {step.serial_rank!r} writes",
                )
    on_cycle = _on_cycles(ordered)
    return tuple(
        replace(step, kind=Kind.SCAN) if step.kind is Kind.POINTWISE and step.name in on_cycle else step
        for step in ordered
    )


def _read_earlier(step: Step, writer: Mapping[str, Step]) -> frozenset[str]:
    """The tensors of which `step` reads an earlier step only."""
    found = set()
    for access in step.inputs:
        shifts = [index.shift_of(step.serial_rank) for index in access.indices]
        if step.serial_rank and access.tensor in writer and any(shift and shift < 0 for shift in shifts):
            found.add(access.tensor)
    current = {
        access.tensor
        for access in step.inputs
        if all(not index.shift_of(step.serial_rank) for index in access.indices)
    }
    return frozenset(found - current)


def _is_ready(step: Step, past: frozenset[str], writer: Mapping[str, Step], done: Mapping[str, int]) -> bool:
    return all(
        access.tensor in done or access.tensor not in writer or access.tensor in past
        for access in step.inputs
    )


def _on_cycles(steps: list[Step]) -> set[str]:
    """The steps whose result reaches them again, through reads of earlier steps."""
    readers: dict[str, list[str]] = {step.name: [] for step in steps}
    for step in steps:
        for access in step.inputs:
            if access.tensor in readers:
                readers[access.tensor].append(step.name)
    found = set()
    for step in steps:
        reached: set[str] = set()
        waiting = list(readers[step.name]) if step.serial_rank else []
        while waiting:
            if (name := waiting.pop()) not in reached:
                reached.add(name)
                waiting += readers[name]
        if step.name in reached:
            found.add(step.name)
    return found
