"""The weight-stationary family: tiles, caches, array cycles and whole layers against numbers checkable by hand."""

from dataclasses import replace
from math import exp, prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.dataflow.errors import InputError
from tilewright.sim.actions import count_actions
from tilewright.sim.architecture import Architecture, Dram, MatrixArray
from tilewright.sim.device import device_named
from tilewright.sim.engine import Timing, compile_program, run
from tilewright.sim.mapping import MappingError
from tilewright.sim.preloaded_array import leaf_cycles
from tilewright.sim.random_cache import miss_fraction
from tilewright.sim.rated_memory import memory_of
from tilewright.sim.systolic_ws import SystolicWs, layer_program
from tilewright.sim.systolic_ws_layer import (
    STOCK_ACC_ROWS,
    STOCK_SPAD_ROWS,
    WsLayer,
    WsTiling,
    library_tiling,
    tile_rows,
)
from tilewright.sim.systolic_ws_memory import L2, Piece, missed_lines

ARRAY = MatrixArray("array", 16, 16, "weight", (8, 8), 32, discipline="preloaded")
CONSTANTS = {"memory_latency_cycles": 80.0, "bus_efficiency": 1.0, "issue_interval_cycles": 4.0}
ORDER = ("q", "p", "k", "s", "r", "c")
MATMUL_ORDER = ("p", "k", "c", "q", "s", "r")


def gemmini(**parameters: object) -> Architecture:
    stated = {"scratchpad_kib": 4096, "accumulator_kib": 4096, **CONSTANTS, **parameters}
    return SystolicWs().build(stated, device_named("asic45"))  # type: ignore[arg-type]


def timed(layer: WsLayer, tiling: WsTiling, architecture: Architecture) -> Timing:
    program = layer_program(layer, tiling, architecture)
    (dram,) = architecture.of_kind(Dram)
    return run(compile_program(program, architecture, memory_of(dram, architecture.clock_mhz)))


def whole(layer: WsLayer) -> WsTiling:
    size = layer.sizes()
    order = MATMUL_ORDER if layer.is_matmul else ORDER
    return WsTiling(*(size[dim] for dim in "pqckrs"), order)


def sizes(largest: int) -> st.SearchStrategy[int]:
    return st.integers(1, largest)


CONVOLUTIONS = st.builds(
    WsLayer, st.just(False), sizes(30), sizes(30), sizes(80), sizes(80), st.sampled_from((1, 2, 3)),
    st.sampled_from((1, 2, 3)), st.sampled_from((1, 2)),
)  # fmt: skip
MATRICES = st.builds(WsLayer, st.just(True), sizes(300), st.just(1), sizes(300), sizes(300))
LAYERS = st.one_of(CONVOLUTIONS, MATRICES)


def test_a_block_of_weights_takes_sixteen_cycles_and_hides_behind_sixteen_rows() -> None:
    # one block, 16 rows: 16; 48 rows of a matrix: 48; 33 rows: padded to 48
    assert leaf_cycles(ARRAY, (16,), (16,), (1, 1, 16)) == 16
    assert leaf_cycles(ARRAY, (48,), (16,), (1, 1, 16)) == 48
    assert leaf_cycles(ARRAY, (33,), (16,), (1, 1, 16)) == 48
    # an image of 5 rows of 7 pixels: the first step waits 16 cycles for its weights, the others take 7
    assert leaf_cycles(ARRAY, (5, 7), (16,), (1, 1, 16)) == 16 + 4 * 7
    # 17 pixels are a step of 16 and one of the shortest, 4; 3 x 3 windows and 17 channels are 18 blocks
    assert leaf_cycles(ARRAY, (2, 17), (16,), (3, 3, 17)) == 18 * 2 * (16 + 4)


