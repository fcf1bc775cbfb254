"""The fields of PEFT's adapter_config.json, by method: types and limits."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tilewright.workloads.targets import Targets

MAX_RANK = 2**20

Rank = Annotated[int, Field(gt=0, le=MAX_RANK)]
Alpha = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(gt=0, le=2**20)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Bias = Literal["none", "all", "lora_only"]
TunerBias = Literal[
    "none", "all", "vera_only", "boft_only", "oft_only", "hra_only", "miss_only", "fourier_only",
    "vblora_only", "randlora_only", "c3a_only", "MiSS_only", "waveft_only", "glora_only",
]  # fmt: skip
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
    lora_alpha: Alpha = 8
    use_rslora: bool = False
    use_dora: bool = False
    bias: Bias = "none"
    lora_bias: bool = False
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, Alpha] | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    layer_replication: Any = None
    target_parameters: Any = None
    use_qalora: bool = False
    alora_invocation_tokens: Any = None
    arrow_config: Any = None

    @model_validator(mode="after")
    def _computed_here(self) -> "LoraFile":
        for field in ("layer_replication", "target_parameters", "use_qalora",
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


class AdaLoraFile(TunerFile):
    """AdaLoRA; the budget of ranks is spent while it trains, each module starts with `init_r`."""

    init_r: Rank = 12
    lora_alpha: Alpha = 8
    bias: Bias = "none"
    rank_pattern: None = None


class Ia3File(TunerFile):
    """IA3; `feedforward_modules` scale their input, the others their output."""

    feedforward_modules: list[Name] | Name | None = None


class VeraFile(TunerFile):
    r: Rank = 256
    bias: TunerBias = "none"


class ShiraFile(TunerFile):
    r: Rank = 32


class LokrFile(TunerFile):
    r: Rank = 8
    alpha: Alpha = 8
    decompose_both: bool = False
    decompose_factor: Annotated[int, Field(ge=-1, le=2**20)] = -1
    rank_pattern: dict[str, Rank] | None = None


class BoftFile(TunerFile):
    """BOFT; blocks are stated by their size or by their number, the other one is 0."""

    boft_block_size: Annotated[int, Field(ge=0, le=2**20)] = 4
    boft_block_num: Annotated[int, Field(ge=0, le=2**20)] = 0
    boft_n_butterfly_factor: Annotated[int, Field(gt=0, le=64)] = 1
    bias: TunerBias = "none"

    @model_validator(mode="after")
    def _one_of_two(self) -> "BoftFile":
        if bool(self.boft_block_size) == bool(self.boft_block_num):
            raise ValueError("boft_block_size and boft_block_num: exactly one must be above 0")
        return self


class HraFile(TunerFile):
    """HRA; with `apply_GS` the directions are made orthogonal first."""

    r: Rank = 8
    apply_GS: bool = False  # noqa: N815 as the files spell it
    bias: TunerBias = "none"


class VectorBankFile(TunerFile):
    r: Rank = 4
    num_vectors: Count = 256
    vector_length: Count = 256
    topk: Count = 2
    bias: TunerBias = "none"

    @model_validator(mode="after")
    def _enough_vectors(self) -> "VectorBankFile":
        if self.topk > self.num_vectors:
            raise ValueError(f"topk {self.topk} exceeds num_vectors {self.num_vectors}")
        return self


class RandLoraFile(TunerFile):
    r: Rank = 32
    bias: TunerBias = "none"


class CirculantFile(TunerFile):
    block_size: Count = 256
    block_size_pattern: dict[str, Count] | None = None
    bias: TunerBias = "none"


class BottleneckFile(TunerFile):
    """Bottlenecks behind or beside modules, or at both ends of a model; stated by preset only."""

    r: Rank | None = None
    style: Literal["sequential", "pfeiffer", "parallel", "adaptformer", "compacter", "invertible"] = (
        "sequential"
    )
    function: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    n: Annotated[int, Field(gt=0, le=256)] = 4
    q: Annotated[int, Field(gt=0, le=256)] = 1


class PromptFile(AdapterFile):
    num_virtual_tokens: Count


class PromptNetworkFile(PromptFile):
    """P-tuning: a network, perceptron or recurrent, makes the prompt."""

    encoder_reparameterization_type: Literal["MLP", "LSTM"] = "MLP"
    encoder_hidden_size: Count | None = None
    encoder_num_layers: Annotated[int, Field(gt=0, le=64)] = 2


class PrefixFile(PromptFile):
    prefix_projection: bool = False
    encoder_hidden_size: Count | None = None
    num_layers: Count | None = None
    token_dim: Count | None = None


class LohaFile(TunerFile):
    r: Rank = 8
    rank_pattern: dict[str, Rank] | None = None


class FourierFile(TunerFile):
    n_frequency: Annotated[int, Field(gt=0, le=2**30)] = 1000
    n_frequency_pattern: dict[str, Annotated[int, Field(gt=0, le=2**30)]] | None = None
    bias: TunerBias = "none"


class RoadFile(TunerFile):
    variant: Literal["road_1", "road_2", "road_4"] = "road_1"


class NormFile(TunerFile):
    """LN tuning: the named norms are trained in full, as copies."""

    target_modules: list[Name]


class TokensFile(AdapterFile):
    """Rows of tokens that are trained, of the named embeddings."""

    token_indices: Annotated[list[int], Field(min_length=1)]
    target_modules: list[Name] | Name | None = None


class OftFile(TunerFile):
    """OFT; blocks are stated by their size or by their number, the other one is 0."""

    r: Annotated[int, Field(ge=0, le=MAX_RANK)] = 0
    oft_block_size: Annotated[int, Field(ge=0, le=2**20)] = 32
    block_share: bool = False
    use_cayley_neumann: bool = True
    num_cayley_neumann_terms: Annotated[int, Field(ge=4, le=64)] = 5
    bias: TunerBias = "none"

    @model_validator(mode="after")
    def _one_of_two(self) -> "OftFile":
        if bool(self.r) == bool(self.oft_block_size):
            raise ValueError("r and oft_block_size: exactly one must be above 0")
        return self


class MissFile(TunerFile):
    r: Rank = 64
    mini_r: Annotated[int, Field(gt=0, le=MAX_RANK)] = 1
    init_weights: bool | Literal["mini", "bat"] = True
    bias: TunerBias = "none"


class HiraFile(TunerFile):
    """HiRA; the reference library reads a rank pattern and then gives every module the rank `r`."""

    r: Rank = 32


class GloraFile(TunerFile):
    """GLoRA with the forms of its parts that it has by default."""

    r: Rank = 4
    config_A_B: Literal["lora"] = "lora"  # noqa: N815 as the files spell it
    config_C: Literal["lora"] = "lora"  # noqa: N815
    config_D_E: Literal["constant"] = "constant"  # noqa: N815
    bias: TunerBias = "none"


class WaveFile(TunerFile):
    """WaveFT; of the wavelets those with filters whose length the library pads for."""

    n_frequency: Annotated[int, Field(gt=0, le=2**30)] = 2592
    n_frequency_pattern: dict[str, Annotated[int, Field(gt=0, le=2**30)]] | None = None
    proportional_parameters: Literal[False] = False
    wavelet_family: Annotated[str, Field(pattern="^(db([1-9]|10)|sym([2-9]|10)|coif[1-4])$")] = "db1"
    use_idwt: bool = True
    bias: TunerBias = "none"

    @property
    def n_taps(self) -> int:
        """Taps of a filter: 2 for each vanishing moment, of a coiflet 6; 0 without a transform."""
        family = self.wavelet_family
        number = int(family.lstrip("dbsymcoif"))
        return 0 if not self.use_idwt else 6 * number if family.startswith("coif") else 2 * number
