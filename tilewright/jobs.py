"""The main job: search a study, keep its best designs, draw them, generate and check the code of one."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewright.dataflow.errors import InputError
from tilewright.files import StudyFile
from tilewright.hls_templates.verify import verify
from tilewright.runs import Run
from tilewright.search.front import Front, Fronts, write_whole
from tilewright.search.run import run_study
from tilewright.search.store import load_fronts
from tilewright.sim.device import device_named
from tilewright.sim.validated import validated_errors
from tilewright.studies import copy_workloads, plan_of, write_design
from tilewright.workloads.workload import Workload

if TYPE_CHECKING:
    from tilewright.sim.design import Design

BEST_FOLDER = "best"
HLS_FOLDER = "hls"
STUDY_NAME = "name.json"


@dataclass(frozen=True)
class _Chosen:
    """A design that is kept: best in an objective or the knee; `labels` are all it is chosen for."""

    device_class: str
    labels: tuple[str, ...]
    design: "Design"
    metrics: Mapping[str, float]

    @property
    def folder(self) -> str:
        return f"{BEST_FOLDER}/{self.device_class}_{self.labels[0]}"


def run(
    study: StudyFile,
    out: Path,
    *,
    evaluations: int | None = None,
    seed: int | None = None,
    workers: int = 1,
    resume: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Search `study` and write its folder `out`; returns what the command line prints.

    Raises InputError for wrong input and KeyboardInterrupt, after which the study can be resumed.
    """
    from tilewright.api import workload_of
    from tilewright.progress import study_progress

    plan = plan_of(study, evaluations=evaluations, seed=seed)
    with study_progress(plan, sys.stderr, quiet=quiet) as progress:
        fronts = run_study(plan, out, workers=workers, resume=resume, progress=progress)
    write_whole(out / STUDY_NAME, json.dumps(study.name or out.resolve().name) + "\n")
    names = copy_workloads(study, out)
    workloads = [workload_of(entry, study.folder) for entry in study.workloads]
    chosen = _chosen(fronts)
    for entry in chosen:
        _keep(entry, workloads, names, study.tables, out)
    checks = _generate(chosen, workloads, out)
    drawn = draw(out, out)
    return {
        "best": [_row(entry, plan.objectives) for entry in chosen],
        "left_out": list(fronts.left_out),
        "notes": _check_notes(checks),
        "checks": checks,
        "failed_checks": sum(check["verdict"] == "failed" for check in checks),
        "files": [str(out / "designs.csv"), *drawn["files"]],
    }


def _chosen(fronts: Fronts) -> list[_Chosen]:
    """The knee and the best of each objective of each front, each design once."""
    found = []
    for front in fronts.fronts:
        labels: dict[int, list[str]] = {front.knee: ["knee"]}
        for objective, index in front.best.items():
            labels.setdefault(index, []).append(objective)
        for index, names in labels.items():
            row = front.rows[index]
            found.append(_Chosen(front.device_class, tuple(names), row.design, row.outcome.metrics))
    return found


def _keep(
    chosen: _Chosen, workloads: Sequence[Workload], names: Sequence[str], tables: str, out: Path
) -> None:
    """Write a chosen design's DESIGN.yaml, its reports and its timeline."""
    folder = out / chosen.folder
    beside = [f"../../{name}" for name in names]
    write_design(chosen.design, beside[0], beside[1:], tables, folder / "DESIGN.yaml")
    # the page shows the memory of one workload of the knees: a figure costs as much as tens of simulations
    reports = [
        Run(workload, chosen.design, table=tables).simulate(
            "tile", memory_detail=position == 0 and "knee" in chosen.labels
        )
        for position, workload in enumerate(workloads)
    ]
    summary = {
        "device_class": chosen.device_class,
        "label": ", ".join(chosen.labels),
        "design": {"template": chosen.design.template, "device": chosen.design.device,
                   **chosen.design.parameters},
        "reports": [report.to_dict() for report in reports],
    }  # fmt: skip
    write_whole(folder / "report.json", json.dumps(summary, indent=1) + "\n")
    Run(workloads[0], chosen.design, table=tables).write_trace(folder / "timeline.json")


def _generate(chosen: Sequence[_Chosen], workloads: Sequence[Workload], out: Path) -> list[dict[str, Any]]:
    """Generate and check the code of the FPGA front's knee, or of the first front's if there is no FPGA.

    A design without a stage that a kernel can compute is a skipped check, not the end of a finished search.
    """
    knees = [entry for entry in chosen if "knee" in entry.labels]
    if not knees:
        return []
    entry = next((entry for entry in knees if entry.device_class == "fpga"), knees[0])
    folder = out / entry.folder / HLS_FOLDER
    try:
        Run(workloads[0], entry.design).generate(folder)
    except InputError as error:
        return [{"rung": "generate", "verdict": "skipped", "tool": "", "version": "", "reason": str(error)}]
    return [check.to_dict() for check in verify(folder, "rtl")]