def test_steps_are_issued_no_faster_than_their_commands() -> None:
    # four rows of 4 pixels: 16 + 3 * 4 cycles of streaming, or four steps 8 cycles apart
    slow = replace(ARRAY, issue_cycles=8.0)
    assert leaf_cycles(ARRAY, (4, 4), (16,), (1, 1, 16)) == 28
    assert leaf_cycles(slow, (4, 4), (16,), (1, 1, 16)) == 32
    assert leaf_cycles(slow, (4, 16), (16,), (1, 1, 16)) == 64  # streaming hides the issue


@given(q=sizes(20), p=sizes(40), k=sizes(70), c=sizes(70), r=sizes(3))
def test_no_product_is_faster_than_its_multiply_accumulates(q: int, p: int, k: int, c: int, r: int) -> None:
    assert leaf_cycles(ARRAY, (q, p), (k,), (r, c)) >= q * p * k * c * r / 256


@given(layer=LAYERS)
def test_the_library_takes_a_tile_that_fits_and_cannot_grow(layer: WsLayer) -> None:
    tiling = library_tiling(layer)
    tile = tiling.tile(layer)
    spad, acc = tile_rows(layer, tile)
    assert 2 * spad <= STOCK_SPAD_ROWS
    assert 2 * acc <= STOCK_ACC_ROWS
    assert tiling.trials > 0
    assert all(1 <= tile[dim] <= size for dim, size in layer.sizes().items())
    if all(trips == 1 for trips in tiling.trips(layer).values()):
        assert tile == layer.sizes()


def test_a_layer_that_fits_is_one_tile() -> None:
    # 18 x 18 pixels of one block and 9 x 16 rows of weights: 324 + 144 rows, 256 rows of sums
    layer = WsLayer(False, 16, 16, 16, 16, 3, 3)
    assert tile_rows(layer, layer.sizes()) == (18 * 18 + 144, 256)
    assert set(library_tiling(layer).trips(layer).values()) == {1}


def test_no_tile_fits_in_no_memory() -> None:
    with pytest.raises(InputError, match="no tile fits in 8 rows of scratchpad"):
        library_tiling(WsLayer(False, 4, 4, 4, 4), 8, 8)


@given(load=st.floats(0.01, 20))
def test_a_cache_that_holds_its_working_set_never_misses(load: float) -> None:
    share = miss_fraction(load)
    if load <= 1:
        assert share == 0
    elif load > 1.2:  # near 1 the fixed point is reached slowly
        assert share == pytest.approx(1 - exp(-share * load), abs=1e-3)
        assert 0 < share < 1


def test_rows_of_sixteen_bytes_touch_a_line_each_unless_they_follow_each_other() -> None:
    assert Piece(100, 16, 1024).lines(64) == 100
    assert Piece(100, 64, 64).lines(64) == 100
    assert Piece(128, 16, 16).lines(64) == 32
    # rows 1 KiB apart lie in 64 of 1024 sets
    assert Piece(100, 16, 1024).reached_fraction(L2) == 1 / 16
    assert Piece(100, 36, 36).reached_fraction(L2) == 1


def test_requests_are_cut_at_sixty_four_bytes_and_beats_at_sixteen() -> None:
    assert Piece(10, 64, 64).requests() == (10, 40)
    assert Piece(10, 16, 1024).requests() == (10, 10)
    assert Piece(10, 80, 128).requests() == (20, 50)
    # rows of 36 bytes start at any multiple of 4: every second crosses a line
    n_requests, n_beats = Piece(2, 36, 36).requests()
    assert n_requests == pytest.approx(2 * (1 + 32 / 64))
    assert n_beats == 4 * n_requests


