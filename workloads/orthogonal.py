"""OFT: the input of a module rotated by blocks (arXiv 2306.07280)."""

from dataclasses import dataclass, replace

from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.adapter_plan import AdapterError, Change
from tilewright.workloads.builder import LayerBuilder, Linear, block_index, flat_index
from tilewright.workloads.tuners import note_recomputed


@dataclass(frozen=True, slots=True)
class BlockRotation(Change):
    """y = W (R x), R of orthogonal blocks: of `block` inputs each, or `n_blocks` of them where that is 0.

    A block is made from the numbers above its diagonal at each call in the reference, by `terms` terms of a
    Neumann series or, where that is 0, by solving a system; hardware stores it. Blocks that are `shared`
    are one.
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
        rotation = self._blocks(builder, linear, width // block, block)
        inner = builder.rank(f"oft_q_{name}", block)
        if builder.size((last,)) % block:
            return _across_heads(builder, linear, rotation, (width // block, block), inner)
        row = Index((IndexTerm(last), IndexTerm(last, -block, block)))
        near = Index((IndexTerm(last, block, block), IndexTerm(inner)))
        number = Index() if self.shared else block_index(builder, linear.inner, block)
        chosen = Access(rotation, (number, row, Index.of(inner)))
        source = linear.input
        read = Access(source.tensor, (*source.indices[:-1], near))
        output = builder.contraction(
            f"{name}_oft", f"{name}_oft_out", source.ranks, (read, chosen), linear.bmm_group
        )
        return replace(linear, input=builder.access(output))

    def _blocks(self, builder: LayerBuilder, linear: Linear, n_blocks: int, block: int) -> str:
        """The rotations [block, row, column], one alone where they are shared."""
        name, path = linear.name, builder.full_path(linear.module)
        n_own = 1 if self.shared else n_blocks
        n_trained = n_own * block * (block - 1) // 2
        sizes = {"n": n_own, "x": block, "y": block, "z": block}
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
        if not self.terms:
            if builder.run.phase == "train":  # the gradient of a solution takes a product of its own
                factors = (Access.of(skew, n, x, y), Access.of(skew, n, y, z))
                note_recomputed(builder, f"{name}_oft_solve_again", (n, x, z), factors, linear.bmm_group)
            solved = builder.tensor(f"{name}_oft_blocks", (n, x, z), Role.ACTIVATION)
            return builder.add(
                f"{name}_oft_solve", Kind.TRANSFORM, builder.access(solved),
                (Access(skew, (Index.of(n), Index(), Index())),), function="cayley", group="adapter",
            )  # fmt: skip
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


def _across_heads(
    builder: LayerBuilder, linear: Linear, rotation: str, shape: tuple[int, int], column: str
) -> Linear:
    """The module behind blocks (number, width) that do not end where heads do: channels are copied in a row."""
    name, flat = linear.name, builder.rank(f"oft_w_{linear.name}", shape[0] * shape[1])
    number, row = (builder.rank(f"oft_{key}_{name}", size) for key, size in zip("bv", shape, strict=True))
    kept = [i for i in linear.input.indices if not {t.rank for t in i.terms} & set(linear.inner)]
    plain = tuple(map(Index.of, linear.kept))
    if len(kept) != len(plain):
        raise AdapterError(f"blocks of {shape[1]} do not divide the heads before {linear.module}")
    lined = builder.tensor(f"{name}_oft_lined", (*linear.kept, flat), Role.ACTIVATION)
    place = flat_index(builder, linear.inner)
    copied = Access(lined, (*plain, place))
    builder.add(f"{name}_oft_line", Kind.SCATTER, copied, (linear.input,), group="layout")
    turned = builder.tensor(f"{name}_oft_out", (*linear.kept, flat), Role.ACTIVATION)

    def at(inside: str) -> Index:
        return Index((IndexTerm(number, shape[1]), IndexTerm(inside)))

    own = Index.of(number) if builder.size(builder.ranks_of(rotation)[:1]) > 1 else Index()
    factors = (
        Access(lined, (*plain, at(column))), Access(rotation, (own, Index.of(row), Index.of(column))),
    )  # fmt: skip
    builder.add(
        f"{name}_oft", Kind.CONTRACTION, Access(turned, (*plain, at(row))), factors, function="mul",
        reduce="sum", group=linear.bmm_group,
    )  # fmt: skip
    return replace(linear, input=Access(turned, (*plain, place)))
