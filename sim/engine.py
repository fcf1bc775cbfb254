"""The event engine: a program on an architecture, tile by tile, to cycles.

`compile_program` turns nests into flat tables and checks everything that has a name; `run` steps them in a
compiled kernel. What the engine means by every construct of a program stands in docs/engine.md.
"""

from dataclasses import dataclass

import numpy as np

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.program import Program, Transfer
from tilewright.sim import engine_image as at
from tilewright.sim.architecture import Architecture, Dma, Dram
from tilewright.sim.engine_image import IntArray
from tilewright.sim.engine_layout import EngineError, Layout, levels_of
from tilewright.sim.engine_leaf import FixedBandwidth, LeafPricer, MemoryService
from tilewright.sim.engine_steady import simulate
from tilewright.sim.placed_memory import Place, PlacedMemory
from tilewright.sim.report import Extrapolation

#: Words of the log of turns, which is kept for triangular programs only.
_LOG_WORDS = 1 << 15
_NO_COMPANY = np.empty((0, 2), dtype=np.int64)

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
    """A program compiled for an architecture: an image for the kernels, names for what comes out.

    `resources` are component names with their capacity (channels of a DMA), `resource_of` the index of every
    nest's. `dram` is "" where the program has no transfers. `nests`, `buffers` and `loops` are positions of
    records, `groups` those of the ports that see the same tiles. `places`: where every nest's tensor lies, None
    for computations and in a memory without places.
    """

    program: Program
    architecture: Architecture
    image: IntArray
    resources: tuple[tuple[str, int], ...]
    resource_of: tuple[int, ...]
    dram: str
    nests: IntArray
    buffers: IntArray
    loops: IntArray
    loop_nests: tuple[int, ...]
    level_names: tuple[tuple[str, ...], ...]
    groups: tuple[tuple[int, ...], ...]
    memory: MemoryService
    places: tuple[Place | None, ...]


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
    components = [pricer.component(nest) for nest in program.nests]
    resources = {part.name: part.channels if isinstance(part, Dma) else 1 for part in components}
    index = {name: i for i, name in enumerate(resources)}
    resource_of = tuple(index[part.name] for part in components)
    layout = Layout(program, tuple(resources.values()))
    transfers = False
    for stage_index, stage in enumerate(program.stages):
        for nest in stage.nests:
            odometer = levels_of(nest)
            costs = pricer.costs(nest, tuple(level.flagged for level in odometer[0] if level.flagged))
            layout.add_nest(stage_index, nest, odometer, costs, resource_of[len(layout.nests)])
            transfers = transfers or costs[0].service_cycles > 0
    return Tasks(
        program,
        architecture,
        layout.image(memory.latency_cycles, len(memory.groups) if isinstance(memory, PlacedMemory) else 1),
        tuple(resources.items()),
        resource_of,
        _dram_name(architecture) if transfers else "",
        np.array(layout.nests, dtype=np.int64),
        np.array(layout.buffers, dtype=np.int64),
        np.array(layout.loops, dtype=np.int64),
        tuple(layout.loop_nests),
        tuple(layout.level_names),
        tuple(tuple(group) for group in layout.groups),
        memory,
        tuple(pricer.place(nest.leaf) if isinstance(nest.leaf, Transfer) else None for nest in program.nests),
    )


def _dram_name(architecture: Architecture) -> str:
    if not (drams := architecture.of_kind(Dram)):
        raise InputError(f"architecture {architecture.name!r} has no Dram, but the program has transfers")
    return drams[0].name


def run(tasks: Tasks, fast_forward: bool = True) -> Timing:
    """Run the tasks from an idle machine to their end.

    `fast_forward` skips steady states; it changes nothing but the time it takes and what is reported as
    extrapolated. Raises EngineError if nothing can proceed (which nest waits for what), or tiles are left.
    """
    image, _ = simulated(tasks, fast_forward)
    return _timing(tasks, image, _extrapolated(tasks, image))


def simulated(tasks: Tasks, fast_forward: bool, n_traced: int = 0) -> tuple[IntArray, IntArray]:
    """The image after the last event, and (n, 3) nest, start and end cycle of the first `n_traced` leaves.

    Raises EngineError as `run` does.
    """
    n_words = int(tasks.image[at.N_ROWS] * tasks.image[at.ROW_WORDS]) if fast_forward else 0
    saved = np.empty(n_words, dtype=np.int64)
    log = np.empty(_LOG_WORDS if tasks.image[at.HAS_LIMITS] else 0, dtype=np.int64)
    trace = np.zeros((n_traced, 3), dtype=np.int64)
    slowdowns = tasks.memory.slowdowns if isinstance(tasks.memory, PlacedMemory) else None
    while True:
        image = tasks.image.copy()
        simulate(image, saved, log, trace, _NO_COMPANY if slowdowns is None else slowdowns.table)
        if slowdowns is None or not (n_missing := image[at.N_MISSING]):
            break
        missing = image[at.MISSING_LIST]
        slowdowns.learn(image[missing : missing + n_missing].tolist())
    if image[at.N_DONE] < tasks.nests.size:
        raise EngineError(_deadlock(tasks, image))
    _check_leftovers(tasks, image)
    trace = trace[: image[at.N_TRACED]]
    trace[:, 0] = np.searchsorted(tasks.nests, trace[:, 0])
    return image, trace


