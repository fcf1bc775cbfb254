"""The attention itself: scores of queries and keys, softmax, mixed values, in three passes or by a cascade."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tilewright.dataflow.operator import Access, Index, IndexTerm, Mask
from tilewright.workloads.builder import LayerBuilder

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
    """Attention of ranks h, m, e, f and the keys' rank, by softmax in three passes or by the run's cascade.

    Returns mixed[b, m, h, f]. Raises InputError for a cascade that does not fit the model.
    """
    if builder.run.attention == "three_pass":
        return _three_passes(builder, heads, form, mask)
    from tilewright.workloads.mixing_cascade import mix_by_cascade

    return mix_by_cascade(builder, heads, form, mask)


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


def _shared_head(form: Form) -> Index:
    """The head of keys and values that head h of the queries looks at."""
    if form.n_kv_heads == form.n_heads:
        return Index.of("h")
    return Index((IndexTerm("h", divisor=form.n_heads // form.n_kv_heads),))
