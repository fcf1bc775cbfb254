"""Which leaves go on with a tile of their result, and so read it once more: one rule for time and for actions.

A result's tile is handed on after the last leaf under its port's loops. Loops inside that depth over ranks that
the result lacks are reductions: all leaves but those of their first iteration find the tile begun. An array
keeps nothing between leaves and a vector unit neither, so such a leaf reads the tile before it writes it. A
product that starts on a tile of another buffer (a third read) reads that one in the leaves that begin.
"""

from tilewright.dataflow.program import Compute, Loop, Nest, Port, Unit, cut_loops


def reduced_ranks(nest: Nest, port: Port) -> frozenset[str]:
    """The ranks whose later iterations go on with the tile at a write port; loops of one trip left out."""
    leaf = nest.leaf
    if not isinstance(leaf, Compute):
        return frozenset()
    kept = {rank for rank, _ in port.tile}
    if leaf.unit is Unit.MATRIX:
        kept = {*leaf.m_ranks, *leaf.n_ranks, *leaf.batch_ranks}
    inside = nest.loops[port.depth :]
    return frozenset(loop.rank for loop in inside if loop.rank not in kept and loop.trips > 1)


def continuations(nest: Nest) -> tuple[frozenset[str], ...]:
    """The different non-empty `reduced_ranks` of a nest's write ports, in their order.

    A leaf goes on with the tiles of the i-th if a loop over one of its ranks is past its first iteration.
    """
    found = dict.fromkeys(reduced_ranks(nest, port) for port in nest.writes)
    return tuple(ranks for ranks in found if ranks)


def starting_loops(loops: tuple[Loop, ...], reduced: frozenset[str]) -> tuple[Loop, ...]:
    """The loops of those leaves that begin a tile; `loops` itself if all do."""
    found = loops
    for loop in loops:
        if loop.rank in reduced:
            rest = tuple(other for other in found if other.rank != loop.rank)
            found = (Loop(loop.rank, loop.tile, loop.tile), *cut_loops(rest, loop, 0))
    return found
