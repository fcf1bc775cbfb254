"""A spatial pipeline as a program: a resource for every loop, a bounded buffer for every link."""

from dataclasses import dataclass

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
from tilewright.dataflow.tensor import Role, Tensor
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
from tilewright.sim.engine import Tasks, Timing, compile_program, run, simulated
from tilewright.sim.rated_memory import memory_of
from tilewright.sim.spatial import End, Pipeline, Process

_MEMORY = "links"
_BEAT = "beat"
_REQUEST = ".request"
_FLAG_TILE = (("event", 1),)


@dataclass(frozen=True)
class SpatialRun:
    """A pipeline simulated: the program, its architecture and when everything ran."""

    pipeline: Pipeline
    program: Program
    architecture: Architecture
    timing: Timing
    tasks: Tasks

    def active(self) -> tuple[tuple[str, int, int], ...]:
        """(module, cycle in which its first loop begins, cycle in which its last one ends), in order.

        First requests to the memory, which every port sends at once, are left out.
        """
        n_leaves = sum(nest.n_leaves for nest in self.program.nests)
        _, trace = simulated(self.tasks, False, n_leaves)
        names = [nest.name for nest in self.program.nests]
        first: dict[str, int] = {}
        for index, start, _ in trace.tolist():
            first[names[index]] = min(first.get(names[index], start), start)
        found = []
        for stage, time in zip(self.program.stages, self.timing.stages, strict=True):
            own = [first[nest.name] for nest in stage.nests if not nest.name.endswith(_REQUEST)]
            found.append((stage.name, min(own), time.end_cycle))
        return tuple(found)

    def end_of(self, modules: set[str]) -> int:
        """The cycle in which the last of some modules is done."""
        return max(stage.end_cycle for stage in self.timing.stages if stage.name in modules)


def simulate_pipeline(
    pipeline: Pipeline, device: str, clock_mhz: float, memory_bytes_per_cycle: float
) -> SpatialRun:
    """The pipeline alone on a device; its ports share a memory of that rate.

    Raises InputError for a deadlock.
    """
    from tilewright.sim.spatial_deadlock import check_deadlock

    program = pipeline_program(pipeline, memory_bytes_per_cycle)
    check_deadlock(program)
    architecture = pipeline_architecture(pipeline, device, clock_mhz, memory_bytes_per_cycle)
    (dram,) = architecture.of_kind(Dram)
    tasks = compile_program(program, architecture, memory_of(dram, clock_mhz))
    return SpatialRun(pipeline, program, architecture, run(tasks), tasks)


