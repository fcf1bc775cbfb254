"""What a network keeps in DRAM, and whether a device has room for it."""

from dataclasses import dataclass
from functools import lru_cache

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Graph, Network
from tilewright.dataflow.tensor import Role, Tensor
from tilewright.sim.device import Device
from tilewright.sim.dram_config import DramConfig

_WEIGHTS = (Role.WEIGHT, Role.ADAPTER)
_KEPT = (Role.ACTIVATION, Role.STATE, Role.INDEX)


@dataclass(frozen=True, slots=True)
class Residents:
    """Bytes that stay in DRAM for the whole run, and the most that activations take at once.

    `training_bytes` are gradients of parameters, an optimizer's state, and what a forward pass keeps for
    the backward one.
    """

    weight_bytes: int
    cache_bytes: int
    activation_bytes: int
    training_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.cache_bytes + self.activation_bytes + self.training_bytes


@lru_cache(maxsize=256)
def residents_of(network: Network) -> Residents:
    """Weights and adapters of all layers (a tied table counts at both of its places), caches after the last
    step, activations of the layer that holds most.

    Classes that share what another one holds add nothing to it; the largest of their caches counts.
    """
    count_of = {layer.name: layer.count for layer in network if not layer.shares}
    weight_bytes = training_bytes = 0
    cache_of: dict[str, int] = {}
    for layer in network:
        held = _held_bytes(layer.graph)
        if not layer.shares:
            weight_bytes += layer.count * held["weights"]
        else:
            training_bytes += layer.count * held["training"]
        name = layer.shares or layer.name
        cache_of[name] = max(cache_of.get(name, 0), count_of.get(name, layer.count) * held["caches"])
    most = max(_activation_bytes(layer.graph) for layer in network)
    return Residents(weight_bytes, sum(cache_of.values()), most, training_bytes)


def _held_bytes(graph: Graph) -> dict[str, int]:
    """Bytes of one layer by what they are: `training` is what a class that shares another's takes in."""
    found = {"weights": 0, "caches": 0, "training": 0}
    trains = any(tensor.role is Role.GRADIENT for tensor in graph.tensors)
    inputs = set(graph.inputs)
    for tensor in graph.tensors:
        is_input, n_bytes = tensor.name in inputs, graph.n_bytes(tensor.name)
        if tensor.role in _WEIGHTS and is_input:
            found["weights"] += n_bytes
        elif tensor.role is Role.KV_CACHE and not is_input:
            found["caches"] += n_bytes
        elif trains and (is_input if tensor.role in _KEPT else _is_of_parameter(tensor, graph)):
            found["training"] += n_bytes
    return found


def _is_of_parameter(tensor: Tensor, graph: Graph) -> bool:
    """An optimizer's state, or a parameter's gradient where it is made; it has no rank of the batch."""
    if tensor.role is Role.OPTIMIZER:
        return tensor.name in graph.inputs
    return tensor.role is Role.GRADIENT and "b" not in tensor.ranks and tensor.name in graph.outputs


def _activation_bytes(graph: Graph) -> int:
    """Live-in and live-out activations: what is between stays on chip if the schedule can keep it there."""
    names = dict.fromkeys((*graph.inputs, *graph.outputs))
    return sum(graph.n_bytes(n) for n in names if graph.tensor_by_name[n].role is Role.ACTIVATION)


def capacity_bytes(device: Device) -> int:
    """Bytes of the device's whole memory, whichever channels a design uses."""
    if device.gpu is not None:
        return device.gpu.memory_bytes
    return DramConfig.named(device.memory_config).capacity_bytes * device.memory_channels


def check_capacity(network: Network, device: Device) -> None:
    """Raises InputError if weights, caches and activations exceed the memory of an FPGA's or a GPU's board.

    The memory of an ASIC is bought by the stack, so a report only says how much is needed of what.
    """
    needed, available = residents_of(network), capacity_bytes(device)
    if device.device_class != "asic" and needed.total_bytes > available:
        raise InputError(
            f"workload does not fit the memory of {device.name}: needs {needed.total_bytes:,} bytes"
            f" (weights {needed.weight_bytes:,}, caches {needed.cache_bytes:,}, activations"
            f" {needed.activation_bytes:,}, training {needed.training_bytes:,}), has {available:,}"
        )


def memory_note(network: Network, device: Device) -> str:
    """How much of the device's memory the network takes, for the report."""
    needed, available = residents_of(network).total_bytes, capacity_bytes(device)
    return f"needs {needed * 1e-9:.3g} GB, {available * 1e-9:.3g} GB modelled"
