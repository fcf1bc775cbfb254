"""Exact accesses, energy and cycles of one mapping onto a hierarchy, over arrays.

Ranks, tensors (the output last) and levels are numbers here; `sim.mapspace` fills the arrays and owns the names.
A rank is cut by a chain of tiles: `kap[l]` is the tile that level l holds (kap[0] the whole rank, kap[L] one
element), `tau[l]` the part of it that the loops under level l step over, which the fan-out under level l spreads
in pieces of kap[l + 1] over its positions. Position 2l of a chain is the tile kap[l], position 2l + 1 tau[l]; the
last tiles are cut off where the rank ends, and counted so.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tilewright.dataflow.kernel import inlined_kernel, kernel

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class SpaceArrays(NamedTuple):
    """A contraction on a hierarchy of L levels; R ranks, T tensors, V fan-outs.

    `relevant` and `free` hold one bit for each rank. `access_pj` and `access_cycles` are of one element of a
    tensor at a level: [0] read, [1] write; cycles [2] are those of ports that reads and writes share.
    """

    sizes: IntArray  # (R,)
    relevant: IntArray  # (T,)
    plain: IntArray  # (T,) 0 where an index sums ranks
    dim_ptr: IntArray  # (T + 1,) into term_ptr
    term_ptr: IntArray  # (dims + 1,)
    term_rank: IntArray
    term_step: IntArray
    elements: FloatArray  # (T,) of the whole tensor
    words: FloatArray  # (T,) per element
    access_pj: FloatArray  # (2, L, T)
    access_cycles: FloatArray  # (3, L, T)
    floor: FloatArray  # (T,) elements that cross the edge of level 0 at least
    timed: IntArray  # (L,) 1 where a level's ports take time
    capacity_words: FloatArray  # (L,)
    fan: IntArray  # (L,) 1 where a fan-out with more than one position lies under the level
    n_fans_above: IntArray  # (L + 1,)
    order_ptr: IntArray  # (2**R + 1,) into order_free, by the mask of loops with more than one trip
    order_free: IntArray  # (orders, T)
    tile_ptr: IntArray  # (R + 1,)
    tiles: IntArray  # candidates of each rank, ascending
    spread_ptr: IntArray  # (L + 1,) into spreads, by level above
    spreads: IntArray  # (spreads, R) positions of the fan-out that a rank takes
    spread_cost: FloatArray  # (spreads, T) accesses above for each word, 1 with multicast or reduction
    spread_index: IntArray  # (spreads, R) which of the rank's distinct positions
    spread_most: IntArray  # (spreads, R, R) the most that a later rank takes where ranks 0 to r take the same
    value_ptr: IntArray  # (L * R + 1,) into values, by level above and rank
    values: IntArray  # the distinct positions
    divisors_only: int
    summed: int  # 1 where an index of some tensor sums ranks
    mac_pj: float
    rest_pj: float
    macs: float


class Choice(NamedTuple):
    """Which tensors a level keeps, the tiles it has room for, and whether its fills add to the time."""

    keep: IntArray  # (L, T)
    copies: IntArray  # (L,)
    serial: IntArray  # (L,)


class State(NamedTuple):
    """A mapping as far as it is decided: tiles, spreads, loops and what they count."""

    kap: IntArray  # (L + 1, R); 0 where the tile is that of the next level inside
    spread: IntArray  # (L, R)
    trips: IntArray  # (L,) mask of ranks with more than one trip under the level
    free: IntArray  # (L, T) mask of ranks inside the innermost loop that selects the tensor
    cost: FloatArray  # (L, T) spread_cost of each fan-out
    piece: IntArray  # (R, V + 1, P, K) distinct sizes of tiles at each position of the chain
    times: IntArray  # (R, V + 1, P, K)
    n_pieces: IntArray  # (R, V + 1, P)
    facts: FloatArray  # (R, F) what `refine` derives; see `fact_of`
    served: FloatArray  # (L, L, T) elements of all tiles that a parent serves a child once
    taken: FloatArray  # (L, T) elements of all tiles that a child takes once
    busy: FloatArray  # (3, L) cycles of the ports of each level's busiest instance: read, write, shared
    crossing: (
        FloatArray  # (T,) elements served to a tensor that the last decided level does not keep, at least
    )
    accesses: FloatArray  # (2, L, T) what `cost_of` records
    found: FloatArray  # (3,) what it answers


def new_state(space: SpaceArrays) -> State:
    """Nothing decided: every rank whole."""
    n_levels, n_tensors = space.access_pj.shape[1:]
    n_ranks, n_variants = space.sizes.size, int(space.n_fans_above[-1]) + 1
    n_positions = 2 * n_levels + 1
    state = State(
        np.zeros((n_levels + 1, n_ranks), np.int64),
        np.ones((n_levels, n_ranks), np.int64),
        np.zeros(n_levels, np.int64),
        np.zeros((n_levels, n_tensors), np.int64),
        np.ones((n_levels, n_tensors)),
        np.zeros((n_ranks, n_variants, n_positions, n_positions + 2), np.int64),
        np.zeros((n_ranks, n_variants, n_positions, n_positions + 2), np.int64),
        np.ones((n_ranks, n_variants, n_positions), np.int64),
        np.ones((n_ranks, (n_variants + n_levels) * n_positions + n_levels + 1)),
        np.tile(space.elements, (n_levels, n_levels, 1)),
        np.tile(space.elements, (n_levels, 1)),
        np.zeros((3, n_levels)),
        np.zeros(n_tensors),
        np.zeros((2, n_levels, n_tensors)),
        np.zeros(3),
    )
    state.kap[0] = space.sizes
    state.piece[:, :, 0, 0] = space.sizes[:, None]
    state.times[:, :, 0, 0] = 1
    state.facts[:, -(n_levels + 1)] = space.sizes
    return state


@kernel
def _put(piece: IntArray, count: IntArray, n: int, size: int, times: int) -> int:
    for i in range(n):
        if piece[i] == size:
            count[i] += times
            return n
    piece[n] = size
    count[n] = times
    return n + 1


@kernel
def _cut(state: State, r: int, v: int, source: int, tile: int, first_only: bool) -> float:
    """Fill position `source` + 1 with the pieces that `tile` leaves of those at `source`; returns how many.

    `first_only` keeps one piece of each: what one of the positions of a fan-out sees.
    """
    piece, count = state.piece[r, v, source + 1], state.times[r, v, source + 1]
    n = 0
    total = 0
    for i in range(state.n_pieces[r, v, source]):
        size, times = state.piece[r, v, source, i], state.times[r, v, source, i]
        if first_only:
            n = _put(piece, count, n, min(size, tile), times)
            total += times
            continue
        whole = size // tile
        rest = size - whole * tile
        if whole:
            n = _put(piece, count, n, tile, times * whole)
        if rest:
            n = _put(piece, count, n, rest, times)
            total += times
        total += times * whole
    state.n_pieces[r, v, source + 1] = n
    return float(total)


@kernel
def fact_of(space: SpaceArrays, kind: int, which: int, position: int) -> int:
    """The column of `facts`: kind 0 tiles at a position with the outer `which` fan-outs spread out (the others
    see one position); 1 copies of such a tile in level `which`, all fan-outs spread out; 2 the elements of the
    rank that one instance of level `which` sees."""
    n_positions = 2 * space.fan.size + 1
    if kind == 0:
        return int(which * n_positions + position)
    if kind == 1:
        return int((space.n_fans_above[-1] + which) * n_positions + position)
    return int((space.n_fans_above[-1] + 1 + space.fan.size) * n_positions + which)


@kernel
def refine(space: SpaceArrays, state: State, r: int, outer: int, inner: int) -> None:
    """Derive the facts of rank `r` for levels `outer` + 1 to `inner` from its tiles and spreads."""
    n_variants = state.n_pieces.shape[1]
    n_levels = space.fan.size
    facts = state.facts[r]
    for level in range(outer + 1, inner + 1):
        kap = state.kap[level, r]
        tau = min(state.spread[level - 1, r] * kap, state.kap[level - 1, r])
        source = 2 * level - 2
        for v in range(n_variants):
            facts[fact_of(space, 0, v, source + 1)] = _cut(state, r, v, source, tau, False)
            narrow = space.fan[level - 1] == 1 and v <= space.n_fans_above[level - 1]
            facts[fact_of(space, 0, v, source + 2)] = _cut(state, r, v, source + 1, kap, narrow)
        total = 0
        for i in range(state.n_pieces[r, 0, 2 * level]):
            total += state.piece[r, 0, 2 * level, i] * state.times[r, 0, 2 * level, i]
        facts[fact_of(space, 2, level, 0)] = float(total)
        if level < n_levels:
            _count_copies(space, state, r, level)
    if inner == n_levels - 1 and not space.fan[n_levels - 1]:
        for v in range(n_variants):
            total = 0
            for i in range(state.n_pieces[r, v, 2 * inner]):
                total += state.piece[r, v, 2 * inner, i] * state.times[r, v, 2 * inner, i]
            facts[fact_of(space, 0, v, 2 * inner + 1)] = float(total)
            facts[fact_of(space, 0, v, 2 * inner + 2)] = float(total)


@kernel
def _count_copies(space: SpaceArrays, state: State, r: int, level: int) -> None:
    """Copies in `level` of a tile that is fixed at each position outside it."""
    v = state.n_pieces.shape[1] - 1
    facts = state.facts[r]
    for position in range(2 * level):
        total = 0
        for i in range(state.n_pieces[r, v, position]):
            copies = state.times[r, v, position, i]
            for above in range(level):
                if space.fan[above] and position <= 2 * above + 1:
                    size = min(state.piece[r, v, position, i], state.kap[above, r])
                    copies *= min(state.spread[above, r], -(-size // state.kap[above + 1, r]))
            total += copies
        facts[fact_of(space, 1, level, position)] = float(total)


@kernel
def tile_words(space: SpaceArrays, t: int, tile: IntArray) -> float:
    """Words of tensor `t` under a tile (R,); an index that sums ranks spans its bounding box."""
    words = float(space.words[t])
    for dim in range(space.dim_ptr[t], space.dim_ptr[t + 1]):
        first, end = space.term_ptr[dim], space.term_ptr[dim + 1]
        if end - first == 1:
            words *= tile[space.term_rank[first]]
        else:
            extent = 1
            for i in range(first, end):
                extent += space.term_step[i] * (tile[space.term_rank[i]] - 1)
            words *= extent
    return words


@kernel
def used_words(space: SpaceArrays, choice: Choice, level: int, tile: IntArray) -> float:
    """Words that the tensors kept at `level` take, all copies."""
    total = 0.0
    for t in range(space.relevant.size):
        if choice.keep[level, t]:
            total += tile_words(space, t, tile)
    return float(total * choice.copies[level])


@kernel
def _window_elements(space: SpaceArrays, state: State, t: int, variant: int, position: int) -> float:
    """Elements of all tiles of a tensor whose indices sum ranks, overlaps counted in each tile."""
    total = 1.0
    for dim in range(space.dim_ptr[t], space.dim_ptr[t + 1]):
        first, end = space.term_ptr[dim], space.term_ptr[dim + 1]
        if end - first == 1:
            total *= space.sizes[space.term_rank[first]]
            continue
        tiles = 1.0
        for i in range(first, end):
            tiles *= state.facts[space.term_rank[i], fact_of(space, 0, variant, position)]
        extent = tiles
        for i in range(first, end):
            r = space.term_rank[i]
            own = state.facts[r, fact_of(space, 0, variant, position)]
            extent += space.term_step[i] * (space.sizes[r] - own) * (tiles / own)
        total *= extent
    return total


@kernel
def stretch(space: SpaceArrays, state: State, stage: int) -> None:
    """Update the elements that tiles of tensors with summed indices make up at `stage`."""
    if stage >= space.fan.size:
        return
    for t in range(space.relevant.size):
        if not space.plain[t]:
            everywhere = space.n_fans_above[space.fan.size]
            for parent in range(stage):
                variant = space.n_fans_above[parent]
                state.served[parent, stage, t] = _window_elements(space, state, t, variant, 2 * stage - 1)
            state.taken[stage, t] = _window_elements(space, state, t, everywhere, 2 * stage)


@kernel
def cost_of(
    relevant: IntArray, sizes: IntArray, fans: IntArray, access_pj: FloatArray, access_cycles: FloatArray,
    floor: FloatArray, timed: IntArray, keep: IntArray, serial: IntArray, facts: FloatArray, trips: IntArray,
    free: IntArray, factor: FloatArray, served: FloatArray, taken: FloatArray, decided: int, final: bool, record: bool,
    busy: FloatArray, crossing: FloatArray, accesses: FloatArray, found: FloatArray,
) -> None:  # fmt: skip
    """Price the decided part of a mapping: (pJ, cycles, pJ of tensors that level `decided` does not keep) to `found`.

    Levels 1 to `decided` have tiles; before the last stage (`final`) a tensor that level `decided` does not
    keep is charged above for what the loops outside cost it at least. Cycles: the busiest of the multipliers
    and of every level's ports; what fills a level that has no second tile adds to them. A tile is taken anew
    in every iteration of the loops outside the innermost one that selects it. Sums start from nothing: their
    first visit to a level reads nothing above. With `record` `accesses` (2, L, T) gets the elements read [0]
    and written [1] by all instances.

    One function without calls, for a call would pass all these arrays on; this is where a search spends its time.
    """
    n_levels, n_tensors = access_pj.shape[1:]
    n_ranks = sizes.size
    width = 2 * n_levels + 1
    copies_at = fans[n_levels] * width
    seen_at = (fans[n_levels] + 1 + n_levels) * width
    if record:
        accesses[:] = 0.0
    busy[:] = 0.0
    energy, apart, added, cycles = 0.0, 0.0, 0.0, 0.0
    for t in range(n_tensors):
        output = t == n_tensors - 1
        there = 1 if output else 0  # which way a tile goes at the parent: 0 read, 1 written
        parent = 0
        whole = served[0, 0, t]
        part = 1.0  # of the tensor that one instance of the parent sees
        for child in range(1, min(decided, n_levels - 1) + 1):
            kept = keep[child, t]
            if not kept and (final or child < decided):
                continue
            block = child - 1
            while block >= 0 and (trips[block] & relevant[t]) == 0:
                block -= 1
            above, below, seen, mine, spread = 1.0, 1.0, 1.0, 1.0, 1.0
            for r in range(n_ranks):
                if relevant[t] >> r & 1:
                    if fans[child]:
                        mine *= facts[r, seen_at + child] / sizes[r]
                    continue
                position = 0
                if block >= 0:
                    position = 2 * block + 1 - (free[block, t] >> r & 1)
                above *= facts[r, fans[parent] * width + position]
                seen *= facts[r, position]
                below *= facts[r, copies_at + child * width + position]
            for level in range(parent, child):
                spread *= factor[level, t]
            once = served[parent, child, t] * above
            if parent == 0:
                once = max(once, floor[t])
            up, down = once * spread, taken[child, t] * below
            again = once - whole if output else 0.0
            pj = up * access_pj[there, parent, t]
            if output:
                pj += (up - whole) * access_pj[0, parent, t]
            if kept:
                energy += pj + down * access_pj[1 - there, child, t] + again * access_pj[1, child, t]
            else:
                apart += pj
                crossing[t] = once
            if timed[parent]:
                up_seen = served[parent, child, t] * seen * part * spread
                busy[there, parent] += up_seen * access_cycles[there, parent, t]
                busy[2, parent] += up_seen * access_cycles[2, parent, t]
                if output:
                    back = max(0.0, up_seen - whole * part)
                    busy[0, parent] += back * access_cycles[0, parent, t]
                    busy[2, parent] += back * access_cycles[2, parent, t]
            if kept and (timed[child] or serial[child]):
                down_seen = taken[child, t] * seen * mine
                back = max(0.0, down_seen - whole * mine) if output else 0.0
                busy[1 - there, child] += down_seen * access_cycles[1 - there, child, t]
                busy[1, child] += back * access_cycles[1, child, t]
                busy[2, child] += (down_seen + back) * access_cycles[2, child, t]
                if serial[child]:
                    up_seen = served[parent, child, t] * seen * part * spread
                    other = max(0.0, up_seen - whole * part) if output else 0.0
                    added += max(
                        up_seen * max(access_cycles[there, parent, t], access_cycles[2, parent, t])
                        + other * max(access_cycles[0, parent, t], access_cycles[2, parent, t]),
                        down_seen * max(access_cycles[1 - there, child, t], access_cycles[2, child, t])
                        + back * max(access_cycles[1, child, t], access_cycles[2, child, t]),
                    )
            if record and kept:
                accesses[there, parent, t] += up
                accesses[1 - there, child, t] += down
                accesses[1, child, t] += again
                if output:
                    accesses[0, parent, t] += up - whole
            if kept:
                parent = child
                part = mine
        if final:
            total, seen, spread = 1.0, part, 1.0
            for r in range(n_ranks):
                if relevant[t] >> r & 1:
                    total *= sizes[r]
                    seen *= sizes[r]
                else:
                    total *= facts[r, fans[parent] * width + 2 * n_levels - 1]
                    seen *= facts[r, 2 * n_levels - 1]
            for level in range(parent, n_levels):
                spread *= factor[level, t]
            if parent == 0:
                total = max(total, floor[t])
            for way in range(there + 1):
                energy += total * spread * access_pj[way, parent, t]
                busy[way, parent] += seen * spread * access_cycles[way, parent, t]
                busy[2, parent] += seen * spread * access_cycles[2, parent, t]
                if record:
                    accesses[way, parent, t] += total * spread
    for level in range(n_levels):
        cycles = max(cycles, max(busy[0, level], max(busy[1, level], busy[2, level])))
    if final:
        work = 1.0
        for r in range(n_ranks):
            work *= facts[r, 2 * n_levels]
        cycles = max(cycles, work)
    found[0] = energy + apart
    found[1] = cycles + added
    found[2] = apart


@inlined_kernel
def evaluate(space: SpaceArrays, choice: Choice, state: State, stage: int, final: bool, record: bool) -> None:
    """Cost of the mapping as far as `stage` into `state.found`; energy without multipliers and rest."""
    if space.summed:
        for level in range(1, stage + 1):
            stretch(space, state, level)
    cost_of(
        space.relevant, space.sizes, space.n_fans_above, space.access_pj, space.access_cycles, space.floor, space.timed,
        choice.keep, choice.serial, state.facts, state.trips, state.free, state.cost, state.served, state.taken,
        stage, final, record, state.busy, state.crossing, state.accesses, state.found,
    )  # fmt: skip
