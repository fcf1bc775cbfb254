"""From a stage of a Program to a `GemmStage`, or to the reason why it has none."""

from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from tilewright.dataflow.program import (
    Compute,
    Direction,
    Loop,
    Nest,
    Port,
    Program,
    Stage,
    Transfer,
    Unit,
)
from tilewright.dataflow.tensor import Role as TensorRole
from tilewright.hls_templates.layout import SIDES
from tilewright.hls_templates.quantise import TABLE_FUNCTIONS
from tilewright.hls_templates.stage import (
    Axis,
    Dim,
    GemmStage,
    MatrixLeaf,
    NotCoveredError,
    Operand,
    PostStep,
    Role,
    Walk,
)

#: Functions that only rename or rescale: the requantisation at the end of a stage does them.
RESCALING_FUNCTIONS = ("identity", "scale", "requantize")
#: Functions of the result and a second matrix.
_SIDE_FUNCTIONS: dict[str, Literal["residual", "scaled", "product"]] = {
    "add": "residual", "scale_add": "scaled", "mul": "product",
}  # fmt: skip

#: (rows, columns) of x, w, A, B, and of y and residuals.
_MATRICES: tuple[tuple[Dim, Dim], ...] = (("m", "k"), ("k", "n"), ("k", "r"), ("r", "n"), ("m", "n"))
_PARAMETERS = (TensorRole.WEIGHT, TensorRole.ADAPTER)


@dataclass(frozen=True, slots=True)
class _Nests:
    """The nests of a stage by what they do."""

    loads: tuple[Nest, ...]
    gemm: Nest
    down: Nest | None
    up: Nest | None
    vectors: tuple[Nest, ...]
    store: Nest

    @property
    def matrices(self) -> tuple[tuple[Role, Nest], ...]:
        if self.down is None or self.up is None:
            return (("gemm", self.gemm),)
        return (("down", self.down), ("gemm", self.gemm), ("up", self.up))


def analyse(stage: Stage, program: Program, like: GemmStage | None = None) -> GemmStage:
    """The stage as the generator prints it, with the axes named as in `like`, a stage of the same nests.

    Raises NotCoveredError with the reason for a stage that is no GEMM or LoRA GEMM.
    """
    return _Analysis(stage, program, like).result()


def is_matrix_stage(stage: Stage) -> bool:
    """Whether some nest of the stage runs on the matrix unit."""
    return any(isinstance(nest.leaf, Compute) and nest.leaf.unit is Unit.MATRIX for nest in stage.nests)


