"""What the templates say of measured rows, through the same schedule and engine as every simulation."""

from collections.abc import Mapping
from functools import lru_cache

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Graph
from tilewright.hardware_models import MeasuredModel, network_of
from tilewright.hardware_points import CYCLES, HardwarePoint, Layer
from tilewright.sim.architecture import Architecture, Dram
from tilewright.sim.capacity import check_capacity
from tilewright.sim.device import device_named
from tilewright.sim.engine import compile_program, run
from tilewright.sim.evaluate import run_layer
from tilewright.sim.rated_memory import memory_of
from tilewright.sim.space import Value
from tilewright.sim.systolic_ws import layer_program
from tilewright.sim.template import check_device, template_named

#: The memories of the measured Gemmini, which no tile filled.
_WS_MEMORIES: tuple[tuple[str, Value], ...] = (("scratchpad_kib", 4096), ("accumulator_kib", 4096))


LAUNCH = "launch_us"
_NO_LAUNCH_US = 0.1  # the least that the template takes


def predict(point: HardwarePoint, constants: Mapping[str, float], device: str = "") -> float:
    """Our figure for a point, in its unit; `constants` replace the fitted ones, `device` the point's.

    Raises InputError where the template refuses the work.
    """
    if point.work is None:
        raise InputError(point.skipped_because or "nothing to run")
    if isinstance(point.work, Layer):
        parameters = (*_WS_MEMORIES, *constants.items())
        architecture = _built(point.template, device or point.device, parameters)
        return float(_layer_cycles(point.work, architecture))
    launch = () if point.launched else ((LAUNCH, _NO_LAUNCH_US),)
    fusion = isinstance(point.work, MeasuredModel) and point.work.fused
    chosen = dict(constants) | {"precision": point.precision, "fusion": fusion} | dict(launch)
    architecture = _built(point.template, device or point.device, tuple(chosen.items()))
    if isinstance(point.work, MeasuredModel):
        layers = network_of(point.work)
        check_capacity(layers, device_named(architecture.device))
        cycles = sum(
            layer.count * _graph_cycles(layer.graph, architecture, point.template) for layer in layers
        )
        return cycles / architecture.clock_mhz
    cycles = _graph_cycles(point.work, architecture, point.template)
    return cycles if point.unit == CYCLES else cycles / architecture.clock_mhz


@lru_cache(maxsize=64)
def _built(template: str, device: str, parameters: tuple[tuple[str, Value], ...]) -> Architecture:
    family, target = template_named(template), device_named(device)
    check_device(family, target)
    return family.build(dict(parameters), target)


def _graph_cycles(graph: Graph, architecture: Architecture, template: str) -> int:
    return run_layer(graph, architecture, template).timing.latency_cycles


def _layer_cycles(work: Layer, architecture: Architecture) -> int:
    program = layer_program(work.layer, work.tiling, architecture)
    (dram,) = architecture.of_kind(Dram)
    return run(compile_program(program, architecture, memory_of(dram, architecture.clock_mhz))).latency_cycles
