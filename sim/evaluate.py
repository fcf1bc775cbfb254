"""One evaluation end to end: a network on a design, to a report."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from tilewright.dataflow.errors import InputError, nearest
from tilewright.dataflow.graph import Graph, LayerClass, Network
from tilewright.dataflow.operator import Kind
from tilewright.dataflow.program import Program, ProgramError, Stage
from tilewright.sim.actions import ActionCounts, NestCounts, count_actions
from tilewright.sim.architecture import Architecture, Dram
from tilewright.sim.area import area_of, check_fits
from tilewright.sim.bound import Bound, design_bound, macs_per_cycle
from tilewright.sim.capacity import check_capacity, memory_note
from tilewright.sim.design import Design
from tilewright.sim.device import Device, device_named
from tilewright.sim.energy import nest_pj, price, price_book
from tilewright.sim.engine import EngineError, Tasks, Timing, compile_program, run
from tilewright.sim.mapper_machine import machine_of
from tilewright.sim.mapping import OBJECTIVES
from tilewright.sim.memory_report import LayerTraffic, MemoryReport, memory_report
from tilewright.sim.placed_residents import check_placed, with_placement
from tilewright.sim.rated_memory import memory_of
from tilewright.sim.report import Breakdown, Extrapolation, OperatorReport, Report
from tilewright.sim.space import Parameter, Value
from tilewright.sim.technology import resolve_table, tables_used
from tilewright.sim.template import Template, check_device, template_named
from tilewright.sim.validated import errors_of

Fidelity = Literal["bound", "tile"]
FIDELITIES = ("bound", "tile")

# Finding templates asks the interpreter for the entry points of all installed packages.
_template = lru_cache(maxsize=None)(template_named)


@dataclass(frozen=True)
class LayerRun:
    """One layer on one architecture: the program, its timing and its actions."""

    program: Program
    timing: Timing
    counts: ActionCounts
    tasks: Tasks


@dataclass(frozen=True, slots=True)
class LayerResult:
    """What of a layer's run a report needs; cycles, pJ and bytes of one layer."""

    latency_cycles: int
    energy: Breakdown
    busy_cycles: tuple[tuple[str, int], ...]
    capacity: tuple[tuple[str, int], ...]
    dram_read_bytes: int
    dram_write_bytes: int
    macs_computed: int
    operators: tuple[OperatorReport, ...]
    extrapolated: tuple[Extrapolation, ...]


def evaluate(
    network: Network,
    design: Design,
    *,
    fidelity: str = "tile",
    workload: str = "",
    lowering: str = "hardware",
    tokens: int = 0,
    table: str = "default",
    memory_detail: bool = False,
) -> Report:
    """The report of `network` on `design`; `fidelity` is "tile" (simulated) or "bound" (closed form).

    `memory_detail` asks for `Report.memory` (tile only), which costs another simulation of every layer.
    `workload`, `lowering` and `tokens` are only noted. `table` names the energy table, "default" the
    device's. Raises InputError for an unknown name, a design that cannot be built, does not fit on the
    device, or whose buffers hold no tile of an operator (MappingError).
    """
    device = device_named(design.device)
    template = _template(design.template)
    check_device(template, device)
    space = template.space(device)
    parameters = space.complete(design.parameters)
    architecture = with_placement(template.build(parameters, device), design.placement)
    report = evaluate_architecture(
        network, architecture, template=design.template, objective=design.objective, fidelity=fidelity,
        workload=workload, lowering=lowering, tokens=tokens, table=table, memory_detail=memory_detail,
    )  # fmt: skip
    constants = tuple((one.name, _origin(one, parameters[one.name])) for one in space.constants)
    return replace(report, parameters=tuple(parameters.items()), provenance=(*report.provenance, *constants))


def _origin(constant: Parameter, value: Value) -> str:
    """Where a fitted constant comes from: what it was fitted on, or whoever stated it."""
    return constant.meaning if value == constant.default else "stated, in place of the fitted value"


