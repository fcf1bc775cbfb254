"""Map a contraction onto a declared hierarchy: the certified best mapping, or the price of a stated one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Literal

import numpy as np

from tilewright.dataflow.errors import InputError, nearest
from tilewright.sim.hierarchy import Axis, Hierarchy
from tilewright.sim.mapper_nest import Certificate, Laid, NestMapping, described
from tilewright.sim.mapper_search import Found, Goal, Search, choices_of, resolved_tiles
from tilewright.sim.mapper_search_kernel import ENERGY, LATENCY, MIX, PRODUCT, settle
from tilewright.sim.mapping import MappingError
from tilewright.sim.mapspace import MapSpace, Tiles, map_space
from tilewright.sim.mapspace_kernel import Choice, SpaceArrays, new_state, tile_words
from tilewright.sim.mapspace_problem import Contraction

HierarchyObjective = Literal["latency", "energy", "edp", "mix"]
HIERARCHY_OBJECTIVES: tuple[HierarchyObjective, ...] = ("latency", "energy", "edp", "mix")
_KINDS = {"latency": LATENCY, "energy": ENERGY, "edp": PRODUCT, "mix": MIX}


@dataclass(frozen=True)
class StatedLevel:
    """One level of a stated mapping: tiles, the loops above it outermost first, tensors kept, positions taken.

    A rank without a tile keeps that of the level outside; `spread` holds positions by axis and rank. `keeps`
    None keeps what the level can.
    """

    tiles: Mapping[str, int]
    order: tuple[str, ...] = ()
    keeps: tuple[str, ...] | None = None
    spread: Mapping[str, Mapping[str, int]] | None = None


def goal_of(objective: str, cycle_weight: float, pj_weight: float) -> Goal:
    """Raises InputError for an unknown objective or a mix without weights."""
    if objective not in _KINDS:
        raise InputError(
            f"objective {objective!r} is unknown{nearest(objective, HIERARCHY_OBJECTIVES)};"
            f" known: {', '.join(HIERARCHY_OBJECTIVES)}"
        )
    if objective == "mix" and not (cycle_weight >= 0 and pj_weight >= 0 and cycle_weight + pj_weight > 0):
        raise InputError(
            f"objective mix: weights must be >= 0 and not both 0, got {cycle_weight} a cycle, {pj_weight} a pJ"
        )
    return Goal(_KINDS[objective], cycle_weight, pj_weight)


@lru_cache(maxsize=1024)
def map_onto(
    problem: Contraction,
    hierarchy: Hierarchy,
    objective: HierarchyObjective = "latency",
    tiles: Tiles = "remainders",
    cycle_weight: float = 0.0,
    pj_weight: float = 0.0,
) -> NestMapping:
    """The best mapping of `problem` in the space of `tiles`, with its certificate; remembered for the process.

    Of equals by the objective the one with less energy (latency, edp, mix) or fewer cycles (energy).
    Raises MappingError if nothing fits, InputError for what the hierarchy and problem cannot mean.
    """
    goal = goal_of(objective, cycle_weight, pj_weight)
    space = map_space(problem, hierarchy, tiles)
    arrays = space.arrays
    found = _found(_Task(arrays, tuple(choices_of(space)), goal, hierarchy.n_pes))
    if found.choice is None:
        raise _nothing_fits(space)
    state = new_state(arrays)
    orders: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    laid: dict[int, Laid] = {}
    for stage, row in enumerate(found.trail, start=1):
        settle(arrays, state, stage, row)
        orders[stage - 1] = space.orders[int(row[3])]
        at = int(row[2]) - int(arrays.spread_ptr[stage - 1])
        spreads = space.spreads[stage - 1]
        laid[stage - 1] = (spreads.laid(at, space.ranks), tuple(float(c) for c in spreads.cost[at]))
    value = float(found.cost[0])
    words = f"{tiles} tiles, loop orders that differ in reuse, positions on every axis, tensors kept or not"
    # With a strided window the least facts of a set of tiles need not cost least, so nothing is proven there.
    bound = 0.0 if problem.has_strided_window else value
    certificate = Certificate(bound, value, found.n_evaluated, found.n_pruned, words)
    return described(
        space, found.choice, resolved_tiles(state), state.spread, orders, laid, objective, certificate
    )


class _Task:
    """What a search answers for; equal where every array is, whatever ranks and tensors are called."""

    def __init__(self, arrays: SpaceArrays, choices: tuple[Choice, ...], goal: Goal, n_pes: int) -> None:
        self.arrays, self.choices, self.goal, self.n_pes = arrays, choices, goal, n_pes
        flat = (*arrays, *(part for choice in choices for part in choice))
        self._key = (
            goal, n_pes, *(one.tobytes() if isinstance(one, np.ndarray) else one for one in flat),
            *(one.shape for one in flat if isinstance(one, np.ndarray)),
        )  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Task) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@lru_cache(maxsize=256)
def _found(task: _Task) -> Found:
    arrays = task.arrays
    goal = task.goal.array(arrays.rest_pj, arrays.macs * arrays.mac_pj)
    return Search(arrays, goal, task.n_pes).run(list(task.choices))


def _nothing_fits(space: MapSpace) -> MappingError:
    """Name the first level that does not even hold one element of what it must keep."""
    ones = np.ones(len(space.ranks), np.int64)
    least = min(choices_of(space), key=lambda choice: int((choice.keep.T * choice.copies).sum()))
    for i, level in enumerate(space.hierarchy.levels[1:], start=1):
        words = (
            sum(tile_words(space.arrays, int(t), ones) for t in np.flatnonzero(least.keep[i]))
            * least.copies[i]
        )
        if words > space.arrays.capacity_words[i]:
            bits = words * space.hierarchy.word_bits
            return MappingError(
                f"contraction {space.problem.name!r}: one element of each tensor takes {bits / 8:g} bytes,"
                f" level {level.name!r} has {(level.capacity_bits or 0) / 8:g}"
            )
    return MappingError(
        f"contraction {space.problem.name!r}: no mapping fits hierarchy {space.hierarchy.name!r}"
    )


def score(problem: Contraction, hierarchy: Hierarchy, stated: Mapping[str, StatedLevel]) -> NestMapping:
    """Price a stated mapping; levels that are not stated hold what the level outside holds.

    Raises MappingError for a level that overflows (its bytes), InputError for unknown levels, ranks, axes or
    tensors and for sizes that are not positive.
    """
    space = map_space(problem, hierarchy, "divisors", merge=False)
    ranks, names = space.ranks, [operand.name for operand in problem.operands]
    n_levels = len(hierarchy.levels)
    for name in stated:
        hierarchy.position(name)
    tiles = np.ones((n_levels + 1, len(ranks)), np.int64)
    tiles[0] = space.arrays.sizes
    spreads = np.ones((n_levels, len(ranks)), np.int64)
    keep = np.ones((n_levels, len(names)), np.int64)
    copies, serial = np.ones(n_levels, np.int64), np.zeros(n_levels, np.int64)
    orders: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    laid: dict[int, Laid] = {}
    for i, level in enumerate(hierarchy.levels[1:], start=1):
        one = stated.get(level.name, StatedLevel({}))
        place = f"mapping, level {level.name!r}"
        _known(place, "rank", (*one.tiles, *one.order), ranks)
        if one.keeps is not None:
            _known(place, "tensor", one.keeps, names)
            keep[i] = [name in one.keeps for name in names]
        tiles[i] = [one.tiles.get(rank, tiles[i - 1, r]) for r, rank in enumerate(ranks)]
        if bad := [(rank, size) for rank, size in one.tiles.items() if size <= 0]:
            raise InputError(f"{place}: tile of {bad[0][0]!r} must be > 0, got {bad[0][1]}")
        if (tiles[i] > tiles[i - 1]).any():
            r = int(np.flatnonzero(tiles[i] > tiles[i - 1])[0])
            raise InputError(
                f"{place}: tile of {ranks[r]!r} must be at most {tiles[i - 1, r]} (that outside), got {tiles[i, r]}"
            )
        spreads[i - 1], laid[i - 1] = _stated_spread(place, level.axes, one.spread or {}, space)
        trips = [bool(t) for t in tiles[i] * spreads[i - 1] < tiles[i - 1]]
        orders[i - 1] = _stated_order(one.order, space, trips)
        copies[i], serial[i] = (
            (2, 0) if level.buffering == "double" else (1, int(level.buffering == "single"))
        )
        used = sum(tile_words(space.arrays, int(t), tiles[i]) for t in np.flatnonzero(keep[i])) * copies[i]
        if used > space.arrays.capacity_words[i]:
            raise MappingError(
                f"{place}: its tiles take {used * hierarchy.word_bits / 8:g} bytes,"
                f" the level has {(level.capacity_bits or 0) / 8:g}"
            )
    return described(space, Choice(keep, copies, serial), tiles, spreads, orders, laid, "stated", None)


def _known(place: str, what: str, given: Sequence[str], known: Sequence[str]) -> None:
    if unknown := [name for name in given if name not in known]:
        raise InputError(
            f"{place}: {what} {unknown[0]!r} is unknown{nearest(unknown[0], list(known))};"
            f" known: {', '.join(known)}"
        )


def _stated_spread(
    place: str, axes: Sequence[Axis], stated: Mapping[str, Mapping[str, int]], space: MapSpace
) -> tuple[list[int], Laid]:
    """Positions of each rank, and what lies where at which price."""
    ranks, outputs = space.ranks, len(space.problem.operands) - 1
    _known(place, "axis", list(stated), [axis.name for axis in axes])
    positions, laid = [1] * len(ranks), []
    cost = [1.0] * (outputs + 1)
    for axis in axes:
        for rank, n in stated.get(axis.name, {}).items():
            _known(place, "rank", [rank], ranks)
            if axis.ranks and rank not in axis.ranks:
                raise InputError(f"{place}: rank {rank!r} may not lie on axis {axis.name!r}")
            if n <= 0:
                raise InputError(f"{place}: positions of {rank!r} on {axis.name!r} must be > 0, got {n}")
            r = ranks.index(rank)
            positions[r] *= n
            laid.append((axis.name, rank, n))
            for t in range(outputs + 1):
                shared = axis.reduction if t == outputs else axis.multicast
                if not shared and not int(space.arrays.relevant[t]) >> r & 1:
                    cost[t] *= n
        used = prod(stated.get(axis.name, {}).values())
        if used > axis.size:
            raise MappingError(
                f"{place}: axis {axis.name!r} has {axis.size} positions, the mapping takes {used}"
            )
    return positions, (tuple(laid), tuple(cost))


def _stated_order(
    order: Sequence[str], space: MapSpace, trips: Sequence[bool]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ranks outermost first, those not named outside, and the free mask of every tensor.

    trips: whether the loop of each rank has more than one.
    """
    named = [space.ranks.index(rank) for rank in order]
    full = (*(r for r in range(len(space.ranks)) if r not in named), *named)
    masks = []
    for mask in space.arrays.relevant:
        free = 0
        for r in reversed([r for r in full if trips[r]]):
            if int(mask) >> r & 1:
                break
            free |= 1 << r
        masks.append(free)
    return full, tuple(masks)