def pipeline_architecture(
    pipeline: Pipeline, device: str, clock_mhz: float, memory_bytes_per_cycle: float
) -> Architecture:
    """One component for every process: loops are lanes that take as long as stated, ports are channels."""
    components: list[Component] = []
    for process in pipeline.processes:
        if process.kind == "compute":
            if process.macs:
                components.append(
                    MatrixArray(process.name, 1, process.macs, "output", (8, 8), 32, discipline="multicast")
                )
            else:
                components.append(VectorUnit(process.name, 8, 32, (), 0))
        else:
            components += [
                Dma(process.name, 1, max(1, process.bits // 8), 64 * 16, 1, 0),
                VectorUnit(f"{process.name}{_REQUEST}", 1, 1, (), 0),
            ]
    total = sum(link.copies * link.beats * link.bits for link in pipeline.links)
    components.append(BufferMemory(_MEMORY, max(1, -(-total // 8)), 1, 64, "bram"))
    components.append(Dram("dram", "hbm2", 1, MemoryRate(memory_bytes_per_cycle, 0)))
    slots = [(one.name, one.name) for one in components]
    slots += [
        (f"{one.name}.drain", one.name) for one in pipeline.processes if one.kind == "compute"
    ]  # the loop's own hardware
    return Architecture("spatial", device, clock_mhz, tuple(components), tuple(slots))


def pipeline_program(pipeline: Pipeline, memory_bytes_per_cycle: float) -> Program:
    """A stage for every module, a nest for every loop; a loop in several packets drains in a nest of its own."""
    emitter = _Emitter(pipeline, memory_bytes_per_cycle)
    stages = [Stage(module, (module,), tuple(emitter.nests_of(module))) for module in pipeline.modules]
    links = tuple(
        Buffer(link.name, _MEMORY, -(-link.beats * link.bits // 8), link.copies, link.bits)
        for link in pipeline.links
    )
    tensors = tuple(
        Tensor(one.name, (), "int8", Role.WEIGHT if one.kind == "load" else Role.ACTIVATION)
        for one in pipeline.processes
        if one.kind != "compute"
    )
    return Program(pipeline.name, tensors, (*links, *emitter.buffers), tuple(stages))


class _Emitter:
    """Nests of one pipeline."""

    def __init__(self, pipeline: Pipeline, memory_bytes_per_cycle: float) -> None:
        self._pipeline = pipeline
        self._rate = memory_bytes_per_cycle
        self.buffers: list[Buffer] = []

    def nests_of(self, module: str) -> list[Nest]:
        found: list[Nest] = []
        for process in self._pipeline.processes:
            if process.module == module:
                found += self._moves(process) if process.kind != "compute" else self._loop(process)
        return found

    def _moves(self, process: Process) -> list[Nest]:
        """The first request, then beats at their rate."""
        request = f"{process.name}{_REQUEST}"
        first = _work(float(process.stages + 1), process.name)
        tile = process.trips // process.packets
        beats = tile * process.ii
        pace = Pace(float(beats), tile * process.bits / 8 / self._rate)
        direction = Direction.LOAD if process.kind == "load" else Direction.STORE
        leaf = Transfer(direction, process.name, ((_BEAT, tile),), process.bits, tile, pace=pace)
        return [
            Nest(request, request, (Loop("once", 1, 1),), first),
            Nest(
                process.name, process.name, _loops(process), leaf, self._taken(process),
                self._ports(process.gives), (request,),
            ),
        ]  # fmt: skip

    def _loop(self, process: Process) -> list[Nest]:
        tile = process.trips // process.packets
        takes, gives = self._taken(process), self._ports(process.gives)
        if process.packets == 1:
            leaf = self._leaf(process, tile, float(tile * process.ii + process.drain_cycles))
            return [Nest(process.name, process.name, _loops(process), leaf, takes, gives)]
        # A loop that hands on entry by entry keeps its array while it runs, and the taker waits until it drained.
        name, held = f"{process.name}.drain", f"{process.name}.entry"
        self._flag(held, 1)
        entry = Port(held, len(process.outer), _FLAG_TILE)
        leaf = self._leaf(process, tile, float(tile * process.ii))
        outer = _loops(process)[:-1] or (Loop("once", 1, 1),)
        drain = _work(float(process.drain_cycles), process.name)
        # What it takes entry by entry it gives back when it has drained.
        kept = self._ports(tuple(end for end in process.takes if 0 < end.level <= len(process.outer)))
        ready = []
        for end in _late(process):
            self._flag(_ready(end.link), self._pipeline.link_by_name[end.link].copies)
            ready.append(Port(_ready(end.link), end.level, _FLAG_TILE))
        return [
            Nest(process.name, process.name, _loops(process), leaf, takes, (*gives, entry)),
            Nest(name, name, outer, drain, (entry, *kept), tuple(ready)),
        ]

    def _flag(self, name: str, copies: int) -> None:
        """A queue of events that hold no data."""
        self.buffers.append(Buffer(name, _MEMORY, 1, copies, 1))

    def _leaf(self, process: Process, tile: int, cycles: float) -> Compute:
        if process.macs:
            return Compute(
                Unit.MATRIX, (process.name,), ((_BEAT, tile), ("pe", process.macs)), ("pe",), (), (_BEAT,),
                cycles=cycles,
            )  # fmt: skip
        return Compute(
            Unit.VECTOR, (process.name,), ((_BEAT, tile),), functions=(VectorWork("add", ()),), cycles=cycles
        )

    def _taken(self, process: Process) -> tuple[Port, ...]:
        """Ports at what a process takes, and at the events that say that it is complete."""
        late = {end.link for giver in self._pipeline.processes for end in _late(giver)}
        flags = (Port(_ready(end.link), end.level, _FLAG_TILE) for end in process.takes if end.link in late)
        return (*self._ports(process.takes), *flags)

    def _ports(self, ends: tuple[End, ...]) -> tuple[Port, ...]:
        links = self._pipeline.link_by_name
        return tuple(Port(end.link, end.level, (("packet", links[end.link].beats),)) for end in ends)


def _late(process: Process) -> tuple[End, ...]:
    """The ends at which a loop of several packets hands on whole entries."""
    if process.kind != "compute" or process.packets == 1:
        return ()
    return tuple(end for end in process.gives if end.level <= len(process.outer))


def _ready(link: str) -> str:
    return f"{link}.ready"


def _work(cycles: float, name: str) -> Compute:
    return Compute(Unit.VECTOR, (name,), (("once", 1),), functions=(VectorWork("add", ()),), cycles=cycles)


def _loops(process: Process) -> tuple[Loop, ...]:
    """The loops around a leaf, that over packets innermost."""
    outer = tuple(Loop(f"l{position}", trips, 1) for position, trips in enumerate(process.outer))
    return (*outer, Loop(_BEAT, process.trips, process.trips // process.packets))
