"""Cycles of matrix arrays: closed forms of our own arrays and of SCALE-Sim's, as plain integers.

Our own arrays are those of `hls_templates.rtl`, whose simulated cycles the forms equal. An array is a grid of
rows x cols PEs with triangular skew registers at its edges. A fold is one filling of the grid; what stays in
it and what streams past depends on the stationarity:

  stationarity   stays (rows x cols)   folds                           beats
  output         C[m, n]               ceil(m/rows) * ceil(n/cols)     K, of an A column and a B row
  weight         B[k, n]               ceil(k/rows) * ceil(n/cols)     M, of A rows
  input          A[m, k] transposed    ceil(k/rows) * ceil(m/cols)     N, of B columns

A run takes (folds - 1) * period + beats + depth cycles, from the one with `start` to the one in which the last
result is taken. The depth is what a fold alone takes beyond its beats, 2 * rows + cols with a PE that
multiplies and adds in one cycle:

  output   rows + cols - 1   the last beat into the farthest PE's operand registers and its sum
           rows              the sums of a column leave through its bottom PE, one row a cycle
           1                 output register
  held     rows              the held operand enters, one row a cycle, before the first beat
           rows + cols - 1   the last beat through skew and operand register to the farthest PE
           1                 that PE's sum register, which is the output

A PE whose product takes `multiply_cycles` more and whose addition takes `add_cycles` makes that
  output   + multiply_cycles + 2 * (add_cycles - 1): product, the last addition, the one that joins its sums
  held     + multiply_cycles + (add_cycles - 1) * rows: product, an addition in each row

Without overlap a fold starts when the one before has left: period = beats + depth. With `drain_overlap` a
second register per PE takes the finished sums, or the next held operand, so beats follow each other without
a gap as long as that register's `rows` words pass in time: period = max(beats, rows), or for a held operand
max(beats, add_cycles * (rows - 1) + 1). `docs/arrays.md` draws both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Literal, get_args

from tilewright.dataflow.errors import InputError, nearest
from tilewright.sim.architecture import MatrixArray, Stationarity

StationarityModel = Literal["own", "scalesim"]

#: (cycles of a product before its addition, cycles of an addition) of a PE that does both in one cycle.
ONE_CYCLE_PE = (0, 1)
_INT64_MAX = (1 << 63) - 1


def gemm_cycles(
    m: int,
    n: int,
    k: int,
    rows: int,
    cols: int,
    stationarity: Stationarity,
    stationarity_model: StationarityModel = "own",
    drain_overlap: bool = False,
    pe_cycles: tuple[int, int] = ONE_CYCLE_PE,
) -> int:
    """Cycles of C[m, n] += A[m, k] * B[k, n] on one rows x cols array, operands always ready.

    `stationarity_model="own"` is the array described above. "scalesim" gives SCALE-Sim v3's compute cycles:
    folds * length - 1 with length K + R + C - 2 (output), M + 2R + C - 2 (weight), N + 2R + C - 2 (input);
    `drain_overlap` and `pe_cycles` are not part of that model. Raises InputError for a size that is not a
    positive integer, for m * n * k or cycles beyond int64, for an unknown stationarity or model, and for
    `drain_overlap` or `pe_cycles` with "scalesim".
    """
    if stationarity_model not in get_args(StationarityModel):
        known = get_args(StationarityModel)
        raise InputError(
            f"gemm_cycles: stationarity_model {stationarity_model!r} is unknown"
            f"{nearest(stationarity_model, known)}; known: {', '.join(known)}"
        )
    schedule = schedule_of(m, n, k, rows, cols, stationarity, drain_overlap, pe_cycles)
    if stationarity_model == "own":
        return schedule.n_cycles
    if drain_overlap:
        raise InputError(
            "gemm_cycles: drain_overlap must be False with stationarity_model 'scalesim', got True"
        )
    if pe_cycles != ONE_CYCLE_PE:
        raise InputError(f"gemm_cycles: stationarity_model 'scalesim' takes no pe_cycles, got {pe_cycles}")
    extra_rows = 0 if stationarity == "output" else rows
    return schedule.n_folds * (schedule.n_beats + extra_rows + rows + cols - 2) - 1


@dataclass(frozen=True, slots=True)
class Schedule:
    """The steps of a run: `n_folds` folds of `n_beats` beats, a new one every `period_cycles`.

    `result_rows` are the live rows of every `n_across` folds in turn, for sums that stay in the grid.
    """

    n_folds: int
    n_beats: int
    period_cycles: int
    depth_cycles: int
    rows: int
    keeps_sums: bool
    n_across: int
    height: int

    @property
    def n_cycles(self) -> int:
        """Steps from the first to the last, which are cycles where nothing stalls."""
        return own_cycles(self.n_folds, self.n_beats, self.period_cycles, self.depth_cycles)

    def needs(self, step: int) -> tuple[bool, bool, bool]:
        """Whether `step`, from 0, takes a western operand, a northern one, and gives a result."""
        beats, period = self.n_beats, self.period_cycles
        if not self.keeps_sums:
            fold, phase = divmod(step, period)
            loads = fold < self.n_folds and phase < self.rows
            fold, phase = divmod(step - self.rows, period)
            has_beat = 0 <= fold < self.n_folds and phase < beats
            fold, phase = divmod(step - self.depth_cycles, period)
            return has_beat, loads, 0 <= fold < self.n_folds and phase < beats
        fold, phase = divmod(step, period)
        has_beat = fold < self.n_folds and phase < beats
        fold, phase = divmod(step - (beats + self.depth_cycles - self.rows), period)
        gives = 0 <= fold < self.n_folds and phase < self.rows
        # the bottom row leaves first; rows beyond the matrix are not shown
        return has_beat, has_beat, gives and self.rows - 1 - phase < self._live_rows(fold)

    def _live_rows(self, fold: int) -> int:
        return self.height - fold // self.n_across % -(-self.height // self.rows) * self.rows


def schedule_of(
    m: int,
    n: int,
    k: int,
    rows: int,
    cols: int,
    stationarity: Stationarity,
    drain_overlap: bool = False,
    pe_cycles: tuple[int, int] = ONE_CYCLE_PE,
    batch: int = 1,
) -> Schedule:
    """The schedule of `batch` products of m x n x k, one after another, on our own array.

    `pe_cycles` are the PE's (multiply_cycles, add_cycles). Raises InputError as `gemm_cycles` does.
    """
    sizes = {"m": m, "n": n, "k": k, "rows": rows, "cols": cols, "batch": batch}
    for name, size in sizes.items():
        _check_whole(name, size, 1)
    for name, cycles, least in zip(("multiply_cycles", "add_cycles"), pe_cycles, (0, 1), strict=True):
        _check_whole(name, cycles, least)
    if stationarity not in get_args(Stationarity):
        known = get_args(Stationarity)
        raise InputError(
            f"gemm_cycles: stationarity {stationarity!r} is unknown{nearest(stationarity, known)};"
            f" known: {', '.join(known)}"
        )
    if batch * m * n * k > _INT64_MAX:
        raise InputError(f"gemm_cycles: m * n * k must be below 2**63, got {batch * m * n * k}")
    n_folds, n_beats = folds_and_beats(m, n, k, rows, cols, stationarity)
    keeps_sums = stationarity == "output"
    depth = fold_depth(rows, cols, keeps_sums, *pe_cycles)
    period = fold_period(n_beats, rows, depth, keeps_sums, drain_overlap, pe_cycles[1])
    schedule = Schedule(n_folds * batch, n_beats, period, depth, rows, keeps_sums, -(-n // cols), m)
    if schedule.n_cycles > _INT64_MAX:
        raise InputError(f"gemm_cycles: cycles must be below 2**63, got {schedule.n_cycles}")
    return schedule


def _check_whole(name: str, value: int, least: int) -> None:
    try:
        whole = index(value)
    except TypeError:
        raise InputError(f"gemm_cycles: {name} must be a whole number, got {value!r}") from None
    if whole < least:
        raise InputError(f"gemm_cycles: {name} must be {f'>= {least}' if least != 1 else '> 0'}, got {value}")


def stalled_cycles(
    schedule: Schedule,
    west_valid: Sequence[bool] = (),
    north_valid: Sequence[bool] = (),
    south_ready: Sequence[bool] = (),
) -> int:
    """Cycles of a run whose operands or results have to wait.

    Each pattern says by cycle since the start whether a western operand, a northern one is there, and whether
    a result is taken; beyond its end it is true. The array goes on by one step in every cycle that has what
    the step needs, and stands still in the others. O(length of the patterns).
    """
    step = cycle = 0
    patterns = (west_valid, north_valid, south_ready)
    while step < schedule.n_cycles and any(cycle < len(pattern) for pattern in patterns):
        is_ready = (cycle >= len(pattern) or bool(pattern[cycle]) for pattern in patterns)
        step += all(ready or not need for ready, need in zip(is_ready, schedule.needs(step), strict=True))
        cycle += 1
    return cycle + schedule.n_cycles - step


def folds_and_beats(
    m: int, n: int, k: int, rows: int, cols: int, stationarity: Stationarity
) -> tuple[int, int]:
    """How often the grid is filled and how many beats stream past each filling; sizes must be positive."""
    if stationarity == "output":
        return -(-m // rows) * -(-n // cols), k
    if stationarity == "weight":
        return -(-k // rows) * -(-n // cols), m
    return -(-k // rows) * -(-m // cols), n


def fold_depth(rows: int, cols: int, keeps_sums: bool, multiply_cycles: int = 0, add_cycles: int = 1) -> int:
    """Cycles of a fold alone, less its beats; `keeps_sums` for output-stationary arrays."""
    extra = 2 * (add_cycles - 1) if keeps_sums else (add_cycles - 1) * rows
    return 2 * rows + cols + multiply_cycles + extra


def fold_period(
    n_beats: int, rows: int, depth: int, keeps_sums: bool, drain_overlap: bool, add_cycles: int = 1
) -> int:
    """Cycles from one fold to the next."""
    if not drain_overlap:
        return n_beats + depth
    return max(n_beats, rows if keeps_sums else add_cycles * (rows - 1) + 1)


def own_cycles(n_folds: int, n_beats: int, period: int, depth: int) -> int:
    """Cycles of `n_folds` folds of `n_beats` beats on our own array; all plain integers."""
    return (n_folds - 1) * period + n_beats + depth


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
    keeps_sums = array.stationarity == "output"
    multiply_cycles, add_cycles = array.pe_cycles
    depth = fold_depth(array.rows, array.cols, keeps_sums, multiply_cycles, add_cycles)
    period = fold_period(n_beats, array.rows, depth, keeps_sums, array.drain_overlap, add_cycles)
    return own_cycles(n_folds * batch, n_beats, period, depth)


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
