"""Mixtures of experts: a router, the chosen experts of each token, their weighted sum."""

from dataclasses import dataclass
from typing import Literal

from tilewright.dataflow.operator import Access, Index, Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.builder import LayerBuilder, Linear, word
from tilewright.workloads.feed_forward import FeedForward, feed_forward


@dataclass(frozen=True, slots=True)
class Experts:
    """`top_k` of `n_experts` gated networks per token; no capacity, no token is dropped.

    `router` scores the experts with `scoring`. `shared` runs on every token beside them, times the sigmoid
    of the linear module `shared_gate` if there is one. With `bias` the router and each expert add one.
    Where `all_run` the reference computes every expert for each token.
    """

    path: str
    n_experts: int
    top_k: int
    inner_width: int
    function: str
    router: str = "gate"
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    shared: FeedForward | None = None
    shared_gate: str = ""
    bias: bool = False
    all_run: bool = False


def mix_experts(builder: LayerBuilder, x: str, spec: Experts) -> str:
    """Add the mixture on x[b, m, d]; returns y[b, m, d].

    Ranks: `x` experts, `k` chosen ones, `q` gate and up, `i` inner. The weights of a chosen expert are
    read at a constant index, since the data selects them.
    """
    n_run = spec.n_experts if spec.all_run and builder.run.lowering == "reference" else spec.top_k
    sizes = {"x": spec.n_experts, "k": n_run, "q": 2, "i": spec.inner_width}
    for rank, size in sizes.items():
        builder.rank(rank, size)
    chosen, shares = _route(builder, x, spec)
    inner = _expert_product(builder, "gate_up", spec, Access.of(x, "b", "m", "d"), chosen, ("q", "i"), ("d",))
    gate, up = (Access(inner, (*map(Index.of, "bmk"), Index(offset=half), Index.of("i"))) for half in (0, 1))
    ranks = ("b", "m", "k", "i")
    opened = builder.pointwise(
        "expert_activation", "expert_opened", (gate,), spec.function, ranks=ranks, group="expert"
    )
    factors = (builder.access(opened), up)
    gated = builder.pointwise("expert_gate", "expert_gated", factors, "mul", ranks=ranks, group="expert")
    outputs = _expert_product(builder, "down", spec, builder.access(gated), chosen, ("d",), ("i",))
    y = _combine(builder, outputs, shares)
    if spec.shared is None:
        return y
    builder.rank("i_shared", spec.shared.inner_width)
    beside = feed_forward(builder, x, spec.shared, "i_shared")
    if spec.shared_gate:
        beside = _gated(builder, x, beside, f"{spec.path}.{spec.shared_gate}")
    terms = (builder.access(y), builder.access(beside))
    return builder.pointwise("shared_add", "experts_and_shared", terms, "add", group="expert")


def _gated(builder: LayerBuilder, x: str, y: str, module: str) -> str:
    """y times the sigmoid of one number per token."""
    one = builder.rank("one", 1)
    score = builder.linear(Linear(module, builder.access(x), (one,), ("d",)))
    source = (builder.access(score),)
    share = builder.pointwise("shared_sigmoid", "shared_share", source, "sigmoid", group="expert")
    factors = (builder.access(y), Access(share, (Index.of("b"), Index.of("m"), Index())))
    return builder.pointwise("shared_scale", "shared_scaled", factors, "mul", group="expert")


def _route(builder: LayerBuilder, x: str, spec: Experts) -> tuple[str, str]:
    """The chosen experts and their shares, each [b, m, k]."""
    module = f"{spec.path}.{spec.router}"
    weight = builder.weight(module, "weight", ("d", "x"))
    inputs = (builder.access(x), builder.access(weight))
    logits = builder.contraction(word(module), "router_logits", ("b", "m", "x"), inputs, "linear")
    if spec.bias:
        terms = (builder.access(logits), builder.access(builder.weight(module, "bias", ("x",))))
        logits = builder.pointwise(f"{word(module)}_bias", "router_biased", terms, "add")
    source = (builder.access(logits),)
    scores = builder.pointwise("router_scores", "expert_scores", source, spec.scoring, group="expert")
    ranks = ("b", "m", "k")
    chosen = builder.tensor("chosen_experts", ranks, Role.INDEX)
    builder.add(
        "choose_experts", Kind.TOPK, builder.access(chosen), (builder.access(scores),),
        reduce="top_k", group="expert",
    )  # fmt: skip
    picked = Access(scores, (Index.of("b"), Index.of("m"), Index()))
    shares = builder.gather(
        "expert_shares", "shares_of_chosen", ranks, (builder.access(chosen), picked), "expert"
    )
    return chosen, shares


def _expert_product(
    builder: LayerBuilder,
    name: str,
    spec: Experts,
    x: Access,
    chosen: str,
    output: tuple[str, ...],
    inner: tuple[str, ...],
) -> str:
    """y[b, m, k, output] = x[.., inner] * W[chosen expert, inner, output]."""
    module, ranks = f"{spec.path}.experts", ("x", *inner, *output)
    builder.parameter(module, f"{name}_proj", builder.size(ranks))
    weight = builder.weight_input(f"experts_{name}", ranks, module, f"{name}_proj")
    selected = Access(weight, (Index(), *map(Index.of, (*inner, *output))))
    inputs = (x, selected, builder.access(chosen))
    product = builder.contraction(
        f"expert_{name}", f"expert_{name}_out", ("b", "m", "k", *output), inputs, "expert"
    )
    if not spec.bias:
        return product
    builder.parameter(module, f"{name}_proj_bias", builder.size(("x", *output)))
    rows = builder.weight_input(f"experts_{name}_bias", ("x", *output), module, f"{name}_proj_bias")
    terms = (builder.access(product), Access(rows, (Index(), *map(Index.of, output))), builder.access(chosen))
    return builder.pointwise(
        f"expert_{name}_bias", f"expert_{name}_biased", terms, "add", ranks=("b", "m", "k", *output),
        group="expert",
    )  # fmt: skip


def _combine(builder: LayerBuilder, outputs: str, shares: str) -> str:
    """The sum of the chosen experts' outputs, each times its share."""
    y = builder.tensor("expert_sum", ("b", "m", "d"), Role.ACTIVATION)
    inputs = (builder.access(outputs), builder.access(shares))
    return builder.add(
        "combine_experts", Kind.REDUCTION, builder.access(y), inputs,
        function="mul", reduce="sum", group="expert",
    )  # fmt: skip
