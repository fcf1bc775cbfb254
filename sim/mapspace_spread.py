"""What the ranks of a contraction may take of a fan-out's axes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt, lcm, prod

import numpy as np

from tilewright.sim.hierarchy import Axis
from tilewright.sim.mapspace_kernel import FloatArray, IntArray
from tilewright.sim.mapspace_problem import Contraction


@dataclass(frozen=True)
class Spreads:
    """What the ranks may take of a fan-out: positions (n, R), accesses above for each word (n, T).

    `factors` and `picked` tell where they lie: row `picked[i, a]` of the factors of axis a.
    """

    axes: tuple[Axis, ...]
    positions: IntArray
    cost: FloatArray
    factors: tuple[IntArray, ...]
    picked: IntArray

    def laid(self, row: int, ranks: Sequence[str]) -> tuple[tuple[str, str, int], ...]:
        """(axis, rank, positions) of a row, without ranks that take one."""
        return tuple(
            (axis.name, ranks[r], int(f))
            for axis, factors, pick in zip(self.axes, self.factors, self.picked[row], strict=True)
            for r, f in enumerate(factors[pick])
            if f > 1
        )


def spreads_of(
    axes: tuple[Axis, ...], problem: Contraction, divisors: bool, relevant: tuple[int, ...]
) -> Spreads:
    """All assignments that differ, in a fixed order; remembered, for they know no tensors but by `relevant`."""
    named = any(axis.ranks for axis in axes)
    ranks = tuple(rank if named else str(i) for i, (rank, _) in enumerate(problem.sizes))
    most = prod(axis.size for axis in axes)
    return _spreads(
        axes, ranks, tuple(_reach(size, most, divisors) for _, size in problem.sizes), divisors, relevant
    )


@lru_cache(maxsize=4096)
def _reach(size: int, most: int, divisors: bool) -> int:
    """The least size of a rank that may take the same numbers of at most `most` positions."""
    if not divisors:
        return min(size, most)
    small = [i for i in range(1, isqrt(size) + 1) if size % i == 0]
    return lcm(*(one for i in small for one in (i, size // i) if one <= most))


@lru_cache(maxsize=256)
def _spreads(
    axes: tuple[Axis, ...],
    ranks: tuple[str, ...],
    rank_sizes: tuple[int, ...],
    divisors: bool,
    relevant: tuple[int, ...],
) -> Spreads:
    sizes = np.array(rank_sizes)
    positions = np.ones((1, len(ranks)), dtype=np.int64)
    cost = np.ones((1, len(relevant)))
    picked = np.zeros((1, 0), dtype=np.int64)
    every = []
    selects = np.array([[mask >> r & 1 for r in range(len(ranks))] for mask in relevant], dtype=bool)
    for axis in axes:
        factors = _factors(axis, ranks, rank_sizes, divisors)
        every.append(factors)
        copies = np.where(selects[None], 1, factors[:, None, :]).prod(axis=2).astype(np.float64)
        if axis.multicast:
            copies[:, :-1] = 1
        if axis.reduction:
            copies[:, -1] = 1
        positions = (positions[:, None] * factors[None]).reshape(-1, len(ranks))
        cost = (cost[:, None] * copies[None]).reshape(-1, len(relevant))
        old = np.repeat(picked, len(factors), axis=0)
        picked = np.column_stack([old, np.tile(np.arange(len(factors)), len(picked))])
        fitting = (positions <= sizes).all(axis=1)
        if divisors:
            fitting &= (sizes % positions == 0).all(axis=1)
        positions, cost, picked = positions[fitting], cost[fitting], picked[fitting]
        _, first = np.unique(np.column_stack([positions, cost]), axis=0, return_index=True)
        positions, cost, picked = positions[first], cost[first], picked[first]
    return Spreads(axes, positions, cost, tuple(every), picked)


def _factors(axis: Axis, ranks: Sequence[str], sizes: Sequence[int], divisors: bool) -> IntArray:
    """Positions that each rank takes of an axis, (n, R), their product at most its size."""
    found = np.ones((1, 0), dtype=np.int64)
    for rank, size in zip(ranks, sizes, strict=True):
        most = min(size, axis.size) if not axis.ranks or rank in axis.ranks else 1
        steps = np.array([f for f in range(1, most + 1) if not divisors or size % f == 0])
        found = np.column_stack([np.repeat(found, len(steps), axis=0), np.tile(steps, len(found))])
        found = found[found.prod(axis=1) <= axis.size]
    return found
