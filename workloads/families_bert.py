"""Families of the BERT kind: bidirectional encoders of text that normalise behind their sums."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tilewright.workloads.attention import Attention
from tilewright.workloads.block import Block
from tilewright.workloads.config import (
    Activation,
    ConfigFile,
    Epsilon,
    Layers,
    Rows,
    Width,
    also,
    refuse_remainder,
)
from tilewright.workloads.embedding import Embedding
from tilewright.workloads.family import Family
from tilewright.workloads.feed_forward import FeedForward
from tilewright.workloads.head import Head, Stage, task_of
from tilewright.workloads.norms import Norm, layer_norm
from tilewright.workloads.transformer import Transformer


class BertConfig(ConfigFile):
    """`model_type` bert; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "BertForMaskedLM"
    vocab_size: Rows = 30522
    hidden_size: Width = 768
    num_hidden_layers: Layers = 12
    num_attention_heads: Width = 12
    intermediate_size: Width = 3072
    hidden_act: Activation = "gelu"
    max_position_embeddings: Rows = 512
    type_vocab_size: Rows = 2
    layer_norm_eps: Epsilon = 1e-12
    tie_word_embeddings: bool = True
    pad_token_id: Annotated[int, Field(ge=0)] | None = 0
    position_embedding_type: Literal["absolute"] = "absolute"
    is_decoder: Literal[False] = False

    @model_validator(mode="after")
    def _consistent(self) -> "BertConfig":
        refuse_remainder(self.hidden_size, self.num_attention_heads, "hidden_size", "num_attention_heads")
        return self


class RobertaConfig(BertConfig):
    """`model_type` roberta and those that share its modules: positions start behind the padding's row."""

    default_architecture: ClassVar[str] = "RobertaForMaskedLM"
    vocab_size: Rows = 50265
    pad_token_id: Annotated[int, Field(ge=0)] | None = 1


class DistilBertConfig(ConfigFile):
    """`model_type` distilbert; defaults are the library's class defaults."""

    default_architecture: ClassVar[str] = "DistilBertForMaskedLM"
    vocab_size: Rows = 30522
    dim: Width = Field(768, validation_alias=also("dim", "hidden_size"))
    n_layers: Layers = Field(6, validation_alias=also("n_layers", "num_hidden_layers"))
    n_heads: Width = Field(12, validation_alias=also("n_heads", "num_attention_heads"))
    hidden_dim: Width = 3072
    activation: Activation = "gelu"
    max_position_embeddings: Rows = 512
    tie_word_embeddings: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> "DistilBertConfig":
        refuse_remainder(self.dim, self.n_heads, "dim", "n_heads")
        return self


_DISTILBERT_EPSILON = 1e-12

#: Classes that tell whether one sentence follows another.
_PAIR_HEADS = ("ForPreTraining", "ForNextSentencePrediction")


@dataclass(frozen=True, slots=True)
class _Masked:
    """The masked language model's head: transform, norm and decoder by module, owner of the bias."""

    transform: str
    norm: str
    decoder: str
    bias_owner: str = ""


def _bert(config: BertConfig, task: str) -> Transformer:
    masked = _Masked(
        "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm",
        "cls.predictions.decoder", "cls.predictions",
    )  # fmt: skip
    pooler = Stage("bert.pooler.dense", "tanh", part="body")
    return _encoder("bert", config, 0, _bert_head(config, task, masked, pooler))


def _bert_head(config: BertConfig, task: str, masked: _Masked, pooler: Stage) -> Head:
    epsilon = config.layer_norm_eps
    match task_of(config, task):
        case "SEQ_CLS":
            return Head(
                "classifier", config.n_labels, bias=True, adapts=True, stages=(pooler,), selects="first"
            )
        case "FEATURE_EXTRACTION":
            return Head(stages=(pooler,), selects="first")
        case _ as found:
            head = _each_token(config, found, "bert", masked, config.hidden_act, epsilon)
    follows = Head("cls.seq_relationship", 2, bias=True, adapts=True, stages=(pooler,), selects="first")
    if found or not config.architecture.endswith(_PAIR_HEADS):
        return head
    return replace(head, further=follows) if config.architecture.endswith("ForPreTraining") else follows


def _roberta(model_type: str, config: RobertaConfig, task: str) -> Transformer:
    masked = _Masked("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head")
    match task_of(config, task):
        case "SEQ_CLS":
            dense = Stage("classifier.dense", "tanh")
            head = Head(
                "classifier.out_proj",
                config.n_labels,
                bias=True,
                adapts=True,
                stages=(dense,),
                selects="first",
            )
        case "FEATURE_EXTRACTION":
            head = Head(stages=(Stage("roberta.pooler.dense", "tanh", part="body"),), selects="first")
        case _ as found:
            head = _each_token(config, found, "roberta", masked, "gelu", config.layer_norm_eps)
    offset = (1 if config.pad_token_id is None else config.pad_token_id) + 1
    return _encoder(model_type, config, offset, head)


