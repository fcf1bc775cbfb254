"""The event loop of the engine as compiled kernels over flat tables; `sim.engine` owns names and checks.

Time only stops at the end of leaves. At an instant all leaves that end then hand on their tokens, nests that
this wakes join the queue of their resource, and free resources take waiting leaves by (ready cycle, nest).
Every leaf lasts at least a cycle, so the order of the endings within an instant does not matter.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tilewright.dataflow.kernel import kernel

IntArray = NDArray[np.int64]

# Status of a nest.
WAITING = 0  # for nests that must finish first
BLOCKED = 1  # started, waits for a token or a free slot at a port
QUEUED = 2  # has its tokens, waits for the resource
RUNNING = 3
DONE = 4

# Positions in `State.scalars`.
NOW = 0
N_RUNNING = 1
N_QUEUED = 2
N_DONE = 3
DRAM_FREE = 4  # first cycle at which the DRAM can serve another transfer
N_ENDED = 5  # leaves simulated, skipped ones not counted
N_ACTIVE = 6
EPOCH = 7  # how often a nest has started or finished
N_TURNS = 8  # odometers that advanced in this instant
N_TRACED = 9
N_SCALARS = 10


class Tables(NamedTuple):
    """A compiled program. Prefix arrays (`..._first`) have one entry more than rows they index.

    Loops, ports and leaves of all nests stand one after another. A leaf's cost is looked up by the sum of
    `loop_flag` over the loops that stand in their last full-range iteration.
    """

    resource_capacity: IntArray
    buffer_copies: IntArray
    nest_resource: IntArray
    nest_setup: IntArray  # cycles from the grant of a transfer to its request at the DRAM
    nest_waits: IntArray  # nests that must finish first
    nest_has_limit: IntArray
    loop_first: IntArray
    leaf_first: IntArray
    port_first: IntArray
    successor_first: IntArray
    successors: IntArray
    loop_trips: IntArray  # without limits
    loop_flag: IntArray  # weight in the leaf's index, 0 where the last tile is a full one
    loop_limiter: IntArray  # the loop whose iteration cuts this one, -1 where none does
    loop_limit: IntArray  # (n_loops, 4): tile and extent of the limiter, offset, own tile
    leaf_own: IntArray  # cycles on the resource when nothing else competes
    leaf_service: IntArray  # cycles on the DRAM, 0 for computations
    port_nest: IntArray
    port_buffer: IntArray
    port_depth: IntArray
    port_is_write: IntArray
    port_group: IntArray  # readers that see the same tokens; -1 for writers
    buffer_port_first: IntArray
    buffer_ports: IntArray
    group_first: IntArray
    group_ports: IntArray
    dram_latency: IntArray  # (1,)


class State(NamedTuple):
    """Everything that changes; rows as in `Tables`."""

    scalars: IntArray
    odometer: IntArray  # per loop
    trips: IntArray  # per loop, limits applied
    carry: IntArray  # per nest: level that the current leaf's odometer advanced at, -1 at the start
    status: IntArray
    cycle: IntArray  # per nest: ready (queued) or end (running)
    wait_port: IntArray  # per nest: where it is blocked
    waits: IntArray  # per nest: nests that it still waits for
    start: IntArray
    end: IntArray
    busy: IntArray  # per nest: cycles on its resource
    own: IntArray  # per nest: the same without waiting for the DRAM
    service: IntArray  # per nest: cycles on the DRAM
    produced: IntArray  # per buffer
    freed: IntArray  # per buffer
    given: IntArray  # per port: tokens that a reader has given back, earlier groups' included
    free: IntArray  # per resource
    running: IntArray  # nests, ascending
    queued: IntArray
    active: IntArray  # nests that have started and are not done
    turned: IntArray  # (n_nests, 2): nest and level of each odometer that advanced in this instant, -1: done
    trace: IntArray  # (n, 3): nest, first and last cycle of the first n leaves


@kernel
def trips_at(tables: Tables, loop: int, of_trip: int) -> int:
    """Trips of a limited loop in iteration `of_trip` of its limiter, as `program.limited_trips`."""
    limit = tables.loop_limit[loop]
    last_position = min((of_trip + 1) * limit[0], limit[1]) - 1 + limit[2]
    trips: int = max(1, min(tables.loop_trips[loop], last_position // limit[3] + 1))
    return trips


@kernel
def cut_loops(tables: Tables, state: State, nest: int) -> None:
    """Apply the limits of a nest's loops to its present odometer."""
    for loop in range(tables.loop_first[nest], tables.loop_first[nest + 1]):
        limiter = tables.loop_limiter[loop]
        if limiter >= 0:
            state.trips[loop] = trips_at(tables, loop, state.odometer[limiter])


