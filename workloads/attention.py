"""Attention of a block: projections, rotary angles, the KV cache, the attention itself."""

from dataclasses import dataclass, replace

from tilewright.dataflow.operator import Access, Index, Kind, Mask
from tilewright.dataflow.tensor import Role
from tilewright.workloads.builder import LayerBuilder, Linear, shifted
from tilewright.workloads.mixing import HeadRows, Heads, mix
from tilewright.workloads.norms import Norm, normalise
from tilewright.workloads.ragged import mix_by_length
from tilewright.workloads.run import KEPT_ROWS, Run


@dataclass(frozen=True, slots=True)
class Attention:
    """Multi-head attention with grouped keys and values; module names are below `path`.

    Either `fused` names the one module that writes queries, keys and values, or `query`, `key` and
    `value` name one each. `rotary_dim` elements of a head are rotated; 0 is no rotary embedding.
    A token sees the last `window` tokens, itself included; None is all. `query_norm` and `key_norm`
    normalise each head. `cached` attention keeps keys and values of earlier tokens. `from_encoder` takes
    keys and values from the encoder's result, once. `biased` adds a live-in bias per head, query and key to
    the scores; with `bias_rows` it comes from a table of the block's own,
    in `bias_module` (empty: `path`). `scale` of the scores is
    1 / sqrt(head_dim) where not stated; `softcap` bounds them by a tanh; `key_bias` where it differs. A
    window that does not bound the cache is only a mask. Where not causal, a token sees `reach` tokens to
    either side. With `sinks` each head has a learned score that takes a share and gives no value. Where it
    `repeats_keys` the reference keeps the shared keys and values once for each head of the queries.
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
    from_encoder: bool = False
    biased: bool = False
    bias_rows: int = 0
    bias_module: str = ""
    scale: float | None = None
    softcap: float | None = None
    window_bounds_cache: bool = True
    key_bias: bool | None = None
    reach: int | None = None
    sinks: bool = False
    repeats_keys: bool = False

    @property
    def prefix(self) -> str:
        """What sets the operators and tensors of two attentions in one layer apart."""
        return "cross_" if self.from_encoder else ""

    @property
    def keys_rank(self) -> str:
        """The rank of keys: `n`, or `l` for tokens of the encoder."""
        return "l" if self.from_encoder else "n"

    @property
    def score_scale(self) -> float:
        return self.head_dim**-0.5 if self.scale is None else self.scale

    @property
    def _held_window(self) -> int | None:
        return self.window if self.window_bounds_cache else None

    def n_keys(self, run: Run) -> int:
        """Keys that a query looks at when nothing is masked."""
        return run.encoder_seq if self.from_encoder else self.n_past(run) + run.seq

    @property
    def groups_rank(self) -> str:
        """The rank of keys' and values' heads: `h`, or `g` where queries share them."""
        return "h" if self.n_kv_heads == self.n_heads else "g"

    def n_past(self, run: Run) -> int:
        """Earlier tokens whose keys and values are held: a window keeps one less than itself."""
        if not self.cached:
            return run.n_prefix
        held = run.cache + run.n_prefix
        return held if self._held_window is None else min(held, self._held_window - 1)

    def n_kept(self, run: Run) -> int:
        """Tokens whose keys and values are held after the step."""
        n_keys = self.n_past(run) + run.seq
        return n_keys if self._held_window is None else min(n_keys, self._held_window - 1)


def attend(builder: LayerBuilder, x: str, spec: Attention) -> str:
    """Add an attention over x[b, m, d]; returns the output projection y[b, m, d]."""
    builder.rank("h", spec.n_heads)
    builder.rank(spec.groups_rank, spec.n_kv_heads)
    for rank in ("e", "f"):
        builder.rank(rank, spec.head_dim)
    if not builder.run.lengths:
        builder.rank(spec.keys_rank, spec.n_keys(builder.run))
    rows = _look_at_encoder(builder, x, spec) if spec.from_encoder else _project(builder, x, spec)
    if spec.repeats_keys and builder.run.lowering == "reference":
        rows, spec = _repeated(rows, spec)
    heads = rows if spec.from_encoder else _shaped(builder, rows, spec)
    if builder.run.lengths:
        shared = ("h", spec.groups_rank, "e", "f")
        mixed = mix_by_length(builder, shared, lambda own: _mixed_of_length(own, heads, spec))
    else:
        mixed = _mixed(builder, heads, spec)
    return builder.linear(
        Linear(
            f"{spec.path}.{spec.output}",
            builder.access(mixed),
            ("d",),
            ("h", "f"),
            spec.output_bias,
            bmm_group="attention",
        )
    )


def _mixed(builder: LayerBuilder, heads: Heads, spec: Attention) -> str:
    """The values mixed[b, m, h, f] of what the tokens look at, cached ones included."""
    if not spec.from_encoder:
        heads = _with_past(builder, heads, spec)
    if spec.bias_rows:
        _own_bias(builder, spec)
    return mix(builder, heads, spec, _mask(builder, spec))


def _mixed_of_length(builder: LayerBuilder, heads: Heads, spec: Attention) -> str:
    """The same in a builder of its own, which has the ranks of the sequences of one length."""
    builder.rank(spec.keys_rank, spec.n_keys(builder.run))
    return _mixed(builder, heads, spec)


def _own_bias(builder: LayerBuilder, spec: Attention) -> None:
    """position_bias[h, m, n] from the block's table, a row per distance of a query and a key in a window."""
    builder.rank("k", spec.bias_rows)
    buckets = builder.input("buckets", ("m", "n"), Role.INDEX)
    table = builder.weight(spec.bias_module or spec.path, "relative_position_bias_table", ("k", "h"))
    inputs = (builder.access(buckets), Access(table, (Index(), Index.of("h"))))
    builder.gather("relative_bias", "position_bias", ("h", "m", "n"), inputs, "attention")


