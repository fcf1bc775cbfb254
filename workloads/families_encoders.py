"""Families of encoders of text beside BERT's: ALBERT, ELECTRA, DeBERTa, ModernBERT."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from tilewright.workloads.attention import Attention
from tilewright.workloads.block import Block
from tilewright.workloads.config import Activation, ConfigFile, Epsilon, Layers, Rows, Width, refuse_remainder
from tilewright.workloads.deberta import ConvolvedBlock, RelativeEmbedding
from tilewright.workloads.disentangled import DisentangledAttention
from tilewright.workloads.embedding import Embedding
from tilewright.workloads.families_bert import TARGETS, BertConfig, bert_block
from tilewright.workloads.family import Family
from tilewright.workloads.feed_forward import FeedForward
from tilewright.workloads.head import Head, Stage, task_of
from tilewright.workloads.norms import Norm, layer_norm
from tilewright.workloads.sequence_convolution import SequenceConvolution
from tilewright.workloads.transformer import Layer, Transformer


class AlbertConfig(BertConfig):
    """`model_type` albert; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "AlbertForMaskedLM"
    vocab_size: Rows = 30000
    embedding_size: Width = 128
    hidden_size: Width = 4096
    num_attention_heads: Width = 64
    intermediate_size: Width = 16384
    num_hidden_groups: Layers = 1
    inner_group_num: Layers = 1
    hidden_act: Activation = "gelu_new"

    @model_validator(mode="after")
    def _groups(self) -> "AlbertConfig":
        if self.num_hidden_groups > 1 and self.inner_group_num > 1:
            raise ValueError(
                f"num_hidden_groups {self.num_hidden_groups} and inner_group_num {self.inner_group_num}:"
                " at most one of them may be above 1"
            )
        if self.num_hidden_groups > self.num_hidden_layers:
            raise ValueError(
                f"num_hidden_groups {self.num_hidden_groups} exceeds num_hidden_layers"
                f" {self.num_hidden_layers}"
            )
        return self


