"""Verilog simulators on this machine: which there are, and running products of a generated array on one."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tilewright.hls_templates.rtl.control import Grid
from tilewright.hls_templates.rtl.order import Matrix, Result, assemble, operand_words
from tilewright.hls_templates.rtl.simulate import Pattern, Run

SimulatorName = Literal["iverilog", "verilator"]
_BUILD_SECONDS = 1200
_RUN_SECONDS = 1200
#: Cycles after which a product counts as stuck, per word that it takes or gives.
_PATIENCE = 64


class ToolAbsentError(Exception):
    """A tool that is needed is not on this machine; the message names it."""


class SimulationError(Exception):
    """The Verilog does not build or does not run to its end; the message says why."""


@dataclass(frozen=True, slots=True)
class Simulator:
    """A Verilog simulator and the version that it states."""

    name: SimulatorName
    path: str
    version: str


@dataclass(frozen=True, slots=True)
class Job:
    """One product A @ B with its stalls, as `ArraySimulator.multiply` takes them."""

    a: Matrix
    b: Matrix
    patterns: tuple[Pattern, Pattern, Pattern] = ((), (), ())


def find_simulator(name: SimulatorName) -> Simulator:
    """Raises ToolAbsentError if it is not installed."""
    path = shutil.which(name)
    if path is None:
        raise ToolAbsentError(f"{name} absent")
    flag = "-V" if name == "iverilog" else "--version"
    answer = subprocess.run([path, flag], capture_output=True, text=True, timeout=60, check=False)
    words = answer.stdout.split("\n", 1)[0].split()
    version = next((word for word in words if word[:1].isdigit()), "")
    return Simulator(name, path, version)


def build(simulator: Simulator, sources: Sequence[Path], top: str, scratch: Path) -> list[str]:
    """The command that runs `top`, built under `scratch`. Raises SimulationError with the first error."""
    files = [str(source) for source in sources]
    if simulator.name == "iverilog":
        program = scratch / "simulation.vvp"
        _execute([simulator.path, "-g2012", "-s", top, "-o", str(program), *files], _BUILD_SECONDS)
        vvp = shutil.which("vvp") or "vvp"
        return [vvp, "-n", str(program)]
    _execute(
        [
            simulator.path, "--binary", "--timing", "-j", "1", "-Wno-fatal", "-Wno-lint", "-Wno-style",
            "-Wno-STMTDLY", "--x-assign", "fast", "-O3", "-CFLAGS", "-O1", "--output-split", "4000",
            "--output-split-cfuncs", "400", "--top-module", top, "--Mdir", str(scratch / "built"), *files,
        ],
        _BUILD_SECONDS,
    )  # fmt: skip
    return [str(scratch / "built" / f"V{top}")]


def _execute(command: Sequence[str], seconds: int) -> str:
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, timeout=seconds, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired as late:
        raise SimulationError(f"{Path(command[0]).name} did not end within {seconds} s") from late
    if done.returncode != 0:
        lines = (done.stderr + done.stdout).splitlines()
        errors = [line.strip() for line in lines if "error" in line.lower()] or lines
        raise SimulationError(f"{Path(command[0]).name}: {(errors or ['no message'])[0]}")
    return done.stdout


def run_jobs(command: Sequence[str], grid: Grid, jobs: Sequence[Job], scratch: Path) -> list[Run]:
    """The runs of products, in order, on a test bench built by `build`.

    Raises SimulationError if one is not done in many times the cycles that its words take, or does not take
    or give all of them.
    """
    lines: dict[str, list[str]] = {name: [] for name in ("jobs", "west", "north", "stalls")}
    for job in jobs:
        _add_job(lines, grid, job)
    for name, found in lines.items():
        (scratch / f"{name}.txt").write_text("".join(f"{line}\n" for line in found), encoding="utf-8")
    results = scratch / "results.txt"
    results.unlink(missing_ok=True)
    arguments = [f"+{name}={scratch / name}.txt" for name in (*lines, "results")]
    _execute([*command, *arguments], _RUN_SECONDS)
    if not results.is_file():
        raise SimulationError("the test bench wrote no results")
    return _read_runs(results.read_text(encoding="utf-8"), grid, jobs)


def _add_job(lines: dict[str, list[str]], grid: Grid, job: Job) -> None:
    a, b = (one if one.ndim == 3 else one[None] for one in (job.a, job.b))
    (batch, m, k), n = a.shape, b.shape[-1]
    west, north = operand_words(grid, a, b)
    length = max(len(pattern) for pattern in job.patterns)
    stalls = [
        sum((cycle >= len(pattern) or bool(pattern[cycle])) << i for i, pattern in enumerate(job.patterns))
        for cycle in range(length)
    ]
    limit = length + _PATIENCE * (len(west) + len(north) + grid.depth)
    numbers = (m, n, k, batch, len(west), len(north), length, limit)
    lines["jobs"].append(" ".join(map(str, numbers)))
    for name, words in (("west", west), ("north", north), ("stalls", stalls)):
        lines[name] += [f"{word:x}" for word in words]


def _read_runs(text: str, grid: Grid, jobs: Sequence[Job]) -> list[Run]:
    runs: list[Run] = []
    found: list[Result] = []
    for line in text.splitlines():
        kind, *rest = line.split()
        if kind == "r":
            cycle, row, is_first, word = rest
            if "x" in word.lower() or "z" in word.lower():
                raise SimulationError(f"product {len(runs)}: an undefined result in cycle {cycle}")
            found.append(Result(int(cycle), int(row), is_first == "1", int(word, 16)))
        elif kind == "d":
            runs.append(_run_of(grid, jobs[len(runs)], int(rest[0]), found))
            found = []
        else:
            raise SimulationError(f"product {len(runs)} is not done after {rest[0]} cycles")
    if len(runs) != len(jobs):
        raise SimulationError(f"{len(runs)} of {len(jobs)} products are done")
    return runs


def _run_of(grid: Grid, job: Job, n_cycles: int, found: Sequence[Result]) -> Run:
    has_batch = job.a.ndim == 3
    batch = job.a.shape[0] if has_batch else 1
    m, k, n = job.a.shape[-2], job.a.shape[-1], job.b.shape[-1]
    try:
        product = assemble(grid, (batch, m, n, k), found)
    except (StopIteration, IndexError, RuntimeError) as error:
        raise SimulationError("an array does not give as many rows as the product has") from error
    return Run(product if has_batch else product[0], n_cycles, tuple(found))