def _repeated(heads: Heads, spec: Attention) -> tuple[Heads, Attention]:
    """Keys and values with one head for each of the queries, and the attention that they make."""
    n_sharing = spec.n_heads // spec.n_kv_heads

    def own(rows: HeadRows) -> HeadRows:
        def read(token: Index, head: Index, channel: Index) -> Access:
            terms = tuple(replace(term, divisor=n_sharing) for term in head.terms)
            return rows(token, replace(head, terms=terms), channel)

        return read

    return replace(heads, key=own(heads.key), value=own(heads.value)), replace(spec, n_kv_heads=spec.n_heads)


def _shaped(builder: LayerBuilder, heads: Heads, spec: Attention) -> Heads:
    """Queries and keys normalised and rotated."""
    query, key = heads.query, heads.key
    if spec.query_norm:
        query = _normalise_heads(builder, query, "h", spec.query_norm)
    if spec.key_norm:
        key = _normalise_heads(builder, key, spec.groups_rank, spec.key_norm)
    if spec.rotary_dim:
        query = _rotate(builder, query, "h", "query", spec)
        key = _rotate(builder, key, spec.groups_rank, "key", spec)
    return replace(heads, query=query, key=key)


def _with_past(builder: LayerBuilder, heads: Heads, spec: Attention) -> Heads:
    """Keys and values behind those that are held."""
    if builder.run.n_prefix or (spec.cached and builder.run.phase != "train"):
        key = _append(builder, heads.key, spec, "key")
        value = _append(builder, heads.value, spec, "value")
        return replace(heads, key=key, value=value)
    return heads


def _look_at_encoder(builder: LayerBuilder, x: str, spec: Attention) -> Heads:
    """Queries of this stack; keys and values of the encoder, projected in prefill and kept from then on."""
    query = _heads(builder, spec, spec.query, builder.access(x), "h", spec.qkv_bias)
    if builder.run.phase == "decode":
        kept = [
            builder.input(f"cross_{name}_cache", ("b", "h", "l", "e"), Role.KV_CACHE)
            for name in ("key", "value")
        ]
        for cache in kept:
            builder.keep(cache)
        return Heads(query, _cache_rows(kept[0]), _cache_rows(kept[1]))
    states = Access.of(builder.input("encoder_states", ("b", "l", "d")), "b", "l", "d")
    rows = []
    for name, module, bias in _keys_and_values(spec):
        fresh = _heads(builder, spec, module, states, "h", bias)
        if builder.run.phase == "train":
            rows.append(fresh)
            continue
        cache = builder.tensor(f"cross_{name}_cache", ("b", "h", "l", "e"), Role.KV_CACHE)
        inputs = (fresh(Index.of("l"), Index.of("h"), Index.of("e")),)
        builder.add(f"cross_keep_{name}", Kind.SCATTER, builder.access(cache), inputs, group="kv_cache")
        builder.keep(cache)
        rows.append(_cache_rows(cache))
    return Heads(query, *rows)


def _keys_and_values(spec: Attention) -> tuple[tuple[str, str, bool], ...]:
    """(name, module, bias) of keys and values."""
    key_bias = spec.qkv_bias if spec.key_bias is None else spec.key_bias
    return (("key", spec.key, key_bias), ("value", spec.value, spec.qkv_bias))


def _heads(
    builder: LayerBuilder, spec: Attention, module: str, x: Access, heads: str, bias: bool
) -> HeadRows:
    return _plain_rows(
        builder.linear(Linear(f"{spec.path}.{module}", x, (heads, "e"), ("d",), bias, bmm_group="attention"))
    )


