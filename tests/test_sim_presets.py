"""Every model that comes with Tilewright runs through the family sequential on an FPGA and as a chip."""

from dataclasses import replace

import pytest

from tilewright.dataflow.graph import Network
from tilewright.sim.design import Design
from tilewright.sim.evaluate import evaluate
from tilewright.workloads.workload import load_workload, model_names

# Tiles that straddle the diagonal of a mask are computed in full; rows are short, so there are many of those.
_MASKED = 1.25


def _has_masks(network: Network) -> bool:
    return any(operator.mask for layer in network for operator in layer.graph.operators)


@pytest.mark.parametrize("device", ["u280", "asic7"])
@pytest.mark.parametrize("model", model_names())
def test_a_preset_runs_above_its_bound_and_computes_every_multiply_accumulate(
    model: str, device: str
) -> None:
    """One layer of each class, so that the weights fit in any memory.

    Three passes over the scores: one would count the rescaling of mixed rows among the MACs.
    """
    network = tuple(replace(layer, count=1) for layer in load_workload(model, phase="prefill").network)
    found = evaluate(network, Design("sequential", device, {"attention": "three_pass"}))
    assert found.latency_cycles >= found.bound_cycles > 0
    computed = sum(operator.layers * operator.macs for operator in found.operators)
    if _has_masks(network):
        assert found.macs <= computed <= _MASKED * found.macs
    else:
        assert computed == found.macs
    assert len(found.operators) <= sum(len(layer.graph.operators) for layer in network)
