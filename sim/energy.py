"""Energy of a program: counted actions times the tables of `sim.technology`, plus static power over time.

What one action costs:

* A MAC is a multiply, an accumulation and what moves inside its PE: on an ASIC the operand and accumulator
  registers that are written every cycle (an array that holds an operand does not move it); on an FPGA all
  resources of one PE for one cycle.
* A buffer bit costs an access of its bank over the bank's port width, a FIFO's bit a register or distributed
  memory. Every bit between DRAM and buffers crosses all hops of a network on the chip.
* A vector evaluation is the operations of `data/vector_functions.csv` on an ASIC, and one lane for the
  function's cycles on an FPGA.
* A DRAM bit costs the memory's own energy and the PHY's; where command energies are known, the rows that a
  transfer's pattern opens cost theirs (`sim.dram_service`). Background power (standby, refresh) is drawn by the
  connected channels for the whole time.

Static power: leakage over the logic and SRAM area (ASIC); device, shell, memory controllers and the clock
tree of all flip-flops (FPGA).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache

from tilewright.dataflow.errors import InputError
from tilewright.sim.action_energy import ActionTable, action_tables
from tilewright.sim.actions import ActionCounts, NestCounts, OperandBits
from tilewright.sim.architecture import (
    Architecture,
    BufferMemory,
    Component,
    Dram,
    Fifo,
    MatrixArray,
    Noc,
    VectorUnit,
)
from tilewright.sim.area import area_of, used_resources
from tilewright.sim.asic_area import port_growth
from tilewright.sim.device import Device
from tilewright.sim.dram_service import steady_activates_per_byte
from tilewright.sim.fpga_array import pe_resources
from tilewright.sim.fpga_resources import BRAM18_SHAPES, URAM_SHAPE, lane_resources
from tilewright.sim.report import Breakdown
from tilewright.sim.technology import (
    DEFAULT,
    AsicTable,
    FpgaTable,
    asic_table,
    fpga_table,
    memory_energy,
    resolve_table,
    vector_operations,
)

STATIC = "static"
_PJ_PER_W_AND_MHZ = 1e6  # W * cycles / MHz is microjoules


@dataclass(frozen=True)
class PriceBook:
    """What one action costs on one architecture, in pJ, and what it draws at rest, in W."""

    table: str
    mac_pj: Callable[[str, OperandBits], float]
    evaluation_pj: Callable[[str, str], float]
    buffer_pj_per_bit: dict[str, float]
    dram_name: str
    dram_core_pj_per_bit: float
    dram_interface_pj_per_bit: float
    dram_background_w: float
    static_w: tuple[tuple[str, float], ...]
    buffer_write_pj_per_bit: dict[str, float] | None = None  # where writing costs other than reading
    dram_write_pj_per_bit: float | None = None  # where writing costs other than reading
    dram_config: str = ""  # with an `activate_pj`: the memory whose rows the traffic opens
    dram_activate_pj: float = 0.0
    network_pj_per_bit: tuple[tuple[str, float], ...] = ()  # all hops of each network on the chip

    def activate_pj_of(self, nest: NestCounts) -> float:
        """pJ of the rows that a nest's transfers open; 0 where the energy per bit holds them."""
        if not self.dram_activate_pj or not nest.dram_run_bytes:
            return 0.0
        energy = 0.0
        for n_bytes, is_write in ((nest.dram_read_bytes, False), (nest.dram_write_bytes, True)):
            if n_bytes:
                rate = steady_activates_per_byte(
                    self.dram_config, nest.dram_run_bytes, is_write, nest.dram_random
                )
                energy += n_bytes * rate * self.dram_activate_pj
        return energy

    def moved_pj(self, n_read: int, n_written: int) -> tuple[float, float, float]:
        """pJ of bytes read, of bytes written, and of both on the interface."""
        write = (
            self.dram_core_pj_per_bit if self.dram_write_pj_per_bit is None else self.dram_write_pj_per_bit
        )
        return (
            8 * n_read * self.dram_core_pj_per_bit,
            8 * n_written * write,
            8 * (n_read + n_written) * self.dram_interface_pj_per_bit,
        )

    def dram_pj(self, nest: NestCounts) -> float:
        """pJ of what a nest moves, activations included, background not."""
        return sum(self.moved_pj(nest.dram_read_bytes, nest.dram_write_bytes)) + self.activate_pj_of(nest)


