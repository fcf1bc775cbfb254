"""The rung of sequenced programs: a product, a low-rank one and an attention, against numpy and the engine."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tilewright.hls_templates.rtl import attention_model
from tilewright.hls_templates.rtl.check import RtlError
from tilewright.hls_templates.rtl.control import Grid
from tilewright.hls_templates.rtl.order import Matrix
from tilewright.hls_templates.rtl.sequence import Sequence
from tilewright.hls_templates.rtl.sequence_simulate import SequenceRun, SequenceSimulator
from tilewright.hls_templates.rtl.sequenced_programs import (
    attention_program,
    gemm_program,
    lora_program,
    sequenced_architecture,
)
from tilewright.sim.architecture import Dram
from tilewright.sim.engine import compile_program, run
from tilewright.sim.rated_memory import memory_of

#: What sequenced cycles may differ from the tile simulator's: this share, or so many cycles.
CYCLE_FRACTION, CYCLE_FLOOR = 0.01, 16
_SETUP_CYCLES = 4
_LATENCY_CYCLES = 20
_SEED = 20240607


@dataclass(frozen=True)
class SequenceJob:
    """A program with the tensors it loads and the y that it must store."""

    sequence: Sequence
    tensors: Mapping[str, Matrix]
    expected: Matrix
    latency_cycles: int = _LATENCY_CYCLES


def sequence_jobs(grid: Grid) -> list[SequenceJob]:
    """Two tiles and a smaller one along every side, from a fixed seed.

    Raises InputError for a grid that no sequencer drives.
    """
    random = np.random.default_rng(_SEED)
    limit = 1 << (grid.kind.north_bits - 1)
    o, t, tile = 3 * grid.rows, 3 * grid.cols, (2 * grid.rows, 2 * grid.cols)

    def integers(*shape: int) -> Matrix:
        return random.integers(-limit, limit, shape)

    w, x, a, b = integers(o, 21), integers(21, t), integers(grid.rows, 21), integers(o, grid.rows)
    gemm = Sequence(gemm_program(grid, o, t, 21, (*tile, 8)), grid, _SETUP_CYCLES)
    shift = grid.kind.north_bits
    lora = Sequence(lora_program(grid, o, t, 21, grid.rows, tile), grid, _SETUP_CYCLES, shift)
    u = np.clip((a @ x + (1 << shift >> 1)) >> shift, -limit, limit - 1)
    q, k, v = integers(6, t), integers(o, 6), integers(grid.rows, o)
    scale = attention_model.scale_of(4 / (6 * limit))
    program = attention_program(grid, t, o, 6, grid.rows, (tile[1], tile[0]))
    attention = Sequence(program, grid, _SETUP_CYCLES, score_scale=scale)
    mixed = attention_model.attention(q, k, v, tile[0], *scale)
    return [
        SequenceJob(gemm, {"w": w, "x": x}, w @ x),
        SequenceJob(lora, {"w": w, "x": x, "a": a, "b": b}, w @ x + b @ u),
        SequenceJob(attention, {"q": q, "k": k, "v": v}, mixed),
    ]


def check_sequences(grid: Grid) -> str:
    """Build and run the programs in PyRTL; returns what was compared. Raises RtlError and InputError."""
    n_values = n_cycles = 0
    jobs = sequence_jobs(grid)
    for job in jobs:
        found = SequenceSimulator(job.sequence).run(job.tensors, job.latency_cycles)
        check_run(job, found)
        n_values, n_cycles = n_values + job.expected.size, n_cycles + found.n_cycles
    return (
        f"{len(jobs)} programs, {n_values} values equal numpy's, {n_cycles} cycles as in the tile simulator"
    )


def check_run(job: SequenceJob, found: SequenceRun) -> None:
    """Hold a run to its values and to the tile simulator's cycles. Raises RtlError with the first difference."""
    name = job.sequence.program.name
    wrong = np.argwhere(found.results["y"] != job.expected)
    if wrong.size:
        row, column = wrong[0]
        raise RtlError(
            f"{name}: {len(wrong)} of {job.expected.size} values differ from numpy's, the first is"
            f" y[{row}, {column}] = {found.results['y'][row, column]} instead of {job.expected[row, column]}"
        )
    model = engine_cycles(job.sequence, job.latency_cycles)
    if abs(found.n_cycles - model) > max(CYCLE_FRACTION * model, CYCLE_FLOOR):
        raise RtlError(f"{name}: {found.n_cycles} cycles, the tile simulator says {model}")


def engine_cycles(sequence: Sequence, latency_cycles: int) -> int:
    """The program's cycles in the tile simulator, on the architecture as built."""
    architecture = sequenced_architecture(sequence.grid, sequence.setup_cycles, latency_cycles)
    memory = memory_of(architecture.of_kind(Dram)[0], architecture.clock_mhz)
    return run(compile_program(sequence.program, architecture, memory)).latency_cycles
