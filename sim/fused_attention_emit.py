"""Collecting nests and buffers of one attention: ports by rank, transfers in pieces."""

from dataclasses import replace
from math import prod

from tilewright.dataflow.program import (
    Buffer,
    Compute,
    Direction,
    Loop,
    Nest,
    Port,
    Program,
    Stage,
    Transfer,
    Unit,
    VectorWork,
)
from tilewright.dataflow.tensor import Role, Tensor
from tilewright.sim.fused_attention_shape import AttentionShape

#: Slots of the family beside those of `sequential`: registers between the arrays and in the PEs, what passes the
#: buffer by, and the delay with which a wave of results leaves the array.
STAGING, PES, STREAM, WAVE = "staging", "pe_registers", "stream", "wave"
EXP_MACS = 6
#: Ends the rank of a token that stands for an event and holds no data.
FLAG = ".flag"
BUFFER = "input_buffer"  # all three buffers of the family are one memory
_ROLES = {"K": Role.KV_CACHE, "V": Role.KV_CACHE}
_DTYPES = {8: "int8", 16: "fp16", 32: "fp32"}

Tile = tuple[tuple[str, int], ...]


class AttentionEmitter:
    """Builds the stages of one attention; tensors go by Q, K, QK, A, V and AV, ranks by p, m, e and f."""

    def __init__(self, shape: AttentionShape, piece_bytes: int, free_lanes: int = 0) -> None:
        """`free_lanes`: as many lanes whose time the memory's ports never set; 0 counts the ports."""
        self._free_lanes = free_lanes
        self.shape = shape
        self.bits = shape.element_bits
        self._piece_elements = max(1, piece_bytes * 8 // shape.element_bits)
        self._buffers: dict[str, Buffer] = {}
        self._nests: list[Nest] = []
        self._stages: list[Stage] = []

    def end_stage(self, name: str) -> None:
        """Close the stage that the nests since the last call make up."""
        self._stages.append(Stage(name, self.shape.operators, tuple(self._nests)))
        self._nests = []

    @property
    def last_nest(self) -> str:
        """The name of the nest that was added last, of a closed stage too."""
        nests = self._nests or list(self._stages[-1].nests)
        return nests[-1].name

    def program(self, name: str) -> Program:
        dtype = _DTYPES.get(self.bits, "fp16")
        tensors = tuple(
            Tensor(self._name(tensor), (), dtype, _ROLES.get(tensor, Role.ACTIVATION))
            for tensor in ("Q", "K", "QK", "N", "A", "V", "AV")
        )
        return Program(name, tensors, tuple(self._buffers.values()), tuple(self._stages))

    def port(
        self, buffer: str, depth: int, tile: Tile, *, copies: int = 2, slot: str = BUFFER, parts: int = 1
    ) -> Port:
        """A port at `buffer`, which is made with the first one that names it; a copy is 1 / `parts` of a tile."""
        if buffer not in self._buffers:
            n_bytes = max(1, prod(size for _, size in tile) * self.bits // (8 * parts))
            self._buffers[buffer] = Buffer(buffer, slot, n_bytes, copies, self.bits)
        return Port(buffer, depth, tile)

    def move(
        self, name: str, tensor: str, direction: Direction, loops: tuple[Loop, ...], elements: int,
        reads: tuple[Port, ...] = (), writes: tuple[Port, ...] = (), *,
        piece_elements: int = 0, after: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        """A transfer of `elements` in every iteration of `loops`, in pieces: a large one would hold up others.

        Ports take their tile at the first piece and give it on after the last.
        """
        rank, piece = f"{name}.elements", min(elements, piece_elements or self._piece_elements)
        if piece < elements:
            loops = (*loops, Loop(rank, elements, piece))
        reads, writes = (
            tuple(
                port if port.tile[0][0].endswith(FLAG) else replace(port, tile=((rank, piece),))
                for port in ports
            )
            for ports in (reads, writes)
        )
        slot = "dma_in" if direction is Direction.LOAD else "dma_out"
        leaf = Transfer(direction, self._name(tensor), ((rank, piece),), self.bits, piece)
        self._nests.append(Nest(name, slot, loops, leaf, reads, writes, after))

    def _name(self, tensor: str) -> str:
        """The graph's name of a tensor; scores and weights never leave the attention, so they have none there."""
        named = dict(zip(("Q", "K", "V", "AV"), self.shape.tensors, strict=True))
        return named.get(tensor, f"{self.shape.tensors[3]}.{tensor}")

    def multiply(
        self, name: str, loops: tuple[Loop, ...], tile: Tile, ranks: tuple[str, str, str],
        reads: tuple[Port, ...], writes: tuple[Port, ...], cycles: float | None = None,
    ) -> None:  # fmt: skip
        """A product on the array; `ranks` are its m, n and k."""
        m, n, k = ranks
        leaf = Compute(
            Unit.MATRIX, self.shape.operators, tile, (m,), (n,), (k,),
            operand_bits=(self.bits, self.bits), accumulator_bits=self.bits, cycles=cycles,
        )  # fmt: skip
        self._nests.append(Nest(name, "array", loops, leaf, reads, writes))

    def evaluate(
        self, name: str, slot: str, loops: tuple[Loop, ...], tile: Tile, works: tuple[VectorWork, ...],
        reads: tuple[Port, ...], writes: tuple[Port, ...], cycles: float | None = None,
    ) -> None:  # fmt: skip
        """Functions on the lanes, or on the array with `cycles` stated."""
        if cycles is None and self._free_lanes and slot == "vector":
            sizes = dict(tile)
            points = [prod(sizes[rank] for rank in one.ranks or sizes) for one in works]
            cycles = float(
                sum(-(-n // self._free_lanes) * one.evaluations for n, one in zip(points, works, strict=True))
            )
        leaf = Compute(Unit.VECTOR, self.shape.operators, tile, functions=works, cycles=cycles)
        self._nests.append(Nest(name, slot, loops, leaf, reads, writes))


def exponential(ranks: str, by_macs: bool) -> tuple[VectorWork, ...]:
    """exp(x - maximum) per point: one pipelined evaluation of a dedicated unit, or a subtraction and six products.

    Six is what a polynomial of fifth degree takes after the range reduction (arXiv 2406.10491).
    """
    if by_macs:
        return work("sub", ranks), work("mac", ranks, EXP_MACS)
    return (work("sub_exp", ranks),)


def work(function: str, ranks: str, evaluations: int = 1) -> VectorWork:
    """Evaluations of a function per point of one-letter ranks."""
    return VectorWork(function, tuple(ranks), evaluations)