def price(
    counts: ActionCounts,
    latency_cycles: int,
    architecture: Architecture,
    device: Device,
    table: str = DEFAULT,
) -> Breakdown:
    """pJ of one run that takes `latency_cycles` of the architecture's clock: component, then action.

    Dynamic energy is linear in `counts` and static energy in `latency_cycles`, so layers may be priced one
    by one and summed. Raises InputError for an unknown table or a component without a price.
    """
    book = price_book(architecture, device, resolve_table(device, table))
    actions: dict[str, dict[str, float]] = {}

    def add(component: str, action: str, energy_pj: float) -> None:
        own = actions.setdefault(component, {})
        own[action] = own.get(action, 0.0) + energy_pj

    for (component, bits), n_macs in counts.macs.items():
        add(component, f"mac_{bits[0]}x{bits[1]}", n_macs * book.mac_pj(component, bits))
    for (component, function), n in counts.evaluations.items():
        add(component, function, n * book.evaluation_pj(component, function))
    for name, bits_read in counts.buffer_read_bits.items():
        add(name, "read", bits_read * _buffer_pj(book, name))
    for name, bits_written in counts.buffer_write_bits.items():
        add(name, "write", bits_written * _buffer_pj(book, name, writes=True))
    names = ("read", "write", "interface")
    for name, energy in zip(
        names, book.moved_pj(counts.dram_read_bytes, counts.dram_write_bytes), strict=True
    ):
        add(book.dram_name, name, energy)
    add(book.dram_name, "activate", sum(book.activate_pj_of(nest) for nest in counts.nests))
    moved_bits = 8 * (counts.dram_read_bytes + counts.dram_write_bytes)
    for name, pj_per_bit in book.network_pj_per_bit:
        add(name, "hops", moved_bits * pj_per_bit)
    time = latency_cycles / architecture.clock_mhz * _PJ_PER_W_AND_MHZ
    add(book.dram_name, "background", book.dram_background_w * time)
    for name, power_w in book.static_w:
        add(STATIC, name, power_w * time)
    return Breakdown.of(
        "energy_pj",
        tuple(
            Breakdown.of(component, tuple(Breakdown(action, value) for action, value in own.items()))
            for component, own in actions.items()
        ),
    )


def nest_pj(nest: NestCounts, architecture: Architecture, device: Device, table: str = DEFAULT) -> float:
    """Dynamic pJ of one nest; over all nests they sum to `price` without background and static energy."""
    book = price_book(architecture, device, resolve_table(device, table))
    energy = nest.macs * book.mac_pj(nest.component, nest.mac_bits) if nest.macs else 0.0
    for function, n in nest.evaluations:
        energy += n * book.evaluation_pj(nest.component, function)
    for name, bits_read, bits_written in nest.buffer_bits:
        energy += bits_read * _buffer_pj(book, name) + bits_written * _buffer_pj(book, name, writes=True)
    moved_bits = 8 * (nest.dram_read_bytes + nest.dram_write_bytes)
    energy += sum(moved_bits * pj_per_bit for _, pj_per_bit in book.network_pj_per_bit)
    return energy + book.dram_pj(nest)


