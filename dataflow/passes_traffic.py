"""Traffic that no schedule avoids: what is touched of a live-in read once, each result written once."""

from itertools import pairwise
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind, Mask, Operator
from tilewright.dataflow.passes import PassError
from tilewright.dataflow.tensor import Profile, Role

#: Positions along one rank, ascending, each once: evenly spaced ones need no array.
_Positions = range | NDArray[np.int64]

#: Positions along a rank that are listed at most; evenly spaced ones need no list.
_MAX_POSITIONS = 1 << 22

#: The positions that one access touches along each rank of a tensor.
_Touched = tuple[_Positions, ...]


class Traffic(NamedTuple):
    """Bytes read from and written to the memory behind the chip."""

    read_bytes: int
    write_bytes: int


def compulsory_traffic_bytes(graph: Graph) -> Traffic:
    """The least bytes that running the graph once reads and writes.

    Of a live-in just the elements that some operator touches count, each once: views at an offset, rows
    under a mask or a window, and as many rows of a table as a gather selects (at most all; rows that are
    selected twice are taken for different ones). Of a live-out what its operator writes counts; rows that
    a scatter writes into a tensor that is kept in place leave the others where they are, and these are
    read if the result is. A live-in that is passed on unchanged is not written. Raises PassError where the
    positions of an index are too many to list.
    """
    read = sum(_bytes(graph, name, _read_elements(graph, name)) for name in graph.inputs)
    write = 0
    for name in graph.outputs:
        if operator := graph.producer.get(name):
            touched = _touched(graph, operator, operator.output)
            write += _bytes(graph, name, _union_elements([touched]))
    return Traffic(read, write)