class ElectraConfig(BertConfig):
    """`model_type` electra; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "ElectraForMaskedLM"
    embedding_size: Width = 128
    hidden_size: Width = 256
    num_attention_heads: Width = 4
    intermediate_size: Width = 1024


def _table(prefix: str, config: AlbertConfig | ElectraConfig, project: str) -> Embedding:
    """BERT's sum of three rows, of a width of its own that the module `project` brings to the model's."""
    table = f"{prefix}.embeddings"
    norm = layer_norm(f"{table}.LayerNorm", config.layer_norm_eps)
    return Embedding(
        f"{table}.word_embeddings", config.vocab_size,
        positions=f"{table}.position_embeddings", n_positions=config.max_position_embeddings,
        norm=replace(norm, over=("w",)) if project else norm,
        token_types=f"{table}.token_type_embeddings", n_token_types=config.type_vocab_size,
        table_width=config.embedding_size, project=project, projects_sum=True, project_bias=True,
    )  # fmt: skip


def _albert(config: AlbertConfig, task: str) -> Transformer:
    """All layers share the parameters of one, or those of each group in turn."""
    heads, epsilon, groups = config.num_attention_heads, config.layer_norm_eps, config.num_hidden_groups
    inside = "albert_layers.0." if groups > 1 else ""
    attention = Attention(
        f"{inside}attention", heads, heads, config.hidden_size // heads, "dense",
        query="query", key="key", value="value",
        qkv_bias=True, output_bias=True, causal=False, cached=False,
    )  # fmt: skip
    inner = FeedForward(
        inside.rstrip("."), config.intermediate_size, "ffn", "ffn_output", config.hidden_act, bias=True
    )
    block = Block(
        attention, inner, layer_norm(f"{inside}attention.LayerNorm", epsilon),
        layer_norm(f"{inside}full_layer_layer_norm", epsilon), "post",
    )  # fmt: skip
    stack = "albert.encoder.albert_layer_groups"
    return Transformer(
        model_type="albert",
        width=config.hidden_size,
        path=stack if groups > 1 else f"{stack}.0.albert_layers",
        embedding=_table("albert", config, "albert.encoder.embedding_hidden_mapping_in"),
        blocks=((block, config.num_hidden_layers * config.inner_group_num),),
        final_norm=None,
        head=_albert_head(config, task),
        max_positions=config.max_position_embeddings,
        n_parameter_sets=groups * config.inner_group_num,
    )


def _albert_head(config: AlbertConfig, task: str) -> Head:
    pooler = Stage("albert.pooler", "tanh", part="body")
    match task_of(config, task):
        case "SEQ_CLS":
            return Head(
                "classifier", config.n_labels, bias=True, adapts=True, stages=(pooler,), selects="first"
            )
        case "FEATURE_EXTRACTION":
            return Head(stages=(pooler,), selects="first")
        case "TOKEN_CLS" | "QUESTION_ANS" as found:
            return _labels(config, found)
    norm = Norm("predictions.LayerNorm", "layernorm", config.layer_norm_eps, ("w0",), bias=True)
    stage = Stage("predictions.dense", config.hidden_act, norm, width=config.embedding_size)
    table = "albert.embeddings.word_embeddings" if config.tie_word_embeddings else ""
    head = Head("predictions.decoder", config.vocab_size, table, True, "predictions", (stage,))
    if not config.architecture.endswith("ForPreTraining"):
        return head
    ordered = Head("sop_classifier.classifier", config.n_labels, bias=True, adapts=True, stages=(pooler,))
    return replace(head, further=ordered)


def _labels(config: ConfigFile, task: str) -> Head:
    """A head over each token's state: labels, or the ends of an answer."""
    if task == "TOKEN_CLS":
        return Head("classifier", config.n_labels, bias=True, adapts=True)
    return Head("qa_outputs", 2, bias=True, adapts=True)


def _electra(config: ElectraConfig, task: str) -> Transformer:
    project = "electra.embeddings_project" if config.embedding_size != config.hidden_size else ""
    return Transformer(
        model_type="electra",
        width=config.hidden_size,
        path="electra.encoder.layer",
        embedding=_table("electra", config, project),
        blocks=((bert_block(config), config.num_hidden_layers),),
        final_norm=None,
        head=_electra_head(config, task),
        max_positions=config.max_position_embeddings,
    )


def _electra_head(config: ElectraConfig, task: str) -> Head | None:
    match task_of(config, task):
        case "SEQ_CLS":
            dense = Stage("classifier.dense", "gelu")
            return Head(
                "classifier.out_proj",
                config.n_labels,
                bias=True,
                adapts=True,
                stages=(dense,),
                selects="first",
            )
        case "FEATURE_EXTRACTION":
            return None
        case "TOKEN_CLS" | "QUESTION_ANS" as found:
            return _labels(config, found)
    if config.architecture.endswith("ForPreTraining"):
        dense = Stage("discriminator_predictions.dense", config.hidden_act)
        return Head("discriminator_predictions.dense_prediction", 1, bias=True, stages=(dense,))
    norm = Norm("generator_predictions.LayerNorm", "layernorm", config.layer_norm_eps, ("w0",), bias=True)
    stage = Stage("generator_predictions.dense", "gelu", norm, width=config.embedding_size)
    table = "electra.embeddings.word_embeddings" if config.tie_word_embeddings else ""
    return Head("generator_lm_head", config.vocab_size, table, bias=True, stages=(stage,))


