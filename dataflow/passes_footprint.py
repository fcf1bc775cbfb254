"""Tensors that are alive at once, in execution order."""

from collections.abc import Mapping
from dataclasses import dataclass

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Kind, Operator
from tilewright.dataflow.passes_fusion import FusionPlan, unfused
from tilewright.dataflow.passes_traffic import selects
from tilewright.dataflow.tensor import Role


@dataclass(frozen=True, slots=True)
class Footprint:
    """The most bytes alive at once, at the group of operators `at`; the roles sum to the total."""

    total_bytes: int
    by_role: tuple[tuple[Role, int], ...]
    at: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Span:
    """A tensor is alive from group `first` to group `last`, both included."""

    first: int
    last: int
    n_bytes: int
    role: Role


def live_footprint_bytes(
    graph: Graph, roles: frozenset[Role] | None = None, plan: FusionPlan | None = None
) -> Footprint:
    """The peak of live tensors when groups of `plan` (default: single operators) run in order.

    A tensor is alive from the group that makes it to the last one that reads it; a live-in from the
    start, a live-out to the end. What only its own group reads is not counted: it passes in tiles. A
    recurrence runs step by step: a tensor that only its steps, or its end, need holds as many steps as
    are read back, and lives through the whole recurrence. A tensor that a scatter writes into in place
    becomes its result. `roles` restricts what is counted.
    """
    spans = _spans(graph, roles, plan or unfused(graph))
    groups = (plan or unfused(graph)).groups
    totals = [0] * max(1, len(groups))
    for span in spans:
        for position in range(span.first, span.last + 1):
            totals[position] += span.n_bytes
    peak = totals.index(max(totals))
    by_role: dict[Role, int] = {}
    for span in spans:
        if span.first <= peak <= span.last:
            by_role[span.role] = by_role.get(span.role, 0) + span.n_bytes
    ordered = tuple((role, by_role[role]) for role in Role if role in by_role)
    return Footprint(totals[peak], ordered, groups[peak] if groups else ())


def _spans(graph: Graph, roles: frozenset[Role] | None, plan: FusionPlan) -> list[_Span]:
    position = {name: i for i, group in enumerate(plan.groups) for name in group}
    loops = _loops(graph, position)
    internal = plan.internal_tensors(graph)
    end = max(0, len(plan.groups) - 1)
    found = []
    for tensor in graph.tensors:
        if (roles is not None and tensor.role not in roles) or tensor.name in internal:
            continue
        producer = graph.producer.get(tensor.name)
        readers = graph.consumers[tensor.name]
        first = 0 if producer is None else position[producer.name]
        last = max((_last_need(reader, tensor.name, position) for reader in readers), default=first)
        if tensor.name in graph.outputs:
            last = end
        n_bytes = graph.n_bytes(tensor.name)
        if producer is not None and producer.serial_rank:
            loop = loops[producer.name]
            first, last = min(first, loop[0]), max(last, loop[1])
            n_bytes = _carried_bytes(graph, producer, readers, loops)
        for reader in readers:  # a step may need it again until the last step
            last = max(last, loops[reader.name][1]) if reader.serial_rank else last
        found.append(_Span(first, last, n_bytes, tensor.role))
    return found


def _last_need(reader: Operator, tensor: str, position: Mapping[str, int]) -> int:
    """The group until which `reader` needs the tensor; a scatter takes it over in place."""
    kept = [access for access in reader.inputs if access.tensor == tensor]
    in_place = reader.kind is Kind.SCATTER and all(selects(access) for access in kept)
    return position[reader.name] - in_place


def _loops(graph: Graph, position: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """By operator of a recurrence: the first and the last group of its loop."""
    found: dict[str, tuple[int, int]] = {}
    run: list[Operator] = []
    for operator in (*graph.operators, None):
        if run and (operator is None or operator.serial_rank != run[0].serial_rank):
            places = [position[member.name] for member in run]
            found.update((member.name, (min(places), max(places))) for member in run if member.serial_rank)
            run = []
        if operator is not None:
            run.append(operator)
    return found


def _carried_bytes(
    graph: Graph,
    producer: Operator,
    readers: tuple[Operator, ...],
    loops: Mapping[str, tuple[int, int]],
) -> int:
    """Bytes of what the steps of a recurrence write: all steps, or just those that are read back."""
    name, serial = producer.output.tensor, producer.serial_rank
    tensor = graph.tensor_by_name[name]
    whole = graph.n_bytes(name)
    if serial not in tensor.ranks or name in graph.outputs:
        return whole
    axis, n_steps = tensor.ranks.index(serial), graph.size(serial)
    back = 0
    for reader in readers:
        for access in reader.inputs:
            if access.tensor != name:
                continue
            index = access.indices[axis]
            in_loop = reader.serial_rank == serial and loops[reader.name] == loops[producer.name]
            at_end = not index.terms and index.offset == n_steps - 1
            if not in_loop and not at_end:
                return whole
            back = max(back, reader.steps_back(access))
    elements = graph.n_elements(name) // n_steps * min(n_steps, back + 1)
    return -(-elements * tensor.bits // 8)
