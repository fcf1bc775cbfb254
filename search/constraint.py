"""Constraints: a metric, a comparison and a limit, with a measure of how far a design is off."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from tilewright.dataflow.errors import InputError, nearest
from tilewright.search.objective import METRICS, WORKLOAD_METRICS

_COMPARISON = re.compile(r"(<=|>=|==|<|>)")
_ALIASES = {"bram_fraction": "bram36_fraction", "bram": "bram36"}

#: What a strict comparison that is just met counts as, so that it is seen as violated.
_LEAST_VIOLATION = 1e-12


@dataclass(frozen=True, slots=True)
class Constraint:
    """`metric op limit`; `device_class` is the class that has the metric, "" if both do."""

    metric: str
    op: str
    limit: float
    device_class: str = ""

    def __str__(self) -> str:
        return f"{self.metric} {self.op} {self.limit:g}"

    def applies_to(self, device_class: str) -> bool:
        return self.device_class in ("", device_class)

    def violation(self, value: float) -> float:
        """0 where `value` satisfies the constraint, else the distance to the limit relative to the limit."""
        if self._holds(value):
            return 0.0
        return max(abs(value - self.limit) / (abs(self.limit) or 1.0), _LEAST_VIOLATION)

    def surely_violated(self, bound: float, maximised: bool) -> bool:
        """Whether no value that `bound` allows satisfies the constraint.

        `bound` is the least that the metric can be, or the most if the metric is `maximised`.
        """
        if self._holds(bound):
            return False
        return self.op in ((">=", ">") if maximised else ("<=", "<"))

    def _holds(self, value: float) -> bool:
        match self.op:
            case "<=":
                return value <= self.limit
            case ">=":
                return value >= self.limit
            case "<":
                return value < self.limit
            case ">":
                return value > self.limit
            case _:
                return value == self.limit


def parse_constraint(text: str, workloads: Sequence[str] = ()) -> Constraint:
    """The constraint of a line such as "dsp_fraction <= 0.8".

    On the left stands a metric, or `<workload>.<metric>` for one of the study's `workloads`; on the right a
    number. Raises InputError for another form or an unknown metric (closest one named).
    """
    pieces = _COMPARISON.split(text, maxsplit=1)
    if len(pieces) != 3:
        raise InputError(f"constraint {text!r}: one of <=, >=, <, >, == must stand in it")
    left, op, right = (piece.strip() for piece in pieces)
    try:
        limit = float(right)
    except ValueError:
        raise InputError(f"constraint {text!r}: the right side must be a number, got {right!r}") from None
    if not isfinite(limit):
        raise InputError(f"constraint {text!r}: the right side must be finite, got {right!r}")
    metric = _known_metric(_ALIASES.get(left, left), text, workloads)
    return Constraint(metric, op, limit, METRICS[metric.rpartition(".")[2]].device_class)


def _known_metric(left: str, text: str, workloads: Sequence[str]) -> str:
    if left in METRICS:
        return left
    of_workloads = [f"{workload}.{name}" for workload in workloads for name in WORKLOAD_METRICS]
    if left in of_workloads:
        return left
    raise InputError(
        f"constraint {text!r}: metric {left!r} is unknown{nearest(left, [*METRICS, *of_workloads])}"
    )
