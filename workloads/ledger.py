"""What a training step holds in memory: the activations kept for the backward pass, and its peak."""

from dataclasses import dataclass
from itertools import zip_longest

from tilewright.dataflow.graph import Graph, LayerClass, Network
from tilewright.dataflow.tensor import Role, Tensor
from tilewright.workloads.training import BACKWARD

_PARAMETERS = (Role.WEIGHT, Role.ADAPTER, Role.OPTIMIZER)
#: The name of what a layer takes from the one before it: the same storage as that one's result.
_CHAIN = "x"
#: The rank that every activation has and no parameter.
_BATCH = "b"


@dataclass(frozen=True, slots=True)
class Kept:
    """One tensor that the forward pass keeps: `n_bytes` in each of `count` layers of a class.

    `operator` made it; it is empty for what comes into the layer.
    """

    layer: str
    count: int
    tensor: str
    operator: str
    n_bytes: int


def kept_activations(network: Network) -> tuple[Kept, ...]:
    """What the backward classes of a training step read of the forward ones, by class in execution order.

    A tensor that two layers share is there once: the result of a layer is the input of the next, and the
    result of an encoder is read by every layer of its decoder.
    """
    backward = _backward_of(network)
    forward = [layer for layer in network if layer.name in backward]
    found: list[Kept] = []
    shared: set[str] = set()
    for layer, following in zip_longest(forward, forward[1:]):
        chained = following is not None and any(
            _CHAIN in part.graph.inputs for part in backward[following.name]
        )
        for part in reversed(backward[layer.name]):
            for name in _kept_names(part.graph, layer.graph):
                producer = layer.graph.producer.get(name)
                count = part.count
                if producer is None and name != _CHAIN:
                    count = 0 if name in shared else 1
                    shared.add(name)
                elif name == layer.graph.outputs[0]:
                    count = (1 if _CHAIN in part.graph.inputs else count) - chained
                if count:
                    operator = producer.name if producer else ""
                    found.append(Kept(layer.name, count, name, operator, layer.graph.n_bytes(name)))
    return tuple(found)


def peak_training_bytes(network: Network, stored_bytes: int) -> int:
    """The most bytes that a step holds: what is stored all the time, kept activations, live tensors.

    Kept activations add up through the forward pass and are given back class by class in the backward one;
    inside a layer operators run one after the other, unfused. `stored_bytes` are parameters, their
    gradients and the optimizer's state.
    """
    backward = _backward_of(network)
    kept_bytes = dict.fromkeys(backward, 0)
    for kept in kept_activations(network):
        kept_bytes[kept.layer] += kept.count * kept.n_bytes
    held = peak = 0
    for layer in network:
        name, mark, _ = layer.name.rpartition(BACKWARD)
        if mark:
            peak = max(peak, held + _live_bytes(layer.graph, frozenset(), counts_inputs=False))
            held -= kept_bytes[name] if layer is backward[name][-1] else 0
            continue
        keeps = {
            tensor for part in backward.get(layer.name, ()) for tensor in _kept_names(part.graph, layer.graph)
        }
        own = kept_bytes.get(layer.name, 0)
        before = held + own - own // layer.count  # all layers of the class but the last
        peak = max(peak, before + _live_bytes(layer.graph, frozenset(keeps), counts_inputs=True))
        held += own
    return stored_bytes + peak


def _backward_of(network: Network) -> dict[str, list[LayerClass]]:
    """The backward classes by the name of their forward class, in execution order."""
    found: dict[str, list[LayerClass]] = {}
    for layer in network:
        name, mark, _ = layer.name.rpartition(BACKWARD)
        if mark:
            found.setdefault(name, []).append(layer)
    return found


def _kept_names(backward: Graph, forward: Graph) -> tuple[str, ...]:
    """Live-in tensors of the backward pass that the forward one read or made, its parameters left out."""
    names = (name for name in backward.inputs if name in forward.tensor_by_name)
    return tuple(name for name in names if not _is_parameter(forward.tensor_by_name[name], forward))


def _is_parameter(tensor: Tensor, graph: Graph) -> bool:
    """Weights, states, their gradients, and trained keys and values that stand before a cache."""
    if tensor.role is Role.KV_CACHE:
        return tensor.name in graph.inputs
    return tensor.role in _PARAMETERS or (tensor.role is Role.GRADIENT and _BATCH not in tensor.ranks)


def _live_bytes(graph: Graph, keeps: frozenset[str], *, counts_inputs: bool) -> int:
    """The most bytes alive at once besides parameters and their gradients; `keeps` live to the end.

    Without `counts_inputs`, live-in activations are left out: they are kept, and counted as such.
    """
    last = {name: len(graph.operators) for name in (*graph.outputs, *keeps)}
    for position, operator in enumerate(graph.operators):
        for access in operator.inputs:
            last[access.tensor] = max(position, last.get(access.tensor, 0))
    inputs = [name for name in graph.inputs if not _is_parameter(graph.tensor_by_name[name], graph)]
    alive = {name for name in inputs if counts_inputs or graph.tensor_by_name[name].role is Role.GRADIENT}
    sizes = {name: graph.n_bytes(name) for name in alive}
    peak = held = sum(sizes.values())
    for position, operator in enumerate(graph.operators):
        name = operator.output.tensor
        if not _is_parameter(graph.tensor_by_name[name], graph):
            alive.add(name)
            sizes[name] = graph.n_bytes(name)
            held += sizes[name]
        peak = max(peak, held)
        dead = {name for name in alive if last.get(name, position) <= position}
        held -= sum(sizes[name] for name in dead)
        alive -= dead
    return peak
