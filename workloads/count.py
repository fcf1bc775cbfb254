"""Counting a workload: sums over the operators of its graphs and over its parameters."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Kind, Operator
from tilewright.dataflow.tensor import DTYPE_BITS, Role
from tilewright.workloads.ledger import Kept, kept_activations, peak_training_bytes
from tilewright.workloads.optimizer import gradient_bytes, state_bytes
from tilewright.workloads.run import KEPT_ROWS, Parameter
from tilewright.workloads.workload import Workload

#: The share of the counts that a contraction belongs to, by its group; other groups are linear.
SHARE_BY_GROUP = {"attention": "attention_bmm", "expert": "moe_expert_bmm", "ssm": "ssm_bmm",
                  "bmm": "other_bmm", "conv": "conv", "head_conv": "conv"}  # fmt: skip
_CONVOLUTIONS = ("conv", "head_conv")
_HEAD_GROUPS = ("head", "head_conv")
_LINEAR_SHARE = "linear"
_BYTES_FP16 = 2


@dataclass(frozen=True, slots=True)
class OpCount:
    """One operator of a layer class; `macs` of one layer, executed `repeat` times."""

    name: str
    kind: str
    macs: int
    repeat: int


@dataclass(frozen=True, slots=True)
class Counts:
    """What one run computes and holds. FLOPs are 2 per multiply-accumulate; other operators count 0.

    `flops_total` is the sum of linear, attention_bmm, conv and other; `flops_other` is the sum of
    moe_expert_bmm, ssm_bmm and other_bmm; the output head is part of linear, `flops_bmm_all` is
    what is neither linear nor a convolution. `saved_activation_bytes` is what a training step's forward
    pass keeps for the backward one, tensor by tensor in `saved_activations`; `peak_training_bytes` holds
    it, parameters, gradients, the optimizer's state and what is live. `params_base` are those
    of the model without its adapter, `params_base_model_only` without its head either; those of a tower
    leave out what projects its result for a match. `n_ops_bmm` and
    `out_elems_bmm` cover every contraction that is neither linear nor a convolution; a contraction in a
    recurrence is one call per step.
    """

    params_total: int
    params_trainable: int
    params_with_tied_counted_twice: int
    params_base: int
    params_base_model_only: int
    params_input_embedding: int
    params_text_tower: int
    params_vision_tower: int
    n_param_tensors: int
    n_trainable_tensors: int
    adapter_buffer_elems: int
    flops_total: int
    flops_linear: int
    flops_attention_bmm: int
    flops_conv: int
    flops_other: int
    flops_moe_expert_bmm: int
    flops_ssm_bmm: int
    flops_other_bmm: int
    flops_output_head: int
    flops_bmm_all: int
    n_ops_linear: int
    n_ops_bmm: int
    n_ops_conv: int
    out_elems_linear: int
    out_elems_bmm: int
    out_elems_conv: int
    output_elems: int
    kv_cache_bytes_fp16: int
    weight_bytes: int
    peak_activation_bytes: int
    saved_activation_bytes: int
    gradient_bytes: int
    optimizer_state_bytes: int
    peak_training_bytes: int
    lowering: str
    ops: tuple[OpCount, ...]
    saved_activations: tuple[Kept, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields of `count --json`."""
        return asdict(self)