@lru_cache(maxsize=4096)
def price_book(architecture: Architecture, device: Device, table: str) -> PriceBook:
    """Unit prices of an architecture; `table` is a resolved name. Raises as `price` does."""
    components = architecture.component_by_name
    if table in action_tables():
        return _action_book(architecture, action_tables()[table])
    if device.gpu is not None:
        return _gpu_book(architecture, device.gpu.board_power_w, table)
    if device.is_fpga:
        fpga = fpga_table(device, table)
        mac, evaluation, buffer = _fpga_prices(fpga)
        fifo_pj, hop_pj = fpga.lutram_pj / 2, fpga.lut_pj + fpga.ff_pj
    else:
        asic = asic_table(device, table)
        mac, evaluation, buffer = _asic_prices(asic)
        fifo_pj, hop_pj = asic.register_pj_per_bit, asic.hop_pj_per_bit
    drams = architecture.of_kind(Dram)
    dram = drams[0] if drams else Dram("dram", device.memory_config, device.memory_channels)
    memory = memory_energy(dram.config)
    if device.is_fpga:
        static_w = _fpga_static_w(architecture, device, fpga, memory.n_stacks(dram.channels))
    else:
        static_w = _asic_static_w(architecture, device, asic)
    return PriceBook(
        table=table,
        mac_pj=cache(lambda name, bits: mac(components[name], bits)),
        evaluation_pj=cache(lambda name, function: evaluation(components[name], function)),
        buffer_pj_per_bit={one.name: buffer(one) for one in architecture.of_kind(BufferMemory)}
        | {one.name: fifo_pj for one in architecture.of_kind(Fifo)},
        network_pj_per_bit=tuple((one.name, one.hops * hop_pj) for one in architecture.of_kind(Noc)),
        dram_name=dram.name,
        dram_core_pj_per_bit=memory.core_pj_per_bit,
        dram_interface_pj_per_bit=memory.interface_pj_per_bit,
        dram_background_w=memory.background_w_per_channel * dram.channels,
        static_w=static_w,
        dram_write_pj_per_bit=memory.core_write_pj_per_bit,
        dram_config=dram.config,
        dram_activate_pj=memory.activate_pj,
    )


def _gpu_book(architecture: Architecture, board_power_w: float, table: str) -> PriceBook:
    """A GPU draws at most its board's power limit; what its parts take is not known."""
    (dram,) = architecture.of_kind(Dram)
    return PriceBook(
        table=table,
        mac_pj=lambda *_: 0.0,
        evaluation_pj=lambda *_: 0.0,
        buffer_pj_per_bit={one.name: 0.0 for one in architecture.of_kind(BufferMemory)},
        dram_name=dram.name,
        dram_core_pj_per_bit=0.0,
        dram_interface_pj_per_bit=0.0,
        dram_background_w=0.0,
        static_w=(("board_power_limit", board_power_w),),
    )


def _action_book(architecture: Architecture, table: ActionTable) -> PriceBook:
    """A table of actions prices what it names and nothing else: no leakage, no standby."""
    (dram,) = architecture.of_kind(Dram)
    memories = [(one.name, float(one.capacity_bytes)) for one in architecture.of_kind(BufferMemory)]
    return PriceBook(
        table=table.name,
        mac_pj=lambda name, _: table.pj(name, "mac"),
        evaluation_pj=table.pj,
        buffer_pj_per_bit={name: table.pj(name, "read", size) for name, size in memories},
        buffer_write_pj_per_bit={name: table.pj(name, "write", size) for name, size in memories},
        dram_name=dram.name,
        dram_core_pj_per_bit=table.pj(dram.name, "access"),
        dram_interface_pj_per_bit=0.0,
        dram_background_w=0.0,
        static_w=(),
    )


MacPrice = Callable[[Component, OperandBits], float]
EvaluationPrice = Callable[[Component, str], float]
BufferPrice = Callable[[BufferMemory], float]


def _asic_prices(table: AsicTable) -> tuple[MacPrice, EvaluationPrice, BufferPrice]:
    def mac(component: Component, bits: OperandBits) -> float:
        return _asic_mac_pj(component, bits, table)

    def evaluation(component: Component, function: str) -> float:
        assert isinstance(component, VectorUnit | MatrixArray)
        width = component.element_bits if isinstance(component, VectorUnit) else 16
        # lanes compute in floating point of their width, at least 16 bit
        width = max(width, 16)
        operations = vector_operations(function)
        return (
            operations.multiplies * table.float_multiply_pj(width)
            + operations.adds * table.float_add_pj(width)
            + operations.lookups * width * table.sram_pj_per_bit(512 * width / 8)
            + 2 * width * table.register_pj_per_bit  # operand and result
        )

    def buffer(memory: BufferMemory) -> float:
        if memory.kind == "register":
            return table.register_pj_per_bit
        # the wires of a bank grow with its cells
        return table.sram_pj_per_bit(memory.capacity_bytes / memory.banks) * port_growth(memory.ports)

    return mac, evaluation, buffer


