"""The family `fused_attention`: one array, a row of lanes beside it, and attention scheduled as a whole.

`docs/fused_attention.md` describes the hardware, the schedules and where they come from.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Literal, get_args

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Operator
from tilewright.dataflow.program import Buffer, Direction, Nest, Port, Program, Stage, Transfer
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
from tilewright.sim.fused_attention_cascade import CascadeSchedule
from tilewright.sim.fused_attention_emit import PES, STAGING, STREAM, WAVE
from tilewright.sim.fused_attention_flat import FlatChoice, FlatSchedule, Grid
from tilewright.sim.fused_attention_linear import linear_of
from tilewright.sim.fused_attention_shape import AttentionShape, attentions_of
from tilewright.sim.fused_attention_unfused import UnfusedSchedule
from tilewright.sim.sequential import Sequential
from tilewright.sim.sequential_space import CYCLES_PER_EVALUATION
from tilewright.sim.space import Parameter, Space, Value

Schedule = Literal["unfused", "flat", "cascade", "phased", "interleaved"]
_BITS = {"int8": (8, 32), "fp16": (16, 16)}  # operands, sums
_BURST_BYTES = 1024
_MAX_OUTSTANDING = 64
_PORT_BITS = 128
# What a PE does in one cycle, a dedicated exponential and a pipelined divider among it.
_ONE_CYCLE = ("max", "add", "sub", "sum", "mac", "div", "exp", "sub_exp")


class FusedAttention:
    """Attention in one schedule of five on one array; all other operators one after another."""

    name = "fused_attention"
    summary = "an array and a row of lanes run attention fused by rows (FLAT) or in one pass (FuseMax)"

    def space(self, device: Device) -> Space:
        # The PEs of an FPGA's array multiply and add, no more: exponentials stay with the lanes.
        schedules = get_args(Schedule)[:3] if device.is_fpga else get_args(Schedule)
        edges = (16, 32, 64, 128, 256, 512) if not device.is_fpga else (8, 16, 32, 64)
        kib = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
        low, high = device.clock_range_mhz
        channels = tuple(n for n in (1, 2, 4, 8, 16, 32) if n <= device.memory_channels)
        return Space(
            (
                Parameter("rows", edges, 32, "rows of PEs"),
                Parameter("cols", edges, 32, "columns of PEs"),
                Parameter("vector_lanes", (16, 32, 64, 128, 256, 512), 32, "PEs of the row beside the array"),
                Parameter("precision", tuple(_BITS), "int8", "operands of a PE", False),
                Parameter("buffer_kib", kib, 512, "the one buffer"),
                Parameter("banks", (8, 16, 32, 64, 128, 256), 32, "banks of the buffer, one port each"),
                Parameter("schedule", schedules, schedules[-1], "how attention runs", False),
                Parameter("exponential", ("macs", "unit"), "macs", "of a PE: six products or a unit", False),
                Parameter("granularity", ("row", "head"), "row", "what flat fuses", False),
                Parameter("query_tile", (32, 64, 128, 256, 512, 1024), 64, "rows that flat fuses"),
                Parameter("stationarity", ("output", "weight", "input"), "output", "flat's products", False),
                Parameter("keep_scores", (False, True), True, "flat: scores stay on chip"),
                Parameter("keep_q", (False, True), False, "flat: queries stay on chip for a tile"),
                Parameter("keep_k", (False, True), False, "flat: keys stay on chip for a head"),
                Parameter("keep_v", (False, True), False, "flat: values stay on chip for a head"),
                Parameter("keep_out", (False, True), False, "flat: mixed values stay on chip for a tile"),
                Parameter("dma_channels", (2, 4, 8, 16, 32), 8, "loads, and stores, in flight at a time"),
                Parameter("dma_bytes_per_cycle", (16, 32, 64, 128, 256, 512), 64, "width of a DMA channel"),
                Parameter("hbm_channels", channels, channels[-1], "memory channels in use"),
                Parameter("clock_mhz", tuple(sorted({low, device.default_clock_mhz, high})),
                          device.default_clock_mhz, "clock of the whole chip"),
            ),
            (
                Parameter("memory_gb_per_s", (0.0, 1e5), 0.0, "the memory as a rate; 0: to the bank"),
                Parameter("softmax", (True, False), True, "flat: False leaves the softmax out", False),
                Parameter("ports", ("counted", "free"), "counted", "whether memory ports can be the limit", False),
                Parameter("spill", ("instead", "besides"), "instead", "flat: what overflows", False),
            ),
        )  # fmt: skip

    def build(self, parameters: Mapping[str, Value], device: Device) -> Architecture:
        """Raises InputError for a value outside the space."""
        chosen = self.space(device).complete(parameters)
        bits, sum_bits = _BITS[str(chosen["precision"])]
        rows, cols, lanes = int(chosen["rows"]), int(chosen["cols"]), int(chosen["vector_lanes"])
        clock_mhz = float(chosen["clock_mhz"])
        banks = int(chosen["banks"])
        n_dma, width = int(chosen["dma_channels"]), int(chosen["dma_bytes_per_cycle"])
        named = dict.fromkeys(_ONE_CYCLE, 1)
        cycles = tuple((dict(CYCLES_PER_EVALUATION) | named).items())
        kind = "sram" if not device.is_fpga else "bram"
        if dict(device.totals).get("uram"):
            kind = "uram"
        components: tuple[Component, ...] = (
            MatrixArray("array", rows, cols, "output", (bits, bits), sum_bits,
                        discipline="multicast"),
            VectorUnit("vector", lanes, 16, cycles, 0),
            VectorUnit(WAVE, 1, 16, (), rows),
            BufferMemory("buffer", int(chosen["buffer_kib"]) * 1024, banks, _PORT_BITS, kind),  # type: ignore[arg-type]
            BufferMemory(STAGING, 8 * cols * bits // 8, 1, cols * bits, "register"),
            BufferMemory(PES, 2 * rows * cols * bits // 8, 1, rows * cols * bits, "register"),
            BufferMemory(STREAM, 2 * (rows + cols) * bits, 1, (rows + cols) * bits, "register"),
            Dma("dma_in", n_dma, width, _BURST_BYTES, _MAX_OUTSTANDING, 0),
            Dma("dma_out", n_dma, width, _BURST_BYTES, _MAX_OUTSTANDING, 0),
            Dram("dram", device.memory_config, int(chosen["hbm_channels"]), _rate(chosen, clock_mhz)),
        )  # fmt: skip
        slots = tuple((one.name, one.name) for one in components if one.name != "buffer")
        slots += tuple((f"{name}_buffer", "buffer") for name in ("input", "weight", "output"))
        return Architecture(self.name, device.name, clock_mhz, components, slots, tuple(chosen.items()))

    def schedule(self, graph: Graph, architecture: Architecture, objective: str = "latency") -> Program:
        """Attention as chosen; what stands before, between and after runs as in the family `sequential`.

        Raises MappingError for an operator or a tile that does not fit.
        """
        pieces: list[Program] = []
        left = list(graph.operators)
        for shape in attentions_of(graph):
            inside = set(shape.operators)
            waiting = _fed_by(graph, inside)
            first = [op for op in left if op.name not in inside | waiting]
            left = [op for op in left if op.name in waiting]
            pieces += _others(graph, first, architecture, objective)
            name = shape.operators[0]
            pieces.append(attention_program(shape, architecture, name))
        pieces += _others(graph, left, architecture, objective)
        return _joined(graph, pieces)


def attention_program(shape: AttentionShape, architecture: Architecture, name: str) -> Program:
    """One attention on an architecture of the family, scheduled as its parameters say."""
    chosen = dict(architecture.parameters)
    grid = grid_of(architecture)
    schedule, by_macs = str(chosen["schedule"]), chosen["exponential"] == "macs"
    if schedule == "unfused":
        return UnfusedSchedule(shape, grid, by_macs).program(name)
    if schedule == "flat":
        return FlatSchedule(shape, flat_choice(chosen), grid).program(name)
    binding: Literal["cascade", "phased", "interleaved"] = schedule  # type: ignore[assignment]
    return CascadeSchedule(shape, binding, grid, by_macs).program(name)


def grid_of(architecture: Architecture) -> Grid:
    """What the schedules see of an architecture of the family."""
    by_name = architecture.component_by_name
    array, vector, buffer = by_name["array"], by_name["vector"], by_name["buffer"]
    assert isinstance(array, MatrixArray)
    assert isinstance(vector, VectorUnit)
    assert isinstance(buffer, BufferMemory)
    free = dict(architecture.parameters)["ports"] == "free"
    return Grid(array.rows, array.cols, vector.lanes, buffer.capacity_bytes, free)


def flat_choice(chosen: Mapping[str, Value]) -> FlatChoice:
    """FLAT's configuration from the family's parameters."""
    kept = {name.upper() for name in ("q", "k", "v") if chosen[f"keep_{name}"]}
    kept |= {"AV"} if chosen["keep_out"] else set()
    kept |= {"QK", "A"} if chosen["keep_scores"] else set()
    return FlatChoice(
        granularity=chosen["granularity"],  # type: ignore[arg-type]
        query_tile=int(chosen["query_tile"]),
        score_stationarity=chosen["stationarity"],  # type: ignore[arg-type]
        mix_stationarity=chosen["stationarity"],  # type: ignore[arg-type]
        kept=frozenset(kept),
        softmax=bool(chosen["softmax"]),
        spill=chosen["spill"],  # type: ignore[arg-type]
        exp_by_macs=chosen["exponential"] == "macs",
    )


def _rate(chosen: Mapping[str, Value], clock_mhz: float) -> MemoryRate | None:
    stated = float(chosen["memory_gb_per_s"])
    return MemoryRate(stated * 1e3 / clock_mhz, 0) if stated else None


def _fed_by(graph: Graph, names: set[str]) -> set[str]:
    """The operators outside `names` that need what one of them writes."""
    tensors = {op.output.tensor for op in graph.operators if op.name in names}
    found: set[str] = set()
    for operator in graph.operators:
        if operator.name not in names and any(access.tensor in tensors for access in operator.inputs):
            found.add(operator.name)
            tensors.add(operator.output.tensor)
    return found


def _others(
    graph: Graph,
    operators: list[Operator],
    architecture: Architecture,
    objective: str,
) -> list[Program]:
    """The program of a part of a graph without attention, none of nothing."""
    if not operators:
        return []
    if (linear := linear_of(graph, operators, grid_of(architecture))) is not None:
        return [linear.program(linear.operator)]
    written = {op.output.tensor for op in operators}
    used = written | {access.tensor for op in operators for access in op.inputs}
    names = {op.name for op in operators}
    outside = {access.tensor for op in graph.operators if op.name not in names for access in op.inputs} | set(
        graph.outputs
    )
    part = Graph(
        graph.name, graph.rank_sizes, tuple(one for one in graph.tensors if one.name in used), tuple(operators),
        tuple(one.name for one in graph.tensors if one.name in used - written),
        tuple(one.name for one in graph.tensors if one.name in written & outside),
    )  # fmt: skip
    return [Sequential().schedule(part, _divided(architecture), objective)]


@lru_cache(maxsize=64)
def _divided(architecture: Architecture) -> Architecture:
    """The same hardware with a third of the buffer for inputs, weights and outputs each."""
    (buffer,) = (one for one in architecture.of_kind(BufferMemory) if one.name == "buffer")
    parts = tuple(
        replace(buffer, name=f"{name}_buffer", capacity_bytes=buffer.capacity_bytes // 3)
        for name in ("input", "weight", "output")
    )
    rest = tuple(one for one in architecture.components if one.name != "buffer")
    slots = tuple((slot, slot) if name == "buffer" else (slot, name) for slot, name in architecture.slots)
    return replace(architecture, components=(*rest, *parts), slots=slots)


def _renamed(program: Program, prefix: str) -> Program:
    """The same with names of nests and buffers of its own."""

    def port(one: Port) -> Port:
        return replace(one, buffer=f"{prefix}.{one.buffer}")

    def nest(one: Nest) -> Nest:
        return replace(
            one, name=f"{prefix}.{one.name}", reads=tuple(map(port, one.reads)),
            writes=tuple(map(port, one.writes)), after=tuple(f"{prefix}.{name}" for name in one.after),
        )  # fmt: skip

    buffers = tuple(replace(one, name=f"{prefix}.{one.name}") for one in program.buffers)
    stages = tuple(
        Stage(stage.name, stage.operators, tuple(map(nest, stage.nests))) for stage in program.stages
    )
    return Program(program.name, program.tensors, buffers, stages)


def _joined(graph: Graph, pieces: list[Program]) -> Program:
    """Programs one after another: what a later one loads waits for all that an earlier one stores."""
    tensors = {one.name: one for one in graph.tensors}
    buffers: dict[str, Buffer] = {}
    stages: list[Stage] = []
    stored: tuple[str, ...] = ()
    for position, piece in enumerate(pieces):
        own = piece if len(pieces) == 1 else _renamed(piece, f"part{position}")
        tensors = {one.name: one for one in own.tensors} | tensors
        buffers |= {one.name: one for one in own.buffers}
        for stage in own.stages:
            nests = tuple(
                replace(nest, after=(*nest.after, *stored)) if _is(nest, Direction.LOAD) else nest
                for nest in stage.nests
            )
            stages.append(Stage(stage.name, stage.operators, nests))
        stored = tuple(nest.name for nest in own.nests if _is(nest, Direction.STORE))
    if not stages:
        raise InputError(f"graph {graph.name!r} has no operators to schedule")
    return Program(graph.name, tuple(tensors.values()), tuple(buffers.values()), tuple(stages))


def _is(nest: Nest, direction: Direction) -> bool:
    return isinstance(nest.leaf, Transfer) and nest.leaf.direction is direction
