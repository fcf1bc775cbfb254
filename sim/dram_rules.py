"""What a DRAM command holds back, and which burst an address is: compiled."""

from typing import Any

import numpy as np

from tilewright.dataflow.kernel import kernel
from tilewright.sim import dram_state as at


@kernel
def apply_rules(m: Any, command: int, b: int, now: int) -> None:
    """Push the earliest instants of all commands that `command` at bank `b` delays."""
    for i in range(m[at.FIRST, command], m[at.FIRST, command + 1]):
        row = m[at.RULES, i]
        span = m[at.RULES + 1, i]
        ready = now + m[at.RULES + 2, i]
        if span == 1:
            m[row, b] = max(m[row, b], ready)
        elif span > 1:
            low = b & -span
            for other in range(low, low + span):
                m[row, other] = max(m[row, other], ready)
        elif span == at.CELL_OF_RANK:
            own = b >> m[at.FIXED, at.RANK_SHIFT]
            m[row, own] = max(m[row, own], ready)
        elif span <= at.CELL_OF_CHANNEL:
            column = at.CELL_OF_CHANNEL - span
            m[row, column] = max(m[row, column], ready)
        else:
            _push_others(m, row, span, b, ready)


@kernel
def _push_others(m: Any, row: int, span: int, b: int, ready: int) -> None:
    """Push banks of the other stack ids of the rank, or of the other ranks."""
    inner, outer = m[at.FIXED, at.BANKS_PER_STACK_ID], m[at.FIXED, at.BANKS_PER_RANK]
    if span == at.SPAN_RANKS:
        inner, outer = outer, m[at.FIXED, at.N_BANKS]
    low = b & -outer
    for other in range(low, low + outer):
        if other & -inner != b & -inner:
            m[row, other] = max(m[row, other], ready)


@kernel
def note_activate(m: Any, b: int, now: int) -> None:
    """Keep the last four ACT of the rank and hold back the fifth."""
    own = b >> m[at.FIXED, at.RANK_SHIFT]
    slot = m[at.RING_NEXT, own]
    m[at.RING + slot, own] = now
    slot = (slot + 1) & 3
    m[at.RING_NEXT, own] = slot
    ready = m[at.RING + slot, own] + m[at.FIXED, at.FOUR_ACTIVATE]
    size = m[at.FIXED, at.BANKS_PER_RANK]
    low = b & -size
    for other in range(low, low + size):
        m[at.READY, other] = max(m[at.READY, other], ready)


@kernel
def decode(
    address: Any,
    is_write: Any,
    offset_bits: int,
    slices: Any,
    xors: Any,
    widths: Any,
    channel: Any,
    table: Any,
) -> None:
    """Split addresses into channel (n,) and table (4, n): flat bank, row, burst number, is write.

    slices: (n, 3), field, bits, bits of the field that earlier slices have filled. xors: (n, 4), field, other
    field, its lowest bit, bits. widths: (7,) bits of channel, rank, stack id, bank group, bank, row, column.
    """
    fields = np.zeros((7, 2), dtype=np.int64)  # before and after the xors
    for i in range(address.size):
        rest = address[i] >> offset_bits
        for f in range(7):
            fields[f, 0] = 0
        for k in range(slices.shape[0]):
            bits = slices[k, 1]
            fields[slices[k, 0], 0] |= (rest & ((1 << bits) - 1)) << slices[k, 2]
            rest >>= bits
        for f in range(7):
            fields[f, 1] = fields[f, 0]
        for k in range(xors.shape[0]):
            fields[xors[k, 0], 1] ^= (fields[xors[k, 1], 0] >> xors[k, 2]) & ((1 << xors[k, 3]) - 1)
        bank = fields[1, 1]
        for f in range(2, 5):
            bank = (bank << widths[f]) | fields[f, 1]
        channel[i] = fields[0, 1]
        table[0, i] = bank
        table[1, i] = fields[5, 1]
        table[2, i] = (fields[5, 1] << widths[6]) | fields[6, 1]
        table[3, i] = is_write[i]
