from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.dataflow.errors import InputError
from tilewright.search.repair import Screening, nearest_feasible, why_empty
from tilewright.search.space import SearchSpace, Vector, search_spaces
from tilewright.sim.space import Parameter, Space

ROWS = Parameter("rows", (4, 8, 16, 32), 16, "rows of PEs")
KIND = Parameter("kind", ("a", "b", "c"), "b", "a category", ordered=False)
FUSED = Parameter("fused", (False, True), True, "a switch", ordered=False)
SPACE = SearchSpace("t", "d", (ROWS, KIND, FUSED))
BOTH = {("t", "u280"): Space((ROWS, KIND)), ("t", "asic7"): Space((ROWS, FUSED))}


def test_a_point_decodes_to_values_and_back() -> None:
    for vector in SPACE.vectors():
        assert SPACE.encode(SPACE.decode(vector)) == vector
    assert SPACE.decode((1, 2, 0)) == {"rows": 8, "kind": "c", "fused": False}
    assert len(set(SPACE.vectors())) == SPACE.n_designs == 24


def test_a_value_outside_the_space_is_refused() -> None:
    with pytest.raises(InputError, match="'rows': 5 is not one of 4, 8, 16, 32"):
        SPACE.encode({"rows": 5, "kind": "a", "fused": True})
    with pytest.raises(InputError, match="'fused': 1 is not one of False, True"):
        SPACE.encode({"rows": 4, "kind": "a", "fused": 1})


def test_a_study_restricts_values_and_keeps_the_order_of_the_space() -> None:
    fpga, asic = search_spaces(BOTH, {"rows": (32, 8), "kind": ("c",)})
    assert [parameter.values for parameter in fpga.parameters] == [(8, 32), ("c",)]
    assert [parameter.values for parameter in asic.parameters] == [(8, 32), (False, True)]
    assert fpga.decode(fpga.default()) == {"rows": 8, "kind": "c"}  # 8 and 32 are as near to 16: the first


@pytest.mark.parametrize(
    ("allowed", "said"),
    [
        ({"row": (4,)}, "parameter 'row' is unknown (did you mean 'rows'?)"),
        ({"rows": (5,)}, "'rows': 5 is not one of 4, 8, 16, 32"),
        ({"rows": ()}, "'rows' has no value"),
    ],
)
def test_a_wrong_restriction_is_refused(allowed: dict[str, tuple[int, ...]], said: str) -> None:
    with pytest.raises(InputError) as refusal:
        search_spaces(BOTH, allowed)
    assert said in str(refusal.value)


def test_a_value_of_one_device_only_leaves_the_other_without_any() -> None:
    clocks = {
        ("t", name): Space((Parameter("clock_mhz", values, values[0], ""),))
        for name, values in (("u280", (200, 300)), ("asic7", (800, 1000)))
    }
    with pytest.raises(InputError, match="no value left for t on asic7, which offers 800, 1000"):
        search_spaces(clocks, {"clock_mhz": (300,)})
    fpga, asic = search_spaces(clocks, {"clock_mhz": (300, 1000)})
    assert (fpga.parameters[0].values, asic.parameters[0].values) == ((300,), (1000,))


@given(st.integers(1, 60), st.integers(0, 100))
def test_seeds_begin_with_defaults_and_corners_and_balance_every_parameter(n: int, seed: int) -> None:
    seeds = SPACE.seeds(n, np.random.default_rng(seed))
    assert seeds.shape == (n, 3)
    assert seeds.tolist()[:3] == [[2, 1, 1], [0, 1, 1], [3, 1, 1]][:n]
    for column, count in zip(seeds[3:].T, SPACE.n_values, strict=True):
        times = Counter(column.tolist())
        assert set(times) <= set(range(count))
        spread = [times[value] for value in range(count)]
        # A stratum that lies across two values may go to either: off by at most one at each end.
        assert max(spread) - min(spread) <= 2


def _screen_by_rows(limit: int) -> "dict[Vector, Screening]":
    def screening(vector: Vector) -> Screening:
        excess = max(0.0, SPACE.decode(vector)["rows"] / limit - 1)  # type: ignore[operator]
        return Screening(excess, (("rows", excess),) if excess else (), f"rows <= {limit}" if excess else "")

    return {vector: screening(vector) for vector in SPACE.vectors()}


