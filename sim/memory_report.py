"""What tensors and channels got of a memory: bandwidth, row hits, latency, energy, and bandwidth over time.

Worked out from programs that have run, on request: nothing of it is needed to find a latency or an energy.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tilewright.dataflow.program import Direction, Nest, Transfer
from tilewright.sim.actions import ActionCounts, NestCounts
from tilewright.sim.dram_config import DramConfig
from tilewright.sim.dram_energy import energy_of
from tilewright.sim.engine import NestTime, Tasks, Timing, simulated
from tilewright.sim.placed_memory import PlacedMemory
from tilewright.sim.placement import kind_of

Floats = npt.NDArray[np.float64]

N_BINS = 96
#: Transfers up to which bandwidth over time is drawn from each of them; beyond, from their nests' spans.
MAX_LEAVES = 20_000


@dataclass(frozen=True, slots=True)
class CommandEnergy:
    """Energy by DRAM command in pJ; `refresh_pj` is a channel's, a tensor has none."""

    activate_pj: float
    read_pj: float
    write_pj: float
    refresh_pj: float = 0.0


@dataclass(frozen=True, slots=True)
class TensorTraffic:
    """One tensor of one layer class, over all its layers.

    `gb_per_s` while the memory served it, `bandwidth_fraction` that over the peak of its channels.
    `row_hit_fraction` is of its pattern by itself. `mean_latency_ns` of a transfer: from the grant of its DMA
    channel to its last byte. `energy_pj` is the report's price of its bits; `commands` None where the
    memory's currents are not known.
    """

    layer_class: str
    tensor: str
    kind: str
    channels: tuple[int, ...]
    n_transfers: int
    read_bytes: int
    write_bytes: int
    gb_per_s: float
    bandwidth_fraction: float
    row_hit_fraction: float
    mean_latency_ns: float
    energy_pj: float
    commands: CommandEnergy | None


@dataclass(frozen=True, slots=True)
class ChannelTraffic:
    """One channel over the whole run: `gb_per_s` and the fraction of its peak are means over the latency."""

    channel: int
    read_bytes: float
    write_bytes: float
    gb_per_s: float
    bandwidth_fraction: float
    busy_fraction: float
    row_hit_fraction: float
    mean_latency_ns: float
    energy_pj: float
    commands: CommandEnergy | None


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bandwidth of one layer over time: (n + 1) edges in us, GB/s in each bin by "kind direction".

    `resolution`: "transfer", or "nest" where a nest's bytes are spread over its span.
    """

    layer_class: str
    layers: int
    resolution: str
    edges_us: tuple[float, ...]
    gb_per_s: tuple[tuple[str, tuple[float, ...]], ...]


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """The memory's part of a report; tensors and channels each sum to the report's bytes and energy."""

    config: str
    n_channels: int
    peak_gb_per_s: float
    tensors: tuple[TensorTraffic, ...]
    channels: tuple[ChannelTraffic, ...]
    over_time: tuple[Bandwidth, ...]

    def to_dict(self) -> dict[str, Any]:
        found = asdict(self)
        for one in found["over_time"]:
            one["gb_per_s"] = dict(one["gb_per_s"])
        return found


@dataclass(frozen=True)
class LayerTraffic:
    """One layer class that has run."""

    name: str
    count: int
    tasks: Tasks
    timing: Timing
    counts: ActionCounts


def memory_report(
    layers: Sequence[LayerTraffic], dram_pj: Callable[[NestCounts], float]
) -> MemoryReport | None:
    """What the memory did in `layers`; None where it is not modelled by its banks.

    dram_pj: what the report's energy has for the transfers of a nest, background left out.
    """
    memory = layers[0].tasks.memory
    if not isinstance(memory, PlacedMemory):
        return None
    rows = [row for layer in layers for row in _rows_of(layer, memory, dram_pj)]
    latency_cycles = sum(layer.count * layer.timing.latency_cycles for layer in layers)
    peak = DramConfig.named(memory.config_name).peak_gb_per_s
    return MemoryReport(
        memory.config_name,
        memory.n_channels,
        memory.n_channels * peak,
        tuple(row.traffic for row in rows),
        _channels(rows, memory, latency_cycles),
        tuple(bandwidth_over_time(layer.tasks, layer.timing, layer.name, layer.count) for layer in layers),
    )


@dataclass(frozen=True)
class _Row:
    """A tensor's traffic and the cycles for which its channels served it."""

    traffic: TensorTraffic
    busy_cycles: int


