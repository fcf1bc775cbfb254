"""GPUs: waves of tiles, passes over rows, launches, and whole networks against closed forms."""

from dataclasses import replace
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sequential_cases import small_network
from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Graph, LayerClass
from tilewright.hardware_graphs import layer_norm_graph, map_graph, product_graph, softmax_graph
from tilewright.sim.design import Design
from tilewright.sim.device import device_named, devices
from tilewright.sim.evaluate import evaluate, run_layer
from tilewright.sim.gpu_kernels import Gpu, missed_rows, norm_work, softmax_work
from tilewright.sim.gpu_like import GpuLike, gpu_of
from tilewright.sim.template import check_device, template_named
from tilewright.sim.thread_blocks import Multiprocessors, Product, best_blocks

DEVICE = "a100_80gb"
CONSTANTS = {"launch_us": 10.0, "dram_efficiency": 1.0, "compute_efficiency": 1.0}
CLOCK_MHZ = 1410
FP16 = (16.0, 16.0, 16.0)
UNIT = Multiprocessors(108, 1024, 2, True, True, 20e6, 1024)
LANES = replace(UNIT, macs_per_cycle=64.0, operand_bytes=4, matrix=False, peak_macs_per_cycle=64)
GPU = Gpu(UNIT, 108 * 64, 1446.0)
FAST = 1e9  # bytes per cycle of a memory that never limits


def cycles_of(graph: Graph, device: str = DEVICE, precision: str = "fp16", **constants: float) -> int:
    parameters = {**CONSTANTS, "precision": precision, **constants}
    architecture = GpuLike().build(parameters, device_named(device))
    return run_layer(graph, architecture, "gpu_like").timing.latency_cycles


def test_a_tile_more_than_there_are_multiprocessors_takes_another_wave() -> None:
    # 108 tiles of 128 x 128 in one wave of 128 * 128 * 512 / 64 cycles on lanes; batches are never split
    full = best_blocks(Product(128, 128, 512, 108, (32.0,) * 3), LANES, FAST)  # type: ignore[arg-type]
    more = best_blocks(Product(128, 128, 512, 109, (32.0,) * 3), LANES, FAST)  # type: ignore[arg-type]
    assert full.cycles == 128 * 128 * 512 / 64
    assert more.cycles == 2 * full.cycles


def test_a_tile_is_computed_in_full_beyond_the_edge_of_the_matrix() -> None:
    narrow = best_blocks(Product(128, 64, 512, 108, (32.0,) * 3), LANES, FAST)  # type: ignore[arg-type]
    assert narrow.cycles == 128 * 128 * 512 / 64  # batches on lanes have no narrower tile on an A100


def test_a_deep_product_of_few_tiles_is_split_along_its_sum() -> None:
    # 16 tiles of 64 x 64 six times are 96 of 108 places in one wave; seven times they would take two
    blocks = best_blocks(Product(256, 256, 16384, 1, (32.0,) * 3), LANES, FAST)  # type: ignore[arg-type]
    assert (blocks.tile.rows, blocks.tile.cols, blocks.splits) == (64, 64, 6)
    assert blocks.write_bytes == 256 * 256 * 4 * 6  # the result and five partial sums


@given(m=st.integers(1, 9000), n=st.integers(1, 9000), k=st.integers(1, 9000), batch=st.integers(1, 30))
def test_no_product_beats_the_peak_or_moves_less_than_its_operands(
    m: int, n: int, k: int, batch: int
) -> None:
    blocks = best_blocks(Product(m, n, k, batch, FP16), UNIT, GPU.bytes_per_cycle)
    assert blocks.cycles * (1 + 1e-9) >= batch * m * n * k / (108 * 1024)
    assert blocks.read_bytes + blocks.write_bytes >= 2 * batch * (m * k + k * n + m * n) * (1 - 1e-12)


def test_a_map_takes_its_launch_and_its_bytes_at_the_memorys_rate() -> None:
    # 2^28 elements of 2 bytes in and out: 1 GiB at 2039 GB/s is 526.6 us, and sixteen parts overlap all but the ends
    elements = 1 << 28
    cycles = cycles_of(map_graph("relu", 1, elements, "fp16"))
    expected = 10 * CLOCK_MHZ + 4 * elements / (2039e3 / CLOCK_MHZ)
    assert cycles == pytest.approx(expected, rel=0.01)


def test_half_the_memorys_efficiency_is_twice_the_time() -> None:
    graph = map_graph("add", 2, 1 << 28, "fp16")
    launch = 10 * CLOCK_MHZ
    slow, fast = cycles_of(graph, dram_efficiency=0.5), cycles_of(graph)
    assert slow - launch == pytest.approx(2 * (fast - launch), rel=0.01)


def test_a_large_product_runs_at_the_efficiency_of_its_units() -> None:
    # 27 x 36 tiles of 256 x 128 are nine full waves of 108
    m, n, k = 27 * 256, 36 * 128, 8192
    cycles = cycles_of(product_graph(1, m, n, k, "fp16"), compute_efficiency=0.8, launch_us=0.1)
    assert cycles == pytest.approx(m * n * k / (108 * 1024 * 0.8), rel=0.03)


def test_rows_of_a_softmax_that_fit_a_warp_are_read_once_and_long_ones_up_to_three_times() -> None:
    short = softmax_work(GPU, 1 << 20, 1024, 4)
    assert short.read_bytes == short.write_bytes == (1 << 20) * 4096
    # 432 rows of 8 KiB are in flight, far less than the cache: no second reading
    assert softmax_work(GPU, 1 << 18, 2048, 4).read_bytes == (1 << 18) * 8192
    long = softmax_work(GPU, 1 << 16, 1 << 20, 4)
    assert long.read_bytes == pytest.approx(3 * (1 << 16) * (1 << 22), rel=1e-3)
    assert long.write_bytes == (1 << 16) * (1 << 22)