def _check_notes(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"not checked: {check['reason']}" for check in checks if check["verdict"] == "skipped"]


def _row(chosen: _Chosen, objectives: Sequence[str]) -> dict[str, Any]:
    return {
        "design": chosen.folder,
        "best in": ", ".join(chosen.labels),
        "device": chosen.design.device,
        **{name: chosen.metrics[name] for name in objectives},
    }


def draw(folder: Path, out: Path) -> dict[str, Any]:
    """Draw figures and page of a study from what its folder holds; returns the files written.

    Raises InputError if the folder holds no study.
    """
    from tilewright.reports.bandwidth import bandwidth_figure
    from tilewright.reports.breakdown import breakdown_figure, roofline_figure
    from tilewright.reports.history import hypervolume_figure
    from tilewright.reports.page import BestDesign, study_page
    from tilewright.reports.pareto import pareto_figure
    from tilewright.search.constraint import parse_constraint

    fronts = load_fronts(folder)
    workload_names = tuple(entry["name"] for entry in fronts.plan["workloads"])
    constraints = [parse_constraint(text, workload_names) for text in fronts.plan["constraints"]]
    stored = _stored_best(folder)
    figures: dict[str, Path] = {}
    for front in fronts.fronts:
        applying = [entry for entry in constraints if entry.applies_to(front.device_class)]
        stem = out / "figures" / f"front_{front.device_class}"
        errors = _errors_of(stored, front.device_class)
        figures[_caption(front)] = pareto_figure(front, fronts.rows, applying, errors, stem)[1]
    if fronts.fronts:
        figures["Hypervolume over the search"] = hypervolume_figure(fronts, out / "figures/hypervolume")[1]
    best = []
    for place, summary in stored.items():
        stem = out / "figures" / place
        drawn: tuple[Path, ...] = (
            breakdown_figure(summary["reports"][0], stem.with_name(f"{place}_breakdown"))[1],
            roofline_figure(summary["reports"], stem.with_name(f"{place}_roofline"))[1],
        )
        if "memory" in summary["reports"][0]:
            drawn += (bandwidth_figure(summary["reports"][0], stem.with_name(f"{place}_bandwidth"))[1],)
        best.append(
            BestDesign(
                summary["device_class"],
                summary["label"],
                summary["design"],
                tuple(summary["reports"]),
                drawn,
                f"{BEST_FOLDER}/{place}",
                tuple(_stored_checks(folder / BEST_FOLDER / place / HLS_FOLDER)),
            )
        )
    page = out / "report.html"
    write_whole(page, study_page(_title(folder), fronts, best, figures, _notes(stored)))
    return {"files": [str(page), *(str(file) for file in figures.values())]}


def _title(folder: Path) -> str:
    """The name of the study in `folder`."""
    try:
        return str(json.loads((folder / STUDY_NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return folder.resolve().name


def _caption(front: Front) -> str:
    devices = ", ".join(sorted({row.design.device for row in front.rows}))
    return f"Front of {devices} ({front.device_class})"


def _stored_best(folder: Path) -> dict[str, dict[str, Any]]:
    """The summaries under best/, by folder name in alphabetical order, knees first."""
    found = {}
    for file in sorted(
        (folder / BEST_FOLDER).glob("*/report.json"), key=lambda f: ("knee" not in f.parent.name, f)
    ):
        try:
            found[file.parent.name] = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{file}: {error}") from None
    return found


def _stored_checks(folder: Path) -> list[dict[str, Any]]:
    file = folder / "checks.json"
    if not file.is_file():
        return []
    checks: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return checks


def _errors_of(stored: Mapping[str, Mapping[str, Any]], device_class: str) -> dict[str, float | None]:
    """Validated errors by model, of the chosen designs of a class the largest; None where one has none."""
    found: dict[str, float | None] = {}
    for summary in stored.values():
        report = summary["reports"][0]
        if device_named(report["device"]).device_class == device_class:
            for model, error in report["error_fraction"].items():
                known = found.get(model, 0.0)
                found[model] = None if error is None or known is None else max(known, error)
    return found


def _notes(stored: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a reader must know before quoting a figure."""
    notes = []
    known = {model for summary in stored.values() for model, error
             in summary["reports"][0]["error_fraction"].items() if error is not None}  # fmt: skip
    designs = {
        (report["template"], report["device"]) for one in stored.values() for report in one["reports"][:1]
    }
    for row in validated_errors():
        if row.error_fraction is None and row.model not in known:
            notes.append(f"{row.model}: nothing compared yet, so no error is known.")
        elif row.error_fraction is not None and row.speaks_for(designs):
            notes.append(
                f"{row.model}: {100 * row.error_fraction:.1f} % mean error over {row.n_points} points, against"
                f" {row.against}; repeat with `{row.repeat_with}`."
            )
    for tables in sorted({", ".join(summary["reports"][0]["tables"]) for summary in stored.values()}):
        notes.append(f"Energy and area tables: {tables}.")
    notes.append("Designs of different device classes are never compared by area: each class has a front.")
    return notes
