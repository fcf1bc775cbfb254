"""Attention of a block: projections, rotary angles, the KV cache, the attention itself."""

from collections.abc import Callable
from dataclasses import dataclass

from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind, Mask
from tilewright.dataflow.tensor import Role
from tilewright.workloads.builder import LayerBuilder, Linear, shifted


@dataclass(frozen=True, slots=True)
class Attention:
    """Multi-head attention with grouped keys and values; module names are below `path`.

    Either `fused` names the one module that writes queries, keys and values, or `query`, `key` and
    `value` name one each. `rotary_dim` elements of a head are rotated; 0 is no rotary embedding.
    """

    path: str
    n_heads: int
    n_kv_heads: int
    head_dim: int
    output: str
    fused: str = ""
    query: str = "q_proj"
    key: str = "k_proj"
    value: str = "v_proj"
    qkv_bias: bool = False
    output_bias: bool = False
    causal: bool = True
    window: int | None = None
    rotary_dim: int = 0
    cached: bool = True

    @property
    def groups_rank(self) -> str:
        """The rank of keys' and values' heads: `h`, or `g` where queries share them."""
        return "h" if self.n_kv_heads == self.n_heads else "g"


#: A tensor of heads by (token index, head index): the access of [b, token, head, e] in it.
HeadRows = Callable[[Index, Index], Access]


def attend(builder: LayerBuilder, x: str, spec: Attention) -> str:
    """Add an attention over x[b, m, d]; returns the output projection y[b, m, d]."""
    builder.rank("h", spec.n_heads)
    builder.rank(spec.groups_rank, spec.n_kv_heads)
    builder.rank("e", spec.head_dim)
    builder.rank("n", builder.run.n_keys if spec.cached else builder.run.seq)
    query, key, value = _project(builder, x, spec)
    if spec.rotary_dim:
        query = _rotate(builder, query, "h", "query", spec)
        key = _rotate(builder, key, spec.groups_rank, "key", spec)
    if spec.cached:
        key = _append(builder, key, spec.groups_rank, "key")
        value = _append(builder, value, spec.groups_rank, "value")
    mixed = _mix(builder, query, key, value, spec)
    return builder.linear(
        Linear(f"{spec.path}.{spec.output}", builder.access(mixed), ("d",), ("h", "e"), spec.output_bias)
    )


def _project(builder: LayerBuilder, x: str, spec: Attention) -> tuple[HeadRows, HeadRows, HeadRows]:
    inner, groups = builder.access(x), spec.groups_rank
    if spec.fused:
        return _project_fused(builder, inner, spec)
    rows = []
    for module, heads in ((spec.query, "h"), (spec.key, groups), (spec.value, groups)):
        linear = Linear(f"{spec.path}.{module}", inner, (heads, "e"), ("d",), spec.qkv_bias)
        rows.append(_plain_rows(builder.linear(linear)))
    return rows[0], rows[1], rows[2]


def _project_fused(builder: LayerBuilder, x: Access, spec: Attention) -> tuple[HeadRows, HeadRows, HeadRows]:
    """One product into [b, m, s, h, e]; s = 0, 1, 2 are queries, keys and values."""
    builder.rank("s", 3)
    linear = Linear(f"{spec.path}.{spec.fused}", x, ("s", "h", "e"), ("d",), spec.qkv_bias)
    tensor = builder.linear(linear)

    def rows(part: int) -> HeadRows:
        return lambda token, head: Access(
            tensor, (Index.of("b"), token, Index(offset=part), head, Index.of("e"))
        )

    return rows(0), rows(1), rows(2)


def _plain_rows(tensor: str) -> HeadRows:
    return lambda token, head: Access(tensor, (Index.of("b"), token, head, Index.of("e")))


def _rotate(builder: LayerBuilder, rows: HeadRows, heads: str, name: str, spec: Attention) -> HeadRows:
    source = rows(Index.of("m"), Index.of(heads))
    rotated = builder.pointwise(
        f"rotate_{name}", f"{name}_rotated", (source,), "rotary",
        ranks=("b", "m", heads, "e"), group="attention",
        parameters=(("rotary_dim", spec.rotary_dim),),
    )  # fmt: skip
    return _plain_rows(rotated)


def _append(builder: LayerBuilder, rows: HeadRows, heads: str, name: str) -> HeadRows:
    """Write the new rows behind the cached ones: [b, heads, n, e], n = cache + m.

    The cached rows are read at a constant index: they stay in place, only the new ones move.
    """
    cache, run = f"{name}_cache", builder.run
    inputs = [rows(Index.of("m"), Index.of(heads))]
    if run.cache:
        builder.rank("p", run.cache)
        past = builder.input(f"{name}_past", ("b", heads, "p", "e"), Role.KV_CACHE)
        inputs.insert(0, Access(past, (Index.of("b"), Index.of(heads), Index(), Index.of("e"))))
    builder.tensor(cache, ("b", heads, "n", "e"), Role.KV_CACHE)
    indices = (Index.of("b"), Index.of(heads), shifted("m", run.cache), Index.of("e"))
    builder.add(f"append_{name}", Kind.SCATTER, Access(cache, indices), tuple(inputs), group="kv_cache")
    builder.keep(cache)
    return lambda token, head: Access(cache, (Index.of("b"), head, token, Index.of("e")))


def _mask(builder: LayerBuilder, spec: Attention) -> Mask | None:
    """The positions that are computed: all of them in the reference's lowering."""
    if builder.run.lowering == "reference" or not spec.causal:
        return None
    past = builder.run.n_keys - builder.run.seq
    lower = None if spec.window is None else past - spec.window + 1
    return Mask("n", "m", upper=past, lower=lower)


def _mix(builder: LayerBuilder, query: HeadRows, key: HeadRows, value: HeadRows, spec: Attention) -> str:
    """Softmax attention in three passes over n; returns mixed[b, m, h, e]."""
    mask, n, m, h = _mask(builder, spec), Index.of("n"), Index.of("m"), Index.of("h")
    shared = h
    if spec.n_kv_heads != spec.n_heads:
        shared = Index((IndexTerm("h", divisor=spec.n_heads // spec.n_kv_heads),))
    square, row = ("b", "h", "m", "n"), ("b", "h", "m")
    score = builder.contraction(
        "score", "scores", square, (query(m, h), key(n, shared)), "attention",
        mask=mask, parameters=(("scale", spec.head_dim**-0.5),),
    )  # fmt: skip
    scores = builder.access(score)
    top = builder.reduction("row_max", "maxima", row, (scores,), "max", group="attention", mask=mask)
    inputs = (scores, builder.access(top))
    raised = builder.pointwise("exponent", "exponents", inputs, "exp", group="attention", mask=mask)
    exponents = builder.access(raised)
    total = builder.reduction("row_sum", "sums", row, (exponents,), "sum", group="attention", mask=mask)
    inputs = (exponents, builder.access(total))
    shares = builder.pointwise("normalise", "shares", inputs, "div", group="attention", mask=mask)
    return builder.contraction(
        "mix", "mixed", ("b", "m", "h", "e"), (builder.access(shares), value(n, shared)), "attention",
        mask=mask,
    )  # fmt: skip
