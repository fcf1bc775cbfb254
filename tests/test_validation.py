"""`tilewright validate`: differences, skips with their reason, and the points that the project carries."""

from pathlib import Path

import pytest

from tilewright.dataflow.errors import InputError
from tilewright.sim.validated import validated_errors
from tilewright.validation import validate

HEADER = "model,config_file,phase,batch,seq,cache,adapter,metric,value\n"


def _counts(tmp_path: Path, *rows: str) -> dict[str, object]:
    file = tmp_path / "points.csv"
    file.write_text(HEADER + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return validate("counts", file, None)


def test_a_difference_and_a_skip_are_told_apart(tmp_path: Path) -> None:
    # gpt2 has 124,439,808 parameters; the second row claims one half of that, so ours is 100 % above.
    answer = _counts(
        tmp_path,
        "gpt2,,params,,,,,params_total,124439808",
        "gpt2,,params,,,,,params_total,62219904",
        "gpt2,,prefill,1,16,,,flops_of_nothing,1",
        "gpt9,,params,,,,,params_total,1",
        "gpt2,,params,x,,,,params_total,1",
        "gpt2,,params,,,,,params_total,many",
    )
    errors = [point["error_fraction"] for point in answer["points"]]  # type: ignore[index, attr-defined]
    assert errors == [0.0, 1.0, None, None, None, None]
    (entry,) = answer["sets"]  # type: ignore[misc, attr-defined]
    assert (entry["n_points"], entry["n_skipped"]) == (2, 4)
    assert entry["mean_abs_error_fraction"] == 0.5
    assert entry["worst_abs_error_fraction"] == 1.0
    reasons = [point["skipped_because"] for point in answer["points"][2:]]  # type: ignore[index]
    assert "flops_of_nothing" in reasons[0]
    assert "gpt9" in reasons[1]
    assert "'x'" in reasons[2]
    assert "'many'" in reasons[3]


@pytest.mark.parametrize("which", ["counts", "arrays"])
def test_the_project_carries_points_that_it_meets(which: str, tmp_path: Path) -> None:
    answer = validate(which, None, tmp_path)
    ours = [entry for entry in answer["sets"] if entry["name"] != "arrays_scalesim"]  # another's arrays
    assert all(entry["n_points"] > 10 for entry in ours)
    assert all(entry["worst_abs_error_fraction"] == 0.0 for entry in ours)
    assert (tmp_path / "points.csv").read_text(encoding="utf-8").startswith("id,set,reference,ours")


def test_reports_state_the_array_error_that_this_comparison_finds() -> None:
    (stated,) = (row for row in validated_errors() if row.model == "array_cycles")
    (found,) = (entry for entry in validate("arrays", None, None)["sets"] if entry["name"] == "arrays")
    assert (stated.n_points, stated.error_fraction) == (found["n_points"], found["mean_abs_error_fraction"])


def test_a_table_without_a_column_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "points.csv"
    file.write_text("model,value\na,1\n", encoding="utf-8")
    with pytest.raises(InputError, match="column 'config_file' is missing"):
        validate("counts", file, None)
