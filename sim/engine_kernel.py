"""The event loop of the engine as compiled kernels over an image (`sim.engine_image`).

Time only stops at the end of leaves. At an instant all leaves that end then hand on their tokens, nests that
this wakes join the queue of their resource, and free resources take waiting leaves by (ready cycle, nest).
Every leaf lasts at least a cycle, so the order of the endings within an instant does not matter.
"""

from tilewright.dataflow.kernel import kernel
from tilewright.sim import engine_image as at
from tilewright.sim.engine_company import serve
from tilewright.sim.engine_image import IntArray


@kernel
def trips_at(image: IntArray, loop: int, of_trip: int) -> int:
    """Trips of a limited loop in iteration `of_trip` of its limiter, as `program.limited_trips`."""
    reach = min((of_trip + 1) * image[loop + at.LIMITER_TILE], image[loop + at.LIMITER_EXTENT])
    last_position = reach - 1 + image[loop + at.LIMIT_OFFSET]
    trips: int = max(1, min(image[loop + at.FULL_TRIPS], last_position // image[loop + at.TILE] + 1))
    return trips


@kernel
def cut_loops(image: IntArray, nest: int) -> None:
    """Apply the limits of a nest's loops to its present odometer."""
    loop = image[nest + at.LOOPS]
    for _ in range(image[nest + at.N_LOOPS]):
        limiter = image[loop + at.LIMITER]
        if limiter >= 0:
            image[loop + at.TRIPS] = trips_at(image, loop, image[limiter + at.ODOMETER])
        loop += at.LOOP_WORDS


@kernel
def _blocking_port(image: IntArray, nest: int) -> int:
    """The first port that keeps the nest's next leaf from starting, -1 if none does."""
    carry = image[nest + at.CARRY]
    port = image[nest + at.PORTS]
    for _ in range(image[nest + at.N_PORTS]):
        if image[port + at.DEPTH] > carry:
            buffer = image[port + at.PORT_BUFFER]
            produced = image[buffer + at.PRODUCED]
            if image[port + at.IS_WRITE]:
                if produced - image[buffer + at.FREED] >= image[buffer + at.COPIES]:
                    return int(port)
            elif image[port + at.GIVEN] >= produced:
                return int(port)
        port += at.PORT_WORDS
    return -1


@kernel
def _try_queue(image: IntArray, nest: int) -> None:
    """Queue the nest at its resource if its next leaf has what it needs, else note where it is blocked."""
    port = _blocking_port(image, nest)
    image[nest + at.WAIT_PORT] = port
    if port >= 0:
        image[nest + at.STATUS] = at.BLOCKED
        return
    image[nest + at.STATUS] = at.QUEUED
    image[nest + at.CYCLE] = image[at.NOW]
    image[image[at.QUEUED_LIST] + image[at.N_QUEUED]] = nest
    image[at.N_QUEUED] += 1


@kernel
def group_freed(image: IntArray, port: int) -> int:
    """Tiles that all readers of a port's group have given back."""
    members = image[port + at.GROUP]
    freed = image[port + at.GIVEN]
    for i in range(image[port + at.N_GROUP]):
        freed = min(freed, image[image[members + i] + at.GIVEN])
    return int(freed)


@kernel
def _start(image: IntArray, nest: int) -> None:
    """Let a nest ask for its first leaf; the readers of its groups begin where the earlier groups ended."""
    image[nest + at.START] = image[at.NOW]
    image[nest + at.CARRY] = -1
    image[image[at.ACTIVE_LIST] + image[at.N_ACTIVE]] = nest
    image[at.N_ACTIVE] += 1
    image[at.EPOCH] += 1
    port = image[nest + at.PORTS]
    for _ in range(image[nest + at.N_PORTS]):
        if not image[port + at.IS_WRITE]:
            freed = image[image[port + at.PORT_BUFFER] + at.FREED]
            members = image[port + at.GROUP]
            for i in range(image[port + at.N_GROUP]):
                reader = image[members + i]
                image[reader + at.GIVEN] = max(image[reader + at.GIVEN], freed)
        port += at.PORT_WORDS
    if image[nest + at.HAS_CUTS]:
        cut_loops(image, nest)
    _try_queue(image, nest)


@kernel
def _advance(image: IntArray, nest: int) -> int:
    """Step the odometer; the level that advanced, -1 after the last leaf."""
    level = image[nest + at.N_LOOPS] - 1
    loop = image[nest + at.LOOPS] + level * at.LOOP_WORDS
    while level >= 0:
        if image[loop + at.ODOMETER] + 1 < image[loop + at.TRIPS]:
            image[loop + at.ODOMETER] += 1
            if image[nest + at.HAS_CUTS]:
                cut_loops(image, nest)
            return int(level)
        image[loop + at.ODOMETER] = 0
        level -= 1
        loop -= at.LOOP_WORDS
    return -1


@kernel
def _wake(image: IntArray, buffer: int) -> None:
    """Let nests that are blocked at a port of `buffer` try again."""
    ports = image[buffer + at.BUFFER_PORTS]
    for i in range(image[buffer + at.N_BUFFER_PORTS]):
        port = image[ports + i]
        nest = image[port + at.PORT_NEST]
        if image[nest + at.WAIT_PORT] == port and image[nest + at.STATUS] == at.BLOCKED:
            _try_queue(image, nest)


@kernel
def _hand_on(image: IntArray, port: int) -> None:
    """Pass on the token of a port: a full tile to the readers, or a free copy to the writer."""
    buffer = image[port + at.PORT_BUFFER]
    if image[port + at.IS_WRITE]:
        image[buffer + at.PRODUCED] += 1
        _wake(image, buffer)
        return
    image[port + at.GIVEN] += 1
    freed = group_freed(image, port)
    if freed > image[buffer + at.FREED]:
        image[buffer + at.FREED] = freed
        _wake(image, buffer)


@kernel
def _finish(image: IntArray, nest: int) -> None:
    image[nest + at.STATUS] = at.DONE
    image[nest + at.END] = image[at.NOW]
    image[at.N_DONE] += 1
    image[at.EPOCH] += 1
    image[at.N_ACTIVE] -= 1
    actives = image[at.ACTIVE_LIST]
    last = image[actives + image[at.N_ACTIVE]]
    for i in range(image[at.N_ACTIVE]):
        if image[actives + i] == nest:
            image[actives + i] = last
    for i in range(image[nest + at.N_SUCCESSORS]):
        successor = image[image[nest + at.SUCCESSORS] + i]
        image[successor + at.N_WAITS] -= 1
        if image[successor + at.N_WAITS] == 0:
            _start(image, successor)


@kernel
def _complete(image: IntArray, nest: int) -> None:
    """End the running leaf of a nest."""
    image[at.N_ENDED] += 1
    image[image[nest + at.RESOURCE] + at.FREE] += 1
    image[nest + at.STATUS] = at.BLOCKED
    image[nest + at.WAIT_PORT] = -1
    carry = _advance(image, nest)
    image[nest + at.CARRY] = carry
    port = image[nest + at.PORTS]
    for _ in range(image[nest + at.N_PORTS]):
        if image[port + at.DEPTH] > carry:
            _hand_on(image, port)
        port += at.PORT_WORDS
    turn = image[at.TURN_LIST] + 2 * image[at.N_TURNS]
    image[at.N_TURNS] += 1
    image[turn] = nest
    image[turn + 1] = -1
    if carry < 0:
        _finish(image, nest)
    else:
        image[turn + 1] = image[nest + at.LOOPS] + carry * at.LOOP_WORDS
        _try_queue(image, nest)


@kernel
def _leaf(image: IntArray, nest: int) -> int:
    """The record of the nest's current leaf."""
    index = 0
    begun = 0
    loop = image[nest + at.LOOPS]
    for _ in range(image[nest + at.N_LOOPS]):
        if image[loop + at.ODOMETER] > 0:
            begun |= image[loop + at.GOES_ON]
        if image[loop + at.FLAG] and image[loop + at.ODOMETER] == image[loop + at.FULL_TRIPS] - 1:
            index += image[loop + at.FLAG]
        loop += at.LOOP_WORDS
    return int(image[nest + at.LEAVES] + (index + begun) * at.LEAF_WORDS)


@kernel
def _run_leaf(image: IntArray, nest: int, trace: IntArray, mixes: IntArray) -> None:
    """Give the nest its resource and fix the end of the leaf."""
    now = image[at.NOW]
    leaf = _leaf(image, nest)
    own, service = image[leaf + at.LEAF_OWN], image[leaf + at.LEAF_SERVICE]
    end = now + own
    if service > 0:
        service = serve(image, nest, image[leaf + at.LEAF_TRAFFIC], service, mixes)
        end = max(end, image[nest + at.SERVED] + image[at.DRAM_LATENCY])
    image[image[nest + at.RESOURCE] + at.FREE] -= 1
    image[nest + at.STATUS] = at.RUNNING
    image[nest + at.CYCLE] = end
    image[nest + at.BUSY] += end - now
    image[nest + at.OWN] += own
    image[nest + at.SERVICE] += service
    i = image[at.RUNNING_LIST] + image[at.N_RUNNING]
    image[at.N_RUNNING] += 1
    while i > image[at.RUNNING_LIST] and image[i - 1] > nest:
        image[i] = image[i - 1]
        i -= 1
    image[i] = nest
    traced = image[at.N_TRACED]
    if traced < trace.shape[0]:
        trace[traced, 0], trace[traced, 1], trace[traced, 2] = nest, now, end
        image[at.N_TRACED] += 1


@kernel
def grant(image: IntArray, trace: IntArray, mixes: IntArray) -> None:
    """Give free resources to queued leaves, the longest waiting first, ties by program order."""
    queued = image[at.QUEUED_LIST]
    while True:
        best = -1
        for i in range(queued, queued + image[at.N_QUEUED]):
            nest = image[i]
            if image[image[nest + at.RESOURCE] + at.FREE] > 0:
                if best < 0:
                    best = i
                else:
                    rival = image[best]
                    earlier = image[nest + at.CYCLE] - image[rival + at.CYCLE]
                    if earlier < 0 or (earlier == 0 and nest < rival):
                        best = i
        if best < 0:
            return
        nest = image[best]
        image[at.N_QUEUED] -= 1
        image[best] = image[queued + image[at.N_QUEUED]]
        _run_leaf(image, nest, trace, mixes)


@kernel
def end_leaves(image: IntArray) -> None:
    """Go to the next instant at which a leaf ends and end all leaves that end there."""
    running = image[at.RUNNING_LIST]
    n_running = image[at.N_RUNNING]
    now = image[image[running] + at.CYCLE]
    for i in range(running + 1, running + n_running):
        now = min(now, image[image[i] + at.CYCLE])
    image[at.NOW] = now
    image[at.N_TURNS] = 0
    left = running
    for i in range(running, running + n_running):
        nest = image[i]
        if image[nest + at.CYCLE] == now:
            _complete(image, nest)
        else:
            image[left] = nest
            left += 1
    image[at.N_RUNNING] = left - running


@kernel
def begin(image: IntArray, trace: IntArray, mixes: IntArray) -> None:
    """Start the nests that wait for no other one, at cycle 0."""
    for i in range(image[at.N_NESTS]):
        nest = image[image[at.NESTS] + i]
        if image[nest + at.N_WAITS] == 0:
            _start(image, nest)
    grant(image, trace, mixes)
