import pytest

from tilewright.dataflow.errors import InputError
from tilewright.sim.die_cost import die_cost_usd


def test_a_die_of_100_mm2_at_7_nm_costs_a_wafer_over_the_good_dies_on_it() -> None:
    # 706.86 - 66.64 = 640.2 dies on the wafer, of which (1 + 0.15 / 3)^-3 = 0.8638 work: 9346 / 553.0.
    assert die_cost_usd(100.0, 7) == pytest.approx(16.90, abs=0.01)


def test_cost_per_area_rises_with_area_and_with_newer_nodes() -> None:
    per_mm2 = [die_cost_usd(area, 7) / area for area in (10.0, 100.0, 400.0, 800.0)]
    assert per_mm2 == sorted(per_mm2)
    by_node = [die_cost_usd(100.0, node) for node in (45, 28, 16, 7, 5)]
    assert by_node == sorted(by_node)


def test_an_unknown_node_or_a_die_larger_than_the_wafer_is_refused() -> None:
    with pytest.raises(InputError, match="no wafer price is known for 3 nm, only for 45, 28, 16, 7, 5 nm"):
        die_cost_usd(100.0, 3)
    with pytest.raises(InputError, match=r"70000 mm2 does not fit on a wafer of 300 mm"):
        die_cost_usd(70_000.0, 7)
