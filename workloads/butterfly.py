"""BOFT: a weight rotated by permuted block-diagonal matrices (arXiv 2311.06243)."""

from dataclasses import dataclass, replace

from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.adapter_plan import AdapterError, Change
from tilewright.workloads.builder import LayerBuilder, Linear, block_index, flat_index
from tilewright.workloads.tuners import note_recomputed


@dataclass(frozen=True, slots=True)
class Butterfly(Change):
    """y = s (W R) x with R a product of `n_factors` matrices of blocks of `block`; s and the blocks train.

    Where `block` is 0 there are `n_blocks` of them.

    The reference makes R in full at each call and multiplies x by it; hardware turns x block by block.
    """

    block: int
    n_blocks: int
    n_factors: int

    def before(self, builder: LayerBuilder, linear: Linear) -> Linear:
        if builder.run.lowering == "reference":
            return self._rotated_input(builder, linear)
        name = linear.name
        blocks, source = self._blocks(builder, linear), linear.input
        last = linear.inner[-1]
        block = self._block(builder, linear)
        if builder.size((last,)) % block:
            raise AdapterError(f"blocks of {block} do not divide the heads before {linear.module}")
        for number in range(self.n_factors):
            inner = builder.rank(f"boft_q_{name}", block)
            row = Index((IndexTerm(last), IndexTerm(last, -block, block)))
            near = Index((IndexTerm(last, block, block), IndexTerm(inner)))
            rotation = Access(
                blocks,
                (Index(offset=number), block_index(builder, linear.inner, block), row, Index.of(inner)),
            )
            read = Access(source.tensor, (*source.indices[:-1], near))
            output = builder.contraction(
                f"{name}_boft_{number}",
                f"{name}_boft_{number}_out",
                source.ranks,
                (read, rotation),
                "adapter",
            )
            source = builder.access(output)
        return replace(linear, input=source)

    def linear(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        name, path = linear.name, builder.full_path(linear.module)
        scale = builder.adapter_weight(f"{name}_boft_s", linear.output, f"{path}.boft_s")
        terms = (builder.access(output), builder.access(scale))
        return builder.pointwise(f"{name}_boft_scale", f"{name}_adapted", terms, "mul", group="adapter")

    def _block(self, builder: LayerBuilder, linear: Linear) -> int:
        """The size of a block; blocks must divide the inputs."""
        width = builder.size(linear.inner)
        if width % (self.block or self.n_blocks):
            stated = f"boft_block_size {self.block}" if self.block else f"boft_block_num {self.n_blocks}"
            path = builder.full_path(linear.module)
            raise AdapterError(f"{stated} does not divide the {width} inputs of {path}")
        return self.block or width // self.n_blocks

    def _blocks(self, builder: LayerBuilder, linear: Linear) -> str:
        """The trained blocks [factor, block, row, column]."""
        name, path, width = linear.name, builder.full_path(linear.module), builder.size(linear.inner)
        block = self._block(builder, linear)
        sizes = {"n": self.n_factors, "o": width // block, "p": block, "c": block}
        ranks = tuple(builder.rank(f"boft_{key}_{name}", size) for key, size in sizes.items())
        blocks = builder.adapter_weight(f"{name}_boft_r", ranks, f"{path}.boft_R")
        if builder.run.phase == "train" and builder.run.lowering == "reference":
            self._solve_again(builder, linear, blocks)
        return blocks

    def _rotated_input(self, builder: LayerBuilder, linear: Linear) -> Linear:
        """R x as the library runs it: R made in full by two batched products per factor, times an identity."""
        name, path, width = linear.name, builder.full_path(linear.module), builder.size(linear.inner)
        blocks = self._blocks(builder, linear)
        builder.note_buffer(f"{path}.boft_P", self.n_factors * width * width)
        n = f"boft_n_{name}"
        v, w, x, y, z = (builder.rank(f"boft_{key}_{name}", width) for key in "vwxyz")
        permute = builder.input(f"{name}_boft_p", (n, w, x), Role.ADAPTER)
        source = (Access(blocks, (Index.of(n), Index(), Index(), Index())),)
        diagonal = builder.pointwise(
            f"{name}_boft_cayley", f"{name}_boft_diagonal", source, "cayley", ranks=(n, x, z), group="adapter"
        )
        factors = (builder.access(diagonal), Access.of(permute, n, y, z))
        once = builder.contraction(
            f"{name}_boft_right", f"{name}_boft_once", (n, x, y), factors, linear.bmm_group
        )
        factors = (builder.access(permute), builder.access(once))
        rotation = builder.contraction(
            f"{name}_boft_left", f"{name}_boft_twice", (n, w, y), factors, linear.bmm_group
        )
        rotation = self._chained(builder, name, rotation)
        identity = builder.input(f"{name}_boft_identity", (y, v), Role.ACTIVATION)
        factors = (Access(rotation, (Index(), Index.of(w), Index.of(y))), builder.access(identity))
        rotation = builder.contraction(
            f"{name}_boft_whole", f"{name}_boft_r_whole", (w, v), factors, "adapter"
        )
        row = Access(rotation, (flat_index(builder, linear.inner), Index.of(v)))
        rotated = builder.contraction(
            f"{name}_boft", f"{name}_boft_x", (*linear.kept, v), (linear.input, row), "adapter"
        )
        read = Access(rotated, (*map(Index.of, linear.kept), flat_index(builder, linear.inner)))
        return replace(linear, input=read)

    def _solve_again(self, builder: LayerBuilder, linear: Linear, blocks: str) -> None:
        """The product of a block's size that the gradient of the solver behind each block takes."""
        name = linear.name
        n, o, p, c = builder.ranks_of(blocks)
        inner = builder.rank(f"boft_m_{name}", builder.size((c,)))
        factors = (Access.of(blocks, n, o, p, inner), Access.of(blocks, n, o, inner, c))
        note_recomputed(builder, f"{name}_boft_solve_again", (n, o, p, c), factors, linear.bmm_group)

    def _chained(self, builder: LayerBuilder, name: str, rotation: str) -> str:
        """The product of all factors, one after the other."""
        if self.n_factors == 1:
            return rotation
        w, x, y = (f"boft_{key}_{name}" for key in "wxy")
        one = builder.rank(f"boft_one_{name}", 1)
        output = builder.tensor(f"{name}_boft_chain", (one, w, y), Role.ACTIVATION)
        factors = (Access(rotation, (Index(), Index.of(w), Index.of(x))),
                   Access(rotation, (Index(offset=1), Index.of(x), Index.of(y))))  # fmt: skip
        return builder.add(
            f"{name}_boft_multiply", Kind.CONTRACTION, builder.access(output), factors,
            function="mul", reduce="sum", group="adapter", repeat=self.n_factors - 1,
        )  # fmt: skip