@kernel
def _blocking_port(tables: Tables, state: State, nest: int) -> int:
    """The first port that keeps the nest's next leaf from starting, -1 if none does."""
    carry = state.carry[nest]
    for port in range(tables.port_first[nest], tables.port_first[nest + 1]):
        if tables.port_depth[port] > carry:
            buffer = tables.port_buffer[port]
            if tables.port_is_write[port]:
                if state.produced[buffer] - state.freed[buffer] >= tables.buffer_copies[buffer]:
                    return port
            elif state.given[port] >= state.produced[buffer]:
                return port
    return -1


@kernel
def _try_queue(tables: Tables, state: State, nest: int) -> None:
    """Queue the nest at its resource if its next leaf has its tokens, else note where it is blocked."""
    port = _blocking_port(tables, state, nest)
    state.wait_port[nest] = port
    if port >= 0:
        state.status[nest] = BLOCKED
        return
    state.status[nest] = QUEUED
    state.cycle[nest] = state.scalars[NOW]
    state.queued[state.scalars[N_QUEUED]] = nest
    state.scalars[N_QUEUED] += 1


@kernel
def _start(tables: Tables, state: State, nest: int) -> None:
    """Let a nest ask for its first leaf; the readers of its groups begin where the earlier groups ended."""
    state.start[nest] = state.scalars[NOW]
    state.carry[nest] = -1
    state.active[state.scalars[N_ACTIVE]] = nest
    state.scalars[N_ACTIVE] += 1
    state.scalars[EPOCH] += 1
    for port in range(tables.port_first[nest], tables.port_first[nest + 1]):
        group = tables.port_group[port]
        if group >= 0:
            freed = state.freed[tables.port_buffer[port]]
            for i in range(tables.group_first[group], tables.group_first[group + 1]):
                reader = tables.group_ports[i]
                state.given[reader] = max(state.given[reader], freed)
    if tables.nest_has_limit[nest]:
        cut_loops(tables, state, nest)
    _try_queue(tables, state, nest)


@kernel
def _advance(tables: Tables, state: State, nest: int) -> int:
    """Step the odometer; the level that advanced, -1 after the last leaf."""
    first = tables.loop_first[nest]
    for loop in range(tables.loop_first[nest + 1] - 1, first - 1, -1):
        if state.odometer[loop] + 1 < state.trips[loop]:
            state.odometer[loop] += 1
            if tables.nest_has_limit[nest]:
                cut_loops(tables, state, nest)
            return int(loop - first)
        state.odometer[loop] = 0
    return -1


@kernel
def _wake(tables: Tables, state: State, buffer: int) -> None:
    """Let nests that are blocked at a port of `buffer` try again."""
    for i in range(tables.buffer_port_first[buffer], tables.buffer_port_first[buffer + 1]):
        port = tables.buffer_ports[i]
        nest = tables.port_nest[port]
        if state.status[nest] == BLOCKED and state.wait_port[nest] == port:
            _try_queue(tables, state, nest)


@kernel
def _hand_on(tables: Tables, state: State, port: int) -> None:
    """Pass on the token of a port: a full tile to the readers, or a free slot to the writer."""
    buffer = tables.port_buffer[port]
    if tables.port_is_write[port]:
        state.produced[buffer] += 1
        _wake(tables, state, buffer)
        return
    state.given[port] += 1
    group = tables.port_group[port]
    freed = state.given[port]
    for i in range(tables.group_first[group], tables.group_first[group + 1]):
        freed = min(freed, state.given[tables.group_ports[i]])
    if freed > state.freed[buffer]:
        state.freed[buffer] = freed
        _wake(tables, state, buffer)


