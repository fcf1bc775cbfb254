"""Families of state-space models."""

from collections.abc import Mapping
from math import ceil
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tilewright.workloads.config import ConfigFile, Epsilon, Layers, Rows, Width
from tilewright.workloads.embedding import Embedding
from tilewright.workloads.family import Family
from tilewright.workloads.head import text_head
from tilewright.workloads.norms import rms_norm
from tilewright.workloads.state_space import SelectiveScan
from tilewright.workloads.transformer import Transformer


class MambaConfig(ConfigFile):
    """`model_type` mamba; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "MambaForCausalLM"
    vocab_size: Rows = 50280
    hidden_size: Width = 768
    state_size: Width = 16
    num_hidden_layers: Layers = 32
    layer_norm_epsilon: Epsilon = 1e-5
    expand: Annotated[int, Field(gt=0, le=64)] = 2
    intermediate_size: Width | None = None
    conv_kernel: Annotated[int, Field(gt=1, le=1024)] = 4
    use_bias: bool = False
    use_conv_bias: bool = True
    hidden_act: str = "silu"
    time_step_rank: Width | Literal["auto"] = "auto"
    tie_word_embeddings: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> "MambaConfig":
        stated = self.intermediate_size
        if stated is not None and stated != self.expand * self.hidden_size:
            raise ValueError(
                f"intermediate_size {stated} is not expand {self.expand} times hidden_size {self.hidden_size}"
            )
        return self

    @property
    def step_rank(self) -> int:
        """The rank of step sizes; "auto" is a sixteenth of the width."""
        return ceil(self.hidden_size / 16) if self.time_step_rank == "auto" else self.time_step_rank


def _mamba(config: MambaConfig, task: str) -> Transformer:
    epsilon, table = config.layer_norm_epsilon, "backbone.embeddings"
    layer = SelectiveScan(
        rms_norm("norm", epsilon), config.expand * config.hidden_size, config.state_size,
        config.conv_kernel, config.step_rank, config.hidden_act,
        bias=config.use_bias, conv_bias=config.use_conv_bias,
    )  # fmt: skip
    return Transformer(
        model_type="mamba",
        width=config.hidden_size,
        path="backbone.layers",
        embedding=Embedding(table, config.vocab_size),
        blocks=((layer, config.num_hidden_layers),),
        final_norm=rms_norm("backbone.norm_f", epsilon),
        head=text_head(config, task, config.vocab_size, table, tied=config.tie_word_embeddings),
    )


FAMILIES: Mapping[str, Family[Any]] = {
    "mamba": Family(
        MambaConfig, _mamba, {"up": "mixer.in_proj", "down": "mixer.out_proj"},
    ),
}  # fmt: skip
