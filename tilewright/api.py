"""What a script may call; the command line is a thin layer over it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewright.dataflow.errors import InputError
from tilewright.files import StudyFile as Study
from tilewright.files import WorkloadFile
from tilewright.sim.design import Design
from tilewright.sim.report import Report
from tilewright.workloads.count import Counts, count
from tilewright.workloads.workload import Workload, load_workload

if TYPE_CHECKING:
    from tilewright.search.front import Fronts

__all__ = [
    "Counts",
    "Design",
    "InputError",
    "Report",
    "Study",
    "Workload",
    "codesign",
    "count",
    "generate",
    "load_workload",
    "simulate",
    "sweep",
    "verify",
    "workload_of",
]


def workload_of(file: WorkloadFile, folder: Path, lowering: str = "hardware") -> Workload:
    """Load what a workload file names; its paths are relative to `folder`."""
    terms = file.model_dump(exclude={"model", "adapter", "precision", "lowering", "weight", "attention"})
    return load_workload(
        _resolved(file.model, folder),
        adapter=None if file.adapter is None else _resolved(file.adapter, folder),
        precision=file.precision.stated(),
        lowering=file.lowering or lowering,
        attention=None if file.attention is None else _resolved(file.attention, folder),
        **terms,
    )


def _resolved(name: str, folder: Path) -> str:
    """`name` as a path under `folder` if there is one, else as it is (a preset)."""
    path = folder / name
    return str(path) if path.exists() else name


def simulate(workload: Workload, design: Design, *, fidelity: str = "tile") -> Report:
    """Simulate a workload on a design. Raises InputError if it cannot be built or does not fit."""
    from tilewright.sim.evaluate import evaluate

    return evaluate(
        workload.network,
        design,
        fidelity=fidelity,
        workload=workload.name,
        lowering=workload.lowering,
        tokens=workload.tokens,
    )


def codesign(study: Study, out: str | Path, *, workers: int = 1, resume: bool = False) -> "Fronts":
    """Search a study, write its folder `out`, and return its fronts. Raises InputError for wrong input."""
    from tilewright import jobs
    from tilewright.search.store import load_fronts

    jobs.run(study, Path(out), workers=workers, resume=resume, quiet=True)
    return load_fronts(Path(out))


def sweep(study: Study, out: str | Path, *, workers: int = 1) -> dict[str, Any]:
    """Evaluate every combination of a study's axes; returns {"rows": tidy rows, "files": paths}."""
    from tilewright.sweeps import run

    return run(study, Path(out), workers=workers)


def generate(design: str | Path, out: str | Path) -> dict[str, Any]:
    """Write the HLS project of a DESIGN.yaml; returns {"files": paths, "not_covered": reasons}."""
    from tilewright.runs import from_file

    return from_file(Path(design), None).generate(Path(out))


def verify(folder: str | Path, level: str = "all") -> Sequence[dict[str, Any]]:
    """Check a generated project; one {rung, verdict, tool, version, reason} for each rung."""
    from tilewright.hls_templates.verify import verify as run

    return [check.to_dict() for check in run(Path(folder), level)]
