"""The plan of a study: everything that decides its result, checked on entry."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from tilewright.dataflow.errors import InputError, nearest
from tilewright.dataflow.graph import Network
from tilewright.search.constraint import Constraint, parse_constraint
from tilewright.search.objective import COMBINES, Combine, objective_named
from tilewright.sim.design import Design
from tilewright.sim.space import Value
from tilewright.sim.version import model_version

SAMPLERS = ("nsga2", "random", "exhaustive")
FIDELITIES = ("bound", "tile")
#: Designs of a generation; three objectives want a few dozen, and more would leave few generations.
DEFAULT_POPULATION = 40
MAPPING_OBJECTIVES = ("latency", "energy", "edp")


class StudyError(InputError):
    """A study cannot go on for a reason outside its designs (disk full, folder in use); one line."""


@dataclass(frozen=True)
class StudyWorkload:
    """One workload of a study.

    `key` is a digest of everything that decides the network (model, adapter, phase, lengths, precision,
    lowering). `weight` says how often it runs beside the others; `tokens` what one run produces or processes.
    """

    name: str
    network: Network
    tokens: int
    key: str
    weight: float = 1.0
    phase: str = "prefill"
    lowering: str = "hardware"

    def __post_init__(self) -> None:
        if not (isfinite(self.weight) and self.weight > 0):
            raise InputError(f"workload {self.name!r}: weight must be > 0, got {self.weight}")
        if self.tokens <= 0:
            raise InputError(f"workload {self.name!r}: tokens must be > 0, got {self.tokens}")


@dataclass(frozen=True)
class StudyPlan:
    """What is searched, for what, under which limits.

    `space` restricts parameters by name to some of the values that a template offers. `evaluations` is the
    number of distinct designs that are simulated; it may grow when a study is resumed, everything else may
    not change. `population` is the number of designs of a generation for each template on each device;
    `tables` names the energy table. Raises InputError if a field is wrong.
    """

    workloads: tuple[StudyWorkload, ...]
    templates: tuple[str, ...]
    devices: tuple[str, ...]
    objectives: tuple[str, ...]
    combine: Combine = "sum"
    space: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    mapping_objective: str = "latency"
    constraints: tuple[str, ...] = ()
    sampler: str = "nsga2"
    evaluations: int = 1000
    seed: int = 0
    fidelity: str = "tile"
    tables: tuple[str, ...] = ("default",)
    population: int | None = None

    def __post_init__(self) -> None:
        _check(self)

    @property
    def parsed_constraints(self) -> tuple[Constraint, ...]:
        names = tuple(workload.name for workload in self.workloads)
        return tuple(parse_constraint(text, names) for text in self.constraints)

    def identity(self) -> dict[str, Any]:
        """Every field but `evaluations` as JSON values: two plans with one identity are one study."""
        return {
            "workloads": [
                {
                    "name": workload.name,
                    "key": workload.key,
                    "tokens": workload.tokens,
                    "weight": workload.weight,
                    "phase": workload.phase,
                    "lowering": workload.lowering,
                }
                for workload in self.workloads
            ],
            "combine": self.combine,
            "templates": list(self.templates),
            "devices": list(self.devices),
            "space": {name: list(values) for name, values in sorted(self.space.items())},
            "objectives": list(self.objectives),
            "mapping_objective": self.mapping_objective,
            "constraints": [str(constraint) for constraint in self.parsed_constraints],
            "sampler": self.sampler,
            "seed": self.seed,
            "population": self.population or DEFAULT_POPULATION,
            "fidelity": self.fidelity,
            "tables": list(self.tables),
            "model_version": model_version(),
        }


#: Fields of the identity that decide how a design is searched for, not what it evaluates to.
_OF_THE_SEARCH = (
    "templates", "devices", "space", "objectives", "constraints", "sampler", "seed", "population",
)  # fmt: skip


class EvaluationKeys:
    """Keys of a plan's evaluations: SHA-256 over all that decides the result, design included."""

    def __init__(self, plan: StudyPlan) -> None:
        decides = {name: value for name, value in plan.identity().items() if name not in _OF_THE_SEARCH}
        self._prefix = hashlib.sha256(_canonical(decides))

    def of(self, design: Design) -> str:
        digest = self._prefix.copy()
        parameters = sorted(design.parameters.items())
        digest.update(_canonical([design.template, design.device, parameters, design.objective]))
        return digest.hexdigest()


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _check(plan: StudyPlan) -> None:
    for name in ("workloads", "templates", "devices", "objectives"):
        _check_names(plan, name)
    for objective in plan.objectives:
        objective_named(objective)
    if "ttft_ms" in plan.objectives and not any(
        workload.phase.partition(":")[0] == "prefill" for workload in plan.workloads
    ):
        raise InputError("objective 'ttft_ms' needs a workload of phase prefill, the study has none")
    _check_choice("combine", plan.combine, COMBINES)
    _check_choice("sampler", plan.sampler, SAMPLERS)
    _check_choice("fidelity", plan.fidelity, FIDELITIES)
    _check_choice("mapping_objective", plan.mapping_objective, MAPPING_OBJECTIVES)
    if len(plan.tables) != 1:
        raise InputError(f"tables must name one energy table, got {len(plan.tables)}")
    if plan.evaluations <= 0:
        raise InputError(f"evaluations must be > 0, got {plan.evaluations}")
    if plan.population is not None and plan.population < 4:
        raise InputError(f"population must be >= 4, got {plan.population}")
    if plan.seed < 0:
        raise InputError(f"seed must be >= 0, got {plan.seed}")
    if len(set(map(str, plan.parsed_constraints))) != len(plan.constraints):
        raise InputError("a constraint is stated twice")


def _check_names(plan: StudyPlan, field_name: str) -> None:
    names = [getattr(entry, "name", entry) for entry in getattr(plan, field_name)]
    if not names:
        raise InputError(f"{field_name} must name at least one, got none")
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{field_name} name {twice[0]!r} twice")


def _check_choice(field_name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(
            f"{field_name} {value!r} is unknown{nearest(value, known)}; known: {', '.join(known)}"
        )
