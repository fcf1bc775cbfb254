"""What stays in DRAM, by hand for GPT-2 medium, and the refusal of what a device cannot hold."""

import pytest

from tilewright.dataflow.errors import InputError
from tilewright.sim.capacity import capacity_bytes, check_capacity, residents_of
from tilewright.sim.device import device_named
from tilewright.workloads.count import count
from tilewright.workloads.workload import load_workload


def test_a_decoder_keeps_its_weights_once_and_its_cache() -> None:
    workload = load_workload("gpt2-medium", phase="decode", cache=1023)
    found = residents_of(workload.network)
    # int8: 24 layers x 2 x 1024 positions x 1024 channels
    assert found.cache_bytes == 24 * 2 * 1024 * 1024
    counts = count(workload)
    # one byte a parameter; the table that embedding and head share counts at both places
    assert found.weight_bytes == counts.params_with_tied_counted_twice


def test_a_u280_has_eight_gib() -> None:
    assert capacity_bytes(device_named("u280")) == 8 * 2**30


def test_what_does_not_fit_is_refused_with_its_parts() -> None:
    network = load_workload("gpt2-medium", phase="decode", cache=1023, batch=1024).network
    check_capacity(network, device_named("asic7"))
    with pytest.raises(
        InputError, match=r"memory of u280: needs .* caches 51,539,607,552.* has 8,589,934,592"
    ):
        check_capacity(network, device_named("u280"))