def _each_token(
    config: BertConfig, task: str, prefix: str, masked: _Masked, function: str, epsilon: float
) -> Head:
    """A head over every token: of token labels, of answer spans, or the masked language model's."""
    if task == "TOKEN_CLS":
        return Head("classifier", config.n_labels, bias=True, adapts=True)
    if task == "QUESTION_ANS":
        return Head("qa_outputs", 2, bias=True, adapts=True)
    norm = Norm(masked.norm, "layernorm", epsilon, ("c",), bias=True)
    table = f"{prefix}.embeddings.word_embeddings" if config.tie_word_embeddings else ""
    stages = (Stage(masked.transform, function, norm),)
    return Head(masked.decoder, config.vocab_size, table, True, masked.bias_owner, stages)


def _encoder(model_type: str, config: BertConfig, offset: int, head: Head) -> Transformer:
    """The encoder that BERT and RoBERTa share; positions start at row `offset`."""
    prefix = "bert" if model_type == "bert" else "roberta"
    epsilon = config.layer_norm_eps
    table = f"{prefix}.embeddings"
    return Transformer(
        model_type=model_type,
        width=config.hidden_size,
        path=f"{prefix}.encoder.layer",
        embedding=Embedding(
            f"{table}.word_embeddings", config.vocab_size,
            positions=f"{table}.position_embeddings", n_positions=config.max_position_embeddings,
            position_offset=offset, norm=layer_norm(f"{table}.LayerNorm", epsilon),
            token_types=f"{table}.token_type_embeddings", n_token_types=config.type_vocab_size,
        ),
        blocks=((bert_block(config), config.num_hidden_layers),),
        final_norm=None,
        head=head,
        max_positions=config.max_position_embeddings - offset,
    )  # fmt: skip


def bert_block(config: BertConfig) -> Block:
    """BERT's layer, norms behind the sums."""
    heads, epsilon = config.num_attention_heads, config.layer_norm_eps
    attention = Attention(
        "attention", heads, heads, config.hidden_size // heads, "output.dense",
        query="self.query", key="self.key", value="self.value",
        qkv_bias=True, output_bias=True, causal=False, cached=False,
    )  # fmt: skip
    inner = FeedForward(
        "", config.intermediate_size, "intermediate.dense", "output.dense", config.hidden_act, bias=True
    )
    norms = (layer_norm("attention.output.LayerNorm", epsilon), layer_norm("output.LayerNorm", epsilon))
    return Block(attention, inner, *norms, "post")


def _distilbert(config: DistilBertConfig, task: str) -> Transformer:
    attention = Attention(
        "attention", config.n_heads, config.n_heads, config.dim // config.n_heads, "out_lin",
        query="q_lin", key="k_lin", value="v_lin",
        qkv_bias=True, output_bias=True, causal=False, cached=False,
    )  # fmt: skip
    inner = FeedForward("ffn", config.hidden_dim, "lin1", "lin2", config.activation, bias=True)
    epsilon, table = _DISTILBERT_EPSILON, "distilbert.embeddings"
    norms = (layer_norm("sa_layer_norm", epsilon), layer_norm("output_layer_norm", epsilon))
    return Transformer(
        model_type="distilbert",
        width=config.dim,
        path="distilbert.transformer.layer",
        embedding=Embedding(
            f"{table}.word_embeddings", config.vocab_size,
            positions=f"{table}.position_embeddings", n_positions=config.max_position_embeddings,
            norm=layer_norm(f"{table}.LayerNorm", epsilon),
        ),
        blocks=((Block(attention, inner, *norms, "post"), config.n_layers),),
        final_norm=None,
        head=_distilbert_head(config, task),
        max_positions=config.max_position_embeddings,
    )  # fmt: skip


def _distilbert_head(config: DistilBertConfig, task: str) -> Head | None:
    match task_of(config, task):
        case "SEQ_CLS":
            stage = Stage("pre_classifier", "relu")
            return Head(
                "classifier", config.n_labels, bias=True, adapts=True, stages=(stage,), selects="first"
            )
        case "TOKEN_CLS":
            return Head("classifier", config.n_labels, bias=True, adapts=True)
        case "QUESTION_ANS":
            return Head("qa_outputs", 2, bias=True, adapts=True)
        case "FEATURE_EXTRACTION":
            return None
    norm = Norm("vocab_layer_norm", "layernorm", _DISTILBERT_EPSILON, ("c",), bias=True)
    stage = Stage("vocab_transform", config.activation, norm)
    table = "distilbert.embeddings.word_embeddings" if config.tie_word_embeddings else ""
    return Head("vocab_projector", config.vocab_size, table, True, stages=(stage,))


TARGETS: Mapping[str, str] = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
    "o": "attention.output.dense",
    "up": "intermediate.dense", "down": "output.dense",
}  # fmt: skip


def _roberta_family(model_type: str) -> Family[RobertaConfig]:
    return Family(RobertaConfig, lambda values, task: _roberta(model_type, values, task), TARGETS)


FAMILIES: Mapping[str, Family[Any]] = {
    "bert": Family(BertConfig, _bert, TARGETS, _PAIR_HEADS),
    "roberta": _roberta_family("roberta"),
    "xlm-roberta": _roberta_family("xlm-roberta"),
    "distilbert": Family(
        DistilBertConfig, _distilbert,
        {
            "q": "attention.q_lin", "k": "attention.k_lin", "v": "attention.v_lin",
            "o": "attention.out_lin", "up": "ffn.lin1", "down": "ffn.lin2",
        },
    ),
}  # fmt: skip
