"""Traffic that no schedule avoids: what is touched of a live-in read once, each result written once."""

from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Index, Kind, Mask, Operator
from tilewright.dataflow.tensor import Profile, Role

#: The indices that one access touches along each rank of a tensor.
_Touched = tuple[NDArray[np.int64], ...]


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
    read if the result is. A live-in that is passed on unchanged is not written.
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
            found.append(np.arange(min(n_rows, _extent(graph, rank))))
    return tuple(found)


def _touched(graph: Graph, operator: Operator, access: Access) -> _Touched:
    ranks = graph.tensor_by_name[access.tensor].ranks
    return tuple(
        _positions(graph, rank, index, operator.mask)
        for rank, index in zip(ranks, access.indices, strict=True)
    )


def _positions(graph: Graph, rank: str, index: Index, mask: Mask | None) -> NDArray[np.int64]:
    """The values of an index within its rank, ascending, each once."""
    found = np.array([index.offset], dtype=np.int64)
    for term in index.terms:
        steps = np.arange(-(-_extent(graph, term.rank) // term.divisor), dtype=np.int64)
        sums = np.add.outer(found, term.coefficient * steps)
        found = sums[0] if len(found) == 1 and term.coefficient > 0 else np.unique(sums)
    if mask is not None:
        found = _under_mask(graph, found, index, mask)
    return found[(found >= 0) & (found < _extent(graph, rank))]


def _under_mask(graph: Graph, found: NDArray[np.int64], index: Index, mask: Mask) -> NDArray[np.int64]:
    """Without the positions at which the mask leaves no point at all."""
    if mask.lower is not None and mask.upper is not None and mask.upper < mask.lower:
        return found[:0]
    names = tuple(term.rank for term in index.terms)
    n_rank, n_of = graph.size(mask.rank), graph.size(mask.of) if mask.of else 1
    if names == (mask.rank_parts or (mask.rank,)):
        low = 0 if mask.lower is None else mask.lower
        high = n_rank - 1 if mask.upper is None else n_of - 1 + mask.upper
    elif names == (mask.of_parts or (mask.of,)):
        low = 0 if mask.upper is None else -mask.upper
        high = n_of - 1 if mask.lower is None else n_rank - 1 - mask.lower
    else:
        return found
    joint = len(names) > 1 or index == Index.of(names[0])
    return found[(found >= low) & (found <= high)] if joint and index.offset == 0 else found


def _union_elements(touched: list[_Touched]) -> int:
    """Elements in at least one of the boxes of positions.

    Positions along a rank that the same boxes contain are counted as one class, so that the work
    depends on the number of different boxes and not on the sizes.
    """
    boxes = list({tuple(axis.tobytes() for axis in box): box for box in touched}.values())
    if len(boxes) < 2:
        return prod(len(axis) for axis in boxes[0]) if boxes else 0
    counts: dict[int, int] = {(1 << len(boxes)) - 1: 1}  # by set of boxes: elements in just these
    for axis in range(len(boxes[0])):
        values, members = np.unique(np.concatenate([box[axis] for box in boxes]), return_inverse=True)
        held = np.zeros(len(values), dtype=np.int64)
        start = 0
        for number, box in enumerate(boxes):
            held[members[start : start + len(box[axis])]] |= 1 << number
            start += len(box[axis])
        classes = dict(zip(*(part.tolist() for part in np.unique(held, return_counts=True)), strict=True))
        crossed: dict[int, int] = {}
        for boxes_before, n_before in counts.items():
            for boxes_here, n_here in classes.items():
                if both := boxes_before & boxes_here:
                    crossed[both] = crossed.get(both, 0) + n_before * n_here
        counts = crossed
    return sum(counts.values())


def _extent(graph: Graph, rank: str) -> int:
    """Elements along a rank; the sum over the instances of a profile."""
    size = graph.ranks[rank]
    return size.total if isinstance(size, Profile) else size
