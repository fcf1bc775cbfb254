"""`tilewright validate synth`: what is committed is compared, what cannot be is said."""

from pathlib import Path

import pytest

from tests.strategies import small_architecture
from tilewright.dataflow.errors import InputError
from tilewright.sim.validated import errors_of, validated_errors
from tilewright.validation import validate
from tilewright.validation_synthesis import COLUMNS, array_of_row, operator_dsps

HEADER = ",".join(COLUMNS) + "\n"


def test_generated_arrays_are_within_fifteen_percent_of_their_synthesis_register_for_register() -> None:
    sets = {entry["name"]: entry for entry in validate("synth", None, None)["sets"]}
    assert sets["synth_lut"]["n_points"] >= 12
    assert sets["synth_lut"]["worst_abs_error_fraction"] <= 0.15
    assert sets["synth_ff"]["worst_abs_error_fraction"] <= 0.01
    assert sets["synth_dsp"]["worst_abs_error_fraction"] == 0


def test_three_in_four_routed_designs_have_the_dsps_of_their_structure_within_fifteen_percent() -> None:
    points = [point for point in validate("synth", None, None)["points"] if point["set"] == "routed_dsp"]
    close = [point for point in points if abs(point["error_fraction"]) <= 0.15]
    assert len(close) >= 0.75 * len(points) >= 12


def test_the_reports_errors_are_those_that_the_comparison_gives() -> None:
    sets = {entry["name"]: entry for entry in validate("synth", None, None)["sets"]}
    stated = {row.model: row for row in validated_errors() if row.scope == "fpga"}
    for model, name in (("array_resources", "synth_lut"), ("area", "routed_dsp")):
        assert stated[model].error_fraction == pytest.approx(sets[name]["mean_abs_error_fraction"], abs=5e-4)


def test_area_has_an_error_on_fpgas_and_none_where_nothing_was_compared() -> None:
    assert dict(errors_of(small_architecture("u280")))["area"] is not None
    assert dict(errors_of(small_architecture("asic7")))["area"] is None
    assert {row.model for row in validated_errors() if row.speaks_for({("sequential", "asic7")})}.isdisjoint(
        {"array_resources"}
    )


def test_own_rows_are_compared_and_a_pe_without_a_model_is_skipped_with_its_reason(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(
        HEADER
        + "4,4,output,0,mac,8,8,32,0,1,1306,1255,16\n"
        + "4,4,output,0,analog,8,8,32,0,1,1306,1255,16\n",
        encoding="utf-8",
    )
    points = validate("synth", file, None)["points"]
    assert [point["ours"] for point in points[1:3]] == [1255, 16]
    assert all("analog" in point["skipped_because"] for point in points[3:])


def test_wrong_rows_are_one_line() -> None:
    row = dict(
        zip(
            COLUMNS,
            ["4", "4", "output", "0", "mac", "8", "8", "32", "0", "1", "1306", "1255", "16"],
            strict=True,
        )
    )
    for change, message in (
        ({"stationarity": "row"}, "stationarity 'row'"), ({"rows": "four"}, "whole number"), ({"cols": "0"}, ">= 1"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            array_of_row(row | change)


def test_operators_have_dsps_by_kind() -> None:
    assert operator_dsps("fp32_multiply", 16) == 48
    assert operator_dsps("packed_int8", 128) == 128
