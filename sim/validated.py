"""What is known of each model's error, from the committed table of comparisons."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from tilewright.sim.architecture import Architecture, Dram, MatrixArray
from tilewright.sim.device import device_named


@dataclass(frozen=True, slots=True)
class ValidatedError:
    """Mean absolute error of a model, as a fraction, over `n_points` comparisons; None before any.

    `scope` is "any", "systolic" (arrays of our own), "banks" (a memory that is modelled by its banks), "fpga"
    (any FPGA), the name of a template, or `template/device`.
    """

    model: str
    error_fraction: float | None
    n_points: int
    scope: str
    against: str
    repeat_with: str

    def covers(self, architecture: Architecture) -> bool:
        """Whether the comparison speaks for this hardware."""
        if self.scope == "any":
            return True
        if self.scope == "banks":
            return all(dram.rate is None for dram in architecture.of_kind(Dram))
        if self.scope == "systolic":
            return all(array.discipline == "systolic" for array in architecture.of_kind(MatrixArray))
        if self.scope == "fpga":
            return device_named(architecture.device).is_fpga
        return self.speaks_for({(architecture.name, architecture.device)})

    def speaks_for(self, designs: Iterable[tuple[str, str]]) -> bool:
        """Whether the scope names no template, or that of one of `designs`: (template, device)."""
        if self.scope in ("any", "banks", "systolic"):
            return True
        if self.scope == "fpga":
            return any(device_named(place).is_fpga for _, place in designs)
        template, _, device = self.scope.partition("/")
        return any(one == template and device in ("", place) for one, place in designs)


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
    """(model, mean absolute error as a fraction) for a design; None where no comparison covers it.

    Of several rows of one model that cover the design the first that has an error counts.
    """
    found: dict[str, float | None] = {}
    for row in validated_errors():
        known = found.setdefault(row.model, None)
        if known is None and row.covers(architecture):
            found[row.model] = row.error_fraction
    return tuple(found.items())
