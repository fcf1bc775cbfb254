"""The mapping of one contraction: tiles, loop order, what stays on chip, and the array's orientation."""

from dataclasses import dataclass, field
from typing import Literal

from tilewright.dataflow.errors import InputError

#: How long an operand's tile stays: `stream` is loaded for every innermost iteration, `panel` holds all
#: of k for one outer iteration, `whole` holds the operand for the whole batch item.
Residency = Literal["stream", "panel", "whole"]
Order = Literal["mnk", "nmk"]
Objective = Literal["latency", "energy", "edp"]

OBJECTIVES: tuple[Objective, ...] = ("latency", "energy", "edp")


class MappingError(InputError):
    """An operator cannot be mapped on this hardware; the message names operator, limit and value."""


@dataclass(frozen=True, slots=True)
class GemmProblem:
    """C[m, n] += A[m, k] * B[k, n], `batch` times, and what of the chip it may use.

    `m_tiles`, `n_tiles`, `k_tiles` are the tiles that the named ranks behind m, n and k allow, ascending.
    `a_bytes` and `b_bytes` are the room for one tile of A and of B, `c_elements` the elements that a tile
    of C may have. `computed_fraction` is the unmasked share of (m, n, k). `vector_cycles` is the vector
    unit's time per element of C for what rides on the stage, `side_bits` what that reads per element from
    DRAM. `a_stays` asks that A's tile holds all of k (a second contraction reads it too), `m_outer` that the
    loops of m stand outside those of n (a mask limits n by m). `a_elements` has, for every m tile and then the
    whole of m, the elements of A under every k tile and under the whole of k; empty where that is their product.
    `b_elements` has the same for B by n tiles.
    """

    name: str = field(compare=False)
    m: int
    n: int
    k: int
    batch: int
    m_tiles: tuple[int, ...]
    n_tiles: tuple[int, ...]
    k_tiles: tuple[int, ...]
    a_bits: int
    b_bits: int
    output_bits: int
    accumulator_bits: int
    a_bytes: int
    b_bytes: int
    c_elements: int
    copies: int
    computed_fraction: float = 1.0
    vector_cycles: float = 0.0
    side_bits: int = 0
    a_stays: bool = False
    m_outer: bool = False
    a_elements: tuple[tuple[int, ...], ...] = ()
    b_elements: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Mapping:
    """How one contraction runs; k is always the innermost loop, its sums stay in the output buffer.

    `transposed` puts n on the array's rows and m on its columns. `cycles` and `energy_pj` are the
    mapper's closed-form estimates, by which it chose.
    """

    m_tile: int
    n_tile: int
    k_tile: int
    order: Order
    a_residency: Residency
    b_residency: Residency
    transposed: bool
    cycles: float
    energy_pj: float
    dram_bytes: float
