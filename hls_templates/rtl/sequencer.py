"""The sequencer: nests of a program as counters, buffers as counts of tiles, units granted first come first served.

Every nest has a counter per loop. Its next leaf may run when each tile that it reads is there and each tile that it
writes has a free copy; it then asks for its unit. When the unit says `done` the counters go on, and a port whose
inner loops all stood at their end hands its tile on. All of that takes no cycle: a leaf can start in the cycle
after the one in which its last condition came true, so the cycles of a program are those of its leaves.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyrtl
from pyrtl import Register, WireVector

from tilewright.dataflow.program import Compute, Loop, Nest, Port, Transfer
from tilewright.hls_templates.rtl.arbiter import first_come
from tilewright.hls_templates.rtl.array import Leaf
from tilewright.hls_templates.rtl.cell import Wires
from tilewright.hls_templates.rtl.scratchpad import selected
from tilewright.hls_templates.rtl.sequence import Sequence, divides, shapes, tile_beats, unit_of
from tilewright.hls_templates.rtl.wires import constant, counter_bits


@dataclass
class _NestWires:
    """A nest in hardware: counters by rank, whether each stands in its last tile, and its state."""

    nest: Nest
    counters: dict[str, Register]
    last: dict[str, WireVector]
    finished: Register
    runs: Register
    ends: WireVector  # its leaf ends in this cycle
    conditions: list[WireVector] = field(default_factory=list)
    on: WireVector | None = None
    slots: dict[str, Register] = field(default_factory=dict)

    def at_last(self, loops: tuple[Loop, ...]) -> WireVector:
        """Whether all of `loops` stand in their last tile."""
        found: WireVector = constant(1, 1)
        for loop in loops:
            found = found & self.last[loop.rank]
        return found


def sequencer_leaf(sequence: Sequence) -> Leaf:
    """Inputs: `start` and the units' `done`. Outputs: starts, sizes, tile addresses, who is on, slots, `done`."""
    outputs = {"done": 1, "one": 1, "batch": sequence.grid.size_bits, "run_words": sequence.offset_bits}
    outputs |= {f"{unit}_start": 1 for unit in sequence.units}
    outputs |= dict.fromkeys(("m", "n", "k"), sequence.grid.size_bits)
    if "vector" in sequence.units:
        outputs |= {"vector_n": sequence.grid.size_bits, "vector_k": sequence.grid.size_bits}
        outputs |= {"vector_run_words": sequence.offset_bits}
        outputs |= dict.fromkeys(("vector_begins", "vector_ends", "vector_divides"), 1)
    for unit in ("dma_in", "dma_out"):
        outputs |= {f"{unit}_address": sequence.address_bits, f"{unit}_beats": sequence.offset_bits}
    for nest in sequence.nests:
        outputs[f"{nest.name}_on"] = 1
        if unit_of(nest) == "array":
            outputs |= {f"{nest.name}_own": 1, f"{nest.name}_base": 1}
        for port in (*nest.reads, *nest.writes):
            outputs[f"{nest.name}_{port.buffer}_slot"] = _copies_bits(sequence, port)
    inputs = {"start": 1} | {f"{unit}_done": 1 for unit in sequence.units}
    return Leaf("sequencer", inputs, outputs, lambda wires: _build(sequence, wires))


def _copies_bits(sequence: Sequence, port: Port) -> int:
    return counter_bits(sequence.program.buffer_by_name[port.buffer].copies - 1)


def _build(sequence: Sequence, wires: Mapping[str, WireVector]) -> Wires:
    running, done = Register(1), WireVector(1)
    active = running | wires["start"]
    running.next <<= active & ~done
    nests = {nest.name: _nest(nest, wires[f"{unit_of(nest)}_done"]) for nest in sequence.nests}
    for buffer in sequence.program.buffers:
        _tokens(sequence, nests, buffer.name, buffer.copies)
    all_done = active
    for one in nests.values():
        finishes = one.ends & one.at_last(one.nest.loops)
        all_done = all_done & (one.finished | finishes)
        one.finished.next <<= (one.finished | finishes) & ~done
        _advance(one)
        one.conditions += [nests[name].finished for name in one.nest.after]
    done <<= all_done
    found: Wires = {"done": done, "one": constant(1, 1), "batch": constant(1, sequence.grid.size_bits)}
    for unit in sequence.units:
        own = [one for one in nests.values() if unit_of(one.nest) == unit]
        found[f"{unit}_start"] = _grant(own, active, wires[f"{unit}_done"])
        if unit == "array":
            found |= _products(sequence, own)
        elif unit == "vector":
            found |= _vectors(sequence, own)
        else:
            found |= _tiles(sequence, unit, own)
    for name, one in nests.items():
        assert one.on is not None
        found[f"{name}_on"] = one.on
        found |= {f"{name}_{buffer}_slot": slot for buffer, slot in one.slots.items()}
    return found


