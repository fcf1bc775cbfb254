"""Attention of a block: projections, rotary angles, the KV cache, the attention itself."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from tilewright.dataflow.cascade import load_cascade
from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind, Mask
from tilewright.dataflow.tensor import Role
from tilewright.workloads.builder import LayerBuilder, Linear, shifted, word
from tilewright.workloads.norms import Norm, normalise
from tilewright.workloads.run import KEPT_ROWS, Run

#: Keys in a tile of the one-pass form; a mapping may cut the tiles of the hardware otherwise.
ONE_PASS_TILE = 128


@dataclass(frozen=True, slots=True)
class Attention:
    """Multi-head attention with grouped keys and values; module names are below `path`.

    Either `fused` names the one module that writes queries, keys and values, or `query`, `key` and
    `value` name one each. `rotary_dim` elements of a head are rotated; 0 is no rotary embedding.
    A token sees the last `window` tokens, itself included; None is all. `query_norm` and `key_norm`
    normalise each head. `cached` attention keeps keys and values of earlier tokens.
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
    query_norm: Norm | None = None
    key_norm: Norm | None = None

    @property
    def groups_rank(self) -> str:
        """The rank of keys' and values' heads: `h`, or `g` where queries share them."""
        return "h" if self.n_kv_heads == self.n_heads else "g"

    def n_past(self, run: Run) -> int:
        """Earlier tokens whose keys and values are held: a window keeps one less than itself."""
        if not self.cached:
            return 0
        return run.cache if self.window is None else min(run.cache, self.window - 1)

    def n_kept(self, run: Run) -> int:
        """Tokens whose keys and values are held after the step."""
        n_keys = self.n_past(run) + run.seq
        return n_keys if self.window is None else min(n_keys, self.window - 1)


#: A tensor of heads: the access of its element at (token, head, channel) of batch b.
HeadRows = Callable[[Index, Index, Index], Access]

_M, _N, _H, _E = Index.of("m"), Index.of("n"), Index.of("h"), Index.of("e")