class _Analysis:
    def __init__(self, stage: Stage, program: Program, like: GemmStage | None) -> None:
        stage, self._transposed = _upright(stage, program)
        self._stage, self._program = stage, program
        self._stated_names = dict(like.axis_names) if like else {}
        self._names: dict[tuple[str, str], str] = {}
        self._nests = _sort(stage)
        self._dim_of, self._extent_of = _ranks(stage, self._nests)
        self._axes: dict[str, Axis] = {}
        self._writer = {port.buffer: nest for nest in stage.nests for port in nest.writes}

    def result(self) -> GemmStage:
        self._check_matrix_ports()
        self._walk(self._nests.gemm, 0)  # its axes are m, n and k; others get a number
        leaves = tuple(self._leaf(role, nest) for role, nest in self._nests.matrices)
        loads = {nest.name: self._load(nest, index) for index, nest in enumerate(self._nests.loads)}
        operands = self._name_operands(loads)
        named = {operand.walk.nest: operand.name for operand in operands}
        leaves = tuple(self._with_operands(leaf, named) for leaf in leaves)
        sums = self._sums_port()
        post = self._post(sums.buffer)
        dims: tuple[Dim, ...] = ("m", "n", "k", "r")
        return GemmStage(
            name=self._stage.name,
            transposed=self._transposed,
            axes=tuple(self._axes.values()),
            extents=tuple((dim, self._size(dim)) for dim in dims),
            operands=operands,
            leaves=leaves,
            sums_block=self._block(sums, "m", "n"),
            sums_copies=self._program.buffer_by_name[sums.buffer].copies,
            u_block=self._u_block(),
            post=post,
            post_nests=tuple(nest.name for nest in self._nests.vectors),
            post_steps=self._steps(operands),
            bias_depth=self._bias_depth(operands, post),
            output=self._output(),
            axis_names=tuple(self._names.items()),
            nests=tuple((nest.name, nest.n_leaves) for nest in self._stage.nests),
        )

    # ---- loops

    def _walk(self, nest: Nest, depth: int) -> Walk:
        """The nest's loops as axes; loops that run once beside another of their dimension vanish."""
        kept = self._kept(nest)
        axes = tuple(self._axis(nest, loop) for loop in kept)
        return Walk(nest.name, axes, sum(loop in kept for loop in nest.loops[:depth]))

    def _kept(self, nest: Nest) -> list[Loop]:
        kept: list[Loop] = []
        for loop in nest.loops:
            if loop.limit:
                raise NotCoveredError(f"loop {loop.rank!r} of nest {nest.name!r} is triangular")
            if loop.rank not in self._dim_of:
                raise NotCoveredError(f"nest {nest.name!r} loops over {loop.rank!r}, no rank of its matrices")
            dim = self._dim_of[loop.rank]
            others = [o for o in nest.loops if o is not loop and self._dim_of.get(o.rank) == dim]
            is_spare = loop.trips == 1 and (
                any(o.trips > 1 for o in others) or nest.loops.index(loop) != _last(nest.loops, others, loop)
            )
            if not is_spare:
                kept.append(loop)
        return kept

    def _axis(self, nest: Nest, loop: Loop) -> str:
        dim = self._dim_of[loop.rank]
        ranks = [rank for rank in self._extent_of if self._dim_of[rank] == dim]
        inner = prod(self._extent_of[rank] for rank in ranks[ranks.index(loop.rank) + 1 :])
        looped = {o.rank: o for o in nest.loops if o.trips > 1}
        later = [rank for rank in ranks[ranks.index(loop.rank) + 1 :] if rank in looped]
        sizes = not later
        if loop.trips == 1:
            values = (1, 0, self._size(dim), self._size(dim))
        elif sizes:
            self._check_contiguous(nest, dim, loop.rank)
            values = (loop.trips, loop.tile * inner, loop.tile * inner, loop.remainder * inner)
        elif loop.tile != 1:
            raise NotCoveredError(f"the tile of {dim} in nest {nest.name!r} is not contiguous")
        else:
            values = (loop.trips, inner, 0, 0)
        axis = Axis(self._axis_name(nest, loop.rank, dim, values), dim, *values, sizes)
        self._axes[axis.name] = axis
        self._names[nest.name, loop.rank] = axis.name
        return axis.name

    def _axis_name(self, nest: Nest, rank: str, dim: Dim, values: tuple[int, int, int, int]) -> str:
        """The name of an axis with these values, a new one if there is none yet."""
        if name := self._stated_names.get((nest.name, rank)):
            return name
        for axis in self._axes.values():
            ranks = {r for (_, r), known in self._names.items() if known == axis.name}
            if (axis.dim, (axis.trips, axis.step, axis.size, axis.last)) == (dim, values) and ranks == {rank}:
                return axis.name
        return f"{dim}{sum(axis.dim == dim for axis in self._axes.values()) or ''}"

    def _check_contiguous(self, nest: Nest, dim: Dim, rank: str) -> None:
        tile = {loop.rank: loop.tile for loop in nest.loops}
        for outer in (r for r in self._extent_of if self._dim_of[r] == dim):
            if outer == rank:
                return
            if tile.get(outer, self._extent_of[outer]) != 1:
                raise NotCoveredError(f"the tile of {dim} in nest {nest.name!r} is not contiguous")

    def _size(self, dim: str) -> int:
        return prod(self._extent_of[rank] for rank in self._extent_of if self._dim_of[rank] == dim)

    def _block(self, port: Port, *dims: Dim) -> tuple[int, int]:
        """Elements of a port's full tile along two dimensions."""
        tile = dict(port.tile)
        for rank in tile:
            if rank not in self._dim_of:
                raise NotCoveredError(f"port {port.buffer!r} carries {rank!r}, no rank of the matrices")
        rows, cols = (prod(size for rank, size in tile.items() if self._dim_of[rank] == dim) for dim in dims)
        return rows, cols

    # ---- operands

    def _load(self, nest: Nest, index: int) -> Operand:
        assert isinstance(nest.leaf, Transfer)
        if nest.leaf.random:
            raise NotCoveredError(f"nest {nest.name!r} loads rows by index")
        port = _only(nest.writes, f"writes of nest {nest.name!r}")
        ranks = [rank for rank, _ in nest.leaf.tile]
        dims = list(dict.fromkeys(self._dim_of.get(rank) for rank in ranks))
        if None in dims or len(dims) > 2:
            raise NotCoveredError(f"tensor {nest.leaf.tensor!r} is no matrix of this product")
        row, col = self._orient(dims)
        rows, cols = self._block(port, row or col, col)
        return Operand(
            name=f"load{index}",
            tensor=nest.leaf.tensor,
            bits=nest.leaf.element_bits,
            row_dim=row,
            col_dim=col,
            rows=self._size(row) if row else 1,
            cols=self._size(col),
            block_rows=rows if row else 1,
            block_cols=cols,
            copies=self._program.buffer_by_name[port.buffer].copies,
            walk=self._walk(nest, port.depth),
        )

    @staticmethod
    def _orient(dims: "list[Dim | None]") -> tuple[Dim | None, Dim]:
        """(row, column) dimension: x is (m, k), w (k, n), A (k, r), B (r, n), y and residuals (m, n)."""
        found = {dim for dim in dims if dim}
        if len(found) == 1:
            return None, found.pop()
        for row, col in _MATRICES:
            if found == {row, col}:
                return row, col
        raise NotCoveredError(f"a tensor over {sorted(found)} is no matrix of this product")

    def _name_operands(self, loads: dict[str, Operand]) -> tuple[Operand, ...]:
        """x, w, a, b by the port that reads them; bias and residual by their dimensions."""
        names: dict[str, str] = {}
        for role, nest in self._nests.matrices:
            first, second = (self._writer[port.buffer].name for port in nest.reads[:2])
            if role == "down":
                names |= {first: "x_down", second: "a"}
            elif role == "gemm":
                names |= {first: "x", second: "w"}
            else:
                names[second] = "b"
        named: list[Operand] = []
        sides = list(SIDES)
        for load, operand in loads.items():
            name = names.get(load)
            if name is None:
                dims = (operand.row_dim, operand.col_dim)
                if dims not in ((None, "n"), ("m", "n")) or (dims[0] and not sides):
                    raise NotCoveredError(f"nothing here uses tensor {operand.tensor!r}")
                name = sides.pop(0) if dims[0] else "bias"
            named.append(replace(operand, name=name))
        if len({operand.name for operand in named}) != len(named):
            raise NotCoveredError("two loads serve the same operand")
        return tuple(named)

    # ---- matrix leaves

    def _check_matrix_ports(self) -> None:
        for role, nest in self._nests.matrices:
            for port in nest.reads[:2]:
                writer = self._writer.get(port.buffer)
                if writer is None:
                    raise NotCoveredError(f"buffer {port.buffer!r} is filled by another stage")
                is_u = role == "up" and port is nest.reads[0]
                if not is_u and writer not in self._nests.loads:
                    raise NotCoveredError(f"nest {nest.name!r} reads what nest {writer.name!r} computes")
            if nest.slot != self._nests.gemm.slot:
                raise NotCoveredError("the low-rank path runs on another matrix unit")

    def _leaf(self, role: Role, nest: Nest) -> MatrixLeaf:
        dims: tuple[Dim, Dim, Dim] = {
            "down": ("m", "r", "k"), "gemm": ("m", "n", "k"), "up": ("m", "n", "r"),
        }[role]  # type: ignore[assignment]  # fmt: skip
        a, b, c = nest.reads[0], nest.reads[1], _only(nest.writes, f"writes of nest {nest.name!r}")
        walk = self._walk(nest, 0)
        inner = {self._axis_named(name).dim for name in walk.axes[: self._depth(nest, c.depth)]}
        if dims[2] in inner:
            raise NotCoveredError(f"nest {nest.name!r} hands on sums before they are complete")
        return MatrixLeaf(
            role, nest.name, walk.axes, dims, self._writer[a.buffer].name, self._writer[b.buffer].name,
            self._depth(nest, a.depth), self._depth(nest, b.depth), self._depth(nest, c.depth),
        )  # fmt: skip

    def _axis_named(self, name: str) -> Axis:
        return self._axes[name]

    def _depth(self, nest: Nest, depth: int) -> int:
        return self._walk(nest, depth).depth

    def _with_operands(self, leaf: MatrixLeaf, named: dict[str, str]) -> MatrixLeaf:
        a = "u" if leaf.role == "up" else named[leaf.a]
        return MatrixLeaf(
            leaf.role, leaf.nest, leaf.axes, leaf.dims, a, named[leaf.b],
            leaf.a_depth, leaf.b_depth, leaf.c_depth,
        )  # fmt: skip

    def _sums_port(self) -> Port:
        """The port that the sums leave the array by."""
        last = self._nests.up or self._nests.gemm
        return _only(last.writes, f"writes of nest {last.name!r}")

    def _u_block(self) -> tuple[int, int]:
        if self._nests.down is None:
            return (0, 0)
        return self._block(self._nests.down.writes[0], "m", "r")

    # ---- behind the array

    def _post(self, sums: str) -> Walk:
        """Where the sums are requantised: in the vector nests, else as they leave for the store."""
        vectors = self._nests.vectors
        reader = vectors[0] if vectors else self._nests.store
        walk = self._walk(reader, _port(reader.reads, sums).depth)
        for nest in vectors[1:]:
            if self._walk(nest, 0).axes != walk.axes:
                raise NotCoveredError("the vector nests of the stage loop differently")
        store = self._walk(self._nests.store, 0)
        if store.axes != walk.axes:
            raise NotCoveredError("the store loops differently from what fills it")
        return walk

    def _bias_depth(self, operands: tuple[Operand, ...], post: Walk) -> int:
        """How many loops of the post stage select the tile of the bias; also checks the sides' loops."""
        for operand in operands:
            if operand.name in SIDES and operand.walk.axes != post.axes:
                raise NotCoveredError(f"{operand.tensor!r} is loaded in another order than the sums leave in")
        for operand in (o for o in operands if o.name == "bias"):
            for nest in self._nests.vectors:
                for port in nest.reads:
                    if self._writer.get(port.buffer, nest).name == operand.walk.nest:
                        return self._depth(nest, port.depth)
        return 0

    def _steps(self, operands: tuple[Operand, ...]) -> tuple[PostStep, ...]:
        """The maps behind the sums in order, but the bias first: additions may change places."""
        sides = [operand.name for operand in operands if operand.name in SIDES]
        has_bias = any(operand.name == "bias" for operand in operands)
        works = [
            work
            for nest in self._nests.vectors
            if isinstance(nest.leaf, Compute)
            for work in nest.leaf.functions
            if work.function not in RESCALING_FUNCTIONS
        ]
        additions = [index for index, work in enumerate(works) if work.function == "add"]
        steps: list[PostStep] = []
        for index, work in enumerate(works):
            if has_bias and additions[:1] == [index]:
                if any(step.kind not in ("residual", "scaled") for step in steps):
                    raise NotCoveredError("a bias is added behind another function")
                steps.insert(0, PostStep("bias"))
            elif work.function in TABLE_FUNCTIONS:
                steps.append(PostStep("table", work.function))
            elif work.function not in _SIDE_FUNCTIONS:
                raise NotCoveredError(f"function {work.function!r} has no integer form here")
            elif not sides:
                raise NotCoveredError(f"function {work.function!r} uses a tensor that no nest loads")
            else:
                steps.append(PostStep(_SIDE_FUNCTIONS[work.function], side=sides.pop(0)))
        if sides or (has_bias and not additions):
            raise NotCoveredError(f"nothing here uses the loaded {(*sides, 'bias')[0]}")
        for kind in ("table", "scaled", "product"):
            if sum(step.kind == kind for step in steps) > 1:
                raise NotCoveredError(f"two steps of the kind {kind!r} in one stage")
        if {"scaled", "product"} <= {step.kind for step in steps}:
            raise NotCoveredError("a scaled addition and a product in one stage")
        return tuple(steps)

    def _output(self) -> Operand:
        nest = self._nests.store
        assert isinstance(nest.leaf, Transfer)
        port = _only(nest.reads, f"reads of nest {nest.name!r}")
        rows, cols = self._block(port, "m", "n")
        return Operand(
            name="y",
            tensor=nest.leaf.tensor,
            bits=nest.leaf.element_bits,
            row_dim="m",
            col_dim="n",
            rows=self._size("m"),
            cols=self._size("n"),
            block_rows=rows,
            block_cols=cols,
            copies=self._program.buffer_by_name[port.buffer].copies,
            walk=self._walk(nest, port.depth),
        )