def test_weights_that_return_to_a_large_cache_are_missed_once() -> None:
    # 64 x 64 weights, 32 x 32 pixels of 64 channels in and out: 4 + 64 + 64 KiB, all of which the cache holds
    layer = WsLayer(False, 32, 32, 64, 64)
    assert missed_lines(layer, WsTiling(8, 8, 64, 64, 1, 1, ORDER), "weight", L2) == 0
    # 256 x 256 pixels are 4 MiB: inputs come once, weights, which stay, once
    large = WsLayer(False, 256, 256, 64, 64)
    tiling = WsTiling(8, 8, 64, 64, 1, 1, ORDER)
    assert missed_lines(large, tiling, "weight", L2) == 64
    assert missed_lines(large, tiling, "input", L2) == pytest.approx(256 * 256, rel=0.01)


@settings(max_examples=40)
@given(layer=LAYERS, divide=st.tuples(*(sizes(4) for _ in range(6))))
def test_every_instruction_loads_its_tiles_and_no_layer_beats_array_or_bus(
    layer: WsLayer, divide: tuple[int, ...]
) -> None:
    full = layer.sizes()
    tile = [max(1, full[dim] // part) for dim, part in zip("pqckrs", divide, strict=True)]
    if layer.is_matmul:
        tile = [
            max(16, size // 16 * 16) if dim in "pck" else 1 for dim, size in zip("pqckrs", tile, strict=True)
        ]
    tiling = WsTiling(*tile, MATMUL_ORDER if layer.is_matmul else ORDER)
    architecture = gemmini()
    timing = timed(layer, tiling, architecture)
    counts = count_actions(layer_program(layer, tiling, architecture), architecture)
    assert timing.latency_cycles >= layer.macs / 256
    # of the input every instruction reads what its outputs need, the halo included
    trips = tiling.trips(layer)
    assert counts.dram_read_bytes >= full["r"] * full["s"] * full["c"] * full["k"] * trips["p"] * trips["q"]
    assert counts.dram_write_bytes == full["p"] * full["q"] * full["k"]
    assert counts.n_macs == prod(full.values())


def test_a_second_instruction_loads_while_the_first_computes() -> None:
    # 256 blocks of 16 cycles compute for 4096 cycles a half; loads are far shorter, so only the first is seen
    layer = WsLayer(True, 256, 1, 256, 512)
    one = timed(WsLayer(True, 256, 1, 256, 256), WsTiling(256, 1, 256, 256, 1, 1, MATMUL_ORDER), gemmini())
    both = timed(layer, WsTiling(256, 1, 256, 256, 1, 1, MATMUL_ORDER), gemmini())
    computing = 16 * 16 * 256
    assert dict(both.busy_cycles)["array"] == 2 * computing
    assert both.latency_cycles - one.latency_cycles < 1.02 * computing


def test_more_of_a_constant_never_makes_a_layer_faster() -> None:
    layer = WsLayer(False, 28, 28, 128, 512)
    tiling = WsTiling(4, 7, 128, 512, 1, 1, ORDER)
    base = timed(layer, tiling, gemmini()).latency_cycles
    for name, value in (
        ("memory_latency_cycles", 160.0),
        ("bus_efficiency", 0.5),
        ("issue_interval_cycles", 8.0),
    ):
        assert timed(layer, tiling, gemmini(**{name: value})).latency_cycles >= base


def test_a_tile_that_overflows_a_memory_is_refused_with_rows_and_limit() -> None:
    layer = WsLayer(False, 28, 28, 512, 512)
    with pytest.raises(
        MappingError, match="two tiles of 41472 rows do not fit in the scratchpad of 16384 rows"
    ):
        layer_program(layer, whole(layer), gemmini(scratchpad_kib=256), "conv")
    with pytest.raises(
        MappingError, match="two tiles of 25088 rows do not fit in the accumulator of 1024 rows"
    ):
        layer_program(layer, whole(layer), gemmini(accumulator_kib=64), "conv")


@pytest.mark.parametrize("name", ["p", "stride", "input_bytes"])
def test_a_layer_without_size_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} must be >= 1, got 0"):
        WsLayer(**{"is_matmul": False, "p": 4, "q": 4, "c": 4, "k": 4, name: 0})  # type: ignore[arg-type]
