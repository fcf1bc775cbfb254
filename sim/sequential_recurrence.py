"""Recurrences of a graph: which operators go through a serial rank together; knows no hardware."""

from collections.abc import Collection, Iterable

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Index, Kind, Operator


def recurrences(graph: Graph, free: Collection[str], fused: bool) -> list[tuple[Operator, ...]]:
    """The operators of every recurrence among those named in `free`, in the graph's order.

    They share a serial rank and hand tensors on. With `fused`, the maps that only spread out what the
    recurrence reads, and those that only go on from what it gives, run with it: neither passes through DRAM.
    """
    found = []
    serial = [op for op in graph.operators if op.serial_rank and op.name in free]
    while serial:
        members, n_before = [serial.pop(0)], 0
        while n_before < len(members):  # what a late member reads may stand before the first one
            n_before = len(members)
            for candidate in list(serial):
                if candidate.serial_rank == members[0].serial_rank and _touch(members, candidate):
                    members.append(candidate)
                    serial.remove(candidate)
        if not is_convex(graph, members):
            continue
        if fused:
            members = _with_followers(graph, _with_feeders(graph, members, free), free)
        order = {op.name: i for i, op in enumerate(graph.operators)}
        found.append(tuple(sorted(members, key=lambda op: order[op.name])))
    return found


def is_convex(graph: Graph, members: Iterable[Operator]) -> bool:
    """Whether no operator outside stands between two of `members`: reads one's output and feeds another."""
    own = list(members)
    names = {op.name for op in own}
    written = {op.output.tensor for op in own}
    behind: set[str] = set()  # tensors that depend on the members through others
    for operator in graph.operators:
        read = {access.tensor for access in operator.inputs}
        if operator.name in names:
            if read & behind:
                return False
        elif read & (written | behind):
            behind.add(operator.output.tensor)
    return True


def carried_tensors(operators: Iterable[Operator]) -> list[Access]:
    """The outputs that a later step reads: what stays on chip between steps, each once."""
    own = tuple(operators)
    past = {access.tensor for op in own for access in op.inputs if op.steps_back(access)}
    return [op.output for op in own if op.output.tensor in past]


def kept_part(graph: Graph, operator: Operator, readers: Iterable[Operator]) -> Access:
    """What `readers` ask of an output: one step of a recurrence, if all read the same one, else all."""
    output = operator.output
    accesses = [a for one in readers for a in one.inputs if a.tensor == output.tensor]
    indices = []
    for position, index in enumerate(output.indices):
        read = {access.indices[position] for access in accesses}
        step = operator.serial_rank and index == Index.of(operator.serial_rank)
        single = len(read) == 1 and not next(iter(read)).terms and output.tensor not in graph.outputs
        indices.append(next(iter(read)) if step and single else index)
    return Access(output.tensor, tuple(indices))


def _touch(members: Iterable[Operator], candidate: Operator) -> bool:
    """Whether an operator reads what one of `members` writes, or the reverse."""
    read = {access.tensor for access in candidate.inputs}
    return any(
        op.output.tensor in read or any(a.tensor == candidate.output.tensor for a in op.inputs)
        for op in members
    )


def _with_feeders(graph: Graph, members: list[Operator], free: Collection[str]) -> list[Operator]:
    """`members` and the maps that make more elements of fewer for nobody but them."""
    found = list(members)
    serial = members[0].serial_rank
    waiting = list(members)
    while waiting:
        for access in waiting.pop().inputs:
            producer = graph.producer.get(access.tensor)
            if producer is None or producer in found or not _is_map(producer, serial, free):
                continue
            largest = max(graph.n_elements(a.tensor) for a in producer.inputs)
            names = {op.name for op in found}
            alone = {user.name for user in graph.consumers[access.tensor]} <= names
            if alone and access.tensor not in graph.outputs and graph.n_elements(access.tensor) > largest:
                found.append(producer)
                waiting.append(producer)
    return found


def _with_followers(graph: Graph, members: list[Operator], free: Collection[str]) -> list[Operator]:
    """`members` and the maps that are the only readers of what they give, while none stands between."""
    found = list(members)
    serial = members[0].serial_rank
    for operator in graph.operators:
        if operator in found or not _is_map(operator, serial, free):
            continue
        written = {op.output.tensor: op.output for op in found}
        ends = [access for access in operator.inputs if access.tensor in written]
        only = all(
            len(graph.consumers[access.tensor]) == 1
            and access.tensor not in graph.outputs
            and access == written[access.tensor]
            for access in ends
        )
        if ends and only and is_convex(graph, [*found, operator]):
            found.append(operator)
    return found


def _is_map(operator: Operator, serial: str, free: Collection[str]) -> bool:
    plain = operator.kind is Kind.POINTWISE and operator.mask is None
    return plain and operator.name in free and serial in operator.output.ranks
