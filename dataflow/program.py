"""The scheduled form: what runs where and when, in loops, tokens and transfers.

A `Program` is a sequence of stages; a stage is a set of loop nests that run concurrently, each in
order on its own resource slot, and meet only at bounded buffers. A nest is: loops with trip counts
and remainders, and one leaf operation (a transfer or a computation). A `Port` ties a nest to a
buffer: before the first leaf under the port's `depth` outer loops the nest takes a token, after the
last one it hands it on. So a tile that is loaded once and used by many inner iterations is one token.

The simulator times this value, the generators print it, the timeline draws it. It names no hardware:
slots are bound to components by the architecture.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from math import prod

from tilewright.dataflow.tensor import Tensor


class ProgramError(ValueError):
    """The program is not well formed; the message names the nest, port or buffer."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A triangular loop: points with rank > of + offset are never visited.

    In the iteration `i` of the loop over `of` (tile T), the loop visits only the tiles that hold a
    point with rank <= min((i + 1) * T, extent of `of`) - 1 + offset. A causal mask is one of these.
    """

    of: str
    offset: int


@dataclass(frozen=True, slots=True)
class Loop:
    """`extent` elements of `rank` in tiles of `tile`; the last tile may be smaller."""

    rank: str
    extent: int
    tile: int
    limit: Limit | None = None

    def __post_init__(self) -> None:
        if not 0 < self.tile <= self.extent:
            raise ProgramError(f"loop {self.rank!r}: tile must be in 1..{self.extent}, got {self.tile}")

    @property
    def trips(self) -> int:
        """Iterations when no limit cuts them."""
        return -(-self.extent // self.tile)

    @property
    def remainder(self) -> int:
        """Elements of the last tile, 1..tile."""
        return self.extent - (self.trips - 1) * self.tile


@dataclass(frozen=True, slots=True)
class Buffer:
    """An on-chip buffer between nests: `copies` slots of `slot_bytes` each in memory slot `slot`.

    It is a bounded first-in first-out queue of tiles: 1 copy is single, 2 is double buffering. Nests that
    fill it do so one after another in program order. Its readers in one stage all see the same tiles, as many
    each; those of a later stage start when they are done and take the tiles that follow. No nest reads what
    it writes.
    """

    name: str
    slot: str
    slot_bytes: int
    copies: int
    element_bits: int
    banks: int = 1


@dataclass(frozen=True, slots=True)
class Port:
    """One end of a buffer at a nest: a token per iteration of the first `depth` loops.

    `tile` gives the ranks and elements of a full tile in the buffer; a rank that the nest loops over
    shrinks in that loop's last iteration.
    """

    buffer: str
    depth: int
    tile: tuple[tuple[str, int], ...]


class Direction(StrEnum):
    LOAD = "load"
    STORE = "store"


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a full tile keeps its channel and the memory, in cycles, latency apart.

    For a schedule that knows what run lengths do not tell (a cache in front of the memory, how requests are
    split). A smaller last tile takes its share by elements.
    """

    channel_cycles: float
    memory_cycles: float


@dataclass(frozen=True, slots=True)
class Transfer:
    """Move one tile of `tensor` between DRAM and the chip.

    `tile`: (rank, elements) of a full tile, in the tensor's storage order, outermost first.
    `run_elements`: contiguous elements of a full tile's innermost run in DRAM (packed tiles: all).
    `random` marks data-dependent rows, which the DRAM model serves as scattered bursts. `pace` replaces what
    the memory model would say of the tile.
    """

    direction: Direction
    tensor: str
    tile: tuple[tuple[str, int], ...]
    element_bits: int
    run_elements: int
    random: bool = False
    pace: Pace | None = None


class Unit(StrEnum):
    MATRIX = "matrix"
    VECTOR = "vector"


@dataclass(frozen=True, slots=True)
class Compute:
    """One tile of an operator, or of several fused ones, on a matrix or a vector unit.

    A matrix leaf is C[m, n] += A[m, k] * B[k, n], repeated over `batch_ranks`: `tile` gives the
    elements of each rank and the groups say which ranks form m, n and k (a group's size is the
    product). A vector leaf evaluates each of `functions` (name, evaluations per point of its ranks):
    its points are the product over the ranks named, "" for all of `tile`. `cycles`, of the architecture's
    clock, replace what the unit would take for a full tile; a smaller last tile takes its share by elements.
    """

    unit: Unit
    operators: tuple[str, ...]
    tile: tuple[tuple[str, int], ...]
    m_ranks: tuple[str, ...] = ()
    n_ranks: tuple[str, ...] = ()
    k_ranks: tuple[str, ...] = ()
    batch_ranks: tuple[str, ...] = ()
    functions: tuple["VectorWork", ...] = ()
    operand_bits: tuple[int, int] = (8, 8)
    accumulator_bits: int = 32
    cycles: float | None = None