def _upright(stage: Stage, program: Program) -> tuple[Stage, bool]:
    """The stage with its weights as second operands, and whether they were first ones (n on the rows)."""
    roles = {
        port.buffer: program.tensor_by_name[nest.leaf.tensor].role
        for nest in stage.nests
        if isinstance(nest.leaf, Transfer)
        for port in nest.writes
    }
    nests, turned = [], []
    for nest in stage.nests:
        if isinstance(nest.leaf, Compute) and nest.leaf.unit is Unit.MATRIX and len(nest.reads) >= 2:
            first, second, *rest = nest.reads
            is_turned = roles.get(first.buffer) in _PARAMETERS and roles.get(second.buffer) not in _PARAMETERS
            turned.append(is_turned)
            if is_turned:
                leaf = replace(nest.leaf, m_ranks=nest.leaf.n_ranks, n_ranks=nest.leaf.m_ranks)
                nest = replace(nest, leaf=leaf, reads=(second, first, *rest))
        nests.append(nest)
    if any(turned) and not all(turned):
        raise NotCoveredError("some products of the stage are transposed and some are not")
    return replace(stage, nests=tuple(nests)), any(turned)


def _sort(stage: Stage) -> _Nests:
    loads: list[Nest] = []
    stores: list[Nest] = []
    matrices: list[Nest] = []
    vectors: list[Nest] = []
    for nest in stage.nests:
        if isinstance(nest.leaf, Transfer):
            (loads if nest.leaf.direction is Direction.LOAD else stores).append(nest)
        else:
            (matrices if nest.leaf.unit is Unit.MATRIX else vectors).append(nest)
    if not matrices:
        raise NotCoveredError("no nest runs on the matrix unit")
    if len(stores) != 1:
        raise NotCoveredError(f"{len(stores)} nests store results, 1 is expected")
    gemm, down, up = _low_rank(matrices)
    return _Nests(tuple(loads), gemm, down, up, tuple(vectors), stores[0])


