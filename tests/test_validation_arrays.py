"""`tilewright validate arrays`: RTL simulated on the spot, and the faults that it must not miss."""

from collections.abc import Iterator

import pytest

from tilewright import validation_arrays
from tilewright.hls_templates.rtl import cell, control
from tilewright.hls_templates.rtl.check import RtlError
from tilewright.validation import validate
from tilewright.validation_arrays import simulated_points


@pytest.fixture
def few_points(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two small arrays, simulated anew; nothing of them stays."""
    monkeypatch.setattr(validation_arrays, "_ARRAYS", ((2, 2, "int8"), (3, 2, "int8")))
    simulated_points.cache_clear()
    yield
    simulated_points.cache_clear()


@pytest.mark.usefixtures("few_points")
def test_closed_forms_equal_the_rtl_and_scalesims_are_told_apart() -> None:
    sets = {entry["name"]: entry for entry in validate("arrays", None, None)["sets"]}
    # 15 carried points; 2 arrays x 3 stationarities x 2 x 3 shapes, half of them without overlap
    assert sets["arrays"]["n_points"] == 15 + 36
    assert sets["arrays"]["worst_abs_error_fraction"] == 0.0
    assert sets["arrays_scalesim"]["n_points"] == 18
    # SCALE-Sim's folds are shorter by the drain (output) or by two cycles (held), so all its cycles are fewer
    points = [point for point in validate("arrays", None, None)["points"] if "scalesim" in point["set"]]
    assert all(point["ours"] < point["reference"] for point in points)


@pytest.mark.usefixtures("few_points")
def test_rtl_that_takes_a_cycle_more_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation_arrays, "_N_SHAPES", 1)
    depth = control.Grid.depth.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(control.Grid, "depth", property(lambda grid: depth(grid) + 1))
    errors = [point["error_fraction"] for point in validate("arrays", None, None)["points"][15:]]
    assert min(error for error in errors if error is not None) < 0


@pytest.mark.usefixtures("few_points")
def test_rtl_that_computes_something_else_is_no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell, "wrapped_sum", lambda left, right: (left - right)[: len(left)])
    with pytest.raises(RtlError, match="values differ from numpy's"):
        validate("arrays", None, None)
