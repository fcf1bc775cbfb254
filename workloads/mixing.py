"""The attention itself: scores of queries and keys, softmax, mixed values, in three passes or one."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.operator import Access, Index, IndexTerm, Mask
from tilewright.workloads.builder import LayerBuilder, word

#: Keys in a tile of the one-pass form; a mapping may cut the tiles of the hardware otherwise.
ONE_PASS_TILE = 128

#: A tensor of heads: the access of its element at (token, head, channel) of batch b.
HeadRows = Callable[[Index, Index, Index], Access]


@dataclass(frozen=True, slots=True)
class Heads:
    query: HeadRows
    key: HeadRows
    value: HeadRows


class Form(Protocol):
    """What the mixing depends on besides its operands; an `Attention`."""

    @property
    def n_heads(self) -> int: ...
    @property
    def n_kv_heads(self) -> int: ...
    @property
    def prefix(self) -> str: ...
    @property
    def keys_rank(self) -> str: ...
    @property
    def score_scale(self) -> float: ...
    @property
    def biased(self) -> bool: ...
    @property
    def softcap(self) -> float | None: ...
    @property
    def sinks(self) -> bool: ...


def mix(builder: LayerBuilder, heads: Heads, form: Form, mask: Mask | None) -> str:
    """Softmax attention of ranks h, m, e, f and the keys' rank; returns mixed[b, m, h, f].

    Raises InputError for one pass where the scores are biased or bounded.
    """
    if builder.run.attention == "three_pass":
        return _three_passes(builder, heads, form, mask)
    if form.biased or form.softcap or form.sinks:
        raise InputError("attention 'one_pass' does not know what this model does to its scores")
    return _one_pass(builder, heads, form, mask)


def _three_passes(builder: LayerBuilder, heads: Heads, form: Form, mask: Mask | None) -> str:
    """Scores of all keys, their softmax, the mixed values: three traversals of the keys."""
    p, keys, shared = form.prefix, form.keys_rank, _shared_head(form)
    n, m, h = Index.of(keys), Index.of("m"), Index.of("h")
    square, row = ("b", "h", "m", keys), ("b", "h", "m")
    factors = (heads.query(m, h, Index.of("e")), heads.key(n, shared, Index.of("e")))
    scale = (("scale", form.score_scale),)
    score = builder.contraction(
        f"{p}score", f"{p}scores", square, factors, "attention", mask=mask, parameters=scale
    )
    if form.biased:
        score = _add_bias(builder, score, square, mask)
    if form.softcap:
        source, limit = (builder.access(score),), (("limit", form.softcap),)
        score = builder.pointwise(
            f"{p}softcap", f"{p}bounded", source, "tanh", group="attention", mask=mask, parameters=limit
        )
    scores = builder.access(score)
    top = builder.reduction(f"{p}row_max", f"{p}maxima", row, (scores,), "max", group="attention", mask=mask)
    if form.sinks:
        sink = builder.access(builder.weight("self_attn", "sinks", ("h",)))
        terms = (builder.access(top), sink)
        top = builder.pointwise(f"{p}sink_max", f"{p}sink_maxima", terms, "max", group="attention")
    inputs = (scores, builder.access(top))
    raised = builder.pointwise(f"{p}exponent", f"{p}exponents", inputs, "exp", group="attention", mask=mask)
    exponents = builder.access(raised)
    total = builder.reduction(
        f"{p}row_sum", f"{p}sums", row, (exponents,), "sum", group="attention", mask=mask
    )
    if form.sinks:
        sums = (builder.access(total), sink, builder.access(top))
        total = builder.pointwise(f"{p}sink_sum", f"{p}sink_sums", sums, "exp_add", group="attention")
    inputs = (exponents, builder.access(total))
    shares = builder.pointwise(f"{p}normalise", f"{p}shares", inputs, "div", group="attention", mask=mask)
    factors = (builder.access(shares), heads.value(n, shared, Index.of("f")))
    ranks = ("b", "m", "h", "f")
    return builder.contraction(f"{p}mix", f"{p}mixed", ranks, factors, "attention", mask=mask)


def _add_bias(builder: LayerBuilder, score: str, ranks: tuple[str, ...], mask: Mask | None) -> str:
    bias = "position_bias"
    if not builder.has(bias):
        builder.input(bias, ranks[1:])
    terms = (builder.access(score), builder.access(bias))
    return builder.pointwise("score_bias", "biased_scores", terms, "add", group="attention", mask=mask)


def _one_pass(builder: LayerBuilder, heads: Heads, form: Form, mask: Mask | None) -> str:
    """The cascade `attention_one_pass`: keys in tiles, maximum and sums run along."""
    from tilewright.dataflow.cascade import load_cascade
    from tilewright.dataflow.passes import rename_graph

    p, keys = form.prefix, form.keys_rank
    sizes = {rank: builder.size((rank,)) for rank in ("b", "h", "m", "e", "f")}
    sizes |= {"n": builder.size((keys,)), "hkv": form.n_kv_heads}
    sizes["n0"] = min(ONE_PASS_TILE, sizes["n"])
    precision = builder.run.precision
    types = {"activation": precision.activations, "state": precision.accumulators}
    graph = load_cascade("attention_one_pass").bind(sizes, types, skip_masked=mask is not None)
    graph = rename_graph(graph, ranks={"n": keys, "n1": f"{keys}1", "n0": f"{keys}0"})
    for rank in (f"{keys}1", f"{keys}0"):
        builder.rank(rank, graph.size(rank))
    rows = {"Q": heads.query, "K": heads.key, "V": heads.value}

    def access(there: Access) -> Access:
        if there.tensor not in rows and there.tensor != "AV":
            return replace(there, tensor=p + word(there.tensor))
        batch, head, token, channel = there.indices
        if there.tensor == "AV":
            return Access(f"{p}mixed", (batch, token, head, channel))
        return rows[there.tensor](token, head, channel)

    for tensor in graph.tensors:
        if tensor.name == "AV":
            builder.tensor(f"{p}mixed", ("b", "m", "h", "f"), tensor.role, tensor.dtype)
        elif tensor.name not in rows:
            builder.tensor(p + word(tensor.name), tensor.ranks, tensor.role, tensor.dtype)
    for operator in graph.operators:
        window = operator.mask and mask and replace(operator.mask, lower=mask.lower)
        builder.append(
            replace(
                operator, name=p + word(operator.name), output=access(operator.output), group="attention",
                inputs=tuple(map(access, operator.inputs)), mask=window or operator.mask,
                parameters=_scaled(operator.parameters, form.score_scale),
            )
        )  # fmt: skip
    return f"{p}mixed"


def _scaled(parameters: tuple[tuple[str, float], ...], scale: float) -> tuple[tuple[str, float], ...]:
    """The parameters with the model's own scale in the place of the cascade's 1 / sqrt(e)."""
    return tuple((name, scale if name == "scale" else value) for name, value in parameters)


def _shared_head(form: Form) -> Index:
    """The head of keys and values that head h of the queries looks at."""
    if form.n_kv_heads == form.n_heads:
        return Index.of("h")
    return Index((IndexTerm("h", divisor=form.n_heads // form.n_kv_heads),))
