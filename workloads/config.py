"""The fields of model configuration files: types and limits, under the files' own names."""

from typing import Annotated, Any, ClassVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

#: Sizes above these belong to no model; they only overflow what follows.
MAX_LAYERS, MAX_WIDTH, MAX_ROWS = 4096, 2**20, 2**28

Layers = Annotated[int, Field(gt=0, le=MAX_LAYERS)]
Width = Annotated[int, Field(gt=0, le=MAX_WIDTH)]
Rows = Annotated[int, Field(gt=0, le=MAX_ROWS)]
Epsilon = Annotated[float, Field(gt=0, lt=1)]


class ConfigFile(BaseModel):
    """What all configurations share; keys that change no shape are not read."""

    model_config = ConfigDict(
        strict=True, extra="ignore", frozen=True, allow_inf_nan=False, populate_by_name=True
    )
    architectures: list[str] | None = None
    id2label: dict[str, Any] | None = None
    num_labels: Annotated[int, Field(gt=0, le=MAX_ROWS)] | None = None

    #: The head that the plain model class of the family has.
    default_architecture: ClassVar[str] = ""

    @property
    def architecture(self) -> str:
        return self.architectures[0] if self.architectures else self.default_architecture

    @property
    def n_labels(self) -> int:
        """Labels of a classifier: stated, counted in id2label, else the library's 2."""
        return self.num_labels or len(self.id2label or ()) or 2


def also(name: str, *others: str) -> AliasChoices:
    """A field that files spell in more than one way; the first one wins."""
    return AliasChoices(name, *others)


def refuse_remainder(width: int, heads: int, width_name: str, heads_name: str) -> None:
    """Raises ValueError if the heads do not divide the width."""
    if width % heads:
        raise ValueError(f"{width_name} {width} is not a multiple of {heads_name} {heads}")


class Gpt2Config(ConfigFile):
    """`model_type` gpt2; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "GPT2LMHeadModel"
    vocab_size: Rows = 50257
    n_positions: Rows = Field(1024, validation_alias=also("n_positions", "max_position_embeddings"))
    n_embd: Width = Field(768, validation_alias=also("n_embd", "hidden_size"))
    n_layer: Layers = Field(12, validation_alias=also("n_layer", "num_hidden_layers"))
    n_head: Width = Field(12, validation_alias=also("n_head", "num_attention_heads"))
    n_inner: Width | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: Epsilon = 1e-5
    tie_word_embeddings: bool = True
    add_cross_attention: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "Gpt2Config":
        refuse_remainder(self.n_embd, self.n_head, "n_embd", "n_head")
        if self.add_cross_attention:
            raise ValueError("add_cross_attention: cross attention has no keys without an encoder")
        return self
