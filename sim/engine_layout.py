"""Lays out a program as the image that the kernels step through; also what it refuses to lay out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tilewright.dataflow.program import Loop, Nest, Port, Program, cut_loops
from tilewright.sim import engine_image as at
from tilewright.sim.continuation import continuations
from tilewright.sim.engine_image import ImageBuilder, IntArray
from tilewright.sim.engine_leaf import LeafCost

#: Words of all saved states together at most; steady states are looked for at as many loops as fit.
_SAVED_WORDS_AT_MOST = 1 << 23


class EngineError(ValueError):
    """The program cannot run to its end; the message names the nests, the buffers and the cycle."""


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a nest's odometer: a loop, or neighbouring loops that act as one.

    `names` are the ranks of the loops. `flagged` is the loop whose last tile is smaller, `limited` the loop
    whose trips the level `limiter` cuts. `goes_on` has bit i set where the nest's i-th continuation has its rank.
    """

    names: tuple[str, ...]
    trips: int
    flagged: Loop | None = None
    limited: Loop | None = None
    limiter: int = -1
    limiter_loop: Loop | None = None
    goes_on: int = 0


def levels_of(nest: Nest) -> tuple[list[Level], list[int]]:
    """The odometer of a nest and, for every depth 0..n_loops, how many of its levels lie above that depth.

    Loops of one trip are left out (what they limit is cut to size). Neighbouring loops are one level where
    nothing can tell them apart: no limit, no smaller last tile in the leaf, no port between them.
    """
    loops = nest.loops
    tile_ranks = {rank for rank, _ in nest.leaf.tile}
    if any(loop.limit for loop in loops):
        loops = _without_idle_limits(loops)
    limiters = {loop.limit.of for loop in loops if loop.limit}
    depths = {port.depth for port in (*nest.reads, *nest.writes)}
    going = continuations(nest)
    levels: list[Level] = []
    level_of_rank: dict[str, int] = {}
    above = [0]
    mergeable = False  # whether the last level may take in another loop
    for position, loop in enumerate(loops):
        flagged = loop.rank in tile_ranks and loop.remainder != loop.tile
        plain = not flagged and loop.limit is None and loop.rank not in limiters
        goes_on = sum(1 << bit for bit, ranks in enumerate(going) if loop.rank in ranks)
        if position in depths:
            mergeable = False
        if loop.trips == 1:
            pass
        elif plain and mergeable and levels[-1].goes_on == goes_on:
            names = (*levels[-1].names, loop.rank)
            levels[-1] = Level(names, levels[-1].trips * loop.trips, goes_on=goes_on)
        else:
            limiter = level_of_rank[loop.limit.of] if loop.limit else -1
            level_of_rank[loop.rank] = len(levels)
            levels.append(
                Level(
                    (loop.rank,),
                    loop.trips,
                    loop if flagged else None,
                    loop if loop.limit else None,
                    limiter,
                    next(of for of in loops if of.rank == loop.limit.of) if loop.limit else None,
                    goes_on,
                )
            )
            mergeable = plain
        above.append(len(levels))
    return levels, above


def _without_idle_limits(loops: tuple[Loop, ...]) -> tuple[Loop, ...]:
    """Cut the loops that are limited by a loop of one trip."""
    for inner in range(1, len(loops)):
        outer = loops[inner - 1]  # itself cut by those before it
        if outer.trips == 1:
            loops = (*loops[:inner], *cut_loops(loops[inner:], outer, 0))
    return loops