def evaluate_architecture(
    network: Network,
    architecture: Architecture,
    *,
    template: str = "sequential",
    objective: str = "latency",
    fidelity: str = "tile",
    workload: str = "",
    lowering: str = "hardware",
    tokens: int = 0,
    table: str = "default",
    memory_detail: bool = False,
) -> Report:
    """The same for a declared architecture, scheduled by the policy of `template`."""
    for name, value, known in (("fidelity", fidelity, FIDELITIES), ("objective", objective, OBJECTIVES)):
        if value not in known:
            raise InputError(f"{name} {value!r} is unknown{nearest(value, known)}; known: {', '.join(known)}")
    device = device_named(architecture.device)
    energy_table = resolve_table(device, table)
    area = area_of(architecture, device)
    check_fits(area, device)
    check_capacity(network, device)
    for dram in architecture.of_kind(Dram):
        check_placed(network, dram)
    bound = design_bound(network, architecture, device, energy_table)
    machine = machine_of(architecture)
    base = Report(
        workload=workload,
        template=template,
        device=device.name,
        parameters=architecture.parameters,
        fidelity=fidelity,
        lowering=lowering,
        latency_cycles=bound.latency_cycles,
        clock_mhz=architecture.clock_mhz,
        energy=bound.energy,
        area=area,
        dram_read_bytes=bound.dram_read_bytes,
        dram_write_bytes=bound.dram_write_bytes,
        utilisation=_shares(bound),
        bound_cycles=bound.latency_cycles,
        bottleneck=bound.resource,
        macs=sum(layer.count * macs_of(layer.graph) for layer in network),
        tokens=tokens,
        peaks=(
            ("macs_per_cycle", float(macs_per_cycle(machine) / machine.array_scale)),
            ("dram_bytes_per_cycle", machine.dram_bytes_per_cycle),
        ),
        error_fraction=errors_of(architecture),
        tables=tables_used(device, energy_table),
        provenance=(("device", device.source), *device.provenance, ("memory", memory_note(network, device))),
    )
    if fidelity == "bound":
        return base
    layers = [
        (layer, layer_result(layer.graph, architecture, device, template, objective, energy_table))
        for layer in network
    ]
    report = _with_layers(base, layers)
    if not memory_detail:
        return report
    return replace(
        report, memory=_memory_report(network, architecture, device, template, objective, energy_table)
    )


def _memory_report(
    network: Network, architecture: Architecture, device: Device, template: str, objective: str, table: str
) -> MemoryReport | None:
    """By tensor and channel, from a run of every layer class."""
    layers = []
    for layer in network:
        run = run_layer(layer.graph, architecture, template, objective)
        layers.append(LayerTraffic(layer.name, layer.count, run.tasks, run.timing, run.counts))
    book = price_book(architecture, device, table)
    return memory_report(layers, book.dram_pj)


def run_layer(
    graph: Graph, architecture: Architecture, template: str = "sequential", objective: str = "latency"
) -> LayerRun:
    """Schedule one layer graph and simulate it; what timelines and generators start from.

    Raises InputError, in one line, also for a program of a template that is not well formed or cannot run.
    """
    scheduler: Template = _template(template)
    (dram,) = architecture.of_kind(Dram)
    memory = memory_of(dram, architecture.clock_mhz)
    try:
        program = scheduler.schedule(graph, architecture, objective)
        tasks = compile_program(program, architecture, memory)
        timing = run(tasks)
    except (EngineError, ProgramError) as error:
        raise InputError(f"template {template!r}: layer {graph.name!r} cannot be run: {error}") from error
    return LayerRun(program, timing, count_actions(program, architecture), tasks)


@lru_cache(maxsize=1024)
def layer_result(
    graph: Graph, architecture: Architecture, device: Device, template: str, objective: str, table: str
) -> LayerResult:
    """The result of one layer; equal layers on equal architectures are simulated once per process."""
    layer = run_layer(graph, architecture, template, objective)
    return _layer_result(graph, layer, architecture, device, table)


def _layer_result(
    graph: Graph, layer: LayerRun, architecture: Architecture, device: Device, table: str
) -> LayerResult:
    """What all chips of the architecture do together; the program is that of one of them."""
    timing, counts, chips = layer.timing, layer.counts, architecture.chips
    by_stage: dict[str, list[NestCounts]] = {}
    for nest in counts.nests:
        by_stage.setdefault(nest.stage, []).append(nest)
    operators = []
    for stage, time in zip(layer.program.stages, timing.stages, strict=True):
        nests = by_stage[stage.name]
        operators.append(
            OperatorReport(
                name=stage.name,
                layer_class=graph.name,
                layers=1,
                kind=_kind(graph, stage),
                macs=chips * sum(macs_computed(nest) for nest in nests),
                start_cycle=time.start_cycle,
                end_cycle=time.end_cycle,
                energy_pj=chips * sum(nest_pj(nest, architecture, device, table) for nest in nests),
                dram_read_bytes=chips * sum(nest.dram_read_bytes for nest in nests),
                dram_write_bytes=chips * sum(nest.dram_write_bytes for nest in nests),
                bottleneck=time.bottleneck,
            )
        )
    operators = _with_spans(operators)
    return LayerResult(
        latency_cycles=timing.latency_cycles,
        energy=_summed([(chips, price(counts, timing.latency_cycles, architecture, device, table))]),
        busy_cycles=timing.busy_cycles,
        capacity=timing.capacity,
        dram_read_bytes=chips * counts.dram_read_bytes,
        dram_write_bytes=chips * counts.dram_write_bytes,
        macs_computed=sum(operator.macs for operator in operators),
        operators=tuple(operators),
        extrapolated=timing.extrapolated,
    )


