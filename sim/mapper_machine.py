"""What mapper and bounds need of an architecture: its slots resolved, rates in default-clock cycles."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from tilewright.dataflow.errors import InputError
from tilewright.sim.architecture import (
    Architecture,
    BufferMemory,
    Component,
    Dma,
    Dram,
    MatrixArray,
    VectorUnit,
)
from tilewright.sim.device import device_named
from tilewright.sim.energy import price_book
from tilewright.sim.engine_leaf import MemoryService
from tilewright.sim.mapper_kernel import STATIONARITY_CODE
from tilewright.sim.rated_memory import memory_of
from tilewright.sim.technology import resolve_table

C = TypeVar("C", bound=Component)

#: Slots that every program of the family `sequential` names, and the component kind behind each.
SLOTS: tuple[tuple[str, type[Component]], ...] = (
    ("array", MatrixArray),
    ("vector", VectorUnit),
    ("input_buffer", BufferMemory),
    ("weight_buffer", BufferMemory),
    ("output_buffer", BufferMemory),
    ("dma_in", Dma),
    ("dma_out", Dma),
)
_BUFFER_SLOTS = ("input_buffer", "weight_buffer", "output_buffer")


@dataclass(frozen=True)
class Machine:
    """An architecture seen through its slots; rates are per cycle of the architecture's clock."""

    architecture: Architecture
    array: MatrixArray
    vector: VectorUnit
    input_buffer: BufferMemory
    weight_buffer: BufferMemory
    output_buffer: BufferMemory
    dma_in: Dma
    dma_out: Dma
    dram: Dram
    memory: MemoryService
    dram_bytes_per_cycle: float
    dram_latency_cycles: float
    array_scale: float  # default-clock cycles per cycle of the array
    vector_scale: float
    mapper_sizes: tuple[int, ...]  # the machine's part of the mapper kernel's vectors
    mapper_rates: tuple[float, ...]

    def evaluation_cycles(self, function: str) -> float:
        """Default-clock cycles of one evaluation on one lane."""
        return dict(self.vector.cycles_per_evaluation).get(function, 1) * self.vector_scale

    def parameter(self, name: str, default: int | str | bool) -> int | float | str | bool:
        """A choice that the template left in the architecture, `default` if it is a declared one."""
        return dict(self.architecture.parameters).get(name, default)


@lru_cache(maxsize=64)
def machine_of(architecture: Architecture) -> Machine:
    """Resolve the slots. Raises InputError for a slot that is missing or bound to the wrong kind."""
    by_slot = {slot: _bound(architecture, slot, kind) for slot, kind in SLOTS}
    drams = architecture.of_kind(Dram)
    if len(drams) != 1:
        raise InputError(f"architecture {architecture.name!r} must have 1 dram component, has {len(drams)}")
    dram = drams[0]
    table = memory_of(dram, architecture.clock_mhz)
    array_scale = architecture.clock_mhz / architecture.clock_of(by_slot["array"])
    vector_scale = architecture.clock_mhz / architecture.clock_of(by_slot["vector"])
    rates = (table.peak_bytes_per_cycle, table.latency_cycles, array_scale, vector_scale)
    sizes, kernel_rates = _mapper_figures(by_slot, *rates)
    prices = _prices(architecture, by_slot)
    parts: dict[str, Any] = dict(by_slot)
    return Machine(
        architecture=architecture,
        dram=dram,
        memory=table,
        dram_bytes_per_cycle=table.peak_bytes_per_cycle,
        dram_latency_cycles=table.latency_cycles,
        array_scale=array_scale,
        vector_scale=vector_scale,
        mapper_sizes=sizes,
        mapper_rates=(*kernel_rates, *prices),
        **parts,
    )


def _mapper_figures(
    by_slot: Mapping[str, Component],
    dram_bytes_per_cycle: float,
    latency_cycles: float,
    array_scale: float,
    vector_scale: float,
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Sizes and rates of the machine in the order that `sim.mapper_kernel` states."""
    array, dma_in, dma_out = by_slot["array"], by_slot["dma_in"], by_slot["dma_out"]
    assert isinstance(array, MatrixArray)
    assert isinstance(dma_in, Dma)
    assert isinstance(dma_out, Dma)
    sizes = (
        array.rows, array.cols, STATIONARITY_CODE[array.stationarity], array.count, int(array.drain_overlap),
        dma_in.channels,
    )  # fmt: skip
    rates = (
        min(float(dma_in.bytes_per_cycle), dram_bytes_per_cycle),
        min(float(dma_out.bytes_per_cycle), dram_bytes_per_cycle),
        dram_bytes_per_cycle,
        dma_in.setup_cycles + latency_cycles,
        by_slot["vector"].startup_cycles * vector_scale,  # type: ignore[union-attr]
        array_scale,
        *(port_bytes_per_cycle(by_slot[slot]) for slot in _BUFFER_SLOTS),
    )
    return sizes, rates


def _prices(architecture: Architecture, by_slot: Mapping[str, Component]) -> tuple[float, float, float]:
    """pJ of a byte of DRAM, of a byte through a buffer (mean of the three), and of a cycle at rest."""
    device = device_named(architecture.device)
    book = price_book(architecture, device, resolve_table(device))
    dram = 8 * (book.dram_core_pj_per_bit + book.dram_interface_pj_per_bit)
    buffers = [8 * book.buffer_pj_per_bit[by_slot[slot].name] for slot in _BUFFER_SLOTS]
    rest_w = book.dram_background_w + sum(power_w for _, power_w in book.static_w)
    return dram, sum(buffers) / len(buffers), rest_w / architecture.clock_mhz * 1e6


def port_bytes_per_cycle(memory: Component) -> float:
    """What a memory's ports move per cycle, all banks together."""
    assert isinstance(memory, BufferMemory)
    return memory.banks * memory.port_bits / 8


def _bound(architecture: Architecture, slot: str, kind: type[C]) -> C:
    component = architecture.component_by_slot.get(slot)
    if component is None:
        raise InputError(f"architecture {architecture.name!r} binds no component to slot {slot!r}")
    if not isinstance(component, kind):
        raise InputError(
            f"slot {slot!r} must be bound to a {kind.__name__}, {component.name!r} is a"
            f" {type(component).__name__}"
        )
    return component
