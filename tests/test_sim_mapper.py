"""The mapper: its candidates, its closed forms against plain loops, and its choice."""

from dataclasses import replace
from itertools import product
from statistics import median, quantiles

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sequential_cases import architecture, gemm_graph
from tilewright.sim import mapper_kernel as kernels
from tilewright.sim.architecture import MatrixArray, Stationarity
from tilewright.sim.arrays import leaf_cycles, streamed_elements
from tilewright.sim.evaluate import run_layer
from tilewright.sim.mapper import map_contraction, problem_vectors, tile_candidates
from tilewright.sim.mapper_machine import machine_of
from tilewright.sim.mapping import GemmProblem, MappingError
from tilewright.sim.sequential_gemm import problem_of
from tilewright.sim.sequential_plan import Fusion, GemmPlan, plan_graph
from tilewright.sim.sequential_rooms import divide_buffers

SIZES = st.integers(1, 70)
EDGES = st.sampled_from((1, 3, 4, 8, 16))
STATIONARITIES = st.sampled_from(("output", "weight", "input"))


def array_of(rows: int, cols: int, stationarity: Stationarity, count: int, overlap: bool) -> MatrixArray:
    return MatrixArray("array", rows, cols, stationarity, (8, 8), 32, "mac", count, overlap)


def problem(m: int, n: int, k: int, **changed: int) -> GemmProblem:
    """Every tile is a candidate; the buffers are large unless changed."""
    base = GemmProblem(
        "op", m, n, k, 1, tuple(range(1, m + 1)), tuple(range(1, n + 1)), tuple(range(1, k + 1)),
        8, 8, 8, 32, a_bytes=1 << 20, b_bytes=1 << 20, c_elements=1 << 20, copies=2,
    )  # fmt: skip
    return replace(base, **changed)


