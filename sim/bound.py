"""Lower bounds: of a design without any mapping, and of one program.

The bound of a design takes, for every layer, the busiest resource: the array with each contraction at its
best orientation and as if tiling cost nothing, the vector unit with the functions that no fusion removes, the
DRAM and the DMA channels with compulsory traffic (what enters a layer is read once, what leaves it is written
once). Layers run one after another, so their bounds add up. No mapping's result is below it.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from math import floor, prod

from tilewright.dataflow.graph import Graph, Network
from tilewright.dataflow.operator import Access, Kind, Operator
from tilewright.dataflow.program import Program
from tilewright.sim.architecture import Architecture, Dma, Dram, MatrixArray, VectorUnit
from tilewright.sim.arrays import folds_and_beats
from tilewright.sim.device import Device
from tilewright.sim.energy import price_book
from tilewright.sim.engine_leaf import LeafPricer, MemoryService
from tilewright.sim.mapper_machine import Machine, machine_of
from tilewright.sim.placement import MAX_GROUPS
from tilewright.sim.report import Breakdown
from tilewright.sim.sequential_picks import with_grouped_picks
from tilewright.sim.sequential_plan import (
    AttentionPlan,
    Fusion,
    GemmPlan,
    VectorPlan,
    is_gemm,
    plan_graph,
    roles_of,
    works_of,
)
from tilewright.sim.trips import tile_classes


@dataclass(frozen=True, slots=True)
class Bound:
    """No mapping of the network on the design is faster or takes less energy.

    `latency_cycles` of the default clock; `resource` is the component that sets most of it, `cycles` what
    each component needs at least.
    """

    latency_cycles: int
    energy: Breakdown
    resource: str
    cycles: tuple[tuple[str, float], ...]
    dram_read_bytes: int
    dram_write_bytes: int

    @property
    def energy_pj(self) -> float:
        return self.energy.value


@dataclass(frozen=True, slots=True)
class Product:
    """A contraction as an array sees it; `full` if no mask thins it out."""

    batch: int
    m: int
    n: int
    k: int
    points: int
    full: bool
    bits: tuple[int, int]  # weights, activations


@dataclass(frozen=True, slots=True)
class LayerWork:
    """What one layer needs whatever the hardware: products, evaluations by function, compulsory bytes."""

    products: tuple[Product, ...]
    evaluations: tuple[tuple[str, int], ...]  # apart from those of attention
    attention: tuple[tuple[str, int], ...]
    read_bytes: int
    write_bytes: int


def design_bound(network: Network, architecture: Architecture, device: Device, table: str) -> Bound:
    """The bound of `network` on `architecture`, in its cycles; `table` is a resolved energy table.

    Raises InputError for a slot that is not bound.
    """
    machine = machine_of(architecture)
    book = price_book(architecture, device, table)
    totals: dict[str, float] = {}
    energies: dict[str, float] = {}
    latency = 0.0
    n_read = n_written = 0
    for layer in network:
        work = layer_work(layer.graph)
        cycles = {name: value / architecture.chips for name, value in _layer_cycles(work, machine).items()}
        latency += layer.count * max(cycles.values())
        for name, value in cycles.items():
            totals[name] = totals.get(name, 0.0) + layer.count * value
        n_read += layer.count * work.read_bytes
        n_written += layer.count * work.write_bytes
        for product in work.products:
            bits = (*product.bits, machine.array.accumulator_bits)
            pj = layer.count * product.points * book.mac_pj(machine.array.name, bits)
            energies[machine.array.name] = energies.get(machine.array.name, 0.0) + pj
        for function, n in _on_lanes(work, machine.array):
            pj = layer.count * n * book.evaluation_pj(machine.vector.name, function)
            energies[machine.vector.name] = energies.get(machine.vector.name, 0.0) + pj
    energies[machine.dram.name] = sum(book.moved_pj(n_read, n_written))
    rest_w = architecture.chips * (book.dram_background_w + sum(power_w for _, power_w in book.static_w))
    energies["static"] = rest_w * floor(latency) / architecture.clock_mhz * 1e6
    return Bound(
        latency_cycles=floor(latency),
        energy=Breakdown.of("energy_pj", tuple(Breakdown(name, pj) for name, pj in energies.items())),
        resource=max(totals, key=lambda name: totals[name]),
        cycles=tuple(totals.items()),
        dram_read_bytes=n_read,
        dram_write_bytes=n_written,
    )


def _layer_cycles(work: LayerWork, machine: Machine) -> dict[str, float]:
    array = _array_cycles(work, machine)
    lanes = sum(n * machine.evaluation_cycles(function) for function, n in _on_lanes(work, machine.array))
    dma_in, dma_out = machine.dma_in, machine.dma_out
    loads = work.read_bytes / (dma_in.channels * dma_in.bytes_per_cycle)
    stores = work.write_bytes / (dma_out.channels * dma_out.bytes_per_cycle)
    cycles = {
        machine.array.name: array * machine.array_scale,
        machine.vector.name: lanes / _lanes(machine),
        machine.dram.name: (work.read_bytes + work.write_bytes) / machine.dram_bytes_per_cycle,
        dma_in.name: loads,
    }
    cycles[dma_out.name] = cycles.get(dma_out.name, 0.0) + stores if dma_out is dma_in else stores
    return cycles


def _array_cycles(work: LayerWork, machine: Machine) -> float:
    """Cycles of the array for all products; several arrays that work at once share the multiply-accumulates."""
    arrays = machine.architecture.of_kind(MatrixArray)
    if len(arrays) == 1:
        return sum(product_cycles(machine.array, product) for product in work.products)
    return sum(product.points for product in work.products) / macs_per_cycle(machine)


def macs_per_cycle(machine: Machine) -> float:
    """Multiply-accumulates of all arrays in a cycle of the slot `array`."""
    architecture = machine.architecture
    own_mhz = architecture.clock_of(machine.array)
    return sum(
        one.macs_per_cycle * (architecture.clock_of(one) / own_mhz)
        for one in architecture.of_kind(MatrixArray)
    )


def _lanes(machine: Machine) -> int:
    """Lanes of the slot `vector` and of all units like it."""
    units = machine.architecture.of_kind(VectorUnit)
    return sum(one.lanes for one in units if replace(one, name=machine.vector.name) == machine.vector)


def _on_lanes(work: LayerWork, array: MatrixArray) -> tuple[tuple[str, int], ...]:
    """What only the lanes can do: an array whose PEs evaluate functions may take those of attention."""
    return work.evaluations if array.discipline == "multicast" else (*work.evaluations, *work.attention)


def product_cycles(array: MatrixArray, product: Product) -> float:
    """Array cycles below which no tiling of the product comes, either operand on the rows.

    A tile of t rows takes at least t / rows folds, so tiles never need fewer folds or beats than the whole;
    a masked product, and one on an array of another discipline, is only held to its multiply-accumulates over
    the array's peak.
    """
    if not product.full or array.discipline != "systolic":
        return product.points / array.macs_per_cycle
    best = None
    for m, n in ((product.m, product.n), (product.n, product.m)):
        n_folds, n_beats = folds_and_beats(m, n, product.k, array.rows, array.cols, array.stationarity)
        if array.drain_overlap:  # folds follow each other; a leaf of several products fills the array once
            once = array.rows + array.cols
            cycles = product.batch * n_folds * max(n_beats, array.rows) / array.count + once
        else:
            cycles = product.batch * n_folds * (n_beats + 2 * array.rows + array.cols) / array.count
        best = cycles if best is None else min(best, cycles)
    assert best is not None
    return best


@lru_cache(maxsize=256)
def layer_work(graph: Graph) -> LayerWork:
    """The work of a graph."""
    grouped, _ = with_grouped_picks(graph)
    products = tuple(_product(grouped, one) for one in grouped.operators if is_gemm(one, grouped))
    evaluations: tuple[dict[str, int], dict[str, int]] = ({}, {})
    for function, n, of_attention in _evaluations(grouped):
        own = evaluations[of_attention]
        own[function] = own.get(function, 0) + n
    read, written = compulsory_bytes(graph)
    rows, attention = (tuple(one.items()) for one in evaluations)
    return LayerWork(products, rows, attention, read, written)


def _product(graph: Graph, operator: Operator) -> Product:
    roles = roles_of(operator)
    batch, m, n, k = (
        prod(graph.size(rank) for rank in ranks) for ranks in (roles.batch, roles.m, roles.n, roles.k)
    )
    points = graph.n_points(operator)
    weights, activations = (
        graph.tensor_by_name[access.tensor].bits for access in (operator.inputs[1], operator.inputs[0])
    )
    batch *= operator.repeat
    return Product(batch, m, n, k, points, points == batch * m * n * k, (weights, activations))


def _evaluations(graph: Graph) -> list[tuple[str, int, bool]]:
    """(function, evaluations, whether of attention) that remain under every fusion.

    A low-rank path's scaling and sum vanish into the array.
    """
    found = []
    for stage in plan_graph(graph, Fusion(maps=True, attention=True, low_rank=True)).stages:
        operators: tuple[Operator, ...] = ()
        most: int | None = None
        if isinstance(stage, GemmPlan):
            operators = stage.epilogue
        elif isinstance(stage, VectorPlan):
            operators = stage.operators
        elif isinstance(stage, AttentionPlan):
            operators = stage.pieces
            most = graph.n_elements(stage.mix.output.tensor)
        for operator in operators:
            n = graph.n_points(operator) // max(1, operator.repeat)
            # one pass over the keys divides the mixed rows instead of the shares
            n = n if most is None or operator.function != "div" else min(n, most)
            found += [
                (work.function, n * work.evaluations, most is not None) for work in works_of(operator, graph)
            ]
    return found


def compulsory_bytes(graph: Graph) -> tuple[int, int]:
    """(read, written): what a layer touches of its live-in tensors, once, and what it leaves behind.

    Rows that a scatter adds to a cache are written, the cached ones stay in place and are read if anything
    reads the cache.
    """
    read = 0
    for tensor in graph.inputs:
        touched = [
            _touched(graph, operator, access)
            for operator in graph.consumers[tensor]
            for access in operator.inputs
            if access.tensor == tensor and operator.kind is not Kind.SCATTER
        ]
        behind = [
            operator.output.tensor
            for operator in graph.consumers[tensor]
            if operator.kind is Kind.SCATTER and operator.inputs[-1].tensor != tensor
        ]
        if any(_reads_all(graph, cache) for cache in behind):
            touched.append(graph.n_elements(tensor))
        elements = min(max(touched, default=0), graph.n_elements(tensor))
        read += elements * graph.tensor_by_name[tensor].bits // 8
    written = 0
    for tensor in graph.outputs:
        producer = graph.producer.get(tensor)
        if producer is None:
            continue
        elements = graph.n_elements(tensor)
        if producer.kind is Kind.SCATTER:
            elements = min(elements, graph.n_points(producer))
        written += elements * graph.tensor_by_name[tensor].bits // 8
    return read, written


def _touched(graph: Graph, operator: Operator, access: Access) -> int:
    """Elements of a tensor that an operator reads: the reach of its indices, or rows that data picks."""
    if operator.kind is Kind.GATHER and access is operator.inputs[-1]:
        return graph.n_elements(operator.output.tensor)
    reach = 1
    for index in access.indices:
        reach *= 1 + sum(
            abs(term.coefficient) * ((graph.size(term.rank) - 1) // term.divisor) for term in index.terms
        )
    return reach


def _reads_all(graph: Graph, cache: str) -> bool:
    """Whether some operator without a window reads the cache."""
    return any(operator.mask is None or operator.mask.lower is None for operator in graph.consumers[cache])


def program_bound(program: Program, architecture: Architecture, memory: MemoryService) -> tuple[int, str]:
    """(cycles, component) of the busiest component of a program: the run never takes fewer cycles.

    A pool of channels is held to its total work over its channels, each group
    of the memory's channels to its service.
    """
    pricer = LeafPricer(program, architecture, memory)
    own: dict[str, int] = {}
    capacity: dict[str, int] = {}
    service = [0] * MAX_GROUPS  # by group of channels
    for nest in program.nests:
        component = pricer.component(nest)
        name = component.name
        capacity[name] = component.channels if isinstance(component, Dma) else 1
        ranks = {rank for rank, _ in nest.leaf.tile}
        cut = tuple(loop for loop in nest.loops if loop.rank in ranks and loop.remainder != loop.tile)
        costs = pricer.costs(nest, cut)
        for count, shrunk in tile_classes(nest.loops, [loop.rank for loop in cut]):
            cost = costs[sum(1 << bit for bit, loop in enumerate(cut) if loop.rank in shrunk)]
            own[name] = own.get(name, 0) + count * cost.own_cycles
            for group in range(MAX_GROUPS):
                service[group] += count * cost.service_cycles * (cost.groups >> group & 1)
    cycles = {name: -(-busy // capacity[name]) for name, busy in own.items()}
    if any(service):
        cycles[architecture.of_kind(Dram)[0].name] = max(service)
    busiest = max(cycles, key=lambda name: cycles[name])
    return cycles[busiest], busiest
