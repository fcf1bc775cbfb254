"""The event engine: a program on an architecture, tile by tile, to cycles.

`compile_program` turns nests into flat tables and checks everything that has a name; `run` steps them in a
compiled kernel. What the engine means by every construct of a program stands in docs/engine.md.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.program import Program
from tilewright.sim.architecture import Architecture, Dma, Dram
from tilewright.sim.engine_kernel import (
    BLOCKED,
    DONE,
    N_DONE,
    N_ENDED,
    N_SCALARS,
    NOW,
    State,
    Tables,
)
from tilewright.sim.engine_leaf import FixedBandwidth, LeafPricer, MemoryService
from tilewright.sim.engine_steady import (
    N_FREE_ROWS,
    N_HISTORY_SCALARS,
    NEST_WORDS,
    ROW_BODY,
    History,
    simulate,
)
from tilewright.sim.engine_tables import EngineError, Layout, levels_of
from tilewright.sim.report import Extrapolation

IntArray = NDArray[np.int64]

#: Words of saved states at most; steady states are looked for at as many levels as fit.
_HISTORY_WORDS = 1 << 23

__all__ = [
    "EngineError",
    "FixedBandwidth",
    "MemoryService",
    "NestTime",
    "StageTime",
    "Tasks",
    "Timing",
    "compile_program",
    "run",
]


@dataclass(frozen=True)
class Tasks:
    """A program compiled for an architecture: flat tables for the kernel, names for what comes out.

    `resources` are the component names in the order of `Tables.resource_capacity`; `dram` is "" where the
    program has no transfers. `level_names` are the ranks of every odometer level, nest after nest.
    """

    program: Program
    architecture: Architecture
    tables: Tables
    resources: tuple[str, ...]
    dram: str
    level_names: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class NestTime:
    """When a nest ran; `busy_cycles` of its component, `work_cycles` of them without waiting for the DRAM.

    `start_cycle` is when nothing kept it from asking for its first tile, `end_cycle` when its last leaf ends.
    """

    name: str
    start_cycle: int
    end_cycle: int
    busy_cycles: int
    work_cycles: int
    dram_cycles: int


@dataclass(frozen=True, slots=True)
class StageTime:
    """When a stage ran and the component that has most to do in it (channels counted)."""

    name: str
    start_cycle: int
    end_cycle: int
    bottleneck: str


@dataclass(frozen=True, slots=True)
class Timing:
    """The result of `run`, in cycles of the architecture's clock.

    `busy_cycles` by component: of a pool of DMA channels the sum over its channels, of the DRAM its service.
    `n_simulated` leaves were stepped through, the others were skipped as `extrapolated` says.
    """

    latency_cycles: int
    nests: tuple[NestTime, ...]
    stages: tuple[StageTime, ...]
    busy_cycles: tuple[tuple[str, int], ...]
    capacity: tuple[tuple[str, int], ...]
    n_simulated: int
    extrapolated: tuple[Extrapolation, ...] = ()

    @property
    def utilisation(self) -> tuple[tuple[str, float], ...]:
        """Share of the latency that a component is busy, mean over its channels."""
        capacity = dict(self.capacity)
        span = max(1, self.latency_cycles)
        return tuple((name, busy / (span * capacity[name])) for name, busy in self.busy_cycles)

    @property
    def bottleneck(self) -> str:
        """The component with the largest utilisation, the first of equals."""
        return max(self.utilisation, key=lambda item: item[1])[0] if self.busy_cycles else ""


def compile_program(program: Program, architecture: Architecture, memory: MemoryService) -> Tasks:
    """Lay out `program` on `architecture`, with `memory` as its DRAM (cycles of the architecture's clock).

    Raises InputError for a slot that is not bound or bound to the wrong kind of component, EngineError for a
    nest that reads and writes the same buffer.
    """
    pricer = LeafPricer(program, architecture, memory)
    layout = Layout(program)
    resource_index: dict[str, int] = {}
    capacity: list[int] = []
    for stage_index, stage in enumerate(program.stages):
        for nest in stage.nests:
            component = pricer.component(nest)
            if component.name not in resource_index:
                resource_index[component.name] = len(capacity)
                capacity.append(component.channels if isinstance(component, Dma) else 1)
            layout.nest_resource.append(resource_index[component.name])
            levels, above = levels_of(nest)
            layout.add_levels(levels)
            costs = pricer.costs(nest, tuple(level.flagged for level in levels if level.flagged))
            layout.leaf_rows += [(cost.own_cycles, cost.service_cycles) for cost in costs]
            layout.n_leaves.append(len(costs))
            layout.nest_setup.append(costs[0].setup_cycles)
            layout.add_nest(stage_index, nest, above)
    return Tasks(
        program,
        architecture,
        layout.tables(capacity, memory.latency_cycles),
        tuple(resource_index),
        _dram_name(architecture) if any(service for _, service in layout.leaf_rows) else "",
        tuple(layout.level_names),
    )


def _dram_name(architecture: Architecture) -> str:
    if not (drams := architecture.of_kind(Dram)):
        raise InputError(f"architecture {architecture.name!r} has no Dram, but the program has transfers")
    return drams[0].name


def new_state(tables: Tables, n_traced: int = 0) -> State:
    """The state before cycle 0, with room to trace the first `n_traced` leaves."""
    n_nests, n_loops = tables.nest_resource.size, tables.loop_trips.size

    def zeros(size: int) -> IntArray:
        return np.zeros(size, dtype=np.int64)

    return State(
        scalars=zeros(N_SCALARS),
        odometer=zeros(n_loops),
        trips=tables.loop_trips.copy(),
        carry=zeros(n_nests),
        status=zeros(n_nests),
        cycle=zeros(n_nests),
        wait_port=zeros(n_nests) - 1,
        waits=tables.nest_waits.copy(),
        start=zeros(n_nests),
        end=zeros(n_nests),
        busy=zeros(n_nests),
        own=zeros(n_nests),
        service=zeros(n_nests),
        produced=zeros(tables.buffer_copies.size),
        freed=zeros(tables.buffer_copies.size),
        given=zeros(tables.port_nest.size),
        free=tables.resource_capacity.copy(),
        running=zeros(n_nests),
        queued=zeros(n_nests),
        active=zeros(n_nests),
        turned=np.zeros((n_nests, 2), dtype=np.int64),
        trace=np.zeros((n_traced, 3), dtype=np.int64),
    )


def new_history(tables: Tables) -> History:
    """Room for the saved states; memory is touched only where states are really saved."""
    n_levels = tables.loop_trips.size
    width = ROW_BODY + NEST_WORDS * tables.nest_resource.size + n_levels + 2 * tables.port_nest.size
    n_rows = min(n_levels, max(1, _HISTORY_WORDS // width))

    def filled(value: int, size: int) -> IntArray:
        return np.full(size, value, dtype=np.int64)

    scalars = filled(0, N_HISTORY_SCALARS)
    scalars[N_FREE_ROWS] = n_rows
    return History(
        scalars=scalars,
        rows=np.empty((n_rows, width), dtype=np.int64),
        free_rows=np.arange(n_rows, dtype=np.int64),
        count=filled(0, n_levels),
        next_save=filled(0, n_levels),
        row=filled(-1, n_levels),
        level=filled(0, tables.nest_resource.size),
        step=filled(0, tables.nest_resource.size),
        skipped=filled(0, n_levels),
        period_iterations=filled(0, n_levels),
        period_cycles=filled(0, n_levels),
    )


def run(tasks: Tasks, fast_forward: bool = True) -> Timing:
    """Run the tasks from an idle machine to their end.

    `fast_forward` skips steady states; it changes nothing but the time it takes and what is reported as
    extrapolated. Raises EngineError if nothing can proceed (which nest waits for what), or tiles are left.
    """
    state, history = new_state(tasks.tables), new_history(tasks.tables)
    simulate(tasks.tables, state, history, int(fast_forward))
    if state.scalars[N_DONE] < tasks.tables.nest_resource.size:
        raise EngineError(_deadlock(tasks, state))
    _check_leftovers(tasks, state)
    return _timing(tasks, state, _extrapolated(tasks, history))


def _extrapolated(tasks: Tasks, history: History) -> tuple[Extrapolation, ...]:
    first = tasks.tables.loop_first
    found = []
    for loop in np.flatnonzero(history.skipped):
        nest = int(np.searchsorted(first, loop, side="right")) - 1
        found.append(
            Extrapolation(
                tasks.program.nests[nest].name,
                "*".join(tasks.level_names[loop]),
                int(history.period_iterations[loop]),
                int(history.period_cycles[loop]),
                int(history.skipped[loop]),
            )
        )
    return tuple(found)


def _deadlock(tasks: Tasks, state: State) -> str:
    """One line on the first nests that wait for a buffer, else on those that wait for other nests."""
    tables, names = tasks.tables, [nest.name for nest in tasks.program.nests]
    found = []
    for nest in np.flatnonzero(state.status == BLOCKED):
        port = state.wait_port[nest]
        buffer = tasks.program.buffers[tables.port_buffer[port]].name
        what = "a free copy of" if tables.port_is_write[port] else "a tile in"
        found.append(f"nest {names[nest]!r} waits for {what} buffer {buffer!r}")
    if not found:
        first = names[int(np.flatnonzero(state.status != DONE)[0])]
        found.append(f"nest {first!r} waits for nests that never finish")
    return f"deadlock at cycle {state.scalars[NOW]}: {'; '.join(found[:3])}"


def _check_leftovers(tasks: Tasks, state: State) -> None:
    tables = tasks.tables
    for index, buffer in enumerate(tasks.program.buffers):
        if state.produced[index] != state.freed[index]:
            raise EngineError(
                f"buffer {buffer.name!r}: {state.produced[index]} tiles are written,"
                f" {state.freed[index]} are taken by all their readers"
            )
    for group in range(tables.group_first.size - 1):
        ports = tables.group_ports[tables.group_first[group] : tables.group_first[group + 1]]
        given = state.given[ports]
        if given.min() != given.max():
            buffer_name = tasks.program.buffers[tables.port_buffer[ports[0]]].name
            reader = tasks.program.nests[tables.port_nest[ports[int(given.argmax())]]].name
            raise EngineError(
                f"nest {reader!r} takes more tiles of buffer {buffer_name!r} than its other readers"
            )


def _timing(tasks: Tasks, state: State, extrapolated: tuple[Extrapolation, ...]) -> Timing:
    rows = zip(
        state.start.tolist(),
        state.end.tolist(),
        state.busy.tolist(),
        state.own.tolist(),
        state.service.tolist(),
        strict=True,
    )
    nests = tuple(NestTime(nest.name, *row) for nest, row in zip(tasks.program.nests, rows, strict=True))
    resource_of = tasks.tables.nest_resource.tolist()
    capacity = dict(zip(tasks.resources, tasks.tables.resource_capacity.tolist(), strict=True))
    busy = dict.fromkeys(tasks.resources, 0)
    for nest_time, resource in zip(nests, resource_of, strict=True):
        busy[tasks.resources[resource]] += nest_time.busy_cycles
    if tasks.dram:
        busy[tasks.dram] = sum(nest_time.dram_cycles for nest_time in nests)
        capacity[tasks.dram] = 1
    return Timing(
        latency_cycles=max((nest_time.end_cycle for nest_time in nests), default=0),
        nests=nests,
        stages=_stage_times(tasks, nests, resource_of, capacity),
        busy_cycles=tuple(busy.items()),
        capacity=tuple(capacity.items()),
        n_simulated=int(state.scalars[N_ENDED]),
        extrapolated=extrapolated,
    )


def _stage_times(
    tasks: Tasks, nests: tuple[NestTime, ...], resource_of: list[int], capacity: dict[str, int]
) -> tuple[StageTime, ...]:
    found = []
    first = 0
    for stage in tasks.program.stages:
        own = range(first, first + len(stage.nests))
        first = own.stop
        if not own:
            continue
        work: dict[str, float] = {}
        for i in own:
            name = tasks.resources[resource_of[i]]
            work[name] = work.get(name, 0) + nests[i].work_cycles / capacity[name]
            if nests[i].dram_cycles:
                work[tasks.dram] = work.get(tasks.dram, 0) + nests[i].dram_cycles
        found.append(
            StageTime(
                stage.name,
                min(nests[i].start_cycle for i in own),
                max(nests[i].end_cycle for i in own),
                max(work, key=lambda name: work[name]),
            )
        )
    return tuple(found)
