"""The way in: token rows, learned positions."""

from dataclasses import dataclass

from tilewright.dataflow.operator import Access, Index, Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.builder import LayerBuilder, Linear, shifted, word
from tilewright.workloads.norms import Norm, normalise


@dataclass(frozen=True, slots=True)
class RelativeBias:
    """A bias of the scores per head, from a table with a row per bucket of distances (T5)."""

    module: str
    n_buckets: int
    n_heads: int
    parameter: str = "weight"


@dataclass(frozen=True, slots=True)
class Embedding:
    """`table` has `vocab_size` rows; `positions`, if named, `n_positions` learned rows.

    Position p reads row p + `position_offset`. Rows of a `table_width` other than the model's go through
    the linear module `project`. Rows are multiplied by `scale`. `n_angles` rotary angles per position are
    computed by a matrix product where the reference does so, `n_angle_products` times. `token_types` is a
    second table of rows that are added. `tied_to` names the parameter whose storage the table shares. With
    `projects_sum` the sum of all rows is projected, not the tokens' alone; a norm over `w` stands before it.
    """

    table: str
    vocab_size: int
    positions: str = ""
    n_positions: int = 0
    position_offset: int = 0
    norm: Norm | None = None
    table_width: int = 0
    project: str = ""
    scale: float = 1.0
    n_angles: int = 0
    token_types: str = ""
    n_token_types: int = 0
    tied_to: str = ""
    relative: RelativeBias | None = None
    n_angle_products: int = 1
    frozen_positions: bool = False
    projects_sum: bool = False
    project_bias: bool = False

    def fill(self, builder: LayerBuilder) -> str:
        """Add the embedding of tokens[b, m]; returns x[b, m, d]."""
        return embed(builder, self)


def embed(builder: LayerBuilder, spec: Embedding) -> str:
    """Add the embedding of tokens[b, m]; returns x[b, m, d].

    A row that the data selects is read at a constant index.
    """
    builder.rank("v", spec.vocab_size)
    width = builder.rank("w", spec.table_width) if spec.project else "d"
    token = builder.rank("j", builder.run.seq - builder.run.n_prompt) if builder.run.n_prompt else "m"
    tokens = builder.input("tokens", ("b", token), Role.INDEX)
    table = builder.weight(spec.table, "weight", ("v", width), spec.tied_to, part="table")
    rows = Access(table, (Index(), Index.of(width)))
    x = builder.gather(word(spec.table), "rows", ("b", token, width), (builder.access(tokens), rows))
    x = builder.adapt_embedding(spec.table, tokens, x)
    if builder.run.n_prompt:
        x = _prepend(builder, x, width)
    if spec.relative:
        score_bias(builder, spec.relative)
    if spec.n_angles and builder.run.lowering == "reference":
        _multiply_angles(builder, spec.n_angles, spec.n_angle_products)
    if spec.project and not spec.projects_sum:
        x = _project(builder, spec, x)
    if spec.scale != 1.0:
        factor = (("scale", spec.scale),)
        source = (builder.access(x),)
        x = builder.pointwise("scale_rows", "scaled", source, "scale", group="embedding", parameters=factor)
    if spec.token_types:
        x = _add_token_types(builder, spec, x)
    if spec.positions:
        x = _add_positions(builder, spec, x)
    early = spec.norm is not None and spec.norm.over == ("w",)
    if spec.norm and early:
        x = normalise(builder, builder.access(x), spec.norm)
    if spec.project and spec.projects_sum:
        x = _project(builder, spec, x)
    return normalise(builder, builder.access(x), spec.norm) if spec.norm and not early else x


def _project(builder: LayerBuilder, spec: Embedding, x: str) -> str:
    return builder.linear(Linear(spec.project, builder.access(x), ("d",), ("w",), spec.project_bias))


def _add_token_types(builder: LayerBuilder, spec: Embedding, x: str) -> str:
    builder.rank("y", spec.n_token_types)
    width = builder.ranks_of(x)[-1]
    types = builder.input("token_types", ("b", "m"), Role.INDEX)
    table = builder.weight(spec.token_types, "weight", ("y", width))
    inputs = (builder.access(types), Access(table, (Index(), Index.of(width))))
    rows = builder.gather(word(spec.token_types), "type_rows", ("b", "m", width), inputs)
    builder.note_side_table(spec.token_types)
    terms = (builder.access(x), builder.access(rows))
    return builder.pointwise("token_types_add", "typed", terms, "add", group="embedding")


def _add_positions(builder: LayerBuilder, spec: Embedding, x: str) -> str:
    builder.rank("p", spec.n_positions)
    builder.note_side_table(spec.positions)
    width = builder.ranks_of(x)[-1]
    row = shifted("m", builder.run.cache + spec.position_offset)
    if builder.run.lengths:
        row = Index()  # each sequence starts anew: rows that the data selects
    if spec.frozen_positions:
        builder.parameter(spec.positions, "weight", builder.size(("p", width)), frozen=True)
        table = builder.input("position_table", ("p", width), Role.WEIGHT)
    else:
        table = builder.weight(spec.positions, "weight", ("p", width))
    inputs = (builder.access(x), Access(table, (row, Index.of(width))))
    return builder.pointwise("positions", "placed", inputs, "add", group="embedding")


def _multiply_angles(builder: LayerBuilder, n_angles: int, n_products: int) -> None:
    """angles[m, a] = positions[m, o] * frequencies[o, a], o = 1: the outer product as the library runs it."""
    for rank, size in (("o", 1), ("a", n_angles)):
        builder.rank(rank, size)
    positions = builder.input("positions_column", ("m", "o"), Role.INDEX)
    frequencies = builder.input("frequencies", ("o", "a"))
    inputs = (builder.access(positions), builder.access(frequencies))
    angles = builder.tensor("angles", ("m", "a"), Role.ACTIVATION)
    builder.add(
        "rotary_angles", Kind.CONTRACTION, builder.access(angles), inputs, function="mul", reduce="sum",
        group="bmm", repeat=n_products,
    )  # fmt: skip
    builder.keep(angles)


def score_bias(builder: LayerBuilder, spec: RelativeBias) -> None:
    """position_bias[h, m, n] for the blocks, from the buckets of the distances n - m."""
    sizes = {"h": spec.n_heads, "k": spec.n_buckets, "n": builder.run.n_positions}
    for rank, size in sizes.items():
        builder.rank(rank, size)
    buckets = builder.input("buckets", ("m", "n"), Role.INDEX)
    table = builder.weight(spec.module, spec.parameter, ("k", "h"))
    inputs = (builder.access(buckets), Access(table, (Index(), Index.of("h"))))
    builder.keep(builder.gather(word(spec.module), "position_bias", ("h", "m", "n"), inputs))


def _prepend(builder: LayerBuilder, rows: str, width_rank: str) -> str:
    """The prompt's vectors before the rows of the tokens: x[b, m, d] of rows[b, j, d], m = prompt + j."""
    builder.rank("z", builder.run.n_prompt)
    prompt = builder.input("prompt", ("z", width_rank), Role.ADAPTER)
    builder.trained.append(prompt)
    x = builder.tensor("prompted", ("b", "m", width_rank), Role.ACTIVATION)
    output = Access(x, (Index.of("b"), shifted("j", builder.run.n_prompt), Index.of(width_rank)))
    inputs = (builder.access(rows), Access(prompt, (Index(), Index.of(width_rank))))
    return builder.add("prepend", Kind.SCATTER, output, inputs, group="adapter")
