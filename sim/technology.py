"""Energy constants of process nodes, FPGA fabric and memories, read from data files with their sources.

Published sources disagree by three to ten times at 7 nm, so the tables have names:

* `horowitz_jouppi` (default on ASICs): Horowitz's 45 nm figures, Jouppi's 7 nm figures, and between the two
  nodes a power law per operation; 5 nm is 7 nm times the foundry's claim.
* `horowitz_stillmaker`: the 45 nm figures times the voltage polynomials of Stillmaker and Baas.
* `vivado_low`, `vivado_mid` (default on FPGAs), `vivado_high`: energy per used resource and cycle from routed
  power reports, as a range.

Widths between published points are interpolated as a power law, and beyond them with the nearest one.
"""

import csv
from bisect import bisect_left
from dataclasses import dataclass
from functools import cache
from math import exp, log, sqrt
from pathlib import Path
from typing import Literal

from tilewright.dataflow.errors import InputError, nearest
from tilewright.sim.device import Device

ASIC_TABLES = ("horowitz_jouppi", "horowitz_stillmaker")
GPU_TABLES = ("board_power_limit",)  # times the time: what parts of a GPU take is not known
FPGA_TABLES = ("vivado_mid", "vivado_low", "vivado_high")
DEFAULT = "default"
_DATA = Path(__file__).parent / "data"
_PUBLISHED_NODES = (45, 7)

Points = tuple[tuple[float, float], ...]  # (size, value), sizes ascending
Row = dict[str, str]


@cache
def rows(file: str) -> tuple[Row, ...]:
    """The rows of one data file of the package; every row has a unit, a condition and a source."""
    with (_DATA / file).open(encoding="utf-8", newline="") as stream:
        return tuple(csv.DictReader(line for line in stream if not line.startswith("#")))


def power_law(points: Points, size: float) -> float:
    """The value at `size`, linear in log(size) and log(value); the end segments reach beyond the points."""
    if len(points) == 1:
        return points[0][1]
    upper = min(max(bisect_left(points, (size, 0.0)), 1), len(points) - 1)
    (x0, y0), (x1, y1) = points[upper - 1], points[upper]
    share = log(size / x0) / log(x1 / x0)
    return y0 * exp(share * log(y1 / y0))


def resolve_table(device: Device, table: str = DEFAULT) -> str:
    """The table that `table` means on `device`.

    Raises InputError for a name that the device's class does not have (closest one named).
    """
    known = FPGA_TABLES if device.is_fpga else GPU_TABLES if device.gpu else (*ASIC_TABLES, *_action_tables())
    if table == DEFAULT:
        return known[0]
    if table not in known:
        raise InputError(
            f"energy table {table!r} is unknown on {device.name}{nearest(table, known)}; known: "
            + ", ".join((DEFAULT, *known))
        )
    return table


@cache
def _action_tables() -> tuple[str, ...]:
    """Tables that price the actions of named components (`sim.action_energy`)."""
    return tuple(dict.fromkeys(row["table"] for row in rows("action_energy.csv")))


def tables_used(device: Device, table: str = DEFAULT) -> tuple[str, ...]:
    """Names of all tables behind energy and area on `device`, for the report."""
    name = resolve_table(device, table)
    if device.gpu is not None:
        return (f"energy:{name}", "area:data_sheet")
    if device.is_fpga:
        return (f"energy:{name}", "area:yosys_xcup", "dram:per_bit_by_standard", "vector:operation_counts")
    return (f"energy:{name}", "area:synthesis", "dram:per_bit_by_standard", "vector:operation_counts")


@dataclass(frozen=True)
class AsicTable:
    """Energies at one node, in pJ; points are (size, pJ). `logic_factor` is register energy over 45 nm."""

    name: str
    node_nm: int
    int_add: Points
    int_multiply: Points
    float_add: Points
    float_multiply: Points
    sram_access: Points
    register_pj_per_bit: float
    leakage_w_per_mm2: float
    hop_pj_per_bit: float

    def int_add_pj(self, bits: int) -> float:
        return power_law(self.int_add, bits)

    def int_multiply_pj(self, left_bits: int, right_bits: int) -> float:
        """Grows as the product of the widths, as the two published widths say."""
        return power_law(self.int_multiply, left_bits * right_bits)

    def float_add_pj(self, bits: int) -> float:
        return power_law(self.float_add, bits)

    def float_multiply_pj(self, bits: int) -> float:
        return power_law(self.float_multiply, bits)

    def sram_pj_per_bit(self, capacity_bytes: float) -> float:
        """Per bit read or written, never below a register.

        The published points are 64-bit reads; a write is taken equal, and other widths in proportion. Below
        the smallest one energy falls with the square root of the capacity, which the 45 nm points follow.
        """
        smallest, smallest_pj = self.sram_access[0]
        if capacity_bytes < smallest:
            access_pj = smallest_pj * sqrt(capacity_bytes / smallest)
        else:
            access_pj = power_law(self.sram_access, capacity_bytes)
        return max(access_pj / 64, self.register_pj_per_bit)