def macs_computed(nest: NestCounts) -> int:
    """Multiply-accumulates of a nest, on an array or on the lanes of a vector unit."""
    return nest.macs + sum(count for function, count in nest.evaluations if function == "mac")


def _with_spans(operators: list[OperatorReport]) -> list[OperatorReport]:
    """Each operator with the cycles by which it moves the layer's end, in order of their ends."""
    reached, spans = 0, {}
    for operator in sorted(operators, key=lambda operator: operator.end_cycle):
        spans[operator.name] = max(0, operator.end_cycle - reached)
        reached = max(reached, operator.end_cycle)
    return [replace(operator, span_cycles=spans[operator.name]) for operator in operators]


def _kind(graph: Graph, stage: Stage) -> str:
    """The kind of a stage's main operator: its first contraction, else its last operator.

    What the schedule added to the graph maps elements.
    """
    kinds = {operator.name: operator.kind.value for operator in graph.operators}
    own = [kinds.get(name, Kind.POINTWISE.value) for name in stage.operators]
    return "contraction" if "contraction" in own else own[-1]


def _with_layers(base: Report, layers: list[tuple[LayerClass, LayerResult]]) -> Report:
    """The simulated report: every layer class times its count."""
    latency = sum(layer.count * result.latency_cycles for layer, result in layers)
    busy: dict[str, int] = {}
    capacity: dict[str, int] = {}
    for layer, result in layers:
        for name, cycles in result.busy_cycles:
            busy[name] = busy.get(name, 0) + layer.count * cycles
        capacity |= dict(result.capacity)
    utilisation = tuple((name, cycles / (latency * capacity[name])) for name, cycles in busy.items())
    return replace(
        base,
        latency_cycles=latency,
        energy=_summed((layer.count, result.energy) for layer, result in layers),
        dram_read_bytes=sum(layer.count * result.dram_read_bytes for layer, result in layers),
        dram_write_bytes=sum(layer.count * result.dram_write_bytes for layer, result in layers),
        utilisation=utilisation,
        bottleneck=max(utilisation, key=lambda item: item[1])[0],
        macs_computed=sum(layer.count * result.macs_computed for layer, result in layers),
        operators=tuple(
            replace(operator, layer_class=layer.name, layers=layer.count)
            for layer, result in layers
            for operator in result.operators
        ),
        extrapolated=tuple(skip for _, result in layers for skip in result.extrapolated),
        interval_cycles=_interval(layers)
        if getattr(_template(base.template), "has_interval", False)
        else None,
    )


def _interval(layers: list[tuple[LayerClass, LayerResult]]) -> int:
    """Cycles from one input to the next where they follow each other: of every layer its busiest component's."""
    total = 0
    for layer, result in layers:
        capacity = dict(result.capacity)
        total += layer.count * max(
            (-(-busy // capacity[name]) for name, busy in result.busy_cycles), default=0
        )
    return total


def _summed(parts: Iterable[tuple[int, Breakdown]]) -> Breakdown:
    """The sum of trees of two levels, each so many times; components and actions in order of appearance."""
    totals: dict[str, dict[str, float]] = {}
    for count, tree in parts:
        for component in tree.children:
            own = totals.setdefault(component.name, {})
            for action in component.children:
                own[action.name] = own.get(action.name, 0.0) + count * action.value
    return Breakdown.of("energy_pj", tuple(_node(name, own) for name, own in totals.items()))


def _node(name: str, values: Mapping[str, float]) -> Breakdown:
    return Breakdown.of(name, tuple(Breakdown(action, value) for action, value in values.items()))


def _shares(bound: Bound) -> tuple[tuple[str, float], ...]:
    """Share of the bound that each component is busy at least."""
    span = max(1, bound.latency_cycles)
    return tuple((name, min(1.0, cycles / span)) for name, cycles in bound.cycles)


@lru_cache(maxsize=256)
def macs_of(graph: Graph) -> int:
    """Multiply-accumulates that the graph asks for, masks and densities applied."""
    return sum(graph.macs(operator) for operator in graph.operators)
