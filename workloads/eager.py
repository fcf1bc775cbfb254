"""The bytes that the reference implementation keeps for a backward pass, eager and in fp32.

It keeps what our ledger does, and more: what a function makes on its way, copies of shared heads, masks of
dropout, the loss. The rules below are those of the library's modules, family by family; what has none is
refused by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Graph, LayerClass
from tilewright.dataflow.operator import Kind, Operator
from tilewright.workloads.ledger import kept_activations
from tilewright.workloads.training import BACKWARD
from tilewright.workloads.workload import Workload

_BYTES = 4  # of an element in fp32, of the ledger's indices
_INDEX_BYTES = 8
#: Tensors of a function's own size that it keeps besides its input and its result: x / 2, tanh, 1 + tanh.
_ON_THE_WAY = {"gelu_new": 3}


@dataclass(frozen=True, slots=True)
class _Family:
    """Dropout by (field, value where not stated): of embeddings, of shares, of what a layer adds.

    `targets`: the loss is of `next` tokens, of the `same` ones, or of a `class` per sequence. Positions are
    one row of indices for all sequences, or one `each`.
    """

    targets: str
    embedding: tuple[str, float] | None = None
    shares: tuple[str, float] | None = None
    branches: tuple[str, float] | None = None
    each_positions: bool = False


_FAMILIES = {
    "gpt2": _Family("next", ("embd_pdrop", 0.1), ("attn_pdrop", 0.1), ("resid_pdrop", 0.1)),
    "opt": _Family("next", None, ("attention_dropout", 0.0), ("dropout", 0.1), each_positions=True),
    "llama": _Family("next", None, ("attention_dropout", 0.0)),
    "qwen2": _Family("next", None, ("attention_dropout", 0.0)),
    "bert": _Family(
        "same", ("hidden_dropout_prob", 0.1), ("attention_probs_dropout_prob", 0.1),
        ("hidden_dropout_prob", 0.1),
    ),
    "vit": _Family(
        "class", ("hidden_dropout_prob", 0.0), ("attention_probs_dropout_prob", 0.0),
        ("hidden_dropout_prob", 0.0),
    ),
}  # fmt: skip
_ARCHITECTURES = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForImageClassification")
_METHODS = ("LORA", "LOKR", "VERA", "PREFIX_TUNING", "PROMPT_TUNING")
#: Settings of a LoRA file with operators of the library's own that no rule describes.
_WITHOUT_RULE = ("use_dora", "lora_dropout", "vera_dropout", "rank_dropout", "module_dropout")


def check_rules(config: Mapping[str, Any], adapter: Mapping[str, Any] | None) -> None:
    """Raises InputError for a family, a head or an adapter without rules."""
    model_type = config.get("model_type")
    if model_type not in _FAMILIES:
        raise InputError(f"what eager execution of {model_type} keeps is not modelled")
    architecture = (config.get("architectures") or [""])[0]
    if not architecture.endswith(_ARCHITECTURES):
        raise InputError(f"what eager execution of {architecture or 'a bare model'} keeps is not modelled")
    if adapter is None:
        return
    method = adapter.get("peft_type")
    if model_type == "bert":  # whose heads of a task have a dropout of their own
        raise InputError("what eager execution of an adapted bert keeps is not modelled")
    stated = [name for name in _WITHOUT_RULE if adapter.get(name)]
    if method not in _METHODS or stated:
        raise InputError(f"what eager execution of {stated[0] if stated else method} keeps is not modelled")


def eager_saved_bytes(
    workload: Workload, config: Mapping[str, Any], adapter: Mapping[str, Any] | None = None
) -> int:
    """Bytes of all storages but parameters that eager execution keeps for the backward pass of a loss.

    workload: a training step in the reference's lowering, all types fp32, without recomputation; `config` and
    `adapter` are the fields of its files.
    """
    family = _FAMILIES[workload.model_type]
    forward = {layer.name: layer for layer in workload.network}
    total = sum(kept.count * kept.n_bytes for kept in kept_activations(workload.network))
    for layer in workload.network:
        name, mark, _ = layer.name.rpartition(BACKWARD)
        if mark:
            graph = forward[name].graph
            total += layer.count * _extra_bytes(graph, layer.graph)
            total += layer.count * _dropout_bytes(name, graph, layer.graph, family, config)
    total += _angle_bytes(workload) + _index_bytes(workload, family)
    total += _row_bytes(forward["head"].graph, workload, adapter or {})
    if family.targets == "class":
        total += _unread_bytes(forward["head"].graph, forward[f"head{BACKWARD}"].graph, workload.seq)
    return total + _loss_bytes(forward["head"].graph, workload, family)


def _differentiated(graph: Graph, backward: Graph) -> dict[tuple[str, int], Operator]:
    """The forward operators and positions of inputs that have a gradient."""
    found = {}
    for operator in backward.operators:
        name, _, position = operator.name.rpartition(f"{BACKWARD}_")
        if position.isdecimal():
            found[name, int(position)] = next(op for op in graph.operators if op.name == name)
    return found


def _extra_bytes(graph: Graph, backward: Graph) -> int:
    """What functions keep on their way, and shared heads that are copied for each head that reads them."""
    gradients = _differentiated(graph, backward)
    total = 0
    for operator in {op.name: op for op in gradients.values()}.values():
        n_elements = graph.n_elements(operator.output.tensor)
        if operator.function == "layernorm":  # mean and deviation; the ledger has one number for both
            total += _BYTES * graph.n_elements(operator.inputs[1].tensor)
        elif operator.function == "rmsnorm" and (operator.name, 2) in gradients:  # x before the weight
            total += _BYTES * n_elements
        total += _BYTES * n_elements * _ON_THE_WAY.get(operator.function, 0)
    copied = {
        access.tensor: term.divisor
        for operator in backward.operators
        if operator.kind is Kind.CONTRACTION and operator.group == "attention"
        for access in operator.inputs
        for index in access.indices
        for term in index.terms
        if term.divisor > 1
    }
    return total + sum(_BYTES * graph.n_elements(name) * (times - 1) for name, times in copied.items())


def _dropout_bytes(
    name: str, graph: Graph, backward: Graph, family: _Family, config: Mapping[str, Any]
) -> int:
    """Masks, which are as wide as what they mask, and dropped shares, which the values' gradient reads."""

    def drops(site: tuple[str, float] | None) -> bool:
        return site is not None and config.get(site[0], site[1]) > 0

    names = {operator.name for operator in backward.operators}
    total = 0
    if name == "embed" and drops(family.embedding):
        total += graph.n_elements(graph.outputs[0])
    if drops(family.shares) and f"normalise{BACKWARD}_dot" in names:
        n_shares = graph.n_elements("shares")
        total += n_shares * (2 if f"mix{BACKWARD}_1" in names else 1)
    if drops(family.branches):
        branches = ("attention_residual", "feed_forward_residual")
        n_masked = sum(f"{branch}{BACKWARD}_1" in names for branch in branches)
        total += n_masked * graph.n_elements(graph.outputs[0])
    return _BYTES * total


