"""FPGA resources of components: LUT, FF, DSP, BRAM36 and URAM; those of arrays are in `sim.fpga_array`.

Counts of arrays are those of open synthesis for UltraScale+, which keeps accumulators in LUTs; vendor tools
end lower. What is assumed rather than measured is marked in `data/fpga_area.csv`.
"""

from functools import cache

from tilewright.dataflow.errors import InputError
from tilewright.sim.architecture import (
    BufferMemory,
    Component,
    Dma,
    Dram,
    Fifo,
    Link,
    MatrixArray,
    Noc,
    VectorUnit,
)
from tilewright.sim.device import Device
from tilewright.sim.fpga_array import array_resources
from tilewright.sim.fpga_counts import Resources, constant, constants
from tilewright.sim.technology import power_law

#: (depth, width) of one BRAM18 in simple dual port mode; a BRAM36 is two of them, or 32768 x 1.
BRAM18_SHAPES = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
_BRAM36_DEEPEST = 32768
URAM_SHAPE = (4096, 72)
#: (depth, width) that eight LUTs hold as distributed memory: RAM32M16 and RAM64M8.
_LUTRAM_SHAPES = ((32, 14), (64, 7))
_LUTS_PER_LUTRAM = 8
_LUTRAM_DEPTH = 64  # shallower burst buffers go to LUTs


def resources_of(component: Component, device: Device) -> Resources:
    """What one component takes on `device`.

    Raises InputError for arithmetic or memory that an FPGA design cannot have.
    """
    if isinstance(component, MatrixArray):
        return array_resources(component)
    if isinstance(component, VectorUnit):
        return _vector(component)
    if isinstance(component, BufferMemory):
        return memory_resources(component)
    if isinstance(component, Fifo):
        return _lutram(component.depth, component.width_bits)
    if isinstance(component, Dma):
        return _dma(component)
    if isinstance(component, Noc):
        registers = component.hops * component.link_bytes_per_cycle * 8
        return Resources(lut=registers, ff=registers)  # a 2:1 multiplexer and a register per bit and hop
    if isinstance(component, Dram):
        port = dict(device.memory_port)
        return Resources(
            lut=component.channels * port.get("lut", 0), ff=component.channels * port.get("ff", 0)
        )
    assert isinstance(component, Link)
    return Resources()  # hard transceivers


def lane_resources(unit: VectorUnit) -> tuple[float, float, float]:
    """(LUT, FF, DSP) of one lane: a floating-point multiply and add of the element's width."""
    bits = max(unit.element_bits, 16)
    lut, ff, dsp = (power_law(constants(name), bits) for name in ("lane_lut", "lane_ff", "lane_dsp"))
    return lut, ff, dsp


def _vector(unit: VectorUnit) -> Resources:
    lut, ff, dsp = lane_resources(unit)
    tables = -(-unit.lanes // round(constant("lanes_per_table")))
    return Resources(
        lut=round(unit.lanes * lut), ff=round(unit.lanes * ff), dsp=-(-round(unit.lanes * dsp * 100) // 100),
        bram36=0.5 * tables,
    )  # fmt: skip


def memory_resources(memory: BufferMemory) -> Resources:
    """Blocks that hold the banks at their port's width; true aspect ratios, no bank shares a block.

    A block has two ports; for more of them banks are copied, distributed memory for each after the first.
    Raises InputError for a kind of memory that FPGAs do not have.
    """
    depth = -(-memory.capacity_bytes * 8 // (memory.banks * memory.port_bits))
    copies = memory.banks * -(-memory.ports // 2)
    if memory.kind == "bram":
        return Resources(bram36=copies * bram36_of(depth, memory.port_bits))
    if memory.kind == "uram":
        blocks = -(-depth // URAM_SHAPE[0]) * -(-memory.port_bits // URAM_SHAPE[1])
        return Resources(uram=copies * blocks)
    if memory.kind == "lutram":
        one = _lutram(depth, memory.port_bits)
        return one.times(memory.banks * memory.ports)
    if memory.kind == "register":
        return Resources(ff=memory.capacity_bytes * 8)
    raise InputError(
        f"memory {memory.name!r} of kind {memory.kind!r} does not exist on an FPGA;"
        " known: bram, uram, lutram, register"
    )


@cache
def bram36_of(depth: int, width_bits: int) -> float:
    """BRAM36 tiles of a memory of `depth` words, in halves: the shape that takes the fewest blocks."""
    halves = min(
        -(-depth // shape_depth) * -(-width_bits // shape_width) for shape_depth, shape_width in BRAM18_SHAPES
    )
    return min(halves / 2, float(-(-depth // _BRAM36_DEEPEST) * width_bits))


def _lutram(depth: int, width_bits: int) -> Resources:
    luts = min(
        _LUTS_PER_LUTRAM * -(-depth // shape_depth) * -(-width_bits // shape_width)
        for shape_depth, shape_width in _LUTRAM_SHAPES
    )
    return Resources(lut=luts, ff=width_bits)


def _dma(dma: Dma) -> Resources:
    """A memory-mapped adapter per channel with a buffer for all bursts in flight, as wide as the port."""
    width_bits = dma.bytes_per_cycle * 8
    depth = -(-dma.max_outstanding * dma.burst_bytes // dma.bytes_per_cycle)
    lut = power_law(constants("dma_lut"), width_bits)
    ff = power_law(constants("dma_ff"), width_bits)
    small = _lutram(depth, width_bits) if depth <= _LUTRAM_DEPTH else Resources()
    return Resources(
        lut=dma.channels * (round(lut) + small.lut),
        ff=dma.channels * (round(ff) + small.ff),
        bram36=0.0 if depth <= _LUTRAM_DEPTH else dma.channels * bram36_of(depth, width_bits),
    )


def controller_resources() -> Resources:
    """The sequencer that every design has once."""
    return Resources(lut=round(constant("controller_lut")), ff=round(constant("controller_ff")))
