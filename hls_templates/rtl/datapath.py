"""A sequenced accelerator as a netlist: sequencer, engines, port, scratchpads, address generators, array, sums."""

from collections.abc import Mapping

import pyrtl
from pyrtl import WireVector

from tilewright.hls_templates.rtl.address import address_leaf
from tilewright.hls_templates.rtl.array import Leaf, array_inputs, array_outputs, build_array
from tilewright.hls_templates.rtl.cell import Wires
from tilewright.hls_templates.rtl.control import Grid
from tilewright.hls_templates.rtl.netlist import Instance, Netlist
from tilewright.hls_templates.rtl.scratchpad import Scratchpad, scratchpad_leaf, selected
from tilewright.hls_templates.rtl.sequence import Sequence
from tilewright.hls_templates.rtl.sequencer import sequencer_leaf
from tilewright.hls_templates.rtl.transfer import port_leaf, transfer_leaf
from tilewright.hls_templates.rtl.wires import constant, fields, packed, sign_extended, wrapped_sum


def accelerator(sequence: Sequence) -> Netlist:
    """The netlist of a sequence.

    Inputs: `start`, and the memory's answers: `answer`, `answer_is_write`, `answer_data`. Outputs: `done`, and a
    beat at the port: `valid`, `is_write`, `address`, `data`.
    """
    bits, address_bits, beat_bits = sequence.offset_bits, sequence.address_bits, sequence.beat_bits
    inputs = {"start": 1, "answer": 1, "answer_is_write": 1, "answer_data": beat_bits}
    store = store_leaf(sequence)
    instances = [
        Instance("sequencer", sequencer_leaf(sequence), _nets(
            start="start", array_done="array__done", dma_in_done="dma_in__done", dma_out_done="dma_out__done",
        )),
        *(
            Instance(name, transfer_leaf(name, sequence.setup_cycles, address_bits, bits), _nets(
                start=f"sequencer__{name}_start", address=f"sequencer__{name}_address",
                beats=f"sequencer__{name}_beats", grant=f"port__{way}_grant", answer=f"port__{way}_answer",
            ))
            for name, way in (("dma_in", "in"), ("dma_out", "out"))
        ),
        Instance("port", port_leaf(address_bits), _nets(
            in_asks="dma_in__asks", in_last="dma_in__last", in_address="dma_in__beat_address",
            out_asks="dma_out__asks", out_last="dma_out__last", out_address="dma_out__beat_address",
            answer="answer", answer_is_write="answer_is_write",
        )),
        Instance("addresses", address_leaf(sequence.grid, bits), _nets(
            n="sequencer__n", k="sequencer__k", run_words="sequencer__run_words", beat="array__west_ready",
            row_valid="array__south_valid", row="array__south_row", done="array__done",
        )),
        Instance("array", array_leaf(sequence.grid), _nets(
            start="sequencer__array_start", m="sequencer__m", n="sequencer__n", k="sequencer__k",
            batch="sequencer__batch", west_valid="sequencer__one", west_data="operands__west",
            north_valid="sequencer__one", north_data="operands__north", south_ready="sequencer__one",
        )),
        Instance("operands", operand_leaf(sequence), _matching(sequence, ("west", "north"))),
        Instance("sums", sum_leaf(sequence), (("row", "array__south_data"), *_matching(sequence, ("base", "own")))),
        Instance("store", store, _matching(sequence, ("store",))),
        *(_pad_instance(sequence, pad) for pad in sequence.scratchpads),
    ]  # fmt: skip
    outputs = {
        "done": "sequencer__done", "valid": "port__valid", "is_write": "port__is_write",
        "address": "port__address", "data": "store__beat",
    }  # fmt: skip
    return Netlist("accelerator", inputs, outputs, tuple(instances))


def _nets(**nets: str) -> tuple[tuple[str, str], ...]:
    return tuple(nets.items())


def array_leaf(grid: Grid) -> Leaf:
    return Leaf("array_top", array_inputs(grid), array_outputs(grid), lambda wires: build_array(grid, wires))


def _pad_instance(sequence: Sequence, pad: Scratchpad) -> Instance:
    writer = sequence.writer[pad.name].name
    nets = {"fills": f"sequencer__{writer}_on", "write_slot": f"sequencer__{writer}_{pad.name}_slot"}
    place = "turned" if sequence.is_turned(pad.name) else "folded"
    if sequence.holds_sums(pad.name):
        nets |= {
            "write": "array__south_valid", "write_offset": f"addresses__{place}", "write_data": "sums__total",
        }  # fmt: skip
    else:
        nets |= {
            "write": "port__in_answer", "write_offset": "dma_in__answered", "write_data": "answer_data",
        }  # fmt: skip
    offsets = {
        "west": "addresses__west", "north": "addresses__north", "base": "addresses__folded",
        "own": f"addresses__{place}", "store": "dma_out__issued",
    }  # fmt: skip
    for reader in pad.readers:
        nets[f"{reader.role}_offset"] = offsets[reader.role]
        for nest in reader.nests:
            nets[f"{reader.role}_{nest}_on"] = f"sequencer__{nest}_on"
            nets[f"{reader.role}_{nest}_slot"] = f"sequencer__{nest}_{pad.name}_slot"
    return Instance(f"pad_{pad.name}", scratchpad_leaf(pad, sequence.offset_bits), tuple(nets.items()))