@dataclass
class Layout:
    """Writes the image of a program (`sim.engine_image`) while its nests are added in program order.

    `nests` and `loops` are the positions of their records, `level_names` the ranks of every loop record,
    `loop_nests` the index of its nest.
    """

    program: Program
    capacities: Sequence[int]  # of the resources
    builder: ImageBuilder = field(default_factory=ImageBuilder)
    nests: list[int] = field(default_factory=list)
    buffers: list[int] = field(default_factory=list)
    loops: list[int] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)
    level_names: list[tuple[str, ...]] = field(default_factory=list)
    loop_nests: list[int] = field(default_factory=list)
    groups: list[list[int]] = field(default_factory=list)  # positions of the readers' ports
    _waits: list[set[int]] = field(default_factory=list)
    _n_limiters: int = 0
    _writer: dict[str, int] = field(default_factory=dict)
    _readers: dict[str, "_Readers"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._resources = [self.builder.record([free, free]) for free in self.capacities]
        self.buffers = [self.builder.record([buffer.copies, 0, 0, 0, 0]) for buffer in self.program.buffers]
        self._index_of_nest = {nest.name: i for i, nest in enumerate(self.program.nests)}
        self._index_of_buffer = {buffer.name: i for i, buffer in enumerate(self.program.buffers)}
        self._ports_of_buffer: list[list[int]] = [[] for _ in self.program.buffers]

    def add_nest(
        self,
        stage: int,
        nest: Nest,
        odometer: tuple[Sequence[Level], Sequence[int]],
        costs: Sequence[LeafCost],
        resource: int,
    ) -> None:
        """Append a nest with its leaves, loops and ports; `odometer` is what `levels_of` gave for it."""
        levels, above = odometer
        words, builder = [0] * at.NEST_WORDS, self.builder
        words[at.WAIT_PORT] = words[at.CARRY] = -1
        words[at.RESOURCE] = self._resources[resource]
        words[at.SETUP] = costs[0].setup_cycles
        words[at.HELD] = costs[0].groups
        leaves = [value for cost in costs for value in (cost.own_cycles, cost.service_cycles, cost.traffic)]
        words[at.LEAVES] = builder.record(leaves)
        words[at.N_LOOPS], words[at.N_PORTS] = len(levels), len(nest.reads) + len(nest.writes)
        words[at.HAS_CUTS] = int(any(level.limited for level in levels))
        position = builder.record(words)
        index = len(self.nests)
        self.nests.append(position)
        builder.put(position + at.LOOPS, self._add_loops(position, levels))
        waits = {self._index_of_nest[name] for name in nest.after}
        self._check_ports(nest)
        first = len(builder.words)
        for port in nest.reads:
            self._join_readers(index, stage, port.buffer, waits).ports.append(len(builder.words))
            self._add_port(position, port, above, 0)
        for port in nest.writes:
            if (before := self._writer.get(port.buffer)) is not None:
                waits.add(before)
            self._writer[port.buffer] = index
            self._add_port(position, port, above, 1)
        builder.put(position + at.PORTS, first)
        self._waits.append(waits)

    def _add_loops(self, nest: int, levels: Sequence[Level]) -> int:
        first = len(self.builder.words)
        limiters = {level.limiter for level in levels if level.limited}
        flag, n_flags = 1, sum(level.flagged is not None for level in levels)
        for index, level in enumerate(levels):
            words = [0] * at.LOOP_WORDS
            words[at.TRIPS] = words[at.FULL_TRIPS] = level.trips
            words[at.LOOP_NEST] = nest
            words[at.LIMITER] = words[at.ROW] = words[at.SECOND_ROW] = -1
            words[at.IS_LIMITER] = int(index in limiters)
            if level.flagged:
                words[at.FLAG] = flag
                flag <<= 1
            if level.limited and level.limited.limit and level.limiter_loop:
                words[at.LIMITER] = first + level.limiter * at.LOOP_WORDS
                words[at.LIMITER_TILE] = level.limiter_loop.tile
                words[at.LIMITER_EXTENT] = level.limiter_loop.extent
                words[at.LIMIT_OFFSET] = level.limited.limit.offset
                words[at.TILE] = level.limited.tile
            words[at.GOES_ON] = level.goes_on << n_flags
            self.loops.append(self.builder.record(words))
            self.level_names.append(level.names)
            self.loop_nests.append(len(self.nests) - 1)
        self._n_limiters += len(limiters)
        return first

    @staticmethod
    def _check_ports(nest: Nest) -> None:
        writes = [port.buffer for port in nest.writes]
        if shared := {port.buffer for port in nest.reads} & set(writes):
            raise EngineError(f"nest {nest.name!r} both reads and writes buffer {min(shared)!r}")
        if len(set(writes)) < len(writes):
            raise EngineError(f"nest {nest.name!r} writes a buffer at two ports: {', '.join(writes)}")

    def _join_readers(self, nest: int, stage: int, buffer: str, waits: set[int]) -> "_Readers":
        """The readers of a buffer in one stage see the same tiles; they wait for those of earlier stages."""
        readers = self._readers.get(buffer)
        if readers is None or readers.stage != stage:
            readers = _Readers(stage, readers.nests if readers else set(), set(), [])
            self._readers[buffer] = readers
            self.groups.append(readers.ports)
        readers.nests.add(nest)
        waits |= readers.before
        return readers

    def _add_port(self, nest: int, port: Port, above: Sequence[int], is_write: int) -> None:
        words = [0] * at.PORT_WORDS
        index = self._index_of_buffer[port.buffer]
        words[at.PORT_NEST], words[at.PORT_BUFFER] = nest, self.buffers[index]
        words[at.DEPTH], words[at.IS_WRITE], words[at.GROUP] = above[port.depth], is_write, -1
        position = self.builder.record(words)
        self.ports.append(position)
        self._ports_of_buffer[index].append(position)

    def image(self, dram_latency_cycles: int, n_groups: int = 1) -> IntArray:
        """The image before cycle 0, all nests added."""
        builder = self.builder
        successors: list[list[int]] = [[] for _ in self.nests]
        for nest, waits in enumerate(self._waits):
            builder.put(self.nests[nest] + at.N_WAITS, len(waits))
            for before in waits:
                successors[before].append(self.nests[nest])
        for nest, row in zip(self.nests, successors, strict=True):
            self._put_list(nest + at.N_SUCCESSORS, nest + at.SUCCESSORS, row)
        for buffer, row in zip(self.buffers, self._ports_of_buffer, strict=True):
            self._put_list(buffer + at.N_BUFFER_PORTS, buffer + at.BUFFER_PORTS, row)
        for group in self.groups:
            members = builder.record(group)
            for port in group:
                builder.put(port + at.GROUP, members)
                builder.put(port + at.N_GROUP, len(group))
        self._put_head(dram_latency_cycles)
        builder.put(at.N_GROUPS, n_groups)
        builder.put(at.GROUPS, builder.reserve(n_groups * at.GROUP_WORDS))
        builder.put(at.MISSING_LIST, builder.reserve(at.MAX_MISSING))
        return builder.image()

    def _put_list(self, count_at: int, list_at: int, row: Sequence[int]) -> None:
        self.builder.put(count_at, len(row))
        self.builder.put(list_at, self.builder.record(row))

    def _put_head(self, dram_latency_cycles: int) -> None:
        builder, n_nests = self.builder, len(self.nests)
        builder.put(at.DRAM_LATENCY, dram_latency_cycles)
        self._put_list(at.N_NESTS, at.NESTS, self.nests)
        for head in (at.RUNNING_LIST, at.QUEUED_LIST, at.ACTIVE_LIST):
            builder.put(head, builder.reserve(n_nests))
        builder.put(at.TURN_LIST, builder.reserve(2 * n_nests))
        builder.put(at.HAS_LIMITS, int(self._n_limiters > 0))
        row_words = at.ROW_BODY + at.SAVED_WORDS * n_nests + len(self.loops) + 2 * len(self.ports)
        n_rows = min(len(self.loops) + self._n_limiters, max(1, _SAVED_WORDS_AT_MOST // row_words))
        builder.put(at.ROW_WORDS, row_words)
        self._put_list(at.N_ROWS, at.ROW_LIST, [row_words * i for i in range(n_rows)])


@dataclass(frozen=True, slots=True)
class _Readers:
    """The nests of one stage that drain a buffer, those that did so before, and the readers' ports."""

    stage: int
    before: set[int]
    nests: set[int]
    ports: list[int]
