"""Saving the state of the event loop and comparing it with a saved one, as kernels over an image."""

from tilewright.dataflow.kernel import kernel
from tilewright.sim import engine_image as at
from tilewright.sim.engine_company import groups_alike, save_groups, served_alike
from tilewright.sim.engine_image import IntArray
from tilewright.sim.engine_kernel import group_freed, trips_at

MISMATCH = -1
UNBOUNDED = 1 << 60
#: Fewer periods are not skipped where a limit cuts the run short: so many equal turns in a period that grows
#: would only hide it.
_FEW_PERIODS = 8


@kernel
def save(image: IntArray, saved: IntArray, row: int) -> None:
    """Write the present state to `row`."""
    saved[row + at.ROW_NOW] = image[at.NOW]
    saved[row + at.ROW_EPOCH] = image[at.EPOCH]
    saved[row + at.ROW_LOGGED] = image[at.N_LOGGED]
    saved[row + at.ROW_LOG_EPOCH] = image[at.LOG_EPOCH]
    save_groups(image, saved, row)
    word = row + at.ROW_BODY
    for i in range(image[at.N_ACTIVE]):
        nest = image[image[at.ACTIVE_LIST] + i]
        for field in range(at.SAVED_WORDS):
            saved[word + field] = image[nest + field]
        word += at.SAVED_WORDS
        loop = image[nest + at.LOOPS]
        for _ in range(image[nest + at.N_LOOPS]):
            saved[word] = image[loop + at.ODOMETER]
            word += 1
            loop += at.LOOP_WORDS
        port = image[nest + at.PORTS]
        for _ in range(image[nest + at.N_PORTS]):
            buffer = image[port + at.PORT_BUFFER]
            saved[word] = image[buffer + at.FREED] if image[port + at.IS_WRITE] else image[port + at.GIVEN]
            saved[word + 1] = image[buffer + at.PRODUCED]
            word += 2
            port += at.PORT_WORDS


@kernel
def free_copies(image: IntArray) -> None:
    """Bring the freed copies up to what all readers of the active nests' groups have given back."""
    for i in range(image[at.N_ACTIVE]):
        nest = image[image[at.ACTIVE_LIST] + i]
        port = image[nest + at.PORTS]
        for _ in range(image[nest + at.N_PORTS]):
            if not image[port + at.IS_WRITE]:
                freed = image[port + at.PORT_BUFFER] + at.FREED
                image[freed] = max(image[freed], group_freed(image, port))
            port += at.PORT_WORDS


@kernel
def _moved(image: IntArray, saved: IntArray, word: int, nest: int) -> int:
    """The loop at which a nest has moved on; -1 if it stands still, -2 if an inner loop differs."""
    moved = -1
    loop = image[nest + at.LOOPS]
    for i in range(image[nest + at.N_LOOPS]):
        if image[loop + at.ODOMETER] != saved[word + i]:
            if moved >= 0:
                return -2
            moved = loop
        loop += at.LOOP_WORDS
    return int(moved)


@kernel
def _ports_alike(image: IntArray, saved: IntArray, word: int, nest: int) -> bool:
    """Whether the tiles and the free copies that a nest sees at its ports are as many as in `saved`."""
    port = image[nest + at.PORTS]
    for _ in range(image[nest + at.N_PORTS]):
        buffer = image[port + at.PORT_BUFFER]
        counted = image[buffer + at.FREED] if image[port + at.IS_WRITE] else image[port + at.GIVEN]
        if image[buffer + at.PRODUCED] - counted != saved[word + 1] - saved[word]:
            return False
        word += 2
        port += at.PORT_WORDS
    return True


@kernel
def last_full(image: IntArray, loop: int) -> int:
    """The last iteration of a loop whose tile is a full one."""
    top = image[loop + at.TRIPS] - 1
    if image[loop + at.FLAG] and image[loop + at.TRIPS] == image[loop + at.FULL_TRIPS]:
        top -= 1
    return int(top)


@kernel
def last_cut_alike(image: IntArray, inner: int, then: int, top: int) -> int:
    """The last iteration up to `top` that cuts the loop `inner` as iteration `then` does."""
    trips = trips_at(image, inner, then)
    low = then  # trips never fall
    while low < top:
        middle = (low + top + 1) // 2
        if trips_at(image, inner, middle) == trips:
            low = middle
        else:
            top = middle - 1
    return int(top)


