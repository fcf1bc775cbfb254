"""The stage of one product on the weight-stationary array: loads, products and stores of loop instructions.

Every loop instruction loads its whole input and weight tile, also where the one before had the same; two
instructions are in progress at a time. Sums stay in the accumulator and are stored once, at the end.
"""

from dataclasses import dataclass

from tilewright.dataflow.program import (
    Buffer,
    Compute,
    Direction,
    Loop,
    Nest,
    Pace,
    Port,
    Stage,
    Transfer,
    Unit,
    VectorWork,
)
from tilewright.sim.systolic_ws_layer import BLOCK, DIMS, SUMMED_DIMS, WsLayer, WsTiling, tile_rows

COPIES = 2
#: The loop over products of one operator (heads).
BATCH = "batch"
ACCUMULATOR_BITS = 32
HOST_TRIAL = "tiling_trial"

Tile = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class WsStage:
    """One product with its names: the operators that it stands for, its tensors and what its loads wait for."""

    name: str
    operators: tuple[str, ...]
    layer: WsLayer
    tiling: WsTiling
    tensors: tuple[str, str, str]  # input, weight, output
    batch: int = 1
    after: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())  # of the input's load, of the weight's


def stage_buffers(stage: WsStage) -> tuple[Buffer, Buffer, Buffer]:
    """Room for one instruction's tiles. Where a sum is spread over instructions with other tiles between them
    the hardware accumulates into the same rows, which gives its time but not its result."""
    layer, tile = stage.layer, stage.tiling.tile(stage.layer)
    spad, acc = tile_rows(layer, tile)
    weights = tile["r"] * tile["s"] * tile["c"] * -(-tile["k"] // BLOCK)
    return (
        Buffer(
            _name("a"),
            "input_buffer",
            (spad - weights) * BLOCK * layer.input_bytes,
            COPIES,
            8 * layer.input_bytes,
        ),
        Buffer(
            _name("b"), "weight_buffer", weights * BLOCK * layer.weight_bytes, COPIES, 8 * layer.weight_bytes
        ),
        Buffer(_name("c"), "output_buffer", acc * BLOCK * ACCUMULATOR_BITS // 8, COPIES, ACCUMULATOR_BITS),
    )


def _name(operand: str) -> str:
    return f"ws_{operand}"


def stage_nests(stage: WsStage, paces: dict[str, Pace]) -> Stage:
    """The nests of a product; `paces` as `sim.systolic_ws_memory.tile_paces` gives them.

    With a tiling that the host searched for, the loads wait for that search.
    """
    layer, tile = stage.layer, stage.tiling.tile(stage.layer)
    loops = _loops(stage)
    outer = _summed_from(loops)
    kept = (*loops[:outer], *(loop for loop in loops[outer:] if loop.rank not in SUMMED_DIMS))
    full = dict(tile)
    for loop in loops[outer:]:
        full[loop.rank] = loop.extent
    wide, high = (tile["p"] - 1) * layer.stride + tile["r"], (tile["q"] - 1) * layer.stride + tile["s"]
    a_tile: Tile = (("q", high), ("p", wide), ("c", tile["c"]))
    b_tile: Tile = (("s", tile["s"]), ("r", tile["r"]), ("c", tile["c"]), ("k", tile["k"]))
    c_tile: Tile = tuple((dim, tile[dim]) for dim in "qpk")
    sums: Tile = tuple((dim, full[dim]) for dim in "qpk")
    a, b = (Port(_name(operand), len(loops), part) for operand, part in (("a", a_tile), ("b", b_tile)))
    c = Port(_name("c"), outer, sums)
    host = _host(stage)
    waits = tuple(nest.name for nest in host)
    loads = [
        Nest(
            f"{stage.name}_load_{operand}",
            "dma_in",
            loops,
            leaf,
            (),
            (port,),
            (*stage.after[position], *waits),
        )
        for position, (operand, leaf, port) in enumerate(
            (
                ("input", _transfer(stage, 0, a_tile, paces["input"]), a),
                ("weight", _transfer(stage, 1, b_tile, paces["weight"]), b),
            )
        )
    ]
    product = Nest(f"{stage.name}_product", "array", loops, _product(stage, tile), (a, b), (c,))
    store = Nest(f"{stage.name}_store", "dma_out", kept, _transfer(stage, 2, c_tile, paces["output"]), (c,))
    return Stage(stage.name, stage.operators, (*host, *loads, product, store))


def _loops(stage: WsStage) -> tuple[Loop, ...]:
    """The instructions, outermost first; at least one loop."""
    sizes, tile = stage.layer.sizes(), stage.tiling.tile(stage.layer)
    loops = tuple(Loop(dim, sizes[dim], tile[dim]) for dim in stage.tiling.order if tile[dim] < sizes[dim])
    if stage.batch > 1 or not loops:
        loops = (Loop(BATCH, stage.batch, 1), *loops)
    return loops


def _summed_from(loops: tuple[Loop, ...]) -> int:
    """How many loops stand outside the first one that a sum runs over."""
    return next((at for at, loop in enumerate(loops) if loop.rank in SUMMED_DIMS), len(loops))


def _transfer(stage: WsStage, position: int, tile: Tile, pace: Pace) -> Transfer:
    layer = stage.layer
    element_bytes = (layer.input_bytes, layer.weight_bytes, layer.output_bytes)[position]
    direction = Direction.STORE if position == 2 else Direction.LOAD
    return Transfer(direction, stage.tensors[position], tile, 8 * element_bytes, tile[-1][1], pace=pace)


def _product(stage: WsStage, tile: dict[str, int]) -> Compute:
    rows = ("p",) if stage.layer.is_matmul else ("q", "p")
    return Compute(
        Unit.MATRIX,
        stage.operators,
        tuple((dim, tile[dim]) for dim in DIMS),
        m_ranks=rows,
        n_ranks=("k",),
        k_ranks=("s", "r", "c"),
        operand_bits=(8 * stage.layer.weight_bytes, 8 * stage.layer.input_bytes),
        accumulator_bits=ACCUMULATOR_BITS,
    )


def _host(stage: WsStage) -> tuple[Nest, ...]:
    """What the host computes before the first instruction."""
    if not stage.tiling.trials:
        return ()
    work = (VectorWork(HOST_TRIAL, (BATCH,), stage.tiling.trials),)
    leaf = Compute(Unit.VECTOR, stage.operators, ((BATCH, 1),), functions=work)
    return (Nest(f"{stage.name}_host", "host", (Loop(BATCH, 1, 1),), leaf),)
