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
    from tilewright.sim.sequential import Sequential

    found: dict[str, Template] = {"sequential": Sequential()}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        found.setdefault(entry.name, entry.load()())
    return found


def template_named(name: str) -> Template:
    """Raises InputError for an unknown name (closest one named)."""
    known = templates()
    if name not in known:
        raise InputError(
            f"template {name!r} is unknown{nearest(name, list(known))}; known: {', '.join(sorted(known))}"
        )
    return known[name]
