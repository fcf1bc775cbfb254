"""The state of one DRAM channel and its controller in one table, shared by both kernels.

A row of the table is a field, a column is a bank, a rank, a request or, in the row SCALAR, a counter. One
array instead of many: compiled calls that pass several arrays spend most of their time on reference counts.
Instants are in ticks of the command clock. A queue is a doubly linked list per bank and kind (0 reads, 1
writes) of requests in the order of arrival; SEQ numbers arrivals, so that the oldest of several lists is
the one with the smallest number.
"""

import numpy as np
import numpy.typing as npt

from tilewright.sim.dram_timing import (
    BANK,
    BANK_GROUP,
    CHANNEL,
    OTHER_RANKS,
    OTHER_STACK_IDS,
    PREA,
    RANK,
    REFB,
    STACK_ID,
)

NEVER = 1 << 60

# Spans of rules that do not push a range of banks; the channel's cells follow, one code per command.
CELL_OF_RANK, SPAN_STACK_IDS, SPAN_RANKS, CELL_OF_CHANNEL = 0, -1, -2, -3

# Rows of the table. One per channel: counters, what the configuration says, the earliest instant of each
# command on the channel's buses, maintenance entries, timing rules by their `before` command.
SCALAR, FIXED, CHANNEL_READY, PENDING, FIRST = 0, 1, 2, 3, 4
RULES = 5  # .. 7: target row, span in banks or one of the codes below, delay

# Rows by rank: earliest PREA and REF, open banks, activated requests, the last four ACT and their next slot.
READY_PREA, READY_REF, N_OPEN, N_ACTIVE_RANK, RING, RING_NEXT = 8, 9, 10, 11, 12, 16

# Rows by bank. Rows of pairs take + kind.
READY = 17  # .. 20: earliest ACT, PRE, RD, WR
OPEN_ROW = 21  # -1: closed
ACTIVE = 22  # request whose ACT has issued and whose column command has not, -1 for none
HEAD, TAIL, HIT, MISS = 23, 25, 27, 29  # + kind: first, last, oldest hit, oldest miss; -1 for none
# + kind: the candidate for a column or row command as SEQ * 256 + bank, NEVER for none
COLUMN_KEY, ROW_KEY = 31, 33
KEY_SHIFT, KEY_BANK = 8, 255
COLUMNS = 35  # column accesses since the activation
CLOSING = 36  # 1 while a PRE for this bank is among the maintenance entries
ACTIVE_LIST = 37  # banks with an activated request, in the order of their ACT
# Bank queues only: commands in the queue of this bank, first and last of them, and the earliest tick at
# which any of them may issue.
QUEUED, COMMAND_HEAD, COMMAND_TAIL, BANK_WAKE = 38, 39, 40, 41
LAST_USE = 42  # tick of the last ACT or column command
# Refresh by sets of banks only, by bank: earliest REFB; 1 while the bank takes no new request because its set
# is due. By rank: sets that are due, and which of them is the first.
READY_REFB, HELD, N_DUE_SETS, DUE_SET = 43, 44, 45, 46

# Rows by request. MERGED and MERGED_SUM: reads of the same burst that wait for its command, and the sum of
# their arrivals.
NEXT, PREVIOUS, SEQ, ARRIVED, ROW, TAG, SEEN, ORIGIN, KIND, MERGED, MERGED_SUM = range(47, 58)
N_ROWS = 58

# Columns of SCALAR. Requests POSITION .. END - 1 are offered; after a refresh END falls to the next multiple of
# LOOK_PERIOD (0: never).
(
    CLOCK, WRITE_MODE, NEXT_SEQ, FREE, NEXT_REFRESH, PENDING_HEAD, N_PENDING, N_ACTIVE, N_READS, N_WRITES,
    POSITION, NEXT_OFFER, N_SERVED, LATENCY_SUM, N_LATENCIES, N_HITS, N_ACTIVATES, N_REFRESHES, N_FORWARDED,
    N_ABSORBED, LAST_DONE, N_LOGGED, WAKE, LAST_QUEUE, DRAIN_LEFT, N_COMMANDS, NEXT_RANK,
    CLOCK_EXPIRY, ACTIVATING, DEADLINE, CAS_BANK, CAS_KIND, PAIR_TICK, PAIR_BANK, PAIR_ALL, ROW_WAKE,
    N_DUE, END, LOOK_PERIOD,
) = range(39)  # fmt: skip
N_SCALARS = 39

