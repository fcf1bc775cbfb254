"""Hypothesis strategies shared by tests: small programs whose tokens match, and hardware to run them."""

from collections.abc import Mapping
from math import prod

from hypothesis import strategies as st

from tilewright.dataflow.program import (
    Buffer,
    Compute,
    Direction,
    Limit,
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
from tilewright.sim.architecture import (
    Architecture,
    BufferMemory,
    Dma,
    Dram,
    MatrixArray,
    MemoryKind,
    Stationarity,
    VectorUnit,
)

GEMM_TENSORS = (
    Tensor("x", ("m", "k"), "int8", Role.ACTIVATION),
    Tensor("w", ("k", "n"), "int8", Role.WEIGHT),
    Tensor("y", ("m", "n"), "int8", Role.ACTIVATION),
)


@st.composite
def loop_nests(draw: st.DrawFn, max_extent: int = 12) -> tuple[Loop, ...]:
    """One to three loops over m, n, k with remainders; an inner one may be triangular."""
    names = draw(st.permutations(("m", "n", "k")))[: draw(st.integers(1, 3))]
    loops: list[Loop] = []
    for name in names:
        extent = draw(st.integers(1, max_extent))
        tile = draw(st.integers(1, extent))
        limit = None
        if loops and draw(st.booleans()):
            of = draw(st.sampled_from([loop.rank for loop in loops]))
            limit = Limit(of, draw(st.integers(-max_extent, max_extent)))
        loops.append(Loop(name, extent, tile, limit))
    return tuple(loops)


@st.composite
def gemm_stages(draw: st.DrawFn, name: str, max_extent: int = 12) -> tuple[Stage, tuple[Buffer, ...]]:
    """A `gemm_stage` over random loops; the output's token spans the reduction loop."""
    loops = draw(loop_nests(max_extent))
    full = {rank: draw(st.integers(1, max_extent)) for rank in ("m", "n", "k")}
    reduction = [position for position, loop in enumerate(loops) if loop.rank == "k"]
    depths = (
        draw(st.integers(0, len(loops))),
        draw(st.integers(0, len(loops))),
        draw(st.integers(0, reduction[0] if reduction else len(loops))),
    )
    bits = draw(st.sampled_from((4, 8, 16)))
    return gemm_stage(name, loops, depths, bits, draw(st.booleans()), full, draw(st.integers(1, 3)))


def gemm_stage(
    name: str,
    loops: tuple[Loop, ...],
    depths: tuple[int, int, int],
    bits: int = 8,
    with_vector: bool = False,
    full: Mapping[str, int] | None = None,
    copies: int = 2,
) -> tuple[Stage, tuple[Buffer, ...]]:
    """Loads of x and w, a GEMM, perhaps a vector nest, a store; tokens match at every buffer.

    `depths` are those of x, w and y; `full` gives the extents of ranks without a loop.
    """
    sizes = dict(full or {}) | {loop.rank: loop.extent for loop in loops}
    leaf_tile = sizes | {loop.rank: loop.tile for loop in loops}

    def port(buffer: str, ranks: tuple[str, ...], depth: int) -> Port:
        outer = {loop.rank: loop.tile for loop in loops[:depth]}
        return Port(f"{name}_{buffer}", depth, tuple((rank, outer.get(rank, sizes[rank])) for rank in ranks))

    x, w = port("x", ("m", "k"), depths[0]), port("w", ("k", "n"), depths[1])
    y, z = port("y", ("m", "n"), depths[2]), port("z", ("m", "n"), depths[2])

    def load(at: Port, tensor: str) -> Nest:
        leaf = Transfer(Direction.LOAD, tensor, at.tile, bits, at.tile[-1][1])
        return Nest(f"load_{at.buffer}", "dma_in", loops[: at.depth], leaf, writes=(at,))

    gemm = Compute(
        Unit.MATRIX, (f"{name}_gemm",), tuple(leaf_tile.items()), ("m",), ("n",), ("k",),
        operand_bits=(bits, bits),
    )  # fmt: skip
    nests = [load(x, "x"), load(w, "w"), Nest(f"{name}_gemm", "array", loops, gemm, (x, w), (y,))]
    buffers = [(x, "input_buffer", bits), (w, "weight_buffer", bits), (y, "output_buffer", 32)]
    result, outer = y, loops[: depths[2]]
    if with_vector:
        work = (VectorWork("gelu", ()), VectorWork("max", ("m",), 2))
        vector = Compute(Unit.VECTOR, (f"{name}_act",), y.tile, functions=work)
        nests.append(Nest(f"{name}_act", "vector", outer, vector, (y,), (z,)))
        buffers.append((z, "output_buffer", bits))
        result = z
    store = Transfer(Direction.STORE, "y", result.tile, bits, dict(result.tile)["n"])
    nests.append(Nest(f"store_{name}", "dma_out", outer, store, reads=(result,)))
    made = tuple(
        Buffer(at.buffer, slot, -(-prod(size for _, size in at.tile) * width // 8), copies, width)
        for at, slot, width in buffers
    )
    return Stage(name, (f"{name}_gemm",), tuple(nests)), made


@st.composite
def programs(draw: st.DrawFn, max_stages: int = 2, max_extent: int = 12) -> Program:
    """One or more GEMM stages for `small_architecture`; a later stage may wait for an earlier one."""
    stages: list[Stage] = []
    buffers: tuple[Buffer, ...] = ()
    for position in range(draw(st.integers(1, max_stages))):
        stage, own = draw(gemm_stages(f"s{position}", max_extent))
        if stages and draw(st.booleans()):
            first, *rest = stage.nests
            waiting = Nest(
                first.name, first.slot, first.loops, first.leaf, first.reads, first.writes,
                (stages[-1].nests[-1].name,),
            )  # fmt: skip
            stage = Stage(stage.name, stage.operators, (waiting, *rest))
        stages.append(stage)
        buffers += own
    return Program("random", GEMM_TENSORS, buffers, tuple(stages))


def small_architecture(
    device: str = "asic7",
    stationarity: Stationarity = "output",
    rows: int = 4,
    cols: int = 3,
    count: int = 1,
    channels: int = 4,
) -> Architecture:
    """The slots of `programs` on few components; its buffers hold any program that `programs` draws."""
    on_chip: MemoryKind = "bram" if not device.startswith("asic") else "sram"
    return Architecture(
        "small",
        device,
        200.0,
        (
            MatrixArray("array", rows, cols, stationarity, (8, 8), 32, count=count),
            VectorUnit("vector", 4, 16, (("gelu", 2),)),
            BufferMemory("input_buffer", 64 * 1024, 4, 64, on_chip),
            BufferMemory("weight_buffer", 64 * 1024, 4, 64, on_chip),
            BufferMemory("output_buffer", 64 * 1024, 4, 64, on_chip),
            Dma("dma_in", 2, 32, 256, 4),
            Dma("dma_out", 1, 32, 256, 4),
            Dram("dram", "hbm2_pc_bg", channels),
        ),
        tuple(
            (name, name)
            for name in (
                "array",
                "vector",
                "dma_in",
                "dma_out",
                "input_buffer",
                "weight_buffer",
                "output_buffer",
            )
        ),
    )


@st.composite
def architectures(draw: st.DrawFn, device: str = "asic7") -> Architecture:
    """`small_architecture` with a random array."""
    return small_architecture(
        device,
        draw(st.sampled_from(("output", "weight", "input"))),
        draw(st.integers(1, 5)),
        draw(st.integers(1, 5)),
        draw(st.integers(1, 3)),
    )
