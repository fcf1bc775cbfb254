"""Small hand-made programs and a machine for the tests of the generator."""

from dataclasses import dataclass

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
from tilewright.sim.architecture import Architecture, Dma, Dram, MatrixArray, Stationarity, VectorUnit


def machine(
    stationarity: Stationarity = "output", rows: int = 4, cols: int = 4, port_bytes: int = 8,
    device: str = "u280", channels: int = 8,
) -> Architecture:  # fmt: skip
    """One array, four vector lanes, ports of 64 bits, eight memory channels."""
    return Architecture(
        "hand_made", device, 200.0,
        (
            MatrixArray("array", rows, cols, stationarity, (8, 8), 32),
            VectorUnit("vector", 4, 32),
            Dma("dma_in", 2, port_bytes, 64, 8),
            Dma("dma_out", 1, port_bytes, 64, 8),
            Dram("dram", "hbm2_ch_bg", channels),
        ),
        tuple((name, name) for name in ("array", "vector", "dma_in", "dma_out", "dram")),
    )  # fmt: skip


@dataclass(frozen=True)
class Gemm:
    """One stage y[m, n] = x[m, k] w[k, n] with loops m, n, k (or n, m, k) around tiles.

    `rank` adds a low-rank path, `functions` the vector nest: a function's name, and behind "@" the tensor
    that it reads beside the result. Every rank carries the stage's name, so that stages of one program may
    have different sizes.
    """

    name: str
    m: int = 10
    n: int = 24
    k: int = 20
    m_tile: int = 4
    n_tile: int = 8
    k_tile: int = 8
    rank: int = 0
    functions: tuple[str, ...] = ()
    order: str = "mnk"
    x_panel: bool = False
    w_whole: bool = False
    transposed: bool = False
    copies: int = 2
    x: str = ""  # another stage's result instead of a tensor of its own
    x_ranks: tuple[str, str] = ("", "")
    weight_dtype: str = "int8"

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        m, n, k, r = self._ranks()
        found = [
            Tensor(f"{self.name}_w", (k, n), self.weight_dtype, Role.WEIGHT),
            Tensor(f"{self.name}_y", (m, n), "int8", Role.ACTIVATION),
            Tensor(f"{self.name}_a", (k, r), "int8", Role.ADAPTER),
            Tensor(f"{self.name}_b", (r, n), "int8", Role.ADAPTER),
            Tensor(f"{self.name}_bias", (n,), "int8", Role.WEIGHT),
            Tensor(f"{self.name}_residual", (m, n), "int8", Role.ACTIVATION),
            Tensor(f"{self.name}_residual2", (m, n), "int8", Role.ACTIVATION),
        ]
        if not self.x:
            found.append(Tensor(f"{self.name}_x", (m, k), "int8", Role.ACTIVATION))
        return tuple(found)

    def _ranks(self) -> tuple[str, str, str, str]:
        m, k = self.x_ranks
        return m or f"{self.name}_m", f"{self.name}_n", k or f"{self.name}_k", f"{self.name}_r"

    def stage(self) -> tuple[Stage, tuple[Buffer, ...]]:
        """The stage and its buffers, which carry its name too."""
        m, n, k, r = self._ranks()
        loop = {
            "m": Loop(m, self.m, self.m_tile), "n": Loop(n, self.n, self.n_tile),
            "k": Loop(k, self.k, self.k_tile),
        }  # fmt: skip
        loops = tuple(loop[letter] for letter in self.order)
        outer = loops[:2]
        m_depth = [one.rank for one in loops].index(m) + 1
        panel = self.x_panel or self.rank > 0
        x_tile = ((m, self.m_tile), (k, self.k if panel else self.k_tile))
        x_port = self._port("x", m_depth if panel else 3, x_tile)
        w_tile = ((k, self.k), (n, self.n)) if self.w_whole else ((k, self.k_tile), (n, self.n_tile))
        w_port = self._port("w", 0 if self.w_whole else 3, w_tile)
        c_tile = ((m, self.m_tile), (n, self.n_tile))
        sums = self._port("sums", 2, c_tile)
        bits = 4 if self.weight_dtype == "int4" else 8
        nests = [
            self._load("x", x_port, loops[: x_port.depth], x_tile, self.x or f"{self.name}_x"),
            self._load("w", w_port, loops[: w_port.depth], w_tile, f"{self.name}_w", bits),
        ]
        product = self._product("gemm", loops, ((m, self.m_tile), (n, self.n_tile), (k, self.k_tile)),
                                (m, n, k), (x_port, w_port), sums)  # fmt: skip
        if not self.rank:
            nests.append(product)
        else:
            a = self._port("a", 0, ((k, self.k), (r, self.rank)))
            b = self._port("b", 0, ((r, self.rank), (n, self.n)))
            u = self._port("u", m_depth, ((m, self.m_tile), (r, self.rank)))
            merged = self._port("merged", 2, c_tile)
            nests += [
                self._load("a", a, (), a.tile, f"{self.name}_a"),
                self._load("b", b, (), b.tile, f"{self.name}_b"),
                self._product("down", loops[:m_depth], ((m, self.m_tile), (r, self.rank), (k, self.k)),
                              (m, r, k), (x_port, a), u),
                product,
                self._product("up", outer, ((m, self.m_tile), (n, self.n_tile), (r, self.rank)),
                              (m, n, r), (u, b, sums), merged),
            ]  # fmt: skip
            sums = merged
        nests += self._behind(outer, c_tile, sums, n)
        stage = Stage(self.name, (self.name,), tuple(nests))
        used = {port.buffer for nest in nests for port in (*nest.reads, *nest.writes)}
        return stage, tuple(Buffer(name, "buffer", 1, self.copies, 8) for name in sorted(used))

    def _behind(
        self, outer: tuple[Loop, ...], tile: tuple[tuple[str, int], ...], sums: Port, n: str
    ) -> list[Nest]:
        if not self.functions:
            return [self._store(outer, tile, sums)]
        result = self._port("result", 2, tile)
        nests, sides = [], []
        loaded = [function.split("@")[1] for function in self.functions if "@" in function]
        for name in sorted(loaded, key=lambda name: name == "bias"):
            whole = name == "bias"
            port = self._port(name, 0 if whole else 2, ((n, self.n),) if whole else tile)
            nests.append(self._load(name, port, () if whole else outer, port.tile, f"{self.name}_{name}"))
            sides.append(port)
        works = tuple(VectorWork(function.split("@")[0], ()) for function in self.functions)
        leaf = Compute(Unit.VECTOR, (self.name,), tile, functions=works)
        vector = Nest(f"{self.name}_vector", "vector", outer, leaf, (sums, *sides), (result,))
        return [*nests, vector, self._store(outer, tile, result)]

    def _port(self, name: str, depth: int, tile: tuple[tuple[str, int], ...]) -> Port:
        return Port(f"{self.name}_{name}", depth, tile)

    def _load(
        self, name: str, port: Port, loops: tuple[Loop, ...], tile: tuple[tuple[str, int], ...], tensor: str,
        bits: int = 8,
    ) -> Nest:  # fmt: skip
        leaf = Transfer(Direction.LOAD, tensor, tile, bits, 1)
        return Nest(f"{self.name}_load_{name}", "dma_in", loops, leaf, (), (port,))

    def _store(self, loops: tuple[Loop, ...], tile: tuple[tuple[str, int], ...], port: Port) -> Nest:
        leaf = Transfer(Direction.STORE, f"{self.name}_y", tile, 8, 1)
        return Nest(f"{self.name}_store", "dma_out", loops, leaf, (port,))

    def _product(
        self, name: str, loops: tuple[Loop, ...], tile: tuple[tuple[str, int], ...],
        ranks: tuple[str, str, str], reads: tuple[Port, ...], sums: Port,
    ) -> Nest:  # fmt: skip
        m, n, k = ranks
        if self.transposed:
            m, n, reads = n, m, (reads[1], reads[0], *reads[2:])
        leaf = Compute(Unit.MATRIX, (f"{self.name}_{name}",), tile, (m,), (n,), (k,))
        return Nest(f"{self.name}_{name}", "array", loops, leaf, reads, (sums,))


def program(*gemms: Gemm, name: str = "layer") -> Program:
    """A program of these stages in order."""
    built = [gemm.stage() for gemm in gemms]
    return Program(
        name,
        tuple(tensor for gemm in gemms for tensor in gemm.tensors),
        tuple(buffer for _, buffers in built for buffer in buffers),
        tuple(stage for stage, _ in built),
    )


def every_kind() -> Program:
    """Plain and low-rank products, both orders, every step behind the sums; no size divides."""
    first = Gemm("first", functions=("add@bias", "gelu", "requantize"))
    return program(
        first,
        Gemm("second", m=10, k=24, n=17, n_tile=8, rank=3, x="first_y", x_ranks=("first_m", "first_n"),
             functions=("add@bias", "add@residual", "requantize")),
        Gemm("third", order="nmk", m=9, n=16, k=13, x_panel=True, w_whole=True),
        Gemm("fourth", m=6, n=24, k=20, functions=("scale_add@residual", "add@bias", "add@residual2")),
        Gemm("fifth", m=6, n=24, k=20, functions=("silu", "mul@residual", "requantize")),
    )  # fmt: skip