@cache
def asic_table(device: Device, table: str = DEFAULT) -> AsicTable:
    """The energies of an ASIC's node. Raises InputError for an unknown table."""
    name = resolve_table(device, table)

    def points(operation: str) -> Points:
        if name == "horowitz_stillmaker":
            factor = stillmaker_factor(device.node_nm, device.nominal_voltage_v or 0.75)
            return tuple((size, factor * value) for size, value in _asic_points(operation, 45))
        return tuple(
            (size, _between_nodes(operation, size, device.node_nm)) for size, _ in _asic_points(operation, 45)
        )

    # a register's own figure is published at 45 nm class only: it scales as the 32-bit addition does
    add_factor = power_law(points("int_add"), 32) / power_law(_asic_points("int_add", 45), 32)
    return AsicTable(
        name=name,
        node_nm=device.node_nm,
        int_add=points("int_add"),
        int_multiply=points("int_multiply"),
        float_add=points("float_add"),
        float_multiply=points("float_multiply"),
        sram_access=points("sram_access"),
        register_pj_per_bit=_asic_points("register_bit", 45)[0][1] * add_factor,
        leakage_w_per_mm2=_asic_points("leakage_mid", device.node_nm)[0][1],
        hop_pj_per_bit=_wire_pj(device) + _asic_points("register_bit", 45)[0][1] * add_factor,
    )


def _wire_pj(device: Device) -> float:
    """pJ of a bit over the wires of one hop: capacity by length at every node, so the voltage alone counts."""
    voltage_v = device.nominal_voltage_v or 0.75
    per_mm = _asic_points("wire_bit_mm", 45)[0][1] * (voltage_v / 0.9) ** 2
    return per_mm * _asic_points("noc_hop_mm", 45)[0][1]


def _asic_points(name: str, node_nm: int) -> Points:
    found = [
        (float(row["size"]), float(row["value"]))
        for row in rows("asic_energy.csv")
        if row["name"] == name and int(row["node_nm"]) == node_nm
    ]
    if not found:
        raise InputError(f"node {node_nm} nm has no figure for {name!r}; known nodes: 45, 28, 16, 7, 5")
    return tuple(sorted(found))


def _between_nodes(operation: str, size: float, node_nm: int) -> float:
    """pJ at a node: a power law in the node through the two published ones, the foundry's step below 7 nm."""
    old, new = _PUBLISHED_NODES
    values = ((float(new), power_law(_asic_points(operation, new), size)),
              (float(old), power_law(_asic_points(operation, old), size)))  # fmt: skip
    if node_nm < new:
        return values[0][1] * _asic_points("step_7_to_5", 5)[0][1]
    return power_law(values, node_nm)


def stillmaker_factor(node_nm: int, voltage_v: float) -> float:
    """Energy at a node and voltage over energy at 45 nm and 0.9 V; 28 nm lies between 32 and 20 nm."""
    if node_nm < 7:
        return stillmaker_factor(7, voltage_v) * _asic_points("step_7_to_5", 5)[0][1]
    if node_nm == 28:
        low, high = _polynomial(20, voltage_v), _polynomial(32, voltage_v)
        return (low + (high - low) * (28 - 20) / (32 - 20)) / _polynomial(45, 0.9)
    return _polynomial(node_nm, voltage_v) / _polynomial(45, 0.9)


def _polynomial(node_nm: int, voltage_v: float) -> float:
    a, b, c = (_asic_points(f"stillmaker_energy_{name}", node_nm)[0][1] for name in "abc")
    return a * voltage_v**2 + b * voltage_v + c


