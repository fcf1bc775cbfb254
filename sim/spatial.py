"""A spatial pipeline as a value: modules of pipelined loops that run at once and meet at streams and arrays.

docs/dataflow.md says what every word means and draws it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from math import prod
from typing import Literal

from tilewright.dataflow.errors import InputError, nearest
from tilewright.sim.technology import rows

LinkKind = Literal["stream", "array"]
ProcessKind = Literal["compute", "load", "store"]
#: States that a loop passes before its first and after its last trip: ap_start and ap_done (AMD UG1399).
ENTRY_CYCLES = 2
_STREAM_PACKETS = 2  # one that is written while the one before is read


@dataclass(frozen=True, slots=True)
class Link:
    """Where one process hands on to another: a stream of packets, or an array that is handed on as a whole.

    `beats` of `bits` make a packet. `depth` counts beats of a stream and copies of an array (2: the writer may be
    one ahead). Where packets are coarser than a stream is deep, it still has room for two.
    """

    name: str
    kind: LinkKind
    depth: int
    beats: int
    bits: int

    @property
    def copies(self) -> int:
        """Packets, or arrays, that fit."""
        if self.kind == "array":
            return self.depth
        return max(_STREAM_PACKETS, self.depth // self.beats)


@dataclass(frozen=True, slots=True)
class End:
    """A process's end of a link: one packet for every turn of the first `level` of its loops, packets included."""

    link: str
    level: int


@dataclass(frozen=True, slots=True)
class Process:
    """One pipelined loop of `trips`, `ii` cycles apart, inside `outer` loops; `stages` deep.

    It drains each time it is entered: (trips - 1) ii + stages cycles, and `ENTRY_CYCLES`. Its trips go by in
    `packets`. `kind` "load" and "store" move `bits` a trip between the memory and the chip; their first request
    takes `stages` cycles, once.
    """

    name: str
    module: str
    outer: tuple[int, ...]
    trips: int
    packets: int
    ii: int
    stages: int
    kind: ProcessKind = "compute"
    bits: int = 0
    macs: int = 0  # multiply-accumulates of a trip
    takes: tuple[End, ...] = ()
    gives: tuple[End, ...] = ()

    def __post_init__(self) -> None:
        for what, value in (("trips", self.trips), ("packets", self.packets), ("ii", self.ii)):
            if value < 1:
                raise InputError(f"process {self.name!r}: {what} must be >= 1, got {value}")
        if self.drain_cycles < 1:
            raise InputError(
                f"process {self.name!r}: stages must be >= {self.ii - 1}, one less than its interval,"
                f" got {self.stages}"
            )
        if self.trips % self.packets:
            raise InputError(
                f"process {self.name!r}: {self.packets} packets do not divide {self.trips} trips"
            )
        for end in (*self.takes, *self.gives):
            if not 0 <= end.level <= len(self.outer) + 1:
                raise InputError(
                    f"process {self.name!r}: level of link {end.link!r} must be in 0..{len(self.outer) + 1},"
                    f" got {end.level}"
                )

    @property
    def drain_cycles(self) -> int:
        """Cycles of an entry beyond trips times ii."""
        return self.stages - self.ii + ENTRY_CYCLES

    @property
    def entries(self) -> int:
        return prod(self.outer)

    def packets_at(self, end: End) -> int:
        """How many packets pass an end in all."""
        return prod((*self.outer, self.packets)[: end.level])


@dataclass(frozen=True)
class Pipeline:
    """Processes in the order of their modules, and the links between them."""

    name: str
    processes: tuple[Process, ...]
    links: tuple[Link, ...]

    def __post_init__(self) -> None:
        _check(self)

    @cached_property
    def link_by_name(self) -> Mapping[str, Link]:
        return {link.name: link for link in self.links}

    @cached_property
    def modules(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(process.module for process in self.processes))

    @cached_property
    def giver(self) -> Mapping[str, Process]:
        """The process that fills each link."""
        return {end.link: process for process in self.processes for end in process.gives}

    @cached_property
    def takers(self) -> Mapping[str, tuple[Process, ...]]:
        """The processes that read each link."""
        found: dict[str, tuple[Process, ...]] = {}
        for process in self.processes:
            for end in process.takes:
                found[end.link] = (*found.get(end.link, ()), process)
        return found

    def part(self, modules: Iterable[str]) -> "Pipeline":
        """Some modules alone: what they take from others is always there, what they give always accepted."""
        wanted = set(modules)
        inside = [process for process in self.processes if process.module in wanted]
        given = {end.link for process in inside for end in process.gives}
        taken = {end.link for process in inside for end in process.takes}
        kept = given & taken
        found = tuple(
            Process(
                one.name, one.module, one.outer, one.trips, one.packets, one.ii, one.stages, one.kind, one.bits,
                one.macs, tuple(end for end in one.takes if end.link in kept),
                tuple(end for end in one.gives if end.link in kept),
            )
            for one in inside
        )  # fmt: skip
        return Pipeline(self.name, found, tuple(link for link in self.links if link.name in kept))


def stages_of(operations: Iterable[str]) -> int:
    """Pipeline stages of operations one after another (`data/hls_stages.csv`).

    Raises InputError for an unknown operation.
    """
    known = _stages()
    total = 0
    for operation in operations:
        if operation not in known:
            raise InputError(f"operation {operation!r} is unknown{nearest(operation, list(known))}")
        total += known[operation]
    return total


@cache
def _stages() -> Mapping[str, int]:
    return {row["operation"]: int(row["stages"]) for row in rows("hls_stages.csv")}


def _check(pipeline: Pipeline) -> None:
    """Raises InputError for a link that joins nothing, or whose ends count differently."""
    names = [process.name for process in pipeline.processes]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"pipeline {pipeline.name!r}: process {twice!r} stands there twice")
    known = {link.name for link in pipeline.links}
    passed: dict[str, tuple[str, int]] = {}
    for process in pipeline.processes:
        for end in (*process.gives, *process.takes):
            if end.link not in known:
                raise InputError(
                    f"process {process.name!r}: link {end.link!r} is not declared{nearest(end.link, list(known))}"
                )
            n = process.packets_at(end)
            other, n_other = passed.setdefault(end.link, (process.name, n))
            if n != n_other:
                raise InputError(
                    f"link {end.link!r}: {other!r} passes {n_other} packets, {process.name!r} passes {n}"
                )
    for link in pipeline.links:
        if link.depth < 1 or link.beats < 1 or link.bits < 1:
            raise InputError(
                f"link {link.name!r}: depth, beats and bits must be >= 1, got {link.depth},"
                f" {link.beats} and {link.bits}"
            )
        givers = [one.name for one in pipeline.processes for end in one.gives if end.link == link.name]
        if len(givers) != 1 or link.name not in pipeline.takers:
            n_takers = len(pipeline.takers.get(link.name, ()))
            raise InputError(
                f"link {link.name!r} joins nothing: it needs 1 process that gives and 1 or more that take, has"
                f" {len(givers)} and {n_takers}"
            )
