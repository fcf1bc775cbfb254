"""One contract for every family: the laws of a simulation hold whatever schedules it."""

import json

import pytest

from tests.sequential_cases import gemm_network, small_network
from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Network
from tilewright.sim.design import Design
from tilewright.sim.device import device_named, devices
from tilewright.sim.evaluate import evaluate, layer_result
from tilewright.sim.report import Breakdown
from tilewright.sim.template import Template, check_device, templates

NETWORKS: dict[str, Network] = {
    "prefill": small_network("prefill", "none"),
    "adapter": small_network("prefill", "unmerged"),
    "decode": small_network("decode", "none"),
    "product": gemm_network(33, 130, 70, 2),
}


def _designs() -> list[Design]:
    """Every family on the first device of each class that it is for, with its defaults."""
    found = []
    for name, template in sorted(templates().items()):
        classes = set()
        for device in devices().values():
            if device.device_class not in classes and _is_for(template, device.name):
                classes.add(device.device_class)
                found.append(Design(name, device.name))
    return found


def _is_for(template: Template, device: str) -> bool:
    try:
        check_device(template, device_named(device))
    except InputError:
        return False
    return True


DESIGNS = pytest.mark.parametrize("design", _designs(), ids=lambda one: f"{one.template}-{one.device}")
EVERY_NETWORK = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)


@DESIGNS
@EVERY_NETWORK
def test_a_family_keeps_the_bounds_and_its_parts_sum_up(design: Design, network: Network) -> None:
    tile = evaluate(network, design)
    bound = evaluate(network, design, fidelity="bound")
    assert 0 < tile.bound_cycles == bound.latency_cycles <= tile.latency_cycles
    assert bound.energy_pj <= tile.energy_pj * (1 + 1e-9)
    if getattr(templates()[design.template], "stores_layers", True):
        said = "a family that keeps activations on chip from layer to layer says so: stores_layers = False"
        assert tile.dram_read_bytes >= bound.dram_read_bytes, said
        assert tile.dram_write_bytes >= bound.dram_write_bytes, said
    assert tile.macs_computed >= tile.macs
    peaks = dict(tile.peaks)
    assert tile.latency_cycles >= tile.macs / peaks["macs_per_cycle"]
    moved = tile.dram_read_bytes + tile.dram_write_bytes
    assert tile.latency_cycles * peaks["dram_bytes_per_cycle"] * (1 + 1e-9) >= moved
    assert all(0 <= share <= 1 + 1e-9 for _, share in tile.utilisation)
    _assert_sums(tile.energy)
    ends: dict[tuple[str, int], int] = {}
    for operator in tile.operators:
        key = operator.layer_class, operator.layers
        ends[key] = max(ends.get(key, 0), operator.end_cycle)
    assert tile.latency_cycles == sum(layers * end for (_, layers), end in ends.items())


@DESIGNS
def test_a_family_gives_the_same_bytes_again(design: Design) -> None:
    first = json.dumps(evaluate(NETWORKS["prefill"], design).to_dict())
    layer_result.cache_clear()
    assert json.dumps(evaluate(NETWORKS["prefill"], design).to_dict()) == first


@DESIGNS
def test_a_family_refuses_what_it_does_not_know(design: Design) -> None:
    with pytest.raises(InputError, match="is unknown"):
        evaluate(NETWORKS["product"], Design(design.template, design.device, {"no_such_parameter": 1}))
    with pytest.raises(InputError, match="objective"):
        evaluate(NETWORKS["product"], Design(design.template, design.device, objective="speed"))


def _assert_sums(tree: Breakdown) -> None:
    if tree.children:
        assert tree.value == pytest.approx(sum(child.value for child in tree.children))
        for child in tree.children:
            _assert_sums(child)
