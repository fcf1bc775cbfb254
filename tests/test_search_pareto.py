import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from tilewright.search.pareto import dominated_by, hypervolume, knee_index, pareto_mask

Costs = NDArray[np.float64]
# Few distinct values, so that ties and equal designs are common.
grids = st.integers(1, 4).flatmap(
    lambda m: arrays(np.float64, st.tuples(st.integers(1, 12), st.just(m)), elements=st.integers(0, 4))
)


@given(grids)
def test_a_design_is_on_the_front_exactly_if_no_other_dominates_it(costs: Costs) -> None:
    expected = [not any((other <= cost).all() and (other < cost).any() for other in costs) for cost in costs]
    assert pareto_mask(costs).tolist() == expected


@given(grids)
def test_a_design_is_dominated_by_the_front_exactly_if_it_is_not_on_it(costs: Costs) -> None:
    mask = pareto_mask(costs)
    assert [dominated_by(costs[mask], cost) for cost in costs] == (~mask).tolist()


def test_equal_designs_all_stay_on_the_front() -> None:
    assert pareto_mask(np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 2.0]])).tolist() == [True, True, False]


def test_no_designs_make_an_empty_front() -> None:
    assert pareto_mask(np.empty((0, 3))).tolist() == []


def test_a_cost_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        pareto_mask(np.array([[1.0, np.nan]]))


@given(grids)
def test_hypervolume_counts_the_unit_cells_that_a_design_covers(costs: Costs) -> None:
    reference = np.full(costs.shape[1], 5.0)
    corners = np.stack(np.meshgrid(*[np.arange(5)] * costs.shape[1], indexing="ij"), axis=-1)
    cells = corners.reshape(-1, costs.shape[1])
    covered = (costs[:, None] <= cells[None]).all(axis=2).any(axis=0).sum()
    assert hypervolume(costs, reference) == pytest.approx(covered)


def test_designs_beyond_the_reference_add_no_volume() -> None:
    costs = np.array([[1.0, 1.0], [0.0, 3.0], [5.0, 5.0]])
    assert hypervolume(costs, np.array([3.0, 3.0])) == pytest.approx(4.0)
    assert hypervolume(costs[1:], np.array([3.0, 3.0])) == 0.0


def test_the_knee_is_the_design_closest_to_the_ideal_after_scaling() -> None:
    # Scaled: (0, 1), (0.1, 0.2), (1, 0): distances squared 1, 0.05, 1.
    assert knee_index(np.array([[0.0, 100.0], [1.0, 20.0], [10.0, 0.0]])) == 1


@given(grids, st.lists(st.floats(0.5, 8.0), min_size=4, max_size=4))
def test_the_knee_does_not_depend_on_the_units_of_the_objectives(costs: Costs, scale: list[float]) -> None:
    powers = 2.0 ** np.round(scale[: costs.shape[1]])  # exact in binary
    assert knee_index(costs * powers) == knee_index(costs)


def test_an_empty_front_has_no_knee() -> None:
    with pytest.raises(ValueError, match="empty"):
        knee_index(np.empty((0, 2)))