def _bytes(graph: Graph, tensor: str, n_elements: int) -> int:
    return -(-n_elements * graph.tensor_by_name[tensor].bits // 8)


def _read_elements(graph: Graph, name: str) -> int:
    """Elements of a live-in that operators touch."""
    touched, kept_in_place = [], 0
    for operator in graph.consumers[name]:
        for access in operator.inputs:
            if access.tensor != name:
                continue
            if operator.kind is Kind.SCATTER and selects(access):
                kept_in_place = max(kept_in_place, _read_behind(graph, operator))
            elif operator.kind is Kind.GATHER and selects(access):
                touched.append(_gathered(graph, operator, access))
            else:
                touched.append(_touched(graph, operator, access))
    whole = prod(_extent(graph, rank) for rank in graph.tensor_by_name[name].ranks)
    return min(whole, _union_elements(touched) + kept_in_place)


def _read_behind(graph: Graph, scatter: Operator) -> int:
    """Elements read of what a scatter leaves in place: those that readers touch and it did not write."""
    name = scatter.output.tensor
    read = [
        _touched(graph, reader, access)
        for reader in graph.consumers[name]
        for access in reader.inputs
        if access.tensor == name
    ]
    written = _touched(graph, scatter, scatter.output)
    return _union_elements([*read, written]) - _union_elements([written]) if read else 0


def selects(access: Access) -> bool:
    """Whether data choose the position along some rank: it is read at a constant index."""
    return any(not index.terms for index in access.indices)


def _gathered(graph: Graph, operator: Operator, access: Access) -> _Touched:
    """As many rows as the gather has indices to select with, the rest as accessed."""
    tensors = [graph.tensor_by_name[other.tensor] for other in operator.inputs]
    selectors = [
        other for other, t in zip(operator.inputs, tensors, strict=True) if t.role is Role.INDEX
    ] or [operator.output]
    n_rows = max(prod(_extent(graph, rank) for rank in selector.ranks) for selector in selectors)
    found = []
    ranks = graph.tensor_by_name[access.tensor].ranks
    for rank, index in zip(ranks, access.indices, strict=True):
        if index.terms:
            found.append(_positions(graph, rank, index, operator.mask))
        else:
            found.append(range(min(n_rows, _extent(graph, rank))))
    return tuple(found)


def _touched(graph: Graph, operator: Operator, access: Access) -> _Touched:
    ranks = graph.tensor_by_name[access.tensor].ranks
    return tuple(
        _positions(graph, rank, index, operator.mask)
        for rank, index in zip(ranks, access.indices, strict=True)
    )


def _positions(graph: Graph, rank: str, index: Index, mask: Mask | None) -> _Positions:
    """The values of an index within its rank."""
    low, high = _band(graph, index, mask)
    low, high = max(low, 0), min(high, _extent(graph, rank) - 1)
    found: _Positions = range(index.offset, index.offset + 1)
    by_rank: dict[str, list[IndexTerm]] = {}
    for term in sorted(index.terms, key=lambda term: abs(term.coefficient)):
        by_rank.setdefault(term.rank, []).append(term)
    for name, terms in by_rank.items():
        extent = _extent(graph, name)
        if len(terms) > 1 and extent <= _MAX_POSITIONS:
            found = _sums(found, _turned(terms, extent), rank)
            continue
        for term in terms:
            first, last = term.shift // term.divisor, (extent - 1 + term.shift) // term.divisor
            found = _spread(found, term.coefficient, last - first + 1, first, rank)
    if isinstance(found, range):
        first = found.start + max(0, -(-(low - found.start) // found.step)) * found.step
        return range(first, max(first, min(found.stop, high + 1)), found.step)
    return found[(found >= low) & (found <= high)]


def _turned(terms: list[IndexTerm], extent: int) -> _Positions:
    """The values of a sum of several terms of one rank, as remainders and rolls are."""
    place = np.arange(extent, dtype=np.int64)
    total = sum(term.coefficient * ((place + term.shift) // term.divisor) for term in terms)
    values: NDArray[np.int64] = np.unique(total)
    first, last = int(values[0]), int(values[-1])
    return range(first, last + 1) if last - first == len(values) - 1 else values


def _sums(found: _Positions, others: _Positions, rank: str) -> _Positions:
    """The sums of any two positions. Raises PassError where they are too many to list."""
    if isinstance(found, range) and isinstance(others, range) and found.step == others.step == 1:
        return range(found.start + others.start, found.stop + others.stop - 1)
    if len(found) * len(others) > 4 * _MAX_POSITIONS:
        raise PassError(f"the positions read along {rank!r} are too many to list")
    return np.unique(np.add.outer(np.asarray(found, dtype=np.int64), np.asarray(others, dtype=np.int64)))


def _spread(found: _Positions, coefficient: int, n_steps: int, first: int, rank: str) -> _Positions:
    """The sums of the positions and `n_steps` multiples of `coefficient` from the `first` one on."""
    if first and isinstance(found, range):
        found = range(found.start + coefficient * first, found.stop + coefficient * first, found.step)
    elif first:
        found = np.asarray(found, dtype=np.int64) + coefficient * first
    if coefficient == 0 or n_steps == 1:
        return found
    if isinstance(found, range):
        start = found.start + min(0, coefficient * (n_steps - 1))
        apart = abs(coefficient)
        if len(found) == 1:
            return range(start, start + apart * n_steps, apart)
        if apart % found.step == 0 and apart <= found.step * len(found):
            last = start + found.step * (len(found) - 1) + apart * (n_steps - 1)
            return range(start, last + 1, found.step)
    steps = range(0, coefficient * n_steps, coefficient)
    return _sums(found, steps, rank)


def _band(graph: Graph, index: Index, mask: Mask | None) -> tuple[int, int]:
    """The lowest and highest value of the index at which the mask leaves any point."""
    everything = -(1 << 62), 1 << 62
    if mask is None:
        return everything
    if mask.lower is not None and mask.upper is not None and mask.upper < mask.lower:
        return 0, -1
    names = tuple(term.rank for term in index.terms)
    n_rank, n_of = graph.size(mask.rank), graph.size(mask.of) if mask.of else 1
    if index.offset or (len(names) == 1 and index != Index.of(names[0])):
        return everything
    if names == (mask.rank_parts or (mask.rank,)):
        low = 0 if mask.lower is None else mask.lower
        return low, n_rank - 1 if mask.upper is None else n_of - 1 + mask.upper
    if names == (mask.of_parts or (mask.of,)):
        low = 0 if mask.upper is None else -mask.upper
        return low, n_of - 1 if mask.lower is None else n_rank - 1 - mask.lower
    return everything


def _union_elements(touched: list[_Touched]) -> int:
    """Elements in at least one of the boxes of positions.

    Positions along a rank that the same boxes contain are counted as one class, so that the work
    depends on the number of different boxes and not on the sizes.
    """
    boxes: list[_Touched] = []
    for box in touched:
        if not any(_same(box, other) for other in boxes):
            boxes.append(box)
    if len(boxes) < 2:
        return prod(len(axis) for axis in boxes[0]) if boxes else 0
    counts: dict[int, int] = {(1 << len(boxes)) - 1: 1}  # by set of boxes: elements in just these
    for axis in range(len(boxes[0])):
        classes = _classes([box[axis] for box in boxes])
        crossed: dict[int, int] = {}
        for boxes_before, n_before in counts.items():
            for boxes_here, n_here in classes.items():
                if both := boxes_before & boxes_here:
                    crossed[both] = crossed.get(both, 0) + n_before * n_here
        counts = crossed
    return sum(counts.values())


def _same(box: _Touched, other: _Touched) -> bool:
    return all(
        a == b if isinstance(a, range) and isinstance(b, range) else np.array_equal(a, b)
        for a, b in zip(box, other, strict=True)
    )


def _classes(axes: list[_Positions]) -> dict[int, int]:
    """By set of boxes (a bit each): how many positions just these boxes contain."""
    found: dict[int, int] = {}
    intervals = [axis for axis in axes if isinstance(axis, range) and axis.step == 1]
    if len(intervals) == len(axes):
        edges = sorted({edge for axis in intervals for edge in (axis.start, axis.stop)})
        for first, end in pairwise(edges):
            held = sum(1 << number for number, axis in enumerate(intervals) if first in axis)
            found[held] = found.get(held, 0) + end - first
        return found
    arrays = [np.asarray(axis, dtype=np.int64) for axis in axes]
    values, members = np.unique(np.concatenate(arrays), return_inverse=True)
    bits = np.zeros(len(values), dtype=np.int64)
    start = 0
    for number, array in enumerate(arrays):
        bits[members[start : start + len(array)]] |= 1 << number
        start += len(array)
    kinds, numbers = np.unique(bits, return_counts=True)
    return dict(zip(kinds.tolist(), numbers.tolist(), strict=True))


def _extent(graph: Graph, rank: str) -> int:
    """Elements along a rank; the sum over the instances of a profile."""
    size = graph.ranks[rank]
    return size.total if isinstance(size, Profile) else size
