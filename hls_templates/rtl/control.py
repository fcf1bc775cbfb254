"""The controller of an array: walks the folds of one product and says in every step what enters and leaves.

A *step* is a cycle in which the array advances. In a step that needs an operand which is not there, or that
hands over a result which nobody takes, nothing moves: all registers share the enable `advance`, so results
and the order of sums do not depend on stalls.

The controller knows a product by its sizes along the grid: `u` along the rows, `v` along the columns, `beats`
past them (`rtl.order` says which of m, n, k each is); `batch` such products follow each other. Three walks
over the folds run behind each other: what is loaded or issued, the beats of a held operand, the results. Each
returns to zero by itself, so a run may start in the cycle after the last one was done.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pyrtl
from pyrtl import Register, WireVector

from tilewright.hls_templates.rtl.cell import CellKind, Wires
from tilewright.hls_templates.rtl.wires import constant, counter_bits, delayed, feedback


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid of rows x cols PEs of one kind; a product's sizes take at most `size_bits` bits."""

    kind: CellKind
    rows: int
    cols: int
    size_bits: int = 16

    @property
    def row_skew(self) -> int:
        """Steps by which a row of the grid is behind the one above it: sums of held grids pass an adder each."""
        return 1 if self.kind.keeps_sums else self.kind.pe.add_cycles

    @property
    def sum_latency(self) -> int:
        """Steps from an output-stationary PE's product and sum in one step to those of this PE."""
        return self.kind.pe.multiply_cycles + self.kind.pe.add_cycles - 1

    @property
    def least_period(self) -> int:
        """Steps from one fold to the next that overlap needs: to drain the second registers, or fill them."""
        return self.rows if self.kind.keeps_sums else self.row_skew * (self.rows - 1) + 1

    @property
    def depth(self) -> int:
        """Steps of a fold that is alone, less its beats."""
        pe = self.kind.pe
        if self.kind.keeps_sums:
            return 2 * self.rows + self.cols + pe.multiply_cycles + 2 * (pe.add_cycles - 1)
        return self.rows + pe.add_cycles * self.rows + self.cols + pe.multiply_cycles

    @property
    def phase_bits(self) -> int:
        return counter_bits((1 << self.size_bits) + self.depth)


def control_inputs(grid: Grid) -> Mapping[str, int]:
    """Width of every input of the controller by name."""
    bits = grid.size_bits
    return {
        "start": 1, "u": bits, "v": bits, "beats": bits, "batch": bits, "west_valid": 1, "north_valid": 1,
        "south_ready": 1,
    }  # fmt: skip


