"""Recognises steady states of the event loop and skips whole periods of them, exactly.

Every time an odometer advances at some level, the state is compared with one that was saved when the same
odometer advanced at the same level before. Two states are alike when the same nests are active, every nest
has moved on by whole iterations of one of its levels (or not at all), and everything else is equal relative
to the clock. What follows then repeats for as long as the iterations to come are like those in between: no
first or smaller last tile that a leaf could tell, no loop cut differently, no end of a leaf that ran through
all of the period. So many periods are skipped. States are saved at growing distances (after Brent), so that
a recurrence of any length is found, at every level by itself.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tilewright.dataflow.kernel import kernel
from tilewright.sim.engine_kernel import (
    BLOCKED,
    DRAM_FREE,
    EPOCH,
    N_ACTIVE,
    N_RUNNING,
    N_TURNS,
    NOW,
    QUEUED,
    RUNNING,
    State,
    Tables,
    begin,
    end_leaves,
    grant,
    trips_at,
)

IntArray = NDArray[np.int64]

# Head of a saved state.
ROW_NOW = 0
ROW_EPOCH = 1
ROW_DRAM = 2
ROW_BODY = 3
# Of each active nest: status, cycle, busy, own, service; then its odometer; then two counts per port.
NEST_WORDS = 5

# Positions in `History.scalars`.
N_FREE_ROWS = 0
FROZEN = 1  # the last match has a nest that stood in one leaf all the time
N_HISTORY_SCALARS = 4

MISMATCH = -1
UNBOUNDED = 1 << 60


class History(NamedTuple):
    """Saved states and what was skipped; `count`, `row` and the last three are per loop level."""

    scalars: IntArray
    rows: IntArray  # (n_rows, width)
    free_rows: IntArray
    count: IntArray  # times that the level advanced since its outer levels did
    next_save: IntArray
    row: IntArray  # its row, -1 for none
    level: IntArray  # per active nest: level that it moved on at in the last match
    step: IntArray  # per active nest: by how many iterations, 0 for none
    skipped: IntArray
    period_iterations: IntArray
    period_cycles: IntArray


@kernel
def _save(tables: Tables, state: State, history: History, row: int) -> None:
    saved = history.rows[row]
    saved[ROW_NOW] = state.scalars[NOW]
    saved[ROW_EPOCH] = state.scalars[EPOCH]
    saved[ROW_DRAM] = state.scalars[DRAM_FREE]
    at = ROW_BODY
    for i in range(state.scalars[N_ACTIVE]):
        nest = state.active[i]
        saved[at] = state.status[nest]
        saved[at + 1] = state.cycle[nest]
        saved[at + 2] = state.busy[nest]
        saved[at + 3] = state.own[nest]
        saved[at + 4] = state.service[nest]
        at += NEST_WORDS
        for loop in range(tables.loop_first[nest], tables.loop_first[nest + 1]):
            saved[at] = state.odometer[loop]
            at += 1
        for port in range(tables.port_first[nest], tables.port_first[nest + 1]):
            buffer = tables.port_buffer[port]
            saved[at] = state.freed[buffer] if tables.port_is_write[port] else state.given[port]
            saved[at + 1] = state.produced[buffer]
            at += 2


@kernel
def _moved(tables: Tables, state: State, saved: IntArray, at: int, nest: int) -> int:
    """The level at which a nest has moved on; -1 if it stands still, -2 if an inner level differs."""
    first = tables.loop_first[nest]
    end = tables.loop_first[nest + 1]
    for loop in range(first, end):
        if state.odometer[loop] != saved[at + loop - first]:
            for inner in range(loop + 1, end):
                if state.odometer[inner] != saved[at + inner - first]:
                    return -2
            return int(loop - first)
    return -1


@kernel
def _ports_alike(tables: Tables, state: State, saved: IntArray, at: int, nest: int) -> bool:
    """Whether the tiles and the free copies that a nest sees at its ports are as many as in `saved`."""
    for port in range(tables.port_first[nest], tables.port_first[nest + 1]):
        buffer = tables.port_buffer[port]
        counted = state.freed[buffer] if tables.port_is_write[port] else state.given[port]
        if state.produced[buffer] - counted != saved[at + 1] - saved[at]:
            return False
        at += 2
    return True


@kernel
def _takes_first_tile(tables: Tables, state: State, nest: int, level: int) -> bool:
    """Whether a blocked nest that stands at the first iteration of `level` is about to take a tile there."""
    if state.status[nest] != BLOCKED:
        return False
    for loop in range(tables.loop_first[nest] + level + 1, tables.loop_first[nest + 1]):
        if state.odometer[loop] != 0:
            return False
    for port in range(tables.port_first[nest], tables.port_first[nest + 1]):
        if tables.port_depth[port] <= level:
            return True
    return False


@kernel
def _last_alike(tables: Tables, state: State, loop: int, end: int, then: int) -> int:
    """The last iteration of a level that is like iteration `then`: tiles full, inner loops cut alike."""
    top = state.trips[loop] - 1
    if tables.loop_flag[loop] and state.trips[loop] == tables.loop_trips[loop]:
        top -= 1
    for inner in range(loop + 1, end):
        if tables.loop_limiter[inner] == loop:
            trips = trips_at(tables, inner, then)
            low = then  # alike; trips never fall
            while low < top:
                middle = (low + top + 1) // 2
                if trips_at(tables, inner, middle) == trips:
                    low = middle
                else:
                    top = middle - 1
    return int(top)


@kernel
def _periods(tables: Tables, state: State, history: History, row: int) -> int:
    """Whole periods since the state saved in `row` that can be skipped; MISMATCH if it is not alike."""
    saved = history.rows[row]
    if saved[ROW_EPOCH] != state.scalars[EPOCH]:
        return MISMATCH
    now, then = state.scalars[NOW], saved[ROW_NOW]
    period = now - then
    dram_free = state.scalars[DRAM_FREE]
    if max(0, dram_free - now) != max(0, saved[ROW_DRAM] - then) and dram_free != saved[ROW_DRAM]:
        return MISMATCH
    n_periods = UNBOUNDED
    history.scalars[FROZEN] = 0
    at = ROW_BODY
    for i in range(state.scalars[N_ACTIVE]):
        nest = state.active[i]
        status = state.status[nest]
        if saved[at] != status:
            return MISMATCH
        first, end = tables.loop_first[nest], tables.loop_first[nest + 1]
        level = _moved(tables, state, saved, at + NEST_WORDS, nest)
        if level == -2:
            return MISMATCH
        history.level[i] = level
        history.step[i] = 0
        waited = state.cycle[nest] - saved[at + 1]
        if level < 0:
            if status >= QUEUED:
                history.scalars[FROZEN] = 1
                if status == RUNNING:
                    n_periods = min(n_periods, (state.cycle[nest] - now - 1) // period)
        else:
            if status >= QUEUED and waited != period:
                return MISMATCH
            position = saved[at + NEST_WORDS + level]
            step = state.odometer[first + level] - position
            history.step[i] = step
            if position == 0 and _takes_first_tile(tables, state, nest, level):
                return MISMATCH
            top = _last_alike(tables, state, first + level, end, position)
            n_periods = min(n_periods, (top - state.odometer[first + level]) // step)
        at += NEST_WORDS + end - first
        if not _ports_alike(tables, state, saved, at, nest):
            return MISMATCH
        at += 2 * (tables.port_first[nest + 1] - tables.port_first[nest])
    if n_periods <= 0:
        return MISMATCH
    if history.scalars[FROZEN] and not _queues_stand(tables, state, history):
        return MISMATCH
    return int(n_periods)


@kernel
def _queues_stand(tables: Tables, state: State, history: History) -> bool:
    """Whether the resource of every nest that stayed queued was held by standing leaves all the time."""
    for i in range(state.scalars[N_ACTIVE]):
        nest = state.active[i]
        if state.status[nest] == QUEUED and history.step[i] == 0:
            resource = tables.nest_resource[nest]
            held = 0
            for j in range(state.scalars[N_ACTIVE]):
                other = state.active[j]
                if (
                    state.status[other] == RUNNING
                    and history.step[j] == 0
                    and tables.nest_resource[other] == resource
                ):
                    held += 1
            if held < tables.resource_capacity[resource]:
                return False
    return True


@kernel
def _skip(tables: Tables, state: State, history: History, row: int, n_periods: int) -> None:
    """Move the state on by whole periods of what happened since `row` was saved."""
    saved = history.rows[row]
    now, then = state.scalars[NOW], saved[ROW_NOW]
    cycles = n_periods * (now - then)
    dram_free = state.scalars[DRAM_FREE]
    if max(0, dram_free - now) == max(0, saved[ROW_DRAM] - then):
        state.scalars[DRAM_FREE] += cycles
    state.scalars[NOW] += cycles
    at = ROW_BODY
    for i in range(state.scalars[N_ACTIVE]):
        nest = state.active[i]
        if history.step[i]:
            state.odometer[tables.loop_first[nest] + history.level[i]] += n_periods * history.step[i]
            if state.status[nest] >= QUEUED:
                state.cycle[nest] += cycles
        state.busy[nest] += n_periods * (state.busy[nest] - saved[at + 2])
        state.own[nest] += n_periods * (state.own[nest] - saved[at + 3])
        state.service[nest] += n_periods * (state.service[nest] - saved[at + 4])
        at += NEST_WORDS + tables.loop_first[nest + 1] - tables.loop_first[nest]
        for port in range(tables.port_first[nest], tables.port_first[nest + 1]):
            buffer = tables.port_buffer[port]
            if tables.port_is_write[port]:
                state.produced[buffer] += n_periods * (state.produced[buffer] - saved[at + 1])
            else:
                state.given[port] += n_periods * (state.given[port] - saved[at])
            at += 2
    _free_copies(tables, state)


@kernel
def _free_copies(tables: Tables, state: State) -> None:
    """Bring the freed copies up to what all readers of the active nests' groups have given back."""
    for i in range(state.scalars[N_ACTIVE]):
        nest = state.active[i]
        for port in range(tables.port_first[nest], tables.port_first[nest + 1]):
            group = tables.port_group[port]
            if group >= 0:
                freed = state.given[port]
                for k in range(tables.group_first[group], tables.group_first[group + 1]):
                    freed = min(freed, state.given[tables.group_ports[k]])
                buffer = tables.port_buffer[port]
                state.freed[buffer] = max(state.freed[buffer], freed)


