"""A mapping onto a hierarchy as people read it: loops, tiles, accesses, cost, and how sure it is the best."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from tilewright.sim.hierarchy import Hierarchy
from tilewright.sim.mapper_search_kernel import place
from tilewright.sim.mapspace import MapSpace
from tilewright.sim.mapspace_kernel import Choice, IntArray, State, evaluate, new_state, tile_words
from tilewright.sim.mapspace_problem import Contraction

#: What lies on which axis, (axis, rank, positions), and the accesses above that a word costs each tensor.
Laid = tuple[tuple[tuple[str, str, int], ...], tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class NestLevel:
    """A level: what it keeps at a time, and the loops and positions through which it feeds the next.

    `keeps` are (tensor, words of one tile); `tiles` (rank, size); `loops` (rank, trips), outermost first;
    `spread` (axis, rank, positions).
    """

    name: str
    keeps: tuple[tuple[str, float], ...]
    n_copies: int
    tiles: tuple[tuple[str, int], ...]
    loops: tuple[tuple[str, int], ...]
    spread: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True)
class Accesses:
    """Words of one tensor that all instances of a level read and write, and their energy."""

    level: str
    tensor: str
    read_words: float
    written_words: float
    energy_pj: float


@dataclass(frozen=True, slots=True)
class Certificate:
    """No mapping of the stated space costs less than `bound`; the mapping that is given costs `value`."""

    bound: float
    value: float
    n_evaluated: int
    n_pruned: int
    space: str

    @property
    def optimal(self) -> bool:
        return self.value <= self.bound * (1 + 1e-9)


@dataclass(frozen=True)
class NestMapping:
    """One contraction on a hierarchy."""

    problem: Contraction
    hierarchy: Hierarchy
    objective: str
    cycles: float
    energy_pj: float
    mac_pj: float
    levels: tuple[NestLevel, ...]
    accesses: tuple[Accesses, ...]
    certificate: Certificate | None

    @property
    def backing_words(self) -> float:
        """Words that cross the edge of the backing store, both ways."""
        name = self.hierarchy.levels[0].name
        return sum(a.read_words + a.written_words for a in self.accesses if a.level == name)

    @property
    def utilisation(self) -> float:
        """Share of the multipliers' cycles that do work."""
        return self.problem.macs / (self.cycles * self.hierarchy.n_pes)

    def text(self) -> str:
        """The loop nest, one line a loop, indented."""
        lines, depth = [], 0
        for level in self.levels:
            kept = ", ".join(f"{tensor} {words:,.6g} words" for tensor, words in level.keeps)
            copies = f", {level.n_copies} copies" if level.n_copies > 1 else ""
            lines.append("  " * depth + f"[{level.name}] {kept or 'keeps nothing'}{copies}")
            for rank, trips in level.loops:
                depth += 1
                lines.append("  " * depth + f"for {rank} in {trips:,}")
            if level.spread:
                depth += 1
                where = ", ".join(f"{rank} {n} on {axis}" for axis, rank, n in level.spread)
                lines.append("  " * depth + f"at once {where}")
        lines.append("  " * (depth + 1) + f"{self.problem.output.name} += "
                     + " * ".join(operand.name for operand in self.problem.inputs))  # fmt: skip
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        found: dict[str, Any] = {
            "contraction": self.problem.name,
            "ranks": dict(self.problem.sizes),
            "hierarchy": self.hierarchy.name,
            "objective": self.objective,
            "macs": self.problem.macs,
            "cycles": self.cycles,
            "energy_pj": self.energy_pj,
            "backing_words": self.backing_words,
            "utilisation": self.utilisation,
            "levels": [
                {
                    "name": level.name,
                    "keeps": dict(level.keeps),
                    "copies": level.n_copies,
                    "tiles": dict(level.tiles),
                    "loops": [list(loop) for loop in level.loops],
                    "spread": [list(one) for one in level.spread],
                }
                for level in self.levels
            ],
            "accesses": [
                {name: getattr(row, name) for name in Accesses.__dataclass_fields__} for row in self.accesses
            ],
        }
        if self.certificate is not None:
            names = Certificate.__dataclass_fields__
            found["certificate"] = {name: getattr(self.certificate, name) for name in names}
            found["certificate"]["optimal"] = self.certificate.optimal
        return found


def described(
    space: MapSpace,
    choice: Choice,
    tiles: IntArray,
    spreads: IntArray,
    orders: Mapping[int, tuple[tuple[int, ...], tuple[int, ...]]],
    laid: Mapping[int, Laid],
    objective: str,
    certificate: Certificate | None,
) -> NestMapping:
    """Evaluate a whole mapping and put it in words.

    tiles: (L + 1, R) of every level; spreads: (L, R) positions under it; orders: by level above, the ranks
    outermost first and the free masks; laid: by level above, what lies on which axis and what a word costs
    each tensor above.
    """
    arrays = space.arrays
    state = _settled(space, tiles, spreads, orders, laid)
    evaluate(arrays, choice, state, len(space.hierarchy.levels), True, True)
    names = [operand.name for operand in space.problem.operands]
    levels, accesses = [], []
    for i, level in enumerate(space.hierarchy.levels):
        kept = [t for t in range(len(names)) if choice.keep[i, t]]
        order = list(orders[i][0]) if i in orders else []
        order = [*order, *(r for r in range(len(space.ranks)) if r not in order)]
        trips = [ceil(tiles[i, r] / min(tiles[i + 1, r] * spreads[i, r], tiles[i, r])) for r in order]
        levels.append(
            NestLevel(
                level.name,
                tuple((names[t], tile_words(arrays, t, tiles[i])) for t in kept),
                int(choice.copies[i]),
                tuple((rank, int(tile)) for rank, tile in zip(space.ranks, tiles[i], strict=True)),
                tuple((space.ranks[r], n) for r, n in zip(order, trips, strict=True) if n > 1),
                laid[i][0] if i in laid else (),
            )
        )
        for t, name in enumerate(names):
            read, written = (float(one) for one in state.accesses[:, i, t])
            if read or written:
                energy = read * arrays.access_pj[0, i, t] + written * arrays.access_pj[1, i, t]
                words = arrays.words[t]
                accesses.append(
                    Accesses(level.name, name, float(read * words), float(written * words), float(energy))
                )
    mac_pj = arrays.macs * arrays.mac_pj
    cycles = float(state.found[1])
    return NestMapping(
        space.problem, space.hierarchy, objective, cycles,
        float(state.found[0]) + mac_pj + cycles * arrays.rest_pj, mac_pj, tuple(levels), tuple(accesses),
        certificate,
    )  # fmt: skip


def _settled(
    space: MapSpace,
    tiles: IntArray,
    spreads: IntArray,
    orders: Mapping[int, tuple[tuple[int, ...], tuple[int, ...]]],
    laid: Mapping[int, Laid],
) -> State:
    state = new_state(space.arrays)
    for stage in range(1, len(tiles)):
        for r in range(len(space.ranks)):
            place(space.arrays, state, r, stage, int(tiles[stage, r]), int(spreads[stage - 1, r]))
        if stage - 1 in orders:
            state.free[stage - 1] = orders[stage - 1][1]
        if stage - 1 in laid:
            state.cost[stage - 1] = laid[stage - 1][1]
    return state
