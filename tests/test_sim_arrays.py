"""Array cycles against a register-by-register model of the arrays, and against measured ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tilewright.dataflow.errors import InputError
from tilewright.sim.architecture import Architecture, ArchitectureError, MatrixArray, Stationarity
from tilewright.sim.arrays import (
    gemm_cycles,
    leaf_cycles,
    schedule_of,
    shares,
    stalled_cycles,
    streamed_elements,
)

Matrix = NDArray[np.int64]


def step_output_stationary(a: Matrix, b: Matrix, rows: int, cols: int) -> tuple[Matrix, int]:
    """One fold, clock by clock: A moves east and B south behind skewed edges, then C is shifted out down."""
    (m, k), n = a.shape, b.shape[1]
    east, south, c = (np.zeros((rows, cols), dtype=np.int64) for _ in range(3))
    cycles = 1  # start
    n_macs = np.zeros((rows, cols), dtype=np.int64)
    while n_macs.min() < k:
        beat = cycles - 1
        live_a = [beat - r if r <= beat < k + r else -1 for r in range(rows)]
        live_b = [beat - j if j <= beat < k + j else -1 for j in range(cols)]
        c += east * south  # the registers hold what entered in the cycle before
        n_macs += _busy(cycles - 2, rows, cols, k)
        edge_a = [a[r, t] if t >= 0 and r < m else 0 for r, t in enumerate(live_a)]
        edge_b = [b[t, j] if t >= 0 and j < n else 0 for j, t in enumerate(live_b)]
        east = np.column_stack([edge_a, east[:, :-1]])
        south = np.vstack([edge_b, south[:-1]])
        cycles += 1
    out = np.empty_like(c)
    for row in range(rows):  # the bottom row leaves first
        out[rows - 1 - row] = c[-1]
        c = np.vstack([np.zeros(cols, dtype=np.int64), c[:-1]])
        cycles += 1
    return out[:m, :n], cycles


def _busy(beat: int, rows: int, cols: int, k: int) -> Matrix:
    """Which PEs see a pair of operands whose first ones entered the corner at beat 0."""
    r, c = np.indices((rows, cols))
    return ((r + c <= beat) & (beat < k + r + c)).astype(np.int64)


def step_stationary(stay: Matrix, stream: Matrix, rows: int, cols: int) -> tuple[Matrix, int]:
    """One fold with `stay` (k x cols) in the grid and rows of `stream` (beats x k) moving east past it.

    Partial sums move south and leave at the bottom.
    """
    (k, n), n_beats = stay.shape, stream.shape[0]
    grid, east, sums = (np.zeros((rows, cols), dtype=np.int64) for _ in range(3))
    padded = np.zeros((rows, cols), dtype=np.int64)
    padded[:k, :n] = stay
    cycles = 0
    for row in range(rows):  # the stationary operand is shifted in from above
        grid = np.vstack([padded[rows - 1 - row], grid[:-1]])
        cycles += 1
    cycles += 1  # start
    out = np.zeros((n_beats, cols), dtype=np.int64)
    n_out, beat = 0, 0
    while n_out < n_beats * cols:
        edge = [stream[beat - r, r] if r < k and 0 <= beat - r < n_beats else 0 for r in range(rows)]
        above = np.vstack([np.zeros(cols, dtype=np.int64), sums[:-1]])
        sums = above + east * grid
        for column in range(cols):
            row = beat - 1 - (rows - 1) - column
            if 0 <= row < n_beats:
                out[row, column] = sums[-1, column]
                n_out += 1
        east = np.column_stack([edge, east[:, :-1]])
        beat += 1
        cycles += 1
    return out[:, :n], cycles


def operands(m: int, n: int, k: int) -> tuple[Matrix, Matrix]:
    generator = np.random.default_rng([m, n, k])
    return generator.integers(-8, 8, (m, k)), generator.integers(-8, 8, (k, n))


small = st.integers(1, 6)


@given(small, small, st.integers(1, 9), small, small)
def test_an_output_stationary_fold_takes_the_cycles_of_the_stepped_array(
    m: int, n: int, k: int, rows: int, cols: int
) -> None:
    m, n = min(m, rows), min(n, cols)
    a, b = operands(m, n, k)
    c, cycles = step_output_stationary(a, b, rows, cols)
    assert (c == a @ b).all()
    assert cycles == gemm_cycles(m, n, k, rows, cols, "output")


@given(st.integers(1, 9), small, small, small, small)
def test_weight_and_input_stationary_folds_take_the_cycles_of_the_stepped_array(
    n_beats: int, n: int, k: int, rows: int, cols: int
) -> None:
    n, k = min(n, cols), min(k, rows)
    a, b = operands(n_beats, n, k)
    c, cycles = step_stationary(b, a, rows, cols)
    assert (c == a @ b).all()
    assert cycles == gemm_cycles(n_beats, n, k, rows, cols, "weight")
    # C transposed = B transposed * A transposed: what is A here streams there.
    assert cycles == gemm_cycles(n, n_beats, k, rows, cols, "input")


# N, K, cycles of a tile, measured in the RTL of an N x N output-stationary array with a Verilator test bench.
MEASURED = [
    (4, 64, 76), (4, 256, 268), (8, 16, 40), (8, 64, 88), (8, 256, 280), (8, 768, 792), (8, 3072, 3096),
    (16, 16, 64), (16, 64, 112), (16, 256, 304), (16, 768, 816), (16, 3072, 3120),
    (32, 64, 160), (32, 256, 352), (32, 768, 864),
]  # fmt: skip


@pytest.mark.parametrize(("size", "k", "cycles"), MEASURED)
def test_a_square_output_stationary_tile_takes_the_measured_cycles(size: int, k: int, cycles: int) -> None:
    assert gemm_cycles(size, size, k, size, size, "output") == cycles


def test_folds_multiply() -> None:
    # 7 x 5 folds of 16 x 16; weights 3 x 5 folds of 100 beats; inputs 3 x 7 folds of 70 beats.
    assert gemm_cycles(100, 70, 33, 16, 16, "output") == 7 * 5 * (33 + 48)
    assert gemm_cycles(100, 70, 33, 16, 16, "weight") == 3 * 5 * (100 + 48)
    assert gemm_cycles(100, 70, 33, 16, 16, "input") == 3 * 7 * (70 + 48)


def test_overlapping_folds_follow_each_other_without_a_gap() -> None:
    # Two folds of 20 beats on 8 x 8: the depth of 24 is paid once, not twice.
    assert gemm_cycles(16, 8, 20, 8, 8, "output") == 2 * (20 + 24)
    assert gemm_cycles(16, 8, 20, 8, 8, "output", drain_overlap=True) == 20 + 20 + 24
    assert gemm_cycles(8, 8, 20, 8, 8, "output", drain_overlap=True) == 20 + 24


def test_a_fold_shorter_than_its_drain_waits_for_it() -> None:
    # Three beats, but 8 rows of sums to shift out: 8 cycles from fold to fold.
    assert gemm_cycles(32, 8, 3, 8, 8, "output", drain_overlap=True) == 3 * 8 + 3 + 24


def test_a_pipelined_pe_adds_its_cycles() -> None:
    # Product one cycle, addition two, on 4 x 8. Output: + 1 + 2; held: + 1 + 4, an addition for each row.
    assert gemm_cycles(4, 8, 10, 4, 8, "output", pe_cycles=(1, 2)) == 10 + 16 + 3
    assert gemm_cycles(10, 8, 4, 4, 8, "weight", pe_cycles=(1, 2)) == 10 + 16 + 5
    # Two held folds that overlap come 2 * 3 + 1 cycles apart if their beats are fewer.
    assert gemm_cycles(2, 8, 8, 4, 8, "weight", drain_overlap=True, pe_cycles=(1, 2)) == 7 + 2 + 16 + 5


@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), small, small,
    st.sampled_from(("output", "weight", "input")), st.booleans(),
)  # fmt: skip
def test_the_steps_take_every_operand_once_per_fold_and_end_with_a_result(
    m: int, n: int, k: int, rows: int, cols: int, stationarity: Stationarity, overlap: bool
) -> None:
    schedule = schedule_of(m, n, k, rows, cols, stationarity, overlap)
    west, north, south = zip(*(schedule.needs(step) for step in range(schedule.n_cycles)), strict=True)
    widths, heights, depths = -(-n // cols), -(-m // rows), -(-k // rows)
    assert sum(west) == schedule.n_folds * schedule.n_beats
    if stationarity == "output":
        assert (sum(north), sum(south)) == (widths * heights * k, widths * m)
    elif stationarity == "weight":
        assert (sum(north), sum(south)) == (widths * depths * rows, widths * depths * m)
    else:
        assert (sum(north), sum(south)) == (-(-m // cols) * depths * rows, -(-m // cols) * depths * n)
    assert south[-1]
    assert schedule.needs(schedule.n_cycles) == (False, False, False)


def test_a_stall_costs_a_cycle_only_where_the_step_needs_the_stream() -> None:
    """2 x 2 x 5 on 2 x 2 takes 11 cycles: beats in 0 to 4, results in 9 and 10."""
    schedule = schedule_of(2, 2, 5, 2, 2, "output")
    assert stalled_cycles(schedule) == 11
    assert stalled_cycles(schedule, west_valid=[True, False, False]) == 13
    assert stalled_cycles(schedule, west_valid=[True] * 5 + [False] * 4) == 11
    # both operands of a beat are awaited at the same time
    assert stalled_cycles(schedule, west_valid=[False, True], north_valid=[False, False]) == 13
    assert stalled_cycles(schedule, south_ready=[False] * 9) == 11
    assert stalled_cycles(schedule, south_ready=[False] * 12) == 14


def test_scalesim_counts_folds_of_its_own_length_less_one() -> None:
    # 100 x 70 x 33 on 16 x 8: lengths K + R + C - 2, M + 2R + C - 2, N + 2R + C - 2.
    assert gemm_cycles(100, 70, 33, 16, 8, "output", "scalesim") == 7 * 9 * (33 + 22) - 1
    assert gemm_cycles(100, 70, 33, 16, 8, "weight", "scalesim") == 3 * 9 * (100 + 38) - 1
    assert gemm_cycles(100, 70, 33, 16, 8, "input", "scalesim") == 3 * 13 * (70 + 38) - 1


def array(count: int, stationarity: Stationarity = "output") -> MatrixArray:
    return MatrixArray("a", 8, 8, stationarity, (8, 8), 32, count=count)


def test_arrays_share_a_leaf_along_n_then_m() -> None:
    assert shares(array(2), 32, 32) == (32, 16)
    assert shares(array(4), 32, 16) == (16, 8)  # two widths of 8, then two arrays for each along m
    assert shares(array(4), 8, 20) == (8, 8)  # three widths; a fourth array finds nothing
    assert leaf_cycles(array(4), 32, 32, 64) == 4 * (64 + 24)
    assert leaf_cycles(array(4), 32, 32, 64, batch=3) == 3 * 4 * (64 + 24)


@given(small, small, small, st.integers(1, 9), st.sampled_from(("output", "weight", "input")))
def test_more_arrays_never_take_longer(
    m: int, n: int, k: int, count: int, stationarity: Stationarity
) -> None:
    sizes = (m * 7, n * 7, k * 7)
    assert leaf_cycles(array(count + 1, stationarity), *sizes) <= leaf_cycles(array(1, stationarity), *sizes)


def test_streaming_operands_are_read_once_per_fold_that_they_pass() -> None:
    # 16 x 24 x 40 on 8 x 8: A passes 3 widths, B 2 heights.
    assert streamed_elements(array(1), 16, 24, 40) == (16 * 40 * 3, 40 * 24 * 2, 16 * 24)
    # 5 folds along k: sums written 5 times and read back 4 times; the stationary operand read once.
    assert streamed_elements(array(1, "weight"), 16, 24, 40) == (16 * 40 * 3, 40 * 24, 16 * 24 * 9)
    assert streamed_elements(array(1, "input"), 16, 24, 40) == (16 * 40, 40 * 24 * 2, 16 * 24 * 9)


@pytest.mark.parametrize("name", ["m", "n", "k", "rows", "cols"])
@pytest.mark.parametrize("value", [0, -3])
def test_a_size_that_is_not_positive_is_wrong_input(name: str, value: int) -> None:
    sizes = {"m": 4, "n": 4, "k": 4, "rows": 4, "cols": 4} | {name: value}
    with pytest.raises(InputError, match=f"{name} must be > 0, got {value}"):
        gemm_cycles(**sizes, stationarity="output")


def test_unknown_words_are_wrong_input_with_the_nearest_known() -> None:
    with pytest.raises(InputError, match=r"'weights' is unknown \(did you mean 'weight'\?\)"):
        gemm_cycles(4, 4, 4, 4, 4, "weights")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"'scale_sim' is unknown \(did you mean 'scalesim'\?\)"):
        gemm_cycles(4, 4, 4, 4, 4, "output", "scale_sim")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="drain_overlap must be False"):
        gemm_cycles(4, 4, 4, 4, 4, "output", "scalesim", drain_overlap=True)
    with pytest.raises(InputError, match="takes no pe_cycles"):
        gemm_cycles(4, 4, 4, 4, 4, "output", "scalesim", pe_cycles=(1, 2))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((1 << 32, 1 << 31, 1), "below 2\\*\\*63, got 9223372036854775808"),
        ((1 << 62, 1, 1), "cycles must be below 2\\*\\*63"),
        ((4.0, 4, 4), "m must be a whole number, got 4.0"),
    ],
)
def test_what_int64_does_not_hold_is_wrong_input(sizes: tuple[int, int, int], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        gemm_cycles(*sizes, 1, 1, "output")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pe_cycles", [(-1, 1), (0, 0)])
def test_a_pe_without_an_adder_is_no_architecture(pe_cycles: tuple[int, int]) -> None:
    pes = MatrixArray("pes", 4, 4, "output", (16, 16), 32, pe_cycles=pe_cycles)
    with pytest.raises(ArchitectureError, match=r"pes.pe_cycles must be >= 0 and >= 1"):
        Architecture("one", "u280", 200.0, (pes,), (("array", "pes"),))
    with pytest.raises(InputError, match=r"must be (>= 0|> 0)"):
        gemm_cycles(4, 4, 4, 4, 4, "output", pe_cycles=pe_cycles)