def _project(builder: LayerBuilder, x: str, spec: Attention) -> Heads:
    inner, groups = builder.access(x), spec.groups_rank
    if spec.fused:
        return _project_fused(builder, inner, spec)
    query = _heads(builder, spec, spec.query, inner, "h", spec.qkv_bias)
    key, value = (
        _heads(builder, spec, module, inner, groups, bias) for _, module, bias in _keys_and_values(spec)
    )
    return Heads(query, key, value)


def _project_fused(builder: LayerBuilder, x: Access, spec: Attention) -> Heads:
    """One product into [b, m, s, h, e]; s = 0, 1, 2 are queries, keys and values.

    With shared keys it is [b, m, s, e]: s counts the heads of queries, then of keys, then of values.
    """
    if spec.n_kv_heads != spec.n_heads:
        return _project_fused_groups(builder, x, spec)
    builder.rank("s", 3)
    linear = Linear(
        f"{spec.path}.{spec.fused}", x, ("s", "h", "e"), ("d",), spec.qkv_bias, bmm_group="attention"
    )
    tensor = builder.linear(linear)

    def rows(part: int) -> HeadRows:
        return lambda token, head, channel: Access(
            tensor, (Index.of("b"), token, Index(offset=part), head, channel)
        )

    return Heads(rows(0), rows(1), rows(2))


def _project_fused_groups(builder: LayerBuilder, x: Access, spec: Attention) -> Heads:
    builder.rank("s", spec.n_heads + 2 * spec.n_kv_heads)
    linear = Linear(f"{spec.path}.{spec.fused}", x, ("s", "e"), ("d",), spec.qkv_bias)
    tensor = builder.linear(replace(linear, bmm_group="attention"))

    def rows(first: int) -> HeadRows:
        return lambda token, head, channel: Access(
            tensor, (Index.of("b"), token, Index(head.terms, head.offset + first), channel)
        )

    return Heads(rows(0), rows(spec.n_heads), rows(spec.n_heads + spec.n_kv_heads))


def _plain_rows(tensor: str) -> HeadRows:
    return lambda token, head, channel: Access(tensor, (Index.of("b"), token, head, channel))


def _rotate(builder: LayerBuilder, rows: HeadRows, heads: str, name: str, spec: Attention) -> HeadRows:
    source = rows(Index.of("m"), Index.of(heads), Index.of("e"))
    rotated = builder.pointwise(
        f"rotate_{name}", f"{name}_rotated", (source,), "rotary",
        ranks=("b", "m", heads, "e"), group="attention",
        parameters=(("rotary_dim", spec.rotary_dim),),
    )  # fmt: skip
    return _plain_rows(rotated)


def _normalise_heads(builder: LayerBuilder, rows: HeadRows, heads: str, norm: Norm) -> HeadRows:
    return _plain_rows(normalise(builder, rows(Index.of("m"), Index.of(heads), Index.of("e")), norm))


def _append(builder: LayerBuilder, rows: HeadRows, spec: Attention, name: str) -> HeadRows:
    """Write the new rows behind the cached ones: [b, heads, n, e], n = past + m.

    The past rows are read at a constant index: they stay in place, only the new ones move. The
    operator's `kept_rows` are those that the cache still holds after the step.
    """
    cache, run, heads = f"{name}_cache", builder.run, spec.groups_rank
    inputs = [rows(Index.of("m"), Index.of(heads), Index.of("e"))]
    if past := spec.n_past(run):
        builder.rank("p", past)
        earlier = builder.input(f"{name}_past", ("b", heads, "p", "e"), Role.KV_CACHE)
        if run.n_prefix:
            builder.trained.append(earlier)
        inputs.insert(0, Access(earlier, (Index.of("b"), Index.of(heads), Index(), Index.of("e"))))
    builder.tensor(cache, ("b", heads, "n", "e"), Role.KV_CACHE)
    indices = (Index.of("b"), Index.of(heads), shifted("m", past), Index.of("e"))
    builder.add(
        f"append_{name}", Kind.SCATTER, Access(cache, indices), tuple(inputs), group="kv_cache",
        parameters=((KEPT_ROWS, spec.n_kept(run)),),
    )  # fmt: skip
    if spec.cached:
        builder.keep(cache)
    return _cache_rows(cache)


def _cache_rows(cache: str) -> HeadRows:
    return lambda token, head, channel: Access(cache, (Index.of("b"), head, token, channel))


def _mask(builder: LayerBuilder, spec: Attention) -> Mask | None:
    """The positions that are computed: all of them in the reference's lowering."""
    if builder.run.lowering == "reference":
        return None
    if not spec.causal:
        return None if spec.reach is None else Mask("n", "m", upper=spec.reach, lower=-spec.reach)
    past = spec.n_past(builder.run)
    lower = None if spec.window is None else past - spec.window + 1
    return Mask("n", "m", upper=past, lower=lower)
