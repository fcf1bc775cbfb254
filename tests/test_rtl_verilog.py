"""Generated Verilog in simulators: equal to PyRTL to the cycle and to numpy to the bit."""

from pathlib import Path

import numpy as np
import pytest

from tilewright.hls_templates.rtl.array import array_grid, cell_leaf
from tilewright.hls_templates.rtl.check import check_jobs, expected
from tilewright.hls_templates.rtl.control import Grid
from tilewright.hls_templates.rtl.simulate import ArraySimulator, Run
from tilewright.hls_templates.rtl.tools import (
    Job,
    SimulationError,
    SimulatorName,
    ToolAbsentError,
    build,
    find_simulator,
    run_jobs,
)
from tilewright.hls_templates.rtl.verilog import array_files, leaf_verilog
from tilewright.sim.architecture import Stationarity
from tilewright.sim.arrays import gemm_cycles

GRIDS = [
    *(array_grid(3, 4, kind, drain_overlap=True, packs=True) for kind in ("output", "weight")),
    *(array_grid(rows, cols, stationarity, drain_overlap=overlap, pe=pe)
    for rows, cols, stationarity, overlap, pe in (
        (3, 2, "output", False, "int8"), (2, 4, "output", True, "int8"), (3, 2, "weight", False, "int8"),
        (2, 3, "weight", True, "int4"), (3, 3, "input", True, "int8"), (1, 1, "input", False, "int8"),
        (2, 2, "output", True, "bf16"), (2, 3, "weight", True, "bf16"),
    )),
]  # fmt: skip


def run_in(name: SimulatorName, grid: Grid, jobs: list[Job], scratch: Path) -> list[Run]:
    try:
        simulator = find_simulator(name)
    except ToolAbsentError as absent:
        pytest.skip(str(absent))
    sources = []
    for file, text in array_files(grid).items():
        (scratch / file).write_text(text, encoding="utf-8")
        sources.append(scratch / file)
    return run_jobs(build(simulator, sources, "array_tb", scratch), grid, jobs, scratch)


def equal_to_pyrtl(grid: Grid, jobs: list[Job], runs: list[Run]) -> None:
    """Every word leaves in the same cycle with the same bits."""
    simulator = ArraySimulator(grid)
    for job, run in zip(jobs, runs, strict=True):
        twin = simulator.multiply(job.a, job.b, *job.patterns)
        assert run.n_cycles == twin.n_cycles
        assert run.results == twin.results
        assert (run.product == expected(grid, job.a, job.b)).all()


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: f"{grid.kind.stationarity}-{grid.kind.pe.name}")
def test_the_shell_with_its_leaves_is_the_flat_array_in_icarus_verilog(grid: Grid, tmp_path: Path) -> None:
    jobs = check_jobs(grid)
    equal_to_pyrtl(grid, jobs, run_in("iverilog", grid, jobs, tmp_path))


@pytest.mark.slow
def test_the_shell_with_its_leaves_is_the_flat_array_in_verilator(tmp_path: Path) -> None:
    grid = array_grid(3, 4, "output", drain_overlap=True)
    jobs = check_jobs(grid)
    equal_to_pyrtl(grid, jobs, run_in("verilator", grid, jobs, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(("stationarity", "overlap"), [("output", False), ("weight", True)])
def test_32_by_32_takes_the_models_cycles_in_verilator(
    stationarity: Stationarity, overlap: bool, tmp_path: Path
) -> None:
    """30 shapes with sizes of 1 to 80, every value checked."""
    grid = array_grid(32, 32, stationarity, drain_overlap=overlap)
    generator = np.random.default_rng(32)
    shapes = generator.integers(1, 81, (30, 3))
    jobs = [
        Job(generator.integers(-128, 128, (m, k)), generator.integers(-128, 128, (k, n)))
        for m, n, k in shapes
    ]
    for (m, n, k), job, run in zip(shapes, jobs, run_in("verilator", grid, jobs, tmp_path), strict=True):
        assert (run.product == job.a @ job.b).all()
        assert run.n_cycles == gemm_cycles(m, n, k, 32, 32, stationarity, drain_overlap=overlap)


def test_the_same_array_is_printed_as_the_same_text_again() -> None:
    """Temporaries are numbered per module, whatever was built before in the process."""
    grid = array_grid(3, 2)
    assert array_files(grid) == array_files(grid)
    text = leaf_verilog(cell_leaf(grid))
    assert "tmp" not in text
    assert text.count("module array_pe(") == 1


def test_a_bench_without_all_results_is_an_error(tmp_path: Path) -> None:
    """A program that ends at once writes none."""
    with pytest.raises(SimulationError, match="the test bench wrote no results"):
        run_jobs(["true"], array_grid(2, 2), [], tmp_path)
    with pytest.raises(SimulationError, match="no message"):
        run_jobs(["false"], array_grid(2, 2), [], tmp_path)