def _low_rank(matrices: list[Nest]) -> tuple[Nest, Nest | None, Nest | None]:
    """(gemm, down, up): `up` reads what `down` writes as its first operand."""
    if len(matrices) == 1:
        return matrices[0], None, None
    if len(matrices) == 3:
        for up in matrices:
            for down in matrices:
                if down is not up and {p.buffer for p in down.writes} & {p.buffer for p in up.reads[:1]}:
                    gemm = next(nest for nest in matrices if nest not in (up, down))
                    return gemm, down, up
    raise NotCoveredError(f"its {len(matrices)} products are no product with a low-rank path")


def _ranks(stage: Stage, nests: _Nests) -> tuple[dict[str, Dim], dict[str, int]]:
    """The dimension and the extent of every rank, in the order of the leaves' rank groups."""
    leaf = nests.gemm.leaf
    assert isinstance(leaf, Compute)
    groups: list[tuple[Dim, tuple[str, ...]]] = [
        ("m", leaf.m_ranks), ("n", leaf.n_ranks), ("k", leaf.k_ranks),
    ]  # fmt: skip
    tiles = dict(leaf.tile)
    if nests.down and isinstance(nests.down.leaf, Compute):
        groups.append(("r", nests.down.leaf.n_ranks))
        tiles = dict(nests.down.leaf.tile) | tiles
    looped = {loop.rank: loop.extent for nest in stage.nests for loop in nest.loops}
    dim_of: dict[str, Dim] = {}
    extent_of: dict[str, int] = {}
    for dim, ranks in groups:
        for rank in ranks:
            if rank in dim_of:
                raise NotCoveredError(f"rank {rank!r} belongs to two dimensions")
            dim_of[rank] = dim
            extent_of[rank] = looped.get(rank, tiles.get(rank, 1))
    for rank in leaf.batch_ranks:
        if looped.get(rank, tiles.get(rank, 1)) != 1:
            raise NotCoveredError(f"the product is repeated over {rank!r}")
        dim_of[rank], extent_of[rank] = "m", 1
    if prod(extent_of.values()) <= 0:
        raise NotCoveredError("a dimension is empty")
    return dim_of, extent_of


def _last(loops: tuple[Loop, ...], others: list[Loop], loop: Loop) -> int:
    """Position of the last of `loop` and `others` among `loops`."""
    return max(position for position, o in enumerate(loops) if o is loop or o in others)


def _only(ports: tuple[Port, ...], what: str) -> Port:
    if len(ports) != 1:
        raise NotCoveredError(f"{len(ports)} {what}, 1 is expected")
    return ports[0]


def _port(ports: tuple[Port, ...], buffer: str) -> Port:
    for port in ports:
        if port.buffer == buffer:
            return port
    raise NotCoveredError(f"the sums do not pass through buffer {buffer!r}")
