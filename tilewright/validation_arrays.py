"""Points of `validate arrays` that are simulated on the spot: cycles of our own arrays' RTL beside closed forms."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tilewright.hls_templates.rtl.array import array_grid
from tilewright.hls_templates.rtl.check import check_values, random_job
from tilewright.hls_templates.rtl.simulate import ArraySimulator
from tilewright.sim.architecture import Stationarity
from tilewright.sim.arrays import gemm_cycles

_SEED = 20251
_N_SHAPES = 3
_LARGEST_SIZE = 24
#: rows, cols and PE of the arrays, each built in all stationarities, with and without overlap.
_ARRAYS = ((2, 2, "int8"), (4, 3, "int8"), (3, 6, "int8"), (8, 8, "int8"), (3, 2, "bf16"))
_STATIONARITIES: tuple[Stationarity, ...] = ("output", "weight", "input")


@dataclass(frozen=True, slots=True)
class ArrayPoint:
    """One product on one array: its sizes, and the cycles that the RTL took in PyRTL's simulation."""

    m: int
    n: int
    k: int
    rows: int
    cols: int
    stationarity: Stationarity
    drain_overlap: bool
    pe_cycles: tuple[int, int]
    rtl_cycles: int

    @property
    def own_cycles(self) -> int:
        """By the closed form of our own array."""
        return gemm_cycles(
            self.m, self.n, self.k, self.rows, self.cols, self.stationarity,
            drain_overlap=self.drain_overlap, pe_cycles=self.pe_cycles,
        )  # fmt: skip

    @property
    def scalesim_cycles(self) -> int:
        """By SCALE-Sim v3's form, which has no overlap and no pipelined PE."""
        return gemm_cycles(self.m, self.n, self.k, self.rows, self.cols, self.stationarity, "scalesim")

    @property
    def is_plain(self) -> bool:
        """Whether SCALE-Sim's form speaks of such an array."""
        return not self.drain_overlap and self.pe_cycles == (0, 1)


@lru_cache(maxsize=1)
def simulated_points() -> tuple[ArrayPoint, ...]:
    """A fixed seeded set of products with 1 to 24 rows, columns and beats on arrays of 2 x 2 to 8 x 8.

    Raises RtlError if a value that an array computes is not numpy's: its cycles would mean nothing.
    """
    generator = np.random.default_rng(_SEED)
    found = []
    for rows, cols, pe in _ARRAYS:
        for stationarity in _STATIONARITIES:
            for overlap in (False, True):
                grid = array_grid(rows, cols, stationarity, drain_overlap=overlap, pe=pe)
                simulator = ArraySimulator(grid)
                kind = grid.kind.pe
                for m, n, k in generator.integers(1, _LARGEST_SIZE + 1, (_N_SHAPES, 3)).tolist():
                    job = random_job(grid, generator, m, n, k)
                    run = simulator.multiply(job.a, job.b)
                    check_values(grid, job, run)
                    cycles = (kind.multiply_cycles, kind.add_cycles)
                    found.append(ArrayPoint(m, n, k, rows, cols, stationarity, overlap, cycles, run.n_cycles))
    return tuple(found)
