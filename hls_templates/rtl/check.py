"""The register-transfer rungs: a design's array in PyRTL, and its Verilog as delivered, against numpy and model.

Both multiply seeded matrices: two folds along the rows, two along the columns with stalls at every stream, and
a single element. Every value must be numpy's, the cycles those of `sim.arrays`.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.dataflow.errors import InputError
from tilewright.hls_templates.rtl.array import AXES, array_grid, grid_of
from tilewright.hls_templates.rtl.control import Grid
from tilewright.hls_templates.rtl.order import Matrix
from tilewright.hls_templates.rtl.pe import MAX_SHIFT, PeKind
from tilewright.hls_templates.rtl.simulate import ArraySimulator, Run
from tilewright.hls_templates.rtl.tools import (
    Job,
    Simulator,
    ToolAbsentError,
    build,
    find_simulator,
    run_jobs,
)
from tilewright.hls_templates.rtl.verilog import TEST_BENCH, array_files
from tilewright.sim.architecture import Architecture, MatrixArray
from tilewright.sim.arrays import Schedule, schedule_of, stalled_cycles

#: Folder of the Verilog in a generated project.
FOLDER = "rtl"
#: A larger grid takes minutes in a simulator; its rungs are skipped.
MAX_PES = 2048
_SEED = 20240607


class RtlError(Exception):
    """The hardware does not do what numpy or the model says; the message says where."""


def rtl_project(architecture: Architecture) -> tuple[dict[str, str], dict[str, Any]]:
    """(texts by path, description) of the Verilog of a design's first array.

    A design whose array has no RTL gets no texts, and the reason under "skipped".
    """
    array = architecture.of_kind(MatrixArray)[0]
    try:
        grid = grid_of(array)
    except InputError as error:
        return {}, {"skipped": str(error)}
    texts = {f"{FOLDER}/{name}": text for name, text in array_files(grid).items()}
    kind = grid.kind
    return texts, {
        "rows": grid.rows,
        "cols": grid.cols,
        "size_bits": grid.size_bits,
        "stationarity": kind.stationarity,
        "drain_overlap": kind.drain_overlap,
        "packs": kind.lanes == 2,
        "pe": asdict(kind.pe),
        "files": sorted(texts),
    }


def described_grid(description: Mapping[str, Any]) -> Grid:
    """The grid of a project. Raises ToolAbsentError with the reason where there is none to simulate."""
    found = description.get("rtl", {"skipped": "the project was generated without RTL"})
    if "skipped" in found:
        raise ToolAbsentError(found["skipped"])
    try:
        grid = array_grid(
            found["rows"], found["cols"], found["stationarity"], drain_overlap=found["drain_overlap"],
            pe=PeKind(**found["pe"]), packs=found["packs"], size_bits=found["size_bits"],
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise InputError(f"design.json: the description of the RTL is damaged ({error})") from error
    if grid.rows * grid.cols > MAX_PES:
        raise ToolAbsentError(
            f"{grid.rows} x {grid.cols} PEs take minutes to simulate; the limit is {MAX_PES} PEs"
        )
    return grid


def check_pyrtl(grid: Grid) -> str:
    """Build the array in PyRTL and run it; returns what was compared. Raises RtlError."""
    jobs = check_jobs(grid)
    simulator = ArraySimulator(grid)
    runs = [simulator.multiply(job.a, job.b, *job.patterns) for job in jobs]
    return _compared(grid, jobs, runs)


def check_verilog(folder: Path, description: Mapping[str, Any], grid: Grid, simulator: Simulator) -> str:
    """Run the Verilog of a project; returns what was compared. Raises RtlError or SimulationError."""
    jobs = check_jobs(grid)
    sources = [folder / name for name in description["rtl"]["files"]]
    with tempfile.TemporaryDirectory() as scratch:
        command = build(simulator, sources, TEST_BENCH.removesuffix(".v"), Path(scratch))
        runs = run_jobs(command, grid, jobs, Path(scratch))
    return _compared(grid, jobs, runs)


def any_simulator() -> Simulator:
    """Icarus Verilog, which needs no build, else Verilator. Raises ToolAbsentError without both."""
    for name in ("iverilog", "verilator"):
        try:
            return find_simulator(name)
        except ToolAbsentError:
            continue
    raise ToolAbsentError("iverilog and verilator absent")


def check_jobs(grid: Grid) -> list[Job]:
    """The products that a rung runs, from a fixed seed."""
    generator = np.random.default_rng(_SEED)
    rows, cols = grid.rows, grid.cols
    along = [(rows + 1, max(1, cols - 1), 3), (max(1, rows - 1), cols + 1, 5), (1, 1, 1)]
    jobs = []
    for number, sizes in enumerate(along):
        size = dict(zip(AXES[grid.kind.stationarity], sizes, strict=True))
        job = random_job(grid, generator, size["m"], size["n"], size["k"])
        stalls = [list(generator.random(40) < 0.75) for _ in range(3)]
        jobs.append(replace(job, patterns=(stalls[0], stalls[1], stalls[2])) if number == 1 else job)
    return jobs


def random_job(grid: Grid, generator: np.random.Generator, m: int, n: int, k: int) -> Job:
    """A product of operands that the grid's PEs take, without stalls."""
    pe = grid.kind.pe
    a = _operands(generator, pe, pe.activation_bits, m, k)
    return Job(a, _operands(generator, pe, pe.weight_bits, k, n))


