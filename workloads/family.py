"""What a model family is: its file's fields, what they describe, its modules by logical target."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tilewright.dataflow.errors import InputError
from tilewright.workloads.config import ConfigFile
from tilewright.workloads.read import checked
from tilewright.workloads.transformer import Model

#: Endings of classes whose heads few families describe; what ends otherwise is one that its family knows.
_OTHER_HEADS = (
    "DoubleHeadsModel", "EncoderModel", "ForAudioFrameClassification", "ForCTC",
    "ForImageClassificationWithTeacher", "ForMaskedImageModeling", "ForMultipleChoice",
    "ForNextSentencePrediction", "ForPreTraining", "ForSemanticSegmentation", "ForXVector", "WithProjection",
    "Backbone",
)  # fmt: skip

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
        stated = next((name for name in _OTHER_HEADS if config.architecture.endswith(name)), "")
        if stated and stated not in self.heads and not task:
            raise InputError(
                f"{source}: architectures: {config.architecture[:60]!r}: models with this head are not supported"
            )
        try:
            return self.describe(config, task)
        except ValueError as error:
            raise InputError(f"{source}: {error}") from None
