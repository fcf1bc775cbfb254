"""How many leaves of which size a nest of loops has, in closed form."""

from collections.abc import Collection, Mapping
from math import prod

from tilewright.dataflow.program import Loop, cut_loops, limited_trips

#: (how many leaves, {rank: elements} of the ranks whose last tile is smaller there)
TileClass = tuple[int, dict[str, int]]


def tile_classes(loops: tuple[Loop, ...], ranks: Collection[str]) -> list[TileClass]:
    """The leaves under `loops`, grouped by which of `ranks` are in a smaller last tile.

    A loop limited by another one is summed in closed form; loops that limit several others or are
    limited themselves are stepped through one by one.
    """
    classes: list[TileClass] = [(1, {})]
    limiting = {loop.limit.of for loop in loops if loop.limit}
    if limiting:
        for group in _groups(loops):
            classes = _crossed(classes, _group_classes(group, ranks))
        loops = tuple(loop for loop in loops if loop.limit is None and loop.rank not in limiting)
    n_full = 1
    for loop in loops:
        remainder = loop.remainder
        if remainder == loop.tile or loop.rank not in ranks:
            n_full *= loop.trips
        else:
            classes = _crossed(classes, _split(loop.trips - 1, 1, loop.rank, remainder))
    return classes if n_full == 1 else [(count * n_full, shrunk) for count, shrunk in classes]


def total_elements(loops: tuple[Loop, ...], tile: Mapping[str, int]) -> int:
    """Sum over all leaves of the elements of `tile` there; ranks shrink in their loop's last iteration."""
    if any(loop.limit for loop in loops):
        return sum(
            count * prod(min(size, shrunk.get(rank, size)) for rank, size in tile.items())
            for count, shrunk in tile_classes(loops, tile.keys())
        )
    total = prod(tile.values())
    for loop in loops:
        size = tile.get(loop.rank)
        if size is None or loop.remainder == loop.tile:
            total *= loop.trips
        else:  # independent loops: the sum of the products is the product of the sums
            total = total // size * ((loop.trips - 1) * size + min(size, loop.remainder))
    return total


def _split(n_full: int, n_last: int, rank: str, remainder: int) -> list[TileClass]:
    found: list[TileClass] = [(n_full, {})] if n_full else []
    return [*found, (n_last, {rank: remainder})] if n_last else found


def _crossed(left: list[TileClass], right: list[TileClass]) -> list[TileClass]:
    """All combinations of independent classes."""
    return [(a * b, one | other) for a, one in left for b, other in right]


def _groups(loops: tuple[Loop, ...]) -> list[tuple[Loop, ...]]:
    """Loops that limits tie together, each group in the order of the nest; single loops left out."""
    group_of: dict[str, set[str]] = {}
    for loop in loops:
        group_of[loop.rank] = {loop.rank}
        if loop.limit:
            merged = group_of[loop.limit.of] | {loop.rank}
            for rank in merged:
                group_of[rank] = merged
    seen: list[set[str]] = []
    for group in group_of.values():
        if len(group) > 1 and group not in seen:
            seen.append(group)
    return [tuple(loop for loop in loops if loop.rank in group) for group in seen]


def _group_classes(group: tuple[Loop, ...], ranks: Collection[str]) -> list[TileClass]:
    if len(group) == 2:
        return _pair_classes(group[0], group[1], ranks)
    outer, rest = group[0], group[1:]
    totals: dict[tuple[tuple[str, int], ...], int] = {}
    for trip in range(outer.trips):
        last = trip == outer.trips - 1 and outer.remainder != outer.tile and outer.rank in ranks
        own = {outer.rank: outer.remainder} if last else {}
        for count, shrunk in tile_classes(cut_loops(rest, outer, trip), ranks):
            key = tuple((own | shrunk).items())
            totals[key] = totals.get(key, 0) + count
    return [(count, dict(key)) for key, count in totals.items()]


def _pair_classes(of: Loop, inner: Loop, ranks: Collection[str]) -> list[TileClass]:
    """Classes of a loop and the one that it limits.

    With T trips of the inner loop, iteration i of the outer one visits min(T, max(1, v(i))) tiles where
    v(i) = floor(((i + 1) tile_of - 1 + offset) / tile) + 1: one tile at first, then a floor sum, then all.
    """
    n_whole = of.trips - 1
    n_tiles, n_complete = _whole_trips(of, inner, n_whole)
    last_trips = limited_trips(inner, of, n_whole)
    inner_shrinks = inner.remainder != inner.tile and inner.rank in ranks

    def classes(n: int, n_last: int) -> list[TileClass]:
        return _split(n - n_last, n_last, inner.rank, inner.remainder) if inner_shrinks else [(n, {})]

    found = classes(n_tiles, n_complete) if n_whole else []
    own = {of.rank: of.remainder} if of.remainder != of.tile and of.rank in ranks else {}
    for count, shrunk in classes(last_trips, int(last_trips == inner.trips)):
        found.append((count, own | shrunk))
    return found


def _whole_trips(of: Loop, inner: Loop, n_whole: int) -> tuple[int, int]:
    """Over the first `n_whole` iterations of `of`: trips of `inner`, and how often it runs to its end."""
    assert inner.limit is not None
    offset, trips = inner.limit.offset, inner.trips
    if trips == 1:
        return n_whole, n_whole
    complete_from = -((offset - 1 - (trips - 1) * inner.tile) // of.tile) - 1
    complete_from = min(max(complete_from, 0), n_whole)
    n_single = -((offset - 1 - inner.tile) // of.tile) - 1
    n_single = min(max(n_single, 0), complete_from)
    n_between = complete_from - n_single
    start = of.tile * (n_single + 1) - 1 + offset
    between = n_between + floor_sum(n_between, inner.tile, of.tile, start)
    return n_single + between + (n_whole - complete_from) * trips, n_whole - complete_from


def floor_sum(n: int, divisor: int, step: int, start: int) -> int:
    """Sum of floor((step i + start) / divisor) for i in 0..n-1; step, start >= 0, divisor > 0.

    Euclid's algorithm on (step, divisor): the sum counts lattice points under a line.
    """
    total = 0
    while n > 0:
        total += n * (n - 1) // 2 * (step // divisor) + n * (start // divisor)
        step, start = step % divisor, start % divisor
        top = step * n + start
        if top < divisor:
            break
        n, start = divmod(top, divisor)
        step, divisor = divisor, step
    return total