def _operands(generator: np.random.Generator, pe: PeKind, bits: int, *shape: int) -> Matrix:
    if pe.is_float:
        from tilewright.hls_templates.rtl.float_model import bf16_bits

        return bf16_bits(generator.normal(size=shape)).astype(np.int64)
    limit = 1 << (bits - 1)
    return generator.integers(-limit, limit, shape)


def expected(grid: Grid, a: Matrix, b: Matrix) -> Matrix | np.ndarray[Any, np.dtype[np.float32]]:
    """C = A @ B as the array's PEs compute it, in numpy. a: (m, k), b: (k, n); weights are `b`, as codes."""
    pe = grid.kind.pe
    if pe.is_float:
        from tilewright.hls_templates.rtl import float_model

        words_a, words_b = a.astype(np.uint16), b.astype(np.uint16)
        if grid.kind.keeps_sums:
            return float_model.output_stationary(words_a, words_b)
        if grid.kind.stationarity == "weight":
            return float_model.held(words_b, words_a, grid.rows)
        return float_model.held(words_a.T, words_b.T, grid.rows).T
    shift = 64 - pe.sum_bits
    return (a @ weights_of(pe, b)) << shift >> shift


def weights_of(pe: PeKind, codes: Matrix) -> Matrix:
    """The numbers that weights stand for."""
    if pe.name == "ternary":
        return np.array([0, 1, 0, -1])[codes % 4]
    if pe.name == "shift_add":
        magnitudes = [0, *(1 << shift for shift in range(MAX_SHIFT + 1))]
        return np.array(magnitudes + [-magnitude for magnitude in magnitudes])[codes % 16]
    return codes


def grid_schedule(grid: Grid, a: Matrix, b: Matrix) -> Schedule:
    """The steps of A @ B on the grid, by the closed form. a: (m, k), b: (k, n)."""
    pe = grid.kind.pe
    return schedule_of(
        a.shape[0], b.shape[1], a.shape[1], grid.rows, grid.cols, grid.kind.stationarity,
        grid.kind.drain_overlap, (pe.multiply_cycles, pe.add_cycles),
    )  # fmt: skip


def check_values(grid: Grid, job: Job, run: Run) -> None:
    """Hold a run's values to numpy's. Raises RtlError with the first difference."""
    wanted = expected(grid, job.a, job.b)
    wrong = np.argwhere(run.product != wanted)
    if wrong.size:
        row, column = wrong[0]
        raise RtlError(
            f"{_shape(job)}: {len(wrong)} of {wanted.size} values differ from numpy's, the first is"
            f" C[{row}, {column}] = {run.product[row, column]} instead of {wanted[row, column]}"
        )


def _shape(job: Job) -> str:
    return f"{job.a.shape[0]} x {job.b.shape[1]} x {job.a.shape[1]}"


def _compared(grid: Grid, jobs: Sequence[Job], runs: Sequence[Run]) -> str:
    n_values = n_cycles = 0
    for job, run in zip(jobs, runs, strict=True):
        check_values(grid, job, run)
        cycles = stalled_cycles(grid_schedule(grid, job.a, job.b), *job.patterns)
        if run.n_cycles != cycles:
            raise RtlError(f"{_shape(job)}: {run.n_cycles} cycles, the model says {cycles}")
        n_values, n_cycles = n_values + run.product.size, n_cycles + cycles
    return f"{len(jobs)} products, {n_values} values equal numpy's, {n_cycles} cycles equal the model's"
