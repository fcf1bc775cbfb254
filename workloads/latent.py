"""Multi-head latent attention: keys and values are made of one cached row per token (arXiv 2405.04434)."""

from dataclasses import dataclass

from tilewright.dataflow.operator import Access, Index, Kind, Mask
from tilewright.dataflow.tensor import Role
from tilewright.workloads.builder import LayerBuilder, Linear, shifted
from tilewright.workloads.mixing import HeadRows, Heads, mix
from tilewright.workloads.norms import Norm, normalise
from tilewright.workloads.run import KEPT_ROWS


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """The cache holds `latent_width` numbers and a rotated key of `rotary_dim` per token, for all heads.

    A head's query and key are `plain_dim` numbers and `rotary_dim` rotated ones, its value `value_dim`.
    Queries come through a rank of `query_rank` where it is not 0. The reference expands keys and values of
    all cached tokens at each call; a step on hardware takes the expansion into the query and the result.
    """

    path: str
    n_heads: int
    plain_dim: int
    rotary_dim: int
    value_dim: int
    latent_width: int
    query_rank: int
    epsilon: float
    scale: float
    bias: bool = False
    cached: bool = True

    prefix: str = ""
    keys_rank: str = "n"
    biased: bool = False
    softcap: None = None
    sinks: bool = False

    @property
    def n_kv_heads(self) -> int:
        return self.n_heads

    @property
    def score_scale(self) -> float:
        return self.scale


def attend_latent(builder: LayerBuilder, x: str, spec: LatentAttention) -> str:
    """Add the attention over x[b, m, d]; returns y[b, m, d].

    Ranks: `a` a cached row, `c` its latent part, `r` its rotated part, `z` plain key and value of a head.
    """
    run = builder.run
    sizes = {
        "h": spec.n_heads, "a": spec.latent_width + spec.rotary_dim, "c": spec.latent_width,
        "r": spec.rotary_dim, "z": spec.plain_dim + spec.value_dim, "y": spec.plain_dim,
        "w": spec.value_dim, "u": spec.plain_dim + spec.rotary_dim, "n": run.n_positions,
    }  # fmt: skip
    for rank, size in sizes.items():
        builder.rank(rank, size)
    query = _query(builder, x, spec)
    cache = _cache(builder, x, spec)
    absorbs = run.lowering == "hardware" and run.phase == "decode" and not builder.is_adapted
    mixed = _absorbed(builder, query, cache, spec) if absorbs else _expanded(builder, query, cache, spec)
    inner = Access.of(mixed, "b", "m", "h", "w") if absorbs else builder.access(mixed)
    ranks = ("h", "w") if absorbs else ("h", "f")
    return builder.linear(Linear(f"{spec.path}.o_proj", inner, ("d",), ranks, spec.bias))


def _query(builder: LayerBuilder, x: str, spec: LatentAttention) -> str:
    """query[b, m, h, u], its last numbers rotated."""
    source, inner = builder.access(x), "d"
    if spec.query_rank:
        rank = builder.rank("s", spec.query_rank)
        low = builder.linear(Linear(f"{spec.path}.q_a_proj", source, (rank,), ("d",), spec.bias))
        norm = Norm(f"{spec.path}.q_a_layernorm", "rmsnorm", spec.epsilon, (rank,))
        source, inner = builder.access(normalise(builder, builder.access(low), norm)), rank
    module = "q_b_proj" if spec.query_rank else "q_proj"
    query = builder.linear(Linear(f"{spec.path}.{module}", source, ("h", "u"), (inner,)))
    angles = (("rotary_dim", float(spec.rotary_dim)),)
    inputs = (builder.access(query),)
    return builder.pointwise(
        "rotate_query", "query_rotated", inputs, "rotary", group="attention", parameters=angles
    )