def _rows_of(layer: LayerTraffic, memory: PlacedMemory, dram_pj: Callable[[NestCounts], float]) -> list[_Row]:
    by_tensor: dict[str, list[int]] = {}
    for index, nest in enumerate(layer.tasks.program.nests):
        if isinstance(nest.leaf, Transfer):
            by_tensor.setdefault(nest.leaf.tensor, []).append(index)
    return [_row(layer, memory, tensor, own, dram_pj) for tensor, own in by_tensor.items()]


def _row(
    layer: LayerTraffic, memory: PlacedMemory, tensor: str, own: list[int],
    dram_pj: Callable[[NestCounts], float],
) -> _Row:  # fmt: skip
    nests = [layer.tasks.program.nests[i] for i in own]
    times = [layer.timing.nests[i] for i in own]
    counts = {one.nest: one for one in layer.counts.nests}
    read = layer.count * sum(counts[nest.name].dram_read_bytes for nest in nests)
    written = layer.count * sum(counts[nest.name].dram_write_bytes for nest in nests)
    n_transfers = sum(nest.n_leaves for nest in nests)
    busy = layer.count * sum(time.dram_cycles for time in times)
    place = layer.tasks.places[own[0]]
    assert place is not None
    peak = len(place.channels) * DramConfig.named(memory.config_name).peak_gb_per_s
    rate = (read + written) * memory.clock_mhz * 1e-3 / max(1, busy)
    hits, activates = _rows_opened(layer, memory, own)
    gathered = any(isinstance(nest.leaf, Transfer) and nest.leaf.random for nest in nests)
    traffic = TensorTraffic(
        layer_class=layer.name,
        tensor=tensor,
        kind=kind_of(layer.tasks.program.tensor_by_name[tensor].role, gathered),
        channels=place.channels,
        n_transfers=layer.count * n_transfers,
        read_bytes=read,
        write_bytes=written,
        gb_per_s=rate,
        bandwidth_fraction=rate / peak,
        row_hit_fraction=hits,
        mean_latency_ns=sum(time.busy_cycles for time in times) / n_transfers / memory.clock_mhz * 1e3,
        energy_pj=layer.count * sum(dram_pj(counts[nest.name]) for nest in nests),
        commands=_commands(memory, read, written, layer.count * activates),
    )
    return _Row(traffic, busy)


def _rows_opened(layer: LayerTraffic, memory: PlacedMemory, own: list[int]) -> tuple[float, float]:
    """(share of row hits, activations of one layer) of the transfers of nests `own`, by their patterns alone."""
    from tilewright.sim import engine_image as at

    counts = {one.nest: one for one in layer.counts.nests}
    burst = DramConfig.named(memory.config_name).transaction_bytes
    total = hits = activates = 0.0
    for i in own:
        one = counts[layer.tasks.program.nests[i].name]
        leaf = layer.tasks.image[layer.tasks.nests[i] + at.LEAVES]
        steady = memory.slowdowns.alone(int(layer.tasks.image[leaf + at.LEAF_TRAFFIC]))
        n_bytes = one.dram_read_bytes + one.dram_write_bytes
        total += n_bytes
        hits += n_bytes * steady.row_hit_fraction
        activates += n_bytes / burst * steady.activates_per_burst
    return hits / max(1.0, total), activates


def _commands(
    memory: PlacedMemory, read: float, written: float, activates: float, refreshes: float = 0.0
) -> CommandEnergy | None:
    row = energy_of(memory.config_name)
    if not row.by_command:
        return None
    return CommandEnergy(
        activates * row.activate_pj,
        8 * read * row.read_pj_per_bit,
        8 * written * row.write_pj_per_bit,
        refreshes * row.refresh_pj,
    )


