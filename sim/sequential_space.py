"""The parameters of the family `sequential` and the hardware of one point of its space."""

from collections.abc import Mapping

from tilewright.sim.architecture import (
    Architecture,
    Arithmetic,
    BufferMemory,
    Component,
    Dma,
    Dram,
    MatrixArray,
    MemoryKind,
    VectorUnit,
)
from tilewright.sim.device import Device
from tilewright.sim.placement import POLICIES, policy_placement
from tilewright.sim.space import Parameter, Space, Value

#: Operand bits and arithmetic by the value of `precision`; packed: two int8 products per DSP slice.
PRECISIONS: dict[str, tuple[int, Arithmetic]] = {
    "int8": (8, "mac"),
    "packed_int8": (8, "packed_mac"),
    "int16": (16, "mac"),
}
ACCUMULATOR_BITS = 32

# Initiation interval of a lane: what one multiplier or table per lane does at full rate takes 1 (not listed);
# several dependent products, an interpolation or a shared divider take more. A choice of the family.
CYCLES_PER_EVALUATION: tuple[tuple[str, int], ...] = (
    ("div", 4),
    ("exp", 2),
    ("gelu", 4),
    ("gelu_new", 4),
    ("layernorm", 2),
    ("mean_variance", 2),
    ("rmsnorm", 2),
    ("rotary", 2),
    ("rsqrt", 4),
    ("sigmoid", 4),
    ("silu", 4),
    ("silu_mul", 4),
    ("softplus", 4),
    ("sqrt", 4),
    ("tanh", 4),
)
_VECTOR_STARTUP_CYCLES = 8
# An AXI burst of 16 beats of 512 bits, and as many in flight as an HBM port allows.
_BURST_BYTES = 1024
_MAX_OUTSTANDING = 32
# A block RAM or UltraRAM port moves 64 data bits a cycle; SRAM macros come twice as wide.
_PORT_BITS = {"fpga": 64, "asic": 128}
# Banks of at least this many bytes fill an UltraRAM block (288 Kib, parity used for nothing).
_URAM_BANK_BYTES = 32 * 1024

_BUFFERS = ("input_buffer", "weight_buffer", "output_buffer")
_KIB_VALUES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


def space_of(device: Device) -> Space:
    """The parameters of `sequential` on `device`: its memory channels and clocks, packing on FPGAs only."""
    precisions = tuple(name for name in PRECISIONS if device.is_fpga or name != "packed_int8")
    edges = (4, 8, 16, 32, 64, 128) if device.is_fpga else (8, 16, 32, 64, 128, 256)
    channels = tuple(n for n in (1, 2, 4, 8, 16, 32) if n <= device.memory_channels)
    return Space(
        (
            Parameter("rows", edges, 32, "rows of PEs of one array"),
            Parameter("cols", edges, 32, "columns of PEs of one array"),
            Parameter("arrays", (1, 2, 4, 8, 16), 1, "arrays that share every tile"),
            Parameter("stationarity", ("output", "weight", "input"), "output", "what stays in a PE", False),
            Parameter("precision", precisions, "int8", "operands of a PE", False),
            Parameter("drain_overlap", (False, True), True, "drain a tile under the next one's fill"),
            Parameter("vector_lanes", (8, 16, 32, 64, 128, 256, 512), 64, "lanes of the vector unit"),
            Parameter("input_buffer_kib", _KIB_VALUES, 256, "buffer of activations entering the array"),
            Parameter("weight_buffer_kib", _KIB_VALUES, 256, "buffer of weights, keys and values"),
            Parameter("output_buffer_kib", _KIB_VALUES, 256, "buffer of sums and results"),
            Parameter("banks", (4, 8, 16, 32, 64, 128), 32, "banks of each buffer, one port each"),
            Parameter("prefetch_depth", (1, 2, 3, 4), 2, "copies of every tile; 2 is double buffering"),
            Parameter("dma_channels", (1, 2, 4), 2, "loads in flight at a time"),
            Parameter("dma_bytes_per_cycle", (16, 32, 64, 128, 256, 512), 128, "width of a DMA channel"),
            Parameter("hbm_channels", channels, channels[len(channels) // 2], "memory channels in use"),
            Parameter("fusion", (False, True), True, "maps and low-rank paths ride on the products"),
            Parameter("attention", ("three_pass", "one_pass"), "one_pass", "softmax, if fused", False),
            Parameter("clock_mhz", _clocks(device), device.default_clock_mhz, "clock of the whole chip"),
            *_placements(device),
        )
    )


def _placements(device: Device) -> tuple[Parameter, ...]:
    """Which channels hold what, where there is more than one."""
    if device.memory_channels == 1:
        return ()
    return (
        Parameter(
            "placement", tuple(POLICIES), "interleaved", "channels that hold weights, caches, the rest", False
        ),
    )


def _clocks(device: Device) -> tuple[float, ...]:
    """The ends of the device's range, the default and the middles between, ascending."""
    low, high = device.clock_range_mhz
    default = device.default_clock_mhz
    return tuple(sorted({low, (low + default) / 2, default, (default + high) / 2, high}))


def build_sequential(parameters: Mapping[str, Value], device: Device) -> Architecture:
    """The components and slots of one point of the space.

    Values between those of the space are built as well. Raises InputError for an unknown name and for a value
    outside the space: a category or size that it lacks, channels or a clock that the device does not have.
    """
    chosen = space_of(device).complete(parameters)
    size = {name: int(value) for name, value in chosen.items() if _is_size(value)}
    bits, arithmetic = PRECISIONS[str(chosen["precision"])]
    components: list[Component] = [
        MatrixArray(
            "array", size["rows"], size["cols"], chosen["stationarity"],  # type: ignore[arg-type]
            (bits, bits), ACCUMULATOR_BITS, arithmetic, size["arrays"], bool(chosen["drain_overlap"]),
        ),
        VectorUnit("vector", size["vector_lanes"], 32, CYCLES_PER_EVALUATION, _VECTOR_STARTUP_CYCLES),
    ]  # fmt: skip
    for name in _BUFFERS:
        capacity_bytes = size[f"{name}_kib"] * 1024
        kind = _memory_kind(device, capacity_bytes // size["banks"])
        port_bits = _PORT_BITS[device.device_class]
        components.append(BufferMemory(name, capacity_bytes, size["banks"], port_bits, kind))
    width = size["dma_bytes_per_cycle"]
    placement = policy_placement(str(chosen.get("placement", "interleaved")), size["hbm_channels"])
    components += [
        Dma("dma_in", size["dma_channels"], width, _BURST_BYTES, _MAX_OUTSTANDING),
        Dma("dma_out", 1, width, _BURST_BYTES, _MAX_OUTSTANDING),
        Dram("dram", device.memory_config, size["hbm_channels"], placement=placement),
    ]
    slots = tuple((component.name, component.name) for component in components)
    return Architecture(
        "sequential", device.name, float(chosen["clock_mhz"]), tuple(components), slots,
        tuple(chosen.items()),
    )  # fmt: skip


def _memory_kind(device: Device, bank_bytes: int) -> MemoryKind:
    if not device.is_fpga:
        return "sram"
    has_uram = dict(device.totals).get("uram", 0) > 0
    return "uram" if has_uram and bank_bytes >= _URAM_BANK_BYTES else "bram"


def _is_size(value: Value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