def _cache(builder: LayerBuilder, x: str, spec: LatentAttention) -> str:
    """The cached rows[b, n, a]: the normalised latent and the rotated key of each token."""
    run, module = builder.run, f"{spec.path}.kv_a_proj_with_mqa"
    both = builder.linear(Linear(module, builder.access(x), ("a",), ("d",), spec.bias))
    part = Access.of(both, "b", "m", "c")
    norm = Norm(f"{spec.path}.kv_a_layernorm", "rmsnorm", spec.epsilon, ("c",))
    latent = builder.access(normalise(builder, part, norm))
    key = Access(both, (Index.of("b"), Index.of("m"), shifted("r", spec.latent_width)))
    ranks = ("b", "m", "r")
    rotated = builder.pointwise("rotate_key", "key_rotated", (key,), "rotary", ranks=ranks, group="attention")
    inputs = [
        Access(latent.tensor, (Index.of("b"), Index.of("m"), Index())),
        Access(rotated, (Index.of("b"), Index.of("m"), Index())),
    ]
    past = run.cache if run.phase != "train" else 0
    if past:
        builder.rank("p", past)
        earlier = builder.input("latent_past", ("b", "p", "a"), Role.KV_CACHE)
        inputs.insert(0, Access(earlier, (Index.of("b"), Index(), Index.of("a"))))
    cache = builder.tensor("latent_cache", ("b", "n", "a"), Role.KV_CACHE)
    output = Access(cache, (Index.of("b"), shifted("m", past), Index.of("a")))
    builder.add(
        "append_latent", Kind.SCATTER, output, tuple(inputs), group="kv_cache",
        parameters=((KEPT_ROWS, run.n_positions),),
    )  # fmt: skip
    if run.phase != "train":
        builder.keep(cache)
    return cache


def _mask(builder: LayerBuilder) -> Mask | None:
    return None if builder.run.lowering == "reference" else Mask("n", "m", upper=builder.run.cache)


def _expanded(builder: LayerBuilder, query: str, cache: str, spec: LatentAttention) -> str:
    """Keys and values of every cached token; returns mixed[b, m, h, f]."""
    builder.rank("e", spec.plain_dim + spec.rotary_dim)
    builder.rank("f", spec.value_dim)
    rows = Access.of(cache, "b", "n", "c")
    wide = builder.linear(Linear(f"{spec.path}.kv_b_proj", rows, ("h", "z"), ("c",)))
    plain = Access(wide, (Index.of("b"), Index.of("n"), Index.of("h"), Index()))
    rotated = Access(cache, (Index.of("b"), Index.of("n"), Index()))
    ranks = ("b", "n", "h", "e")
    key = builder.pointwise("join_key", "keys", (plain, rotated), "concat", ranks=ranks, group="attention")

    def values(token: Index, head: Index, channel: Index) -> Access:
        place = Index(channel.terms, channel.offset + spec.plain_dim)
        return Access(wide, (Index.of("b"), token, head, place))

    heads = Heads(_rows(query), _rows(key), values)
    return mix(builder, heads, spec, _mask(builder))


def _absorbed(builder: LayerBuilder, query: str, cache: str, spec: LatentAttention) -> str:
    """Queries in the latent space, one row of the cache as key and value; returns mixed[b, m, h, w]."""
    builder.rank("e", spec.latent_width + spec.rotary_dim)
    builder.rank("f", spec.latent_width)
    module = f"{spec.path}.kv_b_proj"
    builder.note_linear(module)
    weight = builder.weight(module, "weight", ("c", "h", "z"))
    plain = Access.of(query, "b", "m", "h", "y")
    into = Access(weight, (Index.of("c"), Index.of("h"), Index.of("y")))
    latent = builder.contraction("absorb_key", "query_latent", ("b", "m", "h", "c"), (plain, into), "linear")
    parts = (
        Access(latent, (Index.of("b"), Index.of("m"), Index.of("h"), Index())),
        Access(query, (Index.of("b"), Index.of("m"), Index.of("h"), Index())),
    )
    ranks = ("b", "m", "h", "e")
    joined = builder.pointwise("join_query", "query_joined", parts, "concat", ranks=ranks, group="attention")

    def row(token: Index, _head: Index, channel: Index) -> Access:
        return Access(cache, (Index.of("b"), token, channel))

    mixed = mix(builder, Heads(_rows(joined), row, row), spec, _mask(builder))
    out = Access(weight, (Index.of("f"), Index.of("h"), shifted("w", spec.plain_dim)))
    factors = (builder.access(mixed), out)
    return builder.contraction("absorb_value", "mixed_values", ("b", "m", "h", "w"), factors, "linear")


def _rows(tensor: str) -> HeadRows:
    return lambda token, head, channel: Access(tensor, (Index.of("b"), token, head, channel))
