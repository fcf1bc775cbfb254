"""What a model family is: its file's fields, what they describe, its modules by logical target."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tilewright.dataflow.errors import InputError
from tilewright.workloads.config import ConfigFile
from tilewright.workloads.read import checked
from tilewright.workloads.transformer import Model

#: Endings of classes whose heads few families describe.
_OTHER_HEADS = (
    "DoubleHeadsModel", "EncoderModel", "ForAudioFrameClassification", "ForCTC",
    "ForImageClassificationWithTeacher", "ForMaskedImageModeling", "ForMultipleChoice",
    "ForNextSentencePrediction", "ForPreTraining", "ForSemanticSegmentation", "ForXVector", "WithProjection",
    "Backbone",
)  # fmt: skip
#: Endings with a purpose that every family describes, or refuses itself; what names no purpose is free.
_USUAL_HEADS = (
    "ForCausalLM", "ForMaskedLM", "ForConditionalGeneration", "ForSequenceClassification",
    "ForTokenClassification", "ForQuestionAnswering", "ForImageClassification", "ForAudioClassification",
)  # fmt: skip
_PURPOSE = re.compile(r"For[A-Z]\w*$")

C = TypeVar("C", bound=ConfigFile)


@dataclass(frozen=True, slots=True)
class Family(Generic[C]):
    """One `model_type`.

    `targets` maps q, k, v, o, up, gate and down to module paths below a layer; a fused module stands for
    each of its parts, so that an adapter on one of them adapts all.
    """

    config: type[C]
    describe: Callable[[C, str], Model]
    targets: Mapping[str, str | tuple[str, ...]]
    heads: tuple[str, ...] = ()  # endings of classes that it describes besides the usual ones

    def read(self, values: Mapping[str, Any], source: str, task: str) -> Model:
        """The model of a file. `task` overrides the task of the file if it is not empty.

        Raises InputError for a wrong field, or a combination that the family cannot describe.
        """
        config = checked(self.config, values, source)
        stated = _unusual_head(config.architecture)
        if stated and stated not in self.heads and not task:
            raise InputError(
                f"{source}: architectures: {config.architecture[:60]!r}: models with this head are not supported"
            )
        try:
            return self.describe(config, task)
        except ValueError as error:
            raise InputError(f"{source}: {error}") from None


def _unusual_head(architecture: str) -> str:
    """The ending of a class whose head not every family describes, as ForRewardModel; "" for a usual one."""
    if known := next((name for name in _OTHER_HEADS if architecture.endswith(name)), ""):
        return known
    purpose = None if architecture.endswith(_USUAL_HEADS) else _PURPOSE.search(architecture)
    return purpose.group() if purpose else ""
