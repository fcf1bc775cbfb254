"""Fronts: the designs of a device class that no other dominates, and their tables."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.dataflow import textfile
from tilewright.dataflow.errors import InputError
from tilewright.search.objective import METRICS, cost_of
from tilewright.search.outcome import Generation, Row
from tilewright.search.pareto import hypervolume, knee_index, pareto_mask
from tilewright.search.study import StudyError

#: The reference point lies this factor beyond the worst design of the first generation that has a feasible
#: one, so that the extremes of the front span a volume too.
REFERENCE_MARGIN = 1.1


@dataclass(frozen=True)
class Front:
    """The feasible designs of one device class that no other feasible design dominates.

    `rows` ascend in the first objective's cost, then the second's and so on. `knee` and the values of `best`
    (objective: index) are indices into `rows`. `reference` is the reference point in the objectives' own
    units, `hypervolume` the volume up to it with every objective in decades (log10), so that the unit of an
    objective does not matter and a halved latency counts the same at any latency.
    """

    device_class: str
    objectives: tuple[str, ...]
    rows: tuple[Row, ...]
    knee: int
    best: Mapping[str, int]
    reference: tuple[float, ...]
    hypervolume: float
    history: tuple[Generation, ...] = ()

    def values(self) -> NDArray[np.float64]:
        """The objectives of the rows in their own units: (n_rows, n_objectives)."""
        return np.array([[row.outcome.metrics[name] for name in self.objectives] for row in self.rows])


@dataclass(frozen=True)
class Fronts:
    """The result of a study: every design that was examined and one front for each device class.

    `plan` is the identity of the study's plan (JSON values). A device class without a feasible design has no
    front. `left_out` says of each (template, device) in which nothing can be built within the constraints
    why.
    """

    plan: Mapping[str, Any]
    rows: tuple[Row, ...]
    fronts: tuple[Front, ...]
    left_out: tuple[str, ...] = ()

    def front(self, device_class: str) -> Front:
        """The front of one device class; raises KeyError if it has none."""
        for front in self.fronts:
            if front.device_class == device_class:
                return front
        raise KeyError(device_class)


def costs_of(rows: Sequence[Row], objectives: Sequence[str]) -> NDArray[np.float64]:
    """Objectives of simulated rows, lower is better: (n_rows, n_objectives)."""
    costs = [[cost_of(name, row.outcome.metrics) for name in objectives] for row in rows]
    return np.array(costs, dtype=np.float64).reshape(len(rows), len(objectives))


def in_decades(costs: NDArray[np.float64], objectives: Sequence[str]) -> NDArray[np.float64]:
    """log10 of costs; a maximised objective, whose cost is negative, becomes the log of its reciprocal.

    costs: (n_designs, n_objectives). Raises StudyError for an objective that is not > 0.
    """
    sign = np.array([-1.0 if METRICS[name].maximise else 1.0 for name in objectives])
    values = costs * sign
    if not (values > 0).all():
        worst = int(np.argmin(values.min(axis=0)))
        raise StudyError(f"objective {objectives[worst]!r} must be > 0, got {values[:, worst].min()}")
    return np.asarray(np.log10(values) * sign)


def reference_point(costs: NDArray[np.float64], objectives: Sequence[str]) -> NDArray[np.float64]:
    """The reference point in decades for designs of `costs`: worst in each objective, with the margin.

    costs: (n_designs, n_objectives) as of `costs_of`, at least one design. Returns (n_objectives,).
    """
    return np.asarray(in_decades(costs, objectives).max(axis=0) + np.log10(REFERENCE_MARGIN))


def fronts_of(
    plan: Mapping[str, Any],
    rows: Sequence[Row],
    history: Sequence[Generation],
    left_out: Sequence[str] = (),
) -> Fronts:
    """The fronts of examined rows, device classes in alphabetical order."""
    objectives = tuple(plan["objectives"])
    classes = sorted({row.device_class for row in rows if row.outcome.status == "ok"})
    fronts = tuple(
        _front(device_class, objectives, rows, tuple(g for g in history if g.device_class == device_class))
        for device_class in classes
    )
    return Fronts(plan, tuple(rows), fronts, tuple(left_out))


def _front(
    device_class: str, objectives: tuple[str, ...], rows: Sequence[Row], history: tuple[Generation, ...]
) -> Front:
    feasible = [row for row in rows if row.outcome.status == "ok" and row.device_class == device_class]
    costs = costs_of(feasible, objectives)
    first = min(row.generation for row in feasible)
    reference = reference_point(costs[[row.generation == first for row in feasible]], objectives)
    on_front = np.flatnonzero(pareto_mask(costs))
    order = sorted(on_front, key=lambda i: (*costs[i], feasible[i].number))
    chosen, decades = tuple(feasible[i] for i in order), in_decades(costs[order], objectives)
    sign = np.array([-1.0 if METRICS[name].maximise else 1.0 for name in objectives])
    return Front(
        device_class=device_class,
        objectives=objectives,
        rows=chosen,
        knee=knee_index(decades),
        best={name: int(np.argmin(costs[order, i])) for i, name in enumerate(objectives)},
        reference=tuple(float(value) for value in 10.0 ** (reference * sign)),
        hypervolume=hypervolume(decades, reference),
        history=history,
    )


def write_tables(fronts: Fronts, folder: Path) -> tuple[Path, ...]:
    """Write `designs.csv` and a `front_<device class>.csv` for each front; returns the files.

    Each file appears whole or not at all. Raises StudyError if the folder cannot be written.
    """
    tables = {"designs.csv": _designs_table(fronts)}
    tables |= {f"front_{front.device_class}.csv": _front_table(front) for front in fronts.fronts}
    for name, text in tables.items():
        write_whole(folder / name, text)
    return tuple(folder / name for name in tables)


def write_whole(file: Path, text: str) -> None:
    """Write `text` so that `file` is there whole or as it was before. Raises StudyError if it cannot be."""
    try:
        textfile.write_whole(file, text)
    except InputError as error:
        raise StudyError(str(error)) from None


def _designs_table(fronts: Fronts) -> str:
    objectives = list(fronts.plan["objectives"])
    parameters = _names(row.design.parameters for row in fronts.rows)
    shown = {*objectives, *parameters}  # a parameter that is a metric too (clock_mhz) stands once
    metrics = [name for name in _names(row.outcome.metrics for row in fronts.rows) if name not in shown]
    front_keys = {row.key for front in fronts.fronts for row in front.rows}
    header = ["number", "generation", "status", "on_front", "device_class", "template", "device"]
    lines = [
        [row.number, row.generation, row.outcome.status, row.key in front_keys, row.device_class,
         row.design.template, row.design.device, *_cells(row.design.parameters, parameters),
         *_cells(row.outcome.metrics, objectives), *_cells(row.outcome.metrics, metrics),
         row.outcome.reason, row.key]
        for row in fronts.rows
    ]  # fmt: skip
    return _csv([*header, *parameters, *objectives, *metrics, "reason", "key"], lines)


def _front_table(front: Front) -> str:
    parameters = _names(row.design.parameters for row in front.rows)
    shown = {*front.objectives, *parameters}
    metrics = [name for name in _names(row.outcome.metrics for row in front.rows) if name not in shown]
    best = {index: name for name, index in reversed(list(front.best.items()))}
    lines = [
        [row.number, index == front.knee, best.get(index, ""), row.design.template, row.design.device,
         *_cells(row.outcome.metrics, front.objectives), *_cells(row.design.parameters, parameters),
         *_cells(row.outcome.metrics, metrics), row.key]
        for index, row in enumerate(front.rows)
    ]  # fmt: skip
    header = ["number", "knee", "best", "template", "device"]
    return _csv([*header, *front.objectives, *parameters, *metrics, "key"], lines)


def _names(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys of all mappings, in order of first appearance."""
    found: dict[str, None] = {}
    for mapping in mappings:
        found.update(dict.fromkeys(mapping))
    return list(found)


def _cells(values: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    return [values.get(name, "") for name in names]


def _csv(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """Comma-separated text; floats in the shortest form that reads back to the same value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[_plain(cell) for cell in line] for line in lines])
    return text.getvalue()


def _plain(cell: Any) -> Any:
    return str(cell).lower() if isinstance(cell, bool) else cell
