"""Branch and bound over the tiles of one level: what may still beat the best mapping known.

Bounds are admissible: what is undecided is charged nothing or what it costs at least, so a mapping that is
pruned is no better than the one that is kept.
"""

import numpy as np

from tilewright.dataflow.kernel import inlined_kernel, kernel
from tilewright.sim.mapspace_kernel import (
    Choice,
    FloatArray,
    IntArray,
    SpaceArrays,
    State,
    evaluate,
    refine,
    used_words,
)

LATENCY, ENERGY, PRODUCT, MIX = range(4)
#: Relative difference under which two costs are equal: rounding of sums in another order.
TIE = 1e-11
#: Columns of a row of candidates before its tiles: the two bounds, the spread, the order.
HEAD = 4
EVALUATED, PRUNED, BOUNDED = range(3)


@inlined_kernel
def weigh(goal: FloatArray, energy: float, cycles: float, cost: FloatArray) -> None:
    """Write what is minimised, and what decides between equals, to cost[0] and cost[1].

    goal: kind, pJ per cycle at rest, pJ of the multipliers, weight of a cycle, weight of a pJ.
    """
    energy += goal[1] * cycles + goal[2]
    if goal[0] == LATENCY:
        cost[0], cost[1] = cycles, energy
    elif goal[0] == ENERGY:
        cost[0], cost[1] = energy, cycles
    elif goal[0] == PRODUCT:
        cost[0], cost[1] = energy * cycles, energy
    else:
        cost[0], cost[1] = goal[3] * cycles + goal[4] * energy, energy


@inlined_kernel
def worse(cost: FloatArray, best: FloatArray) -> bool:
    """Whether `cost` (first and second measure) is no better than `best`."""
    if cost[0] > best[0] * (1 + TIE):
        return True
    return bool(cost[0] >= best[0] * (1 - TIE) and cost[1] >= best[1] * (1 - TIE))


@inlined_kernel
def lowest(
    space: SpaceArrays, choice: Choice, state: State, stage: int, inner: FloatArray, goal: FloatArray,
    limit: FloatArray, cost: FloatArray,
) -> None:  # fmt: skip
    """Write the least cost that any order of the loops above `stage` leaves to `cost`; less, if that is no better
    than `limit` already.

    inner: what is undecided takes at least: pJ without and with the service of tensors that the stage's level
    does not keep, cycles.
    """
    first, second = np.inf, np.inf
    mask = state.trips[stage - 1]
    rows = space.order_ptr[mask + 1] - space.order_ptr[mask]
    for row in range(space.order_ptr[mask] - (rows > 1), space.order_ptr[mask + 1]):
        if row < space.order_ptr[mask]:
            for t in range(space.relevant.size):  # every tensor the order that suits it
                state.free[stage - 1, t] = mask & ~space.relevant[t]
        else:
            state.free[stage - 1] = space.order_free[row]
        evaluate(space, choice, state, stage, False, False)
        energy = max(state.found[0] + inner[0], state.found[0] - state.found[2] + inner[1])
        weigh(goal, energy, max(state.found[1], inner[2]), cost)
        if row < space.order_ptr[mask]:
            if worse(cost, limit):
                return
            continue
        first, second = min(first, cost[0]), min(second, cost[1])
    cost[0], cost[1] = first, second


@kernel
def outer_level(state: State, r: int, stage: int) -> int:
    """The last level outside `stage` whose tile of rank `r` is decided."""
    level = stage - 1
    while state.kap[level, r] == 0:
        level -= 1
    return level


@kernel
def place(space: SpaceArrays, state: State, r: int, stage: int, tile: int, positions: int) -> None:
    """Give rank `r` a tile at `stage` and positions of the fan-out above, and derive its facts."""
    outer = outer_level(state, r, stage)
    tau = min(tile * positions, state.kap[outer, r])
    state.kap[stage, r] = tile
    state.spread[stage - 1, r] = positions
    for level in range(outer + 1, stage):
        state.kap[level, r] = tau
    refine(space, state, r, outer, stage)
    for level in range(outer + 1, stage):
        state.kap[level, r] = 0
    bit = 1 << r
    state.trips[stage - 1] &= ~bit
    if outer == stage - 1 and tau < state.kap[outer, r]:
        state.trips[stage - 1] |= bit


