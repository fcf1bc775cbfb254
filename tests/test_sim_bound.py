"""Lower bounds: figures worked out by hand, and never above what the simulator finds."""

import pytest

from tests.sequential_cases import architecture, block_of, gemm_graph, gemm_network, small_network
from tilewright.dataflow.graph import Network
from tilewright.sim.architecture import Architecture, Dram, MatrixArray
from tilewright.sim.bound import (
    Bound,
    Product,
    compulsory_bytes,
    design_bound,
    layer_work,
    product_cycles,
    program_bound,
)
from tilewright.sim.device import device_named
from tilewright.sim.evaluate import run_layer
from tilewright.sim.memory import service_table
from tilewright.sim.technology import resolve_table


def bound_of(network: Network, built: Architecture) -> Bound:
    device = device_named(built.device)
    return design_bound(network, built, device, resolve_table(device))


def test_a_product_is_held_to_its_folds_in_the_better_orientation() -> None:
    """1 x 64 by 64 x 32 on 4 x 8: 4 folds of 64 along the columns, 8 along the rows, and 4 + 8 once."""
    array = MatrixArray("array", 4, 8, "output", (8, 8), 32, drain_overlap=True)
    whole = Product(1, 1, 32, 64, 2048, True, (8, 8))
    assert product_cycles(array, whole) == 4 * 64 + 4 + 8
    pair = MatrixArray("array", 4, 8, "output", (8, 8), 32, count=2, drain_overlap=True)
    assert product_cycles(pair, whole) == 2 * 64 + 4 + 8


def test_a_masked_product_is_held_to_its_points() -> None:
    array = MatrixArray("array", 4, 8, "output", (8, 8), 32)
    assert product_cycles(array, Product(2, 8, 8, 8, 640, False, (8, 8))) == 20


def test_a_product_reads_its_operands_and_writes_its_result_once() -> None:
    assert compulsory_bytes(gemm_graph(3, 5, 7)) == (3 * 7 + 7 * 5, 3 * 5)


def test_decode_reads_the_cache_and_writes_one_row_of_it() -> None:
    """Width 64, 95 cached tokens; weights 64 x (192 + 64 + 256 + 256), their biases and two norms."""
    read, written = compulsory_bytes(block_of(small_network("decode")))
    weights = 64 * (192 + 64 + 256 + 256) + (192 + 64 + 256 + 64) + 4 * 64
    assert read == 64 + weights + 2 * 95 * 64
    assert written == 64 + 2 * 64


def test_an_embedding_reads_the_rows_that_it_needs() -> None:
    network = small_network("prefill", seq=48)
    read, written = compulsory_bytes(network[0].graph)
    assert read == 48 * 4 + 2 * 48 * 64  # token numbers, token rows, position rows
    assert written == 48 * 64


def test_work_counts_macs_of_the_graph() -> None:
    graph = block_of(small_network("prefill", "unmerged"))
    assert sum(one.points for one in layer_work(graph).products) == sum(
        graph.macs(operator) for operator in graph.operators
    )


def test_a_memory_bound_product_takes_its_bytes_over_the_bandwidth() -> None:
    """64 x 4096 by 4096 x 64 on the largest arrays with one HBM channel of 16 GB/s at 1050 MHz."""
    built = architecture("asic7", rows=256, cols=256, arrays=16, hbm_channels=1, dma_bytes_per_cycle=512)
    found = bound_of(gemm_network(64, 64, 512), built)
    n_bytes = 2 * 64 * 512 + 64 * 64
    assert found.resource == "dram"
    assert found.latency_cycles == int(n_bytes / (16e9 / 1050e6))


def test_layers_add_up() -> None:
    built = architecture()
    one, three = (bound_of(gemm_network(64, 64, 512, count), built) for count in (1, 3))
    assert three.latency_cycles == pytest.approx(3 * one.latency_cycles, abs=3)
    assert three.dram_read_bytes == 3 * one.dram_read_bytes


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_programs_bound_is_its_busiest_component(phase: str) -> None:
    built = architecture(rows=8, cols=8, dma_bytes_per_cycle=16)
    (dram,) = built.of_kind(Dram)
    memory = service_table(dram.config, dram.channels, built.clock_mhz)
    run = run_layer(block_of(small_network(phase, "unmerged")), built)
    cycles, component = program_bound(run.program, built, memory)
    assert cycles <= run.timing.latency_cycles
    work = {"array": 0, "dma_in": 0}
    for nest, time in zip(run.program.nests, run.timing.nests, strict=True):
        if nest.slot in work:
            work[nest.slot] += time.work_cycles
    assert component in ("array", "dma_in")
    channels = {"array": 1, "dma_in": 2}[component]
    assert cycles == -(-work[component] // channels)