def count(workload: Workload) -> Counts:
    """Count a workload as its own lowering executes it."""
    flops, n_ops, elements = _operator_sums(workload)
    other = sum(flops[share] for share in ("moe_expert_bmm", "ssm_bmm", "other_bmm"))
    weight_bytes: int = sum(
        parameter.count * -(-parameter.n_elements * DTYPE_BITS[parameter.dtype] // 8)
        for parameter in workload.parameters
        if not parameter.tied_to
    )
    return Counts(
        **_parameter_sums(workload.parameters),
        flops_total=flops["linear"] + flops["attention_bmm"] + flops["conv"] + other,
        flops_linear=flops["linear"],
        flops_attention_bmm=flops["attention_bmm"],
        flops_conv=flops["conv"],
        flops_other=other,
        flops_moe_expert_bmm=flops["moe_expert_bmm"],
        flops_ssm_bmm=flops["ssm_bmm"],
        flops_other_bmm=flops["other_bmm"],
        flops_output_head=flops["head"],
        flops_bmm_all=flops["attention_bmm"] + other,
        n_ops_linear=n_ops["linear"],
        n_ops_bmm=n_ops["bmm"],
        n_ops_conv=n_ops["conv"],
        out_elems_linear=elements["linear"],
        out_elems_bmm=elements["bmm"],
        out_elems_conv=elements["conv"],
        output_elems=_output_elements(workload),
        kv_cache_bytes_fp16=sum(
            layer.count * _cache_elements(layer.graph) * _BYTES_FP16
            for layer in workload.last_step or workload.network
        ),
        weight_bytes=weight_bytes,
        peak_activation_bytes=max(peak_activation_bytes(layer.graph) for layer in workload.network),
        **_training_sums(workload, weight_bytes),
        lowering=workload.lowering,
        ops=tuple(
            OpCount(f"{layer.name}.{operator.name}", operator.kind.value, layer.graph.macs(operator),
                    layer.count)
            for layer in workload.network
            for operator in layer.graph.operators
        ),
    )  # fmt: skip


def _training_sums(workload: Workload, weight_bytes: int) -> dict[str, Any]:
    """What a training step holds; zeros in other phases."""
    trains = workload.phase == "train"
    dtype = workload.precision.dtype(Role.GRADIENT)
    gradients = gradient_bytes(workload.parameters, dtype) if trains else 0
    states = state_bytes(workload.parameters, workload.run.training.optimizer) if trains else 0
    kept = kept_activations(workload.network) if trains else ()
    stored = weight_bytes + gradients + states
    return {
        "saved_activation_bytes": sum(entry.count * entry.n_bytes for entry in kept),
        "gradient_bytes": gradients,
        "optimizer_state_bytes": states,
        "peak_training_bytes": peak_training_bytes(workload.network, stored) if trains else 0,
        "saved_activations": kept,
    }


def _operator_sums(workload: Workload) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """FLOPs by share, and calls and output elements by linear, bmm and conv."""
    flops: Counter[str] = Counter()
    n_ops: Counter[str] = Counter()
    elements: Counter[str] = Counter()
    for layer in workload.network:
        heads = _head_modules(layer.graph)
        for operator in layer.graph.operators:
            share = SHARE_BY_GROUP.get(operator.group, _LINEAR_SHARE)
            call = share if share in ("linear", "conv") else "bmm"
            output = layer.count * operator.repeat * layer.graph.n_elements(operator.output.tensor)
            if _is_bias_gradient(operator):
                elements["conv"] += output
            if operator.kind is not Kind.CONTRACTION:
                continue
            work = 2 * layer.count * layer.graph.macs(operator)
            if workload.lowering == "reference":
                work *= _stated_groups(layer.graph, operator)
            flops[share] += work
            adapts = operator.group == "adapter" and operator.name.startswith(heads)
            if adapts or operator.group in _HEAD_GROUPS:
                flops["head"] += work
            steps = layer.graph.size(operator.serial_rank) if operator.serial_rank else 1
            n_ops[call] += layer.count * operator.repeat * steps
            elements[call] += output
        n_ops["conv"] -= layer.count * _n_joined(layer.graph)
    return flops, n_ops, elements


def _stated_groups(graph: Graph, operator: Operator) -> int:
    """How many times the products of a convolution's weight gradient the reference's counter states.

    Its formula joins every channel of the input with every channel of the output, whatever the groups
    (torch.utils.flop_counter, conv_backward_flop). The groups are what all three operands have in common.
    """
    if operator.group not in _CONVOLUTIONS or not operator.name.endswith("_backward_1"):
        return 1
    above, image = operator.inputs
    shared = set(above.ranks) & set(operator.output.ranks)
    terms = [term for index in image.indices for term in index.terms if term.rank in shared]
    return prod(graph.size(term.rank) // term.divisor for term in terms)


def _head_modules(graph: Graph) -> tuple[str, ...]:
    """How the names of what an adapter adds to output heads begin."""
    products = (op for op in graph.operators if op.group in _HEAD_GROUPS and op.kind is Kind.CONTRACTION)
    return tuple({f"{op.name.partition('_backward_')[0]}_" for op in products})


def _is_bias_gradient(operator: Operator) -> bool:
    """Whether an operator is the gradient of a convolution's bias, a result of the same call."""
    return operator.kind is Kind.REDUCTION and operator.group == "conv" and "_backward_" in operator.name


def _n_joined(graph: Graph) -> int:
    """Gradients of convolutions that are no call of their own: input's and weight's come from one."""
    names = [
        operator.name.rpartition("_backward_")[0]
        for operator in graph.operators
        if operator.kind is Kind.CONTRACTION and operator.group == "conv" and "_backward_" in operator.name
    ]
    return len(names) - len(set(names))


def _parameter_sums(stored: tuple[Parameter, ...]) -> dict[str, Any]:
    parameters = tuple(parameter for parameter in stored if parameter.storage == "parameter")
    buffers = [parameter for parameter in stored if parameter.storage != "parameter"]
    own = [parameter for parameter in parameters if not parameter.tied_to]
    base = [parameter for parameter in own if parameter.role is not Role.ADAPTER]
    trained = [parameter for parameter in own if parameter.trainable]
    return {
        "params_total": _elements(own),
        "params_trainable": _elements(trained),
        "params_with_tied_counted_twice": _elements(parameters),
        "params_base": _elements(base),
        "params_base_model_only": _elements(p for p in base if p.part != "head"),
        "params_input_embedding": _elements(p for p in base if p.part == "table"),
        "params_text_tower": _elements(p for p in own if p.name.startswith("text_model.")),
        "params_vision_tower": _elements(p for p in own if p.name.startswith("vision_model.")),
        "n_param_tensors": sum(parameter.count for parameter in own),
        "n_trainable_tensors": sum(parameter.count for parameter in trained),
        "adapter_buffer_elems": _elements(buffers),
    }


def _elements(parameters: Iterable[Parameter]) -> int:
    return sum(parameter.count * parameter.n_elements for parameter in parameters)


def _output_elements(workload: Workload) -> int:
    graph = (workload.last_step or workload.network)[-1].graph
    return graph.n_elements(graph.outputs[0])


def _cache_elements(graph: Graph) -> int:
    """Elements that the layer leaves behind: keys and values that are kept, recurrent states."""
    total = 0
    for name in graph.outputs:
        if graph.tensor_by_name[name].role not in (Role.KV_CACHE, Role.STATE):
            continue
        elements, ranks = graph.n_elements(name), graph.tensor_by_name[name].ranks
        writer = graph.producer.get(name)  # none: kept from an earlier step as it is
        kept = dict(writer.parameters).get(KEPT_ROWS) if writer else None
        rows = next((rank for rank in ranks if rank.startswith("n")), "")  # keys, of one length or of each
        total += elements if kept is None else elements // graph.size(rows) * int(kept)
    return total


def peak_activation_bytes(graph: Graph) -> int:
    """The most bytes of activations alive at once when operators run one after the other, unfused.

    An activation lives from the operator that writes it to the last one that reads it; what is live-in
    or live-out lives from the start or to the end.
    """
    last_use = {name: len(graph.operators) for name in graph.outputs}
    for position, operator in enumerate(graph.operators):
        for access in operator.inputs:
            last_use[access.tensor] = max(position, last_use.get(access.tensor, 0))
    sizes = {t.name: graph.n_bytes(t.name) for t in graph.tensors if t.role is Role.ACTIVATION}
    alive = {name for name in graph.inputs if name in sizes}
    peak = held = sum(sizes[name] for name in alive)
    for position, operator in enumerate(graph.operators):
        if (name := operator.output.tensor) in sizes:
            alive.add(name)
            held += sizes[name]
        peak = max(peak, held)
        dead = {name for name in alive if last_use.get(name, position) <= position}
        held -= sum(sizes[name] for name in dead)
        alive -= dead
    return peak
