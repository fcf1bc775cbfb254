"""What a network keeps on each channel under a placement, and whether there is room for it."""

from collections.abc import Iterable
from dataclasses import replace

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Graph, Network
from tilewright.dataflow.operator import Kind
from tilewright.dataflow.tensor import Role
from tilewright.sim.architecture import Architecture, Dram
from tilewright.sim.dram_config import DramConfig
from tilewright.sim.placement import Placement, kind_of

_WEIGHTS = (Role.WEIGHT, Role.ADAPTER)


def with_placement(architecture: Architecture, placement: Placement | None) -> Architecture:
    """`architecture` with its memory placed so; as it is for None.

    Raises InputError for a channel that the memory lacks, or an architecture without one memory.
    """
    if placement is None:
        return architecture
    drams = architecture.of_kind(Dram)
    if len(drams) != 1:
        raise InputError(f"placement: architecture {architecture.name!r} must have 1 dram, has {len(drams)}")
    placement.check_channels(drams[0].channels)
    components = tuple(
        replace(one, placement=placement) if isinstance(one, Dram) else one for one in architecture.components
    )
    return replace(architecture, components=components)


def check_placed(network: Network, dram: Dram) -> None:
    """Raises InputError for a rule that names nothing of the network, or a channel that has no room for what
    lies on it: weights of all layers, caches after the step, activations of the layer that has most."""
    placement = dram.placement
    if placement is None:
        return
    placement.check_names(frozenset(tensor.name for layer in network for tensor in layer.graph.tensors))
    room = DramConfig.named(dram.config).capacity_bytes
    for channel, n_bytes in enumerate(channel_bytes(network, placement, dram.channels)):
        if n_bytes > room:
            raise InputError(
                f"placement: the workload does not fit: channel {channel} would hold {round(n_bytes):,} bytes,"
                f" has {room:,}"
            )


def channel_bytes(network: Network, placement: Placement, n_channels: int) -> list[float]:
    """Bytes that stay on every channel; a tensor is divided evenly over its channels."""
    held = [0.0] * n_channels
    caches: dict[str, list[float]] = {}
    most = [0.0] * n_channels
    for layer in network:
        graph, inputs = layer.graph, set(layer.graph.inputs)
        kinds = {tensor.name: tensor.role for tensor in graph.tensors}
        weights = [n for n, role in kinds.items() if role in _WEIGHTS and n in inputs]
        kept = [n for n, role in kinds.items() if role is Role.KV_CACHE and n not in inputs]
        live = dict.fromkeys((*graph.inputs, *graph.outputs))
        active = [n for n in live if kinds[n] is Role.ACTIVATION]
        if not layer.shares:
            held = _sum(held, _spread(graph, weights, placement, n_channels), layer.count)
        name = layer.shares or layer.name
        own = _sum([0.0] * n_channels, _spread(graph, kept, placement, n_channels), layer.count)
        caches[name] = _larger(caches.get(name, own), own)
        most = _larger(most, _spread(graph, active, placement, n_channels))
    for one in (*caches.values(), most):
        held = _sum(held, one, 1)
    return held


def _spread(graph: Graph, names: Iterable[str], placement: Placement, n_channels: int) -> list[float]:
    found = [0.0] * n_channels
    picked = {one.inputs[-1].tensor for one in graph.operators if one.kind is Kind.GATHER}
    for name in names:
        kind = kind_of(graph.tensor_by_name[name].role, name in picked)
        channels = placement.channels_of(name, kind, n_channels)
        for channel in channels:
            found[channel] += graph.n_bytes(name) / len(channels)
    return found


def _sum(first: list[float], second: list[float], times: int) -> list[float]:
    return [a + times * b for a, b in zip(first, second, strict=True)]


def _larger(first: list[float], second: list[float]) -> list[float]:
    return [max(a, b) for a, b in zip(first, second, strict=True)]