def _row_bytes(head: Graph, workload: Workload, adapter: Mapping[str, Any]) -> int:
    """Indices of trained vectors, and of trained rows, which make a second table where the head shares it."""
    total = _INDEX_BYTES * int(adapter.get("num_virtual_tokens") or 0)
    rows = adapter.get("trainable_token_indices") or []
    places = next(iter(rows.values())) if isinstance(rows, Mapping) else rows
    if places:
        total += _INDEX_BYTES * len(places)
        if any(parameter.tied_to for parameter in workload.parameters):
            total += _INDEX_BYTES * len(places) + _BYTES * head.size("v") * head.size("d")
    return total


def _unread_bytes(head: Graph, backward: Graph, n_tokens: int) -> int:
    """The last norm of tokens that no head reads: two statistics for each, its result where that is kept."""
    n_others = head.size("b") * (n_tokens - head.size("t"))
    (norm,) = (op for op in head.operators if op.function == "layernorm")
    kept = norm.output.tensor in backward.inputs
    return _BYTES * n_others * (2 + kept * head.size("d"))


def _angle_bytes(workload: Workload) -> int:
    """Cosines and sines of all positions, once per model."""
    for layer in workload.network:
        for operator in layer.graph.operators:
            if operator.function == "rotary_grad":
                forward = operator.name.rpartition(BACKWARD)[0]
                return 2 * _BYTES * layer.graph.size("m") * _rotary_dim(workload.network, forward)
    return 0


def _rotary_dim(network: tuple[LayerClass, ...], name: str) -> int:
    found = next(op for layer in network for op in layer.graph.operators if op.name == name)
    return int(dict(found.parameters)["rotary_dim"])


def _index_bytes(workload: Workload, family: _Family) -> int:
    """Tokens and positions at 8 bytes where their tables are trained; types are one row for all sequences."""
    backward = [layer.graph for layer in workload.network if layer.name == f"embed{BACKWARD}"]
    if not backward:
        return 0
    inputs, outputs = backward[0].inputs, backward[0].outputs
    row, rows = workload.seq, workload.seq * workload.batch
    total = 0
    if "tokens" in inputs:
        total += (_INDEX_BYTES - _BYTES) * rows
    if "token_types" in inputs:
        total += _INDEX_BYTES * row - _BYTES * rows
    elif any(name.startswith("d_transformer_wpe") or "embed_positions" in name for name in outputs):
        total += _INDEX_BYTES * (rows if family.each_positions else row)
    return total


def _loss_bytes(head: Graph, workload: Workload, family: _Family) -> int:
    """The logarithms of shares, the targets, and the weight of their mean.

    Targets of next tokens are those of the tokens with one more behind them; a single sequence keeps that.
    """
    n_logits = head.n_elements(head.outputs[0])
    n_targets = n_logits // head.size("v")
    if family.targets == "next" and workload.batch == 1:
        n_targets += 1
    return _BYTES * n_logits + _INDEX_BYTES * n_targets + _BYTES
