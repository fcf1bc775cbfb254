"""Collecting the stages and buffers of a program: loops and tiles of named ranks, transfers, order."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Access, Index, Mask, Operator
from tilewright.dataflow.program import (
    Buffer,
    Direction,
    Limit,
    Loop,
    Nest,
    Port,
    Program,
    Stage,
    Transfer,
)
from tilewright.dataflow.tensor import Role
from tilewright.sim.mapper_machine import Machine
from tilewright.sim.sequential_rooms import OUTPUT_COPIES

Tile = Mapping[str, int]
Tiled = tuple[tuple[str, int], ...]

#: Operands that are laid out in memory in the order in which tiles are fetched, ahead of time.
_PACKED_ROLES = frozenset({Role.WEIGHT, Role.ADAPTER})


@dataclass(slots=True)
class _BufferUse:
    slot: str
    slot_bytes: int
    copies: int
    element_bits: int


class Emitter:
    """Builds one program stage by stage; buffers are shared by all stages that name them."""

    def __init__(self, graph: Graph, machine: Machine, copies: int, aliases: Mapping[str, str]) -> None:
        self.graph = graph
        self.machine = machine
        self.copies = copies
        self.out_copies = min(copies, OUTPUT_COPIES)
        self._aliases = aliases
        self._buffers: dict[str, _BufferUse] = {}
        self._stages: list[Stage] = []
        self._stored_by: dict[str, list[str]] = {}

    def program(self) -> Program:
        buffers = tuple(
            Buffer(name, use.slot, use.slot_bytes, use.copies, use.element_bits, self._banks(use.slot))
            for name, use in self._buffers.items()
        )
        return Program(self.graph.name, self.graph.tensors, buffers, tuple(self._stages))

    def _banks(self, slot: str) -> int:
        memory = self.machine.architecture.component_by_slot[slot]
        return getattr(memory, "banks", 1)

    def add_stage(self, name: str, operators: Iterable[Operator], nests: Sequence[Nest]) -> None:
        """Append a stage; tensors that its nests store are available to later loads when those end."""
        for nest in nests:
            if isinstance(nest.leaf, Transfer) and nest.leaf.direction is Direction.STORE:
                self._stored_by.setdefault(nest.leaf.tensor, []).append(nest.name)
        self._stages.append(Stage(name, tuple(operator.name for operator in operators), tuple(nests)))

    def port(self, buffer: str, slot: str, depth: int, tile: Tiled, bits: int, copies: int = 0) -> Port:
        """A port at `buffer`, which grows to hold `tile`; `copies` of it, the prefetch depth if 0."""
        n_bytes = -(-prod(size for _, size in tile) * bits // 8)
        use = self._buffers.setdefault(buffer, _BufferUse(slot, 0, copies or self.copies, bits))
        use.slot_bytes = max(use.slot_bytes, n_bytes)
        use.element_bits = max(use.element_bits, bits)
        return Port(buffer, depth, tile)

    def reserve(self, buffer: str, slot: str, access: Access, tile: Tile) -> None:
        """Set room aside for what stays in a memory and passes no port."""
        self.port(buffer, slot, 0, self.tensor_tile(access, tile), self.bits(access.tensor), copies=1)

    def load(
        self, name: str, access: Access, loops: tuple[Loop, ...], leaf_tile: Tile, port: Port,
        *, index: Port | None = None,
    ) -> Nest:  # fmt: skip
        """A nest that loads the tile of `access` in every iteration of `loops`.

        With `index` the rows that are loaded depend on data, which that port supplies.
        """
        tensor = access.tensor
        tile = self.tensor_tile(access, leaf_tile)
        if index:  # rows that the data picks: as many as the iteration space has, each by itself
            rows = tuple((rank, leaf_tile[rank]) for rank in _picking_ranks(leaf_tile, access))
            tile = (*rows, *(part for part in tile if part[0] in access.ranks))
        run = self.run_elements(access, tile) if index is None else _row_elements(access, leaf_tile)
        leaf = Transfer(
            Direction.LOAD, tensor, tile, self.bits(tensor), run, random=index is not None
        )  # fmt: skip
        reads = (index,) if index else ()
        return Nest(name, "dma_in", loops, leaf, reads, (port,), self.after(tensor))

    def store(self, name: str, access: Access, loops: tuple[Loop, ...], leaf_tile: Tile, port: Port) -> Nest:
        tile = self.tensor_tile(access, leaf_tile)
        run = self.run_elements(access, tile)
        leaf = Transfer(Direction.STORE, access.tensor, tile, self.bits(access.tensor), run)
        return Nest(name, "dma_out", loops, leaf, (port,))

    def after(self, tensor: str) -> tuple[str, ...]:
        """The nests that have put `tensor` into DRAM."""
        return tuple(self._stored_by.get(self._aliases.get(tensor, tensor), ()))

    def bits(self, tensor: str) -> int:
        return self.graph.tensor_by_name[tensor].bits

    def tensor_tile(self, access: Access, tile: Tile) -> Tiled:
        """(rank, elements) of what `access` touches over `tile`, in the tensor's order.

        A plain index keeps the name of its iteration rank, so that loops over it cut the last tile.
        """
        found = []
        ranks = self.graph.tensor_by_name[access.tensor].ranks
        for rank, index in zip(ranks, access.indices, strict=True):
            name = _plain_rank(index)
            if not name:
                name = rank if rank not in tile else f"{rank}.{access.tensor}"
            found.append((name, reach(self.graph, index, tile, rank)))
        return tuple(found)

    def n_elements(self, access: Access, tile: Tile) -> int:
        """How many elements `access` touches over `tile`."""
        return touched_elements(self.graph, access, tile)

    def n_bytes(self, access: Access, tile: Tile) -> int:
        """How many bytes `access` touches over `tile`, packed, rounded up."""
        return -(-self.n_elements(access, tile) * self.bits(access.tensor) // 8)

    def run_elements(self, access: Access, tile: Tiled) -> int:
        """Contiguous elements in DRAM of the innermost run of `tile`."""
        tensor = self.graph.tensor_by_name[access.tensor]
        if tensor.role in _PACKED_ROLES and access.tensor in self.graph.inputs:
            return prod(size for _, size in tile)
        run = 1
        for rank, (_, size) in zip(reversed(tensor.ranks), reversed(tile), strict=True):
            run *= size
            if size < self.graph.size(rank):
                break
        return run


def touched_elements(graph: Graph, access: Access, tile: Tile) -> int:
    """How many elements of its tensor `access` touches over `tile`."""
    elements = 1
    for index, rank in zip(access.indices, graph.tensor_by_name[access.tensor].ranks, strict=True):
        elements *= reach(graph, index, tile, rank)
    return elements


def reach(graph: Graph, index: Index, tile: Tile, rank: str) -> int:
    """Positions of a tensor's `rank` that an index expression spans over `tile`.

    Ranks that `tile` lacks are whole. What a window reaches beyond the tensor is padding.
    """
    span, sizes = 1, graph.sizes
    for term in index.terms:
        size = tile.get(term.rank) or sizes[term.rank]
        span += abs(term.coefficient) * (size - 1) // term.divisor
    whole = sizes[rank]
    return span if span < whole else whole


def is_plain(index: Index) -> bool:
    """Whether an index is a rank or a constant, give or take one."""
    return not index.terms or bool(_plain_rank(index))


def _plain_rank(index: Index) -> str:
    """The rank that an index is, give or take a constant; "" for any other expression."""
    if len(index.terms) != 1 or not index.terms[0].coefficient == index.terms[0].divisor == 1:
        return ""
    return index.terms[0].rank


def _picking_ranks(tile: Tile, access: Access) -> list[str]:
    """The ranks of a tile that pick rows: all that the table's access does not have."""
    return [rank for rank in tile if rank not in access.ranks]


