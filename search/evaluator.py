"""Evaluators: what a study asks of the models, and the one that asks the simulator."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tilewright.search.constraint import Constraint
from tilewright.sim.design import Design
from tilewright.sim.space import Space


@dataclass(frozen=True, slots=True)
class Simulated:
    """All metrics of a simulated design, and what else is kept of it as JSON values."""

    metrics: Mapping[str, float]
    details: Mapping[str, Any]


class Evaluate(Protocol):
    """What a study needs to know of designs. Instances travel to worker processes, so they can be pickled.

    Of screen, bound and simulate each costs more than the one before, and a study goes on only with a design
    that is still in question. Each raises InputError, ArchitectureError or MappingError with one line if the
    design cannot be built or mapped.
    """

    def space(self, template: str, device: str) -> Space:
        """What a template lets one choose on a device. Raises InputError for an unknown name."""
        ...

    def device_class(self, device: str) -> str:
        """The class within which the device's designs are compared: "fpga" or "asic"."""
        ...

    def limits(self, device: str) -> tuple[Constraint, ...]:
        """What any design must keep to fit on the device."""
        ...

    def prepare(self, design: Design) -> None:
        """Compile what will be needed, before processes are started that would each compile it."""
        ...

    def screen(self, design: Design) -> Mapping[str, float]:
        """Metrics of the hardware alone."""
        ...

    def bound(self, design: Design) -> Mapping[str, float]:
        """The least that metrics can be (the most, where larger is better), of those that have a bound."""
        ...

    def simulate(self, design: Design) -> Simulated:
        """Metrics of all workloads combined, those of `screen` included."""
        ...
