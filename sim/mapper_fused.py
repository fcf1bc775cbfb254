"""Fused groups on a hierarchy: operators that share outer loops, what passes between them never leaving a level.

The space: all operators of a group run once for each tile of the ranks that every one of them has and none
reduces. Tensors inside the group live in the level that the vector unit works on, whole over the other ranks;
those that come in or go out do so tile by tile, and stay while the loops inside do not select them. Contractions
run one after the other from that level inwards, each in its certified best mapping; the vector unit works beside
them on another tile.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from math import ceil, inf, prod
from typing import Any, Literal

from tilewright.dataflow.errors import InputError, nearest
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Kind
from tilewright.sim.hierarchy import Hierarchy
from tilewright.sim.mapper_nest import Certificate, NestMapping
from tilewright.sim.mapper_onto import map_onto
from tilewright.sim.mapping import MappingError
from tilewright.sim.mapspace import Tiles, loop_orders, tiles_of
from tilewright.sim.mapspace_problem import Contraction, Operand, statement_of

FusedObjective = Literal["latency", "energy"]


@dataclass(frozen=True)
class Group:
    """Statements in order, which of them are contractions, and the tensors between them.

    `incoming` and `outgoing` are the accesses that cross the group's edge, each tensor and index once; `inner`
    are (tensor, first, last statement that touches it).
    """

    name: str
    statements: tuple[Contraction, ...]
    contracts: tuple[bool, ...]
    incoming: tuple[Operand, ...]
    outgoing: tuple[Operand, ...]
    inner: tuple[tuple[Operand, int, int], ...]
    fused: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class FusedMapping:
    """A group on a hierarchy: the shared loops, every contraction's own nest, and the words that cross the edge.

    `loops` are (rank, tile, trips), outermost first; `crossing` (tensor, words read, words written) of the
    backing store; `nests` stand by operator for a full tile.
    """

    group: Group
    hierarchy: Hierarchy
    objective: str
    loops: tuple[tuple[str, int, int], ...]
    cycles: float
    energy_pj: float
    vector_cycles: float
    crossing: tuple[tuple[str, float, float], ...]
    nests: tuple[NestMapping, ...]
    certificate: Certificate

    @property
    def backing_words(self) -> float:
        return sum(read + written for _, read, written in self.crossing)

    def text(self) -> str:
        """The shared loops, then the nest of every contraction."""
        lines = []
        for depth, (rank, tile, trips) in enumerate(self.loops):
            lines.append("  " * depth + f"for {rank} in {trips:,} tiles of {tile:,}")
        pad = "  " * len(self.loops)
        nests = {nest.problem.name: nest for nest in self.nests}
        for statement in self.group.statements:
            if statement.name in nests:
                lines += [pad + line for line in nests[statement.name].text().splitlines()]
            else:
                lines.append(pad + f"vector unit: {statement.name} -> {statement.output.name}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "group": self.group.name,
            "operators": [statement.name for statement in self.group.statements],
            "hierarchy": self.hierarchy.name,
            "objective": self.objective,
            "loops": [list(loop) for loop in self.loops],
            "cycles": self.cycles,
            "energy_pj": self.energy_pj,
            "vector_cycles": self.vector_cycles,
            "backing_words": self.backing_words,
            "crossing": [
                {"tensor": name, "read_words": read, "written_words": written}
                for name, read, written in self.crossing
            ],
            "nests": [nest.to_dict() for nest in self.nests],
            "certificate": {
                "bound": self.certificate.bound,
                "value": self.certificate.value,
                "n_evaluated": self.certificate.n_evaluated,
                "n_pruned": self.certificate.n_pruned,
                "space": self.certificate.space,
                "optimal": self.certificate.optimal,
            },
        }


def group_of(graph: Graph, names: Sequence[str]) -> Group:
    """The operators `names` of a graph as one group. Raises InputError for an unknown name."""
    known = {operator.name: operator for operator in graph.operators}
    if unknown := [name for name in names if name not in known]:
        raise InputError(
            f"graph {graph.name!r}: operator {unknown[0]!r} is unknown{nearest(unknown[0], list(known))}"
        )
    operators = [known[name] for name in names]
    statements = tuple(statement_of(graph, operator) for operator in operators)
    made = {operator.output.tensor: i for i, operator in enumerate(operators)}
    incoming: dict[Operand, None] = {}
    outgoing, inner = [], []
    for operator, statement in zip(operators, statements, strict=True):
        for access, operand in zip(operator.inputs, statement.inputs, strict=True):
            if access.tensor not in made:
                incoming.setdefault(replace(operand, name=access.tensor))
    for i, (operator, statement) in enumerate(zip(operators, statements, strict=True)):
        readers = [o.name for o in graph.consumers[operator.output.tensor]]
        if (
            operator.output.tensor in graph.outputs
            or not readers
            or any(name not in names for name in readers)
        ):
            outgoing.append(statement.output)
        else:
            inner.append((statement.output, i, max(list(names).index(name) for name in readers)))
    fused = [
        (rank, size)
        for rank, size in statements[0].sizes
        if all(rank in one.output.ranks for one in statements)
    ]
    contracts = tuple(operator.kind is Kind.CONTRACTION for operator in operators)
    return Group(
        "+".join(names) if len(names) < 4 else f"{names[0]}..{names[-1]}", statements, contracts,
        tuple(incoming), tuple(outgoing), tuple(inner), tuple(fused),
    )  # fmt: skip


@dataclass(frozen=True)
class _Candidate:
    """Tiles of the fused ranks with an order: what crosses the edge, and bounds of the whole."""

    tile: tuple[int, ...]
    order: tuple[int, ...]
    visits: tuple[int, ...]
    bound: float
    edge_pj: float


class _Pricing:
    """The costs of one group that do not depend on how its contractions are mapped."""

    def __init__(self, group: Group, hierarchy: Hierarchy) -> None:
        unit = hierarchy.vector
        if unit is None and not all(group.contracts):
            raise InputError(f"hierarchy {hierarchy.name!r} has no vector unit for group {group.name!r}")
        self.group, self.hierarchy = group, hierarchy
        self._sizes = {rank: size for statement in group.statements for rank, size in statement.sizes}
        self.at = 1 if unit is None else hierarchy.position(unit.level)
        self.backing, self.level = hierarchy.levels[0], hierarchy.levels[self.at]
        room = self.level.capacity_bits
        self.room_words = inf if room is None else room / hierarchy.word_bits
        self.inside = replace(
            hierarchy,
            name=f"{hierarchy.name} inside {self.level.name}",
            levels=(replace(self.level, capacity_bits=None, may_bypass=(), must_bypass=(), axes=()),
                    *hierarchy.levels[self.at + 1 :]),
            vector=None,
        )  # fmt: skip
        self._incoming_words = [self.words(one, {}) for one in group.incoming]
        self._outgoing_words = [self.words(one, {}) for one in group.outgoing]
        self.vector_pj, self.vector_cycles = 0.0, 0.0
        for statement, contracts in zip(group.statements, group.contracts, strict=True):
            if contracts or unit is None:
                continue
            points = prod(size for _, size in statement.sizes)
            read = sum(self.words(operand, {}) for operand in statement.inputs)
            written = self.words(statement.output, {})
            self.vector_pj += (
                points * unit.evaluation_pj + read * self.level.read_pj + written * self.level.write_pj
            )
            self.vector_cycles += max(points / unit.lanes, (read + written) / unit.words_per_cycle)

    def words(self, operand: Operand, tile: dict[str, int]) -> float:
        """Words of an access under a tile of the fused ranks."""
        sizes = self._sizes | tile
        extent = 1
        for index in operand.indices:
            extent *= (
                1 + sum(step * (sizes[rank] - 1) for rank, step in index)
                if len(index) > 1
                else (sizes[index[0][0]])
            )
        return extent * (self.hierarchy.element_bits or operand.bits) / self.hierarchy.word_bits

    def fits(self, tile: dict[str, int]) -> bool:
        """Whether what crosses the edge and what is alive inside has room at the same time."""
        held = sum(self.words(one, tile) for one in (*self.group.incoming, *self.group.outgoing))
        alive = (
            sum(self.words(one, tile) for one, first, last in self.group.inner if first <= step <= last)
            for step in range(len(self.group.statements))
        )
        return held + max(alive, default=0.0) <= self.room_words

    def crossing(self, visits: Sequence[int]) -> list[tuple[str, float, float]]:
        """(tensor, words read from and written to the backing store)."""
        read = zip(self.group.incoming, self._incoming_words, visits, strict=True)
        written = zip(self.group.outgoing, self._outgoing_words, strict=True)
        return [(one.name, words * n, 0.0) for one, words, n in read] + [
            (one.name, 0.0, words) for one, words in written
        ]

    def edge(self, visits: Sequence[int]) -> tuple[float, float]:
        """(pJ, cycles) of what crosses the edge; the level's own ports are counted with its other accesses."""
        rows = self.crossing(visits)
        read, written = sum(row[1] for row in rows), sum(row[2] for row in rows)
        pj = read * (self.backing.read_pj + self.level.write_pj) + written * (
            self.backing.write_pj + self.level.read_pj
        )
        cycles = max(
            read / self.backing.read_words_per_cycle,
            written / self.backing.write_words_per_cycle,
            (read + written) / self.backing.shared_words_per_cycle,
        )
        return pj, cycles


