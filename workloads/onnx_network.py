"""From operators over atoms to layer classes: repeated layers found, ranks and tensors named."""

from collections import Counter
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from tilewright.dataflow.graph import LayerClass, Network
from tilewright.workloads.onnx_builder import Builder, IrOperator
from tilewright.workloads.onnx_emit import GraphEmitter

# Fewer operators than this are no layer; sequences longer than this are not searched for longer periods.
_MIN_PERIOD = 4
_MAX_PERIOD = 2048
_MAX_SEARCHES = 24
_MAX_COMPARED = 2**25  # operators compared in one search


@dataclass(frozen=True, slots=True)
class Run:
    """`count` stretches of `period` operators each, from `first` on."""

    first: int
    period: int
    count: int


def network_of(emitter: GraphEmitter) -> Network:
    """The layer classes of a lowered graph in execution order.

    A stretch of operators that repeats is cut where the fewest tensors cross, and is one class as far as its
    graphs, names aside, are equal.
    """
    builder = emitter.builder
    runs = _runs(emitter, [_signature(builder, operator) for operator in builder.operators])
    classes: list[tuple[str, list[LayerClass]]] = []
    for place, run in enumerate(runs):
        if run.count == 1:
            name = _single_name(builder, run, place, len(runs))
            classes.append((name, [LayerClass(name, emitter.graph(name, run.first, run.period), 1)]))
            continue
        hints = emitter.labels(run.first, run.period)
        graphs = (
            emitter.graph("block", run.first + number * run.period, run.period, hints)
            for number in range(run.count)
        )
        found = [LayerClass("block", graph, sum(1 for _ in same)) for graph, same in groupby(graphs)]
        classes.append(("block", found))
    return _named([layer for _, layers in classes for layer in layers])


def _named(layers: list[LayerClass]) -> Network:
    """The classes with names of their own: a number behind those that several would have."""
    times = Counter(layer.name for layer in layers)
    seen: Counter[str] = Counter()
    named = []
    for layer in layers:
        name = layer.name if times[layer.name] == 1 else f"{layer.name}_{seen[layer.name]}"
        seen[layer.name] += 1
        named.append(LayerClass(name, layer.graph, layer.count))
    return tuple(named)


def _single_name(builder: Builder, run: Run, place: int, n_runs: int) -> str:
    groups = {operator.group for operator in builder.operators[run.first : run.first + run.period]}
    if n_runs == 1:
        return "graph"
    if place == 0:
        return "embed" if "embedding" in groups else "stem"
    return "head" if place == n_runs - 1 else "part"


def _signature(builder: Builder, operator: IrOperator) -> tuple[object, ...]:
    """What two operators at the same place of two equal layers have in common."""
    sizes = [tuple(map(builder.classes.size, builder.tensors[operator.output].atoms))]
    constants = []
    for read in operator.reads:
        tensor = builder.tensors[read.view.tensor]
        sizes.append(tuple(map(builder.classes.size, tensor.atoms)))
        constants.append(tensor.constant)
    return (operator.kind, operator.function, operator.reduce, operator.group, tuple(sizes), tuple(constants))


def _runs(emitter: GraphEmitter, signatures: list[tuple[object, ...]]) -> list[Run]:
    """The operators as stretches, repeated ones found first; what lies before and behind is searched again."""
    numbers = {signature: number for number, signature in enumerate(dict.fromkeys(signatures))}
    codes = np.asarray([numbers[signature] for signature in signatures], dtype=np.int64)
    found: list[Run] = []
    pending = [(0, len(codes))]
    for _ in range(_MAX_SEARCHES):
        if not pending:
            break
        first, end = pending.pop()
        best = _best(emitter, codes, first, end)
        if best is None:
            found.append(Run(first, end - first, 1))
            continue
        found.append(best)
        last = best.first + best.period * best.count
        pending += [(a, b) for a, b in ((first, best.first), (last, end)) if a < b]
    found += [Run(first, end - first, 1) for first, end in pending]
    return sorted(found, key=lambda run: run.first)


def _best(emitter: GraphEmitter, codes: NDArray[np.int64], first: int, end: int) -> Run | None:
    """The repetition that covers most operators, of these the one with the shortest period."""
    part = codes[first:end]
    best: tuple[int, int, int, int] | None = None  # covered, -period, start, length
    longest = min(len(part) // 2, _MAX_PERIOD, _MAX_COMPARED // max(1, len(part)))
    for period in range(_MIN_PERIOD, longest + 1):
        equal = part[period:] == part[:-period]
        start, length = _longest(equal)
        covered = (length // period + 1) * period if length >= period else 0
        if covered and (best is None or (covered, -period) > best[:2]):
            best = covered, -period, start, length + period
    if best is None:
        return None
    period = -best[1]
    shift = emitter.best_cut(first + best[2], best[3], period)
    start = first + best[2] + shift
    return Run(start, period, (best[3] - shift) // period)


def _longest(equal: NDArray[np.bool_]) -> tuple[int, int]:
    """Start and length of the longest stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], equal.astype(np.int8), [0]))))
    if not edges.size:
        return 0, 0
    lengths = edges[1::2] - edges[::2]
    longest = int(lengths.argmax())
    return int(edges[2 * longest]), int(lengths[longest])
