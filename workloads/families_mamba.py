"""Families of state-space models."""

from collections.abc import Mapping
from math import ceil
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tilewright.workloads.config import Activation, ConfigFile, Epsilon, Layers, Rows, Width, refuse_remainder
from tilewright.workloads.embedding import Embedding
from tilewright.workloads.family import Family
from tilewright.workloads.head import text_head
from tilewright.workloads.norms import rms_norm
from tilewright.workloads.state_duality import ChunkedScan
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
    hidden_act: Activation = "silu"
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
        bias=config.use_bias, conv_bias=config.use_conv_bias, by_element=config.precedes_5,
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


class Mamba2Config(ConfigFile):
    """`model_type` mamba2; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "Mamba2ForCausalLM"
    vocab_size: Rows = 32768
    hidden_size: Width = 4096
    num_heads: Width = 128
    head_dim: Width = 64
    state_size: Width = 128
    n_groups: Width = 8
    num_hidden_layers: Layers = 64
    layer_norm_epsilon: Epsilon = 1e-5
    expand: Annotated[int, Field(gt=0, le=64)] = 2
    conv_kernel: Annotated[int, Field(gt=1, le=1024)] = 4
    chunk_size: Annotated[int, Field(gt=0, le=2**16)] = 256
    use_bias: bool = False
    use_conv_bias: bool = True
    hidden_act: Activation = "silu"
    tie_word_embeddings: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "Mamba2Config":
        refuse_remainder(self.num_heads, self.n_groups, "num_heads", "n_groups")
        if self.num_heads * self.head_dim != self.expand * self.hidden_size:
            raise ValueError(
                f"num_heads {self.num_heads} times head_dim {self.head_dim} is not expand {self.expand}"
                f" times hidden_size {self.hidden_size}"
            )
        return self


def _mamba2(config: Mamba2Config, task: str) -> Transformer:
    epsilon, table = config.layer_norm_epsilon, "backbone.embeddings"
    layer = ChunkedScan(
        rms_norm("norm", epsilon), config.num_heads, config.head_dim, config.state_size, config.n_groups,
        config.conv_kernel, config.chunk_size, config.hidden_act, epsilon,
        bias=config.use_bias, conv_bias=config.use_conv_bias, by_element=config.precedes_5,
    )  # fmt: skip
    return Transformer(
        model_type="mamba2",
        width=config.hidden_size,
        path="backbone.layers",
        embedding=Embedding(table, config.vocab_size),
        blocks=((layer, config.num_hidden_layers),),
        final_norm=rms_norm("backbone.norm_f", epsilon),
        head=text_head(config, task, config.vocab_size, table, tied=config.tie_word_embeddings),
    )


_TARGETS: Mapping[str, str] = {"up": "mixer.in_proj", "down": "mixer.out_proj"}

FAMILIES: Mapping[str, Family[Any]] = {
    "mamba": Family(MambaConfig, _mamba, _TARGETS),
    "mamba2": Family(Mamba2Config, _mamba2, _TARGETS),
}
