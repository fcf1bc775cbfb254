"""The family `sequential`: one array complex and one vector unit run the operators of a graph in turn.

docs/sequential.md describes the hardware, the space and the policy.
"""

from collections.abc import Mapping
from functools import lru_cache
from math import prod

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.program import Program
from tilewright.sim.architecture import Architecture
from tilewright.sim.device import Device
from tilewright.sim.mapper import map_contraction
from tilewright.sim.mapper_machine import Machine, machine_of
from tilewright.sim.mapping import OBJECTIVES, MappingError, Objective
from tilewright.sim.sequential_attention import AttentionStage, Choice
from tilewright.sim.sequential_emit import Emitter
from tilewright.sim.sequential_gemm import GemmStage, problem_of
from tilewright.sim.sequential_narrow import with_narrow_operands
from tilewright.sim.sequential_picks import Aliases, with_grouped_picks
from tilewright.sim.sequential_plan import (
    AttentionPlan,
    Fusion,
    GemmPlan,
    GraphPlan,
    StagePlan,
    VectorPlan,
    plan_graph,
)
from tilewright.sim.sequential_rooms import Rooms, divide_buffers, factors_fit, largest_need
from tilewright.sim.sequential_space import build_sequential, space_of
from tilewright.sim.sequential_vector import VectorStage, emit_move
from tilewright.sim.space import Space, Value

# What a declared architecture, which states no choices of the family, is scheduled with.
_DEFAULT_COPIES = 2
# A fused attention that takes more than this many times the array's peak is compared with separate stages.
_POOR = 4.0


