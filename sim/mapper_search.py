"""The certified search: every way to keep tensors, every tile, spread and order that bounds cannot rule out."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from tilewright.dataflow.errors import InputError
from tilewright.sim.hierarchy import Level
from tilewright.sim.mapper_search_kernel import (
    ENERGY,
    EVALUATED,
    HEAD,
    PRUNED,
    crossings,
    expand,
    outer_level,
    raise_bounds,
    settle,
    worse,
)
from tilewright.sim.mapper_tables import StageTables, Tables
from tilewright.sim.mapspace import MapSpace
from tilewright.sim.mapspace_kernel import (
    Choice,
    FloatArray,
    IntArray,
    SpaceArrays,
    State,
    new_state,
)
from tilewright.sim.mapspace_problem import Operand

#: Rows of candidates that a stage starts with room for.
_ROOM = 1 << 12
#: Candidates of one stage above which a search is refused rather than left to fill the memory.
_MOST_ROWS = 1 << 24


@dataclass(frozen=True)
class Goal:
    """What is minimised: `kind` as in the kernel; weights of a cycle and of a pJ for a mix."""

    kind: int
    cycle_weight: float = 0.0
    pj_weight: float = 0.0

    def array(self, rest_pj: float, macs_pj: float) -> FloatArray:
        """As the kernel takes it."""
        return np.array([self.kind, rest_pj, macs_pj, self.cycle_weight, self.pj_weight], dtype=np.float64)


@dataclass
class Found:
    """The best mapping so far: how tensors are kept, one row for each stage, and its two measures."""

    cost: FloatArray = field(default_factory=lambda: np.array([np.inf, np.inf]))
    choice: Choice | None = None
    trail: tuple[FloatArray, ...] = ()
    tally: IntArray = field(default_factory=lambda: np.zeros(3, np.int64))

    @property
    def n_evaluated(self) -> int:
        return int(self.tally[EVALUATED])

    @property
    def n_pruned(self) -> int:
        return int(self.tally[PRUNED])


def choices_of(space: MapSpace) -> Iterator[Choice]:
    """Every way to keep tensors at levels and to buffer levels that the hierarchy allows.

    Raises InputError where a level must and must not keep a tensor.
    """
    levels, operands = space.hierarchy.levels, space.problem.operands
    n_tensors = len(operands)
    ways: list[list[tuple[int, ...]]] = [[(1,)] * n_tensors]
    for level in levels[1:]:
        ways.append([_ways(level, operand, t == n_tensors - 1) for t, operand in enumerate(operands)])
    bufferings = [[(1, 0)]] + [_bufferings(level) for level in levels[1:]]
    flat = [way for of_level in ways for way in of_level]
    for kept in product(*flat):
        keep = np.array(kept, dtype=np.int64).reshape(len(levels), n_tensors)
        for buffered in product(*bufferings):
            copies, serial = (np.array(one, dtype=np.int64) for one in zip(*buffered, strict=True))
            yield Choice(keep, copies, serial)


def _ways(level: Level, operand: Operand, output: bool) -> tuple[int, ...]:
    words = ("all", "outputs" if output else "inputs", operand.name)
    if any(word in level.must_bypass for word in words):
        return (0,)
    return (1, 0) if any(word in level.may_bypass for word in words) else (1,)


def _bufferings(level: Level) -> list[tuple[int, int]]:
    """(tiles that there is room for, whether fills add to the time)."""
    single, double = (1, 1), (2, 0)
    return {"ideal": [(1, 0)], "double": [double], "single": [single], "choice": [double, single]}[
        level.buffering
    ]


def inner_space(space: SpaceArrays, choice: Choice, level: int, charged: bool) -> tuple[SpaceArrays, Choice]:
    """The problem on `level` and what lies inside, as if `level` held everything.

    Tensors that `level` does not keep come from it for nothing, or (`charged`) at the price of the level that
    serves them. The optimum of this problem is a lower bound of what its levels, and that service, cost in any
    mapping of the whole.
    """
    n_ranks = space.sizes.size
    first, value = space.spread_ptr[level], level * n_ranks
    access_pj, access_cycles = space.access_pj[:, level:].copy(), space.access_cycles[:, level:].copy()
    for t in np.flatnonzero(choice.keep[level] == 0):
        parent = int(np.flatnonzero(choice.keep[:level, t])[-1])
        access_pj[:, 0, t] = space.access_pj[:, parent, t] if charged else 0.0
    access_cycles[:] = 0.0
    keep = choice.keep[level:].copy()
    keep[0] = 1
    fan = space.fan[level:]
    arrays = space._replace(
        access_pj=access_pj,
        access_cycles=access_cycles,
        timed=np.zeros_like(fan),
        capacity_words=space.capacity_words[level:],
        fan=fan,
        n_fans_above=np.concatenate([[0], np.cumsum(fan)]).astype(np.int64),
        spread_ptr=space.spread_ptr[level:] - first,
        spreads=space.spreads[first:],
        spread_cost=space.spread_cost[first:],
        spread_index=space.spread_index[first:],
        spread_most=space.spread_most[first:],
        value_ptr=space.value_ptr[value:] - space.value_ptr[value],
        values=space.values[space.value_ptr[value] :],
    )
    return arrays, Choice(keep, choice.copies[level:], np.zeros_like(choice.serial[level:]))


class Search:
    """Branch and bound on one contraction; `found` is the best mapping, certified once `run` is done."""

    def __init__(self, space: SpaceArrays, goal: FloatArray, n_pes: int) -> None:
        self.space = space
        self.goal = goal
        self.least_cycles = space.macs / n_pes
        self.found = Found()
        self._fixed = np.zeros(space.sizes.size, np.int64)
        self._inner: dict[bytes, float] = {}
        self._rows = np.empty((_ROOM, HEAD + space.sizes.size))
        self._tables = Tables(space)
        n_levels = space.fan.size
        self.last = n_levels if space.fan[-1] or n_levels == 1 else n_levels - 1

    def run(self, choices: list[Choice]) -> Found:
        """Search all `choices`, the most promising first."""
        state = new_state(self.space)
        if self.last == 1:
            for choice in choices:
                self._descend(choice, state, 1, ())
            return self.found
        order: list[tuple[float, float, int, Choice, FloatArray]] = []
        for choice in choices:
            rows = self._stage(choice, state, 1, np.array([np.inf, np.inf]), top=True)
            if len(rows):
                order.append((rows[0, 0], rows[0, 1], len(order), choice, rows[0].copy()))
        order.sort(key=lambda one: one[:3])
        for first, second, _, choice, row in order:
            if not worse(np.array([first, second]), self.found.cost):
                self._dive(choice, state, row)
        for first, second, _, choice, _ in order:
            if not worse(np.array([first, second]), self.found.cost):
                self._descend(choice, state, 1, ())
            else:
                self.found.tally[PRUNED] += 1
        return self.found

    def _dive(self, choice: Choice, state: State, row: FloatArray) -> None:
        """A first mapping: at every stage the candidate with the least bound."""
        trail: tuple[FloatArray, ...] = (row,)
        settle(self.space, state, 1, row)
        for stage in range(2, self.last + 1):
            if stage == self.last:
                self._descend(choice, state, stage, trail)
                return
            rows = self._stage(choice, state, stage, np.array([np.inf, np.inf]), top=True)
            if not len(rows):
                return
            trail = (*trail, rows[0].copy())
            settle(self.space, state, stage, rows[0])

    def _descend(self, choice: Choice, state: State, stage: int, trail: tuple[FloatArray, ...]) -> None:
        found = self.found
        if stage == self.last:
            before = found.cost.copy()
            rows = self._stage(choice, state, stage, found.cost)
            if not np.array_equal(before, found.cost):
                found.choice, found.trail = choice, (*trail, rows[0].copy())
            return
        rows = self._refined(choice, state, stage, self._stage(choice, state, stage, found.cost))
        rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
        if stage + 1 == self.last and not self.space.summed:
            for alike in _alike(rows):
                self._descend_alike(choice, state, stage, trail, alike)
            return
        for i, row in enumerate(rows):
            if worse(row[:2], found.cost):
                found.tally[PRUNED] += len(rows) - i
                return
            settle(self.space, state, stage, row)
            self._descend(choice, state, stage + 1, (*trail, row))

    def _descend_alike(
        self, choice: Choice, state: State, stage: int, trail: tuple[FloatArray, ...], rows: FloatArray
    ) -> None:
        """Descend into rows that differ in tiles only, all at once where their common bound rules them out.

        That bound gives every rank the least facts that any of its tiles in `rows` has; where it does not
        suffice, the rank with the most tiles is halved.
        """
        found = self.found
        if worse(rows[0, :2], found.cost):
            found.tally[PRUNED] += len(rows)
            return
        settle(self.space, state, stage, rows[0])
        if len(rows) == 1:
            self._descend(choice, state, stage + 1, (*trail, rows[0]))
            return
        tables = self._tables.of_rows(choice, state, stage, self.last, self._fixed, rows)
        cost = found.cost.copy()
        self._expanded(choice, state, stage + 1, cost, tables, np.zeros(3, np.int64), self._rows[:1])
        if np.array_equal(cost, found.cost):
            found.tally[PRUNED] += len(rows)
            return
        n_tiles = [np.unique(column) for column in rows[:, HEAD:].T]
        widest = max(range(len(n_tiles)), key=lambda r: n_tiles[r].size)
        large = rows[:, HEAD + widest] >= n_tiles[widest][n_tiles[widest].size // 2]
        for half in (rows[large], rows[~large]):
            self._descend_alike(choice, state, stage, trail, half)

    def _refined(self, choice: Choice, state: State, stage: int, rows: FloatArray) -> FloatArray:
        """The rows with bounds that know how often bypassing tensors must at least be served from outside."""
        if choice.keep[stage].all():
            return rows
        parts = np.empty((len(rows), 2 + choice.keep.shape[1]))
        crossings(self.space, choice, state, stage, rows, parts)
        floors, which = np.unique(parts[:, 2:], axis=0, return_inverse=True)
        inner = np.array([self._inner_pj(choice, stage, True, floor) for floor in floors])
        raise_bounds(
            self.goal,
            rows,
            parts[:, 0] + inner[which.reshape(-1)],
            np.maximum(parts[:, 1], self.least_cycles),
        )
        kept = np.array([not worse(row[:2], self.found.cost) for row in rows], dtype=bool)
        self.found.tally[PRUNED] += len(rows) - int(kept.sum())
        left: FloatArray = rows[kept]
        return left

    def _stage(
        self, choice: Choice, state: State, stage: int, best: FloatArray, top: bool = False
    ) -> FloatArray:
        """The rows of one stage."""
        tables = self._tables.of_stage(choice, state, stage, self.last, self._fixed)
        while True:
            rows = self._rows[:1] if top or stage == self.last else self._rows
            n = self._expanded(choice, state, stage, best, tables, self.found.tally, rows)
            if n >= 0:
                return rows[:n].copy()
            if 4 * len(self._rows) > _MOST_ROWS:
                raise InputError(
                    f"mapper: more than {_MOST_ROWS} candidates of level {stage} stay open; ask for divisors"
                )
            self._rows = np.empty((4 * len(self._rows), self._rows.shape[1]))

    def _expanded(
        self, choice: Choice, state: State, stage: int, best: FloatArray,
        tables: StageTables, tally: IntArray, rows: FloatArray,
    ) -> int:  # fmt: skip
        """`expand` with the bounds of what lies inside `stage`."""
        inner = np.array([
            self._inner_pj(choice, stage, False), self._inner_pj(choice, stage, True), self.least_cycles
        ])  # fmt: skip
        starts, options, n_options = tables
        return expand(
            self.space, choice, state, stage, self.last, starts, options, n_options, self._tables.facts,
            self._tables.loops, 0.0, inner, self.goal, best, tally, rows,
        )  # fmt: skip

    def _inner_pj(self, choice: Choice, level: int, charged: bool, floor: FloatArray | None = None) -> float:
        """What level `level` serves and all inside it cost at least; see `inner_space`.

        floor: elements that bypassing tensors are served at least.
        """
        if level >= self.space.fan.size:
            return 0.0
        if choice.keep[level].all():
            charged = False
        parents = [int(np.flatnonzero(choice.keep[:level, t])[-1]) for t in range(choice.keep.shape[1])]
        key = choice.keep[level:].tobytes() + choice.copies[level:].tobytes() + bytes([level, charged])
        key += bytes(parents) if charged else b""
        key += floor.tobytes() if charged and floor is not None else b""
        if key not in self._inner:
            arrays, kept = inner_space(self.space, choice, level, charged)
            if floor is not None and charged:
                arrays = arrays._replace(floor=floor)
            search = Search(arrays, Goal(ENERGY).array(0.0, 0.0), 1)
            self._inner[key] = float(search.run([kept]).cost[0])
            self.found.tally += search.found.tally
        return self._inner[key]


def _alike(rows: FloatArray) -> list[FloatArray]:
    """Rows by equal bound, spread, order and ranks whose tile is left to the next level; the order is kept."""
    found: dict[tuple[object, ...], list[FloatArray]] = {}
    for row in rows:
        key = (f"{row[0]:.9e}", row[2], row[3], (row[HEAD:] == 0).tobytes())
        found.setdefault(key, []).append(row)
    return [np.array(group) for group in found.values()]


def resolved_tiles(state: State) -> IntArray:
    """The tile of every level and rank, (L + 1, R), of a mapping with all stages settled."""
    kap = state.kap.copy()
    n_levels, n_ranks = state.spread.shape
    kap[n_levels] = 1
    for level in range(n_levels - 1, 0, -1):
        for r in range(n_ranks):
            if kap[level, r] == 0:
                outer = outer_level(state, r, level)
                kap[level, r] = min(state.spread[level, r] * kap[level + 1, r], state.kap[outer, r])
    return kap
