"""Facts of every tile and number of positions that a rank may take at a stage, derived once and shared."""

import numpy as np

from tilewright.sim.mapper_search_kernel import (
    HEAD,
    close_table,
    least_of,
    may_defer,
    options_of,
    place,
    table_end,
    table_of,
)
from tilewright.sim.mapspace_kernel import (
    Choice,
    FloatArray,
    IntArray,
    SpaceArrays,
    State,
    new_state,
    used_words,
)

#: (first row of each rank, its tiles (R, n), how many)
StageTables = tuple[IntArray, IntArray, IntArray]


class Tables:
    """Facts of ranks by tile and positions, derived once for each chain of tiles outside them."""

    def __init__(self, space: SpaceArrays) -> None:
        self.space = space
        width = new_state(space).facts.shape[1]
        self.facts = np.empty((1 << 10, width))
        self.loops = np.empty(1 << 10, np.int64)
        self._end = 0
        self._known: dict[tuple[object, ...], tuple[int, IntArray]] = {}
        self._largest: dict[tuple[object, ...], int] = {}
        self._most = int(np.diff(space.tile_ptr).max()) + 2

    def of_stage(self, choice: Choice, state: State, stage: int, last: int, fixed: IntArray) -> StageTables:
        """(first row of each rank, its tiles (R, n), how many)."""
        return self._packed([
            self._of_rank(choice, state, stage, last, fixed, r) for r in range(self.space.sizes.size)
        ])  # fmt: skip

    def of_rows(
        self, choice: Choice, state: State, stage: int, last: int, fixed: IntArray, rows: FloatArray
    ) -> StageTables:
        """As `of_stage`, of the stage after `stage`: the least facts over all tiles that `rows` give to `stage`.

        `rows` agree in all but tiles; the first of them is settled.
        """
        parts: list[tuple[int, IntArray]] = []
        for r in range(self.space.sizes.size):
            tiles = np.unique(rows[:, HEAD + r]).astype(np.int64)
            if tiles.size == 1:
                parts.append(self._of_rank(choice, state, stage + 1, last, fixed, r))
                continue
            most = self._most_tile(choice, stage + 1, r)
            key = (
                "least", stage, r, fixed[r], most, tiles.tobytes(), state.kap[:stage, r].tobytes(),
                state.spread[:stage, r].tobytes(),
            )  # fmt: skip
            if key not in self._known:
                self._known[key] = self._least(state, stage, r, tiles, int(fixed[r]), most)
                place(self.space, state, r, stage, int(rows[0, HEAD + r]), int(state.spread[stage - 1, r]))
            parts.append(self._known[key])
        return self._packed(parts)

    def _packed(self, parts: list[tuple[int, IntArray]]) -> StageTables:
        starts, n_options = np.zeros(len(parts), np.int64), np.zeros(len(parts), np.int64)
        options = np.zeros((len(parts), self._most), np.int64)
        for r, (start, of_rank) in enumerate(parts):
            starts[r], n_options[r] = start, of_rank.size
            options[r, : of_rank.size] = of_rank
        return starts, options, n_options

    def _of_rank(
        self, choice: Choice, state: State, stage: int, last: int, fixed: IntArray, r: int
    ) -> tuple[int, IntArray]:
        """(first row, tiles) of one rank."""
        deferred = may_defer(self.space, choice, r, stage, last)
        most = self._most_tile(choice, stage, r)
        key = (
            stage, r, deferred, fixed[r], most, state.kap[:stage, r].tobytes(),
            state.spread[: stage - 1, r].tobytes(),
        )  # fmt: skip
        if key not in self._known:
            of_rank = self._tiles(state, stage, r, deferred, int(fixed[r]), most)
            n_rows = of_rank.size * (2 * table_end(self.space, stage, r) + 1)
            start = self._claimed(n_rows)
            part = slice(start, start + n_rows)
            table_of(self.space, state, stage, r, of_rank, self.facts[part], self.loops[part])
            self._known[key] = start, of_rank
        return self._known[key]

    def _tiles(self, state: State, stage: int, r: int, deferred: bool, fixed: int, most: int) -> IntArray:
        """Tiles of rank `r` that may fit, ascending."""
        of_rank = np.zeros(self._most, np.int64)
        n = options_of(self.space, state, stage, r, deferred, fixed, of_rank)
        return of_rank[:n][of_rank[:n] <= most].copy()

    def _most_tile(self, choice: Choice, stage: int, r: int) -> int:
        """The largest tile of rank `r` that level `stage` holds where all other tiles are one; 0 if none."""
        size = int(self.space.sizes[r])
        if stage == self.space.fan.size:
            return size
        key = (stage, r, choice.keep[stage].tobytes(), choice.copies[stage])
        if key not in self._largest:
            tile = np.ones(self.space.sizes.size, np.int64)
            low, high = 0, size
            while low < high:
                tile[r] = (low + high + 1) // 2
                if used_words(self.space, choice, stage, tile) <= self.space.capacity_words[stage]:
                    low = int(tile[r])
                else:
                    high = int(tile[r]) - 1
            self._largest[key] = low
        return self._largest[key]

    def _least(
        self, state: State, stage: int, r: int, tiles: IntArray, fixed: int, most: int
    ) -> tuple[int, IntArray]:
        """The table of the stage after `stage` with the least facts over `tiles` of `stage`; leaves the last placed."""
        end, positions = table_end(self.space, stage + 1, r), int(state.spread[stage - 1, r])
        members = []
        for tile in tiles:
            place(self.space, state, r, stage, int(tile), positions)
            members.append(self._tiles(state, stage + 1, r, False, fixed, most))
        union = np.unique(np.concatenate(members))
        n_rows = union.size * (2 * end + 1)
        start = self._claimed(n_rows)
        facts, loops = self.facts[start : self._end], self.loops[start : self._end]
        facts[:], loops[:] = np.inf, -1
        own_facts, own_loops = np.empty_like(facts), np.empty_like(loops)
        for tile, of_rank in zip(tiles, members, strict=True):
            place(self.space, state, r, stage, int(tile), positions)
            table_of(self.space, state, stage + 1, r, of_rank, own_facts, own_loops)
            least_of(facts, loops, np.searchsorted(union, of_rank), own_facts, own_loops, end)
        close_table(facts, loops, union.size, end)
        return start, union

    def _claimed(self, n_rows: int) -> int:
        """The first of `n_rows` new rows."""
        if self._end + n_rows > len(self.facts):
            more = max(n_rows, len(self.facts))
            facts, loops = self.facts, self.loops
            self.facts = np.empty((self._end + more, facts.shape[1]))
            self.loops = np.empty(self._end + more, np.int64)
            self.facts[: self._end], self.loops[: self._end] = facts[: self._end], loops[: self._end]
        self._end += n_rows
        return self._end - n_rows
