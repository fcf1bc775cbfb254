"""Scratchpads and the arbiter by themselves, against a list of tiles and a queue."""

import numpy as np
import pyrtl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.hls_templates.rtl import scratchpad
from tilewright.hls_templates.rtl.arbiter import first_come
from tilewright.hls_templates.rtl.scratchpad import Reader, Scratchpad, scratchpad_leaf
from tilewright.hls_templates.rtl.wires import fresh_block

PAD = Scratchpad(
    "x", copies=2, slot_beats=3, banks=4, word_bits=8, readers=(Reader("north", ("gemm", "down")),)
)


def pad_simulation() -> pyrtl.FastSimulation:
    with fresh_block() as block:
        leaf = scratchpad_leaf(PAD, 5)
        for name, wire in leaf.build(
            {name: pyrtl.Input(bits, name) for name, bits in leaf.inputs.items()}
        ).items():
            output = pyrtl.Output(leaf.outputs[name], name)
            output <<= wire
        return pyrtl.FastSimulation(tracer=None, block=block)


def read_back(simulation: pyrtl.FastSimulation) -> tuple[list[list[int]], list[list[int]]]:
    """(tiles written to both slots, what each of the two readers finds in its slot)."""
    tiles = np.random.default_rng(4).integers(0, 256, (2, 12)).tolist()
    rest = dict.fromkeys(scratchpad_leaf(PAD, 5).inputs, 0)
    for slot, tile in enumerate(tiles):
        for beat in range(3):
            word = sum(value << (8 * bank) for bank, value in enumerate(tile[4 * beat : 4 * beat + 4]))
            write = {"write": 1, "fills": 1, "write_slot": slot, "write_offset": beat, "write_data": word}
            simulation.step(rest | write)
    # data that are not for this scratchpad change nothing
    simulation.step(rest | {"write": 1, "fills": 0, "write_data": 0xFFFFFFFF})
    found: list[list[int]] = [[], []]
    for slot, nest in enumerate(("gemm", "down")):
        for offset in range(12):
            simulation.step(
                rest | {"north_offset": offset, f"north_{nest}_on": 1, f"north_{nest}_slot": slot}
            )
            found[slot].append(simulation.inspect("north_data"))
    return tiles, found


def test_words_come_back_in_the_order_in_which_beats_went_in() -> None:
    tiles, found = read_back(pad_simulation())
    assert found == tiles


def test_a_slot_that_is_not_the_readers_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = scratchpad.selected
    monkeypatch.setattr(scratchpad, "selected", lambda conditions, values: real(conditions[:1], values[:1]))
    tiles, found = read_back(pad_simulation())
    assert found != tiles


@given(st.lists(st.tuples(*(st.booleans() for _ in range(4)), st.booleans()), max_size=60))
@settings(max_examples=40, deadline=None)
def test_who_asks_first_is_served_first(cycles: list[tuple[bool, ...]]) -> None:
    with fresh_block() as block:
        requests = [pyrtl.Input(1, f"r{i}") for i in range(4)]
        for i, grant in enumerate(first_come(requests, pyrtl.Input(1, "free"))):
            output = pyrtl.Output(1, f"g{i}")
            output <<= grant
        simulation = pyrtl.FastSimulation(tracer=None, block=block)
    queue: list[int] = []
    for *asks, is_free in cycles:
        queue += [i for i, ask in enumerate(asks) if ask and i not in queue]
        simulation.step({f"r{i}": int(i in queue) for i in range(4)} | {"free": int(is_free)})
        granted = [i for i in range(4) if simulation.inspect(f"g{i}")]
        assert granted == ([queue.pop(0)] if queue and is_free else [])