@kernel
def defer(space: SpaceArrays, state: State, r: int, stage: int) -> None:
    """Let the tile of rank `r` at `stage` be that of the next level inside; its loop stands above `stage`."""
    outer = outer_level(state, r, stage)
    place(space, state, r, stage, state.kap[outer, r], 1)
    state.kap[stage, r] = 0
    if outer == stage - 1:
        state.trips[stage - 1] |= 1 << r


@kernel
def may_defer(space: SpaceArrays, choice: Choice, r: int, stage: int, last: int) -> bool:
    """Whether no tensor kept at `stage` depends on rank `r`, so that only the place of its loop matters."""
    if stage >= last or space.fan[stage - 1]:
        return False
    needed = 0
    for t in range(space.relevant.size):
        if choice.keep[stage, t]:
            needed |= space.relevant[t]
    return bool(not needed >> r & 1)


@kernel
def table_of(
    space: SpaceArrays,
    state: State,
    stage: int,
    r: int,
    options: IntArray,
    table: FloatArray,
    loops: IntArray,
) -> None:
    """Facts of rank `r` for each of its tiles and positions: rows of F.

    Of a tile come first its facts at each number of positions, then the least at up to each number, then the
    least of it and all smaller tiles.

    loops: 1 where the loop above `stage` has more than one trip; -1 where the positions leave some of the
    fan-out idle, or a tile cut off where only divisors are asked for.
    """
    whole = state.kap[outer_level(state, r, stage), r]
    end = table_end(space, stage, r)
    first = space.value_ptr[(stage - 1) * space.sizes.size + r]
    for i in range(options.size):
        tile = options[i]
        least = i * (2 * end + 1) + 2 * end - 1
        for v in range(end):
            positions = space.values[first + v]
            row = i * (2 * end + 1) + v
            up_to = row + end
            loops[row] = -1
            loops[up_to] = -1
            table[up_to] = np.inf
            if v > 0:
                loops[up_to] = loops[up_to - 1]
                table[up_to] = table[up_to - 1]
            if tile == 0:
                if v > 0:
                    continue
                defer(space, state, r, stage)
            else:
                if positions > 1 and (positions - 1) * tile >= whole:
                    continue
                if space.divisors_only and whole % (tile * positions):
                    continue
                place(space, state, r, stage, tile, positions)
            table[row] = state.facts[r]
            loops[row] = state.trips[stage - 1] >> r & 1
            loops[up_to] = loops[row] if loops[up_to] < 0 else loops[up_to] & loops[row]
            for f in range(table.shape[1]):
                table[up_to, f] = min(table[up_to, f], table[row, f])
        before = least - 2 * end - 1
        table[least + 1] = table[least]
        loops[least + 1] = loops[least]
        if i > 0 and loops[before + 1] >= 0:
            for f in range(table.shape[1]):
                table[least + 1, f] = min(table[least, f], table[before + 1, f])
            loops[least + 1] = loops[before + 1] if loops[least] < 0 else loops[least] & loops[before + 1]


@inlined_kernel
def table_end(space: SpaceArrays, stage: int, r: int) -> int:
    """How many numbers of positions rank `r` may take of the fan-out above `stage`."""
    at = (stage - 1) * space.sizes.size + r
    return int(space.value_ptr[at + 1] - space.value_ptr[at])


