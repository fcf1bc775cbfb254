"""Sweeps: every combination of a study's axes, as a tidy table and a figure."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tilewright.api import workload_of
from tilewright.dataflow.errors import InputError, nearest
from tilewright.files import StudyFile, StudyWorkload, WorkloadFile, problem_line
from tilewright.runs import Run
from tilewright.search.front import write_whole
from tilewright.search.objective import objective_named, unit_of
from tilewright.sim.design import Design
from tilewright.sim.device import device_named
from tilewright.sim.template import template_named
from tilewright.sim.version import model_version
from tilewright.studies import network_key

#: Every finished point is a line of this file, so that a sweep that is stopped goes on where it was.
JOURNAL = "sweep.jsonl"
_HARDWARE_AXES = ("template", "device")
_WORKLOAD_AXES = tuple(name for name in WorkloadFile.model_fields if name not in ("name", "precision"))
_PRECISION_AXES = tuple(
    f"precision.{role}" for role in ("weights", "activations", "accumulators", "kv_cache")
)


def run(study: StudyFile, out: Path, *, workers: int = 1) -> dict[str, Any]:
    """Evaluate each point of the axes' product for each workload; write sweep.csv and a figure.

    Points that are in the folder's journal are not evaluated again. A point that cannot be built or mapped
    is a row with its reason. Raises InputError for an unknown axis or one without values.
    """
    import pandas as pd

    if not study.axes:
        raise InputError("axes: a sweep needs at least one axis, got none")
    for objective in study.objectives:
        objective_named(objective)
    points = list(_points(study))
    done = _journal(out)
    missing = [point for point in points if point["key"] not in done]
    out.mkdir(parents=True, exist_ok=True)
    with (out / JOURNAL).open("a", encoding="utf-8") as journal:
        for key, figures in _evaluated(missing, study, workers):
            done[key] = figures
            journal.write(json.dumps({"key": key, **figures}) + "\n")
            journal.flush()
    rows = [{**point["axes"], "workload": point["workload"], **done[point["key"]]} for point in points]
    table = pd.DataFrame(rows)
    write_whole(out / "sweep.csv", table.to_csv(index=False, lineterminator="\n"))
    return {"rows": rows, "files": [str(out / "sweep.csv"), *_figure(study, table, out)]}


def _points(study: StudyFile) -> Iterator[dict[str, Any]]:
    """One mapping for each combination and workload: its axes, its run, the key of all that decides it."""
    _check_axes(study)
    for values in product(*study.axes.values()):
        axes = dict(zip(study.axes, values, strict=True))
        for position, entry in enumerate(study.workloads):
            for template in [axes["template"]] if "template" in axes else study.templates:
                for device in [axes["device"]] if "device" in axes else study.devices:
                    yield _point(study, axes, entry, position, str(template), str(device))


def _point(
    study: StudyFile, axes: Mapping[str, Any], entry: StudyWorkload, position: int, template: str, device: str
) -> dict[str, Any]:
    stated = {name: value for name, value in axes.items() if name in _WORKLOAD_AXES}
    roles = {name.partition(".")[2]: value for name, value in axes.items() if name in _PRECISION_AXES}
    fields = entry.model_dump(exclude={"weight"}) | stated
    fields["precision"] |= roles
    try:
        file = WorkloadFile.model_validate(fields)
    except ValidationError as error:
        raise InputError(f"axes: {problem_line(WorkloadFile, error)}") from None
    workload = workload_of(file, study.folder)
    parameters = {
        name: value
        for name, value in axes.items()
        if name not in (*_WORKLOAD_AXES, *_PRECISION_AXES, *_HARDWARE_AXES)
    }
    space = template_named(template).space(device_named(device))
    with suppress(InputError):  # what one device does not offer is refused by the evaluation, as a row
        parameters = space.complete(parameters)
    design = Design(template, device, parameters, study.mapping_objective)
    decides = [network_key(workload), template, device, sorted(design.parameters.items()), design.objective,
               study.fidelity, study.tables, model_version()]  # fmt: skip
    shown = dict(axes)
    if "template" not in axes and len(study.templates) > 1:
        shown["template"] = template
    if "device" not in axes and len(study.devices) > 1:
        shown["device"] = device
    return {
        "axes": shown,
        "workload": entry.name or f"workload{position + 1}",
        "key": hashlib.sha256(json.dumps(decides).encode()).hexdigest(),
        "run": Run(workload, design, table=study.tables),
    }


def _check_axes(study: StudyFile) -> None:
    parameters = {
        name
        for template in study.axes.get("template", study.templates)
        for device in study.axes.get("device", study.devices)
        for name in template_named(str(template)).space(device_named(str(device))).names
    }
    known = [*_WORKLOAD_AXES, *_PRECISION_AXES, *_HARDWARE_AXES, *sorted(parameters)]
    for name, values in study.axes.items():
        if name not in known:
            raise InputError(f"axes: {name!r} is unknown{nearest(name, known)}; known: {', '.join(known)}")
        if not values:
            raise InputError(f"axes.{name}: must hold at least one value, got none")


def _journal(out: Path) -> dict[str, dict[str, Any]]:
    """Finished points by key; a last line that a kill cut short is left out."""
    file = out / JOURNAL
    found: dict[str, dict[str, Any]] = {}
    if not file.is_file():
        return found
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            found[entry.pop("key")] = entry
        except (ValueError, KeyError, AttributeError):
            continue
    return found


def _evaluated(
    points: list[dict[str, Any]], study: StudyFile, workers: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    tasks = [(point["run"], study.fidelity) for point in points]
    keys = [point["key"] for point in points]
    if workers == 1 or len(tasks) < 2:
        yield from zip(keys, map(_figures, tasks), strict=True)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from zip(keys, pool.map(_figures, tasks), strict=True)


def _figures(task: tuple[Run, str]) -> dict[str, Any]:
    """The figures of one point; one that cannot be built or mapped has its reason instead."""
    run_, fidelity = task
    try:
        report = run_.simulate(fidelity)
    except ValueError as error:
        return {"refused": str(error)}
    area = report.area.mm2 if report.area.mm2 is not None else report.area.used_fraction
    return {
        "latency_ms": report.latency_ms,
        "energy_mj": report.energy_pj * 1e-9,
        "area": area,
        "power_w": report.power_w,
        "edp": report.energy_pj * 1e-9 * report.latency_ms,
        "tokens_per_s": report.tokens / (report.latency_ms * 1e-3),
        "dram_bytes": report.dram_read_bytes + report.dram_write_bytes,
        "bottleneck": report.bottleneck,
        "refused": "",
    }


def _figure(study: StudyFile, table: Any, out: Path) -> list[str]:
    from tilewright.reports.history import sweep_figure

    drawn = table[table["refused"] == ""]
    metrics = {name: unit_of(name, _device_class(study)) for name in study.objectives if name in table}
    names = [*study.axes, *(["workload"] if len(study.workloads) > 1 else [])]
    names += [name for name in _HARDWARE_AXES if name in table and name not in study.axes]
    if drawn.empty or not metrics:
        return []
    return [str(file) for file in sweep_figure(drawn, names, metrics, out / "figures" / "sweep")]


def _device_class(study: StudyFile) -> str:
    classes = {device_named(str(name)).device_class for name in study.axes.get("device", study.devices)}
    return classes.pop() if len(classes) == 1 else "asic"
