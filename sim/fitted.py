"""Constants of templates that were fitted to measurements: values, limits and what they were fitted on."""

import csv
from functools import lru_cache
from importlib.resources import files

from tilewright.sim.space import Parameter

#: The row of a template that stands for every device without rows of its own.
ANY_DEVICE = "*"


@lru_cache(maxsize=1)
def _rows() -> tuple[dict[str, str], ...]:
    text = (files("tilewright.sim") / "data" / "fitted_constants.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


@lru_cache(maxsize=256)
def constants_of(template: str, device: str) -> tuple[Parameter, ...]:
    """The fitted constants of a template on a device; those of any device where it has none of its own.

    Empty for a template that has none. Each may be stated between its limits, like a parameter.
    """
    own = [row for row in _rows() if (row["template"], row["device"]) == (template, device)]
    own = own or [row for row in _rows() if (row["template"], row["device"]) == (template, ANY_DEVICE)]
    found = []
    for row in own:
        low, value, high = (float(row[column]) for column in ("low", "value", "high"))
        meaning = f"{row['meaning']} ({row['unit']}); fitted on {row['fitted_on']}"
        found.append(Parameter(row["constant"], tuple(sorted({low, value, high})), value, meaning))
    return tuple(found)