def _nest(nest: Nest, unit_done: WireVector) -> _NestWires:
    counters = {loop.rank: Register(counter_bits(loop.trips - 1)) for loop in nest.loops}
    last = {loop.rank: counters[loop.rank] == loop.trips - 1 for loop in nest.loops}
    runs = Register(1)
    return _NestWires(nest, counters, last, Register(1), runs, runs & unit_done)


def _advance(one: _NestWires) -> None:
    """The innermost loop counts leaves, each other one counts when those inside it begin anew."""
    for position, loop in enumerate(one.nest.loops):
        counter = one.counters[loop.rank]
        turns = one.ends & one.at_last(one.nest.loops[position + 1 :])
        zero = constant(0, len(counter))
        following = pyrtl.select(one.last[loop.rank], zero, (counter + 1)[: len(counter)])
        counter.next <<= pyrtl.select(turns, following, counter)


def _tokens(sequence: Sequence, nests: Mapping[str, _NestWires], buffer: str, copies: int) -> None:
    """Tiles of a buffer: written and not yet given back, for each of its readers."""
    writer = nests[sequence.writer[buffer].name]
    written = _hands_on(sequence, writer, buffer, copies)
    for nest in sequence.readers[buffer]:
        reader = nests[nest.name]
        given_back = _hands_on(sequence, reader, buffer, copies)
        there = Register(counter_bits(copies))
        grown = (there + written)[: len(there)]
        there.next <<= (grown - given_back)[: len(there)]
        reader.conditions.append(there != 0)
        writer.conditions.append(there != copies)


def _hands_on(sequence: Sequence, one: _NestWires, buffer: str, copies: int) -> WireVector:
    """Whether the nest hands on its tile of `buffer` now; its next one is in the next slot."""
    port = next(port for port in (*one.nest.reads, *one.nest.writes) if port.buffer == buffer)
    hands_on = one.ends & one.at_last(one.nest.loops[port.depth :])
    slot = Register(_copies_bits(sequence, port))
    following = pyrtl.select(slot == copies - 1, constant(0, len(slot)), (slot + 1)[: len(slot)])
    slot.next <<= pyrtl.select(hands_on, following, slot)
    one.slots[buffer] = slot
    return hands_on


def _grant(nests: list[_NestWires], active: WireVector, unit_done: WireVector) -> WireVector:
    """Whether a leaf starts on the unit now; sets who is on."""
    busy = Register(1)
    requests = []
    for one in nests:
        request = active & ~one.finished & ~one.runs
        for condition in one.conditions:
            request = request & condition
        requests.append(request)
    grants = first_come(requests, ~busy)
    starts: WireVector = constant(0, 1)
    for one, grant in zip(nests, grants, strict=True):
        one.runs.next <<= (one.runs | grant) & ~unit_done
        one.on = one.runs | grant
        starts = starts | grant
    busy.next <<= (busy | starts) & ~unit_done
    return starts


def _shaped(one: _NestWires, values: list[tuple[tuple[bool, ...], int]], bits: int) -> WireVector:
    """The value of the combination of last tiles in which the nest stands."""
    ragged = [one.last[loop.rank] for loop in one.nest.loops if loop.remainder != loop.tile]
    found: WireVector = constant(values[0][1], bits)
    for flags, value in values[1:]:
        # later combinations have more loops in their last tile, so they replace what fits too
        applies: WireVector = constant(1, 1)
        for flag, last in zip(flags, ragged, strict=True):
            applies = applies & last if flag else applies
        found = pyrtl.select(applies, constant(value, bits), found)
    return found


