"""The family `streaming_vector`: weights stream through dot-product lanes, token by token, on a ring of cards.

`docs/streaming_vector.md` describes the hardware and the schedule (DFX, arXiv 2209.10797).
"""

from collections.abc import Mapping
from math import ceil

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.program import Program
from tilewright.sim.architecture import (
    Architecture,
    BufferMemory,
    Component,
    Dma,
    Dram,
    Link,
    MatrixArray,
    MemoryRate,
    VectorUnit,
)
from tilewright.sim.device import Device
from tilewright.sim.dram_config import DramConfig
from tilewright.sim.space import Parameter, Space, Value
from tilewright.sim.streaming_vector_emit import StreamingEmitter

_BITS = {"int8": (8, 32), "fp16": (16, 16)}
_ADD_CYCLES = 11  # of a floating-point adder; with _MULTIPLY_CYCLES the depth of a lane's tree (DFX)
_MULTIPLY_CYCLES = 6
_BURST_BYTES = 1024
_MAX_OUTSTANDING = 64


class StreamingVector:
    """Every weight is read for every token; products and functions of a token follow one another."""

    name = "streaming_vector"
    stores_layers = False  # activations stay on chip from layer to layer
    summary = "weights stream from memory through dot-product lanes, token by token, on a ring of cards (DFX)"

    def space(self, device: Device) -> Space:
        channels = tuple(n for n in (1, 2, 4, 8, 16, 32) if n <= device.memory_channels)
        low, high = device.clock_range_mhz
        clocks = tuple(sorted({low, device.default_clock_mhz, high}))
        return Space(
            (
                Parameter("dot_width", (16, 32, 64, 128), 64, "products that a lane sums at once"),
                Parameter("lanes", (4, 8, 16, 32, 64), 16, "dot products at a time"),
                Parameter("vector_lanes", (16, 32, 64, 128), 64, "elements of the vector unit"),
                Parameter("precision", tuple(_BITS), "fp16", "operands", False),
                Parameter("cards", (1, 2, 4, 8), 1, "cards in a ring that share every product"),
                Parameter("hbm_channels", channels, channels[-1], "memory channels in use"),
                Parameter("clock_mhz", clocks, device.default_clock_mhz, "clock of the whole card"),
            ),
            (
                Parameter("stream_efficiency", (0.01, 1.0), 1.0, "share of the peak that streams reach"),
                Parameter("hop_ns", (0.0, 1000.0, 10000.0), 1000.0, "latency of a link between cards"),
                Parameter(
                    "link_gbit_per_s", (1.0, 97.0, 1600.0), 97.0, "of a link and direction, coding taken off"
                ),
            ),
        )

    def build(self, parameters: Mapping[str, Value], device: Device) -> Architecture:
        """One card; the others are alike. Raises InputError for a value outside the space.

        The memory is a rate: streams reach `stream_efficiency` of the lesser of its channels and the lanes; they are
        asked for ahead of their use, so that no latency of the memory shows.
        """
        chosen = self.space(device).complete(parameters)
        bits, sum_bits = _BITS[str(chosen["precision"])]
        width, lanes, clock_mhz = int(chosen["dot_width"]), int(chosen["lanes"]), float(chosen["clock_mhz"])
        levels = max(1, (width - 1).bit_length())
        depth = _MULTIPLY_CYCLES + (levels + 1) * _ADD_CYCLES
        taken = width * lanes * bits // 8
        peak = int(chosen["hbm_channels"]) * DramConfig.named(device.memory_config).peak_gb_per_s
        rate = MemoryRate(
            min(float(taken), peak * 1e3 / clock_mhz), 0, float(chosen["stream_efficiency"])
        )  # fmt: skip
        kind = "uram" if dict(device.totals).get("uram") else "bram" if device.is_fpga else "sram"
        port_bits = 8 * taken // 32
        components: tuple[Component, ...] = (
            MatrixArray("array", width, lanes, "output", (bits, bits), sum_bits, discipline="multicast"),
            VectorUnit("vector", int(chosen["vector_lanes"]), 16, (), _ADD_CYCLES),
            VectorUnit("pipeline", 1, 16, (), depth),
            VectorUnit("router", 1, 16, (), 0),
            BufferMemory("weights", 64 * taken, 32, port_bits, kind),  # type: ignore[arg-type]
            BufferMemory("registers", 256 * 1024, 8, 8 * port_bits, "bram" if device.is_fpga else "sram"),
            Dma("dma_in", 2, taken, _BURST_BYTES, _MAX_OUTSTANDING, 0),
            Dma("dma_out", 1, 64, _BURST_BYTES, _MAX_OUTSTANDING, 0),
            Dram("dram", device.memory_config, int(chosen["hbm_channels"]), rate),
            Link("link", float(chosen["link_gbit_per_s"]) * 1e3 / 8 / clock_mhz,
                 ceil(float(chosen["hop_ns"]) * clock_mhz * 1e-3)),
        )  # fmt: skip
        slots = tuple((one.name, one.name) for one in components if one.name not in ("weights", "registers"))
        slots += (("weight_buffer", "weights"), ("input_buffer", "registers"), ("output_buffer", "registers"))
        return Architecture(
            self.name, device.name, clock_mhz, components, slots, tuple(chosen.items()), int(chosen["cards"])
        )

    def schedule(self, graph: Graph, architecture: Architecture, objective: str = "latency") -> Program:
        """The program of one card; the order is the graph's, whatever the objective.

        Raises MappingError for an operator that the family does not run.
        """
        return StreamingEmitter(graph, architecture).program()