@lru_cache(maxsize=256)
def map_fused(
    group: Group, hierarchy: Hierarchy, objective: FusedObjective = "latency", tiles: Tiles = "divisors"
) -> FusedMapping:
    """The best mapping of a group in the space above, with its certificate.

    Raises MappingError if no tile of the group fits, InputError for objectives other than latency and energy.
    """
    if objective not in ("latency", "energy"):
        raise InputError(f"fused groups are mapped for latency or energy, got {objective!r}")
    pricing = _Pricing(group, hierarchy)
    whole = [nest for nest, _ in _nests(pricing, dict(group.fused), objective, tiles)]
    candidates = sorted(
        _candidates(pricing, whole, objective, tiles),
        key=lambda one: (one.bound, one.edge_pj, *(-t for t in one.tile)),
    )
    if not candidates:
        raise MappingError(
            f"group {group.name!r}: not even a tile of one of each of {', '.join(r for r, _ in group.fused)} fits"
            f" level {pricing.level.name!r} of {pricing.room_words * hierarchy.word_bits / 8:g} bytes"
        )
    best: FusedMapping | None = None
    bound, n_evaluated = inf, 0
    for candidate in candidates:
        if best is not None and candidate.bound >= min(best.certificate.value, bound) * (1 - 1e-12):
            bound = min(bound, candidate.bound)
            break
        found, own_bound = _priced(pricing, candidate, objective, tiles)
        bound, n_evaluated = min(bound, own_bound), n_evaluated + 1
        if best is None or (found.certificate.value, found.energy_pj) < (
            best.certificate.value,
            best.energy_pj,
        ):
            best = found
    assert best is not None
    certificate = replace(
        best.certificate,
        bound=min(bound, best.certificate.value),
        n_evaluated=n_evaluated,
        n_pruned=len(candidates) - n_evaluated,
    )
    return replace(best, certificate=certificate)


