"""The family `systolic_ws`: a weight-stationary array with scratchpad and accumulator, as Gemmini builds it.

docs/hardware.md describes the model, what was measured, and how far it is off.
"""

from collections.abc import Mapping
from math import prod

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Index, Operator
from tilewright.dataflow.program import Program
from tilewright.dataflow.tensor import Role, Tensor
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
from tilewright.sim.device import Device
from tilewright.sim.fitted import constants_of
from tilewright.sim.mapper_machine import Machine, machine_of
from tilewright.sim.mapping import OBJECTIVES, MappingError
from tilewright.sim.sequential_emit import Emitter
from tilewright.sim.sequential_narrow import with_narrow_operands
from tilewright.sim.sequential_picks import with_grouped_picks
from tilewright.sim.sequential_plan import (
    Fusion,
    GemmPlan,
    MovePlan,
    Roles,
    VectorPlan,
    plan_graph,
    roles_of,
)
from tilewright.sim.sequential_rooms import divide_buffers
from tilewright.sim.sequential_space import CYCLES_PER_EVALUATION
from tilewright.sim.sequential_vector import VectorStage, emit_move
from tilewright.sim.space import Parameter, Space, Value
from tilewright.sim.systolic_ws_emit import COPIES, HOST_TRIAL, WsStage, stage_buffers, stage_nests
from tilewright.sim.systolic_ws_layer import BLOCK, WsLayer, WsTiling, library_tiling, tile_rows
from tilewright.sim.systolic_ws_memory import BEAT_BYTES, REQUEST_BYTES, WsConstants, tile_paces

NAME = "systolic_ws"
# Cycles of the in-order host for one tile that its library tries: a round figure that suits default tilings.
_TRIAL_CYCLES = 90
_HOST_CYCLES = 300  # of the host's own loop around one layer: commands, fence
_REQUESTS_IN_FLIGHT = 16
_COMMANDS_OF_STEP = 2  # preload and compute
_LAYER_TENSORS = ("input", "weight", "output")


def _clocks(device: Device) -> tuple[float, ...]:
    low, high = device.clock_range_mhz
    return tuple(sorted({low, device.default_clock_mhz, high}))


