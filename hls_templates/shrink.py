"""A small Program of the same structure, for C simulation in seconds."""

from collections.abc import Mapping
from dataclasses import replace

from tilewright.dataflow.program import Compute, Loop, Nest, Port, Program, Stage, Transfer

#: Tiles stay multiples of what divides them, up to this: the most elements that a word of a port holds.
_ALIGNMENT = 64
#: Iterations of a loop that are kept at most: a first, a middle and a last one.
_TRIPS = 3


def shrink(program: Program, max_extent: int) -> Program:
    """`program` with fewer and smaller tiles: the same nests, loops, ports and depths.

    A loop keeps up to three iterations and its remainder stays one; a dimension of the matrices stays near
    `max_extent` elements where alignment allows.
    """
    sizes = _shrunk_sizes(program, max_extent)
    stages = tuple(
        Stage(stage.name, stage.operators, tuple(_nest(nest, sizes) for nest in stage.nests))
        for stage in program.stages
    )
    return Program(program.name, program.tensors, program.buffers, stages)


class _Rank:
    """One rank's old extent, and the new size for each old one."""

    def __init__(self, extent: int, tiles: set[int], room: int) -> None:
        self.extent = extent
        split = max((tile for tile in tiles if tile < extent), default=0)
        if not split:
            self._divisor = 1
            self.new_extent = extent if extent <= room else _aligned(extent, room)
            return
        tile_room = max(1, room // _TRIPS)
        self._divisor = 1
        while split // self._divisor > tile_room:
            self._divisor *= 2
        new_split = self._tile(split)
        trips = min(-(-extent // split), _TRIPS)
        remainder = (extent - 1) % split + 1
        new_remainder = new_split if remainder == split else max(1, remainder * new_split // split)
        self.new_extent = min(extent, (trips - 1) * new_split + new_remainder)

    def _tile(self, tile: int) -> int:
        return tile if self._divisor == 1 else _aligned(tile, tile // self._divisor)

    def new_size(self, size: int) -> int:
        return self.new_extent if size >= self.extent else min(self._tile(size), self.new_extent)


def _aligned(size: int, wanted: int) -> int:
    """About `wanted`, never above `size`, and a multiple of the power of two that divides `size`."""
    power = min(size & -size, _ALIGNMENT)
    return min(size, max(1, -(-wanted // power)) * power)


def _shrunk_sizes(program: Program, max_extent: int) -> Mapping[str, _Rank]:
    extents: dict[str, int] = {}
    tiles: dict[str, set[int]] = {}
    for rank, size in _sizes(program):
        extents[rank] = max(extents.get(rank, 0), size)
        tiles.setdefault(rank, set()).add(size)
    inner = _inner_ranks(program)
    sizes: dict[str, _Rank] = {}
    for rank in sorted(extents, key=lambda rank: (len(_all_inner(rank, inner)), rank)):
        below = 1
        for group in inner.get(rank, ()):
            product = 1
            for other in group:
                product *= sizes[other].new_extent if other in sizes else extents.get(other, 1)
            below = max(below, product)
        sizes[rank] = _Rank(extents[rank], tiles[rank], max(1, max_extent // below))
    return sizes


def _sizes(program: Program) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for nest in program.nests:
        for loop in nest.loops:
            found += [(loop.rank, loop.extent), (loop.rank, loop.tile)]
        found += nest.leaf.tile
        for port in (*nest.reads, *nest.writes):
            found += port.tile
    return found


def _inner_ranks(program: Program) -> dict[str, set[tuple[str, ...]]]:
    """For every rank, the ranks that stand inside it in a group of a matrix leaf."""
    inner: dict[str, set[tuple[str, ...]]] = {}
    for nest in program.nests:
        if isinstance(nest.leaf, Compute):
            for group in (nest.leaf.m_ranks, nest.leaf.n_ranks, nest.leaf.k_ranks):
                for position, rank in enumerate(group):
                    inner.setdefault(rank, set()).add(group[position + 1 :])
    return inner


def _all_inner(rank: str, inner: Mapping[str, set[tuple[str, ...]]]) -> set[str]:
    return {other for group in inner.get(rank, set()) for other in group}


def _nest(nest: Nest, sizes: Mapping[str, _Rank]) -> Nest:
    loops = tuple(_loop(loop, sizes[loop.rank]) for loop in nest.loops)
    leaf: Transfer | Compute
    if isinstance(nest.leaf, Transfer):
        leaf = replace(nest.leaf, tile=_tile(nest.leaf.tile, sizes), run_elements=1)
    else:
        leaf = replace(nest.leaf, tile=_tile(nest.leaf.tile, sizes))
    return replace(
        nest, loops=loops, leaf=leaf, reads=_ports(nest.reads, sizes), writes=_ports(nest.writes, sizes)
    )


def _loop(loop: Loop, rank: _Rank) -> Loop:
    extent = rank.new_size(loop.extent)
    return Loop(loop.rank, extent, min(extent, rank.new_size(loop.tile)), loop.limit)


def _ports(ports: tuple[Port, ...], sizes: Mapping[str, _Rank]) -> tuple[Port, ...]:
    return tuple(replace(port, tile=_tile(port.tile, sizes)) for port in ports)


def _tile(tile: tuple[tuple[str, int], ...], sizes: Mapping[str, _Rank]) -> tuple[tuple[str, int], ...]:
    return tuple((rank, sizes[rank].new_size(size)) for rank, size in tile)