def _products(sequence: Sequence, nests: list[_NestWires]) -> Wires:
    """Sizes of the product that is on, the length of a run of turned sums, and whose tile it goes on with."""
    bits = sequence.grid.size_bits
    ons = [one.on for one in nests if one.on is not None]
    found: Wires = {}
    for name in ("m", "n", "k"):
        own = []
        for one in nests:
            leaf = one.nest.leaf
            assert isinstance(leaf, Compute)
            (rank,) = {"m": leaf.m_ranks, "n": leaf.n_ranks, "k": leaf.k_ranks}[name]
            own.append(_shaped(one, [(flags, sizes[rank]) for flags, sizes in shapes(one.nest)], bits))
        found[name] = selected(ons, own)
    found["run_words"] = selected(
        ons, [constant(_run_words(one.nest), sequence.offset_bits) for one in nests]
    )  # fmt: skip
    for one in nests:
        leaf = one.nest.leaf
        assert isinstance(leaf, Compute)
        assert one.on is not None
        begins: WireVector = constant(1, 1)
        for loop in one.nest.loops:
            if loop.rank in leaf.k_ranks:
                begins = begins & (one.counters[loop.rank] == 0)
        found[f"{one.nest.name}_own"] = one.on & ~begins
        found[f"{one.nest.name}_base"] = one.on & begins & constant(len(one.nest.reads) == 3, 1)
    return found


def _vectors(sequence: Sequence, nests: list[_NestWires]) -> Wires:
    """Rows and columns of the vector leaf that is on, and whether its tile is the first or last of its columns."""
    ons = [one.on for one in nests if one.on is not None]
    sizes, runs, begins, ends = [], [], [], []
    for one in nests:
        assert isinstance(one.nest.leaf, Compute)
        rows, columns = (rank for rank, _ in one.nest.leaf.tile)
        found = [(flags, shape) for flags, shape in shapes(one.nest)]
        sizes.append([
            _shaped(one, [(flags, shape[rank]) for flags, shape in found], sequence.grid.size_bits)
            for rank in (columns, rows)
        ])  # fmt: skip
        runs.append(constant(dict(one.nest.leaf.tile)[rows], sequence.offset_bits))
        loops = tuple(loop for loop in one.nest.loops if loop.rank == rows)
        first: WireVector = constant(1, 1)
        for loop in loops:
            first = first & (one.counters[loop.rank] == 0)
        begins.append(first)
        ends.append(one.at_last(loops))
    return {
        "vector_n": selected(ons, [columns for columns, _ in sizes]),
        "vector_k": selected(ons, [rows for _, rows in sizes]),
        "vector_run_words": selected(ons, runs),
        "vector_begins": selected(ons, begins),
        "vector_ends": selected(ons, ends),
        "vector_divides": selected(ons, [constant(divides(one.nest), 1) for one in nests]),
    }


def _run_words(nest: Nest) -> int:
    """Words of a run of columns in a turned tile: its rows, which the product that reads it sums over."""
    leaf = nest.leaf
    assert isinstance(leaf, Compute)
    return dict(leaf.tile)[leaf.m_ranks[0]]


def _tiles(sequence: Sequence, unit: str, nests: list[_NestWires]) -> Wires:
    """Address and beats of the tile that the engine moves."""
    ons = [one.on for one in nests if one.on is not None]
    addresses, beats = [], []
    for one in nests:
        addresses.append(_tile_address(sequence, one))
        found = [(flags, tile_beats(sequence, one.nest, sizes)) for flags, sizes in shapes(one.nest)]
        beats.append(_shaped(one, found, sequence.offset_bits))
    return {f"{unit}_address": selected(ons, addresses), f"{unit}_beats": selected(ons, beats)}


def _tile_address(sequence: Sequence, one: _NestWires) -> WireVector:
    """The tensor's base plus, for every loop, its strides so far: a register each, which goes with its counter."""
    bits = sequence.address_bits
    assert isinstance(one.nest.leaf, Transfer)
    total: WireVector = constant(sequence.bases[one.nest.leaf.tensor], bits)
    strides = sequence.strides(one.nest)
    for position, loop in enumerate(one.nest.loops):
        if not strides[loop.rank] or loop.trips == 1:
            continue
        part = Register(bits)
        turns = one.ends & one.at_last(one.nest.loops[position + 1 :])
        further = (part + strides[loop.rank])[:bits]
        following = pyrtl.select(one.last[loop.rank], constant(0, bits), further)
        part.next <<= pyrtl.select(turns, following, part)
        total = (total + part)[:bits]
    return total