def _candidates(
    pricing: _Pricing, whole: Sequence[NestMapping], objective: str, tiles: Tiles
) -> Iterator[_Candidate]:
    """Tiles and orders that fit, with a bound: contractions cost no less than over the whole ranks at once."""
    group = pricing.group
    ranks = [rank for rank, _ in group.fused]
    relevant = tuple(
        sum(1 << i for i, rank in enumerate(ranks) if rank in operand.ranks) for operand in group.incoming
    )
    orders = loop_orders(relevant or (0,), len(ranks))
    least_pj, least_cycles = sum(nest.energy_pj for nest in whole), sum(nest.cycles for nest in whole)
    for tile in product(*(tiles_of(size, tiles) for _, size in group.fused)):
        if not pricing.fits(dict(zip(ranks, tile, strict=True))):
            continue
        trips = [ceil(size / t) for t, (_, size) in zip(tile, group.fused, strict=True)]
        for order, free in orders[sum(1 << i for i, n in enumerate(trips) if n > 1)]:
            visits = tuple(
                prod(n for i, n in enumerate(trips) if not (relevant[t] | free[t]) >> i & 1)
                for t in range(len(group.incoming))
            )
            pj, cycles = pricing.edge(visits)
            energy = pj + pricing.vector_pj + least_pj
            latency = max(cycles, pricing.vector_cycles, least_cycles)
            yield _Candidate(tile, order, visits, energy if objective == "energy" else latency, pj)


