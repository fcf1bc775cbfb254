"""Follows periods that get longer by the same amount each time, as under a causal mask, and skips them.

In a triangular nest every outer iteration has more inner ones than the iteration before, so no period equals
the last. But when the inner loop has a steady state, the additional iterations fall into it. Three states at
equal distances are compared, at the same loop. If they are alike but for the cuts, the loops cut by a nest's
outer loop grow by a constant from period to period, and what happened in the two periods between them is the
same turn by turn except that some skips are longer, and longer by exactly what the loops that they go
through grew, then the next period is like them with skips longer by the same again: by induction everything
that counts up (the clock, busy cycles, tokens) is a quadratic function of the number of periods until a loop
stops growing.

For that comparison the turns of odometers and the skips are kept in a log.
"""

from tilewright.dataflow.kernel import kernel
from tilewright.sim import engine_image as at
from tilewright.sim.engine_image import IntArray
from tilewright.sim.engine_kernel import cut_loops, trips_at
from tilewright.sim.engine_state import (
    MISMATCH,
    UNBOUNDED,
    compare,
    free_copies,
    last_cut_alike,
    last_full,
    save,
)

# Entries of the log: a turn is the loop's position; a skip is this mark, its number of periods, its cycles,
# whether something stood still, the number of active nests, and for each its loop and how far it moved.
_SKIP_MARK = -1
_GROWN_MARK = -2  # a skip of growing periods; nothing that holds one is followed
_SKIP_HEAD = 5
#: Turns of a loop after which growing periods at one distance are given up for longer ones.
_PATIENCE = 256


@kernel
def _room(image: IntArray, log: IntArray, n_words: int) -> bool:
    """Make sure that the log takes `n_words` more; a full log is emptied, which ends what was followed."""
    if image[at.N_LOGGED] + n_words > log.size:
        image[at.N_LOGGED] = 0
        image[at.LOG_EPOCH] += 1
    return bool(n_words <= log.size)


@kernel
def log_turn(image: IntArray, log: IntArray, loop: int) -> None:
    if _room(image, log, 1):
        log[image[at.N_LOGGED]] = loop
        image[at.N_LOGGED] += 1


@kernel
def log_skip(image: IntArray, log: IntArray, n_periods: int, cycles: int) -> None:
    """Log a skip just before it is made; `compare` has left what moved in the nests."""
    n_active = image[at.N_ACTIVE]
    if image[at.HAS_LIMITS] == 0 or not _room(image, log, _SKIP_HEAD + 2 * n_active):
        return
    word = image[at.N_LOGGED]
    log[word] = _SKIP_MARK
    log[word + 1] = n_periods
    log[word + 2] = cycles
    log[word + 3] = image[at.FROZEN]
    log[word + 4] = n_active
    word += _SKIP_HEAD
    for i in range(n_active):
        nest = image[image[at.ACTIVE_LIST] + i]
        log[word] = image[nest + at.MOVED_LOOP]
        log[word + 1] = image[nest + at.MOVED_BY]
        word += 2
    image[at.N_LOGGED] = word


@kernel
def start_following(image: IntArray, saved: IntArray, loop: int) -> None:
    """Save the present state as the second of three; the third is due after as many turns again."""
    if image[loop + at.SECOND_ROW] < 0:
        if image[at.N_ROWS] == 0:
            return
        image[at.N_ROWS] -= 1
        image[loop + at.SECOND_ROW] = image[image[at.ROW_LIST] + image[at.N_ROWS]]
    save(image, saved, image[loop + at.SECOND_ROW])
    image[loop + at.DUE] = 2 * image[loop + at.LOOP_TURNS] - image[loop + at.LAST_SAVE]
    image[loop + at.LAST_SAVE] = image[loop + at.LOOP_TURNS]


@kernel
def follow_on(image: IntArray, saved: IntArray, loop: int) -> bool:
    """Take the second and the present state for the first two of the next three, if they are alike."""
    if image[loop + at.LOOP_TURNS] > _PATIENCE or compare(image, saved, image[loop + at.SECOND_ROW]) != 0:
        return False
    image[loop + at.ROW], image[loop + at.SECOND_ROW] = image[loop + at.SECOND_ROW], image[loop + at.ROW]
    start_following(image, saved, loop)
    return True


