"""Disentangled attention: scores of contents, and of contents with relative positions (arXiv 2006.03654)."""

from dataclasses import dataclass

from tilewright.dataflow.operator import Access, Index
from tilewright.dataflow.tensor import Role
from tilewright.workloads.builder import LayerBuilder, Linear
from tilewright.workloads.mixing import HeadRows, Heads, mix

#: The live-in rows of relative positions, which the way in makes.
POSITION_ROWS = "relative_rows"


@dataclass(frozen=True, slots=True)
class DisentangledAttention:
    """Attention over all tokens whose scores may add content-to-position and position-to-content terms.

    `n_distances` rows stand for the relative positions, 0 for none. They go through the query's and key's
    own modules where `shared`, else through modules of theirs.
    """

    path: str
    n_heads: int
    head_dim: int
    output: str
    n_distances: int = 0
    content_to_position: bool = False
    position_to_content: bool = False
    shared: bool = False

    cached: bool = False
    prefix: str = ""
    keys_rank: str = "n"
    softcap: None = None
    sinks: bool = False

    @property
    def n_kv_heads(self) -> int:
        return self.n_heads

    @property
    def n_terms(self) -> int:
        return 1 + self.content_to_position + self.position_to_content

    @property
    def score_scale(self) -> float:
        return float((self.head_dim * self.n_terms) ** -0.5)

    @property
    def biased(self) -> bool:
        return self.n_distances > 0 and self.n_terms > 1


def attend_disentangled(builder: LayerBuilder, x: str, spec: DisentangledAttention) -> str:
    """Add the attention over x[b, m, d]; returns y[b, m, d]. Rank `z`: relative positions."""
    sizes = {"h": spec.n_heads, "e": spec.head_dim, "f": spec.head_dim, "n": builder.run.seq}
    for rank, size in sizes.items():
        builder.rank(rank, size)
    source = builder.access(x)
    names = {name: _heads(builder, spec, f"{name}_proj", source) for name in ("query", "key", "value")}
    if spec.n_distances and (spec.biased or spec.shared):
        _position_terms(builder, spec, names["query"], names["key"])
    heads = Heads(_rows(names["query"]), _rows(names["key"]), _rows(names["value"]))
    mixed = builder.access(mix(builder, heads, spec, None))
    return builder.linear(Linear(f"{spec.path}.{spec.output}", mixed, ("d",), ("h", "f"), bias=True))


def _heads(
    builder: LayerBuilder, spec: DisentangledAttention, module: str, x: Access, alias: str = ""
) -> str:
    path = f"{spec.path}.self.{module}"
    return builder.linear(Linear(path, x, ("h", "e"), ("d",), True, bmm_group="attention", alias=alias))


def _rows(tensor: str) -> HeadRows:
    return lambda token, head, channel: Access(tensor, (Index.of("b"), token, head, channel))


def _position_terms(builder: LayerBuilder, spec: DisentangledAttention, query: str, key: str) -> None:
    """position_bias[b, h, m, n]: both terms, each gathered from its products with every distance."""
    builder.rank("z", spec.n_distances)
    rows = builder.input(POSITION_ROWS, ("z", "d"))
    if builder.trains_all:
        builder.trained.append(rows)
    source = Access.of(rows, "z", "d")
    buckets = builder.access(builder.input("buckets", ("m", "n"), Role.INDEX))
    terms = []
    if spec.content_to_position or spec.shared:
        keys = _position_heads(builder, spec, "key", "pos_key_proj", source)
    if spec.position_to_content or spec.shared:
        queries = _position_heads(builder, spec, "query", "pos_query_proj", source)
    if spec.content_to_position:
        factors = (builder.access(query), Access.of(keys, "z", "h", "e"))
        terms.append(_gathered(builder, "content_to_position", "m", factors, buckets))
    if spec.position_to_content:
        factors = (Access.of(key, "b", "n", "h", "e"), Access.of(queries, "z", "h", "e"))
        terms.append(_gathered(builder, "position_to_content", "n", factors, buckets))
    if terms:
        scale = (("scale", spec.score_scale),)
        builder.pointwise(
            "position_terms", "position_bias", tuple(terms), "scale_add", group="attention", parameters=scale
        )


def _position_heads(
    builder: LayerBuilder, spec: DisentangledAttention, own: str, module: str, rows: Access
) -> str:
    """The rows of relative positions as heads [z, h, e]: by modules of theirs, or by the content's."""
    if not spec.shared:
        return _heads(builder, spec, module, rows)
    return _heads(builder, spec, f"{own}_proj", rows, "position_")


def _gathered(
    builder: LayerBuilder, name: str, token: str, factors: tuple[Access, ...], buckets: Access
) -> Access:
    """Products of a token's heads with every distance, then those of the distances that occur."""
    ranks = ("b", "h", token, "z")
    products = builder.contraction(name, f"{name}_products", ranks, factors, "attention")
    chosen = Access(products, (Index.of("b"), Index.of("h"), Index.of(token), Index()))
    inputs = (buckets, chosen)
    return builder.access(
        builder.gather(f"{name}_gather", f"{name}_scores", ("b", "h", "m", "n"), inputs, "attention")
    )