@given(rows=st.integers(1, 10**6), columns=st.integers(1, 10**5), width=st.sampled_from((2, 4)))
def test_a_norm_reads_its_rows_once_to_twice(rows: int, columns: int, width: int) -> None:
    n_bytes = rows * columns * width
    work = norm_work(GPU, rows, columns, width, 0.0)
    assert n_bytes <= work.read_bytes <= 2 * n_bytes
    assert work.write_bytes == n_bytes


@given(row_bytes=st.floats(1, 1e6), more=st.floats(1, 10))
def test_longer_rows_never_miss_less(row_bytes: float, more: float) -> None:
    assert missed_rows(GPU, 12, row_bytes, 2) <= missed_rows(GPU, 12, row_bytes * more, 2) + 1e-6


def test_kernels_wait_for_each_other_but_launches_run_ahead() -> None:
    # layers of kernels longer than a launch: the host is idle, and only the first launch is seen
    network = small_network("prefill", "none", seq=200)
    block = max(network, key=lambda layer: layer.count).graph
    architecture = GpuLike().build({**CONSTANTS, "launch_us": 0.1}, device_named(DEVICE))
    slow = GpuLike().build(CONSTANTS, device_named(DEVICE))
    n_kernels = len(run_layer(block, architecture, "gpu_like").program.stages)
    waiting = run_layer(block, slow, "gpu_like").timing.latency_cycles
    launch = 10 * CLOCK_MHZ
    assert n_kernels * launch <= waiting < n_kernels * launch + 0.2 * launch + 20000


@pytest.mark.parametrize("graph", [softmax_graph(4096, 512, "fp16"), layer_norm_graph(4096, 512, "fp16")])
def test_a_softmax_and_a_norm_are_one_kernel_each(graph: Graph) -> None:
    architecture = GpuLike().build(CONSTANTS, device_named(DEVICE))
    program = run_layer(graph, architecture, "gpu_like").program
    assert len(program.stages) == 1
    loads = {nest.leaf.tensor for nest in program.nests if nest.slot == "dma_in"}  # type: ignore[union-attr]
    assert loads == set(graph.inputs)


def test_matrix_units_take_the_types_that_the_data_sheet_names() -> None:
    assert (
        "fp8"
        in next(p for p in GpuLike().space(device_named("h100")).parameters if p.name == "precision").values
    )
    assert GpuLike().space(device_named("p100")).parameters[0].values == ("fp32",)
    half = gpu_of(GpuLike().build({"precision": "fp16"}, device_named(DEVICE)))
    full = gpu_of(GpuLike().build({"precision": "fp32"}, device_named(DEVICE)))
    assert half.products.peak_macs_per_cycle == 1024
    assert full.products.peak_macs_per_cycle == 64


@pytest.mark.parametrize("name", [name for name, device in devices().items() if device.gpu])
def test_every_gpu_has_the_peak_of_its_sheet(name: str) -> None:
    device = device_named(name)
    assert device.gpu is not None
    report = evaluate(
        (LayerClass("one", product_graph(1, 512, 512, 512, "fp16"), 1),), Design("gpu_like", name)
    )
    precision = dict(report.parameters)["precision"]
    macs = dict(device.gpu.matrix_macs).get(str(precision), device.gpu.fp32_lanes)
    assert dict(report.peaks)["macs_per_cycle"] == device.gpu.multiprocessors * macs
    per_cycle = device.gpu.memory_gb_per_s * 1e3 / device.default_clock_mhz
    assert dict(report.peaks)["dram_bytes_per_cycle"] == pytest.approx(per_cycle)


def test_energy_is_the_power_limit_over_the_time_and_the_area_the_die() -> None:
    report = evaluate(small_network("prefill"), Design("gpu_like", DEVICE))
    assert report.power_w == pytest.approx(400)
    assert report.area.mm2 == 826
    assert report.tables == ("energy:board_power_limit", "area:data_sheet")


def test_a_report_says_where_its_constants_come_from() -> None:
    own = evaluate(small_network("prefill"), Design("gpu_like", DEVICE))
    assert "fitted on 7 points" in dict(own.provenance)["launch_us"]
    assert dict(own.parameters)["launch_us"] == 23.23
    other = evaluate(small_network("prefill"), Design("gpu_like", DEVICE, {"launch_us": 5.0}))
    assert dict(other.provenance)["launch_us"].startswith("stated")
    assert (
        "nothing"
        in dict(evaluate(small_network("prefill"), Design("gpu_like", "h100")).provenance)["launch_us"]
    )


def test_a_gpu_is_for_the_family_of_gpus_alone() -> None:
    with pytest.raises(InputError, match="'gpu_like' is for devices of class gpu, u280 is of class 'fpga'"):
        check_device(template_named("gpu_like"), device_named("u280"))
    with pytest.raises(
        InputError, match="'sequential' is for devices of class fpga or asic, h100 is of class 'gpu'"
    ):
        evaluate(small_network("prefill"), Design("sequential", "h100"))


def test_a_workload_beyond_the_boards_memory_is_refused() -> None:
    # three tensors of 2^34 elements of 2 bytes are 103 GB
    graph = map_graph("add", 2, 1 << 34, "fp16")
    with pytest.raises(InputError, match="does not fit the memory of a100_80gb"):
        evaluate((LayerClass("one", graph, 1),), Design("gpu_like", DEVICE))


def test_a_launch_is_rounded_up_to_whole_cycles() -> None:
    tiny = map_graph("relu", 1, 16, "fp16")
    assert cycles_of(tiny, launch_us=3.3) >= ceil(3.3 * CLOCK_MHZ)