class DebertaConfig(ConfigFile):
    """`model_type` deberta-v2; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "DebertaV2ForMaskedLM"
    vocab_size: Rows = 128100
    hidden_size: Width = 1536
    embedding_size: Width | None = None
    attention_head_size: Width | None = None
    num_hidden_layers: Layers = 24
    num_attention_heads: Width = 24
    intermediate_size: Width = 6144
    hidden_act: Activation = "gelu"
    max_position_embeddings: Rows = 512
    type_vocab_size: Annotated[int, Field(ge=0, le=2**20)] = 0
    layer_norm_eps: Epsilon = 1e-7
    relative_attention: bool = False
    max_relative_positions: Annotated[int, Field(ge=-1, le=2**20)] = -1
    position_buckets: Annotated[int, Field(ge=-1, le=2**20)] = -1
    position_biased_input: bool = True
    pos_att_type: list[str] | None = None
    share_att_key: bool = False
    norm_rel_ebd: str = "none"
    conv_kernel_size: Annotated[int, Field(ge=0, le=1023)] = 0
    conv_groups: Width = 1
    conv_act: Activation = "tanh"
    pooler_hidden_size: Width | None = None
    pooler_hidden_act: Activation = "gelu"
    legacy: bool = True
    tie_word_embeddings: bool = True

    @field_validator("pos_att_type", mode="before")
    @classmethod
    def _listed(cls, stated: Any) -> Any:
        """Both spellings: a list, or names with bars between them."""
        return [name.strip() for name in stated.lower().split("|")] if isinstance(stated, str) else stated

    @model_validator(mode="after")
    def _consistent(self) -> "DebertaConfig":
        refuse_remainder(self.hidden_size, self.num_attention_heads, "hidden_size", "num_attention_heads")
        refuse_remainder(self.hidden_size, self.conv_groups, "hidden_size", "conv_groups")
        if self.conv_kernel_size and self.conv_kernel_size % 2 == 0:
            raise ValueError(f"conv_kernel_size must be odd, got {self.conv_kernel_size}")
        if self.pooler_hidden_size not in (None, self.hidden_size):
            raise ValueError(
                f"pooler_hidden_size {self.pooler_hidden_size} is not hidden_size {self.hidden_size}"
            )
        return self

    @property
    def n_distances(self) -> int:
        """Rows of relative positions."""
        if not self.relative_attention:
            return 0
        reach = (
            self.max_relative_positions if self.max_relative_positions > 0 else self.max_position_embeddings
        )
        return 2 * (self.position_buckets if self.position_buckets > 0 else reach)


def _deberta(config: DebertaConfig, task: str) -> Transformer:
    epsilon, heads, kinds = config.layer_norm_eps, config.num_attention_heads, config.pos_att_type or []
    attention = DisentangledAttention(
        "attention", heads, config.attention_head_size or config.hidden_size // heads, "output.dense",
        config.n_distances, "c2p" in kinds, "p2c" in kinds, config.share_att_key,
    )  # fmt: skip
    inner = FeedForward(
        "", config.intermediate_size, "intermediate.dense", "output.dense", config.hidden_act, bias=True
    )
    norms = (layer_norm("attention.output.LayerNorm", epsilon), layer_norm("output.LayerNorm", epsilon))
    block = Block(attention, inner, *norms, "post")
    blocks: tuple[tuple[Layer, int], ...] = ((block, config.num_hidden_layers),)
    if taps := config.conv_kernel_size:
        convolution = SequenceConvolution("conv.conv", taps, 1, taps // 2, config.conv_groups)
        norm = layer_norm("conv.LayerNorm", epsilon)
        first = ConvolvedBlock(block, convolution, norm, config.conv_act, "deberta.encoder")
        blocks = ((first, 1), (block, config.num_hidden_layers - 1))
    return Transformer(
        model_type="deberta-v2",
        width=config.hidden_size,
        path="deberta.encoder.layer",
        embedding=_deberta_embedding(config),
        blocks=tuple(run for run in blocks if run[1]),
        final_norm=None,
        head=_deberta_head(config, task),
        max_positions=config.max_position_embeddings,
    )


def _deberta_embedding(config: DebertaConfig) -> RelativeEmbedding:
    table, width = "deberta.embeddings", config.embedding_size or config.hidden_size
    other = width != config.hidden_size
    words = Embedding(
        f"{table}.word_embeddings", config.vocab_size,
        positions=f"{table}.position_embeddings" if config.position_biased_input else "",
        n_positions=config.max_position_embeddings,
        norm=layer_norm(f"{table}.LayerNorm", config.layer_norm_eps),
        token_types=f"{table}.token_type_embeddings" if config.type_vocab_size else "",
        n_token_types=config.type_vocab_size,
        table_width=width if other else 0, project=f"{table}.embed_proj" if other else "", projects_sum=True,
    )  # fmt: skip
    normed = "layer_norm" in [name.strip() for name in config.norm_rel_ebd.lower().split("|")]
    norm = layer_norm("deberta.encoder.LayerNorm", config.layer_norm_eps) if normed else None
    return RelativeEmbedding(words, "deberta.encoder.rel_embeddings", config.n_distances, norm)


def _deberta_head(config: DebertaConfig, task: str) -> Head | None:
    width, epsilon = config.embedding_size or config.hidden_size, config.layer_norm_eps
    table = "deberta.embeddings.word_embeddings"
    match task_of(config, task):
        case "SEQ_CLS":
            dense = Stage("pooler.dense", config.pooler_hidden_act)
            return Head(
                "classifier", config.n_labels, bias=True, adapts=True, stages=(dense,), selects="first"
            )
        case "FEATURE_EXTRACTION":
            return None
        case "TOKEN_CLS" | "QUESTION_ANS" as found:
            return _labels(config, found)
    if not config.legacy:
        if width != config.hidden_size:
            raise ValueError(f"legacy false with embedding_size {width} is not supported")
        norm = Norm("lm_predictions.lm_head.LayerNorm", "layernorm", epsilon, ("c",), bias=True)
        stage = Stage("lm_predictions.lm_head.dense", config.hidden_act, norm)
        return Head("lm_predictions.lm_head", config.vocab_size, table, True, stages=(stage,))
    part = "cls.predictions"
    norm = Norm(f"{part}.transform.LayerNorm", "layernorm", epsilon, ("w0",), bias=True)
    stage = Stage(f"{part}.transform.dense", config.hidden_act, norm, width=width)
    tied = table if config.tie_word_embeddings else ""
    return Head(f"{part}.decoder", config.vocab_size, tied, True, part, (stage,))


class ModernBertConfig(ConfigFile):
    """`model_type` modernbert; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "ModernBertForMaskedLM"
    vocab_size: Rows = 50368
    hidden_size: Width = 768
    intermediate_size: Width = 1152
    num_hidden_layers: Layers = 22
    num_attention_heads: Width = 12
    hidden_activation: Activation = "gelu"
    max_position_embeddings: Rows = 8192
    norm_eps: Epsilon = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    decoder_bias: bool = True
    classifier_bias: bool = False
    classifier_activation: Activation = "gelu"
    classifier_pooling: Literal["cls", "mean"] = "cls"
    global_attn_every_n_layers: Layers = 3
    local_attention: Annotated[int, Field(gt=0)] = 128
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None
    tie_word_embeddings: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> "ModernBertConfig":
        refuse_remainder(self.hidden_size, self.num_attention_heads, "hidden_size", "num_attention_heads")
        if self.layer_types is not None and len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"layer_types: {len(self.layer_types)} layers given, num_hidden_layers is"
                f" {self.num_hidden_layers}"
            )
        return self

    @property
    def is_local(self) -> tuple[bool, ...]:
        """Which layers see their neighbourhood only."""
        if self.layer_types is not None:
            return tuple(kind == "sliding_attention" for kind in self.layer_types)
        every = self.global_attn_every_n_layers
        return tuple(layer % every > 0 for layer in range(self.num_hidden_layers))