def _sources(sequence: Sequence, role: str) -> list[tuple[Scratchpad, tuple[str, ...]]]:
    """The scratchpads that are read in this role, and the nests that do."""
    return [
        (pad, reader.nests) for pad in sequence.scratchpads for reader in pad.readers if reader.role == role
    ]


def _matching(sequence: Sequence, roles: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Nets of a block that picks data by who is on."""
    nets: dict[str, str] = {}
    for role in roles:
        for pad, nests in _sources(sequence, role):
            nets[f"{pad.name}_{role}"] = f"pad_{pad.name}__{role}_data"
            for nest in nests:
                flag = role if role in ("base", "own") else "on"
                nets[f"{nest}_{flag}"] = f"sequencer__{nest}_{flag}"
    return tuple(nets.items())


def _inputs(sequence: Sequence, roles: tuple[str, ...]) -> dict[str, int]:
    """Widths of what `_matching` connects."""
    found: dict[str, int] = {}
    for role in roles:
        for pad, nests in _sources(sequence, role):
            found[f"{pad.name}_{role}"] = pad.word_bits
            found |= dict.fromkeys(
                (f"{nest}_{role if role in ('base', 'own') else 'on'}" for nest in nests), 1
            )
    return found


def operand_leaf(sequence: Sequence) -> Leaf:
    """The words of the west and the north that the array takes now; sums are rounded to the operand's bits."""
    grid = sequence.grid

    def build(wires: Mapping[str, WireVector]) -> Wires:
        found: Wires = {}
        for role, bits in (
            ("west", grid.rows * grid.kind.west_bits),
            ("north", grid.cols * grid.kind.north_bits),
        ):
            conditions, values = [], []
            for pad, nests in _sources(sequence, role):
                word = wires[f"{pad.name}_{role}"]
                if sequence.holds_sums(pad.name):
                    word = _requantised(sequence, word)
                for nest in nests:
                    conditions.append(wires[f"{nest}_on"])
                    values.append(word)
            found[role] = selected(conditions, values) if values else constant(0, bits)
        return found

    outputs = {"west": grid.rows * grid.kind.west_bits, "north": grid.cols * grid.kind.north_bits}
    return Leaf("operands", _inputs(sequence, ("west", "north")), outputs, build)


def _requantised(sequence: Sequence, word: WireVector) -> WireVector:
    """Every sum over 2^shift, rounded half up, the nearest operand for those beyond."""
    kind, shift = sequence.grid.kind, sequence.requantise_shift
    bits = kind.pe.sum_bits + 1
    found = []
    for one in fields(word, kind.pe.sum_bits):
        half = constant((1 << shift) >> 1, bits)
        moved = (sign_extended(one, bits) + half)[:bits][shift:]
        high = moved[kind.north_bits - 1 :]
        fits = (high == 0) | pyrtl.and_all_bits(high)
        limit = (1 << (kind.north_bits - 1)) - 1
        nearest = pyrtl.select(
            moved[-1], constant(-limit - 1, kind.north_bits), constant(limit, kind.north_bits)
        )  # fmt: skip
        found.append(pyrtl.select(fits, moved[: kind.north_bits], nearest))
    return packed(found)


def sum_leaf(sequence: Sequence) -> Leaf:
    """A row of sums from the array, added to the tile that it goes on with."""
    bits = sequence.beat_bits

    def build(wires: Mapping[str, WireVector]) -> Wires:
        conditions, values = [], []
        for role in ("base", "own"):
            for pad, nests in _sources(sequence, role):
                for nest in nests:
                    conditions.append(wires[f"{nest}_{role}"])
                    values.append(wires[f"{pad.name}_{role}"])
        if not values:
            return {"total": wires["row"]}
        base = selected(conditions, values)
        width = sequence.grid.kind.pe.sum_bits
        pairs = zip(fields(wires["row"], width), fields(base, width), strict=True)
        return {"total": packed([wrapped_sum(one, other) for one, other in pairs])}

    return Leaf("sums", {"row": bits} | _inputs(sequence, ("base", "own")), {"total": bits}, build)


def store_leaf(sequence: Sequence) -> Leaf:
    """The beat that the storing engine hands to the port."""

    def build(wires: Mapping[str, WireVector]) -> Wires:
        conditions, values = [], []
        for pad, nests in _sources(sequence, "store"):
            for nest in nests:
                conditions.append(wires[f"{nest}_on"])
                values.append(wires[f"{pad.name}_store"])
        return {"beat": selected(conditions, values)}

    return Leaf("store", _inputs(sequence, ("store",)), {"beat": sequence.beat_bits}, build)
