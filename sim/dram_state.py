"""The state of one DRAM channel and its controller as flat arrays, shared by both kernels.

Instants are in ticks of the command clock. A queue is a doubly linked list per bank and kind (0 reads, 1
writes) of nodes in the order of arrival; `seq` numbers arrivals, so that the oldest of several lists is the
one with the smallest `seq`.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tilewright.dataflow.kernel import kernel
from tilewright.sim.dram_timing import BANK, CHANNEL, OTHER_RANKS, RANK, STACK_ID

NEVER = 1 << 60

# rows of `bank`: (N_BANK_FIELDS, n_banks)
READY = 0  # .. 3: earliest ACT, PRE, RD, WR
OPEN_ROW = 4  # -1: closed
ACTIVE = 5  # node whose ACT has issued and whose column command has not, -1 for none
HEAD, TAIL, HIT, MISS = 6, 8, 10, 12  # + kind: first, last, oldest hit, oldest miss; -1 for none
COLUMN_KEY, ROW_KEY = 14, 16  # + kind: seq of the candidate for a column or row command, NEVER for none
COLUMNS = 18  # column accesses since the activation
CLOSING = 19  # a PRE for this bank waits among the maintenance commands
ACTIVE_LIST = 20  # banks with an active node, in the order of their ACT
QUEUED = 21  # commands in the queue of this bank (bank queues)
N_BANK_FIELDS = 22

# rows of `rank`: (N_RANK_FIELDS, n_ranks)
READY_PREA, READY_REF, N_OPEN, N_ACTIVE_RANK, RING, RING_NEXT = 0, 1, 2, 3, 4, 8
N_RANK_FIELDS = 9

# rows of `node`: (N_NODE_FIELDS, n_nodes)
NEXT, PREVIOUS, SEQ, ARRIVED, ROW, TAG, SEEN, ORIGIN, KIND, NODE_BANK = range(10)
N_NODE_FIELDS = 10

# `scalar`
(
    CLOCK, WRITE_MODE, NEXT_SEQ, FREE, NEXT_REFRESH, PENDING_HEAD, N_PENDING, N_ACTIVE, N_READS, N_WRITES,
    POSITION, NEXT_OFFER, N_SERVED, LATENCY_SUM, N_LATENCIES, N_HITS, N_ACTIVATES, N_REFRESHES, N_FORWARDED,
    N_ABSORBED, LAST_DONE, N_LOGGED, ISSUED, WAKE, N_SNAPSHOTS, LAST_QUEUE, DRAIN_LEFT, IN_REFRESH, ON_HOLD,
    N_COMMANDS, ROW_WAKE, CLOCK_EXPIRY, ACTIVATING, DEADLINE, CAS_NODE, N_DROPPED,
) = range(36)  # fmt: skip
N_SCALARS = 36

# `fixed`
(
    N_BANKS, N_RANKS, BANKS_PER_RANK, BANKS_PER_STACK_ID, BANKS_PER_GROUP, READ_QUEUE, WRITE_QUEUE, HIGH, LOW,
    PROTECT, COLUMN_CAP, REFRESH_INTERVAL, READ_LATENCY, FOUR_ACTIVATE, DUAL, TICKS, LOAD, TURN, BANK_QUEUE,
    CLOSED, CAS, WRITE_COMMAND_LATENCY, READ_COMMAND_LATENCY, BURST, POSTAMBLE, ACT2_DEADLINE,
) = range(26)  # fmt: skip
N_FIXED = 26
SATURATE, SINGLE, PACED = 0, 1, 2
CHANNEL_READY = 0  # `channel`: (8,), earliest command of each kind on the channel's buses


class Machine(NamedTuple):
    """A channel: what a kernel changes, what it reads of the configuration, where it writes what it sees.

    log: (4, room), tick, command, bank, row of each command while there is room; histogram: read latencies
    in ticks, the last bin open; done: the end of each request in ticks, or empty.
    """

    scalar: npt.NDArray[np.int64]
    bank: npt.NDArray[np.int64]
    rank: npt.NDArray[np.int64]
    node: npt.NDArray[np.int64]
    channel: npt.NDArray[np.int64]
    pending: npt.NDArray[np.int64]
    fixed: npt.NDArray[np.int64]
    rules: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    log: npt.NDArray[np.int64]
    histogram: npt.NDArray[np.int64]
    done: npt.NDArray[np.int64]


def reset(machine: Machine) -> Machine:
    """Cycle 0: banks precharged, queues empty, first refresh due after one interval."""
    scalar, bank, rank, node, channel, pending, fixed = machine[:7]
    scalar[:] = 0
    bank[:] = -1
    bank[READY : READY + 4] = 0
    bank[COLUMN_KEY : ROW_KEY + 2] = NEVER
    for row in (COLUMNS, CLOSING, QUEUED):
        bank[row] = 0
    rank[:] = 0
    rank[RING : RING + 4] = -NEVER
    channel[:] = 0
    pending[:] = 0
    node[:] = -1
    node[NEXT, :-1] = np.arange(1, node.shape[1])
    scalar[NEXT_REFRESH] = fixed[REFRESH_INTERVAL] if fixed[REFRESH_INTERVAL] else NEVER
    for index in (ACTIVATING, CAS_NODE):
        scalar[index] = -1
    return machine


@kernel
def apply_rules(m: Any, command: int, b: int, now: int) -> None:
    """Push the earliest instants of all commands that `command` at bank `b` delays."""
    own = b // m.fixed[BANKS_PER_RANK]
    for i in range(m.first[command], m.first[command + 1]):
        after = m.rules[0, i]
        scope = m.rules[1, i]
        ready = now + m.rules[2, i]
        if scope == CHANNEL:
            if m.channel[after] < ready:
                m.channel[after] = ready
        elif after >= 6:
            if scope == RANK and m.rank[after - 6, own] < ready:
                m.rank[after - 6, own] = ready
        elif scope == BANK:
            if m.bank[after, b] < ready:
                m.bank[after, b] = ready
        elif scope <= BANK:
            span = m.fixed[BANKS_PER_RANK]
            if scope == STACK_ID:
                span = m.fixed[BANKS_PER_STACK_ID]
            elif scope > STACK_ID:
                span = m.fixed[BANKS_PER_GROUP]
            low = b // span * span
            for other in range(low, low + span):
                m.bank[after, other] = max(m.bank[after, other], ready)
        else:
            _push_others(m, after, scope, b, ready)


@kernel
def _push_others(m: Any, after: int, scope: int, b: int, ready: int) -> None:
    """Push banks of the other stack ids of the rank, or of the other ranks."""
    inner, outer = m.fixed[BANKS_PER_STACK_ID], m.fixed[BANKS_PER_RANK]
    if scope == OTHER_RANKS:
        inner, outer = outer, m.fixed[N_BANKS]
    low = b // outer * outer
    for other in range(low, low + outer):
        if other // inner != b // inner:
            m.bank[after, other] = max(m.bank[after, other], ready)


@kernel
def note_activate(m: Any, b: int, now: int) -> None:
    """Keep the last four ACT of the rank and hold back the fifth."""
    size = m.fixed[BANKS_PER_RANK]
    own = b // size
    slot = m.rank[RING_NEXT, own]
    m.rank[RING + slot, own] = now
    slot = (slot + 1) & 3
    m.rank[RING_NEXT, own] = slot
    ready = m.rank[RING + slot, own] + m.fixed[FOUR_ACTIVATE]
    for other in range(own * size, own * size + size):
        m.bank[0, other] = max(m.bank[0, other], ready)
