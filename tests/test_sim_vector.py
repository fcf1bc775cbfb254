"""Vector cycles: startup, passes over the lanes, cycles per evaluation."""

from tilewright.dataflow.program import VectorWork
from tilewright.sim.architecture import VectorUnit
from tilewright.sim.vector import leaf_cycles, n_points

UNIT = VectorUnit("lanes", 16, 32, (("exp", 4), ("gelu", 7)), startup_cycles=8)
TILE = {"m": 10, "n": 33}


def test_a_work_takes_whole_passes_over_the_lanes() -> None:
    # 330 points on 16 lanes: 21 passes.
    assert leaf_cycles(UNIT, [VectorWork("add", ())], TILE) == 8 + 21
    assert leaf_cycles(UNIT, [VectorWork("exp", ())], TILE) == 8 + 21 * 4


def test_works_of_a_leaf_follow_each_other_and_pay_the_startup_once() -> None:
    works = [VectorWork("gelu", ("m",), 2), VectorWork("max", ("m", "n"))]
    assert leaf_cycles(UNIT, works, TILE) == 8 + 1 * 2 * 7 + 21


def test_a_work_without_ranks_covers_the_tile() -> None:
    assert n_points(VectorWork("add", ()), TILE) == n_points(VectorWork("add", ("",)), TILE) == 330
    assert n_points(VectorWork("add", ("n",)), TILE) == 33
