"""A product of activations and weights on the array of the family: rows of activations by columns of weights.

The reduction runs in time and completes in the PEs. The buffer holds a block of rows with all of the reduction
beside a tile of weight columns, or all weights where they fit: then those are read once.
"""

from dataclasses import dataclass
from math import prod

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Operator
from tilewright.dataflow.program import Direction, Loop, Program
from tilewright.sim.fused_attention_emit import STREAM, AttentionEmitter
from tilewright.sim.fused_attention_flat import Grid
from tilewright.sim.fused_attention_shape import AttentionShape
from tilewright.sim.mapping import MappingError
from tilewright.sim.sequential_plan import is_gemm, roles_of

_PIECE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class LinearSchedule:
    """y[m, n] = x[m, k] w[k, n], sizes in elements; `tensors` are x, w and y."""

    operator: str
    m: int
    n: int
    k: int
    element_bits: int
    tensors: tuple[str, str, str]
    grid: Grid

    @property
    def keeps_weights(self) -> bool:
        """Whether all weights fit beside one tile of rows."""
        return (
            self.n + min(self.grid.rows, self.m)
        ) * self.k * self.element_bits // 8 <= self.grid.buffer_bytes

    def block(self) -> int:
        """Rows of a block: the largest power of two that fits beside two tiles of weight columns.

        Raises MappingError if not even one row does.
        """
        if self.keeps_weights:
            return min(self.grid.rows, self.m)
        words = self.grid.buffer_bytes * 8 // self.element_bits
        room = words // self.k - 2 * min(self.grid.cols, self.n)
        if room < 1:
            raise MappingError(
                f"product {self.operator!r}: {2 * min(self.grid.cols, self.n) + 1} rows and columns of {self.k}"
                f" elements do not fit in {self.grid.buffer_bytes} bytes"
            )
        return int(min(self.m, 1 << (room.bit_length() - 1)))

    def program(self, name: str) -> Program:
        """The schedule as loops and tokens on the slots of the family."""
        block, rows = self.block(), min(self.grid.rows, self.block())
        cols = min(self.grid.cols, self.n)
        loops = (Loop("block", self.m, block), Loop("n", self.n, cols), Loop("m", block, rows))
        shape = AttentionShape(
            1, self.m, self.n, self.k, self.k, self.element_bits,
            (self.tensors[0], self.tensors[1], f"{self.operator}.unused", self.tensors[2]), (self.operator,),
        )  # fmt: skip
        emit = AttentionEmitter(shape, _PIECE_BYTES)
        fits_twice = (
            2 * block * self.k * self.element_bits // 8 + self._weight_bytes() <= self.grid.buffer_bytes
        )
        x = emit.port("X", 1, (("m", block), ("k", self.k)), copies=2 if fits_twice else 1)
        y = emit.port("Y", 3, (("m", rows), ("n", cols)), slot=STREAM)
        emit.move("load_X", "Q", Direction.LOAD, loops[:1], block * self.k, (), (x,))
        if self.keeps_weights:
            w = emit.port("W", 0, (("k", self.k), ("n", self.n)), copies=1)
            emit.move("load_W", "K", Direction.LOAD, (Loop("all", 1, 1),), self.n * self.k, (), (w,))
        else:
            w = emit.port("W", 2, (("k", self.k), ("n", cols)), copies=2)
            emit.move("load_W", "K", Direction.LOAD, loops[:2], cols * self.k, (), (w,))
        tile = (("m", rows), ("n", cols), ("k", self.k))
        emit.multiply(self.operator, loops, tile, ("m", "n", "k"), (x, w), (y,), float(self.k))
        emit.move("store_Y", "AV", Direction.STORE, loops, rows * cols, (y,))
        emit.end_stage(name)
        return emit.program(name)

    def _weight_bytes(self) -> int:
        held = self.n if self.keeps_weights else 2 * min(self.grid.cols, self.n)
        return held * self.k * self.element_bits // 8


def linear_of(graph: Graph, operators: list[Operator], grid: Grid) -> LinearSchedule | None:
    """The schedule of a single product of two matrices; None for anything else."""
    if len(operators) != 1 or not is_gemm(operators[0], graph):
        return None
    operator, roles = operators[0], roles_of(operators[0])
    if roles.batch or operator.mask or operator.repeat != 1 or not (roles.m and roles.n and roles.k):
        return None
    m, n, k = (prod(graph.size(rank) for rank in ranks) for ranks in (roles.m, roles.n, roles.k))
    names = (operator.inputs[0].tensor, operator.inputs[1].tensor, operator.output.tensor)
    bits = max(graph.tensor_by_name[name].bits for name in names)
    return LinearSchedule(operator.name, m, n, k, bits, names, grid)