def attend(builder: LayerBuilder, x: str, spec: Attention) -> str:
    """Add an attention over x[b, m, d]; returns the output projection y[b, m, d]."""
    builder.rank("h", spec.n_heads)
    builder.rank(spec.groups_rank, spec.n_kv_heads)
    builder.rank("e", spec.head_dim)
    builder.rank("n", spec.n_past(builder.run) + builder.run.seq)
    query, key, value = _project(builder, x, spec)
    if spec.query_norm:
        query = _normalise_heads(builder, query, "h", spec.query_norm)
    if spec.key_norm:
        key = _normalise_heads(builder, key, spec.groups_rank, spec.key_norm)
    if spec.rotary_dim:
        query = _rotate(builder, query, "h", "query", spec)
        key = _rotate(builder, key, spec.groups_rank, "key", spec)
    if spec.cached:
        key = _append(builder, key, spec, "key")
        value = _append(builder, value, spec, "value")
    mixed = _mix(builder, query, key, value, spec)
    return builder.linear(
        Linear(f"{spec.path}.{spec.output}", builder.access(mixed), ("d",), ("h", "f"), spec.output_bias)
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
        return lambda token, head, channel: Access(
            tensor, (Index.of("b"), token, Index(offset=part), head, channel)
        )

    return rows(0), rows(1), rows(2)


def _plain_rows(tensor: str) -> HeadRows:
    return lambda token, head, channel: Access(tensor, (Index.of("b"), token, head, channel))


def _rotate(builder: LayerBuilder, rows: HeadRows, heads: str, name: str, spec: Attention) -> HeadRows:
    source = rows(_M, Index.of(heads), _E)
    rotated = builder.pointwise(
        f"rotate_{name}", f"{name}_rotated", (source,), "rotary",
        ranks=("b", "m", heads, "e"), group="attention",
        parameters=(("rotary_dim", spec.rotary_dim),),
    )  # fmt: skip
    return _plain_rows(rotated)


def _normalise_heads(builder: LayerBuilder, rows: HeadRows, heads: str, norm: Norm) -> HeadRows:
    return _plain_rows(normalise(builder, rows(_M, Index.of(heads), _E), norm))


def _append(builder: LayerBuilder, rows: HeadRows, spec: Attention, name: str) -> HeadRows:
    """Write the new rows behind the cached ones: [b, heads, n, e], n = past + m.

    The past rows are read at a constant index: they stay in place, only the new ones move. The
    operator's `kept_rows` are those that the cache still holds after the step.
    """
    cache, run, heads = f"{name}_cache", builder.run, spec.groups_rank
    inputs = [rows(_M, Index.of(heads), _E)]
    if past := spec.n_past(run):
        builder.rank("p", past)
        earlier = builder.input(f"{name}_past", ("b", heads, "p", "e"), Role.KV_CACHE)
        inputs.insert(0, Access(earlier, (Index.of("b"), Index.of(heads), Index(), Index.of("e"))))
    builder.tensor(cache, ("b", heads, "n", "e"), Role.KV_CACHE)
    indices = (Index.of("b"), Index.of(heads), shifted("m", past), Index.of("e"))
    builder.add(
        f"append_{name}", Kind.SCATTER, Access(cache, indices), tuple(inputs), group="kv_cache",
        parameters=((KEPT_ROWS, spec.n_kept(run)),),
    )  # fmt: skip
    builder.keep(cache)
    return lambda token, head, channel: Access(cache, (Index.of("b"), head, token, channel))


def _mask(builder: LayerBuilder, spec: Attention) -> Mask | None:
    """The positions that are computed: all of them in the reference's lowering."""
    if builder.run.lowering == "reference" or not spec.causal:
        return None
    past = spec.n_past(builder.run)
    lower = None if spec.window is None else past - spec.window + 1
    return Mask("n", "m", upper=past, lower=lower)


def _mix(builder: LayerBuilder, query: HeadRows, key: HeadRows, value: HeadRows, spec: Attention) -> str:
    """Softmax attention; returns mixed[b, m, h, f], f as e."""
    builder.rank("f", spec.head_dim)
    form = mix_in_one_pass if builder.run.attention == "one_pass" else mix_in_three_passes
    return form(builder, query, key, value, spec)


def mix_in_three_passes(
    builder: LayerBuilder, query: HeadRows, key: HeadRows, value: HeadRows, spec: Attention
) -> str:
    """Scores of all keys, their softmax, the mixed values: three traversals of n."""
    mask, shared = _mask(builder, spec), _shared_head(spec)
    square, row = ("b", "h", "m", "n"), ("b", "h", "m")
    score = builder.contraction(
        "score", "scores", square, (query(_M, _H, _E), key(_N, shared, _E)), "attention",
        mask=mask, parameters=(("scale", spec.head_dim**-0.5),),
    )  # fmt: skip
    scores = builder.access(score)
    top = builder.reduction("row_max", "maxima", row, (scores,), "max", group="attention", mask=mask)
    inputs = (scores, builder.access(top))
    raised = builder.pointwise("exponent", "exponents", inputs, "exp", group="attention", mask=mask)
    exponents = builder.access(raised)
    total = builder.reduction("row_sum", "sums", row, (exponents,), "sum", group="attention", mask=mask)
    inputs = (exponents, builder.access(total))
    shares = builder.access(
        builder.pointwise("normalise", "shares", inputs, "div", group="attention", mask=mask)
    )
    factors = (shares, value(_N, shared, Index.of("f")))
    return builder.contraction("mix", "mixed", ("b", "m", "h", "f"), factors, "attention", mask=mask)


def mix_in_one_pass(
    builder: LayerBuilder, query: HeadRows, key: HeadRows, value: HeadRows, spec: Attention
) -> str:
    """The cascade `attention_one_pass`: keys in tiles, maximum and sums run along."""
    mask, sizes = (
        _mask(builder, spec),
        {rank: builder.size((rank,)) for rank in ("b", "h", "m", "n", "e", "f")},
    )
    tile = min(ONE_PASS_TILE, sizes["n"])
    types = {"activation": builder.run.precision.activations, "state": builder.run.precision.accumulators}
    cascade = load_cascade("attention_one_pass").bind(
        {**sizes, "hkv": spec.n_kv_heads, "n0": tile}, types, skip_masked=mask is not None
    )
    for rank in ("n1", "n0"):
        builder.rank(rank, cascade.size(rank))
    rows = {"Q": query, "K": key, "V": value}

    def mixed(token: Index, head: Index, channel: Index) -> Access:
        return Access("mixed", (Index.of("b"), token, head, channel))

    def access(there: Access) -> Access:
        found = {**rows, "AV": mixed}.get(there.tensor)
        if found is None:
            return replace(there, tensor=word(there.tensor))
        _, head, token, channel = there.indices
        return found(token, head, channel)

    for tensor in cascade.tensors:
        if tensor.name == "AV":
            builder.tensor("mixed", ("b", "m", "h", "f"), tensor.role, tensor.dtype)
        elif tensor.name not in rows:
            builder.tensor(word(tensor.name), tensor.ranks, tensor.role, tensor.dtype)
    for operator in cascade.operators:
        window = operator.mask and mask and replace(operator.mask, lower=mask.lower)
        builder.append(
            replace(
                operator, name=word(operator.name), output=access(operator.output), group="attention",
                inputs=tuple(map(access, operator.inputs)), mask=window or operator.mask,
            )
        )  # fmt: skip
    return "mixed"


def _shared_head(spec: Attention) -> Index:
    """The head of keys and values that head h of the queries looks at."""
    if spec.n_kv_heads == spec.n_heads:
        return _H
    return Index((IndexTerm("h", divisor=spec.n_heads // spec.n_kv_heads),))