def _extrapolated(tasks: Tasks, image: IntArray) -> tuple[Extrapolation, ...]:
    found = []
    for index in np.flatnonzero(image[tasks.loops + at.SKIPPED]):
        loop = tasks.loops[index]
        found.append(
            Extrapolation(
                tasks.program.nests[tasks.loop_nests[index]].name,
                "*".join(tasks.level_names[index]),
                int(image[loop + at.PERIOD_ITERATIONS]),
                int(image[loop + at.PERIOD_CYCLES]),
                int(image[loop + at.SKIPPED]),
            )
        )
    return tuple(found)


def _deadlock(tasks: Tasks, image: IntArray) -> str:
    """One line on the first nests that wait for a buffer, else on those that wait for other nests."""
    names = [nest.name for nest in tasks.program.nests]
    buffer_at = dict(zip(tasks.buffers.tolist(), tasks.program.buffers, strict=True))
    status = image[tasks.nests + at.STATUS]
    found = []
    for index in np.flatnonzero(status == at.BLOCKED):
        port = image[tasks.nests[index] + at.WAIT_PORT]
        buffer = buffer_at[int(image[port + at.PORT_BUFFER])].name
        what = "a free copy of" if image[port + at.IS_WRITE] else "a tile in"
        found.append(f"nest {names[index]!r} waits for {what} buffer {buffer!r}")
    if not found:
        first = names[int(np.flatnonzero(status != at.DONE)[0])]
        found.append(f"nest {first!r} waits for nests that never finish")
    return f"deadlock at cycle {image[at.NOW]}: {'; '.join(found[:3])}"


def _check_leftovers(tasks: Tasks, image: IntArray) -> None:
    produced, freed = image[tasks.buffers + at.PRODUCED], image[tasks.buffers + at.FREED]
    for index in np.flatnonzero(produced != freed):
        raise EngineError(
            f"buffer {tasks.program.buffers[index].name!r}: {produced[index]} tiles are written,"
            f" {freed[index]} are taken by all their readers"
        )
    words = image.tolist()
    for group in tasks.groups:
        given = [words[port + at.GIVEN] for port in group]
        if min(given) != max(given):
            port = group[given.index(max(given))]
            buffer = tasks.program.buffers[tasks.buffers.tolist().index(words[port + at.PORT_BUFFER])]
            reader = tasks.program.nests[tasks.nests.tolist().index(words[port + at.PORT_NEST])]
            raise EngineError(
                f"nest {reader.name!r} takes more tiles of buffer {buffer.name!r} than its other readers"
            )


def _timing(tasks: Tasks, image: IntArray, extrapolated: tuple[Extrapolation, ...]) -> Timing:
    fields = (at.START, at.END, at.BUSY, at.OWN, at.SERVICE)
    rows = zip(*(image[tasks.nests + field].tolist() for field in fields), strict=True)
    nests = tuple(NestTime(nest.name, *row) for nest, row in zip(tasks.program.nests, rows, strict=True))
    capacity = dict(tasks.resources)
    names = tuple(capacity)
    busy = dict.fromkeys(names, 0)
    for nest_time, resource in zip(nests, tasks.resource_of, strict=True):
        busy[names[resource]] += nest_time.busy_cycles
    if tasks.dram:
        busy[tasks.dram], capacity[tasks.dram] = _dram_busy(tasks, nests)
    return Timing(
        latency_cycles=max((nest_time.end_cycle for nest_time in nests), default=0),
        nests=nests,
        stages=_stage_times(tasks, nests, capacity),
        busy_cycles=tuple(busy.items()),
        capacity=tuple(capacity.items()),
        n_simulated=int(image[at.N_ENDED]),
        extrapolated=extrapolated,
    )


def _dram_busy(tasks: Tasks, nests: tuple[NestTime, ...]) -> tuple[int, int]:
    """Busy cycles of the memory and what they are of 1: its channels where a placement keeps some apart."""
    memory = tasks.memory
    if not isinstance(memory, PlacedMemory) or len(memory.groups) == 1:
        return sum(time.dram_cycles for time in nests), 1
    busy = [
        time.dram_cycles * len(place.channels)
        for time, place in zip(nests, tasks.places, strict=True)
        if place
    ]
    return sum(busy), memory.n_channels


def _stage_times(
    tasks: Tasks, nests: tuple[NestTime, ...], capacity: dict[str, int]
) -> tuple[StageTime, ...]:
    found = []
    first = 0
    for stage in tasks.program.stages:
        own = range(first, first + len(stage.nests))
        first = own.stop
        if not own:
            continue
        work: dict[str, float] = {}
        on_group = [0] * at.MAX_GROUPS
        for i in own:
            name = tasks.resources[tasks.resource_of[i]][0]
            work[name] = work.get(name, 0) + nests[i].work_cycles / capacity[name]
            if nests[i].dram_cycles:
                place = tasks.places[i]
                for group in range(at.MAX_GROUPS):
                    on_group[group] += nests[i].dram_cycles * ((place.groups if place else 1) >> group & 1)
                work[tasks.dram] = max(on_group)
        found.append(
            StageTime(
                stage.name,
                min(nests[i].start_cycle for i in own),
                max(nests[i].end_cycle for i in own),
                max(work, key=lambda name: work[name]),
            )
        )
    return tuple(found)