def _modernbert(config: ModernBertConfig, task: str) -> Transformer:
    def block(kind: tuple[bool, bool]) -> Block:
        first, local = kind
        norm = _modern_norm(config, "attn_norm")
        reach = config.local_attention // 2 if local else None
        return Block(
            replace(attention, reach=reach), inner, None if first else norm, _modern_norm(config, "mlp_norm")
        )

    heads, width = config.num_attention_heads, config.hidden_size
    attention = Attention(
        "attn", heads, heads, width // heads, "Wo", fused="Wqkv", qkv_bias=config.attention_bias,
        output_bias=config.attention_bias, rotary_dim=width // heads, causal=False, cached=False,
    )  # fmt: skip
    inner = FeedForward(
        "mlp", config.intermediate_size, "Wi", "Wo", config.hidden_activation, bias=config.mlp_bias,
        fused=True,
    )  # fmt: skip
    kinds = groupby((number == 0, local) for number, local in enumerate(config.is_local))
    multiplies = config.multiplies_angles
    return Transformer(
        model_type="modernbert",
        width=width,
        path="model.layers",
        embedding=Embedding(
            "model.embeddings.tok_embeddings", config.vocab_size,
            norm=_modern_norm(config, "model.embeddings.norm"),
            n_angles=attention.rotary_dim // 2 if multiplies else 0,
            n_angle_products=config.num_hidden_layers,
        ),
        blocks=tuple((block(kind), sum(1 for _ in run)) for kind, run in kinds),
        final_norm=_modern_norm(config, "model.final_norm"),
        head=_modern_head(config, task),
        max_positions=config.max_position_embeddings,
    )  # fmt: skip


