"""ASIC area of components in mm2: synthesised PEs, SRAM macros, memory PHYs, scaled between nodes.

`synthesis` (default) takes our PEs as synthesised with a 45 nm and a 7 nm library; `stillmaker` scales the
45 nm figures by the published area factors down to 7 nm. Both agree at 45, 28 and 16 nm.
"""

from functools import cache

from tilewright.dataflow.errors import InputError, nearest
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
from tilewright.sim.report import Breakdown
from tilewright.sim.technology import Points, memory_energy, power_law, rows

AREA_TABLES = ("synthesis", "stillmaker")
_UM2 = 1e-6  # mm2
#: Width of the port that the published macros have.
SRAM_PORT_BITS = 64


@cache
def points(name: str, node_nm: int | None = None) -> Points:
    """(size, value) of a constant of `data/asic_area.csv`, those of `node_nm` or those without a node."""
    node = "" if node_nm is None else str(node_nm)
    found = [
        (float(row["size"]), float(row["value"]))
        for row in rows("asic_area.csv")
        if row["name"] == name and row["node_nm"] == node
    ]
    return tuple(sorted(found))


@cache
def logic_scale(node_nm: int, table: str) -> float:
    """Logic area at a node over 45 nm.

    28 nm lies between the published 32 and 20 nm; 5 nm follows 7 nm by transistor density. At 7 nm
    `synthesis` takes the ratio of the int8 PE in both libraries. Raises InputError for an unknown table.
    """
    if table not in AREA_TABLES:
        raise InputError(f"area table {table!r} is unknown{nearest(table, AREA_TABLES)}")
    if node_nm == 5:
        return logic_scale(7, table) * _density(7) / _density(5)
    if node_nm == 28:
        low, high = points("stillmaker_area", 20)[0][1], points("stillmaker_area", 32)[0][1]
        return low + (high - low) * (28 - 20) / (32 - 20)
    if node_nm == 7 and table == "synthesis":
        return _mac_cells_um2(8, 8, 32, 7) / _mac_cells_um2(8, 8, 32, 45)
    return points("stillmaker_area", node_nm)[0][1]


def _density(node_nm: int) -> float:
    return points("transistor_density", node_nm)[0][1]


def _mac_cells_um2(weight_bits: int, activation_bits: int, accumulator_bits: int, node_nm: int) -> float:
    """Cell area of an integer PE at one of the synthesised nodes."""
    product = points("pe_product_bit", node_nm)[0][1]
    accumulator = points("pe_accumulator_bit", node_nm)[0][1]
    return product * weight_bits * activation_bits + accumulator * accumulator_bits


def pe_um2(array: MatrixArray, node_nm: int, table: str) -> float:
    """Cell area of one PE. Raises InputError for arithmetic without a synthesised PE."""
    weight_bits, activation_bits = array.operand_bits
    accumulator_bits = array.accumulator_bits
    if array.arithmetic == "ternary_add":
        weight_bits = 1  # one gate per activation bit selects +x, 0 or -x
    elif array.arithmetic == "shift_add":
        weight_bits = weight_bits.bit_length()  # stages of a barrel shifter
    elif array.arithmetic not in ("mac", "packed_mac"):
        raise InputError(f"{array.name}: arithmetic {array.arithmetic!r} has no PE synthesised for ASICs")
    widths = (weight_bits, activation_bits, accumulator_bits)
    if table == "synthesis" and node_nm in (7, 5):
        shrink = 1.0 if node_nm == 7 else _density(7) / _density(5)
        return _mac_cells_um2(*widths, 7) * shrink
    return _mac_cells_um2(*widths, 45) * logic_scale(node_nm, table)


def port_growth(ports: int) -> float:
    """How much longer a multi-ported bit cell is on each side, over one with a single port."""
    return 1 + points("sram_port_growth")[0][1] * (ports - 1)


def sram_mm2(
    capacity_bytes: int, banks: int, node_nm: int, model: str = "macro_efficiency", ports: int = 1
) -> float:
    """Area of an SRAM in `banks` equal macros: bit cells over the share of a macro that they take.

    Every port after the first makes cells wider and higher. `model` is `macro_efficiency`
    (scratchpads) or `cache_efficiency` (caches, several times larger).
    """
    efficiency = points(model)
    bank_bytes = min(max(capacity_bytes / banks, efficiency[0][0] / 4), efficiency[-1][0])
    cell_um2 = points("sram_bitcell", node_nm)[0][1]
    cells_mm2 = capacity_bytes * 8 * cell_um2 * port_growth(ports) ** 2 * _UM2
    return cells_mm2 / power_law(efficiency, bank_bytes)


