"""The way in: token rows, learned positions."""

from dataclasses import dataclass

from tilewright.dataflow.operator import Access, Index
from tilewright.dataflow.tensor import Role
from tilewright.workloads.builder import LayerBuilder, shifted, word
from tilewright.workloads.norms import Norm, normalise


@dataclass(frozen=True, slots=True)
class Embedding:
    """`table` has `vocab_size` rows; `positions`, if named, `n_positions` learned rows.

    Position p reads row p + `position_offset`.
    """

    table: str
    vocab_size: int
    positions: str = ""
    n_positions: int = 0
    position_offset: int = 0
    norm: Norm | None = None


def embed(builder: LayerBuilder, spec: Embedding) -> str:
    """Add the embedding of tokens[b, m]; returns x[b, m, d].

    A row that the data selects is read at a constant index.
    """
    builder.rank("v", spec.vocab_size)
    tokens = builder.input("tokens", ("b", "m"), Role.INDEX)
    table = builder.weight(spec.table, "weight", ("v", "d"), part="table")
    rows = Access(table, (Index(), Index.of("d")))
    x = builder.gather(word(spec.table), "rows", ("b", "m", "d"), (builder.access(tokens), rows))
    x = builder.adapt_embedding(spec.table, tokens, x)
    if spec.positions:
        x = _add_positions(builder, spec, x)
    return normalise(builder, builder.access(x), spec.norm) if spec.norm else x


def _add_positions(builder: LayerBuilder, spec: Embedding, x: str) -> str:
    builder.rank("p", spec.n_positions)
    table = builder.weight(spec.positions, "weight", ("p", "d"))
    row = shifted("m", builder.run.cache + spec.position_offset)
    inputs = (builder.access(x), Access(table, (row, Index.of("d"))))
    return builder.pointwise("positions", "placed", inputs, "add", group="embedding")
