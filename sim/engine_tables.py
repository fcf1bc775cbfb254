"""Lays out a program as the flat tables that the kernels of `sim.engine_kernel` step through."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from tilewright.dataflow.program import Loop, Nest, Port, Program, cut_loops
from tilewright.sim.engine_kernel import Tables


class EngineError(ValueError):
    """The program cannot run to its end; the message names the nests, the buffers and the cycle."""


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a nest's odometer: a loop, or neighbouring loops that act as one.

    `names` are the ranks of the loops. `flagged` is the loop whose last tile is smaller, `limited` the loop
    whose trips the level `limiter` cuts.
    """

    names: tuple[str, ...]
    trips: int
    flagged: Loop | None = None
    limited: Loop | None = None
    limiter: int = -1
    limiter_loop: Loop | None = None


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
    levels: list[Level] = []
    level_of_rank: dict[str, int] = {}
    above = [0]
    mergeable = False  # whether the last level may take in another loop
    for position, loop in enumerate(loops):
        flagged = loop.rank in tile_ranks and loop.remainder != loop.tile
        plain = not flagged and loop.limit is None and loop.rank not in limiters
        if position in depths:
            mergeable = False
        if loop.trips == 1:
            pass
        elif plain and mergeable:
            levels[-1] = Level((*levels[-1].names, loop.rank), levels[-1].trips * loop.trips)
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
    """Collects rows for `Tables` while the nests of a program are added in program order."""

    program: Program
    nest_index: dict[str, int] = field(default_factory=dict)
    nest_resource: list[int] = field(default_factory=list)
    nest_setup: list[int] = field(default_factory=list)
    nest_has_limit: list[int] = field(default_factory=list)
    n_levels: list[int] = field(default_factory=list)
    n_leaves: list[int] = field(default_factory=list)
    n_ports: list[int] = field(default_factory=list)
    loop_rows: list[tuple[int, ...]] = field(default_factory=list)
    leaf_rows: list[tuple[int, int]] = field(default_factory=list)
    port_rows: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    predecessors: list[set[int]] = field(default_factory=list)
    groups: list[list[int]] = field(default_factory=list)
    level_names: list[tuple[str, ...]] = field(default_factory=list)
    _writer: dict[str, int] = field(default_factory=dict)
    _readers: dict[str, tuple[int, int, set[int], set[int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nest_index = {nest.name: i for i, nest in enumerate(self.program.nests)}
        self._buffer_index = {buffer.name: i for i, buffer in enumerate(self.program.buffers)}

    def add_levels(self, levels: Sequence[Level]) -> None:
        first = len(self.loop_rows)
        flag = 1
        for level in levels:
            limit = (-1, 1, 1, 0, 1)
            if level.limited and level.limiter_loop and level.limited.limit:
                of = level.limiter_loop
                limit = (
                    first + level.limiter,
                    of.tile,
                    of.extent,
                    level.limited.limit.offset,
                    level.limited.tile,
                )
            self.loop_rows.append((level.trips, flag if level.flagged else 0, *limit))
            flag <<= level.flagged is not None
            self.level_names.append(level.names)
        self.n_levels.append(len(levels))
        self.nest_has_limit.append(int(any(level.limited for level in levels)))

    def add_nest(self, stage: int, nest: Nest, above: Sequence[int]) -> None:
        """Add the ports of a nest and what it waits for."""
        index = len(self.predecessors)
        waits = {self.nest_index[name] for name in nest.after}
        if shared := {port.buffer for port in nest.reads} & {port.buffer for port in nest.writes}:
            raise EngineError(f"nest {nest.name!r} both reads and writes buffer {min(shared)!r}")
        for port in nest.reads:
            self._add_port(index, port, above, 0, self._join_group(index, stage, port, waits))
        for port in nest.writes:
            before = self._writer.get(port.buffer)
            if before == index:
                raise EngineError(f"nest {nest.name!r} writes buffer {port.buffer!r} at two ports")
            if before is not None:
                waits.add(before)
            self._writer[port.buffer] = index
            self._add_port(index, port, above, 1, -1)
        self.n_ports.append(len(nest.reads) + len(nest.writes))
        self.predecessors.append(waits)

    def _join_group(self, index: int, stage: int, port: Port, waits: set[int]) -> int:
        """The readers of a buffer in one stage see the same tokens; they wait for those of earlier stages."""
        known = self._readers.get(port.buffer)
        if known is None or known[0] != stage:
            before = known[2] if known else set()
            known = (stage, len(self.groups), set(), before)
            self._readers[port.buffer] = known
            self.groups.append([])
        _, group, members, before = known
        members.add(index)
        self.groups[group].append(len(self.port_rows))
        waits |= before
        return group

    def _add_port(self, nest: int, port: Port, above: Sequence[int], is_write: int, group: int) -> None:
        buffer = self._buffer_index[port.buffer]
        self.port_rows.append((nest, buffer, above[port.depth], is_write, group))

    def tables(self, resource_capacity: Sequence[int], dram_latency_cycles: int) -> Tables:
        successors: list[list[int]] = [[] for _ in self.predecessors]
        for nest, waits in enumerate(self.predecessors):
            for before in waits:
                successors[before].append(nest)
        ports_of_buffer: list[list[int]] = [[] for _ in self.program.buffers]
        for port, row in enumerate(self.port_rows):
            ports_of_buffer[row[1]].append(port)
        loops = _rows(self.loop_rows, 7)
        leaves = _rows(self.leaf_rows, 2)
        ports = _rows(self.port_rows, 5)
        return Tables(
            resource_capacity=_ints(resource_capacity),
            buffer_copies=_ints([buffer.copies for buffer in self.program.buffers]),
            nest_resource=_ints(self.nest_resource),
            nest_setup=_ints(self.nest_setup),
            nest_waits=_ints([len(waits) for waits in self.predecessors]),
            nest_has_limit=_ints(self.nest_has_limit),
            loop_first=_firsts(self.n_levels),
            leaf_first=_firsts(self.n_leaves),
            port_first=_firsts(self.n_ports),
            successor_first=_firsts([len(row) for row in successors]),
            successors=_ints([nest for row in successors for nest in row]),
            loop_trips=loops[0],
            loop_flag=loops[1],
            loop_limiter=loops[2],
            loop_limit=np.ascontiguousarray(loops[3:].T),
            leaf_own=leaves[0],
            leaf_service=leaves[1],
            port_nest=ports[0],
            port_buffer=ports[1],
            port_depth=ports[2],
            port_is_write=ports[3],
            port_group=ports[4],
            buffer_port_first=_firsts([len(row) for row in ports_of_buffer]),
            buffer_ports=_ints([port for row in ports_of_buffer for port in row]),
            group_first=_firsts([len(row) for row in self.groups]),
            group_ports=_ints([port for row in self.groups for port in row]),
            dram_latency=_ints([dram_latency_cycles]),
        )


def _ints(values: Sequence[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def _firsts(counts: Sequence[int]) -> NDArray[np.int64]:
    """Where each row starts, and where the last one ends."""
    return np.array([0, *accumulate(counts)], dtype=np.int64)


def _rows(rows: Sequence[tuple[int, ...]], width: int) -> NDArray[np.int64]:
    """(width, n_rows), so that a column of the rows is one contiguous array."""
    return np.ascontiguousarray(np.array(rows, dtype=np.int64).reshape(len(rows), width).T)
