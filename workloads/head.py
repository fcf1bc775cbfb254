"""The way out: final norm and output head."""

from dataclasses import dataclass
from typing import Literal

from tilewright.dataflow.operator import Access, Index, IndexTerm, Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.builder import LayerBuilder, Linear, shifted
from tilewright.workloads.config import ConfigFile
from tilewright.workloads.norms import Norm, normalise
from tilewright.workloads.run import Part


@dataclass(frozen=True, slots=True)
class Stage:
    """A linear module before the head's own: norm(function(W x + bias)), of the model's width.

    A `part` of "body" belongs to the base model (a pooler).
    """

    module: str
    function: str = ""
    norm: Norm | None = None
    bias: bool = True
    part: Part = "head"
    width: int = 0  # 0: the model's


@dataclass(frozen=True, slots=True)
class Head:
    """Stages and a linear module of `n_outputs` rows; no module: the last stage is the output.

    `tied_to` names the table whose weight it shares, `bias_owner` the module whose bias. `selects` tells
    the tokens that go through: each one, the first or the last alone, or their mean, behind or before the
    final norm, the first beside the mean, the mean of the first two, or that of all behind the stages. The
    first `skips` tokens are no part of each one or the mean. `norm` is the head's own, behind the final one
    of the model, which is the head's if it `owns_norm`.
    With a head `beside` it the result is the mean of both; that one may look at the second token instead.
    A `further` head over the first token, as it is behind the final norm, has a result of its own.
    A mean is that of `n_windows` sequences of the batch together, which are the windows of one image.
    """

    module: str = ""
    n_outputs: int = 0
    tied_to: str = ""
    bias: bool = False
    bias_owner: str = ""
    stages: tuple[Stage, ...] = ()
    selects: Literal[
        "each", "first", "last", "mean", "mean_first", "first_and_mean", "first_two", "mean_behind", "second"
    ] = "each"
    skips: int = 0
    norm: Norm | None = None
    owns_norm: bool = False
    beside: "Head | None" = None
    further: "Head | None" = None
    adapts: bool = False  # "all-linear" includes it
    n_windows: int = 1
    input_scale: float = 1.0


def finish(builder: LayerBuilder, x: str, norm: Norm | None, head: Head | None) -> str:
    """Add final norm and head over x[b, m, d]; returns logits[b, t, v].

    With logits "last", or where the head selects one token, only that one goes through: t is 1.
    """
    source = _selected(builder, x, norm, head)
    if head is None:
        return source.tensor
    second = _token(source, 1) if _looks_at_second(head) else source
    logits = _logits(builder, _token(source, 0) if _looks_at_second(head) else source, head)
    if head.further:
        builder.keep(_logits(builder, _token(source, 0), head.further, "u"))
    if not head.beside:
        return logits
    terms = (builder.access(logits), builder.access(_logits(builder, second, head.beside)))
    return builder.pointwise("both_heads", "both_logits", terms, "mean", group="head")


def _looks_at_second(head: Head) -> bool:
    return head.beside is not None and head.beside.selects == "second"


def _token(tokens: Access, number: int) -> Access:
    """One of the tokens that go through."""
    batch, _, channel = tokens.indices
    return Access(tokens.tensor, (batch, Index(offset=number), channel))


def _logits(builder: LayerBuilder, source: Access, head: Head, rows: str = "v") -> str:
    """The head's own norm, stages and linear module; `rows` is the rank of its result."""
    if head.norm:
        source = builder.access(normalise(builder, source, head.norm, "head"))
    width = tuple(rank for rank in source.ranks if rank not in ("a", "b", "t"))
    for number, stage in enumerate(head.stages):
        output = builder.rank(f"w{number}", stage.width) if stage.width else "c"
        if not stage.width:
            builder.rank("c", builder.size(("d",)))
        source, width = _pass(builder, source, stage, width, output), (output,)
    if head.selects == "mean_behind":
        source = _mean(builder, source)
    if not head.module:
        return source.tensor
    if head.input_scale != 1.0:
        factor = (("scale", head.input_scale),)
        scaled = builder.pointwise(
            "scale_states", "scaled", (source,), "scale", group="head", parameters=factor
        )
        source = builder.access(scaled)
    builder.rank(rows, head.n_outputs)
    if head.bias_owner:
        builder.parameter(head.bias_owner, "bias", head.n_outputs, part="head")
    return builder.linear(
        Linear(
            head.module, source, (rows,), width, head.bias, "head", "head",
            f"{head.tied_to}.weight" if head.tied_to else "",
            f"{head.bias_owner}.bias" if head.bias_owner else "", head.adapts,
        )
    )  # fmt: skip


