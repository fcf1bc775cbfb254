"""The way out: final norm and output head."""

from dataclasses import dataclass

from tilewright.dataflow.operator import Access, Index
from tilewright.workloads.builder import LayerBuilder, Linear, shifted
from tilewright.workloads.config import ConfigFile
from tilewright.workloads.norms import Norm, normalise


@dataclass(frozen=True, slots=True)
class Head:
    """A linear module of `n_outputs` rows; `tied_to` names the module whose weight it shares."""

    module: str
    n_outputs: int
    tied_to: str = ""
    bias: bool = False


def finish(
    builder: LayerBuilder,
    x: str,
    norm: Norm | None,
    head: Head | None,
    projection: tuple[str, int] | None = None,
) -> str:
    """Add final norm, projection (module, width) and head over x[b, m, d]; returns logits[b, t, v].

    With logits "last" only the last token goes through: t is 1, read at m = seq - 1.
    """
    run = builder.run
    last = run.logits == "last" and head is not None
    builder.rank("t", 1 if last else run.seq)
    token = shifted("t", run.seq - 1 if last else 0)
    source = Access(x, (Index.of("b"), token, Index.of("d")))
    if norm:
        source = builder.access(normalise(builder, source, norm))
    width = "d"
    if projection:
        width = builder.rank("w", projection[1])
        source = builder.access(builder.linear(Linear(projection[0], source, (width,), ("d",))))
    if head is None:
        return source.tensor
    builder.rank("v", head.n_outputs)
    linear = Linear(head.module, source, ("v",), (width,), head.bias, group="head")
    if not head.tied_to:
        return builder.linear(linear)
    tied_to = f"{head.tied_to}.weight"
    weight = builder.weight(head.module, "weight", ("v", width), tied_to=tied_to, part="head")
    return builder.linear_with(linear, builder.access(weight))


def text_head(
    config: ConfigFile, task: str, vocab_size: int, table: str, *, tied: bool, bias: bool = False
) -> Head | None:
    """The head of a decoder: language model, classifier of tokens' states, or none.

    `task` overrides the architecture that the file names; `table` is the embedding's module.
    """
    architecture = config.architecture
    if task == "SEQ_CLS" or (not task and architecture.endswith("ForSequenceClassification")):
        return Head("score", config.n_labels)
    if task == "TOKEN_CLS" or (not task and architecture.endswith("ForTokenClassification")):
        return Head("score", config.n_labels, bias=True)
    if task == "QUESTION_ANS" or (not task and architecture.endswith("ForQuestionAnswering")):
        return Head("qa_outputs", 2, bias=True)
    bare = architecture.endswith("Model") and not architecture.endswith("LMHeadModel")
    if task == "FEATURE_EXTRACTION" or (not task and bare):
        return None
    return Head("lm_head", vocab_size, tied_to=table if tied else "", bias=bias)
