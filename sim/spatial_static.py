"""What a static report of a pipeline says: modules with inputs always there, regions by the chains between them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tilewright.sim.spatial import Pipeline
from tilewright.sim.spatial_emit import simulate_pipeline

_HANDSHAKE_CYCLES = 1  # between an interval's end and the next start


@dataclass(frozen=True, slots=True)
class StaticReport:
    """Cycles of a region: of each module alone, from one start to the next, and from first start to last end."""

    modules: tuple[tuple[str, int], ...]
    interval_cycles: int
    latency_cycles: int


def static_report(
    pipeline: Pipeline, modules: Iterable[str], device: str, clock_mhz: float, memory_bytes_per_cycle: float
) -> StaticReport:
    """A region of `modules`: its interval is that of its slowest module; modules that meet at a stream start
    together, those that meet at an array one after the other."""
    region = pipeline.part(modules)
    alone = {
        module: simulate_pipeline(
            pipeline.part([module]), device, clock_mhz, memory_bytes_per_cycle
        ).timing.latency_cycles
        for module in region.modules
    }
    starts = _starts(region, alone)
    return StaticReport(
        tuple(alone.items()),
        max(alone.values()) + _HANDSHAKE_CYCLES,
        max(starts[module] + cycles for module, cycles in alone.items()),
    )


def _starts(region: Pipeline, alone: Mapping[str, int]) -> dict[str, int]:
    """When each module starts: with those whose streams it reads, after those whose arrays it reads.

    A pipeline without deadlock has no cycle of links, so as many rounds as modules settle it.
    """
    starts = dict.fromkeys(alone, 0)
    for _ in alone:
        for link in region.links:
            giver = region.giver[link.name].module
            ready = starts[giver] + (alone[giver] if link.kind == "array" else 0)
            for taker in region.takers[link.name]:
                if taker.module != giver:
                    starts[taker.module] = max(starts[taker.module], ready)
    return starts