def _row_elements(access: Access, tile: Tile) -> int:
    return prod(tile[rank] for rank in access.ranks)


def split_tile(ranks: Sequence[str], sizes: Sequence[int], elements: int) -> dict[str, int]:
    """Elements per rank of a tile of `elements`: inner ranks whole, one cut, outer ones 1."""
    tile: dict[str, int] = {}
    left = elements
    for rank, size in zip(reversed(ranks), reversed(sizes), strict=True):
        tile[rank] = min(size, max(1, left))
        left = left // size if left >= size else 1
    return {rank: tile[rank] for rank in ranks}


def tile_loops(
    ranks: Sequence[str], sizes: Sequence[int], tile: Tile, *, always: bool = True
) -> tuple[Loop, ...]:
    """The loops over the ranks that `tile` cuts; with `always` at least one, over the innermost rank."""
    loops = tuple(
        Loop(rank, size, tile[rank]) for rank, size in zip(ranks, sizes, strict=True) if tile[rank] < size
    )
    if loops or not ranks or not always:
        return loops
    return (Loop(ranks[-1], sizes[-1], tile[ranks[-1]]),)


def depth_of(loops: Sequence[Loop], ranks: Iterable[str]) -> int:
    """How many outer loops select a tile over `ranks`: up to the last loop over one of them."""
    wanted = set(ranks)
    return max((i + 1 for i, loop in enumerate(loops) if loop.rank in wanted), default=0)


def limited(loops: tuple[Loop, ...], mask: Mask | None) -> tuple[Loop, ...]:
    """`loops` with the mask's upper edge as a limit, where the masked loop stands inside the other."""
    if mask is None or mask.upper is None:
        return loops
    ranks = [loop.rank for loop in loops]
    if mask.rank not in ranks or mask.of not in ranks or ranks.index(mask.of) > ranks.index(mask.rank):
        return loops
    return tuple(
        Loop(loop.rank, loop.extent, loop.tile, Limit(mask.of, mask.upper))
        if loop.rank == mask.rank
        else loop
        for loop in loops
    )
