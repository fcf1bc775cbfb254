"""The judge: takes one design from screening over the bound to the simulation, and no further than needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from tilewright.dataflow.errors import InputError
from tilewright.search.constraint import Constraint
from tilewright.search.evaluator import Evaluate
from tilewright.search.objective import METRICS, cost_of
from tilewright.search.outcome import Outcome
from tilewright.search.pareto import dominated_by
from tilewright.search.repair import Screening
from tilewright.sim.architecture import ArchitectureError
from tilewright.sim.design import Design
from tilewright.sim.mapping import MappingError

#: (n_designs, n_objectives), lower is better.
Costs = NDArray[np.float64]

#: How a template, an architecture and the mapper say that a design cannot be; any other error is a fault.
REFUSALS = (InputError, ArchitectureError, MappingError)


@dataclass(frozen=True)
class Judge:
    """Decides what becomes of designs; it travels to worker processes.

    `constraints` are those of the study; the limits of the device come on top.
    """

    evaluate: Evaluate
    objectives: tuple[str, ...]
    constraints: tuple[Constraint, ...]

    def constraints_on(self, device: str) -> tuple[Constraint, ...]:
        """What holds on a device: its own limits, and the study's constraints that its class has."""
        device_class = self.evaluate.device_class(device)
        stated = tuple(constraint for constraint in self.constraints if constraint.applies_to(device_class))
        return (*self.evaluate.limits(device), *stated)

    def screen(self, design: Design) -> tuple[Screening, Mapping[str, float]]:
        """What is known of a design before anything is simulated, and the metrics that say so."""
        try:
            metrics = self.evaluate.screen(design)
        except REFUSALS as error:
            return Screening(inf, reason=_one_line(error)), {}
        return self.screening_of(metrics, design.device), metrics

    def screening_of(self, metrics: Mapping[str, float], device: str) -> Screening:
        """By how much `metrics` miss the constraints on a device, as far as they are known."""
        violated = [
            (constraint, metrics[constraint.metric])
            for constraint in self.constraints_on(device)
            if constraint.metric in metrics and constraint.violation(metrics[constraint.metric]) > 0
        ]
        named = tuple((str(constraint), constraint.violation(value)) for constraint, value in violated)
        reason = "; ".join(f"{constraint}, has {value:.6g}" for constraint, value in violated)
        return Screening(sum(violation for _, violation in named), named, reason)

    def examine(self, design: Design, front: Costs) -> Outcome:
        """What becomes of a design that passed the screening.

        front: costs of the designs to beat, (n_designs, n_objectives), of the same device class.
        """
        try:
            bounds = self.evaluate.bound(design)
            if outcome := self._ruled_out(bounds, design.device, front):
                return outcome
            simulated = self.evaluate.simulate(design)
        except REFUSALS as error:
            return Outcome("infeasible", _one_line(error), violation=inf)
        judged = self.screening_of(simulated.metrics, design.device)
        return Outcome(
            "infeasible" if judged.violation else "ok",
            judged.reason,
            judged.violation,
            simulated=True,
            metrics=simulated.metrics,
            details=simulated.details,
        )

    def is_pruned(self, bounds: Mapping[str, float], front: Costs) -> bool:
        """Whether a design of `front` is nowhere worse than `bounds` allow, and better somewhere."""
        costs = np.array([cost_of(name, bounds) if name in bounds else -inf for name in self.objectives])
        return dominated_by(front, costs)

    def _ruled_out(self, bounds: Mapping[str, float], device: str, front: Costs) -> Outcome | None:
        violation, said = _sure_violation(self.constraints_on(device), bounds)
        if violation:
            return Outcome("infeasible", "; ".join(said), violation, metrics=bounds)
        if self.is_pruned(bounds, front):
            return Outcome("pruned", "a design of the front is better than its bound", metrics=bounds)
        return None


def _sure_violation(
    constraints: Sequence[Constraint], bounds: Mapping[str, float]
) -> tuple[float, list[str]]:
    """By how much a design at its bounds misses what no design with those bounds can satisfy."""
    total, said = 0.0, []
    for constraint in constraints:
        if (bound := bounds.get(constraint.metric)) is None:
            continue
        maximised = METRICS[constraint.metric.rpartition(".")[2]].maximise
        if constraint.surely_violated(bound, maximised):
            total += constraint.violation(bound)
            said.append(f"{constraint}, is {'at most' if maximised else 'at least'} {bound:.6g}")
    return total, said


def _one_line(error: ValueError) -> str:
    return " ".join(str(error).split())