@kernel
def _note(history: History, loop: int, n_periods: int, step: int, cycles: int) -> None:
    history.skipped[loop] += n_periods * step
    history.period_iterations[loop] = step
    history.period_cycles[loop] = cycles


@kernel
def _look(tables: Tables, state: State, history: History, nest: int, level: int) -> bool:
    """Compare with the state saved for this odometer and level; skip if alike, else save now and then."""
    loop = tables.loop_first[nest] + level
    for inner in range(loop + 1, tables.loop_first[nest + 1]):
        history.count[inner] = 0
    history.count[loop] += 1
    count = history.count[loop]
    row = history.row[loop]
    if row < 0:
        if history.scalars[N_FREE_ROWS] == 0:
            return False
        history.scalars[N_FREE_ROWS] -= 1
        row = history.free_rows[history.scalars[N_FREE_ROWS]]
        history.row[loop] = row
    elif count > 1:
        n_periods = _periods(tables, state, history, row)
        if n_periods > 0:
            cycles = state.scalars[NOW] - history.rows[row, ROW_NOW]
            step = state.odometer[loop]
            _skip(tables, state, history, row, n_periods)
            _note(history, loop, n_periods, (state.odometer[loop] - step) // n_periods, cycles)
            return True
    if count == 1 or count == history.next_save[loop]:
        history.next_save[loop] = count + max(1, count // 2)
        _save(tables, state, history, row)
    return False


@kernel
def _release_rows(tables: Tables, history: History, nest: int) -> None:
    for loop in range(tables.loop_first[nest], tables.loop_first[nest + 1]):
        if history.row[loop] >= 0:
            history.free_rows[history.scalars[N_FREE_ROWS]] = history.row[loop]
            history.scalars[N_FREE_ROWS] += 1
            history.row[loop] = -1


@kernel
def _look_at_turns(tables: Tables, state: State, history: History) -> None:
    """Look at every odometer that advanced in this instant, until one lets us skip."""
    skipped = False
    for turn in range(state.scalars[N_TURNS]):
        nest, level = state.turned[turn]
        if level < 0:
            _release_rows(tables, history, nest)
        elif not skipped:
            skipped = _look(tables, state, history, nest, level)


@kernel
def simulate(tables: Tables, state: State, history: History, fast_forward: int) -> None:
    """Run all nests from cycle 0 until nothing runs any more: all are done, or none can proceed."""
    begin(tables, state)
    while state.scalars[N_RUNNING] > 0:
        end_leaves(tables, state)
        grant(tables, state)
        if fast_forward:
            _look_at_turns(tables, state, history)
