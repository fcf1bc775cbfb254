"""A mapping walked loop by loop: what every level takes and serves, counted tile by tile.

The plain form of what `sim.mapspace_kernel` counts in closed form. A tensor's tile is taken anew whenever a loop
moves on that stands at or outside the innermost loop of more than one trip that selects it.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise, product
from math import ceil, prod

Region = Mapping[str, tuple[int, int]]
Trace = tuple[Region, tuple[tuple[int, str, int], ...], tuple[tuple[int, str, int], ...]]


class Walk:
    """tiles: one mapping of rank to size for each level, level 0 the whole; spreads and orders by level above."""

    def __init__(
        self,
        tiles: list[dict[str, int]],
        spreads: list[dict[str, int]],
        orders: list[tuple[str, ...]],
        tensors: dict[str, tuple[str, ...]],
        keeps: list[tuple[str, ...]],
    ) -> None:
        self.tiles, self.spreads, self.orders = tiles, spreads, orders
        self.tensors, self.keeps = tensors, keeps
        self.n_levels = len(tiles)

    def tau(self, level: int, rank: str) -> int:
        inner = self.tiles[level + 1][rank] if level + 1 < self.n_levels else 1
        return min(inner * self.spreads[level].get(rank, 1), self.tiles[level][rank])

    def selecting(self, tensor: str, child: int) -> list[tuple[int, str]]:
        """The loops (level above, rank) at and outside the innermost one that selects the tensor's tile."""
        loops = [(b, r) for b in range(child) for r in self.orders[b] if self.tau(b, r) < self.tiles[b][r]]
        last = max((i for i, (_, r) in enumerate(loops) if r in self.tensors[tensor]), default=-1)
        return loops[: last + 1]

    def visits(self, level: int) -> Iterator[Trace]:
        """(region, loop indices, positions) of every tile that every instance of `level` works on, in time order."""
        whole = {rank: (0, size) for rank, size in self.tiles[0].items()}
        yield from self._inside(0, level, whole, (), ())

    def _inside(self, now: int, level: int, region: Region, path: tuple, where: tuple) -> Iterator[Trace]:
        if now == level:
            yield region, path, where
            return
        ranks = self.orders[now]
        steps = [range(ceil(region[r][1] / self.tau(now, r))) for r in ranks]
        for index in product(*steps):
            chunk = {}
            for r, i in zip(ranks, index, strict=True):
                start, size = region[r]
                chunk[r] = (start + i * self.tau(now, r), min(self.tau(now, r), size - i * self.tau(now, r)))
            inner = {r: self.tiles[now + 1][r] if now + 1 < self.n_levels else 1 for r in ranks}
            places = [range(ceil(chunk[r][1] / inner[r])) for r in ranks]
            steps_taken = (*path, *((now, r, i) for r, i in zip(ranks, index, strict=True)))
            for position in product(*places):
                piece = {
                    r: (chunk[r][0] + j * inner[r], min(inner[r], chunk[r][1] - j * inner[r]))
                    for r, j in zip(ranks, position, strict=True)
                }
                taken = (*where, *((now, r, j) for r, j in zip(ranks, position, strict=True)))
                yield from self._inside(now + 1, level, piece, steps_taken, taken)

    def transfers(self, tensor: str, parent: int, child: int) -> tuple[int, int]:
        """(elements served by the parent with multicast, elements taken by all instances of the child)."""
        loops = set(self.selecting(tensor, child))
        served: dict[object, int] = {}
        taken: dict[object, int] = {}
        for region, path, where in self.visits(child):
            key = tuple(step for step in path if step[:2] in loops)
            size = prod(region[r][1] for r in self.tensors[tensor])
            held = tuple(region[r] for r in self.tensors[tensor])
            outer = tuple(p for p in where if p[0] < parent)
            taken[key, where] = size
            served[key, outer, held] = size
        return sum(served.values()), sum(taken.values())

    def busy_cycles(self) -> int:
        """Steps of the multipliers: those of the busiest instance of the last level, an element a cycle."""
        last = self.n_levels - 1
        work: dict[object, int] = {}
        for region, path, _ in self.visits(last):
            work[path] = max(work.get(path, 0), prod(size for _, size in region.values()))
        return sum(work.values())

    def accesses(self, output: str) -> dict[tuple[int, str], tuple[int, int]]:
        """(reads, writes) in elements by level and tensor."""
        found: dict[tuple[int, str], list[int]] = {}
        macs = prod(self.tiles[0].values())
        for tensor, ranks in self.tensors.items():
            levels = [i for i in range(self.n_levels) if i == 0 or tensor in self.keeps[i]]
            count = {i: [0, 0] for i in levels}
            size = prod(self.tiles[0][r] for r in ranks)
            for parent, child in pairwise(levels):
                served, taken = self.transfers(tensor, parent, child)
                if tensor == output:
                    count[parent][1] += served
                    count[parent][0] += served - size
                    count[child][0] += taken
                    count[child][1] += served - size
                else:
                    count[parent][0] += served
                    count[child][1] += taken
            last = levels[-1]
            uses = macs if last == self.n_levels - 1 else self.transfers(tensor, last, self.n_levels)[0]
            count[last][0] += uses
            if tensor == output:
                count[last][1] += uses
            found |= {(i, tensor): pair for i, pair in count.items()}
        return {key: (reads, writes) for key, (reads, writes) in found.items()}
