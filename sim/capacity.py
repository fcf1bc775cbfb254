"""What a network keeps in DRAM, and whether a device has room for it."""

from dataclasses import dataclass
from functools import lru_cache

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Graph, Network
from tilewright.dataflow.tensor import Role
from tilewright.sim.device import Device
from tilewright.sim.dram_config import DramConfig

_WEIGHTS = (Role.WEIGHT, Role.ADAPTER)


@dataclass(frozen=True, slots=True)
class Residents:
    """Bytes that stay in DRAM for the whole run, and the most that activations take at once."""

    weight_bytes: int
    cache_bytes: int
    activation_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.cache_bytes + self.activation_bytes


@lru_cache(maxsize=256)
def residents_of(network: Network) -> Residents:
    """Weights and adapters of all layers (a tied table counts at both of its places), caches after the step,
    activations of the layer that holds most."""
    weight_bytes = cache_bytes = 0
    for layer in network:
        for tensor in layer.graph.tensors:
            is_input = tensor.name in layer.graph.inputs
            if tensor.role in _WEIGHTS and is_input:
                weight_bytes += layer.count * layer.graph.n_bytes(tensor.name)
            elif tensor.role is Role.KV_CACHE and not is_input:
                cache_bytes += layer.count * layer.graph.n_bytes(tensor.name)
    return Residents(weight_bytes, cache_bytes, max(_activation_bytes(layer.graph) for layer in network))


def _activation_bytes(graph: Graph) -> int:
    """Live-in and live-out activations: what is between stays on chip if the schedule can keep it there."""
    names = dict.fromkeys((*graph.inputs, *graph.outputs))
    return sum(graph.n_bytes(n) for n in names if graph.tensor_by_name[n].role is Role.ACTIVATION)


def capacity_bytes(device: Device) -> int:
    """Bytes of the device's whole memory, whichever channels a design uses."""
    return DramConfig.named(device.memory_config).capacity_bytes * device.memory_channels


def check_capacity(network: Network, device: Device) -> None:
    """Raises InputError if weights, caches and activations exceed the memory of an FPGA's board.

    The memory of an ASIC is bought by the stack, so a report only says how much is needed of what.
    """
    needed, available = residents_of(network), capacity_bytes(device)
    if device.is_fpga and needed.total_bytes > available:
        raise InputError(
            f"workload does not fit the memory of {device.name}: needs {needed.total_bytes:,} bytes"
            f" (weights {needed.weight_bytes:,}, caches {needed.cache_bytes:,}, activations"
            f" {needed.activation_bytes:,}), has {available:,}"
        )


def memory_note(network: Network, device: Device) -> str:
    """How much of the device's memory the network takes, for the report."""
    needed, available = residents_of(network).total_bytes, capacity_bytes(device)
    return f"needs {needed * 1e-9:.3g} GB, {available * 1e-9:.3g} GB modelled"
