"""The space of mappings of one contraction onto a hierarchy: its tiles, loop orders and spreads as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf, prod
from typing import Literal

import numpy as np

from tilewright.dataflow.errors import InputError, nearest
from tilewright.sim.hierarchy import Hierarchy
from tilewright.sim.mapspace_kernel import IntArray, SpaceArrays
from tilewright.sim.mapspace_problem import Contraction
from tilewright.sim.mapspace_spread import Spreads, spreads_of

#: Which tiles are tried: those that divide the tile around them; the smallest of each number of trips over
#: the rank; every whole number.
Tiles = Literal["divisors", "remainders", "all"]
TILES: tuple[Tiles, ...] = ("divisors", "remainders", "all")

#: Ranks after merging; 2**ranks sets of loops are ordered.
MAX_RANKS = 10

#: The ranks of an order, outermost first, and for each tensor the mask of those that stand inside its innermost
#: selecting loop.
Order = tuple[tuple[int, ...], tuple[int, ...]]


def tiles_of(size: int, tiles: Tiles) -> tuple[int, ...]:
    """Candidate tiles of a rank, ascending."""
    if tiles == "all":
        return tuple(range(1, size + 1))
    low = [i for i in range(1, int(size**0.5) + 1) if tiles == "remainders" or size % i == 0]
    if tiles == "divisors":
        return tuple(sorted({*low, *(size // i for i in low)}))
    return tuple(sorted({-(-size // -(-size // t)) for t in low} | {-(-size // trips) for trips in low}))


@lru_cache(maxsize=256)
def loop_orders(relevant: tuple[int, ...], n_ranks: int) -> tuple[tuple[Order, ...], ...]:
    """For every set of loops (a mask) the orders that differ in reuse: (order outermost first, free masks).

    relevant: masks of the ranks that select each tensor. A tensor's free mask holds the ranks that stand
    inside its innermost selecting loop. An order that leaves less free for every tensor than another is left
    out, which costs no optimum: less free is never cheaper.
    """
    return tuple(_orders(mask, relevant, n_ranks) for mask in range(1 << n_ranks))


def _orders(mask: int, relevant: tuple[int, ...], n_ranks: int) -> tuple[Order, ...]:
    found: dict[tuple[int, ...], tuple[int, ...]] = {}

    def grow(inner: tuple[int, ...], rest: int, live: int, free: tuple[int, ...]) -> None:
        useful = [
            r
            for r in range(n_ranks)
            if rest >> r & 1 and any(live >> t & 1 and not one >> r & 1 for t, one in enumerate(relevant))
        ]
        if not useful:
            outer = tuple(r for r in range(n_ranks) if rest >> r & 1)
            found.setdefault(free, outer + inner)
            return
        for r in useful:
            alive = sum(1 << t for t, one in enumerate(relevant) if live >> t & 1 and not one >> r & 1)
            now = tuple(f | (alive >> t & 1) << r for t, f in enumerate(free))
            grow((r, *inner), rest & ~(1 << r), alive, now)

    grow((), mask, (1 << len(relevant)) - 1, (0,) * len(relevant))
    best = [
        free
        for free in found
        if not any(
            other != free and all(f & o == f for f, o in zip(free, other, strict=True)) for other in found
        )
    ]
    return tuple((found[free], free) for free in best)


@dataclass(frozen=True)
class MapSpace:
    """A contraction on a hierarchy with the tiles that are tried; `arrays` is what the kernels take.

    `orders` are (order outermost first, free masks) rows; `spreads` stand by the level above the fan-out.
    """

    problem: Contraction
    hierarchy: Hierarchy
    tiles: Tiles
    arrays: SpaceArrays
    orders: tuple[Order, ...]
    spreads: tuple[Spreads, ...]

    @property
    def ranks(self) -> tuple[str, ...]:
        return tuple(rank for rank, _ in self.problem.sizes)


def map_space(
    problem: Contraction, hierarchy: Hierarchy, tiles: Tiles = "remainders", merge: bool = True
) -> MapSpace:
    """The space of mappings of `problem`; with `merge` ranks are one where they cannot be told apart.

    Raises InputError for too many ranks, unknown tiles, or axes that name no rank of the problem.
    """
    if tiles not in TILES:
        raise InputError(f"tiles {tiles!r} is unknown{nearest(tiles, TILES)}; known: {', '.join(TILES)}")
    known = [rank for rank, _ in problem.sizes]
    pinned = [(axis, rank) for axes in hierarchy.fan_outs for axis in axes for rank in axis.ranks]
    for axis, rank in pinned:
        if rank not in known:
            raise InputError(
                f"contraction {problem.name!r} has no rank {rank!r}, which axis {axis.name!r} asks for"
                f"{nearest(rank, known)}; its ranks: {', '.join(known)}"
            )
    merged = problem.merged() if merge and not pinned else problem
    if len(merged.sizes) > MAX_RANKS:
        raise InputError(
            f"contraction {problem.name!r}: {len(merged.sizes)} ranks after merging, the limit is {MAX_RANKS}"
        )
    ranks = [rank for rank, _ in merged.sizes]
    relevant = tuple(sum(1 << ranks.index(rank) for rank in operand.ranks) for operand in merged.operands)
    orders = loop_orders(relevant, len(ranks))
    spreads = tuple(spreads_of(axes, merged, tiles == "divisors", relevant) for axes in hierarchy.fan_outs)
    arrays = _arrays(merged, hierarchy, tiles, relevant, orders, spreads)
    flat = tuple(order for of_mask in orders for order in of_mask)
    return MapSpace(merged, hierarchy, tiles, arrays, flat, spreads)


def _arrays(
    problem: Contraction,
    hierarchy: Hierarchy,
    tiles: Tiles,
    relevant: tuple[int, ...],
    orders: tuple[tuple[Order, ...], ...],
    spreads: Sequence[Spreads],
) -> SpaceArrays:
    ranks = [rank for rank, _ in problem.sizes]
    sizes = dict(problem.sizes)
    n_tensors = len(problem.operands)
    levels = hierarchy.levels
    bits = [hierarchy.element_bits or operand.bits for operand in problem.operands]
    words = np.array([one / hierarchy.word_bits for one in bits])
    dims = [index for operand in problem.operands for index in operand.indices]
    terms = [(ranks.index(rank), step) for index in dims for rank, step in index]
    elements = [
        prod(1 + sum(step * (sizes[rank] - 1) for rank, step in index) if len(index) > 1 else sizes[index[0][0]]
             for index in operand.indices)
        for operand in problem.operands
    ]  # fmt: skip
    per_word = np.array([[level.read_pj, level.write_pj] for level in levels]).T
    ports = np.array([
        [1 / level.read_words_per_cycle, 1 / level.write_words_per_cycle, 1 / level.shared_words_per_cycle]
        for level in levels
    ]).T  # fmt: skip
    fan = [int(any(axis.size > 1 for axis in axes)) for axes in hierarchy.fan_outs]
    candidates = [tiles_of(size, tiles) for _, size in problem.sizes]
    flat = [order for of_mask in orders for order in of_mask]
    values = [_distinct(one.positions) for one in spreads]
    return SpaceArrays(
        sizes=_ints([sizes[rank] for rank in ranks]),
        relevant=_ints(relevant),
        plain=_ints([int(all(len(index) == 1 for index in operand.indices)) for operand in problem.operands]),
        dim_ptr=_pointers([len(operand.indices) for operand in problem.operands]),
        term_ptr=_pointers([len(index) for index in dims]),
        term_rank=_ints([r for r, _ in terms]),
        term_step=_ints([step for _, step in terms]),
        elements=np.array(elements, dtype=np.float64),
        words=words,
        access_pj=np.ascontiguousarray(per_word[:, :, None] * words),
        access_cycles=np.ascontiguousarray(ports[:, :, None] * words),
        floor=np.zeros(n_tensors),
        timed=_ints((ports > 0).any(axis=0)),
        capacity_words=np.array([
            inf if level.capacity_bits is None else level.capacity_bits / hierarchy.word_bits for level in levels
        ]),
        fan=_ints(fan),
        n_fans_above=_pointers(fan),
        order_ptr=_pointers([len(of_mask) for of_mask in orders]),
        order_free=_ints([free for _, free in flat]).reshape(-1, n_tensors),
        tile_ptr=_pointers([len(one) for one in candidates]),
        tiles=_ints([tile for one in candidates for tile in one]),
        spread_ptr=_pointers([len(one.positions) for one in spreads]),
        spreads=np.concatenate([one.positions for one in spreads]),
        spread_cost=np.concatenate([one.cost for one in spreads]),
        spread_index=np.concatenate([index for index, _ in values]),
        spread_most=np.concatenate([_most(index) for index, _ in values]),
        value_ptr=_pointers([len(one) for _, of_level in values for one in of_level]),
        values=np.concatenate([one for _, of_level in values for one in of_level]),
        divisors_only=int(tiles == "divisors"),
        summed=int(any(len(index) > 1 for index in dims)),
        mac_pj=hierarchy.mac_pj,
        rest_pj=hierarchy.rest_pj_per_cycle,
        macs=float(problem.macs),
    )  # fmt: skip


def _distinct(positions: IntArray) -> tuple[IntArray, list[IntArray]]:
    """Every entry's place among the distinct values of its column, and those values."""
    columns = [np.unique(column, return_inverse=True) for column in positions.T]
    return np.column_stack([place for _, place in columns]), [values for values, _ in columns]


def _most(index: IntArray) -> IntArray:
    """(rows, R, R): the largest entry of every column among the rows that begin with the same 0 to r; rows ascend."""
    n_rows, n_ranks = index.shape
    found = np.zeros((n_rows, n_ranks, n_ranks), dtype=np.int64)
    for r in range(n_ranks):
        begins = np.ones(n_rows, dtype=bool)
        begins[1:] = (index[1:, : r + 1] != index[:-1, : r + 1]).any(axis=1)
        starts = np.flatnonzero(begins)
        most = np.maximum.reduceat(index, starts, axis=0)
        found[:, r] = most[np.cumsum(begins) - 1]
    return found


def _ints(values: object) -> IntArray:
    return np.array(values, dtype=np.int64)


def _pointers(lengths: Sequence[int]) -> IntArray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