def test_repair_steps_an_ordered_parameter_down_to_the_limit_and_no_further() -> None:
    assert nearest_feasible(SPACE, (3, 2, 0), _screen_by_rows(8).__getitem__) == (1, 2, 0)
    assert nearest_feasible(SPACE, (0, 2, 0), _screen_by_rows(8).__getitem__) == (0, 2, 0)


def test_repair_leaves_a_point_that_no_step_makes_feasible() -> None:
    assert nearest_feasible(SPACE, (3, 2, 0), _screen_by_rows(2).__getitem__) == (3, 2, 0)


def test_repair_takes_steps_in_turns_and_ends_at_the_edge_of_what_is_allowed() -> None:
    grid = SearchSpace("t", "d", (ROWS,) * 3)

    def screening(vector: Vector) -> Screening:
        return Screening(max(0.0, 2.0 * vector[0] + vector[1] - 5.0))

    # Down in turns: (2, 3, 3) misses by 2, (2, 2, 3) by 1, (1, 2, 3) by -1; then x1 may go back up to 3.
    assert nearest_feasible(grid, (3, 3, 3), screening) == (1, 3, 3)


@given(st.tuples(*[st.integers(0, 3)] * 3), st.integers(0, 9))
def test_a_repaired_point_is_feasible_and_no_step_back_is(start: Vector, allowed: int) -> None:
    grid = SearchSpace("t", "d", (ROWS,) * 3)

    def screening(vector: Vector) -> Screening:
        return Screening(float(max(0, sum(vector) - allowed)))

    found = nearest_feasible(grid, start, screening)
    assert sum(found) == min(sum(start), allowed)
    assert all(a <= b for a, b in zip(found, start, strict=True))


def test_repair_without_a_measure_of_violation_takes_the_fewest_steps() -> None:
    grid = SearchSpace("t", "d", (ROWS, ROWS, ROWS))
    built = {(0, 3, 3), (3, 2, 2)}

    def screening(vector: Vector) -> Screening:
        return Screening(0.0 if vector in built else float("inf"), reason="cannot be built")

    assert nearest_feasible(grid, (3, 3, 3), screening) == (3, 2, 2)


def test_repair_looks_at_no_more_points_than_it_may() -> None:
    looked: list[Vector] = []

    def screening(vector: Vector) -> Screening:
        looked.append(vector)
        return Screening(1.0)

    wide = SearchSpace("t", "d", (ROWS,) * 10)
    start = (1,) * 10
    assert nearest_feasible(wide, start, screening, limit=30) == start
    assert len(set(looked)) <= 31


def test_repair_of_points_that_cannot_be_built_looks_at_no_more_than_it_may() -> None:
    looked: list[Vector] = []

    def screening(vector: Vector) -> Screening:
        looked.append(vector)
        return Screening(float("inf"))

    start = (1,) * 10
    assert nearest_feasible(SearchSpace("t", "d", (ROWS,) * 10), start, screening, limit=30) == start
    assert len(set(looked)) <= 31


def test_an_empty_space_names_the_constraint_that_every_point_misses() -> None:
    tried = [
        Screening(0.5, (("dsp <= 1", 0.4), ("lut <= 1", 0.1)), "dsp <= 1, has 1.4; lut <= 1, has 1.1"),
        Screening(0.3, (("dsp <= 1", 0.3),), "dsp <= 1, has 1.3"),
    ]
    said = why_empty(SPACE, tried)
    assert "t on d: no feasible design among 2 tried: 'dsp <= 1' rules them out" in said
    assert said.endswith("closest: dsp <= 1, has 1.3")


def test_an_empty_space_names_constraints_that_are_at_odds() -> None:
    tried = [Screening(0.5, (("b", 0.5),), "b"), Screening(0.3, (("a", 0.3),), "a")]
    assert "'a' and 'b' rule them out" in why_empty(SPACE, tried)


def test_a_space_in_which_nothing_can_be_built_says_why() -> None:
    assert "none of 1 designs can be built: x1 is odd" in why_empty(
        SPACE, [Screening(float("inf"), reason="x1 is odd")]
    )
