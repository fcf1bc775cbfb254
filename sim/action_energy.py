"""Energy tables that price the actions of named components, as published accelerators state them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from tilewright.dataflow.errors import InputError
from tilewright.sim.technology import Points, power_law, rows


@dataclass(frozen=True)
class ActionTable:
    """pJ of an action by component; `points` are (size, pJ), one of size 0 where the size is no matter."""

    name: str
    points: Mapping[tuple[str, str], Points]

    def pj(self, component: str, action: str, size: float = 0.0) -> float:
        """pJ of one operation, or of one bit that is read, written or moved.

        Between and beyond published sizes a power law. Raises InputError for an action without a price.
        """
        if (component, action) not in self.points:
            raise InputError(f"energy table {self.name!r} has no price for {action!r} of {component!r}")
        points = self.points[component, action]
        return points[0][1] if len(points) == 1 else power_law(points, size)


@lru_cache(maxsize=1)
def action_tables() -> Mapping[str, ActionTable]:
    """The tables of `data/action_energy.csv` by name."""
    found: dict[str, dict[tuple[str, str], list[tuple[float, float]]]] = {}
    for row in rows("action_energy.csv"):
        point = float(row["size"] or 0), float(row["pj"])
        found.setdefault(row["table"], {}).setdefault((row["component"], row["action"]), []).append(point)
    return {
        name: ActionTable(name, {key: tuple(sorted(points)) for key, points in own.items()})
        for name, own in found.items()
    }
