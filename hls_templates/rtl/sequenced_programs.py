"""Programs that the sequencer runs, and the architecture on which the tile simulator takes them as built.

Activations enter the array from the north: a product is y[o, t] = W[o, i] x[i, t] with weights from the west, so that
the sums of the low-rank path u = A x leave the array in the order in which B u takes them.
"""

from math import prod

from tilewright.dataflow.program import (
    Buffer,
    Compute,
    Direction,
    Loop,
    Nest,
    Port,
    Program,
    Stage,
    Transfer,
    Unit,
    VectorWork,
)
from tilewright.dataflow.tensor import Role, Tensor
from tilewright.hls_templates.rtl.control import Grid
from tilewright.hls_templates.rtl.softmax import DEPTH_CYCLES, WEIGHT_BITS
from tilewright.sim.architecture import (
    Architecture,
    BufferMemory,
    Component,
    Dma,
    Dram,
    MatrixArray,
    MemoryRate,
    VectorUnit,
)

Tile = tuple[tuple[str, int], ...]
#: Bursts in flight of an engine that never waits for the memory's latency within a tile.
_UNLIMITED = 1 << 30
_SLOTS = {"w": "weight_buffer", "x": "input_buffer", "y": "output_buffer", "p": "output_buffer"}


def sequenced_architecture(
    grid: Grid, setup_cycles: int, latency_cycles: int, capacity_bytes: int = 1 << 24
) -> Architecture:
    """The hardware around the grid: engines of one channel, and a port of one beat (a row of sums) per cycle."""
    beat_bytes = grid.cols * grid.kind.pe.sum_bits // 8
    operand_bits = (grid.kind.pe.weight_bits, grid.kind.pe.activation_bits)
    components: tuple[Component, ...] = (
        MatrixArray(
            "array", grid.rows, grid.cols, "output", operand_bits, grid.kind.pe.sum_bits,
            drain_overlap=grid.kind.drain_overlap,
        ),
        BufferMemory("weight_buffer", capacity_bytes, 1, beat_bytes * 8, "lutram"),
        BufferMemory("input_buffer", capacity_bytes, 1, beat_bytes * 8, "lutram"),
        # a row of sums is read, added to and written in one cycle; the sums of an earlier product are read too
        BufferMemory("output_buffer", capacity_bytes, 3, beat_bytes * 8, "lutram"),
        VectorUnit("vector", grid.cols, 32, startup_cycles=DEPTH_CYCLES),
        Dma("dma_in", 1, beat_bytes, beat_bytes, _UNLIMITED, setup_cycles),
        Dma("dma_out", 1, beat_bytes, beat_bytes, _UNLIMITED, setup_cycles),
        Dram("dram", "port", 1, MemoryRate(beat_bytes, latency_cycles)),
    )  # fmt: skip
    names = [component.name for component in components if component.name != "dram"]
    return Architecture("sequenced", "asic45", 500.0, components, tuple((name, name) for name in names))


