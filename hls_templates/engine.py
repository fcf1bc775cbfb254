"""Engines: the pieces of hardware of a kernel. Stages of one structure run on one engine, one by one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import lcm

from tilewright.dataflow.errors import InputError
from tilewright.hls_templates.layout import (
    ACTIVATIONS,
    MAX_PORT_BITS,
    axes_inside_block,
    lanes_that_fit,
    tile_size,
)
from tilewright.hls_templates.order import Node, compute_tree, feed_tree
from tilewright.hls_templates.stage import Axis, Dim, GemmStage, Operand
from tilewright.sim.architecture import Architecture, C, Dma, MatrixArray, Stationarity, VectorUnit

#: Operands that the array reads; the others go to the post stage.
MATRIX_OPERANDS = ("x", "x_down", "w", "a", "b")


@dataclass(frozen=True, slots=True)
class Grid:
    """The PE grid: what its rows and columns run over is the stationarity's choice.

    `vectors` are the elements of i, j and l (of C[i, j] += A[i, l] B[l, j]) that one beat touches.
    """

    rows: int
    cols: int
    stationarity: Stationarity

    def turned(self) -> "Grid":
        """The same PEs for a transposed product, whose second operand enters where the first one would."""
        if self.stationarity == "output":
            return Grid(self.cols, self.rows, "output")
        return Grid(self.rows, self.cols, "input" if self.stationarity == "weight" else "weight")

    @property
    def vectors(self) -> tuple[int, int, int]:
        if self.stationarity == "output":
            return self.rows, self.cols, 1
        if self.stationarity == "weight":
            return 1, self.cols, self.rows
        return self.cols, 1, self.rows

    @property
    def b_lanes(self) -> int:
        """Elements of B that enter the grid at once; of A it takes one a row."""
        return self.rows if self.stationarity == "input" else self.cols


@dataclass(frozen=True, slots=True)
class Machine:
    """What the generator takes from an architecture."""

    grid: Grid
    vector_lanes: int
    port_bits: int
    burst_words: int
    max_outstanding: int

    @staticmethod
    def of(architecture: Architecture) -> "Machine":
        """Raises InputError for an architecture without a matrix array, vector unit or DMA."""
        array = _first(architecture, MatrixArray)
        vector = _first(architecture, VectorUnit)
        dma = _first(architecture, Dma)
        bits = 8
        while bits * 2 <= min(MAX_PORT_BITS, dma.bytes_per_cycle * 8):
            bits *= 2
        return Machine(
            Grid(array.rows, array.cols * array.count, array.stationarity),
            vector.lanes,
            bits,
            max(2, min(256, dma.burst_bytes * 8 // bits)),
            max(1, min(256, dma.max_outstanding)),
        )


@dataclass(frozen=True, slots=True)
class Block:
    """An on-chip array rows x cols, padded to what the grid touches, and cyclic partition factors."""

    rows: int
    cols: int
    row_factor: int
    col_factor: int


@dataclass(frozen=True, slots=True)
class Engine:
    """One DATAFLOW region and the stages that run on it, in program order."""

    name: str
    stages: tuple[GemmStage, ...]
    grid: Grid

    @property
    def first(self) -> GemmStage:
        """Any stage of the engine: they share their structure."""
        return self.stages[0]

    @property
    def compute(self) -> tuple[Node, ...]:
        return compute_tree(self.first)

    def feed(self, operand: str) -> tuple[Node, ...]:
        return feed_tree(self.first, operand)

    @property
    def matrix_operands(self) -> tuple[str, ...]:
        return tuple(o.name for o in self.first.operands if o.name in MATRIX_OPERANDS)

    def trips(self, axis: str) -> tuple[int, int]:
        """The fewest and the most iterations of an axis over the stages."""
        trips = [stage.axis(axis).trips for stage in self.stages]
        return min(trips), max(trips)


def _first(architecture: Architecture, kind: type[C]) -> C:
    found = architecture.of_kind(kind)
    if not found:
        raise InputError(
            f"architecture {architecture.name!r} has no {kind.__name__}: no kernel can be written"
        )
    return found[0]


def structure(stage: GemmStage) -> tuple[object, ...]:
    """What decides the code of a stage; its sizes do not."""
    return (
        stage.transposed,
        tuple((axis.name, axis.dim, axis.sizes) for axis in stage.axes),
        tuple(
            (o.name, o.bits, o.row_dim, o.col_dim, o.copies, o.walk.axes, o.walk.depth)
            for o in stage.operands
        ),
        tuple((leaf.role, leaf.axes, leaf.a, leaf.b, leaf.a_depth, leaf.b_depth, leaf.c_depth)
              for leaf in stage.leaves),
        stage.sums_copies, stage.post.axes, stage.post.depth, stage.post_steps and tuple(
            (step.kind, step.side) for step in stage.post_steps), stage.bias_depth, len(stage.post_nests),
        (stage.output.bits, stage.output.copies, stage.output.walk.axes),
    )  # fmt: skip


def grid_of(stage: GemmStage, machine: Machine) -> Grid:
    return machine.grid.turned() if stage.transposed else machine.grid


def group(stages: Sequence[GemmStage], machine: Machine) -> tuple[Engine, ...]:
    """Engines in the order of their first stage."""
    found: dict[tuple[object, ...], list[GemmStage]] = {}
    for stage in stages:
        found.setdefault(structure(stage), []).append(stage)
    kinds = ["lora" if members[0].has_adapter else "gemm" for members in found.values()]
    names = [f"{kind}{kinds[:index].count(kind)}" for index, kind in enumerate(kinds)]
    return tuple(
        Engine(name, tuple(members), grid_of(members[0], machine))
        for name, members in zip(names, found.values(), strict=True)
    )


def port_lanes(engines: Sequence[Engine], machine: Machine) -> Mapping[str, int]:
    """Elements per word of every pointer argument; activations share one number, they share a memory."""
    lanes: dict[str, int] = {}
    for engine in engines:
        for stage in engine.stages:
            for operand in (*stage.operands, stage.output):
                port = "activations" if operand.name in ACTIVATIONS else operand.name
                vector = row_vector(operand, grid_of(stage, machine))
                inside = axes_inside_block(stage, operand)
                fitting = lanes_that_fit(stage, operand, vector, inside, machine.port_bits)
                lanes[port] = min(lanes.get(port, fitting), fitting)
    shared = lanes.pop("activations")
    return {**dict.fromkeys(ACTIVATIONS, shared), **lanes}


def row_vector(operand: Operand, grid: Grid) -> int | None:
    """How many neighbours of a row of the operand the grid takes at once; None where it takes single ones."""
    _, j, l = grid.vectors  # noqa: E741
    if operand.name in ("x", "x_down"):
        return l if grid.stationarity != "output" else None
    if operand.name in ("w", "a", "b"):
        return j if grid.stationarity != "input" else None
    return None


def operand_block(engine: Engine, name: str, lanes: int) -> Block:
    """The block of words of an operand of the array; columns are counted in words."""
    grid = engine.grid
    i, j, l = grid.vectors  # noqa: E741
    is_a = name in ("x", "x_down")
    row_unit, col_unit = (i, l) if is_a else (l, j)
    rows = cols = 1
    for stage in engine.stages:
        operand = stage.operand(name)
        inside = axes_inside_block(stage, operand)
        rows = max(rows, _padded(operand.block_rows, inside, operand.row_dim, row_unit))
        cols = max(cols, _padded(operand.block_cols, inside, operand.col_dim, col_unit))
    column_access = is_a if grid.stationarity == "output" else not is_a and grid.stationarity == "input"
    row_factor = row_unit if column_access else 1
    col_factor = 1 if column_access else max(1, col_unit // lanes)
    return Block(_up(rows, row_factor), _up(-(-cols // lanes), col_factor), row_factor, col_factor)


def sums_block(engine: Engine, post_width: int) -> Block:
    """The accumulators of a tile, in elements."""
    grid = engine.grid
    i, j, _ = grid.vectors
    rows = cols = 1
    for stage in engine.stages:
        axes = [stage.axis(name) for leaf in stage.leaves if leaf.role == "gemm"
                for name in leaf.axes[leaf.c_depth :]]  # fmt: skip
        rows = max(rows, _padded(stage.sums_block[0], axes, "m", i))
        cols = max(cols, _padded(stage.sums_block[1], axes, "n", j))
    row_factor = i if grid.stationarity == "input" else 1
    col_factor = lcm(j if grid.stationarity != "input" else 1, post_width)
    return Block(_up(rows, max(row_factor, 1)), _up(cols, col_factor), row_factor, col_factor)


def u_block(engine: Engine) -> Block:
    """u and its sums: C of the first product, A of the second."""
    grid = engine.grid
    i, j, l = grid.vectors  # noqa: E741
    rows = cols = 1
    for stage in engine.stages:
        axes = [stage.axis(name) for leaf in stage.leaves if leaf.role == "down"
                for name in leaf.axes[leaf.c_depth :]]  # fmt: skip
        rows = max(rows, _padded(stage.u_block[0], axes, "m", i))
        cols = max(cols, _padded(stage.u_block[1], axes, "r", lcm(j, l)))
    if grid.stationarity == "input":
        return Block(_up(rows, i), cols, i, l)
    if grid.stationarity == "output":
        return Block(_up(rows, i), cols, i, j)
    return Block(rows, cols, 1, lcm(j, l))


def _padded(extent: int, inside: Sequence[Axis], dim: Dim | None, unit: int) -> int:
    """Elements of a block so that a vector of `unit` that starts in the last tile stays inside."""
    if any(axis.dim == dim and axis.trips > 1 and axis.step % unit for axis in inside):
        return _up(extent + unit, unit)
    return _up(extent, unit)


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def fifo_words(engine: Engine, name: str, lanes: int) -> int:
    """Words of a stream that holds `copies` tiles of an operand of the post stage, or of the result."""
    words = 1
    for stage in engine.stages:
        operand = stage.output if name == "y" else stage.operand(name)
        axes = [stage.axis(axis) for axis in operand.walk.axes]
        rows = (
            tile_size([a for a in axes if a.dim == operand.row_dim], operand.rows) if operand.row_dim else 1
        )
        cols = tile_size([a for a in axes if a.dim == operand.col_dim], operand.cols)
        words = max(words, rows * -(-cols // lanes) * operand.copies)
    return words