@kernel
def _finish(tables: Tables, state: State, nest: int) -> None:
    state.status[nest] = DONE
    state.end[nest] = state.scalars[NOW]
    state.scalars[N_DONE] += 1
    state.scalars[EPOCH] += 1
    state.scalars[N_ACTIVE] -= 1
    last = state.active[state.scalars[N_ACTIVE]]
    for i in range(state.scalars[N_ACTIVE]):
        if state.active[i] == nest:
            state.active[i] = last
    for i in range(tables.successor_first[nest], tables.successor_first[nest + 1]):
        successor = tables.successors[i]
        state.waits[successor] -= 1
        if state.waits[successor] == 0:
            _start(tables, state, successor)


@kernel
def _complete(tables: Tables, state: State, nest: int) -> None:
    """End the running leaf of a nest."""
    state.scalars[N_ENDED] += 1
    state.free[tables.nest_resource[nest]] += 1
    state.status[nest] = BLOCKED
    state.wait_port[nest] = -1
    carry = _advance(tables, state, nest)
    state.carry[nest] = carry
    for port in range(tables.port_first[nest], tables.port_first[nest + 1]):
        if tables.port_depth[port] > carry:
            _hand_on(tables, state, port)
    turn = state.scalars[N_TURNS]
    state.turned[turn, 0], state.turned[turn, 1] = nest, carry
    state.scalars[N_TURNS] += 1
    if carry < 0:
        _finish(tables, state, nest)
    else:
        _try_queue(tables, state, nest)


@kernel
def _run_leaf(tables: Tables, state: State, nest: int) -> None:
    """Give the nest its resource and fix the end of the leaf."""
    now = state.scalars[NOW]
    leaf = tables.leaf_first[nest]
    for loop in range(tables.loop_first[nest], tables.loop_first[nest + 1]):
        if tables.loop_flag[loop] and state.odometer[loop] == tables.loop_trips[loop] - 1:
            leaf += tables.loop_flag[loop]
    own, service = tables.leaf_own[leaf], tables.leaf_service[leaf]
    end = now + own
    if service > 0:
        served = max(state.scalars[DRAM_FREE], now + tables.nest_setup[nest]) + service
        state.scalars[DRAM_FREE] = served
        end = max(end, served + tables.dram_latency[0])
    state.free[tables.nest_resource[nest]] -= 1
    state.status[nest] = RUNNING
    state.cycle[nest] = end
    state.busy[nest] += end - now
    state.own[nest] += own
    state.service[nest] += service
    i = state.scalars[N_RUNNING]
    state.scalars[N_RUNNING] += 1
    while i > 0 and state.running[i - 1] > nest:
        state.running[i] = state.running[i - 1]
        i -= 1
    state.running[i] = nest
    traced = state.scalars[N_TRACED]
    if traced < state.trace.shape[0]:
        state.trace[traced, 0], state.trace[traced, 1], state.trace[traced, 2] = nest, now, end
        state.scalars[N_TRACED] += 1


@kernel
def grant(tables: Tables, state: State) -> None:
    """Give free resources to queued leaves, the longest waiting first, ties by program order."""
    while True:
        best = -1
        for i in range(state.scalars[N_QUEUED]):
            nest = state.queued[i]
            if state.free[tables.nest_resource[nest]] > 0:
                if best < 0:
                    best = i
                else:
                    rival = state.queued[best]
                    earlier = state.cycle[nest] < state.cycle[rival]
                    if earlier or (state.cycle[nest] == state.cycle[rival] and nest < rival):
                        best = i
        if best < 0:
            return
        nest = state.queued[best]
        state.scalars[N_QUEUED] -= 1
        state.queued[best] = state.queued[state.scalars[N_QUEUED]]
        _run_leaf(tables, state, nest)


@kernel
def end_leaves(tables: Tables, state: State) -> None:
    """Go to the next instant at which a leaf ends and end all leaves that end there."""
    n_running = state.scalars[N_RUNNING]
    now = state.cycle[state.running[0]]
    for i in range(1, n_running):
        now = min(now, state.cycle[state.running[i]])
    state.scalars[NOW] = now
    state.scalars[N_TURNS] = 0
    n_left = 0
    for i in range(n_running):
        nest = state.running[i]
        if state.cycle[nest] == now:
            _complete(tables, state, nest)
        else:
            state.running[n_left] = nest
            n_left += 1
    state.scalars[N_RUNNING] = n_left


@kernel
def begin(tables: Tables, state: State) -> None:
    """Start the nests that wait for no other one, at cycle 0."""
    for nest in range(tables.nest_waits.size):
        if tables.nest_waits[nest] == 0:
            _start(tables, state, nest)
    grant(tables, state)
