"""Cheap design spaces with known fronts, in the place of the simulator, for the tests of the search."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

from tilewright.dataflow.errors import InputError
from tilewright.search.constraint import Constraint, parse_constraint
from tilewright.search.evaluator import Simulated
from tilewright.search.study import StudyPlan, StudyWorkload
from tilewright.sim.design import Design
from tilewright.sim.space import Parameter, Space

WORKLOAD = StudyWorkload("toy", network=(), tokens=1, key="toy")


@dataclass(frozen=True)
class Zdt:
    """ZDT1 on a grid, moved by one so that everything is positive: two objectives at odds.

    With u = x0 / (n_values - 1) and g = 1 + 9 x mean of the others' share: latency = 1 + u and
    energy = 1 + g - sqrt(g u). Nothing dominates the designs with x1 = x2 = ... = 0, and of each x0 there is one.
    `area` is the sum of the indices plus one; the bound takes a fraction of the energy.
    """

    n_parameters: int = 8
    n_values: int = 8
    bound_fraction: float = 0.0
    delay_s: float = 0.0
    forbidden: int | None = None  # value of x1 that cannot be built

    def space(self, template: str, device: str) -> Space:
        values = tuple(range(self.n_values))
        return Space(tuple(Parameter(f"x{i}", values, values[-1], "") for i in range(self.n_parameters)))

    def device_class(self, device: str) -> str:
        return "fpga" if device == "toy_fpga" else "asic"

    def limits(self, device: str) -> tuple[Constraint, ...]:
        return (parse_constraint("area <= 1000"),)

    def prepare(self, design: Design) -> None:
        pass

    def screen(self, design: Design) -> Mapping[str, float]:
        x = [int(value) for value in design.parameters.values()]
        if x[1] == self.forbidden:
            raise InputError(f"x1 must not be {self.forbidden}")
        area = {"area": 1.0 + sum(x)}
        return area | ({"area_mm2": 1.0 + sum(x)} if self.device_class(design.device) == "asic" else {})

    def bound(self, design: Design) -> Mapping[str, float]:
        metrics = self._metrics(design)
        return metrics | {"energy_mj": metrics["energy_mj"] * self.bound_fraction}

    def simulate(self, design: Design) -> Simulated:
        time.sleep(self.delay_s)
        return Simulated(self._metrics(design), {"toy": {"template": design.template}})

    def _metrics(self, design: Design) -> dict[str, float]:
        x = [int(value) / (self.n_values - 1) for value in design.parameters.values()]
        g = 1 + 9 * sum(x[1:]) / (len(x) - 1)
        times = {"toy": 1.0, "twice": 2.0}[design.template]
        figures = {"latency_ms": 1 + x[0], "energy_mj": times * (1 + g - sqrt(g * x[0]))}
        return {**figures, **self.screen(design)}

    def front(self) -> list[tuple[float, float]]:
        """(latency, energy) of the designs that nothing dominates, by the formula."""
        shares = [i / (self.n_values - 1) for i in range(self.n_values)]
        return [(1 + u, 2 - sqrt(u)) for u in shares]


def toy_plan(**changes: object) -> StudyPlan:
    fields: dict[str, object] = {
        "workloads": (WORKLOAD,),
        "templates": ("toy",),
        "devices": ("toy_asic",),
        "objectives": ("latency_ms", "energy_mj"),
        "evaluations": 1500,
    }
    return StudyPlan(**(fields | changes))  # type: ignore[arg-type]