class SystolicWs:
    """Gemmini: every product in loop instructions, tiled as its library does; other operators on lanes."""

    name = NAME
    summary = "weight-stationary array with scratchpad and accumulator, as Gemmini"
    device_classes = ("asic", "fpga")

    def space(self, device: Device) -> Space:
        return Space(
            (
                Parameter("scratchpad_kib", (64, 128, 256, 512, 1024, 2048, 4096), 256, "inputs and weights"),
                Parameter("accumulator_kib", (16, 32, 64, 128, 256, 1024, 4096), 64, "sums of 32 bits"),
                Parameter("vector_lanes", (4, 8, 16, 32, 64), 16, "for all but products, beside the array"),
                Parameter("clock_mhz", _clocks(device), device.default_clock_mhz, "clock of the whole chip"),
            ),
            constants_of(NAME, device.name),
        )

    def build(self, parameters: Mapping[str, Value], device: Device) -> Architecture:
        """The chip; inputs and weights have half of the scratchpad each."""
        chosen = self.space(device).complete(parameters)
        half = int(chosen["scratchpad_kib"]) * 512
        clock_mhz = float(chosen["clock_mhz"])
        rate = MemoryRate(float(BEAT_BYTES), round(float(chosen["memory_latency_cycles"])))
        components: tuple[Component, ...] = (
            MatrixArray(
                "array", BLOCK, BLOCK, "weight", (8, 8), 32, discipline="preloaded",
                issue_cycles=_COMMANDS_OF_STEP * float(chosen["issue_interval_cycles"]),
            ),
            VectorUnit("vector", int(chosen["vector_lanes"]), 32, CYCLES_PER_EVALUATION),
            VectorUnit("host", 1, 32, ((HOST_TRIAL, _TRIAL_CYCLES),), _HOST_CYCLES),
            BufferMemory("scratchpad_inputs", half, 2, 128, "sram" if not device.is_fpga else "bram"),
            BufferMemory("scratchpad_weights", half, 2, 128, "sram" if not device.is_fpga else "bram"),
            BufferMemory(
                "accumulator", int(chosen["accumulator_kib"]) * 1024, 2, 512,
                "sram" if not device.is_fpga else "bram",
            ),
            # the two loads of an instruction share the bus; a second channel hides the latency of one
            Dma("dma_in", 2, BEAT_BYTES, REQUEST_BYTES, _REQUESTS_IN_FLIGHT, 0),
            Dma("dma_out", 1, BEAT_BYTES, REQUEST_BYTES, _REQUESTS_IN_FLIGHT, 0),
            Dram("dram", device.memory_config, 1, rate),
        )  # fmt: skip
        slots = (
            ("array", "array"), ("vector", "vector"), ("host", "host"), ("input_buffer", "scratchpad_inputs"),
            ("weight_buffer", "scratchpad_weights"), ("output_buffer", "accumulator"), ("dma_in", "dma_in"),
            ("dma_out", "dma_out"),
        )  # fmt: skip
        return Architecture(NAME, device.name, clock_mhz, components, slots, tuple(chosen.items()))

    def schedule(self, graph: Graph, architecture: Architecture, objective: str = "latency") -> Program:
        """Products in the library's tiles, one after another; everything else on the lanes.

        Raises MappingError for an objective that is none, or an operator whose tile does not fit.
        """
        if objective not in OBJECTIVES:
            raise MappingError(f"objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
        return _Scheduler(graph, machine_of(architecture)).program()


def layer_program(
    layer: WsLayer, tiling: WsTiling, architecture: Architecture, name: str = "layer"
) -> Program:
    """The program of one layer with a given tiling, from memory to memory.

    Raises MappingError where two tiles exceed the scratchpad or the accumulator (rows, limit).
    """
    check_rows(layer, tiling, architecture, name)
    stage = WsStage(name, (name,), layer, tiling, _LAYER_TENSORS)
    tensors = tuple(Tensor(tensor, ("elements",), "int8", Role.ACTIVATION) for tensor in _LAYER_TENSORS)
    nests = stage_nests(stage, tile_paces(layer, tiling, constants_from(architecture)))
    return Program(name, tensors, stage_buffers(stage), (nests,))


def check_rows(layer: WsLayer, tiling: WsTiling, architecture: Architecture, name: str) -> None:
    """Raises MappingError unless two copies of a tile fit, inputs and weights sharing the scratchpad."""
    needed = tile_rows(layer, tiling.tile(layer))
    for memory, rows, limit in zip(
        ("scratchpad", "accumulator"), needed, row_limits(architecture), strict=True
    ):
        if COPIES * rows > limit:
            raise MappingError(f"{name}: two tiles of {rows} rows do not fit in the {memory} of {limit} rows")


def row_limits(architecture: Architecture) -> tuple[int, int]:
    """Rows of the scratchpad (16 bytes) and of the accumulator (16 sums of 4 bytes)."""
    components = architecture.component_by_slot
    inputs, weights, sums = (
        int(getattr(components[slot], "capacity_bytes", 0))
        for slot in ("input_buffer", "weight_buffer", "output_buffer")
    )
    return (inputs + weights) // BLOCK, sums // (4 * BLOCK)


def constants_from(architecture: Architecture) -> WsConstants:
    """The fitted constants that an architecture was built with."""
    chosen = dict(architecture.parameters)
    return WsConstants(
        float(chosen["memory_latency_cycles"]),
        float(chosen["bus_efficiency"]),
        float(chosen["issue_interval_cycles"]),
    )


class _Scheduler:
    """Schedules one graph on one machine."""

    def __init__(self, graph: Graph, machine: Machine) -> None:
        self._graph, self._aliases = with_grouped_picks(with_narrow_operands(graph, machine.array))
        self._machine = machine
        self._constants = constants_from(machine.architecture)

    def program(self) -> Program:
        """Every operator by itself; only the functions of common rows share a stage."""
        plan = plan_graph(self._graph, Fusion(False, False, False), self._aliases)
        rooms = divide_buffers(self._graph, self._machine, plan, COPIES)
        emitter = Emitter(self._graph, self._machine, COPIES, dict(plan.aliases))
        for stage in plan.stages:
            if isinstance(stage, GemmPlan):
                self._product(emitter, stage)
            elif isinstance(stage, VectorPlan):
                VectorStage.emit(emitter, stage, rooms)
            else:
                assert isinstance(stage, MovePlan)  # attention is not fused
                emit_move(emitter, stage, rooms)
        return emitter.program()

    def _product(self, emitter: Emitter, plan: GemmPlan) -> None:
        operator = plan.contraction
        layer = ws_layer(self._graph, operator)
        spad_rows, acc_rows = row_limits(self._machine.architecture)
        wide = max(layer.input_bytes, layer.weight_bytes)
        try:
            tiling = library_tiling(layer, spad_rows // (COPIES * wide), acc_rows // COPIES)
        except InputError as error:
            raise MappingError(f"operator {operator.name!r}: {error}") from None
        a, b = operator.inputs
        batch = operator.repeat * prod(self._graph.size(rank) for rank in plan.roles.batch)
        after = emitter.after(a.tensor), emitter.after(b.tensor)
        stage = WsStage(
            plan.name, (operator.name,), layer, tiling,
            (a.tensor, b.tensor, operator.output.tensor), batch, after,
        )  # fmt: skip
        for buffer in stage_buffers(stage):
            part = (("bytes", buffer.slot_bytes),)
            emitter.port(buffer.name, buffer.slot, 0, part, 8, buffer.copies)
        nests = stage_nests(stage, tile_paces(layer, tiling, self._constants)).nests
        emitter.add_stage(plan.name, plan.operators, nests)


def ws_layer(graph: Graph, operator: Operator) -> WsLayer:
    """A contraction as a layer: an image under a square-strided window, else a product of matrices.

    Other windows become the matrix that holds every patch.
    """
    roles = roles_of(operator)
    sizes = {name: prod(graph.size(rank) for rank in ranks)
             for name, ranks in (("p", roles.m), ("k", roles.n), ("c", roles.k))}  # fmt: skip
    width = {
        name: -(-graph.tensor_by_name[access.tensor].bits // 8)
        for name, access in zip(
            ("input_bytes", "weight_bytes", "output_bytes"), (*operator.inputs, operator.output), strict=True
        )
    }
    windows = [window for index in operator.inputs[0].indices if (window := _window(index, roles))]
    if len(windows) != 2 or len({stride for _, _, stride in windows}) != 1:
        return WsLayer(True, sizes["p"], 1, sizes["c"], sizes["k"], **width)
    (q, s, stride), (p, r, _) = windows
    image = {"q": q, "p": p, "s": s, "r": r}
    of = {dim: graph.size(rank) for dim, rank in image.items()}
    rest = prod(graph.size(rank) for rank in roles.m if rank not in (p, q))
    channels = prod(graph.size(rank) for rank in roles.k if rank not in (r, s))
    return WsLayer(False, of["p"], of["q"] * rest, channels, sizes["k"], of["r"], of["s"], stride, **width)


def _window(index: Index, roles: Roles) -> tuple[str, str, int] | None:
    """(rank of the image, rank of the window, stride) of an index that is the sum of two."""
    if len(index.terms) != 2:
        return None
    image = [term for term in index.terms if term.rank in roles.m]
    window = [term for term in index.terms if term.rank in roles.k]
    if len(image) != 1 or len(window) != 1 or window[0].coefficient != 1:
        return None
    return image[0].rank, window[0].rank, image[0].coefficient
