"""OFT: the input of a module rotated by blocks (arXiv 2306.07280)."""

from dataclasses import dataclass, replace

from tilewright.dataflow.operator import Access, Index, IndexTerm
from tilewright.dataflow.tensor import Role
from tilewright.workloads.adapter_plan import AdapterError, Change
from tilewright.workloads.builder import LayerBuilder, Linear, block_index


@dataclass(frozen=True, slots=True)
class BlockRotation(Change):
    """y = W (R x), R of orthogonal blocks: of `block` inputs each, or `n_blocks` of them where that is 0.

    A block is made from the numbers above its diagonal by `terms` terms of a Neumann series, at each call in
    the reference; hardware stores it. Blocks that are `shared` are one.
    """

    block: int
    n_blocks: int
    terms: int
    shared: bool

    def before(self, builder: LayerBuilder, linear: Linear) -> Linear:
        name, width, last = linear.name, builder.size(linear.inner), linear.inner[-1]
        if width % (self.block or self.n_blocks):
            stated = f"oft_block_size {self.block}" if self.block else f"r {self.n_blocks}"
            raise AdapterError(
                f"{stated} does not divide the {width} inputs of {builder.full_path(linear.module)}"
            )
        block = self.block or width // self.n_blocks
        if builder.size((last,)) % block:
            raise AdapterError(f"blocks of {block} do not divide the heads before {linear.module}")
        rotation = self._blocks(builder, linear, width // block, block)
        inner = builder.rank(f"oft_q_{name}", block)
        row = Index((IndexTerm(last), IndexTerm(last, -block, block)))
        near = Index((IndexTerm(last, block, block), IndexTerm(inner)))
        chosen = Access(rotation, (block_index(builder, linear.inner, block), row, Index.of(inner)))
        source = linear.input
        read = Access(source.tensor, (*source.indices[:-1], near))
        output = builder.contraction(
            f"{name}_oft", f"{name}_oft_out", source.ranks, (read, chosen), linear.bmm_group
        )
        return replace(linear, input=builder.access(output))

    def _blocks(self, builder: LayerBuilder, linear: Linear, n_blocks: int, block: int) -> str:
        """The rotations [block, row, column]."""
        name, path = linear.name, builder.full_path(linear.module)
        n_trained = (1 if self.shared else n_blocks) * block * (block - 1) // 2
        sizes = {"n": n_blocks, "x": block, "y": block, "z": block}
        n, x, y, z = (builder.rank(f"oft_{key}_{name}", size) for key, size in sizes.items())
        if builder.run.lowering == "hardware":
            builder.note_adapter(f"{path}.oft_R", n_trained)
            return builder.input(f"{name}_oft_blocks", (n, x, z), Role.ADAPTER)
        upper = builder.rank(f"oft_u_{name}", n_trained)
        numbers = builder.adapter_weight(f"{name}_oft_r", (upper,), f"{path}.oft_R")
        source = (Access(numbers, (Index(),)),)
        skew = builder.pointwise(
            f"{name}_oft_skew", f"{name}_oft_q", source, "skew", ranks=(n, x, z), group="adapter"
        )
        powers = [builder.access(skew)]
        for number in range(2, self.terms):  # terms 0 and 1 need no product
            factors = (Access.of(powers[-1].tensor, n, x, y), Access.of(skew, n, y, z))
            power = builder.contraction(
                f"{name}_oft_power{number}", f"{name}_oft_q{number}", (n, x, z), factors, linear.bmm_group
            )
            powers.append(builder.access(power))
        return builder.pointwise(
            f"{name}_oft_sum", f"{name}_oft_blocks", tuple(powers), "add", group="adapter"
        )
