"""Template families: a parameter space, a builder and a scheduling policy under one name."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Protocol

from tilewright.dataflow.errors import InputError, nearest
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.program import Program
from tilewright.sim.architecture import Architecture
from tilewright.sim.device import Device
from tilewright.sim.space import Space, Value

ENTRY_POINT_GROUP = "tilewright.templates"
_BUILT_CLASSES = ("fpga", "asic")


class Template(Protocol):
    """A family of accelerators. The engine knows none of them: it sees only the Program."""

    name: str
    summary: str

    def space(self, device: Device) -> Space:
        """The parameters and values that make sense on `device`."""
        ...

    def build(self, parameters: Mapping[str, Value], device: Device) -> Architecture:
        """The hardware of one point of the space.

        Raises InputError for a combination that the family cannot build.
        """
        ...

    def schedule(self, graph: Graph, architecture: Architecture, objective: str = "latency") -> Program:
        """Map and schedule one layer graph; `objective` is "latency", "energy" or "edp".

        Raises MappingError if an operator cannot be mapped (which limit, which value).
        """
        ...


def templates() -> dict[str, Template]:
    """All families by name: our own and those that other packages register."""
    from tilewright.sim.fused_attention import FusedAttention
    from tilewright.sim.gpu_like import GpuLike
    from tilewright.sim.sequential import Sequential
    from tilewright.sim.spatial_family import Dataflow
    from tilewright.sim.streaming_vector import StreamingVector
    from tilewright.sim.systolic_ws import SystolicWs

    own: tuple[Template, ...] = (
        Dataflow(),
        FusedAttention(),
        GpuLike(),
        Sequential(),
        StreamingVector(),
        SystolicWs(),
    )
    found: dict[str, Template] = {template.name: template for template in own}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        found.setdefault(entry.name, entry.load()())
    return found


def check_device(template: Template, device: Device) -> None:
    """Raises InputError where a family cannot be built on a class of devices.

    A family may name its classes as `device_classes`; one that does not is for FPGAs and chips.
    """
    classes = getattr(template, "device_classes", _BUILT_CLASSES)
    if device.device_class not in classes:
        raise InputError(
            f"template {template.name!r} is for devices of class {' or '.join(classes)},"
            f" {device.name} is of class {device.device_class!r}"
        )


def template_named(name: str) -> Template:
    """Raises InputError for an unknown name (closest one named)."""
    known = templates()
    if name not in known:
        raise InputError(
            f"template {name!r} is unknown{nearest(name, list(known))}; known: {', '.join(sorted(known))}"
        )
    return known[name]