@cache
def component_mm2(component: Component, node_nm: int, table: str) -> tuple[Breakdown, float]:
    """(area by part, cell area of logic that placement and wires will stretch); mm2.

    The logic cells are part of the breakdown as cells; `sim.area` adds what placement costs.
    Raises InputError for arithmetic or memory that an ASIC design cannot have.
    """
    scale = logic_scale(node_nm, table)
    flip_flop = points("flip_flop", 45)[0][1] * scale * _UM2
    cell = points("cell", 45)[0][1] * scale * _UM2
    name = component.name
    if isinstance(component, MatrixArray):
        n_pes = component.rows * component.cols * component.count
        pes = n_pes * pe_um2(component, node_nm, table) * _UM2
        edges = pes * (points("array_overhead")[0][1] - 1)
        return Breakdown.of(name, (Breakdown("pes", pes), Breakdown("skew_and_control", edges))), pes + edges
    if isinstance(component, VectorUnit):
        return _vector(component, node_nm, scale, flip_flop)
    if isinstance(component, BufferMemory):
        return _memory(component, node_nm, flip_flop)
    if isinstance(component, Fifo):
        area = component.depth * component.width_bits * flip_flop
        return Breakdown(name, area), area
    if isinstance(component, Dma):
        control = component.channels * points("dma_cells")[0][1] * cell
        bursts = component.max_outstanding * component.burst_bytes * component.channels
        buffer = sram_mm2(bursts, component.channels, node_nm)
        return Breakdown.of(name, (Breakdown("control", control), Breakdown("bursts", buffer))), control
    if isinstance(component, Noc):
        area = component.hops * component.link_bytes_per_cycle * 8 * (flip_flop + cell)
        return Breakdown(name, area), area
    if isinstance(component, Dram):
        return _dram(component, node_nm), 0.0
    assert isinstance(component, Link)
    return Breakdown(name, points("link_phy")[0][1]), 0.0


def controller_mm2(node_nm: int, table: str) -> float:
    """Cell area of the sequencer that every design has once."""
    return points("controller_cells")[0][1] * points("cell", 45)[0][1] * logic_scale(node_nm, table) * _UM2


def utilisation() -> float:
    """Share of placed logic area that cells take."""
    return points("placement_utilisation")[0][1]


def _vector(unit: VectorUnit, node_nm: int, scale: float, flip_flop: float) -> tuple[Breakdown, float]:
    """Lanes with a floating multiplier and adder each (8-bit elements compute in 16), and function tables."""
    bits = max(unit.element_bits, 16)
    arithmetic_um2 = power_law(points("float_multiply", 45), bits) + power_law(points("float_add", 45), bits)
    lanes = unit.lanes * arithmetic_um2 * scale * _UM2
    registers = unit.lanes * points("lane_registers")[0][1] * bits * flip_flop
    n_tables = -(-unit.lanes // 16)
    table_bytes = int(points("lane_table_words")[0][1]) * bits // 8
    tables = sram_mm2(table_bytes * n_tables, n_tables, node_nm)
    parts = (Breakdown("lanes", lanes), Breakdown("registers", registers), Breakdown("tables", tables))
    return Breakdown.of(unit.name, parts), lanes + registers


def _memory(memory: BufferMemory, node_nm: int, flip_flop: float) -> tuple[Breakdown, float]:
    """A bank with a wide port is several macros of SRAM_PORT_BITS beside each other."""
    if memory.kind == "sram":
        macros = memory.banks * max(1, memory.port_bits // SRAM_PORT_BITS)
        area = sram_mm2(memory.capacity_bytes, macros, node_nm, ports=memory.ports)
        return Breakdown(memory.name, area), 0.0
    if memory.kind == "register":
        area = memory.capacity_bytes * 8 * flip_flop
        return Breakdown(memory.name, area), area
    raise InputError(
        f"memory {memory.name!r} of kind {memory.kind!r} does not exist on an ASIC; known: sram, register"
    )


def _dram(dram: Dram, node_nm: int) -> Breakdown:
    """PHY per stack (per 32 bit without stacks); controllers by the share of channels that are used."""
    memory = memory_energy(dram.config)
    buses = dram.channels * memory.n_buses
    if memory.is_stacked:
        phys = memory.n_stacks(dram.channels) * points("hbm_phy")[0][1]
        transistors = points("hbm_controller")[0][1] * buses / memory.buses_per_stack
    else:
        phys = points("ddr_phy")[0][1] * buses * memory.bus_bits / 32
        transistors = points("ddr_controller")[0][1] * buses * memory.bus_bits / 32
    controller = transistors / _density(node_nm)
    return Breakdown.of(dram.name, (Breakdown("phy", phys), Breakdown("memory_controller", controller)))