class Sequential:
    """Operators one after another on one array complex, double-buffered through three buffers."""

    name = "sequential"
    summary = "one array complex and one vector unit run the operators in turn"

    def space(self, device: Device) -> Space:
        return space_of(device)

    def build(self, parameters: Mapping[str, Value], device: Device) -> Architecture:
        return build_sequential(parameters, device)

    def schedule(self, graph: Graph, architecture: Architecture, objective: str = "latency") -> Program:
        """The program of one layer graph on any architecture that binds the family's slots.

        Raises MappingError for an operator that does not fit, InputError for a slot that is not bound.
        """
        if objective not in OBJECTIVES:
            raise MappingError(f"objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
        machine = machine_of(architecture)
        grouped, aliases = with_grouped_picks(with_narrow_operands(graph, machine.array))
        return _Scheduler(grouped, machine, aliases).program(objective)


@lru_cache(maxsize=256)
def _plan(graph: Graph, fusion: Fusion, aliases: Aliases) -> GraphPlan:
    return plan_graph(graph, fusion, aliases)


class _Scheduler:
    """Schedules one graph on one machine."""

    def __init__(self, graph: Graph, machine: Machine, aliases: Aliases) -> None:
        self._graph = graph
        self._aliases = aliases
        self._machine = machine
        self._copies = int(machine.parameter("prefetch_depth", _DEFAULT_COPIES))
        self._one_pass = machine.parameter("attention", "one_pass") == "one_pass"

    def program(self, objective: Objective) -> Program:
        """Fuse as much as the architecture asks for and its buffers hold."""
        fused = bool(self._machine.parameter("fusion", True))
        fusion = Fusion(maps=fused, attention=fused, low_rank=fused)
        if fused:
            if not factors_fit(self._graph, self._machine, _plan(self._graph, fusion, self._aliases)):
                fusion = Fusion(maps=True, attention=True, low_rank=False)
            found = self._emit(fusion, objective)
            if found is not None:
                return found
            fusion = Fusion(maps=True, attention=False, low_rank=fusion.low_rank)
        found = self._emit(fusion, objective)
        assert found is not None  # only attention can ask for a program without it
        return found

    def _emit(self, fusion: Fusion, objective: Objective) -> Program | None:
        """The program with that fusion; None if a fused attention does not fit."""
        plan = _plan(self._graph, fusion, self._aliases)
        rooms = divide_buffers(self._graph, self._machine, plan, self._copies)
        emitter = Emitter(self._graph, self._machine, self._copies, dict(plan.aliases))
        if (split := self._with_rows_split(emitter, plan, rooms)) is not plan:
            plan = split
            rooms = divide_buffers(self._graph, self._machine, plan, self._copies)
        attention = {
            stage.name: AttentionStage.of(emitter, stage, rooms, self._one_pass)
            for stage in plan.stages
            if isinstance(stage, AttentionPlan)
        }
        choices: dict[str, Choice] = {}
        for name, fused in attention.items():
            choice = fused.choose()
            if choice is None or self._is_faster_apart(fused, choice, fusion, objective):
                return None
            choices[name] = choice
        if choices:
            needs = [attention[name].need(choice) for name, choice in choices.items()]
            rooms = divide_buffers(self._graph, self._machine, plan, self._copies, largest_need(needs))
        for stage in plan.stages:
            if isinstance(stage, GemmPlan):
                GemmStage.emit(emitter, stage, rooms, objective)
            elif isinstance(stage, VectorPlan):
                VectorStage.emit(emitter, stage, rooms)
            elif isinstance(stage, AttentionPlan):
                attention[stage.name].emit(choices[stage.name])
            else:
                emit_move(emitter, stage, rooms)
        program = emitter.program()
        _check_capacity(program, self._machine)
        return program

    def _with_rows_split(self, emitter: Emitter, plan: GraphPlan, rooms: Rooms) -> GraphPlan:
        """`plan` with a stage per operator where the rows that several share do not fit."""
        stages: list[StagePlan] = []
        for stage in plan.stages:
            whole: tuple[StagePlan, ...] = (stage,)
            if isinstance(stage, VectorPlan) and len(stage.operators) > 1:
                fits = VectorStage(emitter, stage, rooms).fits()
                whole = whole if fits else stage.parts(self._graph)
            stages += whole
        return plan if len(stages) == len(plan.stages) else GraphPlan(tuple(stages), plan.aliases)

    def _is_faster_apart(
        self, stage: AttentionStage, choice: Choice, fusion: Fusion, objective: Objective
    ) -> bool:
        """Whether the operators of a fused attention take less time as stages of their own.

        They may where the buffers hold only a few rows of scores. Estimated only where the fused stage is
        far from the array's peak.
        """
        if choice.cycles < _POOR * stage.peak_cycles():
            return False
        plan = _plan(self._graph, Fusion(fusion.maps, False, fusion.low_rank), self._aliases)
        rooms = divide_buffers(self._graph, self._machine, plan, self._copies)
        emitter = Emitter(self._graph, self._machine, self._copies, {})
        names = {operator.name for operator in stage.plan.operators}
        cycles = 0.0
        for part in plan.stages:
            if not names.issuperset(operator.name for operator in part.operators):
                continue
            if isinstance(part, GemmPlan):
                problem = problem_of(self._graph, self._machine, part, rooms, self._copies)
                cycles += map_contraction(problem, self._machine.architecture, objective).cycles
            elif isinstance(part, VectorPlan):
                cycles += VectorStage(emitter, part, rooms).estimate()
        return cycles < choice.cycles


def _check_capacity(program: Program, machine: Machine) -> None:
    """Raises MappingError if the buffers of a memory do not fit in it."""
    used: dict[str, int] = {}
    components = machine.architecture.component_by_slot
    for buffer in program.buffers:
        name = components[buffer.slot].name
        used[name] = used.get(name, 0) + buffer.slot_bytes * buffer.copies
    for name, n_bytes in used.items():
        capacity_bytes = getattr(machine.architecture.component_by_name[name], "capacity_bytes", 0)
        if n_bytes > capacity_bytes:
            own = [one for one in program.buffers if components[one.slot].name == name]
            largest = max(own, key=lambda one: one.slot_bytes * one.copies)
            raise MappingError(
                f"program {program.name!r}: tiles of {n_bytes} bytes do not fit in {name},"
                f" {capacity_bytes} bytes; {largest.slot_bytes * largest.copies} are for {largest.name!r}"
                f" of operator {_largest_user(program, largest.name)!r}"
            )


def _largest_user(program: Program, buffer: str) -> str:
    """The stage with the largest tile in a buffer."""
    tiles = [
        (prod(size for _, size in port.tile), stage.name)
        for stage in program.stages
        for nest in stage.nests
        for port in (*nest.reads, *nest.writes)
        if port.buffer == buffer
    ]
    return max(tiles, key=lambda tile: tile[0], default=(0, ""))[1]
