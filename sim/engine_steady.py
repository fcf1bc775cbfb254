"""Recognises steady states of the event loop and skips whole periods of them, exactly.

Every time an odometer advances at some loop, the state is compared with one that was saved when the same
loop advanced before. Two states are alike when the same nests are active, every nest has moved on by whole
iterations of one of its loops (or not at all), and everything else is equal relative to the clock. What
follows then repeats for as long as the iterations to come are like those in between: no first or smaller last
tile that a leaf could tell, no loop cut differently, no end of a leaf that ran through all of the period. So
many periods are skipped. States are saved at growing distances (after Brent), so that a recurrence of any
length is found, at every loop by itself.

Where only the cuts of triangular loops differ, `sim.engine_growth` takes over.
"""

from tilewright.dataflow.kernel import kernel
from tilewright.sim import engine_image as at
from tilewright.sim.engine_company import shift_groups
from tilewright.sim.engine_growth import follow, follow_on, log_skip, log_turn, note, start_following
from tilewright.sim.engine_image import IntArray
from tilewright.sim.engine_kernel import begin, end_leaves, grant
from tilewright.sim.engine_state import compare, free_copies, save


@kernel
def _skip(image: IntArray, saved: IntArray, row: int, n_periods: int) -> None:
    """Move the state on by whole periods of what happened since `row` was saved."""
    now, then = image[at.NOW], saved[row + at.ROW_NOW]
    cycles = n_periods * (now - then)
    shift_groups(image, saved, row, cycles)
    image[at.NOW] += cycles
    word = row + at.ROW_BODY
    for i in range(image[at.N_ACTIVE]):
        nest = image[image[at.ACTIVE_LIST] + i]
        if image[nest + at.MOVED_BY]:
            image[image[nest + at.MOVED_LOOP] + at.ODOMETER] += n_periods * image[nest + at.MOVED_BY]
            if image[nest + at.STATUS] >= at.QUEUED:
                image[nest + at.CYCLE] += cycles
                image[nest + at.SERVED] += cycles
        for field in range(at.BUSY, at.SAVED_WORDS):
            image[nest + field] += n_periods * (image[nest + field] - saved[word + field])
        word += at.SAVED_WORDS + image[nest + at.N_LOOPS]
        port = image[nest + at.PORTS]
        for _ in range(image[nest + at.N_PORTS]):
            if image[port + at.IS_WRITE]:
                produced = image[port + at.PORT_BUFFER] + at.PRODUCED
                image[produced] += n_periods * (image[produced] - saved[word + 1])
            else:
                image[port + at.GIVEN] += n_periods * (image[port + at.GIVEN] - saved[word])
            word += 2
            port += at.PORT_WORDS
    free_copies(image)


@kernel
def _row_of(image: IntArray, loop: int) -> int:
    """The row of a loop, a free one if it has none yet, -1 if there is none."""
    row = image[loop + at.ROW]
    if row < 0 and image[at.N_ROWS] > 0:
        image[at.N_ROWS] -= 1
        row = image[image[at.ROW_LIST] + image[at.N_ROWS]]
        image[loop + at.ROW] = row
    return int(row)


@kernel
def _release_rows(image: IntArray, nest: int) -> None:
    loop = image[nest + at.LOOPS]
    for _ in range(image[nest + at.N_LOOPS]):
        for field in (at.ROW, at.SECOND_ROW):
            if image[loop + field] >= 0:
                image[image[at.ROW_LIST] + image[at.N_ROWS]] = image[loop + field]
                image[at.N_ROWS] += 1
                image[loop + field] = -1
        loop += at.LOOP_WORDS


@kernel
def _look(image: IntArray, saved: IntArray, log: IntArray, nest: int, loop: int) -> None:
    """Compare with the state saved for this loop; skip if alike, else save now and then."""
    end = image[nest + at.LOOPS] + image[nest + at.N_LOOPS] * at.LOOP_WORDS
    for inner in range(loop + at.LOOP_WORDS, end, at.LOOP_WORDS):
        image[inner + at.LOOP_TURNS] = 0
        image[inner + at.DUE] = 0
    image[loop + at.LOOP_TURNS] += 1
    turns = image[loop + at.LOOP_TURNS]
    row = _row_of(image, loop)
    if row < 0:
        return
    if turns > 1 and image[loop + at.DUE] == 0:
        n_periods = compare(image, saved, row)
        if n_periods > 0:
            cycles = image[at.NOW] - saved[row + at.ROW_NOW]
            log_skip(image, log, n_periods, cycles)
            _skip(image, saved, row, n_periods)
            note(image, loop, n_periods, cycles)
            return
        if n_periods == 0 and image[loop + at.IS_LIMITER]:
            start_following(image, saved, loop)
            return
    if image[loop + at.DUE] > 0:
        if turns < image[loop + at.DUE]:
            return
        image[loop + at.DUE] = 0
        if follow(image, saved, log, loop) or follow_on(image, saved, loop):
            return
        image[loop + at.NEXT_SAVE] = turns
    if turns == 1 or turns >= image[loop + at.NEXT_SAVE]:
        image[loop + at.NEXT_SAVE] = turns + max(1, turns // 2)
        image[loop + at.LAST_SAVE] = turns
        save(image, saved, row)


@kernel
def _look_at_turns(image: IntArray, saved: IntArray, log: IntArray) -> None:
    """Look at every loop that advanced in this instant; a skip leads to another such instant."""
    if image[at.HAS_LIMITS]:
        for i in range(image[at.N_TURNS]):
            log_turn(image, log, image[image[at.TURN_LIST] + 2 * i + 1])
    for i in range(image[at.N_TURNS]):
        turn = image[at.TURN_LIST] + 2 * i
        if image[turn + 1] < 0:
            _release_rows(image, image[turn])
        else:
            _look(image, saved, log, image[turn], image[turn + 1])


@kernel
def simulate(image: IntArray, saved: IntArray, log: IntArray, trace: IntArray, mixes: IntArray) -> None:
    """Run all nests from cycle 0 until nothing runs any more: all are done, or none can proceed.

    `saved` is the memory of the rows in `image`'s row list; without it nothing is skipped. `log` is room for
    the turns of triangular programs. `trace` takes nest, first and last cycle of the first leaves. `mixes`:
    (n, 2) companies of transfers, ascending, and their slowdowns; without any row company costs nothing.
    """
    begin(image, trace, mixes)
    while image[at.N_RUNNING] > 0:
        end_leaves(image)
        grant(image, trace, mixes)
        if saved.size > 0:
            _look_at_turns(image, saved, log)