@kernel
def _last_alike(image: IntArray, nest: int, loop: int, then: int) -> int:
    """The last iteration of `loop` like iteration `then`, -1 if there are too few.

    Notes in GROWS if only its inner loops are cut anew, by as much in every step of as many iterations.
    """
    top = last_full(image, loop)
    if image[nest + at.HAS_CUTS]:
        now = image[loop + at.ODOMETER]
        full = top
        end = image[nest + at.LOOPS] + image[nest + at.N_LOOPS] * at.LOOP_WORDS
        for inner in range(loop + at.LOOP_WORDS, end, at.LOOP_WORDS):
            if image[inner + at.LIMITER] == loop:
                if trips_at(image, inner, then) == trips_at(image, inner, now):
                    top = last_cut_alike(image, inner, then, top)
                elif (now - then) * image[inner + at.LIMITER_TILE] % image[inner + at.TILE] == 0:
                    image[at.GROWS] = 1
                else:
                    return -1
        if top < full and top - now < _FEW_PERIODS * (now - then):
            return -1
    return int(top)


@kernel
def _nest_periods(image: IntArray, saved: IntArray, row: int, word: int, nest: int, period: int) -> int:
    """Periods for which one nest goes on as since the saved state, MISMATCH if it is not alike.

    A nest that stood in one leaf all the time allows the periods that end before the leaf. If it stood in the
    queue, so did its resource: first come, first served, nothing that came later was served before it. A nest
    at its first iteration, about to take a tile that it keeps for all of them, is alike one that has it: the
    counts at its ports are only equal if it need not wait for it.
    """
    status = image[nest + at.STATUS]
    if saved[word + at.STATUS] != status:
        return MISMATCH
    loop = _moved(image, saved, word + at.SAVED_WORDS, nest)
    if loop == -2 or not _ports_alike(image, saved, word + at.SAVED_WORDS + image[nest + at.N_LOOPS], nest):
        return MISMATCH
    image[nest + at.MOVED_LOOP] = loop
    image[nest + at.MOVED_BY] = 0
    if status == at.RUNNING and not served_alike(image, saved, row, word, nest, loop < 0):
        return MISMATCH
    if loop < 0:
        if status >= at.QUEUED:
            image[at.FROZEN] = 1
            if status == at.RUNNING:
                return int((image[nest + at.CYCLE] - image[at.NOW] - 1) // period)
        return UNBOUNDED
    if status >= at.QUEUED and image[nest + at.CYCLE] - saved[word + at.CYCLE] != period:
        return MISMATCH
    now = image[loop + at.ODOMETER]
    then = saved[word + at.SAVED_WORDS + (loop - image[nest + at.LOOPS]) // at.LOOP_WORDS]
    if then == 0 and image[loop + at.GOES_ON]:
        return MISMATCH  # leaves of the first iteration go on with nothing and cost less
    image[nest + at.MOVED_BY] = now - then
    return int((_last_alike(image, nest, loop, then) - now) // (now - then))


@kernel
def compare(image: IntArray, saved: IntArray, row: int) -> int:
    """Whole periods since the state saved in `row` that can be skipped; MISMATCH if it is not alike or none.

    0 if nothing but the cuts of limited loops keeps periods from being skipped.
    """
    if saved[row + at.ROW_EPOCH] != image[at.EPOCH]:
        return MISMATCH
    now, then = image[at.NOW], saved[row + at.ROW_NOW]
    image[at.FROZEN] = 0
    image[at.GROWS] = 0
    if not groups_alike(image, saved, row, then):
        return MISMATCH
    n_periods = UNBOUNDED
    word = row + at.ROW_BODY
    for i in range(image[at.N_ACTIVE]):
        nest = image[image[at.ACTIVE_LIST] + i]
        n_periods = min(n_periods, _nest_periods(image, saved, row, word, nest, now - then))
        if n_periods <= 0:
            return MISMATCH
        word += at.SAVED_WORDS + image[nest + at.N_LOOPS] + 2 * image[nest + at.N_PORTS]
    if image[at.GROWS]:
        return MISMATCH if image[at.FROZEN] else 0
    return int(n_periods)