def _channels(rows: Sequence[_Row], memory: PlacedMemory, latency_cycles: int) -> tuple[ChannelTraffic, ...]:
    config = DramConfig.named(memory.config_name)
    span_ns = max(1, latency_cycles) / memory.clock_mhz * 1e3
    refreshes = 0.0
    if config.refresh_interval_cycles:
        intervals = span_ns / (config.refresh_interval_cycles * config.tck_ns)
        refreshes = intervals * config.organisation.ranks * config.organisation.channels
    activate_pj = energy_of(memory.config_name).activate_pj
    found = []
    for channel in range(memory.n_channels):
        mine = [row for row in rows if channel in row.traffic.channels]
        share = [1 / len(row.traffic.channels) for row in mine]
        read = _total((row.traffic.read_bytes for row in mine), share)
        written = _total((row.traffic.write_bytes for row in mine), share)
        moved = [row.traffic.read_bytes + row.traffic.write_bytes for row in mine]
        hits = _total((row.traffic.row_hit_fraction * n for row, n in zip(mine, moved, strict=True)), share)
        n_transfers = _total((row.traffic.n_transfers for row in mine), share)
        waited = _total((row.traffic.mean_latency_ns * row.traffic.n_transfers for row in mine), share)
        rate = (read + written) / span_ns
        spent = [row.traffic.commands.activate_pj if row.traffic.commands else 0.0 for row in mine]
        activates = _total(spent, share) / activate_pj if activate_pj else 0.0
        found.append(
            ChannelTraffic(
                channel, read, written, rate, rate / config.peak_gb_per_s,
                sum(row.busy_cycles for row in mine) / max(1, latency_cycles),
                hits / max(1.0, read + written),
                waited / max(1.0, n_transfers),
                _total((row.traffic.energy_pj for row in mine), share),
                _commands(memory, read, written, activates, refreshes),
            )
        )  # fmt: skip
    return tuple(found)


def _total(values: Iterable[float], share: Sequence[float]) -> float:
    return float(sum(value * part for value, part in zip(values, share, strict=True)))


def bandwidth_over_time(
    tasks: Tasks, timing: Timing, name: str = "", count: int = 1, n_bins: int = N_BINS
) -> Bandwidth:
    """Bytes that crossed the memory's interface over one run of a program, in `n_bins` equal bins.

    A transfer's bytes are spread evenly from the grant of its channel to its end.
    """
    nests = tasks.program.nests
    n_leaves = sum(nest.n_leaves for nest in nests)
    spans: Mapping[int, Floats]
    if n_leaves <= MAX_LEAVES:
        resolution, spans = "transfer", _leaf_spans(tasks, n_leaves)
    else:
        resolution, spans = "nest", {i: _span(time) for i, time in enumerate(timing.nests)}
    edges = np.linspace(0.0, max(1, timing.latency_cycles), n_bins + 1)
    found: dict[str, Floats] = {}
    n_bytes = _nest_bytes(tasks)
    for i, nest in enumerate(nests):
        if isinstance(nest.leaf, Transfer) and i in spans:
            moved = np.zeros(n_bins + 1)
            begin, end = spans[i]
            for k, edge in enumerate(edges):
                moved[k] = np.clip((edge - begin) / (end - begin), 0.0, 1.0).mean()
            key = f"{_kind(tasks, nest)} {'read' if nest.leaf.direction is Direction.LOAD else 'write'}"
            found[key] = found.get(key, np.zeros(n_bins)) + n_bytes[nest.name] * np.diff(moved)
    clock = tasks.architecture.clock_mhz
    width_ns = float(edges[1]) / clock * 1e3
    return Bandwidth(
        name,
        count,
        resolution,
        tuple(float(edge) / clock for edge in edges),
        tuple((key, tuple(float(value) / width_ns for value in row)) for key, row in sorted(found.items())),
    )


def _kind(tasks: Tasks, nest: Nest) -> str:
    assert isinstance(nest.leaf, Transfer)
    return kind_of(tasks.program.tensor_by_name[nest.leaf.tensor].role, nest.leaf.random)


def _nest_bytes(tasks: Tasks) -> dict[str, int]:
    from tilewright.sim.actions import count_actions

    counts = count_actions(tasks.program, tasks.architecture).nests
    return {one.nest: one.dram_read_bytes + one.dram_write_bytes for one in counts}


def _leaf_spans(tasks: Tasks, n_leaves: int) -> dict[int, Floats]:
    """(2, n) first and last cycles of the leaves of every nest."""
    _, trace = simulated(tasks, fast_forward=False, n_traced=n_leaves)
    order = np.argsort(trace[:, 0], kind="stable")
    nests, starts = np.unique(trace[order, 0], return_index=True)
    parts = np.split(trace[order, 1:].T.astype(np.float64), starts[1:], axis=1)
    return {int(nest): part for nest, part in zip(nests, parts, strict=True)}


def _span(time: NestTime) -> Floats:
    return np.array([[time.start_cycle], [max(time.end_cycle, time.start_cycle + 1)]], dtype=np.float64)