@kernel
def follow(image: IntArray, saved: IntArray, log: IntArray, loop: int) -> bool:
    """Close the second of two growing periods and skip as many as will be like them; whether any was."""
    first, second = image[loop + at.ROW], image[loop + at.SECOND_ROW]
    epoch = image[at.LOG_EPOCH]
    if saved[first + at.ROW_LOG_EPOCH] != epoch or saved[second + at.ROW_LOG_EPOCH] != epoch:
        return False
    if saved[first + at.ROW_EPOCH] != image[at.EPOCH] or compare(image, saved, second) != 0:
        return False
    n_periods = UNBOUNDED
    word = at.ROW_BODY
    for i in range(image[at.N_ACTIVE]):
        nest = image[image[at.ACTIVE_LIST] + i]
        n_periods = min(n_periods, _growth(image, saved, first + word, second + word, nest))
        if n_periods <= 0:
            return False
        word += at.SAVED_WORDS + image[nest + at.N_LOOPS] + 2 * image[nest + at.N_PORTS]
    if not _periods_alike(image, log, saved[first + at.ROW_LOGGED], saved[second + at.ROW_LOGGED]):
        return False
    cycles = image[at.NOW] - saved[second + at.ROW_NOW]
    _skip_growing(image, saved, first, second, n_periods)
    note(image, loop, n_periods, cycles)
    if _room(image, log, 1):
        log[image[at.N_LOGGED]] = _GROWN_MARK
        image[at.N_LOGGED] += 1
    return True


