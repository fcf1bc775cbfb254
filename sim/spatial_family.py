"""The family `dataflow`: a spatial pipeline with hardware of its own for every stage of a layer.

docs/dataflow.md describes the hardware, the links and how latency and interval are counted.
"""

from collections.abc import Mapping
from functools import lru_cache

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.program import Program
from tilewright.sim.architecture import (
    Architecture,
    BufferMemory,
    Component,
    Dma,
    Dram,
    MatrixArray,
    MemoryKind,
    VectorUnit,
)
from tilewright.sim.device import Device
from tilewright.sim.mapper_machine import machine_of
from tilewright.sim.mapping import OBJECTIVES, MappingError
from tilewright.sim.sequential import Sequential
from tilewright.sim.sequential_narrow import with_narrow_operands
from tilewright.sim.sequential_plan import Fusion, GemmPlan, GraphPlan, plan_graph
from tilewright.sim.sequential_space import ACCUMULATOR_BITS, CYCLES_PER_EVALUATION, PRECISIONS
from tilewright.sim.space import Parameter, Space, Value
from tilewright.sim.spatial_deadlock import check_deadlock
from tilewright.sim.spatial_links import layout_of
from tilewright.sim.spatial_stages import Bindings, SpatialScheduler, balanced, work_of

_STARTUP_CYCLES = 8
_BURST_BYTES = 1024
_MAX_OUTSTANDING = 32
_PORT_BITS = {"fpga": 64, "asic": 128}
_URAM_BANK_BYTES = 32 * 1024
_KIB = (64, 128, 256, 512, 1024, 2048, 4096, 8192)


