"""Moving tiles between the memory port and scratchpads: one engine per direction, one port for both.

An engine holds its channel for `setup_cycles` from its start, then asks for the port. The port serves one tile after
another, first come first served, one beat per cycle; the memory answers every beat after its latency, in order.
The transfer is done with the last answer: setup + beats + latency cycles after it started, if the port was free.
"""

from collections.abc import Mapping

import pyrtl
from pyrtl import Register, WireVector

from tilewright.hls_templates.rtl.arbiter import first_come
from tilewright.hls_templates.rtl.array import Leaf
from tilewright.hls_templates.rtl.cell import Wires
from tilewright.hls_templates.rtl.wires import constant, counter_bits


def transfer_leaf(name: str, setup_cycles: int, address_bits: int, offset_bits: int) -> Leaf:
    """Inputs: `start` with the tile's `address` and `beats`, which stay; the port's `grant` and `answer`.

    `asks` says that a beat is at the port, `last` that it is the tile's last one. `issued` and `answered` count the
    beats of the tile.
    """
    inputs = {"start": 1, "address": address_bits, "beats": offset_bits, "grant": 1, "answer": 1}
    outputs = {
        "asks": 1, "last": 1, "beat_address": address_bits, "issued": offset_bits, "answered": offset_bits,
        "done": 1,
    }  # fmt: skip

    def build(wires: Mapping[str, WireVector]) -> Wires:
        return _transfer(setup_cycles, address_bits, offset_bits, wires)

    return Leaf(name, inputs, outputs, build)


def _transfer(
    setup_cycles: int, address_bits: int, offset_bits: int, wires: Mapping[str, WireVector]
) -> Wires:
    busy, issued, answered = Register(1), Register(offset_bits), Register(offset_bits)
    setup = Register(counter_bits(setup_cycles))
    zero = constant(0, offset_bits)
    asks = busy & (setup == 0) & (issued != wires["beats"])
    takes = asks & wires["grant"]
    last = (issued + 1)[:offset_bits] == wires["beats"]
    answered_on = (answered + 1)[:offset_bits]
    done = busy & wires["answer"] & (answered_on == wires["beats"])
    busy.next <<= (busy | wires["start"]) & ~done
    left = pyrtl.select(setup == 0, setup, (setup - 1)[: len(setup)])
    setup.next <<= pyrtl.select(wires["start"], constant(setup_cycles - 1, len(setup)), left)
    issued.next <<= pyrtl.select(done, zero, pyrtl.select(takes, (issued + 1)[:offset_bits], issued))
    answered.next <<= pyrtl.select(
        done, zero, pyrtl.select(busy & wires["answer"], answered_on, answered)
    )  # fmt: skip
    return {
        "asks": asks,
        "last": last,
        "beat_address": (wires["address"] + issued)[:address_bits],
        "issued": issued,
        "answered": answered,
        "done": done,
    }


def port_leaf(address_bits: int) -> Leaf:
    """The memory port between a loading and a storing engine; a tile is served without a break."""
    inputs = {
        "in_asks": 1, "in_last": 1, "in_address": address_bits, "out_asks": 1, "out_last": 1,
        "out_address": address_bits, "answer": 1, "answer_is_write": 1,
    }  # fmt: skip
    outputs = {
        "valid": 1, "is_write": 1, "address": address_bits, "in_grant": 1, "out_grant": 1, "in_answer": 1,
        "out_answer": 1,
    }  # fmt: skip
    return Leaf("memory_port", inputs, outputs, _port)


def _port(wires: Mapping[str, WireVector]) -> Wires:
    in_holds, out_holds = Register(1), Register(1)
    is_free = ~(in_holds | out_holds)
    # who holds the port does not ask for it again before its tile is through
    grants = first_come([wires["in_asks"] & ~in_holds, wires["out_asks"] & ~out_holds], is_free)
    serves_in, serves_out = grants[0] | in_holds, grants[1] | out_holds
    in_holds.next <<= serves_in & ~wires["in_last"]
    out_holds.next <<= serves_out & ~wires["out_last"]
    return {
        "valid": serves_in | serves_out,
        "is_write": serves_out,
        "address": pyrtl.select(serves_out, wires["out_address"], wires["in_address"]),
        "in_grant": serves_in,
        "out_grant": serves_out,
        "in_answer": wires["answer"] & ~wires["answer_is_write"],
        "out_answer": wires["answer"] & wires["answer_is_write"],
    }
