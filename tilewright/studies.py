"""From STUDY.yaml to a plan: its workloads loaded, its names checked, its files gathered."""

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from tilewright.api import workload_of
from tilewright.dataflow.errors import InputError
from tilewright.files import StudyFile, StudyWorkload
from tilewright.search.study import StudyPlan
from tilewright.search.study import StudyWorkload as PlannedWorkload
from tilewright.workloads.workload import Workload

if TYPE_CHECKING:
    from tilewright.sim.design import Design

#: Where a study's folder keeps copies of the model files that its designs name.
MODELS_FOLDER = "models"
WORKLOADS_FOLDER = "workloads"


def plan_of(study: StudyFile, *, evaluations: int | None = None, seed: int | None = None) -> StudyPlan:
    """The plan of a study. Raises InputError: field, limit, value."""
    search = study.search
    return StudyPlan(
        workloads=tuple(
            _planned(entry, workload_of(entry, study.folder), position)
            for position, entry in enumerate(study.workloads)
        ),
        templates=study.templates,
        devices=study.devices,
        objectives=study.objectives,
        combine=study.combine,
        space={name: tuple(values) for name, values in study.space.items()},
        mapping_objective=study.mapping_objective,
        constraints=study.constraints,
        sampler=search.sampler,
        evaluations=search.evaluations if evaluations is None else evaluations,
        seed=search.seed if seed is None else seed,
        fidelity=study.fidelity,
        tables=(study.tables,),
        population=search.population,
    )


def _planned(entry: StudyWorkload, workload: Workload, position: int) -> PlannedWorkload:
    return PlannedWorkload(
        name=entry.name or f"workload{position + 1}",
        network=workload.network,
        tokens=workload.tokens,
        key=network_key(workload),
        weight=entry.weight,
        phase=workload.phase,
        lowering=workload.lowering,
    )


def network_key(workload: Workload) -> str:
    """A digest of all that decides a workload's cost: its layer classes, their tensors' types included."""
    return hashlib.sha256(repr((workload.network, workload.tokens)).encode()).hexdigest()


def copy_workloads(study: StudyFile, out: Path) -> tuple[str, ...]:
    """Write each workload as a WORKLOAD.yaml under `out`, with the model files it names beside it.

    So the study's folder can be moved and its designs simulated from it. Returns the files' names,
    relative to `out`.
    """
    names = []
    for position, entry in enumerate(study.workloads):
        fields = entry.model_dump(exclude_none=True, exclude={"weight"})
        fields["precision"] = entry.precision.stated()
        fields["name"] = entry.name or f"workload{position + 1}"
        for key in ("model", "adapter", "attention"):
            if key in fields and (study.folder / fields[key]).exists():
                fields[key] = _copied(study.folder, fields[key], out)
        file = out / WORKLOADS_FOLDER / f"{_file_name(fields['name'])}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
        names.append(f"{WORKLOADS_FOLDER}/{file.name}")
    if len(set(names)) != len(names):
        raise InputError("workloads: two names give the same file name")
    return tuple(names)


def _file_name(name: str) -> str:
    """`name` with everything but letters, digits, dot, dash and underscore replaced: no path escapes."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name)
    return plain.lstrip(".") or "_"


def _copied(folder: Path, stated: str, out: Path) -> str:
    """Copy a config file (or the JSON files of a folder) below `out`; the path from a workload's file."""
    source = folder / stated
    digest = hashlib.sha256(stated.encode()).hexdigest()[:8]
    name = f"{_file_name(source.stem if source.is_file() else source.name)}-{digest}"
    target = out / MODELS_FOLDER / name
    target.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        shutil.copyfile(source, target / source.name)
        return f"../{MODELS_FOLDER}/{name}/{source.name}"
    for file in sorted(source.glob("*config.json")):
        shutil.copyfile(file, target / file.name)
    return f"../{MODELS_FOLDER}/{name}"


def write_design(design: "Design", workload: str, others: Iterable[str], tables: str, file: Path) -> None:
    """Write a DESIGN.yaml that simulates by itself. `workload` and `others` are paths from its folder."""
    fields = {
        "workload": workload,
        "template": design.template,
        "device": design.device,
        "parameters": dict(design.parameters),
        "objective": design.objective,
        "tables": tables,
    }
    beside = "".join(f"#   {name}\n" for name in others)
    head = f"# The study's other workloads, to be named here instead:\n{beside}" if beside else ""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(head + yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