def _nests(
    pricing: _Pricing, tile: dict[str, int], objective: FusedObjective, tiles: Tiles
) -> list[tuple[NestMapping, int]]:
    """Every contraction's best mapping on a tile, with how many such tiles there are; cut-off tiles apart."""
    found = []
    shapes = [_pieces(size, tile[rank]) for rank, size in pricing.group.fused]
    for statement, contracts in zip(pricing.group.statements, pricing.group.contracts, strict=True):
        if not contracts:
            continue
        for pieces in product(*shapes):
            cut = {rank: size for (rank, _), (size, _) in zip(pricing.group.fused, pieces, strict=True)}
            sizes = tuple((rank, cut.get(rank, size)) for rank, size in statement.sizes)
            nest = map_onto(replace(statement, sizes=sizes), pricing.inside, objective, tiles)
            found.append((nest, prod(n for _, n in pieces)))
    return found


def _pieces(size: int, tile: int) -> list[tuple[int, int]]:
    """(size, how many) of the tiles of a rank."""
    whole, rest = divmod(size, tile)
    return [(tile, whole)] + ([(rest, 1)] if rest else [])


def _priced(
    pricing: _Pricing, candidate: _Candidate, objective: FusedObjective, tiles: Tiles
) -> tuple[FusedMapping, float]:
    """A candidate with its contractions mapped, and the least that any mapping of them would cost it."""
    group = pricing.group
    tile = {rank: t for (rank, _), t in zip(group.fused, candidate.tile, strict=True)}
    nests = _nests(pricing, tile, objective, tiles)
    pj, edge_cycles = pricing.edge(candidate.visits)
    energy = pj + pricing.vector_pj + sum(nest.energy_pj * n for nest, n in nests)
    contracting = sum(nest.cycles * n for nest, n in nests)
    rows = pricing.crossing(candidate.visits)
    reads = sum(row[2] for row in rows) + _port_words(pricing, nests, 0)
    writes = sum(row[1] for row in rows) + _port_words(pricing, nests, 1)
    least = max(contracting, pricing.vector_cycles, edge_cycles)
    cycles = max(
        least,
        reads / pricing.level.read_words_per_cycle,
        writes / pricing.level.write_words_per_cycle,
        (reads + writes) / pricing.level.shared_words_per_cycle,
    )
    energy += cycles * pricing.hierarchy.rest_pj_per_cycle
    value = energy if objective == "energy" else cycles
    ranks = [group.fused[i] for i in candidate.order]
    loops = tuple((rank, tile[rank], ceil(size / tile[rank])) for rank, size in ranks)
    words = f"{tiles} tiles of {', '.join(r for r, _ in group.fused)} shared by all, contractions at their best inside"
    firsts = {nest.problem.name: nest for nest, _ in reversed(nests)}
    found = FusedMapping(
        group, pricing.hierarchy, objective, loops, cycles, energy, pricing.vector_cycles, tuple(rows),
        tuple(firsts[s.name] for s in group.statements if s.name in firsts),
        Certificate(value, value, 1, 0, words),
    )  # fmt: skip
    return found, value if objective == "energy" else least


def _port_words(pricing: _Pricing, nests: Sequence[tuple[NestMapping, int]], way: int) -> float:
    """Words that contractions read (0) from or write (1) to the group's level."""
    return sum(
        (row.written_words if way else row.read_words) * n
        for nest, n in nests
        for row in nest.accesses
        if row.level == pricing.level.name
    )