@given(size=st.integers(1, 3000), tile=st.integers(1, 3000))
def test_every_trip_count_of_a_single_rank_has_a_candidate(size: int, tile: int) -> None:
    tile = min(tile, size)
    trips = {-(-size // candidate) for candidate in tile_candidates((size,), 1, limit=10**6)}
    assert -(-size // tile) in trips


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3), quantum=EDGES, most=st.integers(1, 900))
def test_candidates_ascend_cut_one_rank_and_stay_below_the_limit(
    sizes: list[int], quantum: int, most: int
) -> None:
    found = tile_candidates(tuple(sizes), quantum, 12, most)
    assert list(found) == sorted(set(found))
    assert found[0] == 1
    assert len(found) <= 12
    inner = np.cumprod([1, *sizes[::-1]])
    for tile in found:
        assert tile == 1 or tile <= most
        cuts = zip(inner[:-1], sizes[::-1], strict=True)
        assert any(tile % part == 0 and tile // part <= size for part, size in cuts)


@given(m=SIZES, n=SIZES, k=SIZES, rows=EDGES, cols=EDGES, kind=STATIONARITIES, count=st.integers(1, 5),
       overlap=st.booleans())  # fmt: skip
def test_the_kernels_array_is_the_simulators(
    m: int, n: int, k: int, rows: int, cols: int, kind: Stationarity, count: int, overlap: bool
) -> None:
    plain = leaf_cycles(array_of(rows, cols, kind, count, overlap), m, n, k)
    code = kernels.STATIONARITY_CODE[kind]
    assert kernels.array_cycles(m, n, k, rows, cols, code, count, int(overlap)) == plain


@given(m=SIZES, n=SIZES, k=SIZES, tiles=st.tuples(SIZES, SIZES, SIZES), kind=STATIONARITIES,
       transposed=st.booleans())  # fmt: skip
def test_a_products_cycles_are_those_of_its_leaves(
    m: int, n: int, k: int, tiles: tuple[int, int, int], kind: Stationarity, transposed: bool
) -> None:
    m_tile, n_tile, k_tile = (min(tile, size) for tile, size in zip(tiles, (m, n, k), strict=True))
    array = array_of(8, 4, kind, 2, True)
    plain = 0
    for i, j, p in product(range(0, m, m_tile), range(0, n, n_tile), range(0, k, k_tile)):
        size_m, size_n, size_k = min(m_tile, m - i), min(n_tile, n - j), min(k_tile, k - p)
        if transposed:
            size_m, size_n = size_n, size_m
        plain += leaf_cycles(array, size_m, size_n, size_k)
    sizes = np.zeros(21, dtype=np.int64)
    sizes[kernels.ROWS], sizes[kernels.COLS], sizes[kernels.COUNT] = 8, 4, 2
    sizes[kernels.STATIONARITY], sizes[kernels.OVERLAP] = kernels.STATIONARITY_CODE[kind], 1
    found = kernels.gemm_compute_cycles(m, n, k, m_tile, n_tile, k_tile, sizes, int(transposed))
    assert found == plain


@given(m=SIZES, n=SIZES, k=SIZES, kind=STATIONARITIES, count=st.integers(1, 4))
def test_what_passes_the_arrays_edge_is_what_the_simulator_streams(
    m: int, n: int, k: int, kind: Stationarity, count: int
) -> None:
    sizes = np.zeros(21, dtype=np.int64)
    sizes[kernels.ROWS], sizes[kernels.COLS], sizes[kernels.COUNT] = 8, 4, count
    sizes[kernels.STATIONARITY] = kernels.STATIONARITY_CODE[kind]
    plain = streamed_elements(array_of(8, 4, kind, count, False), m, n, k)
    assert kernels.edge_elements(m, n, k, m, n, k, sizes, 0) == plain
    a, b, c = streamed_elements(array_of(8, 4, kind, count, False), n, m, k)
    assert kernels.edge_elements(m, n, k, m, n, k, sizes, 1) == (b, a, c)


def test_no_candidate_costs_less_than_the_chosen_mapping_beyond_the_slack() -> None:
    built = architecture(rows=4, cols=8, dma_bytes_per_cycle=16)
    machine = machine_of(built)
    asked = problem(9, 20, 12, a_bytes=64, b_bytes=100, c_elements=60)
    chosen = map_contraction(asked, built)
    sizes, rates = problem_vectors(asked, machine.mapper_sizes, machine.mapper_rates)
    costs = []
    for tile in product(asked.m_tiles, asked.n_tiles, asked.k_tiles):
        for configuration, transposed in product(kernels.CONFIGURATIONS, (0, 1)):
            a_held = (9 if configuration[1] == 2 else tile[0]) * (tile[2] if configuration[1] == 0 else 12)
            b_held = (20 if configuration[2] == 2 else tile[1]) * (tile[2] if configuration[2] == 0 else 12)
            if not kernels.fits(tile[0], tile[1], a_held, b_held, configuration, sizes):
                continue
            found = np.zeros(3)
            compute = kernels.gemm_compute_cycles(9, 20, 12, *tile, sizes, transposed)
            kernels.mapping_cost(
                *tile, a_held, b_held, configuration, compute, sizes, rates, transposed, found
            )
            costs.append(found[0])
    assert min(costs) <= chosen.cycles <= (1 + kernels.SLACK) * min(costs)


def test_a_mapping_keeps_within_its_rooms() -> None:
    asked = problem(40, 50, 60, a_bytes=200, b_bytes=300, c_elements=128)
    for objective in ("latency", "energy", "edp"):
        found = map_contraction(asked, architecture(), objective)
        a_depth = found.k_tile if found.a_residency == "stream" else 60
        b_depth = found.k_tile if found.b_residency == "stream" else 60
        assert (40 if found.a_residency == "whole" else found.m_tile) * a_depth <= 200
        assert (50 if found.b_residency == "whole" else found.n_tile) * b_depth <= 300
        assert found.m_tile * found.n_tile <= 128


def test_energy_is_not_above_that_of_the_fastest_mapping() -> None:
    asked = problem(64, 64, 64, a_bytes=600, b_bytes=600, c_elements=256)
    fast, frugal = (map_contraction(asked, architecture(), one) for one in ("latency", "energy"))
    assert frugal.energy_pj <= fast.energy_pj
    assert fast.cycles <= frugal.cycles


def test_a_vector_times_a_matrix_puts_the_matrix_along_the_longer_edge() -> None:
    """One row of C on 8 x 64 PEs: n across the 64 columns is 8 times as fast as on the 8 rows."""
    asked = replace(problem(1, 512, 64), n_tiles=(64, 512), k_tiles=(64,))
    assert not map_contraction(asked, architecture(rows=8, cols=64)).transposed
    assert map_contraction(asked, architecture(rows=64, cols=8)).transposed


@pytest.mark.parametrize(("kind", "transposed"), [("weight", True), ("input", False)])
def test_a_single_row_stays_in_the_array_while_the_matrix_streams(kind: str, transposed: bool) -> None:
    """1 x 512 by 64 on 32 x 32 PEs: with x in the PEs 2 folds of 512 beats, with the matrix 32 folds of one.

    Folds that overlap cost the 32 folds no more than their 32 rows of loading, so here they do not.
    """
    asked = replace(problem(1, 512, 64), n_tiles=(512,), k_tiles=(64,))
    machine = architecture(rows=32, cols=32, stationarity=kind, drain_overlap=False)
    found = map_contraction(asked, machine)
    assert found.transposed is transposed


def test_a_product_without_room_is_refused_with_the_limit() -> None:
    asked = replace(problem(4, 4, 100, a_bytes=8), a_stays=True)
    with pytest.raises(MappingError, match=r"operator 'op'.*8 bytes of input buffer.*k is 100"):
        map_contraction(asked, architecture())


def test_the_estimate_follows_the_simulator() -> None:
    """Over products and designs the estimate's median is right to 3 %, nine in ten lie within 20 %."""
    ratios = []
    for (m, n, k), rows, kind, kib in product(
        ((1, 1024, 256), (100, 300, 512), (256, 256, 64)), (8, 32), ("output", "weight"), (32, 256)
    ):
        built = architecture(
            "asic7", rows=rows, cols=16, stationarity=kind, weight_buffer_kib=kib, input_buffer_kib=kib,
            output_buffer_kib=64,
        )  # fmt: skip
        graph = gemm_graph(m, n, k)
        plan = plan_graph(graph, Fusion(True, True, True))
        (stage,) = plan.stages
        assert isinstance(stage, GemmPlan)
        machine = machine_of(built)
        rooms = divide_buffers(graph, machine, plan, 2)
        estimate = map_contraction(problem_of(graph, machine, stage, rooms, 2), built).cycles
        ratios.append(run_layer(graph, built).timing.latency_cycles / estimate)
    assert median(ratios) == pytest.approx(1, abs=0.03)
    deciles = quantiles(ratios, n=20)
    assert deciles[0] > 0.8
    assert deciles[-1] < 1.2