class _Builder:
    """Collects nests and buffers of one stage."""

    def __init__(self, grid: Grid, copies: int) -> None:
        self.grid = grid
        self.copies = copies
        self.buffers: dict[str, Buffer] = {}
        self.nests: list[Nest] = []
        self.tensors: list[Tensor] = []

    def port(self, buffer: str, kind: str, depth: int, tile: Tile, copies: int = 0) -> Port:
        kinds = {"w": self.grid.kind.west_bits, "x": self.grid.kind.north_bits, "p": WEIGHT_BITS}
        bits = kinds.get(kind, self.grid.kind.pe.sum_bits)
        n_bytes = -(-prod(size for _, size in tile) * bits // 8)
        self.buffers[buffer] = Buffer(buffer, _SLOTS[kind], n_bytes, copies or self.copies, bits)
        return Port(buffer, depth, tile)

    def move(self, name: str, tensor: str, loops: tuple[Loop, ...], port: Port) -> None:
        bits = self.buffers[port.buffer].element_bits
        is_store = tensor == "y"
        direction = Direction.STORE if is_store else Direction.LOAD
        leaf = Transfer(direction, tensor, port.tile, bits, prod(size for _, size in port.tile))
        ports = ((port,), ()) if is_store else ((), (port,))
        self.nests.append(Nest(name, "dma_out" if is_store else "dma_in", loops, leaf, *ports))
        ranks = tuple(rank for rank, _ in port.tile)
        dtype = "int32" if is_store else "int8"
        role = Role.WEIGHT if self.buffers[port.buffer].slot == "weight_buffer" else Role.ACTIVATION
        self.tensors.append(Tensor(tensor, ranks, dtype, role))

    def multiply(
        self, name: str, loops: tuple[Loop, ...], tile: Tile, reads: tuple[Port, ...], write: Port
    ) -> None:
        """C over the first two ranks of `tile`, summed over the third."""
        (m, _), (n, _), (k, _) = tile
        leaf = Compute(
            Unit.MATRIX, (name,), tile, (m,), (n,), (k,),
            operand_bits=(self.grid.kind.west_bits, self.grid.kind.north_bits),
            accumulator_bits=self.grid.kind.pe.sum_bits,
        )  # fmt: skip
        self.nests.append(Nest(name, "array", loops, leaf, reads, (write,)))

    def evaluate(
        self,
        name: str,
        loops: tuple[Loop, ...],
        works: tuple[tuple[str, tuple[str, ...]], ...],
        read: Port,
        write: Port,
    ) -> None:
        """Functions of a tile on the vector unit."""
        functions = tuple(VectorWork(function, ranks) for function, ranks in works)
        leaf = Compute(Unit.VECTOR, (name,), read.tile, functions=functions)
        self.nests.append(Nest(name, "vector", loops, leaf, (read,), (write,)))

    def program(self, name: str) -> Program:
        operators = tuple(nest.name for nest in self.nests if nest.slot == "array")
        stage = Stage(name, operators, tuple(self.nests))
        return Program(name, tuple(self.tensors), tuple(self.buffers.values()), (stage,))


def gemm_program(grid: Grid, o: int, t: int, i: int, tile: tuple[int, int, int], copies: int = 2) -> Program:
    """y[o, t] = W[o, i] x[i, t] in tiles of (o, t, i), sums kept on chip along i; `copies` 2 is double buffering."""
    tile_o, tile_t, tile_i = min(tile[0], o), min(tile[1], t), min(tile[2], i)
    build = _Builder(grid, copies)
    outer = (Loop("t", t, tile_t), Loop("o", o, tile_o))
    loops = (*outer, Loop("i", i, tile_i))
    w = build.port("w", "w", 3, (("o", tile_o), ("i", tile_i)))
    x = build.port("x", "x", 3, (("i", tile_i), ("t", tile_t)))
    y = build.port("y", "y", 2, (("o", tile_o), ("t", tile_t)))
    build.move("load_x", "x", loops, x)
    build.move("load_w", "w", loops, w)
    build.multiply("gemm", loops, (("o", tile_o), ("t", tile_t), ("i", tile_i)), (w, x), y)
    build.move("store_y", "y", outer, y)
    return build.program("gemm")


def lora_program(
    grid: Grid, o: int, t: int, i: int, rank: int, tile: tuple[int, int], copies: int = 2
) -> Program:
    """y = W x + B (A x) in tiles of (o, t) with i whole: x is loaded once, A stays, u = A x never leaves the chip."""
    tile_o, tile_t = min(tile[0], o), min(tile[1], t)
    build = _Builder(grid, copies)
    over_t = (Loop("t", t, tile_t),)
    loops = (*over_t, Loop("o", o, tile_o))
    x = build.port("x", "x", 1, (("i", i), ("t", tile_t)))
    a = build.port("a", "w", 0, (("r", rank), ("i", i)), copies=1)
    u = build.port("u", "y", 1, (("r", rank), ("t", tile_t)))
    w = build.port("w", "w", 2, (("o", tile_o), ("i", i)))
    b = build.port("b", "w", 2, (("o", tile_o), ("r", rank)))
    base = build.port("base", "y", 2, (("o", tile_o), ("t", tile_t)))
    y = build.port("y", "y", 2, (("o", tile_o), ("t", tile_t)))
    build.move("load_x", "x", over_t, x)
    build.move("load_a", "a", (Loop("r", rank, rank),), a)
    build.move("load_w", "w", loops, w)
    build.move("load_b", "b", loops, b)
    build.multiply("lora_down", over_t, (("r", rank), ("t", tile_t), ("i", i)), (a, x), u)
    build.multiply("gemm", loops, (("o", tile_o), ("t", tile_t), ("i", i)), (w, x), base)
    build.multiply(
        "lora_up", loops, (("o", tile_o), ("t", tile_t), ("r", rank)), (b, Port("u", 1, u.tile), base), y
    )
    build.move("store_y", "y", loops, y)
    return build.program("lora")


def attention_program(
    grid: Grid, queries: int, keys: int, e: int, f: int, tile: tuple[int, int], copies: int = 2
) -> Program:
    """y[f, q] = V[f, j] softmax(K[j, e] Q[e, q]) of one head in one pass, in tiles of (queries, keys).

    Scores and weights never leave the chip; maximum, sum and mixed values go on from tile to tile.
    """
    tile_q, tile_j = min(tile[0], queries), min(tile[1], keys)
    build = _Builder(grid, copies)
    over_q = (Loop("q", queries, tile_q),)
    loops = (*over_q, Loop("j", keys, tile_j))
    q = build.port("q", "x", 1, (("e", e), ("q", tile_q)))
    k = build.port("k", "w", 2, (("j", tile_j), ("e", e)))
    v = build.port("v", "w", 2, (("f", f), ("j", tile_j)))
    s = build.port("s", "y", 2, (("j", tile_j), ("q", tile_q)))
    p = build.port("p", "p", 2, s.tile)
    o = build.port("o", "y", 1, (("f", f), ("q", tile_q)))
    y = build.port("y", "y", 1, o.tile)
    build.move("load_q", "q", over_q, q)
    build.move("load_k", "k", loops, k)
    build.move("load_v", "v", loops, v)
    build.multiply("score", loops, (*s.tile, ("e", e)), (k, q), s)
    build.evaluate("softmax", loops, (("max", ("j", "q")), ("exp", ("q",)), ("sub_exp", ("j", "q"))), s, p)
    build.multiply("mix", loops, (*o.tile, ("j", tile_j)), (v, p), o)
    build.evaluate("divide", over_q, (("reciprocal", ("q",)), ("mul", ("f", "q"))), o, y)
    build.move("store_y", "y", over_q, y)
    return build.program("attention")
