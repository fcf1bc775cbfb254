"""A covered stage as values: its axes, its operands with their tiles, its leaves in a merged order."""

from dataclasses import dataclass
from typing import Literal

Dim = Literal["m", "n", "k", "r"]
Role = Literal["down", "gemm", "up"]


class NotCoveredError(ValueError):
    """A stage that the generated kernel does not compute; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A loop over one dimension of the matrices, in flattened elements of that dimension.

    Iteration i starts at i * step. An axis that `sizes` its dimension covers `size` elements, `last` in its
    last iteration; another one only moves the start (a batch item, a head).
    """

    name: str
    dim: Dim
    trips: int
    step: int
    size: int
    last: int
    sizes: bool


@dataclass(frozen=True, slots=True)
class Walk:
    """The loops of a nest by axis name, outermost first, and how many of them select its tile."""

    nest: str
    axes: tuple[str, ...]
    depth: int


@dataclass(frozen=True, slots=True)
class Operand:
    """A matrix in DRAM (rows x cols) and the block of it that a channel carries.

    `walk` is the nest that loads it; `block_rows` and `block_cols` are a full block's elements;
    `copies` is the depth of the channel.
    """

    name: str
    tensor: str
    bits: int
    row_dim: Dim | None
    col_dim: Dim
    rows: int
    cols: int
    block_rows: int
    block_cols: int
    copies: int
    walk: Walk


@dataclass(frozen=True, slots=True)
class MatrixLeaf:
    """C[i, j] += A[i, l] * B[l, j] at one point of its loops; operands by name, "u" is on chip.

    The depths say which of the loops select the tile of each operand.
    """

    role: Role
    nest: str
    axes: tuple[str, ...]
    dims: tuple[Dim, Dim, Dim]  # of i, j and l
    a: str
    b: str
    a_depth: int
    b_depth: int
    c_depth: int


@dataclass(frozen=True, slots=True)
class PostStep:
    """One map on the output tile.

    A bias is added to the sums; a function by table and what is combined with a second matrix (`side`, an
    operand's name) follow the requantisation: "residual" adds it, "scaled" a multiple of it, "product"
    multiplies.
    """

    kind: Literal["bias", "residual", "scaled", "product", "table"]
    function: str = ""
    side: str = ""


@dataclass(frozen=True, slots=True)
class GemmStage:
    """Everything the generator prints about one stage.

    `sums_block` and `u_block` are (rows, cols) of the accumulators' and of u's block, `sums_copies` the
    depth of the channel of sums. `post_nests` are the vector nests that run inside `post`. A `transposed`
    stage has n on the rows of the grid and m on its columns.
    """

    name: str
    transposed: bool
    axes: tuple[Axis, ...]
    extents: tuple[tuple[Dim, int], ...]
    operands: tuple[Operand, ...]
    leaves: tuple[MatrixLeaf, ...]
    sums_block: tuple[int, int]
    sums_copies: int
    u_block: tuple[int, int]
    post: Walk
    post_nests: tuple[str, ...]
    post_steps: tuple[PostStep, ...]
    bias_depth: int
    output: Operand
    axis_names: tuple[tuple[tuple[str, str], str], ...]  # (nest, rank) to axis
    nests: tuple[tuple[str, int], ...]  # every nest of the stage and its leaf executions

    def axis(self, name: str) -> Axis:
        return next(axis for axis in self.axes if axis.name == name)

    def operand(self, name: str) -> Operand:
        return next(operand for operand in self.operands if operand.name == name)

    def extent(self, dim: Dim) -> int:
        return dict(self.extents)[dim]

    @property
    def has_adapter(self) -> bool:
        return any(leaf.role == "up" for leaf in self.leaves)

    @property
    def macs(self) -> int:
        size = dict(self.extents)
        low_rank = size["m"] * size["r"] * (size["k"] + size["n"]) if self.has_adapter else 0
        return size["m"] * size["n"] * size["k"] + low_rank
