"""InTAR (arXiv 2502.08807): five kernels on a U280 as one task, a task per operator, or cores that change roles."""

from collections.abc import Mapping
from functools import cache
from math import ceil, prod
from pathlib import Path
from typing import Any

from tilewright.cases.case import Case, CaseResult, Claim, Point, published, rows
from tilewright.cases.hls_tasks import CHANNEL_GB_S, tasks_pipeline
from tilewright.sim.architecture import Dram
from tilewright.sim.engine import compile_program
from tilewright.sim.engine import run as run_tasks
from tilewright.sim.rated_memory import memory_of
from tilewright.sim.reconfigurable import Cores, Roles, RoleStage, Task, best_stages
from tilewright.sim.reconfigurable_emit import roles_pipeline
from tilewright.sim.spatial import Pipeline, stages_of
from tilewright.sim.spatial_emit import pipeline_architecture, pipeline_program, simulate_pipeline

NAME = "intar"
DEVICE = "u280"
_CHANNELS = 32
_ROLE_CHANGE_NS = 15.0  # 10 to 20 ns in the repository's README
KERNELS = ("cnn4l", "mlp", "gating_net", "self_attention", "vae")
#: Speed-ups of the paper's abstract over fixed designs, and how far ours may be from them.
_CLAIMS = (("dataflow", 1.8, 1.4, 2.3), ("sequential", 7.1, 5.0, 10.0))


def designs() -> tuple[str, ...]:
    """`KERNEL/STYLE` of every design."""
    return tuple(row["design"] for row in rows("intar_designs.csv"))


def clock_mhz(design: str) -> float:
    """The clock of a build, or the one that was asked for."""
    return next(float(row["clock_mhz"]) for row in rows("intar_designs.csv") if row["design"] == design)


@cache
def pipeline(design: str) -> Pipeline:
    """A design's loops as its source states them."""
    own = [row for row in rows("intar_steps.csv") if row["design"] == design]
    return tasks_pipeline(design, own, clock_mhz(design))


@cache
def cycles(design: str) -> int:
    """From the kernel's start to the last task's end, simulated."""
    clock = clock_mhz(design)
    rate = _CHANNELS * CHANNEL_GB_S * 1e3 / clock
    loops = pipeline(design)
    architecture = pipeline_architecture(loops, DEVICE, clock, rate)
    (dram,) = architecture.of_kind(Dram)
    tasks = compile_program(pipeline_program(loops, rate), architecture, memory_of(dram, clock))
    return run_tasks(tasks).latency_cycles


def run() -> CaseResult:
    """Cycles of every design, and what cores that change roles gain."""
    known = published(NAME)
    points = []
    for design in designs():
        name = f"{design}/cycles"
        points.append(Point(name, design.split("/")[1], "cycles", float(cycles(design)), known.get(name)))
    return CaseResult(NAME, tuple(points), _claims(known), alternatives())


def _claims(known: Mapping[str, float]) -> tuple[Claim, ...]:
    """Geometric means over the five kernels, against measured baselines where they are carried and simulated ones
    elsewhere; and over the measured ones alone."""
    found = []
    for style, value, low, high in _CLAIMS:
        every, sure = [], []
        for kernel in KERNELS:
            measured = known.get(f"{kernel}/{style}/cycles")
            ratio = (measured or cycles(f"{kernel}/{style}")) / cycles(f"{kernel}/reconfigurable")
            every.append(ratio)
            sure += [ratio] if measured else []
        found.append(Claim(f"speedup_vs_{style}", value, low, high, _geomean(every)))
        found.append(Claim(f"speedup_vs_{style}_measured_only", value, low, high, _geomean(sure)))
    return tuple(found)


@cache
def roles_of(kernel: str) -> Roles:
    """A kernel's tasks on the cores of its reconfigurable version; a change of role takes the paper's 10 to 20 ns."""
    own = [row for row in rows("intar_roles.csv") if row["kernel"] == kernel]
    first, clock = own[0], clock_mhz(f"{kernel}/reconfigurable")
    cores = Cores(
        int(first["cores"]), stages_of(first["operations"].split()), ceil(_ROLE_CHANGE_NS * clock * 1e-3),
        int(first["memory_bytes"]), CHANNEL_GB_S * 1e3 / clock,
    )  # fmt: skip
    tasks = tuple(
        Task(row["task"], int(row["trips"]), int(row["output_bytes"]), tuple(row["streams"].split()),
             tuple(row["wholes"].split()))
        for row in own
    )  # fmt: skip
    return Roles(tasks, cores)


def stated_stages(kernel: str) -> tuple[RoleStage, ...]:
    """The stages and shares of cores of the source."""
    found: list[RoleStage] = []
    done: frozenset[str] = frozenset()
    own = [row for row in rows("intar_roles.csv") if row["kernel"] == kernel]
    for stage in sorted({row["stage"] for row in own}):
        roles = tuple((row["task"], int(row["share"])) for row in own if row["stage"] == stage)
        found.append(roles_of(kernel).timed(roles, done))
        done |= found[-1].names
    return tuple(found)


def alternatives() -> tuple[Mapping[str, Any], ...]:
    """The source's stages and those that our scheduler finds, both simulated as roles of the same cores."""
    found: list[Mapping[str, Any]] = []
    for kernel in dict.fromkeys(row["kernel"] for row in rows("intar_roles.csv")):
        stated, ours = (
            _simulated(kernel, one) for one in (stated_stages(kernel), best_stages(roles_of(kernel)))
        )
        found.append({
            "id": kernel, "stated_stages": stated[0], "stated_cycles": stated[1], "found_stages": ours[0],
            "found_cycles": ours[1], "speedup": stated[1] / ours[1],
        })  # fmt: skip
    return tuple(found)


def _simulated(kernel: str, stages: tuple[RoleStage, ...]) -> tuple[str, int]:
    said = " | ".join(" + ".join(f"{name} x{n}" for name, n in stage.roles) for stage in stages)
    loops = roles_pipeline(roles_of(kernel), stages)
    clock = clock_mhz(f"{kernel}/reconfigurable")
    run = simulate_pipeline(loops, DEVICE, clock, _CHANNELS * CHANNEL_GB_S * 1e3 / clock)
    return said, run.timing.latency_cycles


def _geomean(values: list[float]) -> float:
    return prod(values) ** (1 / len(values))


def draw(result: CaseResult, stem: Path) -> None:
    """Cycles of every design, ours beside the measured ones."""
    from tilewright.reports.cases import pair_figure

    pairs = [(one.id.removesuffix("/cycles"), one.ours, one.published) for one in result.points]
    pair_figure("InTAR's kernels on a U280", "cycles", sorted(pairs), stem)


CASE = Case(NAME, "InTAR: fixed and reconfigurable kernels on a U280 (arXiv 2502.08807)", run, draw)
