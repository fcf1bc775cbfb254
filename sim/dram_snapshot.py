"""The state of a channel relative to its clock and to a row: compiled."""

from typing import Any

import numpy as np

from tilewright.dataflow.kernel import kernel
from tilewright.sim import dram_state as at


@kernel
def _later(instant: int, now: int) -> int:
    """Ticks to go, 0 for what is past and cannot matter any more, -1 for what waits for something else."""
    return -1 if instant >= at.NEVER else max(instant - now, 0)


@kernel
def _row(row: int, first_row: int, shift: int, n_rows: int) -> int:
    return (row - first_row - shift) % n_rows if row >= 0 else -1


@kernel
def _collect(m: Any, i: int, nodes: Any, n: int) -> int:
    """Note the requests of one list from `i` on; how many there are now."""
    while i >= 0:
        nodes[n] = i
        n += 1
        i = m[at.NEXT, i]
    return n


@kernel
def _ages(m: Any) -> Any:
    """(2, n_nodes): place of each waiting request in the order of arrival, and what its arrival matters by.

    For a read that is how long ago it was, for its latency; for a write only which others came with it.
    """
    nodes = np.empty(m[at.FIXED, at.N_NODES], dtype=np.int64)
    n = 0
    for b in range(m[at.FIXED, at.N_BANKS]):
        for row in (at.HEAD, at.HEAD + 1, at.COMMAND_HEAD):
            n = _collect(m, m[row, b], nodes, n)
        if m[at.ACTIVE, b] >= 0:
            nodes[n] = m[at.ACTIVE, b]
            n += 1
    ages = np.zeros((2, nodes.size), dtype=np.int64)
    sequence = np.empty(n, dtype=np.int64)
    for k in range(n):
        sequence[k] = m[at.SEQ, nodes[k]]
    order = np.argsort(sequence)
    arrival, last = 0, -1
    for k in range(n):
        i = nodes[order[k]]
        if m[at.ARRIVED, i] != last:
            last = m[at.ARRIVED, i]
            arrival += 1
        ages[0, i] = k
        ages[1, i] = last - m[at.SCALAR, at.CLOCK] if m[at.KIND, i] == 0 else arrival
    return ages


@kernel
def _put_list(
    m: Any, ages: Any, i: int, first_row: int, shift: int, n_rows: int, column_bits: int, out: Any, k: int
) -> int:
    """Write the requests of one list from `i` on; the place after them."""
    now = m[at.SCALAR, at.CLOCK]
    mask = (1 << column_bits) - 1
    while i >= 0:
        out[k] = _row(m[at.ROW, i], first_row, shift, n_rows)
        out[k + 1] = m[at.TAG, i] & mask
        out[k + 2] = ages[1, i]
        out[k + 3] = ages[0, i]
        out[k + 4] = m[at.KIND, i] * 2 + max(m[at.SEEN, i], 0)
        out[k + 5] = max(m[at.MERGED, i], 0)
        out[k + 6] = m[at.MERGED_SUM, i] - m[at.MERGED, i] * now if m[at.MERGED, i] > 0 else 0
        k += 7
        i = m[at.NEXT, i]
    out[k] = -2
    return k + 1


@kernel
def _put_bank(
    m: Any, ages: Any, b: int, first_row: int, shift: int, n_rows: int, column_bits: int, out: Any, k: int
) -> int:
    """Write bank `b`: its instants, its row, its queues."""
    now = m[at.SCALAR, at.CLOCK]
    for command in range(4):
        out[k + command] = _later(m[at.READY + command, b], now)
    out[k + 4] = _row(m[at.OPEN_ROW, b], first_row, shift, n_rows)
    cap = m[at.FIXED, at.COLUMN_CAP]
    out[k + 5] = min(m[at.COLUMNS, b], max(cap, 1)) * 2 + m[at.CLOSING, b]
    out[k + 6] = _later(m[at.LAST_USE, b] + m[at.FIXED, at.TIMEOUT], now) if m[at.OPEN_ROW, b] >= 0 else 0
    out[k + 7] = _later(m[at.READY_REFB, b], now)
    k += 8
    active = m[at.ACTIVE, b]
    if active >= 0:
        out[k] = _row(m[at.ROW, active], first_row, shift, n_rows)
        out[k + 1] = ages[1, active]
        out[k + 2] = m[at.KIND, active]
        k += 3
    out[k] = -3
    k += 1
    for row in (at.HEAD, at.HEAD + 1, at.COMMAND_HEAD):
        k = _put_list(m, ages, m[row, b], first_row, shift, n_rows, column_bits, out, k)
    return k


@kernel
def snapshot(m: Any, first_row: int, shift: int, n_rows: int, column_bits: int, out: Any) -> int:
    """Write the state into `out`, rows relative to `first_row` + `shift` modulo `n_rows`; the length."""
    now = m[at.SCALAR, at.CLOCK]
    k = 0
    ages = _ages(m)
    for b in range(m[at.FIXED, at.N_BANKS]):
        k = _put_bank(m, ages, b, first_row, shift, n_rows, column_bits, out, k)
    for r in range(m[at.FIXED, at.N_RANKS]):
        out[k] = _later(m[at.READY_PREA, r], now)
        out[k + 1] = _later(m[at.READY_REF, r], now)
        for j in range(4):
            slot = (m[at.RING_NEXT, r] + j) & 3
            out[k + 2 + j] = _later(m[at.RING + slot, r] + m[at.FIXED, at.FOUR_ACTIVATE], now)
        out[k + 6] = m[at.N_DUE_SETS, r]
        out[k + 7] = m[at.DUE_SET, r]
        k += 8
    for command in range(9):
        out[k + command] = _later(m[at.CHANNEL_READY, command], now)
    k += 9
    for j in range(m[at.SCALAR, at.N_ACTIVE]):
        out[k + j] = m[at.ACTIVE_LIST, j]
    k += m[at.SCALAR, at.N_ACTIVE]
    for j in range(m[at.SCALAR, at.N_PENDING]):
        out[k + j] = m[at.PENDING, (m[at.SCALAR, at.PENDING_HEAD] + j) % m.shape[1]]
    k += m[at.SCALAR, at.N_PENDING]
    for column in (
        at.WRITE_MODE, at.N_ACTIVE, at.N_PENDING, at.N_READS, at.N_WRITES, at.LAST_QUEUE, at.DRAIN_LEFT,
        at.N_COMMANDS, at.NEXT_RANK, at.ACTIVATING, at.CAS_BANK, at.CAS_KIND,
    ):  # fmt: skip
        out[k] = m[at.SCALAR, column]
        k += 1
    out[k] = _later(m[at.SCALAR, at.NEXT_REFRESH], now)
    out[k + 1] = _later(m[at.SCALAR, at.CLOCK_EXPIRY], now)
    out[k + 2] = _later(m[at.SCALAR, at.DEADLINE], now)
    out[k + 3] = _later(m[at.SCALAR, at.PAIR_TICK], now)
    out[k + 4] = m[at.SCALAR, at.PAIR_BANK] * 2 + m[at.SCALAR, at.PAIR_ALL] if out[k + 3] > 0 else 0
    out[k + 5] = now % m[at.FIXED, at.TICKS]
    out[k + 6] = _later(m[at.SCALAR, at.NEXT_OFFER], now) if m[at.FIXED, at.LOAD] == at.SINGLE else 0
    return int(k + 7)
