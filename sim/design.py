"""A design: one point of a template's space on a device."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tilewright.sim.placement import Placement
from tilewright.sim.space import Value


@dataclass(frozen=True)
class Design:
    """What is stated is pinned; parameters that are left out take the template's defaults."""

    template: str
    device: str
    parameters: Mapping[str, Value] = field(default_factory=dict)
    objective: str = "latency"  # of the mapper: latency, energy or edp
    placement: Placement | None = None  # in place of what the template would choose
