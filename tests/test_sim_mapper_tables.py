"""Tiles that are bounded together against tiles taken one by one."""

import pytest

from tilewright.sim import mapper_search
from tilewright.sim.hierarchy import Axis, Hierarchy, Level
from tilewright.sim.mapper_onto import goal_of
from tilewright.sim.mapper_search import Search, choices_of
from tilewright.sim.mapspace import map_space
from tilewright.sim.mapspace_problem import gemm

HIERARCHY = Hierarchy(
    "three",
    (
        Level("dram", None, 200.0, 200.0, shared_words_per_cycle=8),
        Level("buffer", 4096 * 16, 6.0, 6.0, may_bypass=("all",)),
        Level("registers", 32 * 16, 1.0, 1.0, axes=(Axis("x", 4), Axis("y", 4))),
    ),
    mac_pj=1.0,
    element_bits=16,
)


@pytest.mark.parametrize(("sizes", "tiles"), [((96, 60, 128), "divisors"), ((25, 64, 36), "remainders")])
@pytest.mark.parametrize("objective", ["energy", "latency"])
def test_tiles_bounded_together_cost_what_they_cost_one_by_one(monkeypatch, sizes, tiles, objective):
    space = map_space(gemm(*sizes), HIERARCHY, tiles)
    goal = goal_of(objective, 0.0, 0.0).array(0.0, space.arrays.macs)
    together = Search(space.arrays, goal, HIERARCHY.n_pes).run(list(choices_of(space)))
    monkeypatch.setattr(mapper_search, "_alike", lambda rows: [row[None] for row in rows])
    apart = Search(space.arrays, goal, HIERARCHY.n_pes).run(list(choices_of(space)))
    assert together.cost == pytest.approx(apart.cost, rel=1e-9)
    assert together.n_pruned + together.n_evaluated < apart.n_pruned + apart.n_evaluated
