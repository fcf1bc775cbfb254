"""The engine's specification in plain Python: a heap of events, one leaf at a time, nothing skipped.

It shares with the engine the price of a leaf (`LeafPricer`) and nothing else: loops, ports, queues and
order are worked out here from the program itself.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from tilewright.dataflow.program import Loop, Nest, Program, limited_trips
from tilewright.sim.architecture import Architecture, Dma
from tilewright.sim.continuation import continuations
from tilewright.sim.engine_leaf import LeafCost, LeafPricer, MemoryService
from tilewright.sim.placed_memory import PlacedMemory
from tilewright.sim.traffic import COMPANY_BITS, MOST_IN_COMPANY, UNIT


@dataclass(frozen=True)
class Leaf:
    """One leaf: the ports (reads, writes) that take before it and hand on after it, and its cost."""

    takes: frozenset[int]
    hands_on: frozenset[int]
    cost: LeafCost


@dataclass
class NestState:
    nest: Nest
    index: int
    stage: int
    resource: str
    leaves: Iterator[Leaf]
    waits: set[str]
    leaf: Leaf | None = None
    start: int | None = None
    end: int | None = None
    busy: int = 0
    dram: int = 0
    granted: int = 0
    ready: int | None = None
    running: bool = False
    served: int = 0  # when the memory has served the running transfer
    given: dict[int, int] = field(default_factory=dict)  # by read port
    granted_leaf: Leaf | None = None


@dataclass
class DeadlockError(Exception):
    cycle: int


def positions(loops: tuple[Loop, ...]) -> Iterator[tuple[int, ...]]:
    """Every position of the odometer, limits applied."""

    def walk(prefix: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        level = len(prefix)
        if level == len(loops):
            yield prefix
            return
        loop = loops[level]
        trips = loop.trips
        if loop.limit:
            of = next(i for i, outer in enumerate(loops) if outer.rank == loop.limit.of)
            trips = limited_trips(loop, loops[of], prefix[of])
        for trip in range(trips):
            yield from walk((*prefix, trip))

    return walk(())


def leaves_of(pricer: LeafPricer, nest: Nest) -> Iterator[Leaf]:
    ports = (*nest.reads, *nest.writes)
    cut = tuple(loop for loop in nest.loops if loop.remainder != loop.tile)
    costs = pricer.costs(nest, cut)
    everything = list(positions(nest.loops))
    for i, here in enumerate(everything):
        before = everything[i - 1] if i else None
        after = everything[i + 1] if i + 1 < len(everything) else None
        last = [loop for loop, trip in zip(nest.loops, here, strict=True) if trip == loop.trips - 1]
        index = sum(1 << bit for bit, loop in enumerate(cut) if loop in last)
        past_first = {loop.rank for loop, trip in zip(nest.loops, here, strict=True) if trip}
        for bit, ranks in enumerate(continuations(nest), len(cut)):
            index += (1 << bit) * bool(ranks & past_first)
        yield Leaf(
            frozenset(
                j for j, p in enumerate(ports) if before is None or before[: p.depth] != here[: p.depth]
            ),
            frozenset(j for j, p in enumerate(ports) if after is None or after[: p.depth] != here[: p.depth]),
            costs[index],
        )


class Twin:
    """Runs a program; `nests` then hold start, end, busy and DRAM cycles."""

    def __init__(self, program: Program, architecture: Architecture, memory: MemoryService) -> None:
        pricer = LeafPricer(program, architecture, memory)
        self.latency_cycles = memory.latency_cycles
        self.copies = {buffer.name: buffer.copies for buffer in program.buffers}
        self.produced = dict.fromkeys(self.copies, 0)
        self.free: dict[str, int] = {}
        self.nests: list[NestState] = []
        self.slowdowns = memory.slowdowns if isinstance(memory, PlacedMemory) else None
        n_groups = len(memory.groups) if isinstance(memory, PlacedMemory) else 1
        self.group_free = [0] * n_groups
        self.plain = [0] * n_groups
        for stage_index, stage in enumerate(program.stages):
            for nest in stage.nests:
                component = pricer.component(nest)
                self.free[component.name] = component.channels if isinstance(component, Dma) else 1
                self.nests.append(
                    NestState(
                        nest,
                        len(self.nests),
                        stage_index,
                        component.name,
                        leaves_of(pricer, nest),
                        set(nest.after),
                    )
                )
        for state in self.nests:
            state.waits |= {other.nest.name for other in self.nests if self._goes_before(other, state)}

    @staticmethod
    def _goes_before(other: NestState, state: NestState) -> bool:
        """Earlier nests that fill the same buffer, and those of earlier stages that drain the same one."""
        reads, other_reads = ({p.buffer for p in s.nest.reads} for s in (state, other))
        writes, other_writes = ({p.buffer for p in s.nest.writes} for s in (state, other))
        fills = other.index < state.index and bool(writes & other_writes)
        return fills or (other.stage < state.stage and bool(reads & other_reads))

    def _freed(self, buffer: str) -> int:
        """Tiles that all readers of a stage have given back, summed over the stages."""
        total = 0
        for stage in sorted({s.stage for s in self.nests}):
            counts = [
                s.given.get(j, 0)
                for s in self.nests
                if s.stage == stage
                for j, port in enumerate(s.nest.reads)
                if port.buffer == buffer
            ]
            total += min(counts, default=0)
        return total

    def _taken_before(self, state: NestState, buffer: str) -> int:
        """Tiles that readers in earlier stages took."""
        found: dict[int, int] = {}
        for other in self.nests:
            if other.stage < state.stage:
                for j, port in enumerate(other.nest.reads):
                    if port.buffer == buffer:
                        found[other.stage] = other.given.get(j, 0)
        return sum(found.values())

    def _ready(self, state: NestState) -> bool:
        assert state.leaf
        for j, port in enumerate((*state.nest.reads, *state.nest.writes)):
            if j not in state.leaf.takes:
                continue
            produced = self.produced[port.buffer]
            if j < len(state.nest.reads):
                if self._taken_before(state, port.buffer) + state.given.get(j, 0) >= produced:
                    return False
            elif produced - self._freed(port.buffer) >= self.copies[port.buffer]:
                return False
        return True

    def _settle(self, now: int) -> None:
        """Start nests, queue what is ready, grant what is free."""
        done = {s.nest.name for s in self.nests if s.end is not None}
        for state in self.nests:
            if state.start is None and state.waits <= done:
                state.start = now
                state.leaf = next(state.leaves)
            waiting = state.leaf is not None and state.ready is None and not state.running
            if waiting and self._ready(state):
                state.ready = now
        for state in sorted(
            (s for s in self.nests if s.ready is not None), key=lambda s: (s.ready or 0, s.index)
        ):
            if self.free[state.resource] > 0:
                self._grant(state, now)

    def _grant(self, state: NestState, now: int) -> None:
        assert state.leaf
        cost = state.leaf.cost
        end = now + cost.own_cycles
        if cost.service_cycles:
            self._serve(state, cost, now + cost.setup_cycles)
            end = max(end, state.served + self.latency_cycles)
        self.free[state.resource] -= 1
        state.ready, state.running, state.granted = None, True, now
        state.busy += end - now
        state.granted_leaf = state.leaf
        heapq.heappush(self.events, (end, state.index))

    def _serve(self, state: NestState, cost: LeafCost, at_dram: int) -> None:
        """Serve a transfer after all that was given to its groups; in company it takes longer.

        What is slowed down is the part of it for which others wait, and as much of what waits and was not
        slowed down itself.
        """
        groups = [g for g in range(len(self.group_free)) if cost.groups >> g & 1]
        begin = max(at_dram, *(self.group_free[g] for g in groups))
        backlog = begin - at_dram
        plain = min(backlog, max(self.plain[g] for g in groups))
        service, alone = cost.service_cycles, cost.service_cycles
        if backlog and self.slowdowns:
            others = [
                other.granted_leaf.cost.traffic
                for other in self.nests
                if other.running and other.served > at_dram and other.granted_leaf.cost.groups & cost.groups
            ]
            company = sum(1 << COMPANY_BITS * c for c in [cost.traffic, *others[: MOST_IN_COMPANY - 1]])
            if company not in self.slowdowns.known:
                self.slowdowns.learn([company])
            shared = min(service, backlog)
            alone = service - shared
            charged = shared + min(shared, plain)
            service += (self.slowdowns.known[company] - UNIT) * charged // UNIT
            plain = max(0, plain - charged)
        for g in groups:
            self.group_free[g] = begin + service
            self.plain[g] = plain + alone
        state.served = begin + service
        state.dram += service

    def run(self) -> "Twin":
        self.events: list[tuple[int, int]] = []
        now = 0
        self._settle(now)
        while self.events:
            now = self.events[0][0]
            while self.events and self.events[0][0] == now:
                self._end(self.nests[heapq.heappop(self.events)[1]], now)
            self._settle(now)
        if any(state.end is None for state in self.nests):
            raise DeadlockError(now)
        return self

    def _end(self, state: NestState, now: int) -> None:
        assert state.leaf
        self.free[state.resource] += 1
        state.running = False
        for j in state.leaf.hands_on:
            if j < len(state.nest.reads):
                state.given[j] = state.given.get(j, 0) + 1
            else:
                self.produced[state.nest.writes[j - len(state.nest.reads)].buffer] += 1
        state.leaf = next(state.leaves, None)
        if state.leaf is None:
            state.end = now