def _modern_norm(config: ModernBertConfig, module: str) -> Norm:
    return Norm(module, "layernorm", config.norm_eps, bias=config.norm_bias)


def _modern_head(config: ModernBertConfig, task: str) -> Head | None:
    found = task_of(config, task)
    if found == "FEATURE_EXTRACTION":
        return None
    norm = Norm("head.norm", "layernorm", config.norm_eps, ("c",), bias=config.norm_bias)
    stages = (Stage("head.dense", config.classifier_activation, norm, config.classifier_bias),)
    match found:
        case "SEQ_CLS":
            selects: Literal["first", "mean"] = "first" if config.classifier_pooling == "cls" else "mean"
            return Head("classifier", config.n_labels, bias=True, adapts=True, stages=stages, selects=selects)
        case "TOKEN_CLS":
            return Head("classifier", config.n_labels, bias=True, adapts=True, stages=stages)
        case "QUESTION_ANS":
            return Head("classifier", 2, bias=True, adapts=True, stages=stages)
    table = "model.embeddings.tok_embeddings" if config.tie_word_embeddings else ""
    return Head("decoder", config.vocab_size, table, config.decoder_bias, stages=stages)


FAMILIES: Mapping[str, Family[Any]] = {
    "albert": Family(
        AlbertConfig, _albert,
        {
            "q": "attention.query", "k": "attention.key", "v": "attention.value", "o": "attention.dense",
            "up": "ffn", "down": "ffn_output",
        },
        ("ForPreTraining",),
    ),
    "electra": Family(ElectraConfig, _electra, TARGETS, ("ForPreTraining",)),
    "deberta-v2": Family(
        DebertaConfig, _deberta,
        {
            **TARGETS, "q": "attention.self.query_proj", "k": "attention.self.key_proj",
            "v": "attention.self.value_proj",
        },
    ),
    "modernbert": Family(
        ModernBertConfig, _modernbert,
        {
            "q": "attn.Wqkv", "k": "attn.Wqkv", "v": "attn.Wqkv", "o": "attn.Wo",
            "up": "mlp.Wi", "gate": "mlp.Wi", "down": "mlp.Wo",
        },
    ),
}  # fmt: skip
