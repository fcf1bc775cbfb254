"""Methods that make a module's weight anew from the stored one at each call: HiRA, GLoRA, Bat."""

from dataclasses import dataclass, replace

from tilewright.dataflow.operator import Access, Index, IndexTerm
from tilewright.workloads.adapter_plan import AdapterError, Change
from tilewright.workloads.builder import LayerBuilder, Linear, block_index, word


@dataclass(frozen=True, slots=True)
class HadamardProduct(Change):
    """HiRA: y = W x + (W * (B A)) x, the product entry by entry."""

    rank: int

    def linear(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        name = linear.name
        product = _low_rank(builder, linear, f"{name}_hira", self.rank, ("hira_B", "hira_A"))
        terms = (_stored(builder, linear), product)
        delta = builder.pointwise(
            f"{name}_hira_multiply",
            f"{name}_hira_delta",
            terms,
            "mul",
            ranks=(*linear.inner, *linear.output),
            group="adapter",
        )
        return _replaced(builder, linear, output, delta, "hira", "add")


@dataclass(frozen=True, slots=True)
class GeneralUpdate(Change):
    """GLoRA: y = (W + W * A + B) x and, with a bias b, b + D b + E + W c beside it.

    A, B and c are products of a low rank, D and E one number each. The reference computes W x too, and takes
    it off again.
    """

    rank: int

    def linear(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        name, rank = linear.name, self.rank
        factor, term = (
            _low_rank(builder, linear, f"{name}_glora_{key}", rank, (f"glora_{key}.Xd", f"glora_{key}.Xu"))
            for key in "AB"
        )
        stored = _stored(builder, linear)
        update = builder.pointwise(
            f"{name}_glora_update", f"{name}_glora_delta", (term, stored, factor), "mul_add", group="adapter"
        )
        made = builder.pointwise(
            f"{name}_glora_sum", f"{name}_glora_weight", (stored, builder.access(update)), "add",
            ranks=(*linear.inner, *linear.output), group="adapter",
        )  # fmt: skip
        output = _replaced(builder, linear, output, made, "glora", "second")
        return self._with_bias(builder, linear, output) if linear.bias else output

    def _with_bias(self, builder: LayerBuilder, linear: Linear, output: str) -> str:
        """What the bias becomes more: D b + E + W c; b itself is added behind the module."""
        name, path = linear.name, builder.full_path(linear.module)
        one, rank = builder.rank(f"one_{name}", 1), builder.rank(f"r_{name}_glora_C", self.rank)
        down = builder.adapter_weight(f"{name}_glora_xu", (rank, one), f"{path}.glora_C.Xu")
        up = builder.adapter_weight(f"{name}_glora_xd", (*linear.inner, rank), f"{path}.glora_C.Xd")
        column = builder.contraction(
            f"{name}_glora_column", f"{name}_glora_c", (*linear.inner, one),
            (builder.access(up), builder.access(down)), "adapter",
        )  # fmt: skip
        moved = builder.contraction(
            f"{name}_glora_move", f"{name}_glora_wc", (*linear.output, one),
            (_stored(builder, linear), builder.access(column)), "adapter",
        )  # fmt: skip
        numbers = [
            builder.adapter_weight(f"{name}_glora_{key}", (one,), f"{path}.glora_{key}.X") for key in "DE"
        ]
        terms = (builder.access(output), builder.access(moved), *map(builder.access, numbers))
        return builder.pointwise(
            f"{name}_glora_bias", f"{name}_glora_moved", terms, "add", ranks=builder.ranks_of(output),
            group="adapter",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class BlockAffine(Change):
    """Bat, a form of MiSS: each block of `block` x `block` of W becomes W + W B + B, B trained per row of blocks.

    The reference makes the weight at each call; hardware stores it.
    """

    block: int

    def before(self, builder: LayerBuilder, linear: Linear) -> Linear:
        name, path, block = linear.name, builder.full_path(linear.module), self.block
        last = linear.inner[-1]
        for rank in (last, linear.output[-1]):
            if builder.size((rank,)) % block:
                raise AdapterError(
                    f"r {block} does not divide the {builder.size((rank,))} channels of {path}"
                )
        sizes = {"n": builder.size(linear.output) // block, "q": block, "c": block}
        n, inner, column = (builder.rank(f"bat_{key}_{name}", size) for key, size in sizes.items())
        if builder.run.lowering == "hardware":
            builder.note_adapter(f"{path}.miss_block", builder.size((n, inner, column)))
            return linear
        blocks = builder.adapter_weight(f"{name}_miss_block", (n, inner, column), f"{path}.miss_block")
        weight = builder.stored_weight(linear)
        start = Index((IndexTerm(last, block, block), IndexTerm(inner)))
        within = Index((IndexTerm(last), IndexTerm(last, -block, block)))
        outer = [Index.of(rank) for rank in (*linear.inner[:-1], *linear.output)]
        read = Access(weight, (*outer[: len(linear.inner) - 1], start, *outer[len(linear.inner) - 1 :]))
        chosen = Access(blocks, (block_index(builder, linear.output, block), Index.of(inner), within))
        ranks = (*linear.inner, *linear.output)
        turned = builder.contraction(
            f"{name}_bat_turn", f"{name}_bat_turned", ranks, (read, chosen), linear.bmm_group
        )
        row = Index((IndexTerm(linear.output[-1]), IndexTerm(linear.output[-1], -block, block)))
        added = Access(blocks, (block_index(builder, linear.output, block), row, within))
        terms = (builder.access(weight), builder.access(turned), added)
        made = builder.pointwise(f"{name}_bat_sum", f"{name}_bat_weight", terms, "add", group="adapter")
        return replace(linear, made_weight=builder.access(made))


def _stored(builder: LayerBuilder, linear: Linear) -> Access:
    """The weight, by inner and output ranks whichever way round it is kept."""
    return builder.access(word(f"{linear.module}.weight"))


def _low_rank(
    builder: LayerBuilder, linear: Linear, name: str, size: int, parameters: tuple[str, str]
) -> Access:
    """The product of a trained (output, rank) and a trained (rank, inner) factor."""
    path, rank = builder.full_path(linear.module), builder.rank(f"r_{name}", size)
    up = builder.adapter_weight(f"{name}_up", (rank, *linear.output), f"{path}.{parameters[0]}")
    down = builder.adapter_weight(f"{name}_down", (*linear.inner, rank), f"{path}.{parameters[1]}")
    factors = (builder.access(down), builder.access(up))
    ranks = (*linear.inner, *linear.output)
    return builder.access(builder.contraction(f"{name}_product", f"{name}_made", ranks, factors, "adapter"))


def _replaced(
    builder: LayerBuilder, linear: Linear, output: str, weight: str, method: str, function: str
) -> str:
    """The product with a dense weight[inner, output], joined with `output` by the function."""
    name = linear.name
    factors = (linear.input, builder.access(weight))
    ranks = (*linear.kept, *linear.output)
    product = builder.contraction(f"{name}_{method}", f"{name}_{method}_out", ranks, factors, "adapter")
    terms = (builder.access(output), builder.access(product))
    return builder.pointwise(f"{name}_{method}_join", f"{name}_adapted", terms, function, group="adapter")