def control_outputs(grid: Grid) -> Mapping[str, int]:
    """`shift` has a bit per row, `row_live` too; `north_live` is for the row that enters the held operands."""
    return {
        "west_ready": 1, "north_ready": 1, "south_valid": 1, "south_row": grid.size_bits, "south_first": 1,
        "busy": 1, "done": 1, "advance": 1, "flags": 3, "shift": grid.rows, "row_live": grid.rows,
        "north_live": 1,
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Sizes:
    u: WireVector
    v: WireVector
    beats: WireVector
    batch: WireVector


@dataclass(frozen=True, slots=True)
class _Fold:
    """Where a walk over the folds stands: how much of u is left, whether it is u's first, whether the last."""

    u_left: WireVector
    is_first_of_u: WireVector
    is_last: WireVector


@dataclass(frozen=True, slots=True)
class _Issue:
    """What a step needs, and the flags of its beat."""

    needs_west: WireVector
    needs_north: WireVector
    flags: WireVector
    load_phase: WireVector
    u_left_of_beats: WireVector
    u_left_of_load: WireVector


def build_control(grid: Grid, wires: Mapping[str, WireVector]) -> Wires:
    """The outputs of the controller whose inputs are `wires`."""
    advance = WireVector(1)
    done = WireVector(1)
    running = Register(1)
    active = running | wires["start"]
    running.next <<= active & ~done
    sizes = _Sizes(*(_kept(wires[name], running) for name in ("u", "v", "beats", "batch")))
    step = _Step(grid, sizes, active, advance, done)
    issue = _issue(step)
    results = _results(step, issue)
    blocked = results["south_valid"] & ~wires["south_ready"]
    has_west = ~issue.needs_west | wires["west_valid"]
    has_north = ~issue.needs_north | wires["north_valid"]
    advance <<= active & ~blocked & has_west & has_north
    done <<= advance & results["is_end"]
    return {
        "west_ready": issue.needs_west & ~blocked & has_north,
        "north_ready": issue.needs_north & ~blocked & has_west,
        # a word is there only in a step that moves, so that none is handed over twice
        "south_valid": results["south_valid"] & has_west & has_north,
        "south_row": results["south_row"],
        "south_first": results["south_first"],
        "busy": running,
        "done": done,
        "advance": advance,
        "flags": issue.flags,
        "shift": results["shift"],
        "row_live": pyrtl.concat_list([_is_live(row, issue.u_left_of_beats) for row in range(grid.rows)]),
        "north_live": _is_live_row(issue.load_phase, issue.u_left_of_load, grid.rows),
    }


@dataclass(frozen=True, slots=True)
class _Step:
    """What all parts of the controller share."""

    grid: Grid
    sizes: _Sizes
    active: WireVector
    advance: WireVector
    done: WireVector

    @property
    def beats(self) -> WireVector:
        return self.sizes.beats.zero_extended(self.grid.phase_bits)

    def number(self, value: int) -> WireVector:
        return constant(value, self.grid.phase_bits)


def _kept(size: WireVector, running: WireVector) -> WireVector:
    """The input in the cycle of the start, what it was then afterwards."""
    kept = Register(len(size))
    now = pyrtl.select(running, kept, size)
    kept.next <<= now
    return now


def _is_live(row: int, left: WireVector) -> WireVector:
    return left > row


def _is_live_row(phase: WireVector, left: WireVector, rows: int) -> WireVector:
    """Whether the row of phase 0, 1, ... that is row rows - 1, rows - 2, ... of the fold lies in the matrix."""
    bits = max(len(phase), len(left)) + 1
    row_and_more = (left.zero_extended(bits) + phase.zero_extended(bits))[:bits]
    return row_and_more >= rows


def _walk(step: _Step, ends: WireVector) -> _Fold:
    """A walk that goes to the next fold in each step with `ends`, and from the last one back to the first.

    Sums stay in an output-stationary grid, so columns are the inner loop there; held grids go down u first,
    so that the partial sums of a tile of results follow each other.
    """
    grid, sizes = step.grid, step.sizes
    always = constant(1, 1)
    u_done, v_done, n_done = (Register(grid.size_bits) for _ in range(3))
    u_left = (sizes.u - u_done)[: grid.size_bits]
    v_left = (sizes.v - v_done)[: grid.size_bits]
    u_last, v_last = u_left <= grid.rows, v_left <= grid.cols
    n_last = (n_done + 1)[: grid.size_bits] == sizes.batch
    u_turns, v_turns = (v_last, always) if grid.kind.keeps_sums else (always, u_last)
    for done, turns, is_last, stride in (
        (u_done, u_turns, u_last, grid.rows), (v_done, v_turns, v_last, grid.cols),
        (n_done, u_last & v_last, n_last, 1),
    ):  # fmt: skip
        zero = constant(0, grid.size_bits)
        following = pyrtl.select(is_last, zero, (done + stride)[: grid.size_bits])
        feedback(done, pyrtl.select(ends & turns, following, done), step.advance)
    return _Fold(u_left, u_done == 0, u_last & v_last & n_last)


def _phase(step: _Step, is_on: WireVector) -> tuple[WireVector, WireVector]:
    """(phase, end of a fold): counts the steps of a fold over and over while `is_on`."""
    grid = step.grid
    phase = Register(grid.phase_bits)
    if grid.kind.drain_overlap:
        least = step.number(grid.least_period)
        period = pyrtl.select(step.beats > least, step.beats, least)
    else:
        period = (step.beats + grid.depth)[: grid.phase_bits]
    ends = is_on & ((phase + 1)[: grid.phase_bits] == period)
    following = pyrtl.select(ends, step.number(0), (phase + 1)[: grid.phase_bits])
    feedback(phase, pyrtl.select(is_on, following, phase), step.advance)
    return phase, ends


def _until_last(step: _Step, start: WireVector) -> tuple[WireVector, WireVector, _Fold]:
    """(on, phase, fold) of a process that is on from `start` until all folds have passed."""
    finished = Register(1)
    is_on = start & ~finished
    phase, ends = _phase(step, is_on)
    fold = _walk(step, ends)
    set_now = step.advance & ends & fold.is_last
    finished.next <<= (finished | set_now) & ~step.done
    return is_on, phase, fold


def _issue(step: _Step) -> _Issue:
    if step.grid.kind.keeps_sums:
        return _issue_pairs(step)
    if step.grid.kind.drain_overlap:
        return _issue_overlapped(step)
    return _issue_held(step)


def _flags(beat: WireVector, index: WireVector, step: _Step) -> WireVector:
    last = (index + 1)[: step.grid.phase_bits] == step.beats
    return pyrtl.concat_list([beat, beat & (index == 0), beat & last])


def _issue_pairs(step: _Step) -> _Issue:
    """Output stationary: a beat is a column of A and a row of B, from the fold's first step on."""
    is_on, phase, fold = _until_last(step, step.active)
    beat = is_on & (phase < step.beats)
    return _Issue(beat, beat, _flags(beat, phase, step), phase, fold.u_left, fold.u_left)


def _issue_held(step: _Step) -> _Issue:
    """Held operands enter in the fold's first `rows` steps, the beats follow."""
    is_on, phase, fold = _until_last(step, step.active)
    rows = step.number(step.grid.rows)
    load = is_on & (phase < rows)
    index = (phase - rows)[: step.grid.phase_bits]
    beat = is_on & ~load & (index < step.beats)
    return _Issue(beat, load, _flags(beat, index, step), phase, fold.u_left, fold.u_left)


def _issue_overlapped(step: _Step) -> _Issue:
    """The beats of a fold run while the next one's held operands enter, `rows` steps ahead of their use."""
    rows = step.grid.rows
    loads_on, load_phase, load_fold = _until_last(step, step.active)
    has_first = Register(1)
    fills = loads_on & (load_phase == rows - 1)
    has_first.next <<= (has_first | (step.advance & fills)) & ~step.done
    beats_on, phase, fold = _until_last(step, has_first)
    load = loads_on & (load_phase < rows)
    beat = beats_on & (phase < step.beats)
    flags = _flags(beat, phase, step)
    return _Issue(beat, load, flags, load_phase, fold.u_left, load_fold.u_left)


def _results(step: _Step, issue: _Issue) -> Wires:
    if step.grid.kind.keeps_sums:
        return _drained(step, issue)
    return _passed(step, issue)


def _run_of(step: _Step, trigger: WireVector) -> tuple[WireVector, WireVector]:
    """(on, index) for `rows` steps from each step with `trigger` on; triggers come no closer than that."""
    rows = step.grid.rows
    index = Register(counter_bits(rows))
    is_on = trigger | (index != 0)
    is_last = index == rows - 1
    following = pyrtl.select(is_last, constant(0, len(index)), (index + 1)[: len(index)])
    feedback(index, pyrtl.select(is_on, following, index), step.advance)
    return is_on, index


def _drained(step: _Step, issue: _Issue) -> Wires:
    """Output stationary: a fold's sums leave at the bottom, the last row first; rows beyond m are not shown."""
    grid = step.grid
    across = 1 if grid.kind.drain_overlap else grid.cols  # to the first column, or to all of them
    trigger = delayed(issue.flags[2], grid.rows + across + grid.sum_latency, step.advance)
    shifts, index = _run_of(step, trigger)
    if grid.kind.drain_overlap:
        shift = pyrtl.concat_list([shifts & (index < row) for row in range(grid.rows)])
    else:
        shift = pyrtl.concat_list([shifts] * grid.rows)
    # the output register, and before it what aligns the columns and adds a PE's two sums
    behind = grid.cols - across + grid.kind.pe.add_cycles
    shown, place = _run_of(step, delayed(trigger, behind, step.advance))
    row = (constant(grid.rows - 1, grid.size_bits) - place.zero_extended(grid.size_bits))[: grid.size_bits]
    ends = shown & (place == grid.rows - 1)
    fold = _walk(step, ends)
    return {
        "shift": shift, "south_valid": shown & (row < fold.u_left), "south_row": row,
        "south_first": constant(1, 1), "is_end": ends & fold.is_last,
    }  # fmt: skip


def _passed(step: _Step, issue: _Issue) -> Wires:
    """Held: each beat leaves at the bottom as a row of partial sums, in the order of the beats."""
    grid = step.grid
    pe = grid.kind.pe
    behind = pe.add_cycles * grid.rows + grid.cols + pe.multiply_cycles
    shown = delayed(issue.flags[0], behind, step.advance)
    row = Register(grid.size_bits)
    ends = shown & ((row + 1)[: grid.size_bits] == step.sizes.beats)
    following = pyrtl.select(ends, constant(0, grid.size_bits), (row + 1)[: grid.size_bits])
    feedback(row, pyrtl.select(shown, following, row), step.advance)
    fold = _walk(step, ends)
    load = issue.needs_north
    if grid.kind.drain_overlap:
        shift = pyrtl.concat_list([load & (issue.load_phase >= row) for row in range(grid.rows)])
    else:
        shift = pyrtl.concat_list([load] * grid.rows)
    return {
        "shift": shift, "south_valid": shown, "south_row": row, "south_first": fold.is_first_of_u,
        "is_end": ends & fold.is_last,
    }  # fmt: skip
