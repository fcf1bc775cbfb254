"""The mapper: tiles, loop order, residency and orientation of one contraction, chosen by closed form."""

from functools import lru_cache

import numpy as np

from tilewright.sim import mapper_kernel as kernels
from tilewright.sim.architecture import Architecture
from tilewright.sim.mapper_machine import machine_of
from tilewright.sim.mapping import GemmProblem, Mapping, MappingError, Objective, Order, Residency

#: Tiles tried per rank: the classes of equal trip counts are thinned evenly to this many.
MAX_CANDIDATES = 12

_ORDERS: tuple[Order, ...] = ("mnk", "nmk")
_RESIDENCIES: tuple[Residency, ...] = ("stream", "panel", "whole")


@lru_cache(maxsize=4096)
def tile_candidates(
    sizes: tuple[int, ...], quantum: int, limit: int = MAX_CANDIDATES, most: int | None = None
) -> tuple[int, ...]:
    """Up to `limit` tiles of ranks with `sizes` (outermost first) worth trying, ascending, none above `most`.

    A tile takes inner ranks whole and cuts one rank; of the tiles with equal trip counts only the smallest
    multiple of `quantum` (the array's edge) is kept. Below the quantum, halves of it down to 1 remain, for
    buffers that hold no more. 1 is always among them.
    """
    found = {1}
    inner = 1
    for size in reversed(sizes):
        unit = max(1, min(size, -(-quantum // inner)))
        n_units = -(-size // unit)
        found.update(inner * min(size, unit * -(-n_units // trips)) for trips in _distinct_trips(n_units))
        while unit > 1:
            unit = -(-unit // 2)
            found.add(inner * unit)
        inner *= size
    if most is not None:
        found = {tile for tile in found if tile <= most} | {1}
    return _thinned(sorted(found), limit)


@lru_cache(maxsize=1024)
def _distinct_trips(n: int) -> list[int]:
    """The trip counts ceil(n / t) that differ, for t in 1..n."""
    trips = []
    tile = n
    while tile >= 1:
        count = -(-n // tile)
        trips.append(count)
        # the next smaller tile with more trips
        tile = (n - 1) // count if count < n else 0
    return trips


def _thinned(values: list[int], limit: int) -> tuple[int, ...]:
    """At most `limit` values, evenly spread over the order, both ends kept."""
    if len(values) <= limit:
        return tuple(values)
    picks = sorted({round(i * (len(values) - 1) / (limit - 1)) for i in range(limit)})
    return tuple(values[pick] for pick in picks)


def map_contraction(
    problem: GemmProblem, architecture: Architecture, objective: Objective = "latency"
) -> Mapping:
    """The mapping of `problem` with the least estimated latency, energy or energy-delay product.

    Raises MappingError if no candidate fits: the operator, the limit and its value. The answer is
    remembered for the process by problem, the figures of the architecture that matter, and objective.
    """
    machine = machine_of(architecture)
    sizes, rates = machine.mapper_sizes, machine.mapper_rates
    found = _search(problem, sizes, rates, objective)
    if found is None:
        raise MappingError(
            f"operator {problem.name!r}: not even a tile of 1 x 1 x 1 with what must stay fits"
            f" ({problem.a_bytes} bytes of input buffer, {problem.b_bytes} of weight buffer,"
            f" {problem.c_elements} sums in the output buffer; k is {problem.k})"
        )
    return found


@lru_cache(maxsize=4096)
def _search(
    problem: GemmProblem, sizes: tuple[int, ...], rates: tuple[float, ...], objective: Objective
) -> Mapping | None:
    answer = kernels.best_mapping(
        np.array(problem.m_tiles), np.array(problem.n_tiles), np.array(problem.k_tiles),
        *operand_elements(problem), *problem_vectors(problem, sizes, rates), kernels.OBJECTIVE_CODE[objective],
    )  # fmt: skip
    if answer[0] == 0:
        return None
    order, a_residency, b_residency = kernels.CONFIGURATIONS[int(answer[3])]
    return Mapping(
        m_tile=int(answer[0]),
        n_tile=int(answer[1]),
        k_tile=int(answer[2]),
        order=_ORDERS[order],
        a_residency=_RESIDENCIES[a_residency],
        b_residency=_RESIDENCIES[b_residency],
        transposed=bool(answer[4]),
        cycles=float(answer[5]),
        energy_pj=float(answer[6]),
        dram_bytes=float(answer[7]),
    )


def operand_elements(problem: GemmProblem) -> tuple[kernels.IntArray, kernels.IntArray]:
    """Elements of A, (m tiles + 1, k tiles + 1), and of B, by n tiles, in every tile; the last is the whole."""
    depths = np.array((*problem.k_tiles, problem.k))
    a = np.multiply.outer(np.array((*problem.m_tiles, problem.m)), depths)
    b = np.multiply.outer(np.array((*problem.n_tiles, problem.n)), depths)
    return (
        np.array(problem.a_elements) if problem.a_elements else a,
        np.array(problem.b_elements) if problem.b_elements else b,
    )


def problem_vectors(
    problem: GemmProblem, machine_sizes: tuple[int, ...], machine_rates: tuple[float, ...]
) -> tuple[kernels.IntArray, kernels.FloatArray]:
    """The kernel's two parameter vectors, in the layout of `sim.mapper_kernel`."""
    sizes = np.array([
        problem.m, problem.n, problem.k, problem.batch, problem.a_bits, problem.b_bits,
        problem.output_bits, problem.accumulator_bits, problem.a_bytes, problem.b_bytes,
        problem.c_elements, problem.copies, *machine_sizes, problem.a_stays, problem.m_outer,
        problem.side_bits,
    ], dtype=np.int64)  # fmt: skip
    rates = np.array([*machine_rates, problem.vector_cycles, problem.computed_fraction])
    return sizes, rates
