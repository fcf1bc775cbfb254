"""The fields of model configuration files: types and limits, under the files' own names."""

import re
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from tilewright.dataflow.errors import nearest

#: Sizes above these belong to no model; they only overflow what follows.
MAX_LAYERS, MAX_WIDTH, MAX_ROWS = 4096, 2**20, 2**28

Layers = Annotated[int, Field(gt=0, le=MAX_LAYERS)]
Width = Annotated[int, Field(gt=0, le=MAX_WIDTH)]
Rows = Annotated[int, Field(gt=0, le=MAX_ROWS)]
Epsilon = Annotated[float, Field(gt=0, lt=1)]


def _one_side(value: Any) -> Any:
    """The side of a square that is written as a pair or as height and width; anything else as it is."""
    if isinstance(value, dict) and set(value) == {"height", "width"}:
        value = [value["height"], value["width"]]
    if isinstance(value, list) and len(value) == 2 and type(value[0]) is int and value[0] == value[1]:
        return value[0]
    return value


def _bounded(value: Any) -> Any:
    """A window of 0 tokens is how some releases write that there is none."""
    return None if type(value) is int and value == 0 else value


#: Functions that the library knows by name, without parameters of their own.
ACTIVATIONS = (
    "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh",
    "gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear", "mish", "quick_gelu", "relu", "relu2",
    "relu6", "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh",
)  # fmt: skip


def _known_function(name: str) -> str:
    if name not in ACTIVATIONS:
        raise ValueError(
            f"the function {name[:60]!r} is unknown{nearest(name, ACTIVATIONS)}; known: {', '.join(ACTIVATIONS)}"
        )
    return "silu" if name == "swish" else name


#: The name of an activation function.
Activation = Annotated[str, AfterValidator(_known_function)]

#: Tokens that a token sees, itself included; None: all before it.
Window = Annotated[Annotated[int, Field(gt=1)] | None, BeforeValidator(_bounded)]

#: The side of an image or of a patch, which are square.
Pixels = Annotated[int, BeforeValidator(_one_side), Field(gt=0, le=2**14)]


class ConfigFile(BaseModel):
    """What all configurations share; keys that change no shape are not read."""

    model_config = ConfigDict(
        strict=True, extra="ignore", frozen=True, allow_inf_nan=False, populate_by_name=True
    )
    architectures: list[str] | None = None
    id2label: dict[str, Any] | None = None
    num_labels: Annotated[int, Field(gt=0, le=MAX_ROWS)] | None = None
    transformers_version: str | None = None

    #: The head that the plain model class of the family has.
    default_architecture: ClassVar[str] = ""

    @property
    def architecture(self) -> str:
        return self.architectures[0] if self.architectures else self.default_architecture

    @property
    def n_labels(self) -> int:
        """Labels of a classifier: stated, counted in id2label, else the library's 2."""
        return self.num_labels or len(self.id2label or ()) or 2

    @property
    def _release(self) -> tuple[int, int] | None:
        """The release of the library that wrote the file."""
        found = re.match(r"(\d{1,3})\.(\d{1,3})", self.transformers_version or "")
        return (int(found[1]), int(found[2])) if found else None

    @property
    def multiplies_angles(self) -> bool:
        """Whether the library that wrote the file computes rotary angles with a matrix product.

        Releases 4.48 to 4.57 do, once per model; later ones multiply elementwise.
        """
        return self._release is not None and (4, 48) <= self._release < (5, 0)

    @property
    def precedes_5(self) -> bool:
        """Whether a release before 5 wrote the file."""
        return self._release is not None and self._release < (5, 0)


def also(name: str, *others: str) -> AliasChoices:
    """A field that files spell in more than one way; the first one wins."""
    return AliasChoices(name, *others)


def refuse_remainder(width: int, heads: int, width_name: str, heads_name: str) -> None:
    """Raises ValueError if the heads do not divide the width."""
    if width % heads:
        raise ValueError(f"{width_name} {width} is not a multiple of {heads_name} {heads}")


def scaled_width(width: int, ratio: float, name: str) -> int:
    """The width times a ratio, rounded down. Raises ValueError where nothing is left."""
    found = int(width * ratio)
    if found < 1:
        raise ValueError(f"{name} {ratio} leaves nothing of the width {width}")
    return found