@kernel
def least_of(
    facts: FloatArray, loops: IntArray, places: IntArray, own_facts: FloatArray, own_loops: IntArray, end: int
) -> None:  # fmt: skip
    """Lower the exact rows of a table to those of another, whose tile i is tile `places[i]` here.

    A table begins with facts of infinity and loops of -1: no mapping.
    """
    height = 2 * end + 1
    for i in range(places.size):
        for v in range(end):
            mine, row = places[i] * height + v, i * height + v
            if own_loops[row] < 0:
                continue
            loops[mine] = own_loops[row] if loops[mine] < 0 else loops[mine] & own_loops[row]
            for f in range(facts.shape[1]):
                facts[mine, f] = min(facts[mine, f], own_facts[row, f])


@kernel
def close_table(facts: FloatArray, loops: IntArray, n_tiles: int, end: int) -> None:
    """Derive the rows of a table that bound others from its exact ones, as `table_of` does."""
    for i in range(n_tiles):
        first = i * (2 * end + 1)
        for v in range(end + 1):
            row, before = first + end + v, first + end + v - 1
            source = first + v if v < end else before
            facts[row], loops[row] = facts[source], loops[source]
            if v == end:
                before = first - 1
            if (v == 0) or (v == end and i == 0) or loops[before] < 0:
                continue
            for f in range(facts.shape[1]):
                facts[row, f] = min(facts[row, f], facts[before, f])
            loops[row] = loops[before] if loops[row] < 0 else loops[row] & loops[before]


@inlined_kernel
def load(state: State, r: int, stage: int, facts: FloatArray, loop: int) -> None:
    """Take facts of rank `r` from the table."""
    for f in range(facts.size):
        state.facts[r, f] = facts[f]
    bit = 1 << r
    if loop:
        state.trips[stage - 1] |= bit
    else:
        state.trips[stage - 1] &= ~bit


@kernel
def options_of(
    space: SpaceArrays, state: State, stage: int, r: int, deferred: bool, fixed: int, options: IntArray
) -> int:
    """Write the tiles of a rank at `stage`, ascending; returns how many. 0 stands for the tile of the next level
    inside, tried if it may be `deferred`. fixed: a tile that is given, or 0."""
    outer = outer_level(state, r, stage)
    whole = state.kap[outer, r]
    if stage == space.fan.size:
        options[0] = 1
        return 1
    if fixed > 0:
        options[0] = min(fixed, whole)
        return 1
    if deferred:
        options[0] = 0
        options[1] = whole
        return 2 if outer == stage - 1 else 1
    n = 0
    for i in range(space.tile_ptr[r], space.tile_ptr[r + 1]):
        tile = space.tiles[i]
        if tile <= whole and not (space.divisors_only and whole % tile):
            options[n] = tile
            n += 1
    return n


@kernel
def largest(
    space: SpaceArrays, choice: Choice, stage: int, room: float, tile: IntArray, r: int, options: IntArray,
    most: int,
) -> int:  # fmt: skip
    """The last of the first `most` + 1 options of rank `r` that fits beside the tiles of the others, or -1."""
    if room == np.inf:
        return most
    low, high = -1, most
    while low < high:
        middle = (low + high + 1) // 2
        tile[r] = max(1, options[r, middle])
        if used_words(space, choice, stage, tile) <= room:
            low = middle
        else:
            high = middle - 1
    tile[r] = 1
    return low


