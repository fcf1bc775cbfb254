"""Whole arrays in PyRTL: results equal numpy's to the bit, cycles equal the closed forms."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tilewright.dataflow.errors import InputError
from tilewright.hls_templates.rtl import cell, control, float_model
from tilewright.hls_templates.rtl.array import array_grid, grid_of
from tilewright.hls_templates.rtl.control import Grid
from tilewright.hls_templates.rtl.simulate import ArraySimulator, Pattern, simulator_of
from tilewright.sim.architecture import MatrixArray, Stationarity
from tilewright.sim.arrays import Schedule, gemm_cycles, leaf_cycles, schedule_of, stalled_cycles

Words = NDArray[np.int64]
STATIONARITIES: tuple[Stationarity, ...] = ("output", "weight", "input")


def pe_cycles(grid: Grid) -> tuple[int, int]:
    return grid.kind.pe.multiply_cycles, grid.kind.pe.add_cycles


def schedule(grid: Grid, m: int, n: int, k: int, batch: int = 1) -> Schedule:
    return schedule_of(
        m, n, k, grid.rows, grid.cols, grid.kind.stationarity, grid.kind.drain_overlap, pe_cycles(grid), batch
    )


def integers(bits: int, *shape: int) -> Words:
    limit = 1 << (bits - 1)
    return np.random.default_rng([bits, *shape]).integers(-limit, limit, shape)


def floats(*shape: int) -> Words:
    return float_model.bf16_bits(np.random.default_rng(shape).normal(size=shape)).astype(np.int64)


def model(grid: Grid, a: Words, b: Words) -> NDArray[np.float32]:
    """C of a bf16 grid in numpy."""
    a, b = a.astype(np.uint16), b.astype(np.uint16)
    if grid.kind.keeps_sums:
        return float_model.output_stationary(a, b)
    if grid.kind.stationarity == "weight":
        return float_model.held(b, a, grid.rows)
    return float_model.held(a.T, b.T, grid.rows).T


def check(grid: Grid, m: int, n: int, k: int, *patterns: Pattern) -> None:
    """One int8 product: its values, and its cycles with the given stalls."""
    a, b = integers(8, m, k), integers(8, k, n)
    run = simulator_of(grid).multiply(a, b, *patterns)
    assert (run.product == a @ b).all()
    assert run.n_cycles == stalled_cycles(schedule(grid, m, n, k), *patterns)
    if not patterns:
        cycles = gemm_cycles(
            m, n, k, grid.rows, grid.cols, grid.kind.stationarity, drain_overlap=grid.kind.drain_overlap
        )
        assert run.n_cycles == cycles


kinds = st.tuples(st.sampled_from(STATIONARITIES), st.booleans())
few_sides = st.sampled_from(((2, 2), (2, 5), (3, 3), (4, 2), (5, 3)))
sizes = st.integers(1, 14)


@given(kinds, few_sides, sizes, sizes, sizes)
@settings(max_examples=60)
def test_cycles_and_values_of_any_product_are_exact(
    kind: tuple[Stationarity, bool], sides: tuple[int, int], m: int, n: int, k: int
) -> None:
    check(array_grid(*sides, kind[0], drain_overlap=kind[1]), m, n, k)


patterns = st.lists(st.booleans(), max_size=120)


@given(kinds, st.sampled_from(((2, 2), (3, 4))), sizes, sizes, sizes, patterns, patterns, patterns)
@settings(max_examples=40)
def test_stalls_cost_what_the_walk_over_the_steps_says_and_change_no_value(
    kind: tuple[Stationarity, bool], sides: tuple[int, int], m: int, n: int, k: int,
    west: list[bool], north: list[bool], south: list[bool],
) -> None:  # fmt: skip
    check(array_grid(*sides, kind[0], drain_overlap=kind[1]), m, n, k, west, north, south)


@pytest.mark.slow
@given(
    kinds, st.integers(2, 16), st.integers(2, 16), st.integers(1, 80), st.integers(1, 80), st.integers(1, 80),
    st.booleans(), st.randoms(use_true_random=False),
)  # fmt: skip
@settings(max_examples=150)
def test_cycles_and_values_are_exact_up_to_16_by_16(
    kind: tuple[Stationarity, bool],
    rows: int,
    cols: int,
    m: int,
    n: int,
    k: int,
    stalls: bool,
    random: object,
) -> None:
    grid = array_grid(rows, cols, kind[0], drain_overlap=kind[1])
    length = schedule(grid, m, n, k).n_cycles if stalls else 0
    found = [[random.random() < 0.8 for _ in range(length)] for _ in range(3)]  # type: ignore[attr-defined]
    check(grid, m, n, k, *(found if stalls else ()))


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("stationarity", STATIONARITIES)
def test_a_gap_before_a_beat_costs_what_it_lasts(stationarity: Stationarity, overlap: bool) -> None:
    """One fold of 9 beats; the operands are missing in the cycles of its third and fourth beat."""
    grid = array_grid(2, 3, stationarity, drain_overlap=overlap)
    m, n, k = {"output": (2, 3, 9), "weight": (9, 3, 2), "input": (3, 9, 2)}[stationarity]
    first = 0 if stationarity == "output" else 2
    gap = [cycle - first not in (2, 3) for cycle in range(20)]
    run = simulator_of(grid).multiply(integers(8, m, k), integers(8, k, n), gap)
    assert run.n_cycles == 9 + 2 * 2 + 3 + 2


@pytest.mark.parametrize("stationarity", STATIONARITIES)
def test_a_batch_of_products_follows_without_a_gap(stationarity: Stationarity) -> None:
    """Three products of 5 x 4 x 7 on 3 x 2, as one leaf of the tile simulator has them."""
    grid = array_grid(3, 2, stationarity, drain_overlap=True)
    a, b = integers(8, 3, 5, 7), integers(8, 3, 7, 4)
    run = simulator_of(grid).multiply(a, b)
    assert (run.product == a @ b).all()
    array = MatrixArray("a", 3, 2, stationarity, (8, 8), 32, drain_overlap=True)
    assert run.n_cycles == leaf_cycles(array, 5, 4, 7, batch=3)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("stationarity", STATIONARITIES)
def test_bf16_arrays_equal_their_model_and_the_pipelined_form(
    stationarity: Stationarity, overlap: bool
) -> None:
    """One, two and many beats, remainders, and stalls that must not change the order of sums."""
    grid = array_grid(3, 2, stationarity, drain_overlap=overlap, pe="bf16")
    random = np.random.default_rng(3)
    for m, n, k in ((3, 2, 1), (4, 3, 2), (5, 4, 7), (1, 5, 4)):
        a, b = floats(m, k), floats(k, n)
        stalls = [list(random.random(60) < 0.7) for _ in range(3)]
        for stall in ((), tuple(stalls)):
            run = simulator_of(grid).multiply(a, b, *stall)
            assert (run.product == model(grid, a, b)).all()
            assert run.n_cycles == stalled_cycles(schedule(grid, m, n, k), *stall)
        exact = float_model.bf16_values(a.astype(np.uint16)).astype(np.float64)
        exact = exact @ float_model.bf16_values(b.astype(np.uint16)).astype(np.float64)
        assert np.abs(run.product - exact).max() <= 1e-6 * k


@pytest.mark.parametrize("name", ["int4", "int16", "ternary", "shift_add"])
def test_arrays_of_every_integer_pe_multiply(name: str) -> None:
    """Weight-stationary and input-stationary: the weight comes from the north in one, from the west in the other."""
    values = {"ternary": [0, 1, 0, -1], "shift_add": [0, 1, 2, 4, 8, 16, 32, 64]}
    values["shift_add"] += [-value for value in values["shift_add"]]
    for stationarity in STATIONARITIES:
        grid = array_grid(2, 3, stationarity, drain_overlap=True, pe=name)
        a = integers(grid.kind.pe.activation_bits, 5, 4)
        codes = integers(grid.kind.pe.weight_bits, 4, 7)
        run = simulator_of(grid).multiply(a, codes)
        meaning = values.get(name)
        weights = np.array(meaning)[codes % len(meaning)] if meaning else codes
        assert (run.product == a @ weights).all()


@given(
    kinds, st.sampled_from((("int8", 2, 2), ("int8", 3, 4), ("int4", 2, 6))), sizes, sizes, sizes, patterns
)
@settings(max_examples=40)
def test_columns_that_share_multipliers_keep_the_cycles_of_plain_ones(
    kind: tuple[Stationarity, bool], sides: tuple[str, int, int], m: int, n: int, k: int, west: list[bool]
) -> None:
    pe, rows, cols = sides
    grid = array_grid(rows, cols, kind[0], drain_overlap=kind[1], pe=pe, packs=True)
    bits = grid.kind.pe.weight_bits
    a, b = integers(bits, m, k), integers(bits, k, n)
    run = simulator_of(grid).multiply(a, b, west)
    assert (run.product == a @ b).all()
    assert run.n_cycles == stalled_cycles(schedule(grid, m, n, k), west)


def test_a_run_starts_in_the_cycle_after_the_last_was_done() -> None:
    """The same simulator, product after product: nothing is left over from the one before."""
    for kind in STATIONARITIES:
        simulator = ArraySimulator(array_grid(3, 2, kind, drain_overlap=True))
        for m, n, k in ((4, 3, 1), (1, 1, 9), (7, 5, 5)):
            a, b = integers(8, m, k), integers(8, k, n)
            run = simulator.multiply(a, b)
            assert (run.product == a @ b).all()
            assert run.n_cycles == schedule(simulator.grid, m, n, k).n_cycles


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("stationarity", STATIONARITIES)
def test_counters_of_three_bits_walk_over_sizes_of_up_to_seven(
    stationarity: Stationarity, overlap: bool
) -> None:
    """Nothing overflows at the largest sizes, nor in a batch of as many products."""
    simulator = ArraySimulator(array_grid(3, 2, stationarity, drain_overlap=overlap, size_bits=3))
    for m, n, k in ((7, 7, 7), (6, 7, 1), (7, 1, 6), (1, 6, 7)):
        a, b = integers(8, 7, m, k), integers(8, 7, k, n)
        run = simulator.multiply(a, b)
        assert (run.product == a @ b).all()
        assert run.n_cycles == schedule(simulator.grid, m, n, k, batch=7).n_cycles
    with pytest.raises(InputError, match="fits 3 bits"):
        simulator.multiply(integers(8, 8, 3), integers(8, 3, 2))


def test_sums_wrap_at_their_width() -> None:
    grid = array_grid(2, 2, "output", pe=replace(array_grid(2, 2).kind.pe, sum_bits=16))
    a = np.full((1, 5), -128)
    assert simulator_of(grid).multiply(a, a.T).product[0, 0] == 5 * 16384 - 65536


@pytest.mark.parametrize(
    ("module", "name", "broken"),
    [
        (cell, "product", lambda _, a, w: product_unsigned(a, w)),
        (control, "_is_live", lambda row, left: left > row + 1),
    ],
    ids=["an unsigned multiplier", "a row too few let in"],
)
def test_a_seeded_fault_is_found(
    module: object, name: str, broken: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = array_grid(3, 2, "weight")
    a, b = integers(8, 5, 7), integers(8, 7, 4)
    assert (ArraySimulator(grid).multiply(a, b).product == a @ b).all()
    monkeypatch.setattr(module, name, broken)
    assert (ArraySimulator(grid).multiply(a, b).product != a @ b).any()


def product_unsigned(a: object, w: object) -> object:
    return (a.zero_extended(32) * w.zero_extended(32))[:32]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rows": 0}, "rows must be 1 to 128, got 0"),
        ({"cols": 129}, "cols must be 1 to 128, got 129"),
        ({"size_bits": 1}, "size_bits 1 do not hold 4 rows"),
        ({"pe": "fp8"}, "PE 'fp8' is unknown"),
        ({"cols": 3, "packs": True}, "takes two columns and integers of up to 8 bits, got 3 columns of int8"),
        ({"pe": "int16", "packs": True}, "got 4 columns of int16 with 16 and 16 bits"),
    ],
)
def test_an_array_that_cannot_be_is_one_line(changed: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        array_grid(**({"rows": 4, "cols": 4} | changed))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_an_architectures_array_is_built_or_refused_by_name() -> None:
    array = MatrixArray("pes", 4, 8, "weight", (4, 8), 24, drain_overlap=True)
    grid = grid_of(array)
    assert (grid.kind.north_bits, grid.kind.west_bits, grid.kind.pe.sum_bits) == (4, 8, 24)
    assert (grid.rows, grid.cols, grid.kind.drain_overlap) == (4, 8, True)
    assert grid_of(replace(array, arithmetic="packed_mac")).kind.lanes == 2
    assert grid_of(replace(array, arithmetic="packed_mac", cols=7)).kind.lanes == 1
    for changed, message in (
        ({"arithmetic": "analog"}, "pes: no RTL is built for an array of 'analog'"),
        ({"operand_bits": (32, 8)}, "no int PE is built for weights of 32 bits, activations of 8"),
        ({"accumulator_bits": 8}, "and sums of 8"),
        ({"arithmetic": "ternary_add"}, "no ternary PE is built for weights of 4 bits"),
        ({"discipline": "preloaded"}, "no RTL is built for an array of 'preloaded'"),
        ({"pe_cycles": (1, 2)}, "those of the bf16 PE"),
        ({"pe_cycles": (3, 1)}, r"no PE is built with pe_cycles \(3, 1\)"),
        ({"rows": 256}, "rows must be 1 to 128, got 256"),
    ):
        with pytest.raises(InputError, match=message):
            grid_of(replace(array, **changed))  # type: ignore[arg-type]


def test_an_array_of_sixteen_bits_with_a_pipelined_pe_is_built_of_bf16_pes() -> None:
    array = MatrixArray("pes", 2, 3, "weight", (16, 16), 32, pe_cycles=(1, 2))
    grid = grid_of(array)
    assert grid.kind.pe.is_float
    a, b = floats(4, 5), floats(5, 3)
    assert simulator_of(grid).multiply(a, b).n_cycles == leaf_cycles(array, 4, 3, 5)


def test_shapes_that_do_not_fit_are_refused() -> None:
    simulator = simulator_of(array_grid(2, 2))
    with pytest.raises(InputError, match=r"no product of \(1, 2, 3\) and \(1, 4, 2\)"):
        simulator.multiply(integers(8, 2, 3), integers(8, 4, 2))
    with pytest.raises(InputError, match="is not done after 5 cycles"):
        simulator.multiply(integers(8, 4, 4), integers(8, 4, 4), limit_cycles=5)
