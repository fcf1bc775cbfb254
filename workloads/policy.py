"""How a model is trained: the optimizer, and what the backward pass computes again."""

from dataclasses import dataclass
from typing import Literal, cast, get_args

from tilewright.dataflow.errors import InputError, nearest

OptimizerName = Literal["none", "sgd", "momentum", "adam", "adamw", "adam8bit"]
Recompute = Literal["none", "layer", "attention"]


@dataclass(frozen=True, slots=True)
class TrainingPolicy:
    """`recompute`: `layer` keeps only the input of each block, `attention` all but the score squares."""

    optimizer: OptimizerName = "adamw"
    recompute: Recompute = "none"


DEFAULT_POLICY = TrainingPolicy()


def training_policy(phase: str, optimizer: str | None, recompute: str | None) -> TrainingPolicy:
    """What is stated, the rest by default. Raises InputError for an unknown name or another phase."""
    default, stated = DEFAULT_POLICY, {"optimizer": optimizer, "recompute": recompute}
    known = {"optimizer": get_args(OptimizerName), "recompute": get_args(Recompute)}
    for field, value in stated.items():
        if value is None:
            continue
        if phase != "train":
            raise InputError(f"{field} belongs to the phase train, got phase {phase!r}")
        if value not in known[field]:
            hint = nearest(str(value), known[field])
            raise InputError(f"{field} {value!r} is unknown{hint}; known: {', '.join(known[field])}")
    return TrainingPolicy(
        cast(OptimizerName, optimizer or default.optimizer), cast(Recompute, recompute or default.recompute)
    )
