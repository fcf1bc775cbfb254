"""InTAR (arXiv 2502.08807): five kernels on a U280 as one task, a task per operator, or cores that change roles."""

from collections.abc import Mapping
from functools import cache
from math import prod
from pathlib import Path

from tilewright.cases.case import Case, CaseResult, Claim, Point, published, rows
from tilewright.cases.hls_tasks import CHANNEL_GB_S, tasks_pipeline
from tilewright.sim.architecture import Dram
from tilewright.sim.engine import compile_program
from tilewright.sim.engine import run as run_tasks
from tilewright.sim.rated_memory import memory_of
from tilewright.sim.spatial import Pipeline
from tilewright.sim.spatial_emit import pipeline_architecture, pipeline_program

NAME = "intar"
DEVICE = "u280"
_CHANNELS = 32
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
    return CaseResult(NAME, tuple(points), _claims(known))


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


def _geomean(values: list[float]) -> float:
    return prod(values) ** (1 / len(values))


def draw(result: CaseResult, stem: Path) -> None:
    """Cycles of every design, ours beside the measured ones."""
    from tilewright.reports.cases import pair_figure

    pairs = [(one.id.removesuffix("/cycles"), one.ours, one.published) for one in result.points]
    pair_figure("InTAR's kernels on a U280", "cycles", sorted(pairs), stem)


CASE = Case(NAME, "InTAR: fixed and reconfigurable kernels on a U280 (arXiv 2502.08807)", run, draw)