def _asic_mac_pj(component: Component, bits: OperandBits, table: AsicTable) -> float:
    """A multiply, an addition into the accumulator and the registers of the PE that change every cycle."""
    weight_bits, activation_bits, accumulator_bits = bits
    arithmetic, stationarity = "mac", "output"
    if isinstance(component, MatrixArray):
        arithmetic, stationarity = component.arithmetic, component.stationarity
    moved_bits = weight_bits + activation_bits + accumulator_bits
    if stationarity == "weight":
        moved_bits -= weight_bits
    elif stationarity == "input":
        moved_bits -= activation_bits
    add = table.int_add_pj(accumulator_bits) + moved_bits * table.register_pj_per_bit
    if arithmetic in ("mac", "packed_mac"):
        return table.int_multiply_pj(weight_bits, activation_bits) + add
    if arithmetic == "ternary_add":
        return add
    if arithmetic == "shift_add":  # a barrel shifter switches about as much as an addition
        return table.int_add_pj(activation_bits + weight_bits) + add
    raise InputError(f"{component.name}: arithmetic {arithmetic!r} has no energy in table {table.name!r}")


def _fpga_prices(table: FpgaTable) -> tuple[MacPrice, EvaluationPrice, BufferPrice]:
    def mac(component: Component, bits: OperandBits) -> float:
        if isinstance(component, MatrixArray):
            lut, ff, dsp = pe_resources(component)
        else:
            assert isinstance(component, VectorUnit)
            lut, ff, dsp = lane_resources(component)
        dsp_pj = table.dsp_pj_at(max(bits[0], bits[1]))
        return lut * table.lut_pj + ff * table.ff_pj + dsp * dsp_pj

    def evaluation(component: Component, function: str) -> float:
        assert isinstance(component, VectorUnit)
        lut, ff, dsp = lane_resources(component)
        cycles = dict(component.cycles_per_evaluation).get(function, 1)
        per_cycle = lut * table.lut_pj + ff * table.ff_pj + dsp * table.dsp_pj_at(component.element_bits)
        return cycles * per_cycle

    def buffer(memory: BufferMemory) -> float:
        if memory.kind == "uram":
            blocks = -(-memory.port_bits // URAM_SHAPE[1])
            return blocks * table.uram_pj / memory.port_bits
        if memory.kind == "bram":
            return _bram_pj_per_bit(memory, table)
        if memory.kind == "lutram":
            return table.lutram_pj / 2  # a LUT holds two bits side by side in its narrow modes
        return table.ff_pj

    return mac, evaluation, buffer


def _bram_pj_per_bit(memory: BufferMemory, table: FpgaTable) -> float:
    """Only the blocks that hold the addressed word are enabled; a BRAM18 takes half of a BRAM36."""
    halves = -(-memory.port_bits // BRAM18_SHAPES[0][1])
    return halves / 2 * table.bram36_pj / memory.port_bits


def _fpga_static_w(
    architecture: Architecture, device: Device, table: FpgaTable, n_stacks: int
) -> tuple[tuple[str, float], ...]:
    """Device, shell, memory controllers; the clock tree switches at every cycle whatever the design does."""
    flip_flops = dict(device.shell)["ff"] + sum(one.ff for _, one in used_resources(architecture, device))
    return (
        ("device", table.static_w),
        ("shell", table.shell_w),
        ("memory_controllers", table.memory_controller_w_per_stack * n_stacks),
        ("clock_tree", flip_flops * table.clock_pj_per_ff * architecture.clock_mhz * 1e-6),
    )


def _asic_static_w(
    architecture: Architecture, device: Device, table: AsicTable
) -> tuple[tuple[str, float], ...]:
    """Leakage of logic, SRAM and memory controllers; the PHYs' own power is in the energy per bit."""
    area = area_of(architecture, device)
    assert area.mm2 is not None
    assert area.parts is not None
    memories = [part for part in area.parts.children if part.name in _dram_names(architecture)]
    phys = sum(child.value for memory in memories for child in memory.children if child.name == "phy")
    return (("leakage", (area.mm2 - phys) * table.leakage_w_per_mm2),)


def _dram_names(architecture: Architecture) -> set[str]:
    return {dram.name for dram in architecture.of_kind(Dram)}


def _buffer_pj(book: PriceBook, name: str, writes: bool = False) -> float:
    if writes and book.buffer_write_pj_per_bit is not None:
        return book.buffer_write_pj_per_bit[name]
    if name not in book.buffer_pj_per_bit:
        raise InputError(f"{name!r} holds buffers but is no memory, so its accesses have no price")
    return book.buffer_pj_per_bit[name]
