"""The memory image of a compiled program: one integer vector of records that point at each other.

The kernels walk one vector `image` of 64-bit integers instead of many arrays, which they would have to pass
around: a record is named by the position of its first word, `image[nest + STATUS]` is a field, and fields
hold the positions of other records. The constants below are the offsets of the fields. `ImageBuilder` writes
the image before cycle 0; a run works on a copy of it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

# Status of a nest.
WAITING = 0  # for nests that must finish first
BLOCKED = 1  # started, waits for a tile or a free copy at a port
QUEUED = 2  # has what it needs, waits for the resource
RUNNING = 3
DONE = 4

# The head of the image. A list is a position; its length is the count named beside it.
NOW = 0
GROUPS = 1  # list of the memory's groups of channels
DRAM_LATENCY = 2
N_NESTS = 3
NESTS = 4  # list of all nests, in program order
N_DONE = 5
N_ENDED = 6  # leaves simulated, skipped ones not counted
EPOCH = 7  # how often a nest has started or finished
N_RUNNING = 8
RUNNING_LIST = 9  # in program order
N_QUEUED = 10
QUEUED_LIST = 11
N_ACTIVE = 12
ACTIVE_LIST = 13  # nests that have started and are not done
N_TURNS = 14
TURN_LIST = 15  # pairs: nest, and the loop that advanced in this instant (-1 at the nest's end)
N_TRACED = 16
HAS_LIMITS = 17  # 1 if some loop is cut by another
ROW_WORDS = 18  # words of one saved state
N_ROWS = 19  # rows for saved states that nothing uses
ROW_LIST = 20  # their positions
N_LOGGED = 21  # words in the log of turns and skips
LOG_EPOCH = 22  # how often the log was emptied
FROZEN = 23  # of the last comparison: something stood still in time
GROWS = 24  # of the last comparison: only the cuts of limited loops differ
N_GROUPS = 25
MISSING_LIST = 26  # keys of companies of transfers whose slowdown is not known
N_MISSING = 27
HEAD_WORDS = 28

#: Groups of channels that a memory may have, and companies that are noted as not known in one run.
MAX_GROUPS = 8
MAX_MISSING = 64

# A group of channels. Of the work that waits in it, PLAIN cycles were not charged for company.
GROUP_FREE = 0  # first cycle at which it can serve another transfer
PLAIN = 1
GROUP_WORDS = 2

# A resource.
FREE = 0
CAPACITY = 1
RESOURCE_WORDS = 2

# A buffer. Tokens are counted from the start of the program.
COPIES = 0
PRODUCED = 1
FREED = 2
N_BUFFER_PORTS = 3
BUFFER_PORTS = 4
BUFFER_WORDS = 5

# A leaf of one shape.
LEAF_OWN = 0  # cycles on the resource when nothing else competes
LEAF_SERVICE = 1  # cycles on the DRAM, 0 for computations
LEAF_TRAFFIC = 2  # class of the transfer (`sim.engine_company`)
LEAF_WORDS = 3

# A nest. The first seven words change with time and are part of a saved state; from BUSY on they count up.
STATUS = 0
CYCLE = 1  # ready (queued) or end (running)
SERVED = 2  # of a running transfer: when the DRAM has served it
TRAFFIC = 3  # and its class
BUSY = 4  # cycles on its resource
OWN = 5  # the same without waiting for the DRAM
SERVICE = 6  # cycles on the DRAM
SAVED_WORDS = 7
CARRY = 7  # loops that turned over for the current leaf: those behind this level, -1 at the start
WAIT_PORT = 8
N_WAITS = 9  # nests that it still waits for
START = 10
END = 11
RESOURCE = 12
SETUP = 13  # cycles from the grant of a transfer to its request at the DRAM
LEAVES = 14
N_LOOPS = 15
LOOPS = 16
HAS_CUTS = 17
N_PORTS = 18
PORTS = 19
N_SUCCESSORS = 20
SUCCESSORS = 21
MOVED_LOOP = 22  # of the last comparison: the loop that moved on, and by how many iterations (0: none)
MOVED_BY = 23
GROW_LOOP = 24  # the limited loop that gets longer with every period, and by how many iterations
GROW_BY = 25
SHIFT = 26  # how far its position is ahead of the period before
HELD = 27  # groups of channels that its transfers lie on, a bit each
NEST_WORDS = 28

# A loop level of a nest.
ODOMETER = 0
TRIPS = 1  # limits applied
FULL_TRIPS = 2
FLAG = 3  # weight in the leaf's index, 0 where the last tile is a full one
LOOP_NEST = 4
LIMITER = 5  # the loop whose iteration cuts this one, -1 if none does
LIMITER_TILE = 6
LIMITER_EXTENT = 7
LIMIT_OFFSET = 8
TILE = 9
IS_LIMITER = 10
LOOP_TURNS = 11  # times that it advanced since an outer loop did
NEXT_SAVE = 12
LAST_SAVE = 13
ROW = 14  # its saved state, -1 if none
SECOND_ROW = 15  # a later one, where a growing period is being followed
DUE = 16  # turn at which that period should close, 0 if none is followed
SKIPPED = 17
PERIOD_ITERATIONS = 18
PERIOD_CYCLES = 19
GOES_ON = 20  # bits in the leaf's index from the second iteration on: tiles that its leaves go on with
LOOP_WORDS = 21

# A port.
PORT_NEST = 0
PORT_BUFFER = 1
DEPTH = 2
IS_WRITE = 3
GIVEN = 4  # tiles that a reader has given back, those of earlier groups included
GROUP = 5  # list of the readers that see the same tiles; -1 for a writer
N_GROUP = 6
PORT_WORDS = 7

# A saved state: the clock, the groups of channels, then for every active nest its first words, its odometer and
# two counts per port.
ROW_NOW = 0
ROW_EPOCH = 1
ROW_LOGGED = 2
ROW_LOG_EPOCH = 3
ROW_GROUPS = 4
ROW_BODY = ROW_GROUPS + MAX_GROUPS * GROUP_WORDS


class ImageBuilder:
    """Appends records to an image and lets later ones fill in positions that were not known yet."""

    def __init__(self) -> None:
        self.words: list[int] = [0] * HEAD_WORDS

    def record(self, words: Sequence[int]) -> int:
        """Append a record, return its position."""
        position = len(self.words)
        self.words += words
        return position

    def reserve(self, n_words: int) -> int:
        return self.record([0] * n_words)

    def put(self, position: int, value: int) -> None:
        self.words[position] = value

    def image(self) -> IntArray:
        return np.array(self.words, dtype=np.int64)
