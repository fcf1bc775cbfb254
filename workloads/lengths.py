"""A histogram of lengths in the place of a batch of equal sequences: checked, and laid over a run."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.tensor import Profile
from tilewright.workloads.attention import Attention
from tilewright.workloads.block import Block
from tilewright.workloads.embedding import Embedding
from tilewright.workloads.run import Run
from tilewright.workloads.sizes import MAX_TOKENS, check_tokens
from tilewright.workloads.transformer import Model, Transformer

#: Distinct lengths; attention is built once for each.
MAX_LENGTHS = 256
_PHASES = ("prefill", "decode", "train")
_SELECTS = ("each", "last", "first")


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences as they are stated, those of a histogram as the longest of them: `profile` holds the rest."""

    n_sequences: int
    seq: int | None
    cache: int | None
    profile: Profile | None = None


def batch_of(
    lengths: Mapping[int, int] | None, phase: str, batch: int, seq: int | None, cache: int | None
) -> Batch:
    """The batch that is stated; a histogram of one length is a plain one.

    `lengths` are how many sequences compute so many tokens or, in decode, hold so many. Raises InputError for
    a histogram beside a batch or what it replaces, and for one that is not of whole positive numbers.
    """
    if lengths is None:
        return Batch(batch, seq, cache)
    if phase not in _PHASES:
        raise InputError(f"lengths belong to the phases {', '.join(_PHASES)}, got phase {phase!r}")
    replaced = "cache" if phase == "decode" else "seq"
    if batch != 1 or (cache if phase == "decode" else seq) is not None:
        raise InputError(f"lengths stand in the place of batch and {replaced}; state one or the other")
    if not lengths or len(lengths) > MAX_LENGTHS:
        raise InputError(f"lengths must hold 1 to {MAX_LENGTHS} lengths, got {len(lengths)}")
    for length, count in lengths.items():
        check_tokens("lengths: a length", length)
        check_tokens(f"lengths: the sequences of length {length}", count)
    profile = Profile(tuple(sorted(lengths.items())))
    each = 1 if phase != "decode" else seq or 1
    total = profile.n_instances * each if phase == "decode" else profile.total
    if total > MAX_TOKENS:
        raise InputError(f"lengths: at most {MAX_TOKENS} tokens are computed at once, got {total}")
    plain = len(profile.entries) == 1
    kept = None if plain else profile
    n_sequences = profile.n_instances if plain else 1
    if phase == "decode":
        return Batch(n_sequences, seq, profile.largest, kept)
    return Batch(n_sequences, profile.largest, cache, kept)


def ragged(model: Model, run: Run, profile: Profile | None, source: str) -> Run:
    """The run of the longest sequence as one of all of them. Raises InputError for a model without it."""
    if profile is None:
        return run
    if reason := _refusal(model, run):
        raise InputError(f"{source}: lengths: {reason}")
    tokens = profile.n_instances * run.seq if run.phase == "decode" else profile.total
    return replace(run, seq=tokens, lengths=profile)


def _refusal(model: Model, run: Run) -> str:
    """Why a model takes no sequences of several lengths; empty if it does."""
    if not isinstance(model, Transformer) or not isinstance(model.embedding, Embedding):
        return f"{model.model_type} takes sequences of one length"
    for layer, _ in model.blocks:
        if not isinstance(layer, Block) or not isinstance(attention := layer.attention, Attention):
            return f"the layers of {model.model_type} take sequences of one length"
        if attention.biased or attention.bias_rows or attention.sinks or layer.cross:
            return f"the attention of {model.model_type} adds to its scores; it takes sequences of one length"
    if model.embedding.relative or (model.head and model.head.selects not in _SELECTS):
        return f"{model.model_type} takes sequences of one length"
    return "an adapter's own tokens" if run.n_prompt or run.n_prefix else ""