@kernel
def expand(
    space: SpaceArrays, choice: Choice, state: State, stage: int, last: int, starts: IntArray, options: IntArray,
    n_options: IntArray, table: FloatArray, loops: IntArray, reserved_words: float, inner: FloatArray,
    goal: FloatArray, best: FloatArray, tally: IntArray, rows: FloatArray,
) -> int:  # fmt: skip
    """Go through the tiles, spreads and orders of one stage; returns how many rows were written.

    Before the last stage a row is (least cost, least second cost, spread, order, tile of each rank) of every
    candidate that may beat `best`, which itself stays; with room for one row only, of that with the least
    cost. At the last stage rows[0] is the best mapping found, whose cost replaces `best`. A negative answer
    asks for more room. starts: the first row of each rank in the table. reserved_words: of the stage's level,
    taken already.
    """
    n_ranks = space.sizes.size
    final = stage == last
    tile, at, row = np.ones(n_ranks, np.int64), np.zeros(n_ranks, np.int64), np.zeros(n_ranks, np.int64)
    ends = np.array([table_end(space, stage, r) for r in range(n_ranks)])
    room = np.inf if stage == space.fan.size else space.capacity_words[stage] - reserved_words
    cost, limit = np.empty(2), best.copy()
    n_rows = 0
    depth = 0
    for r in range(n_ranks):
        place(space, state, r, stage, state.kap[outer_level(state, r, stage), r], 1)
    at[0] = largest(space, choice, stage, room, tile, 0, options, n_options[0] - 1)
    while depth >= 0:
        r = depth
        if at[r] < 0:
            tile[r] = 1
            depth -= 1
            if depth >= 0:
                at[depth] -= 1
            continue
        tile[r] = max(1, options[r, at[r]])
        row[r] = starts[r] + at[r] * (2 * ends[r] + 1)
        least = row[r] + 2 * ends[r] - 1
        if loops[least] < 0:
            at[r] -= 1
            continue
        load(state, r, stage, table[least], loops[least])
        for later in range(r + 1, n_ranks):
            at[later] = largest(space, choice, stage, room, tile, later, options, n_options[later] - 1)
            if at[later] >= 0:
                entry = starts[later] + at[later] * (2 * ends[later] + 1) + 2 * ends[later]
                load(state, later, stage, table[entry], loops[entry])
        lowest(space, choice, state, stage, inner, goal, limit, cost)
        tally[BOUNDED] += 1
        if worse(cost, limit):
            tally[PRUNED] += 1
            at[r] -= 1
            continue
        if depth < n_ranks - 1:
            depth += 1
            continue
        n_rows = _spread_out(
            space, choice, state, stage, final, options, at, row, ends, table, loops, inner, goal, limit, tally,
            rows, n_rows,
        )  # fmt: skip
        if n_rows < 0:
            return n_rows
        for one in range(n_ranks):
            least = row[one] + 2 * ends[one] - 1
            load(state, one, stage, table[least], loops[least])
        at[r] -= 1
    if final:
        best[:] = limit
    return n_rows


@kernel
def _spread_out(
    space: SpaceArrays, choice: Choice, state: State, stage: int, final: bool, options: IntArray, at: IntArray,
    starts: IntArray, ends: IntArray, table: FloatArray, loops: IntArray, inner: FloatArray, goal: FloatArray,
    limit: FloatArray, tally: IntArray, rows: FloatArray, n_rows: int,
) -> int:  # fmt: skip
    """Every spread and order of one choice of tiles; see `expand`. Spreads that begin alike are bounded together."""
    n_ranks = space.sizes.size
    cost = np.empty(2)
    narrow = np.full(n_ranks, -1, np.int64)
    beaten = n_ranks  # rows that agree with the one before in ranks 0 to `beaten` are ruled out
    for row in range(space.spread_ptr[stage - 1], space.spread_ptr[stage]):
        fresh = 0
        while fresh < n_ranks and narrow[fresh] == space.spread_index[row, fresh]:
            fresh += 1
        if fresh > beaten:
            continue
        beaten = n_ranks
        for r in range(fresh, n_ranks):
            narrow[r] = space.spread_index[row, r]
            entry = starts[r] + narrow[r]
            if loops[entry] < 0:
                beaten = r
                break
            load(state, r, stage, table[entry], loops[entry])
            if r < n_ranks - 1:
                for later in range(r + 1, n_ranks):
                    narrow[later] = -1
                    entry = starts[later] + ends[later] + space.spread_most[row, r, later]
                    load(state, later, stage, table[entry], loops[entry])
                lowest(space, choice, state, stage, inner, goal, limit, cost)
                tally[BOUNDED] += 1
                if worse(cost, limit):
                    tally[PRUNED] += 1
                    beaten = r
                    break
        if beaten < n_ranks:
            continue
        state.cost[stage - 1] = space.spread_cost[row]
        mask = state.trips[stage - 1]
        first, end = space.order_ptr[mask], space.order_ptr[mask + 1]
        if stage == space.fan.size:
            end = first + 1  # every multiplication takes its operands, whatever the order
        for order in range(first, end):
            state.free[stage - 1] = space.order_free[order]
            evaluate(space, choice, state, stage, final, False)
            if final:
                weigh(goal, state.found[0], state.found[1], cost)
                tally[EVALUATED] += 1
            else:
                energy = max(state.found[0] + inner[0], state.found[0] - state.found[2] + inner[1])
                weigh(goal, energy, max(state.found[1], inner[2]), cost)
                tally[BOUNDED] += 1
            if worse(cost, limit):
                tally[PRUNED] += 1 - int(final)
                continue
            if final or rows.shape[0] == 1:
                n_rows = 0
                limit[:] = cost
            elif n_rows == rows.shape[0]:
                return -1
            rows[n_rows, 0], rows[n_rows, 1] = cost[0], cost[1]
            rows[n_rows, 2], rows[n_rows, 3] = row, order
            for r in range(n_ranks):
                rows[n_rows, HEAD + r] = options[r, at[r]]
            n_rows += 1
        state.cost[stage - 1] = 1.0
    return n_rows


