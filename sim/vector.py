"""Cycles of vector units: closed form of a leaf that evaluates one or several functions."""

from collections.abc import Mapping, Sequence
from math import prod

from tilewright.dataflow.program import VectorWork
from tilewright.sim.architecture import VectorUnit


def n_points(work: VectorWork, tile: Mapping[str, int]) -> int:
    """Points of `work` in a tile (rank to elements): over the ranks that it names, all when it names none."""
    if not work.ranks or work.ranks == ("",):
        return prod(tile.values())
    return prod(tile[rank] for rank in work.ranks)


def leaf_cycles(unit: VectorUnit, works: Sequence[VectorWork], tile: Mapping[str, int]) -> int:
    """Cycles of one vector leaf, in the unit's own clock.

    The startup is paid once; then each work takes ceil(points / lanes) passes over the lanes, each pass
    `evaluations` times the cycles of one evaluation of its function (1 where the unit names none).
    """
    cycles_by_function = dict(unit.cycles_per_evaluation)
    cycles = unit.startup_cycles
    for work in works:
        n_passes = -(-n_points(work, tile) // unit.lanes)
        cycles += n_passes * work.evaluations * cycles_by_function.get(work.function, 1)
    return cycles
