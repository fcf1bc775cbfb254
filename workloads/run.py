"""What a workload is made of: the terms of one run, and parameters."""

from dataclasses import dataclass
from typing import Literal

from tilewright.dataflow.tensor import Profile, Role
from tilewright.workloads.policy import DEFAULT_POLICY, TrainingPolicy
from tilewright.workloads.precision import Precision

Phase = Literal[
    "prefill", "decode", "train", "generate", "prefill:encoder", "prefill:text_tower", "prefill:vision_tower"
]
Lowering = Literal["reference", "hardware"]
Logits = Literal["all", "last"]
AdapterMode = Literal["unmerged", "merged", "none"]
AttentionForm = Literal["three_pass", "one_pass"]
Part = Literal["table", "body", "head"]
Storage = Literal["parameter", "buffer", "shared_buffer"]

#: The parameter of a cache append that tells how many rows the cache still holds after the step.
KEPT_ROWS = "kept_rows"


@dataclass(frozen=True, slots=True)
class Parameter:
    """`count` parameter tensors of one shape, `*` in the name standing for the layer.

    A tensor that shares the storage of another one names it in `tied_to`. `part` is the place in the
    model: the token table, the head, or the body between them. A buffer is
    stored and is no parameter; a shared one exists once, as large as its largest user needs.
    """

    name: str
    n_elements: int
    dtype: str
    role: Role
    trainable: bool
    count: int = 1
    tied_to: str = ""
    part: Part = "body"
    storage: Storage = "parameter"


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a model: what is stated on top of the model and its adapter.

    `seq` tokens are computed for each of `batch` sequences that hold `cache` tokens already. A decoder that
    looks at an encoder sees `encoder_seq` tokens of it. The first `n_prompt` of the `seq` tokens are trained
    vectors; `n_prefix` more keys and values stand before the cache of every layer. The phase `generate`
    computes the `seq` tokens of a prompt and `n_output` tokens behind them, one after the other.
    `training` is read in the phase `train` alone. `attention` is a form or the name or file of a cascade,
    `attention_sizes` what is stated of its own ranks and numbers. With `lengths`, a histogram of the tokens
    of each sequence (in decode: of those held), `batch` is 1, `seq` is all tokens that are computed and
    `cache` the most held.
    """

    phase: Phase
    batch: int
    seq: int
    cache: int
    precision: Precision
    lowering: Lowering
    logits: Logits
    attention: AttentionForm | str = "three_pass"
    encoder_seq: int = 0
    n_prompt: int = 0
    n_prefix: int = 0
    n_output: int = 0
    training: TrainingPolicy = DEFAULT_POLICY
    attention_sizes: tuple[tuple[str, int | float], ...] = ()
    lengths: Profile | None = None

    @property
    def n_sequences(self) -> int:
        return self.lengths.n_instances if self.lengths else self.batch

    @property
    def n_positions(self) -> int:
        """Positions that the tokens held and computed take."""
        return self.cache + self.seq
