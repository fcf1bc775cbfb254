"""The family `gpu_like`: a GPU from its data sheet, one kernel after another.

docs/hardware.md describes the model, what was measured, and how far it is off.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import ceil, prod

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Kind
from tilewright.dataflow.program import (
    Buffer,
    Compute,
    Direction,
    Loop,
    Nest,
    Pace,
    Port,
    Program,
    Stage,
    Transfer,
    Unit,
    VectorWork,
)
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
from tilewright.sim.device import Device, GpuSheet, device_named
from tilewright.sim.fitted import constants_of
from tilewright.sim.gpu_kernels import (
    LANE_CYCLES,
    MOVE_CYCLES,
    Gpu,
    Work,
    lane_cycles_of,
    map_work,
    norm_work,
    product_work,
    softmax_work,
)
from tilewright.sim.mapping import OBJECTIVES, MappingError
from tilewright.sim.sequential_emit import touched_elements
from tilewright.sim.sequential_picks import with_grouped_picks
from tilewright.sim.sequential_plan import Fusion, GemmPlan, MovePlan, VectorPlan, plan_graph, works_of
from tilewright.sim.space import Parameter, Space, Value
from tilewright.sim.thread_blocks import Multiprocessors, Product

NAME = "gpu_like"
#: Operands of products by name: bytes of an element, and whether matrix units take them.
_OPERANDS = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}
_PARTS = 16  # tiles that a kernel's loads and computation overlap in
_LARGE_TILES_FROM_L2 = 20e6  # libraries for the A100 and later; their caches tell them


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor that a kernel reads or writes: elements of it, and bits of one."""

    tensor: str
    elements: int
    bits: int


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel: its work, the operands that share its bytes, and the product or functions it stands for."""

    name: str
    operators: tuple[str, ...]
    work: Work
    reads: tuple[Operand, ...]
    writes: tuple[Operand, ...]
    product: Product | None = None
    functions: tuple[VectorWork, ...] = ()
    points: int = 1


class GpuLike:
    """A GPU: products on its matrix units or lanes, everything else on lanes, a kernel at a time."""

    name = NAME
    summary = "a GPU from its data sheet, one kernel after another"
    device_classes = ("gpu",)

    def space(self, device: Device) -> Space:
        """The type of the operands of products, and fusion; the rest is the device's. Raises InputError for a
        device that is no GPU."""
        known = dict(_sheet(device).matrix_macs)
        names = tuple(name for name in _OPERANDS if name == "fp32" or name in known)
        default = "fp16" if "fp16" in names else "fp32"
        return Space(
            (
                Parameter("precision", names, default, "operands of products", False),
                Parameter("fusion", (False, True), False, "maps ride on the products that they follow"),
            ),
            constants_of(NAME, device.name),
        )

    def build(self, parameters: Mapping[str, Value], device: Device) -> Architecture:
        """The device as components. Raises InputError for a device that is no GPU."""
        chosen, sheet = self.space(device).complete(parameters), _sheet(device)
        clock_mhz = device.default_clock_mhz
        rate = dict(sheet.matrix_macs).get(str(chosen["precision"]), sheet.fp32_lanes)
        rows = 1 << (rate.bit_length() // 2)
        bits = 8 * _OPERANDS[str(chosen["precision"])]
        peak = sheet.memory_gb_per_s * 1e3 / clock_mhz
        launch = ceil(float(chosen["launch_us"]) * clock_mhz)
        components: tuple[Component, ...] = (
            MatrixArray(
                "matrix_units", rows, rate // rows, "output", (bits, bits), 32,
                count=sheet.multiprocessors, discipline="thread_blocks",
            ),
            VectorUnit("lanes", sheet.multiprocessors * sheet.fp32_lanes, 32, LANE_CYCLES, 0),
            VectorUnit("front_end", 1, 32, (), launch),
            BufferMemory("l2", sheet.l2_bytes, 1, 1 << 20, "sram"),
            # what limits a transfer is the memory's rate, which the bank model does not tell
            Dma("load", 64, ceil(peak), 64, 1 << 20, 0),
            Dma("store", 64, ceil(peak), 64, 1 << 20, 0),
            Dram("dram", device.memory_config, device.memory_channels,
                 MemoryRate(peak, 1, float(chosen["dram_efficiency"]))),
        )  # fmt: skip
        slots = (
            ("array", "matrix_units"), ("vector", "lanes"), ("front_end", "front_end"), ("input_buffer", "l2"),
            ("weight_buffer", "l2"), ("output_buffer", "l2"), ("dma_in", "load"), ("dma_out", "store"),
        )  # fmt: skip
        return Architecture(NAME, device.name, clock_mhz, components, slots, tuple(chosen.items()))

    def schedule(self, graph: Graph, architecture: Architecture, objective: str = "latency") -> Program:
        """A kernel per product, per row function (softmax, norm) and per map.

        Raises MappingError for an objective that is none.
        """
        if objective not in OBJECTIVES:
            raise MappingError(f"objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
        planned = _Kernels(graph, architecture)
        return kernel_program(planned.kernels(), architecture, planned.graph)


def _sheet(device: Device) -> GpuSheet:
    if device.gpu is None:
        raise InputError(f"template {NAME!r} is for GPUs, {device.name} is of class {device.device_class!r}")
    return device.gpu


def gpu_of(architecture: Architecture) -> Gpu:
    """What kernels need of an architecture that `GpuLike.build` made."""
    chosen = dict(architecture.parameters)
    sheet = _sheet(device_named(architecture.device))
    precision = str(chosen["precision"])
    rate = dict(sheet.matrix_macs).get(precision, sheet.fp32_lanes)
    cache_bytes = sheet.l2_bytes / sheet.l2_partitions
    (dram,) = architecture.of_kind(Dram)
    assert dram.rate is not None
    products = Multiprocessors(
        count=sheet.multiprocessors,
        macs_per_cycle=rate * float(chosen["compute_efficiency"]),
        operand_bytes=_OPERANDS[precision],
        matrix=precision in dict(sheet.matrix_macs),
        large_tiles=sheet.l2_bytes >= _LARGE_TILES_FROM_L2,
        cache_bytes=cache_bytes,
        peak_macs_per_cycle=rate,
    )
    lanes = sheet.multiprocessors * sheet.fp32_lanes
    return Gpu(products, lanes, dram.rate.bytes_per_cycle * dram.rate.efficiency)


def kernel_program(kernels: Iterable[Kernel], architecture: Architecture, graph: Graph) -> Program:
    """The program that launches and runs one kernel after another; `graph` declares their tensors."""
    gpu = gpu_of(architecture)
    buffers: dict[str, Buffer] = {}
    stages: list[Stage] = []
    for kernel in kernels:
        before = tuple(nest.name for nest in stages[-1].nests[1:]) if stages else ()
        nests = _kernel_nests(kernel, gpu, buffers, before)
        stages.append(Stage(kernel.name, kernel.operators, nests))
    return Program(graph.name, graph.tensors, tuple(buffers.values()), tuple(stages))


def _kernel_nests(
    kernel: Kernel, gpu: Gpu, buffers: dict[str, Buffer], before: tuple[str, ...]
) -> tuple[Nest, ...]:
    """Launch, a load per operand, the computation and a store per result, in as many parts each.

    The host launches ahead: a kernel starts when its launch is done and the kernel before has ended.
    """
    product = kernel.product
    rank, extent = _cut_rank(product) if product else ("points", kernel.points)
    loop = Loop(rank, extent, -(-extent // _PARTS))
    launch = Nest(
        f"{kernel.name}_launch", "front_end", (Loop("launch", 1, 1),),
        Compute(Unit.VECTOR, kernel.operators, (("launch", 1),)),
    )  # fmt: skip
    waits = (launch.name, *before)
    moved: list[tuple[Nest, Port]] = []
    for direction, operands, n_bytes in (
        (Direction.LOAD, kernel.reads, kernel.work.read_bytes),
        (Direction.STORE, kernel.writes, kernel.work.write_bytes),
    ):
        all_bits = sum(operand.elements * operand.bits for operand in operands)
        for number, operand in enumerate(operands):
            share = n_bytes * operand.elements * operand.bits / all_bits
            cycles = share / gpu.bytes_per_cycle / loop.trips
            moved.append(_move(kernel, direction, number, operand, loop, cycles, buffers, waits))
    reads = tuple(port for nest, port in moved if nest.slot == "dma_in")
    writes = tuple(port for nest, port in moved if nest.slot == "dma_out")
    compute = Nest(
        f"{kernel.name}_compute", "array" if product else "vector", (loop,), _compute(kernel, loop),
        reads, writes, waits,
    )  # fmt: skip
    loads = [nest for nest, _ in moved if nest.slot == "dma_in"]
    stores = [nest for nest, _ in moved if nest.slot == "dma_out"]
    return (launch, *loads, compute, *stores)


def _move(
    kernel: Kernel, direction: Direction, number: int, operand: Operand, loop: Loop, cycles: float,
    buffers: dict[str, Buffer], waits: tuple[str, ...],
) -> tuple[Nest, Port]:  # fmt: skip
    """One operand's way from or to memory, in equal parts."""
    loads = direction is Direction.LOAD
    name = f"{'in' if loads else 'out'}_{number}"
    elements = -(-operand.elements // loop.trips)
    tile = (("elements", elements),)
    slot_bytes = max(elements * operand.bits // 8, getattr(buffers.get(name), "slot_bytes", 1))
    buffers[name] = Buffer(name, "input_buffer" if loads else "output_buffer", slot_bytes, 2, 8)
    leaf = Transfer(direction, operand.tensor, tile, operand.bits, elements, pace=Pace(0.0, cycles))
    port = Port(name, 1, tile)
    nest = Nest(
        f"{kernel.name}_{'load' if loads else 'store'}_{number}", "dma_in" if loads else "dma_out", (loop,), leaf,
        () if loads else (port,), (port,) if loads else (), waits,
    )  # fmt: skip
    return nest, port


def _cut_rank(product: Product) -> tuple[str, int]:
    """The longest rank of the result, which the parts of a kernel cut."""
    sizes = {"batch": product.batch, "m": product.m, "n": product.n}
    rank = max(sizes, key=lambda name: sizes[name])
    return rank, sizes[rank]


def _compute(kernel: Kernel, loop: Loop) -> Compute:
    """The leaf: its share of the kernel's cycles, with the product or functions that it stands for."""
    cycles = max(1.0, kernel.work.cycles * loop.tile / loop.extent)
    product = kernel.product
    if product is None:
        return Compute(
            Unit.VECTOR, kernel.operators, (("points", loop.tile),), functions=kernel.functions, cycles=cycles
        )
    whole = {"batch": product.batch, "m": product.m, "n": product.n, "k": product.k}
    tile = tuple((whole | {loop.rank: loop.tile}).items())
    return Compute(
        Unit.MATRIX, kernel.operators, tile, ("m",), ("n",), ("k",), ("batch",),
        operand_bits=(int(product.bits[1]), int(product.bits[0])), cycles=cycles,
    )  # fmt: skip


class _Kernels:
    """The kernels of a graph, in order."""

    def __init__(self, graph: Graph, architecture: Architecture) -> None:
        self.graph, self._aliases = with_grouped_picks(graph)
        self._gpu = gpu_of(architecture)
        self._fusion = bool(dict(architecture.parameters)["fusion"])

    def kernels(self) -> list[Kernel]:
        plan = plan_graph(self.graph, Fusion(self._fusion, False, False), self._aliases)
        found = []
        for stage in plan.stages:
            if isinstance(stage, GemmPlan):
                found.append(self._product(stage))
            elif isinstance(stage, VectorPlan):
                found.append(self._vector(stage))
            else:
                assert isinstance(stage, MovePlan)  # attention is not fused
                found.append(self._move(stage))
        return found

    def _operand(self, access: Access) -> Operand:
        """What an access touches of its tensor."""
        tensor = self.graph.tensor_by_name[access.tensor]
        return Operand(access.tensor, touched_elements(self.graph, access, {}), tensor.bits)

    def _operands(self, accesses: Iterable[Access]) -> tuple[Operand, ...]:
        return tuple(self._operand(access) for access in accesses)

    def _product(self, plan: GemmPlan) -> Kernel:
        size = {
            name: prod(self.graph.size(rank) for rank in getattr(plan.roles, name))
            for name in ("batch", "m", "n", "k")
        }
        a, b = self._operands(plan.contraction.inputs)
        c = self._operand(plan.output)
        # convolutions touch an input less often than their matrix of patches would
        bits = tuple(
            8 * _bytes(operand) / (size["batch"] * size[i] * size[j])
            for operand, i, j in ((a, "m", "k"), (b, "n", "k"), (c, "m", "n"))
        )
        size["batch"] *= plan.contraction.repeat
        product = Product(size["m"], size["n"], size["k"], size["batch"], (bits[0], bits[1], bits[2]))
        sides = self._operands((*plan.moving, *plan.fixed))
        work = product_work(self._gpu, product)
        work = replace(work, read_bytes=work.read_bytes + sum(map(_bytes, sides)))
        names = tuple(operator.name for operator in plan.operators)
        return Kernel(plan.name, names, work, (a, b, *sides), (c,), product)

    def _vector(self, plan: VectorPlan) -> Kernel:
        tables = [gather.inputs for gather in plan.gathers]
        rows_read = tuple(self._operand(gather.output) for gather in plan.gathers)
        made = {operand.tensor for operand in rows_read}
        reads = self._operands(access for access in (*plan.moving, *plan.fixed) if access.tensor not in made)
        reads += tuple(
            replace(rows, tensor=inputs[-1].tensor) for rows, inputs in zip(rows_read, tables, strict=True)
        )
        reads += self._operands(access for inputs in tables for access in inputs[:-1])
        writes = self._operands(plan.outputs)
        points = max(self.graph.n_points(operator) for operator in plan.operators)
        works = [
            (work.function, self.graph.n_points(operator) * work.evaluations)
            for operator in plan.operators
            for work in works_of(operator, self.graph)
        ]
        functions = tuple(VectorWork(name, ("points",), ceil(count / points)) for name, count in works)
        names = tuple(operator.name for operator in (*plan.gathers, *plan.operators))
        work = self._row_work(plan, works, reads, writes)
        return Kernel(plan.name, names, work, reads, writes, None, functions, points)

    def _row_work(
        self,
        plan: VectorPlan,
        works: list[tuple[str, int]],
        reads: tuple[Operand, ...],
        writes: tuple[Operand, ...],
    ) -> Work:
        """The bytes and cycles of maps, and what passing rows several times adds."""
        read_bytes, write_bytes = (float(sum(map(_bytes, side))) for side in (reads, writes))
        lane_cycles = float(sum(count * lane_cycles_of(function) for function, count in works))
        lane_cycles += sum(operand.elements for operand in (*reads, *writes)) * MOVE_CYCLES / 2
        plain = map_work(self._gpu, read_bytes, write_bytes, lane_cycles)
        if not any(operator.reduce for operator in plan.operators) or not reads or plan.serial:
            return plain
        rows = prod(self.graph.size(rank) for rank in plan.rows)
        columns = prod(self.graph.size(rank) for rank in plan.columns)
        main = max(reads, key=_bytes)
        width = max(1, main.bits // 8)
        if any(operator.function == "exp" for operator in plan.operators):
            work = softmax_work(self._gpu, rows, columns, width)
        else:
            work = norm_work(self._gpu, rows, columns, width, lane_cycles)
        again = max(0.0, work.read_bytes - rows * columns * width)
        return Work(read_bytes + again, max(write_bytes, 1.0), max(plain.cycles, work.cycles))

    def _move(self, plan: MovePlan) -> Kernel:
        operator = plan.operator
        source = operator.inputs[-1]
        rows = self._operand(operator.output) if operator.kind is Kind.GATHER else self._operand(source)
        reads = (replace(rows, tensor=source.tensor), *self._operands(operator.inputs[:1]))
        reads = reads[:1] if len(operator.inputs) == 1 or operator.kind is not Kind.GATHER else reads
        writes = (replace(rows, tensor=operator.output.tensor),)
        work = map_work(self._gpu, sum(map(_bytes, reads)), _bytes(writes[0]), rows.elements * MOVE_CYCLES)
        functions = (VectorWork("copy", ("points",), 1),)
        return Kernel(plan.name, (operator.name,), work, reads, writes, None, functions, rows.elements)


def _bytes(operand: Operand) -> float:
    return operand.elements * operand.bits / 8