class Dataflow:
    """Stages of a layer side by side; rows go from one to the next in blocks."""

    name = "dataflow"
    summary = "a spatial pipeline: arrays and lanes per stage, streams between them, weights from ports"
    #: Inputs may follow each other before the first is done, so a report states the interval too.
    has_interval = True

    def space(self, device: Device) -> Space:
        precisions = tuple(name for name in PRECISIONS if device.is_fpga or name != "packed_int8")
        channels = tuple(n for n in (1, 2, 4, 8, 16, 32) if n <= device.memory_channels)
        low, high = device.clock_range_mhz
        clocks = tuple(sorted({low, device.default_clock_mhz, high}))
        return Space(
            (
                Parameter("linear_arrays", (1, 2, 3, 4, 6, 8), 4, "arrays for products with weights"),
                Parameter("linear_rows", (4, 8, 16, 32), 16, "rows of PEs of each of them"),
                Parameter("linear_cols", (8, 16, 32, 64), 16, "columns of PEs of each of them"),
                Parameter("attention_arrays", (1, 2, 4), 2, "arrays for products of activations"),
                Parameter("attention_rows", (4, 8, 16, 32), 8, "rows of PEs of each of them"),
                Parameter("attention_cols", (8, 16, 32, 64), 8, "columns of PEs of each of them"),
                Parameter("vector_units", (1, 2, 3, 4, 6, 8), 4, "groups of lanes"),
                Parameter("vector_lanes", (4, 8, 16, 32, 64), 16, "lanes of a group"),
                Parameter("precision", precisions, "int8", "operands of a PE", False),
                Parameter("block_rows", (8, 16, 32, 64, 128), 32, "rows that pass as one packet"),
                Parameter("stream_depth", (1, 2, 3, 4, 8), 2, "packets that fit in a stream"),
                Parameter("input_buffer_kib", _KIB, 2048, "arrays and streams between stages"),
                Parameter("weight_buffer_kib", _KIB, 1024, "weights: tiles, and those that stay"),
                Parameter("output_buffer_kib", _KIB, 512, "sums and what leaves the layer"),
                Parameter("weight_ports", (1, 2, 4, 8, 16), 8, "memory ports for loads"),
                Parameter("dma_bytes_per_cycle", (16, 32, 64), 32, "width of a port"),
                Parameter("hbm_channels", channels, channels[-1], "memory channels in use"),
                Parameter("clock_mhz", clocks, device.default_clock_mhz, "clock of the whole chip"),
            ),
            (
                Parameter("deepen", (True, False), True,
                          "streams around an array hold every block; False: a deadlock is reported", False),
            ),
        )  # fmt: skip

    def build(self, parameters: Mapping[str, Value], device: Device) -> Architecture:
        """Raises InputError for a value outside the space."""
        chosen = self.space(device).complete(parameters)
        size = {name: int(value) for name, value in chosen.items() if isinstance(value, int)}
        bits, arithmetic = PRECISIONS[str(chosen["precision"])]
        components: list[Component] = []
        for kind, name in (("linear", "array"), ("attention", "attention_array")):
            rows, cols = size[f"{kind}_rows"], size[f"{kind}_cols"]
            components += [
                MatrixArray(
                    one, rows, cols, "output", (bits, bits), ACCUMULATOR_BITS, arithmetic, drain_overlap=True
                )
                for one in _numbered(name, size[f"{kind}_arrays"])
            ]
        components += [
            VectorUnit(one, size["vector_lanes"], 32, CYCLES_PER_EVALUATION, _STARTUP_CYCLES)
            for one in _numbered("vector", size["vector_units"])
        ]
        edges = sum(one.rows + one.cols for one in components if isinstance(one, MatrixArray))
        lanes = 32 * size["vector_lanes"] * size["vector_units"]
        for name, port_bits in (
            ("input_buffer", edges * bits + lanes), ("weight_buffer", edges * bits + lanes),
            ("output_buffer", edges * ACCUMULATOR_BITS + lanes),
        ):  # fmt: skip
            width = _PORT_BITS[device.device_class]
            banks, capacity = -(-port_bits // width), size[f"{name}_kib"] * 1024
            components.append(
                BufferMemory(name, capacity, banks, width, _memory_kind(device, capacity // banks))
            )
        ports, width = size["weight_ports"], size["dma_bytes_per_cycle"]
        components += [
            Dma("dma_in", ports, width, _BURST_BYTES, _MAX_OUTSTANDING),
            Dma("dma_out", 2, width, _BURST_BYTES, _MAX_OUTSTANDING),
            Dram("dram", device.memory_config, size["hbm_channels"]),
        ]
        slots = tuple((one.name, one.name) for one in components)
        return Architecture(
            self.name, device.name, float(chosen["clock_mhz"]), tuple(components), slots,
            tuple(chosen.items()),
        )  # fmt: skip

    def schedule(self, graph: Graph, architecture: Architecture, objective: str = "latency") -> Program:
        """All stages of a layer at once; a graph that does not stream runs operator by operator.

        Raises MappingError for buffers that do not fit, InputError for a deadlock.
        """
        if objective not in OBJECTIVES:
            raise MappingError(f"objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
        machine = machine_of(architecture)
        narrow = with_narrow_operands(graph, machine.array)
        plan = _plan(narrow)
        layout = layout_of(narrow, plan, int(machine.parameter("block_rows", 32)))
        if layout is None:
            return Sequential().schedule(graph, architecture, objective)
        scheduler = SpatialScheduler(
            layout, machine, _bindings(narrow, plan, architecture),
            int(machine.parameter("stream_depth", 2)), bool(machine.parameter("deepen", True)),
        )  # fmt: skip
        program = scheduler.program()
        check_deadlock(program)
        return program


@lru_cache(maxsize=64)
def _plan(graph: Graph) -> GraphPlan:
    return plan_graph(graph, Fusion(maps=True, attention=False, low_rank=False))


def _bindings(graph: Graph, plan: GraphPlan, architecture: Architecture) -> Bindings:
    """Products with weights on the linear arrays, the others on those of attention, lanes by evaluations."""
    arrays = [one.name for one in architecture.of_kind(MatrixArray)]
    attention = [name for name in arrays if name.startswith("attention")] or arrays
    linear = [name for name in arrays if name not in attention] or arrays
    lanes = [one.name for one in architecture.of_kind(VectorUnit)]
    work: dict[bool, list[tuple[str, float]]] = {True: [], False: []}
    evaluations = []
    for stage in plan.stages:
        macs, n_evaluations = work_of(graph, stage)
        evaluations.append((stage.name, n_evaluations))
        if isinstance(stage, GemmPlan):
            work[bool(stage.roles.batch)].append((stage.name, macs))
    return Bindings(
        balanced(work[False], linear) | balanced(work[True], attention), balanced(evaluations, lanes)
    )


def _numbered(name: str, count: int) -> list[str]:
    """The first one has the plain name."""
    return [name if number == 0 else f"{name}_{number}" for number in range(count)]


def _memory_kind(device: Device, bank_bytes: int) -> MemoryKind:
    if not device.is_fpga:
        return "sram"
    has_uram = dict(device.totals).get("uram", 0) > 0
    return "uram" if has_uram and bank_bytes >= _URAM_BANK_BYTES else "bram"
