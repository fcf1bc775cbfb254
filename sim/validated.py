"""What is known of each model's error, from the committed table of comparisons."""

import csv
from functools import lru_cache
from importlib.resources import files


@lru_cache(maxsize=1)
def validated_errors() -> tuple[tuple[str, float | None], ...]:
    """(model, mean absolute error as a fraction), None where nothing has been compared yet.

    Source: sim/data/validated_errors.csv, which names the reference and the command that repeats it.
    """
    text = (files("tilewright.sim") / "data" / "validated_errors.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    column = "mean_abs_error_fraction"
    return tuple((row["model"], float(row[column]) if row[column] else None) for row in rows)
