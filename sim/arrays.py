"""Cycles of matrix arrays: closed forms of our own arrays and of SCALE-Sim's, as plain integers.

Our own array is a grid of rows x cols PEs with triangular skew registers at its two edges. A fold is one
filling of the grid; what stays in it and what streams past depends on the stationarity:

  stationarity   stays (rows x cols)   folds                           streams
  output         C[m, n]               ceil(m/rows) * ceil(n/cols)     K beats of an A column and a B row
  weight         B[k, n]               ceil(k/rows) * ceil(n/cols)     M beats of A rows
  input          A[m, k] transposed    ceil(k/rows) * ceil(m/cols)     N beats of B columns

A fold costs 1 cycle to start, the beats, rows + cols - 1 cycles until the last operand has crossed the skew
and the grid, and `rows` cycles to shift the stationary operand through the rows: out of them at the end
(output), or into them before the start (weight, input). So every fold takes beats + 2 * rows + cols cycles,
which is K + 3N on an N x N output-stationary array, as measured in its RTL. With `drain_overlap` a second
register per PE hides that shift under the neighbouring fold, always long enough, and it is paid once.
"""

from typing import Literal, get_args

from tilewright.dataflow.errors import InputError, nearest
from tilewright.sim.architecture import MatrixArray, Stationarity

StationarityModel = Literal["own", "scalesim"]


def gemm_cycles(
    m: int,
    n: int,
    k: int,
    rows: int,
    cols: int,
    stationarity: Stationarity,
    stationarity_model: StationarityModel = "own",
    drain_overlap: bool = False,
) -> int:
    """Cycles of C[m, n] += A[m, k] * B[k, n] on one rows x cols array, operands always ready.

    `stationarity_model="own"` is the array described above. "scalesim" gives SCALE-Sim v3's compute cycles:
    folds * length - 1 with length K + R + C - 2 (output), M + 2R + C - 2 (weight), N + 2R + C - 2 (input);
    `drain_overlap` is not part of that model. Raises InputError for a size that is not a positive integer,
    for an unknown stationarity or model, and for `drain_overlap` with "scalesim".
    """
    for name, size in (("m", m), ("n", n), ("k", k), ("rows", rows), ("cols", cols)):
        if size <= 0:
            raise InputError(f"gemm_cycles: {name} must be > 0, got {size}")
    if stationarity not in get_args(Stationarity):
        known = get_args(Stationarity)
        raise InputError(
            f"gemm_cycles: stationarity {stationarity!r} is unknown{nearest(stationarity, known)};"
            f" known: {', '.join(known)}"
        )
    n_folds, n_beats = folds_and_beats(m, n, k, rows, cols, stationarity)
    if stationarity_model == "own":
        return own_cycles(n_folds, n_beats, rows, cols, drain_overlap)
    if stationarity_model != "scalesim":
        known = get_args(StationarityModel)
        raise InputError(
            f"gemm_cycles: stationarity_model {stationarity_model!r} is unknown"
            f"{nearest(stationarity_model, known)}; known: {', '.join(known)}"
        )
    if drain_overlap:
        raise InputError(
            "gemm_cycles: drain_overlap must be False with stationarity_model 'scalesim', got True"
        )
    extra_rows = 0 if stationarity == "output" else rows
    return n_folds * (n_beats + extra_rows + rows + cols - 2) - 1


def folds_and_beats(
    m: int, n: int, k: int, rows: int, cols: int, stationarity: Stationarity
) -> tuple[int, int]:
    """How often the grid is filled and how many beats stream past each filling; sizes must be positive."""
    if stationarity == "output":
        return -(-m // rows) * -(-n // cols), k
    if stationarity == "weight":
        return -(-k // rows) * -(-n // cols), m
    return -(-k // rows) * -(-m // cols), n


def own_cycles(n_folds: int, n_beats: int, rows: int, cols: int, drain_overlap: bool) -> int:
    """Cycles of `n_folds` folds of `n_beats` beats on our own array."""
    if drain_overlap:
        return n_folds * (n_beats + rows + cols) + rows
    return n_folds * (n_beats + 2 * rows + cols)


def shares(array: MatrixArray, m: int, n: int) -> tuple[int, int]:
    """(m, n) of the largest part of a leaf when the arrays of `array` share it.

    The leaf is cut along n in whole widths of `cols`, as far as there are any, and the arrays that remain
    cut it along m in whole heights of `rows`. The parts run at the same time.
    """
    if array.count == 1:
        return m, n
    n_widths, n_heights = -(-n // array.cols), -(-m // array.rows)
    along_n = min(array.count, n_widths)
    along_m = min(array.count // along_n, n_heights)
    return min(m, -(-n_heights // along_m) * array.rows), min(n, -(-n_widths // along_n) * array.cols)


def leaf_cycles(array: MatrixArray, m: int, n: int, k: int, batch: int = 1) -> int:
    """Cycles of one matrix leaf on `array`, in the array's own clock: `batch` products, one after another."""
    part_m, part_n = shares(array, m, n)
    n_folds, n_beats = folds_and_beats(part_m, part_n, k, array.rows, array.cols, array.stationarity)
    return own_cycles(n_folds * batch, n_beats, array.rows, array.cols, array.drain_overlap)


def streamed_elements(array: MatrixArray, m: int, n: int, k: int) -> tuple[int, int, int]:
    """Elements that one product takes from the A and B buffers and moves to and from the C buffer.

    An operand that streams is read again for every fold that it passes; partial sums of a weight- or
    input-stationary array are written once per fold along k and read back for all but the first.
    """
    a_times, b_times, c_times = entries(array, m, n, k)
    return m * k * a_times, k * n * b_times, m * n * (2 * c_times - 1)


def entries(array: MatrixArray, m: int, n: int, k: int) -> tuple[int, int, int]:
    """How often A and B of one product are read, and C is written; C is read back once less often.

    A leaf that goes on with a tile of C (`sim.continuation`) reads it once more.
    """
    part_m, part_n = shares(array, m, n)
    if array.stationarity == "output":
        return -(-part_n // array.cols), -(-part_m // array.rows), 1
    k_folds = -(-k // array.rows)
    if array.stationarity == "weight":
        return -(-part_n // array.cols), 1, k_folds
    return 1, -(-part_m // array.cols), k_folds
