"""Outcomes: what became of a design in a study."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tilewright.sim.design import Design

#: ok: simulated, every constraint holds. infeasible: a constraint does not hold, or the design cannot be
#: built or mapped. pruned: the bound shows that a design of the front is at least as good in everything.
Status = Literal["ok", "infeasible", "pruned"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one design.

    `metrics` are all that are known: of the whole simulation if `simulated`, else of the hardware alone and,
    for a pruned design, the bounds. `violation` is 0 for a feasible design. `details` are JSON values of the
    simulation for each workload.
    """

    status: Status
    reason: str = ""
    violation: float = 0.0
    simulated: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """A design of a study with its outcome; `number` is its place in the order of examination."""

    number: int
    generation: int
    key: str
    device_class: str
    design: Design
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Generation:
    """The state of one device class after a generation.

    `hypervolume` is in decades to the power of the number of objectives (see `search.front`), 0 while nothing
    is feasible; counts are since the study's start and over all device classes.
    """

    number: int
    device_class: str
    hypervolume: float
    n_front: int
    n_simulated: int
    n_pruned: int
    n_infeasible: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a study stands; `generation` counts from 0. `n_simulated` of `n_total` evaluations are done."""

    generation: int
    n_simulated: int
    n_total: int
    n_pruned: int
    n_infeasible: int
    n_from_store: int
    hypervolume: tuple[tuple[str, float], ...]  # (device class, hypervolume) after the last generation
