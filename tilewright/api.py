"""What a script may call; the command line is a thin layer over it."""

from pathlib import Path
from typing import TYPE_CHECKING

from tilewright.dataflow.errors import InputError
from tilewright.files import StudyFile as Study
from tilewright.files import WorkloadFile
from tilewright.sim.design import Design
from tilewright.sim.report import Report
from tilewright.workloads.count import Counts, count
from tilewright.workloads.workload import Workload, load_workload

if TYPE_CHECKING:
    pass

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
]


def workload_of(file: WorkloadFile, folder: Path, lowering: str = "hardware") -> Workload:
    """Load what a workload file names; its paths are relative to `folder`, `lowering` unless it states one."""
    return load_workload(
        _resolved(file.model, folder),
        adapter=None if file.adapter is None else _resolved(file.adapter, folder),
        phase=file.phase,
        batch=file.batch,
        seq=file.seq,
        cache=file.cache,
        precision=file.precision.stated(),
        lowering=file.lowering or lowering,
        logits=file.logits,
        adapter_mode=file.adapter_mode,
        attention=file.attention,
        name=file.name,
    )


def _resolved(name: str, folder: Path) -> str:
    """`name` as a path under `folder` if there is one, else as it is (a preset)."""
    path = folder / name
    return str(path) if path.exists() else name


def simulate(workload: Workload, design: Design, *, fidelity: str = "tile") -> Report:
    """Simulate one workload on one design. Raises InputError if the design cannot be built or does not fit."""
    from tilewright.sim.evaluate import evaluate

    return evaluate(
        workload.network,
        design,
        fidelity=fidelity,
        workload=workload.name,
        lowering=workload.lowering,
        tokens=workload.tokens,
    )
