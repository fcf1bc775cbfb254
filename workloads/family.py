"""What a model family is: its file's fields, what they describe, its modules by logical target."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tilewright.workloads.config import ConfigFile
from tilewright.workloads.read import checked
from tilewright.workloads.transformer import Transformer

C = TypeVar("C", bound=ConfigFile)


@dataclass(frozen=True, slots=True)
class Family(Generic[C]):
    """One `model_type`.

    `targets` maps q, k, v, o, up, gate and down to module paths below a layer; a fused module stands for
    each of its parts, so that an adapter on one of them adapts all.
    """

    config: type[C]
    describe: Callable[[C, str], Transformer]
    targets: Mapping[str, str]

    def read(self, values: Mapping[str, Any], source: str, task: str) -> Transformer:
        """The model of a file. `task` overrides the task of the file if it is not empty."""
        return self.describe(checked(self.config, values, source), task)