@kernel
def _growth(image: IntArray, saved: IntArray, first: int, second: int, nest: int) -> int:
    """Further periods for which a nest's limited loop grows as in the last two, MISMATCH if it does not.

    Notes the loop and its growth in the nest. Without growth: periods for which its loops are cut alike.
    """
    image[nest + at.GROW_BY] = 0
    image[nest + at.GROW_LOOP] = -1
    image[nest + at.SHIFT] = 0
    moved = image[nest + at.MOVED_LOOP]
    step = image[nest + at.MOVED_BY]
    loops = image[nest + at.LOOPS]
    for i in range(image[nest + at.N_LOOPS]):
        difference = saved[second + at.SAVED_WORDS + i] - saved[first + at.SAVED_WORDS + i]
        if difference != (step if loops + i * at.LOOP_WORDS == moved else 0):
            return MISMATCH
    if moved < 0:
        return UNBOUNDED
    now = image[moved + at.ODOMETER]
    then = now - 2 * step
    top = last_full(image, moved)
    end = loops + image[nest + at.N_LOOPS] * at.LOOP_WORDS
    for inner in range(moved + at.LOOP_WORDS, end, at.LOOP_WORDS):
        if image[inner + at.LIMITER] != moved:
            continue
        growth = trips_at(image, inner, now) - trips_at(image, inner, now - step)
        if trips_at(image, inner, now - step) - trips_at(image, inner, then) != growth:
            return MISMATCH
        if growth == 0:
            top = last_cut_alike(image, inner, then, top)
        elif image[nest + at.GROW_BY] or image[inner + at.IS_LIMITER]:
            return MISMATCH
        else:
            image[nest + at.GROW_BY] = growth
            image[nest + at.GROW_LOOP] = inner
            top = min(top, _last_growing(image, inner, then, step))
    return int((top - now) // step)


@kernel
def _last_growing(image: IntArray, loop: int, then: int, step: int) -> int:
    """The last iteration of its limiter up to which a limited loop's trips are linear and its tiles full.

    -1 if they are not linear from iteration `then` on, in steps of `step`.
    """
    tile, of_tile, offset = (
        image[loop + at.TILE],
        image[loop + at.LIMITER_TILE],
        image[loop + at.LIMIT_OFFSET],
    )
    if of_tile * step % tile != 0 or (then + 1) * of_tile - 1 + offset < 0:
        return -1
    most = image[loop + at.FULL_TRIPS] - (1 if image[loop + at.FLAG] else 0)
    return int(min(image[loop + at.LIMITER_EXTENT] // of_tile, (most * tile - offset) // of_tile) - 1)


@kernel
def _periods_alike(image: IntArray, log: IntArray, first: int, second: int) -> bool:
    """Whether the log of the period from `second` is that from `first` with skips grown as their loops."""
    i, j = first, second
    while i < second:
        if j >= image[at.N_LOGGED] or log[i] == _GROWN_MARK:
            return False
        if log[i] != log[j]:
            return False
        if log[i] == _SKIP_MARK:
            if not _skips_alike(image, log, i, j):
                return False
            length = _SKIP_HEAD + 2 * log[i + 4]
            i += length
            j += length
        else:
            nest = image[log[i] + at.LOOP_NEST]
            if log[i] < image[nest + at.GROW_LOOP]:  # the growing loop has run to its end
                if image[nest + at.SHIFT] != image[nest + at.GROW_BY]:
                    return False
                image[nest + at.SHIFT] = 0
            i += 1
            j += 1
    if j != image[at.N_LOGGED]:
        return False
    ahead = 0
    for k in range(image[at.N_ACTIVE]):
        ahead += abs(image[image[image[at.ACTIVE_LIST] + k] + at.SHIFT])
    return bool(ahead == 0)


@kernel
def _skips_alike(image: IntArray, log: IntArray, i: int, j: int) -> bool:
    """Whether the skip at `j` is that at `i`, longer at most by the growth of the loops that it goes through.

    A skip stays possible as long as its nests do not come to the end of a loop. So one that gets longer may
    only go through loops that grow by as much. One that does not may also go through others: their room is
    the same in every period, and in the loop that moves on between the periods there is room to the last. A
    skip that gets longer must keep its period's cycles, or the clock would not be quadratic; and where a leaf
    stood still, which gives a skip so much time, it must not take longer.
    """
    grown = log[j + 1] - log[i + 1]
    n_active = image[at.N_ACTIVE]
    if grown < 0 or log[i + 3] != log[j + 3] or log[i + 4] != n_active or log[j + 4] != n_active:
        return False
    if log[i + 2] != log[j + 2] and (grown > 0 or log[i + 3]):
        return False
    if grown > 0 and log[i + 3]:
        return False
    for k in range(n_active):
        a, b = i + _SKIP_HEAD + 2 * k, j + _SKIP_HEAD + 2 * k
        if log[a] != log[b] or log[a + 1] != log[b + 1]:
            return False
        if log[a + 1] == 0:
            continue
        nest = image[image[at.ACTIVE_LIST] + k]
        longer = grown * log[a + 1]
        room = 0
        if log[a] == image[nest + at.GROW_LOOP]:
            room = image[nest + at.GROW_BY] - image[nest + at.SHIFT]
        if longer > room or log[a] < image[nest + at.MOVED_LOOP]:
            return False
        image[nest + at.SHIFT] += longer
    return True


@kernel
def _grown(now: int, then: int, before: int, n_periods: int) -> int:
    """A value whose increments grow by a constant, `n_periods` after `now`; the last three are one apart."""
    step = now - then
    growth = step - (then - before)
    return now + n_periods * step + growth * (n_periods * (n_periods + 1) // 2)


@kernel
def _skip_growing(image: IntArray, saved: IntArray, first: int, second: int, n_periods: int) -> None:
    """Move the state on by growing periods."""
    now = _grown(image[at.NOW], saved[second + at.ROW_NOW], saved[first + at.ROW_NOW], n_periods)
    cycles = now - image[at.NOW]
    image[at.NOW] = now
    for g in range(image[at.N_GROUPS]):
        image[image[at.GROUPS] + g * at.GROUP_WORDS + at.GROUP_FREE] += cycles
    word = at.ROW_BODY
    for i in range(image[at.N_ACTIVE]):
        nest = image[image[at.ACTIVE_LIST] + i]
        a, b = first + word, second + word
        if image[nest + at.MOVED_BY]:
            image[image[nest + at.MOVED_LOOP] + at.ODOMETER] += n_periods * image[nest + at.MOVED_BY]
            if image[nest + at.HAS_CUTS]:
                cut_loops(image, nest)
            if image[nest + at.STATUS] >= at.QUEUED:
                image[nest + at.CYCLE] += cycles
                image[nest + at.SERVED] += cycles
        for field in range(at.BUSY, at.SAVED_WORDS):
            image[nest + field] = _grown(image[nest + field], saved[b + field], saved[a + field], n_periods)
        skipped = at.SAVED_WORDS + image[nest + at.N_LOOPS]
        port = image[nest + at.PORTS]
        for k in range(image[nest + at.N_PORTS]):
            a, b = first + word + skipped + 2 * k, second + word + skipped + 2 * k
            if image[port + at.IS_WRITE]:
                field = image[port + at.PORT_BUFFER] + at.PRODUCED
                image[field] = _grown(image[field], saved[b + 1], saved[a + 1], n_periods)
            else:
                image[port + at.GIVEN] = _grown(image[port + at.GIVEN], saved[b], saved[a], n_periods)
            port += at.PORT_WORDS
        word += skipped + 2 * image[nest + at.N_PORTS]
    free_copies(image)


@kernel
def note(image: IntArray, loop: int, n_periods: int, cycles: int) -> None:
    """Remember for the report what was skipped at a loop, and the last period."""
    moved_by = image[image[loop + at.LOOP_NEST] + at.MOVED_BY]
    image[loop + at.SKIPPED] += n_periods * moved_by
    image[loop + at.PERIOD_ITERATIONS] = moved_by
    image[loop + at.PERIOD_CYCLES] = cycles
