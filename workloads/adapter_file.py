"""The fields of PEFT's adapter_config.json, by method: types and limits."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tilewright.workloads.targets import Targets

MAX_RANK = 2**20

Rank = Annotated[int, Field(gt=0, le=MAX_RANK)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Bias = Literal["none", "all", "lora_only"]
TaskType = Literal["CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION"]

#: Modules that the library trains in full beside the adapter, by task.
HEADS_BY_TASK = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}


class AdapterFile(BaseModel):
    """What all methods share; keys that change no shape are not read."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)
    peft_type: str
    task_type: TaskType | None = None
    modules_to_save: list[Name] | None = None


class TunerFile(AdapterFile):
    """A method that changes modules by name."""

    target_modules: list[Name] | Name | None = None
    exclude_modules: list[Name] | Name | None = None
    layers_to_transform: list[Annotated[int, Field(ge=0)]] | Annotated[int, Field(ge=0)] | None = None
    layers_pattern: list[Name] | Name | None = None

    def targets(self, default: tuple[str, ...], within: tuple[str, ...]) -> Targets:
        """The targeting rule; where the file names no module, the `default` ones of the stacks `within`."""
        names = self.target_modules
        layers, pattern = self.layers_to_transform, self.layers_pattern
        exclude = self.exclude_modules
        return Targets(
            default if names is None else names if isinstance(names, str) else tuple(names),
            (layers,) if isinstance(layers, int) else tuple(layers) if layers else None,
            (pattern,) if isinstance(pattern, str) else tuple(pattern or ()),
            exclude if isinstance(exclude, str) else tuple(exclude) if exclude else None,
            within if names is None else (),
        )


class LoraFile(TunerFile):
    """LoRA and its variants that this project computes; those it does not are refused by name."""

    r: Rank = 8
    lora_alpha: Annotated[float, Field(ge=0)] = 8
    use_rslora: bool = False
    use_dora: bool = False
    bias: Bias = "none"
    lora_bias: bool = False
    rank_pattern: dict[str, Rank] = Field(default_factory=dict)
    alpha_pattern: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    layer_replication: Any = None
    target_parameters: Any = None
    use_qalora: bool = False
    alora_invocation_tokens: Any = None
    arrow_config: Any = None

    @model_validator(mode="after")
    def _computed_here(self) -> "LoraFile":
        for field in ("use_dora", "layer_replication", "target_parameters", "use_qalora",
                      "alora_invocation_tokens", "arrow_config", "use_bdlora", "velora_config"):  # fmt: skip
            if getattr(self, field, None):
                raise ValueError(f"{field}: this variant of LoRA is not supported")
        return self

    @property
    def trained_tokens(self) -> dict[str, int]:
        """How many token rows are trained, by embedding module."""
        stated = self.trainable_token_indices or {}
        by_name = {"embed_tokens": stated} if isinstance(stated, list) else stated
        return {name: len(set(indices)) for name, indices in by_name.items()}
