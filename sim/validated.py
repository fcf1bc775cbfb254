"""What is known of each model's error, from the committed table of comparisons."""

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from tilewright.sim.architecture import Architecture, MatrixArray


@dataclass(frozen=True, slots=True)
class ValidatedError:
    """Mean absolute error of a model, as a fraction, over `n_points` comparisons; None before any.

    `scope` is "any", or "output_stationary": single output-stationary arrays without drain overlap.
    """

    model: str
    error_fraction: float | None
    n_points: int
    scope: str
    against: str
    repeat_with: str

    def covers(self, architecture: Architecture) -> bool:
        """Whether the comparison speaks for this hardware."""
        return self.scope == "any" or all(
            array.stationarity == "output" and array.count == 1 and not array.drain_overlap
            for array in architecture.of_kind(MatrixArray)
        )


@lru_cache(maxsize=1)
def validated_errors() -> tuple[ValidatedError, ...]:
    """Every row of sim/data/validated_errors.csv, which names the reference and how to repeat it."""
    text = (files("tilewright.sim") / "data" / "validated_errors.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return tuple(
        ValidatedError(
            row["model"],
            float(row["mean_abs_error_fraction"]) if row["mean_abs_error_fraction"] else None,
            int(row["n_points"]),
            row["scope"],
            row["against"],
            row["repeat_with"],
        )
        for row in rows
    )


def errors_of(architecture: Architecture) -> tuple[tuple[str, float | None], ...]:
    """(model, mean absolute error as a fraction) for a design; None where no comparison covers it."""
    return tuple(
        (row.model, row.error_fraction if row.covers(architecture) else None) for row in validated_errors()
    )
