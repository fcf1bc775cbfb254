"""Scratchpads: tiles in slots, filled a beat at a time over all banks, read a word at a time from one of them.

A beat of the memory port holds one word of each bank, so a tile lies in the banks in the order in which it comes.
Word w of a tile is in bank w modulo the number of banks. The slots of a buffer (two for double buffering) begin at
powers of two: an address is the slot's number before the place in the tile, without an addition.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyrtl
from pyrtl import MemBlock, WireVector

from tilewright.hls_templates.rtl.array import Leaf
from tilewright.hls_templates.rtl.cell import Wires
from tilewright.hls_templates.rtl.wires import constant, counter_bits


@dataclass(frozen=True, slots=True)
class Reader:
    """A way to read: `role` names the offset and the data, `nests` those that may read so, each from its slot."""

    role: str
    nests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scratchpad:
    """`copies` slots of `slot_beats` beats; a beat is `banks` words of `word_bits`."""

    name: str
    copies: int
    slot_beats: int
    banks: int
    word_bits: int
    readers: tuple[Reader, ...]

    @property
    def slot_bits(self) -> int:
        return counter_bits(self.copies - 1)

    @property
    def bank_bits(self) -> int:
        """Bits that pick a bank; 0 of a single one. Banks are a power of two."""
        return self.banks.bit_length() - 1

    @property
    def row_bits(self) -> int:
        return counter_bits(self.slot_beats - 1)


def scratchpad_leaf(pad: Scratchpad, offset_bits: int) -> Leaf:
    """Inputs: `write`, `fills`, its slot, offset in beats and data; per reader the offset in words, per nest `on`.

    It is written when both `write` and `fills` are 1: data came, and for this scratchpad.
    """
    inputs = {
        "write": 1, "fills": 1, "write_slot": pad.slot_bits, "write_offset": offset_bits,
        "write_data": pad.banks * pad.word_bits,
    }  # fmt: skip
    for reader in pad.readers:
        inputs[f"{reader.role}_offset"] = offset_bits
        for nest in reader.nests:
            inputs |= {f"{reader.role}_{nest}_on": 1, f"{reader.role}_{nest}_slot": pad.slot_bits}
    outputs = {f"{reader.role}_data": pad.word_bits for reader in pad.readers}
    return Leaf(f"pad_{pad.name}", inputs, outputs, lambda wires: _build(pad, wires))


def _build(pad: Scratchpad, wires: Mapping[str, WireVector]) -> Wires:
    memories = [
        MemBlock(
            pad.word_bits, pad.slot_bits + pad.row_bits, name=f"{pad.name}_bank{bank}", asynchronous=True,
            max_read_ports=None, max_write_ports=1,
        )
        for bank in range(pad.banks)
    ]  # fmt: skip
    row = wires["write_offset"][: pad.row_bits]
    address = pyrtl.concat(wires["write_slot"], row)
    enable = wires["write"] & wires["fills"]
    for bank, memory in enumerate(memories):
        word = wires["write_data"][bank * pad.word_bits : (bank + 1) * pad.word_bits]
        memory[address] <<= MemBlock.EnabledWrite(word, enable)
    return {f"{reader.role}_data": _read(pad, memories, reader, wires) for reader in pad.readers}


def _read(
    pad: Scratchpad, memories: Sequence[MemBlock], reader: Reader, wires: Mapping[str, WireVector]
) -> WireVector:
    slot = selected(
        [wires[f"{reader.role}_{nest}_on"] for nest in reader.nests],
        [wires[f"{reader.role}_{nest}_slot"] for nest in reader.nests],
    )
    offset = wires[f"{reader.role}_offset"]
    address = pyrtl.concat(slot, offset[pad.bank_bits : pad.bank_bits + pad.row_bits])
    words = [memory[address] for memory in memories]
    return pyrtl.mux(offset[: pad.bank_bits], *words) if pad.bank_bits else words[0]


def selected(conditions: Sequence[WireVector], values: Sequence[WireVector]) -> WireVector:
    """The value whose condition is 1, of conditions of which at most one is; zero without."""
    zero = constant(0, len(values[0]))
    found: WireVector = zero
    for condition, value in zip(conditions, values, strict=True):
        found = found | pyrtl.select(condition, value, zero)
    return found