@kernel
def settle(space: SpaceArrays, state: State, stage: int, row: FloatArray) -> None:
    """Decide `stage` as a row of `expand` says."""
    spread, order = int(row[2]), int(row[3])
    for r in range(space.sizes.size):
        tile = int(row[HEAD + r])
        if tile == 0:
            defer(space, state, r, stage)
        else:
            place(space, state, r, stage, tile, space.spreads[spread, r])
    state.cost[stage - 1] = space.spread_cost[spread]
    state.free[stage - 1] = space.order_free[order]


@kernel
def crossings(
    space: SpaceArrays, choice: Choice, state: State, stage: int, rows: FloatArray, parts: FloatArray
) -> None:
    """Of every row of `expand` write to `parts` (n, 2 + T): pJ without the service of tensors that level `stage`
    does not keep, cycles, the elements that those tensors are served at least."""
    for i in range(rows.shape[0]):
        settle(space, state, stage, rows[i])
        evaluate(space, choice, state, stage, False, False)
        parts[i, 0], parts[i, 1] = state.found[0] - state.found[2], state.found[1]
        for t in range(space.relevant.size):
            parts[i, 2 + t] = 0.0 if choice.keep[stage, t] else state.crossing[t]


@kernel
def raise_bounds(goal: FloatArray, rows: FloatArray, energy: FloatArray, cycles: FloatArray) -> None:
    """Raise the bounds of rows to what these pJ and cycles (n,) weigh."""
    cost = np.empty(2)
    for i in range(rows.shape[0]):
        weigh(goal, energy[i], cycles[i], cost)
        rows[i, 0], rows[i, 1] = max(rows[i, 0], cost[0]), max(rows[i, 1], cost[1])


@kernel
def evaluations(
    space: SpaceArrays,
    choice: Choice,
    state: State,
    stage: int,
    picks: IntArray,
    table: FloatArray,
    loops: IntArray,
) -> float:
    """Price whole mappings one by one, nothing pruned; returns the least energy. picks: (n, R) rows of the table."""
    least = np.inf
    for i in range(picks.shape[0]):
        for r in range(picks.shape[1]):
            load(state, r, stage, table[picks[i, r]], loops[picks[i, r]])
        mask = state.trips[stage - 1]
        state.free[stage - 1] = space.order_free[space.order_ptr[mask]]
        evaluate(space, choice, state, stage, True, False)
        least = min(least, state.found[0])
    return least
