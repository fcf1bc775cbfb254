"""FPGA resources of components: LUT, FF, DSP, BRAM36 and URAM, from synthesis of our own PEs and arrays.

Counts of arrays are those of open synthesis for UltraScale+, which keeps accumulators in LUTs; vendor tools
end lower. What is assumed rather than measured is marked in `data/fpga_area.csv`.
"""

from dataclasses import dataclass
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
from tilewright.sim.technology import Points, power_law, rows

#: (depth, width) of one BRAM18 in simple dual port mode; a BRAM36 is two of them, or 32768 x 1.
BRAM18_SHAPES = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
_BRAM36_DEEPEST = 32768
URAM_SHAPE = (4096, 72)
_DSP_BITS = (27, 18)
_FABRIC_MULTIPLIER_BITS = 4  # narrower products stay in LUTs
#: (depth, width) that eight LUTs hold as distributed memory: RAM32M16 and RAM64M8.
_LUTRAM_SHAPES = ((32, 14), (64, 7))
_LUTS_PER_LUTRAM = 8
_LUTRAM_DEPTH = 64  # shallower burst buffers go to LUTs


@dataclass(frozen=True, slots=True)
class Resources:
    """Counts; BRAM36 in halves, as a tile splits into two BRAM18."""

    lut: int = 0
    ff: int = 0
    dsp: int = 0
    bram36: float = 0.0
    uram: int = 0

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(
            self.lut + other.lut, self.ff + other.ff, self.dsp + other.dsp,
            self.bram36 + other.bram36, self.uram + other.uram,
        )  # fmt: skip


@cache
def constant(name: str) -> float:
    """A constant of `data/fpga_area.csv` that does not depend on a size."""
    return constants(name)[0][1]


@cache
def constants(name: str) -> Points:
    """(size, value) of a constant of `data/fpga_area.csv`."""
    found = [
        (float(row["size"]), float(row["value"])) for row in rows("fpga_area.csv") if row["name"] == name
    ]
    return tuple(sorted(found))


def resources_of(component: Component, device: Device) -> Resources:
    """What one component takes on `device`.

    Raises InputError for arithmetic or memory that an FPGA design cannot have.
    """
    if isinstance(component, MatrixArray):
        return _array(component)
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


def pe_resources(array: MatrixArray) -> tuple[float, float, float]:
    """(LUT, FF, DSP) of one PE; a DSP that two packed products share counts one half each.

    Raises InputError for arithmetic without a synthesised PE.
    """
    weight_bits, activation_bits = array.operand_bits
    lut = constant("pe_lut_per_accumulator_bit") * array.accumulator_bits
    ff = weight_bits + activation_bits + array.accumulator_bits + constant("pe_ff_extra")
    narrow, wide = sorted(array.operand_bits)
    if array.arithmetic == "packed_mac":
        if wide > 8:
            raise InputError(f"{array.name}: packed_mac takes operands up to 8 bit, got {array.operand_bits}")
        return lut + constant("packed_lut_per_mac"), ff, 1 / constant("packed_macs_per_dsp")
    if array.arithmetic == "ternary_add":
        return lut + activation_bits, ff, 0.0  # select +x, 0 or -x before the accumulator
    if array.arithmetic == "shift_add":
        stages = max(1, weight_bits.bit_length())
        return (
            lut + stages * (activation_bits + weight_bits),
            ff,
            0.0,
        )  # a barrel shifter, LUT per bit and stage
    if array.arithmetic != "mac":
        raise InputError(f"{array.name}: arithmetic {array.arithmetic!r} has no PE synthesised for FPGAs")
    if wide <= _FABRIC_MULTIPLIER_BITS:
        return lut + constant("fabric_multiplier_lut_per_bit2") * narrow * wide, ff, 0.0
    dsp = -(-wide // _DSP_BITS[0]) * -(-narrow // _DSP_BITS[1])
    return lut, ff, float(dsp)


def _array(array: MatrixArray) -> Resources:
    """PEs, triangular skew registers on both edges, and control.

    The skew delays row or column i by i cycles, so an edge of n takes n (n - 1) / 2 operand registers.
    """
    lut, ff, dsp = pe_resources(array)
    rows_, cols = array.rows, array.cols
    n_pes = rows_ * cols
    weight_bits, activation_bits = array.operand_bits
    skew = activation_bits * (rows_ * (rows_ - 1) // 2) + weight_bits * (cols * (cols - 1) // 2)
    one = Resources(
        lut=round(n_pes * lut + constant("array_lut")),
        ff=round(n_pes * ff + skew + rows_ + cols + constant("array_ff")),
        dsp=-(-round(2 * n_pes * dsp) // 2),
    )
    return Resources(one.lut * array.count, one.ff * array.count, one.dsp * array.count)


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

    Raises InputError for a kind of memory that FPGAs do not have.
    """
    depth = -(-memory.capacity_bytes * 8 // (memory.banks * memory.port_bits))
    if memory.kind == "bram":
        return Resources(bram36=memory.banks * bram36_of(depth, memory.port_bits))
    if memory.kind == "uram":
        blocks = -(-depth // URAM_SHAPE[0]) * -(-memory.port_bits // URAM_SHAPE[1])
        return Resources(uram=memory.banks * blocks)
    if memory.kind == "lutram":
        one = _lutram(depth, memory.port_bits)
        return Resources(lut=one.lut * memory.banks, ff=one.ff * memory.banks)
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