@dataclass(frozen=True, slots=True)
class FpgaTable:
    """Energy per used resource and cycle in pJ (BRAM and URAM: per 72-bit access), and static powers in W."""

    name: str
    lut_pj: float
    ff_pj: float
    clock_pj_per_ff: float
    dsp_pj: float
    dsp_factor_12: float
    dsp_factor_18: float
    bram36_pj: float
    uram_pj: float
    lutram_pj: float
    static_w: float
    shell_w: float
    memory_controller_w_per_stack: float

    def dsp_pj_at(self, bits: int) -> float:
        """A DSP's energy per cycle with operands of `bits` on its narrower port."""
        if bits <= 12:
            return self.dsp_pj * self.dsp_factor_12
        return self.dsp_pj * (self.dsp_factor_18 if bits <= 18 else 1.0)


@cache
def fpga_table(device: Device, table: str = DEFAULT) -> FpgaTable:
    """The energies of an FPGA part. Raises InputError for an unknown table."""
    name = resolve_table(device, table)
    level = name.removeprefix("vivado_")
    value = {
        row["name"]: float(row[level])
        for row in rows("fpga_energy.csv")
        if row["device"] in ("*", device.name)
    }
    return FpgaTable(
        name=name,
        lut_pj=value["lut"],
        ff_pj=value["ff"],
        clock_pj_per_ff=value["clock"],
        dsp_pj=value["dsp"],
        dsp_factor_12=value["dsp_12"],
        dsp_factor_18=value["dsp_18"],
        bram36_pj=value["bram36"],
        uram_pj=value["uram"],
        lutram_pj=value["lutram"],
        static_w=value["static"],
        shell_w=value["shell"],
        memory_controller_w_per_stack=value["memory_controller"],
    )


@dataclass(frozen=True, slots=True)
class MemoryEnergy:
    """Energies of a DRAM configuration with `n_buses` data buses per channel.

    Activations are priced by themselves (`activate_pj`) where the standard's currents or command energies are
    known; else the core figures hold them and it is 0.
    """

    standard: str
    core_pj_per_bit: float
    core_write_pj_per_bit: float
    activate_pj: float
    interface_pj_per_bit: float
    background_w_per_channel: float
    n_buses: int
    buses_per_stack: int
    bus_bits: int

    @property
    def is_stacked(self) -> bool:
        return self.buses_per_stack > 1

    def n_stacks(self, channels: int) -> int:
        """Stacks that `channels` channels lie on (single channels where memory is not stacked)."""
        return -(-channels * self.n_buses // self.buses_per_stack)


@cache
def memory_energy(config: str) -> MemoryEnergy:
    """The energies of a named DRAM configuration. Raises InputError for an unknown one."""
    from tilewright.sim.dram_config import DramConfig
    from tilewright.sim.dram_energy import energy_row_of

    memory = DramConfig.named(config)
    commands = energy_row_of(memory)
    value = {
        row["quantity"]: float(row["value"])
        for row in rows("memory_energy.csv")
        if row["standard"] == memory.standard
    }
    n_buses = memory.organisation.channels * memory.n_data_buses
    return MemoryEnergy(
        standard=memory.standard,
        core_pj_per_bit=commands.read_pj_per_bit if commands.by_command else value["core"],
        core_write_pj_per_bit=commands.write_pj_per_bit if commands.by_command else value["core"],
        activate_pj=commands.activate_pj if commands.by_command else 0.0,
        interface_pj_per_bit=value["interface"]
        + (value.get("io_beside_commands", 0.0) if commands.by_command else 0.0),
        background_w_per_channel=value["background"] * 1e-3 * n_buses,
        n_buses=n_buses,
        buses_per_stack=int(value["buses_per_stack"]),
        bus_bits=int(value["bus_bits"]),
    )


@dataclass(frozen=True, slots=True)
class VectorOperations:
    """Operations of one evaluation of a function on a vector lane."""

    multiplies: int
    adds: int
    lookups: int


@cache
def vector_operations(function: str) -> VectorOperations:
    """Operations of one evaluation; a function that the table does not name is a multiply and an add."""
    found = {row["function"]: row for row in rows("vector_functions.csv")}
    row = found.get(function, found["default"])
    return VectorOperations(int(row["multiplies"]), int(row["adds"]), int(row["lookups"]))


Level = Literal["low", "mid", "high"]


def leakage_w_per_mm2(node_nm: int, level: Level = "mid") -> float:
    """Leakage power density of a node; the three levels are the spread of the sources."""
    return _asic_points(f"leakage_{level}", node_nm)[0][1]
