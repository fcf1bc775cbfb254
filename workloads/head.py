"""The way out: final norm and output head."""

from dataclasses import dataclass

from tilewright.dataflow.operator import Access, Index
from tilewright.workloads.builder import LayerBuilder, Linear, shifted
from tilewright.workloads.norms import Norm, normalise


@dataclass(frozen=True, slots=True)
class Head:
    """A linear module of `n_outputs` rows; `tied_to` names the module whose weight it shares."""

    module: str
    n_outputs: int
    tied_to: str = ""
    bias: bool = False


def finish(builder: LayerBuilder, x: str, norm: Norm | None, head: Head | None) -> str:
    """Add final norm and head over x[b, m, d]; returns logits[b, t, v].

    With logits "last" only the last token goes through: t is 1, read at m = seq - 1.
    """
    run = builder.run
    last = run.logits == "last" and head is not None
    builder.rank("t", 1 if last else run.seq)
    token = shifted("t", run.seq - 1 if last else 0)
    source = Access(x, (Index.of("b"), token, Index.of("d")))
    if norm:
        source = builder.access(normalise(builder, source, norm))
    if head is None:
        return source.tensor
    builder.rank("v", head.n_outputs)
    linear = Linear(head.module, source, ("v",), ("d",), head.bias, group="head")
    if not head.tied_to:
        return builder.linear(linear)
    tied_to = f"{head.tied_to}.weight"
    weight = builder.weight(head.module, "weight", ("v", "d"), tied_to=tied_to, part="head")
    return builder.linear_with(linear, builder.access(weight))