# Columns of FIXED.
(
    N_BANKS, N_RANKS, BANKS_PER_RANK, BANKS_PER_STACK_ID, BANKS_PER_GROUP, READ_QUEUE, WRITE_QUEUE, HIGH, LOW,
    PROTECT, COLUMN_CAP, REFRESH_INTERVAL, READ_LATENCY, FOUR_ACTIVATE, DUAL, TICKS, LOAD, BANK_QUEUE,
    CLOSED, CAS, WRITE_COMMAND_LATENCY, READ_COMMAND_LATENCY, BURST, POSTAMBLE, ACT2_DEADLINE, N_NODES,
    LOG_ROOM, DONE_ROOM, RANK_SHIFT, IN_ORDER,
    TIMEOUT, REFRESH_SETS,
) = range(32)  # fmt: skip
N_FIXED = 32
SATURATE, SINGLE, PACED = 0, 1, 2

# Rows of what a run writes: read latencies in ticks (the last bin open), the end of each request, and each
# command while there is room.
HISTOGRAM, DONE, LOG_TICK, LOG_COMMAND, LOG_BANK, LOG_ROW = range(6)
N_OUT_ROWS = 6
LATENCY_BINS = 8192

Table = npt.NDArray[np.int64]


def _target(after: int, scope: int, fixed: dict[int, int]) -> tuple[int, int]:
    """The row that a rule pushes, and its span or code."""
    if scope == CHANNEL:
        return CHANNEL_READY, CELL_OF_CHANNEL - after
    if PREA <= after < REFB:
        return READY_PREA + after - PREA, CELL_OF_RANK
    spans = {
        RANK: fixed[BANKS_PER_RANK], STACK_ID: fixed[BANKS_PER_STACK_ID], BANK_GROUP: fixed[BANKS_PER_GROUP],
        BANK: 1, OTHER_STACK_IDS: SPAN_STACK_IDS, OTHER_RANKS: SPAN_RANKS,
    }  # fmt: skip
    return READY_REFB if after == REFB else READY + after, spans[scope]


def new_table(fixed: dict[int, int], rules: Table, first: Table) -> Table:
    """A channel at cycle 0: banks precharged, queues empty, first refresh due after one interval.

    rules: (3, n) and first: (10,) as in `TimingTables`; fixed: the values of the row FIXED.
    """
    width = max(fixed[N_NODES], 4 * (fixed[N_BANKS] + fixed[N_RANKS]), rules.shape[1], N_SCALARS, N_FIXED)
    table = np.zeros((N_ROWS, width), dtype=np.int64)
    for column, value in fixed.items():
        table[FIXED, column] = value
    for i, (after, scope, delay) in enumerate(rules.T):
        table[RULES : RULES + 3, i] = (*_target(int(after), int(scope), fixed), delay)
    table[FIRST, : first.size] = first
    table[RING : RING + 4] = -NEVER
    table[OPEN_ROW:COLUMN_KEY] = -1
    table[COLUMN_KEY : ROW_KEY + 2] = NEVER
    table[COMMAND_HEAD : COMMAND_TAIL + 1] = -1
    table[NEXT:] = -1
    table[NEXT, : fixed[N_NODES] - 1] = np.arange(1, fixed[N_NODES])
    table[SCALAR, NEXT_REFRESH] = fixed[REFRESH_INTERVAL] or NEVER
    table[SCALAR, LAST_QUEUE] = 0
    table[SCALAR, [ACTIVATING, CAS_BANK]] = -1
    return table