def _selected(builder: LayerBuilder, x: str, norm: Norm | None, head: Head | None) -> Access:
    """What goes through the head: tokens, one of them or their mean, normalised."""
    run = builder.run
    n_tokens, first = run.seq, 0
    if head and head.selects == "first" and not _looks_at_second(head):
        n_tokens = 1
    elif head and (head.selects == "first_two" or _looks_at_second(head)):
        n_tokens = 2
    elif head and (run.logits == "last" or head.selects == "last"):
        n_tokens, first = 1, run.seq - 1
    elif head:
        n_tokens, first = run.seq - head.skips, head.skips
    ends = run.lengths is not None and n_tokens == 1  # one token of each sequence
    n_tokens, first = (run.n_sequences, 0) if ends else (n_tokens, first)
    builder.rank("t", n_tokens)
    if ends and n_tokens < run.seq:
        x = _ends_of_sequences(builder, x)
    source = Access(x, (Index.of("b"), shifted("t", first), Index.of("d")))
    if head and head.selects == "first_and_mean":
        return _first_and_mean(builder, x, source, norm)
    if head and head.selects == "mean_first":
        source = _mean(builder, source)
    if norm:
        part: Part = "head" if head and head.owns_norm else "body"
        source = builder.access(normalise(builder, source, norm, part))
    if head and head.selects in ("mean", "first_two"):
        return _mean(builder, source, head.n_windows)
    return source


def _ends_of_sequences(builder: LayerBuilder, x: str) -> str:
    """ends[b, t, d]: the token of each sequence that goes on, wherever it stands in the row of all."""
    places = builder.access(builder.input("sequence_ends", ("b", "t"), Role.INDEX))
    rows = Access(x, (Index.of("b"), Index(), Index.of("d")))
    return builder.gather("take_ends", "end_states", ("b", "t", "d"), (places, rows), "head")


def _first_and_mean(builder: LayerBuilder, x: str, rest: Access, norm: Norm | None) -> Access:
    """The first token and the mean of the `rest`, each normalised: ends[b, o, d], o = 0 and 1."""
    if norm:
        x = normalise(builder, builder.access(x), norm)
    mean = _mean(builder, Access(x, rest.indices))
    first = Access(x, (Index.of("b"), Index(), Index.of("d")))
    builder.rank("o", 2)
    ends = builder.tensor("ends", ("b", "o", "d"), Role.ACTIVATION)
    output = Access(ends, (Index.of("b"), Index(offset=1), Index.of("d")))
    builder.add("join", Kind.SCATTER, output, (mean, first), group="head")
    return builder.access(ends)


def _mean(builder: LayerBuilder, x: Access, n_windows: int = 1) -> Access:
    """The mean of all tokens of a sequence x[b, t, d], or of the `n_windows` sequences of image `a`."""
    if n_windows > 1:
        builder.rank("a", builder.size(("b",)) // n_windows)
        builder.rank("o", n_windows)
        sequence = Index((IndexTerm("a", n_windows), IndexTerm("o")))
        x = Access(x.tensor, (sequence, *x.indices[1:]))
    ranks = (x.ranks[0], x.ranks[-1])
    return builder.access(builder.reduction("pool", "pooled", ranks, (x,), "mean", group="head"))


def _pass(builder: LayerBuilder, x: Access, stage: Stage, width: tuple[str, ...], output: str) -> Access:
    """One stage; its own output rank keeps input and output apart where both are the model's width."""
    y = builder.linear(Linear(stage.module, x, (output,), width, stage.bias, part=stage.part))
    if stage.function:
        inputs = (builder.access(y),)
        y = builder.pointwise(f"{stage.function}_{y}", f"{y}_mapped", inputs, stage.function, group="head")
    if stage.norm:
        y = normalise(builder, builder.access(y), stage.norm, stage.part)
    return builder.access(y)


def text_head(
    config: ConfigFile, task: str, vocab_size: int, table: str, *, tied: bool, bias: bool = False
) -> Head | None:
    """The head of a decoder: language model, classifier of tokens' states, or none.

    `task` overrides the architecture that the file names; `table` is the embedding's module.
    """
    match task_of(config, task):
        case "SEQ_CLS":
            return Head("score", config.n_labels, adapts=True)
        case "TOKEN_CLS":
            return Head("score", config.n_labels, bias=True, adapts=True)
        case "QUESTION_ANS":
            return Head("qa_outputs", 2, bias=True, adapts=True)
        case "FEATURE_EXTRACTION":
            return None
    further = None
    if config.architecture.endswith("DoubleHeadsModel"):
        further = Head("multiple_choice_head.summary", 1, bias=True, adapts=True)
    return Head("lm_head", vocab_size, tied_to=table if tied else "", bias=bias, further=further)


def task_of(config: ConfigFile, task: str) -> str:
    """The task in PEFT's words: the one stated, else that of the architecture; "" is the family's own."""
    architecture = config.architecture
    if task:
        return task
    for ending, found in _TASK_BY_ENDING.items():
        if architecture.endswith(ending):
            return found
    bare = architecture.endswith("Model") and not architecture.endswith(("LMHeadModel", "DoubleHeadsModel"))
    return "FEATURE_EXTRACTION" if bare else ""


_TASK_BY_ENDING = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForImageClassification": "IMAGE_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}
