"""Small pieces of PyRTL that every block of an array is made of: enabled registers, delays, fields, signs.

All PyRTL operators are unsigned and silently cut what is too wide; these helpers keep widths exact and signs
explicit. `advance` is the array's one clock enable: a register of the array keeps its value while it is 0.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyrtl
from pyrtl import Const, Register, WireVector

from tilewright.dataflow.errors import InputError


@contextmanager
def fresh_block() -> Iterator[pyrtl.Block]:
    """A new working block for what is built inside; the one from before is the working block again after."""
    before = pyrtl.working_block()
    block = pyrtl.Block()
    pyrtl.set_working_block(block, no_sanity_check=True)
    try:
        yield block
    finally:
        pyrtl.set_working_block(before, no_sanity_check=True)


def held(value: WireVector, advance: WireVector) -> Register:
    """A register that takes `value` in every cycle in which the array advances."""
    register = Register(len(value))
    register.next <<= pyrtl.select(advance, value, register)
    return register


def feedback(register: Register, value: WireVector, advance: WireVector) -> None:
    """Drive `register`, made before because `value` depends on it, while the array advances."""
    if len(value) != len(register):
        raise InputError(f"register of {len(register)} bits is driven by {len(value)} bits")
    register.next <<= pyrtl.select(advance, value, register)


def delayed(value: WireVector, n_steps: int, advance: WireVector) -> WireVector:
    """`value` as it was `n_steps` steps of the array ago."""
    for _ in range(n_steps):
        value = held(value, advance)
    return value


def fields(word: WireVector, bits: int) -> list[WireVector]:
    """The elements of a packed word, the lowest first."""
    return [word[start : start + bits] for start in range(0, len(word), bits)]


def packed(elements: Sequence[WireVector]) -> WireVector:
    """One word of all elements, the first in the lowest bits."""
    return pyrtl.concat_list(list(elements)) if len(elements) > 1 else elements[0]


def sign_extended(value: WireVector, bits: int) -> WireVector:
    """`value`, a two's complement number, in exactly `bits` bits, which must not be fewer than it has."""
    if bits < len(value):
        raise InputError(f"{len(value)} bits do not fit into {bits}")
    return value if bits == len(value) else value.sign_extended(bits)


def wrapped_sum(left: WireVector, right: WireVector) -> WireVector:
    """The sum of two numbers of equal width, in that width."""
    bits = max(len(left), len(right))
    return (left + right)[:bits]


def constant(value: int, bits: int) -> Const:
    """A constant of exactly `bits` bits; a negative one in two's complement."""
    return Const(value & ((1 << bits) - 1), bitwidth=bits)


def counter_bits(largest: int) -> int:
    """Bits of a counter that reaches `largest`."""
    return max(1, largest.bit_length())
