"""Running a whole array in PyRTL: operands in, results and cycles out, with stalls at every stream."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyrtl
from numpy.typing import NDArray

from tilewright.dataflow.errors import InputError
from tilewright.hls_templates.rtl.array import array_inputs, array_outputs, build_array, counter_limit
from tilewright.hls_templates.rtl.control import Grid
from tilewright.hls_templates.rtl.order import Matrix, Result, assemble, operand_words
from tilewright.hls_templates.rtl.wires import fresh_block

#: A pattern says for each cycle from the start whether the other side is ready; beyond its end it always is.
Pattern = Sequence[bool]


@dataclass(frozen=True, slots=True)
class Run:
    """What an array computed: C (m, n), or (batch, m, n), the cycles, and the words that left."""

    product: Matrix | NDArray[np.float32]
    n_cycles: int
    results: tuple[Result, ...]


class ArraySimulator:
    """An array in PyRTL's FastSimulation, kept from product to product as hardware is."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        with fresh_block() as block:
            wires = {name: pyrtl.Input(bits, name) for name, bits in array_inputs(grid).items()}
            for name, wire in build_array(grid, wires).items():
                output = pyrtl.Output(array_outputs(grid)[name], name)
                output <<= wire
            self._simulation = pyrtl.FastSimulation(tracer=None, block=block)

    def multiply(
        self, a: Matrix, b: Matrix, west_valid: Pattern = (), north_valid: Pattern = (),
        south_ready: Pattern = (), limit_cycles: int = 1_000_000,
    ) -> Run:  # fmt: skip
        """A @ B; a: (m, k), b: (k, n), or with a batch in front. The patterns: by the cycle since the start.

        Raises InputError for shapes that do not fit each other or the controller's counters, and for a
        product that is not done within `limit_cycles`.
        """
        has_batch = a.ndim == 3
        if not has_batch:
            a, b = a[None], b[None]
        (batch, m, k), n = a.shape, b.shape[-1]
        limit = counter_limit(self.grid.size_bits)
        if b.shape[:2] != (batch, k) or not all(0 < size <= limit for size in (batch, m, n, k)):
            raise InputError(f"array: no product of {a.shape} and {b.shape} fits {self.grid.size_bits} bits")
        west, north = operand_words(self.grid, a, b)
        results: list[Result] = []
        n_west = n_north = 0
        step, inspect = self._simulation.step, self._simulation.inspect
        for cycle in range(limit_cycles):
            inputs = {
                "start": int(cycle == 0), "m": m, "n": n, "k": k, "batch": batch,
                "west_valid": int(n_west < len(west) and _at(west_valid, cycle)),
                "west_data": west[n_west] if n_west < len(west) else 0,
                "north_valid": int(n_north < len(north) and _at(north_valid, cycle)),
                "north_data": north[n_north] if n_north < len(north) else 0,
                "south_ready": int(_at(south_ready, cycle)),
            }  # fmt: skip
            step(inputs)
            n_west += inputs["west_valid"] & inspect("west_ready")
            n_north += inputs["north_valid"] & inspect("north_ready")
            if inputs["south_ready"] and inspect("south_valid"):
                row, word = inspect("south_row"), inspect("south_data")
                results.append(Result(cycle, row, bool(inspect("south_first")), word))
            if inspect("done"):
                product = assemble(self.grid, (batch, m, n, k), results)
                return Run(product if has_batch else product[0], cycle + 1, tuple(results))
        raise InputError(f"array: a product of {m} x {n} x {k} is not done after {limit_cycles} cycles")


def _at(pattern: Pattern, cycle: int) -> bool:
    return bool(pattern[cycle]) if cycle < len(pattern) else True


@lru_cache(maxsize=32)
def simulator_of(grid: Grid) -> ArraySimulator:
    """The simulator of a grid, built once."""
    return ArraySimulator(grid)