@dataclass(frozen=True, slots=True)
class VectorWork:
    """`evaluations` of `function` per point of `ranks`; no ranks (or the one rank "") are all of the tile."""

    function: str
    ranks: tuple[str, ...]
    evaluations: int = 1


@dataclass(frozen=True, slots=True)
class Nest:
    """Loops, outermost first, around one leaf, in order on the resource slot `slot`.

    `reads` and `writes` are the buffers that it takes tiles from and fills. `after` names nests
    (of any earlier stage, or of this one) that must have finished before this one starts.
    """

    name: str
    slot: str
    loops: tuple[Loop, ...]
    leaf: Transfer | Compute
    reads: tuple[Port, ...] = ()
    writes: tuple[Port, ...] = ()
    after: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ranks = [loop.rank for loop in self.loops]
        if len(set(ranks)) != len(ranks):
            raise ProgramError(f"nest {self.name!r} loops twice over a rank: {ranks}")
        for port in (*self.reads, *self.writes):
            if not 0 <= port.depth <= len(self.loops):
                raise ProgramError(
                    f"nest {self.name!r}: depth of port {port.buffer!r} must be in"
                    f" 0..{len(self.loops)}, got {port.depth}"
                )
        for position, loop in enumerate(self.loops):
            if loop.limit and loop.limit.of not in ranks[:position]:
                raise ProgramError(
                    f"nest {self.name!r}: loop {loop.rank!r} is limited by {loop.limit.of!r},"
                    " which is not an outer loop"
                )

    @property
    def n_leaves(self) -> int:
        """Leaf executions, triangular loops counted exactly."""
        return n_iterations(self.loops)


@dataclass(frozen=True, slots=True)
class Stage:
    """Nests that run concurrently; `operators` are those of the graph that the stage computes."""

    name: str
    operators: tuple[str, ...]
    nests: tuple[Nest, ...]


@dataclass(frozen=True)
class Program:
    """Buffers and stages of one layer graph.

    Order between stages comes from `Nest.after` and from the buffers: nests that fill (or drain) the
    same buffer do so in program order, so a later stage's loader may run ahead into free slots.
    """

    name: str
    tensors: tuple[Tensor, ...]
    buffers: tuple[Buffer, ...]
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        _check(self)

    @cached_property
    def nests(self) -> tuple[Nest, ...]:
        return tuple(nest for stage in self.stages for nest in stage.nests)

    @cached_property
    def buffer_by_name(self) -> Mapping[str, Buffer]:
        return {buffer.name: buffer for buffer in self.buffers}

    @cached_property
    def tensor_by_name(self) -> Mapping[str, Tensor]:
        return {tensor.name: tensor for tensor in self.tensors}


def n_iterations(loops: tuple[Loop, ...]) -> int:
    """Iterations of nested loops, limits applied."""
    limited = {loop.limit.of for loop in loops if loop.limit}
    if not limited:
        return prod(loop.trips for loop in loops)
    outer, rest = loops[0], loops[1:]
    if outer.rank not in limited:
        return outer.trips * n_iterations(rest) if rest else outer.trips
    return sum(n_iterations(cut_loops(rest, outer, trip)) for trip in range(outer.trips))


def limited_trips(loop: Loop, of: Loop, of_trip: int) -> int:
    """Trips of a limited loop in iteration `of_trip` of the loop that limits it, at least 1."""
    assert loop.limit is not None
    last_position = min((of_trip + 1) * of.tile, of.extent) - 1 + loop.limit.offset
    return max(1, min(loop.trips, last_position // loop.tile + 1))


def cut_loops(loops: tuple[Loop, ...], of: Loop, of_trip: int) -> tuple[Loop, ...]:
    """`loops` inside iteration `of_trip` of `of`: limited ones shortened, their limit removed."""
    found = []
    for loop in loops:
        if loop.limit is None or loop.limit.of != of.rank:
            found.append(loop)
        else:
            trips = limited_trips(loop, of, of_trip)
            extent = min(loop.extent, trips * loop.tile)
            found.append(Loop(loop.rank, extent, min(loop.tile, extent)))
    return tuple(found)


def _check(program: Program) -> None:
    names = [nest.name for nest in program.nests]
    if len(set(names)) != len(names):
        raise ProgramError(f"program {program.name!r}: a nest's name is used twice")
    known = set(names)
    for nest in program.nests:
        for port in (*nest.reads, *nest.writes):
            if port.buffer not in program.buffer_by_name:
                raise ProgramError(f"nest {nest.name!r}: buffer {port.buffer!r} is not declared")
        if missing := [name for name in nest.after if name not in known]:
            raise ProgramError(f"nest {nest.name!r} waits for {missing[0]!r}, which is not a nest")
        leaf = nest.leaf
        if isinstance(leaf, Transfer) and leaf.tensor not in program.tensor_by_name:
            raise ProgramError(f"nest {nest.name!r}: tensor {leaf.tensor!r} is not declared")
