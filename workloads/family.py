"""What a model family is: its file's fields, what they describe, its modules by logical target."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tilewright.dataflow.errors import InputError
from tilewright.workloads.config import ConfigFile
from tilewright.workloads.read import checked
from tilewright.workloads.transformer import Model

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

    def read(self, values: Mapping[str, Any], source: str, task: str) -> Model:
        """The model of a file. `task` overrides the task of the file if it is not empty.

        Raises InputError for a wrong field, or a combination that the family cannot describe.
        """
        config = checked(self.config, values, source)
        try:
            return self.describe(config, task)
        except ValueError as error:
            raise InputError(f"{source}: {error}") from None
