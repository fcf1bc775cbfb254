"""A sequenced accelerator as a netlist: sequencer, engines, port, scratchpads, address generators, array, sums."""

from collections.abc import Mapping

import pyrtl
from pyrtl import WireVector

from tilewright.dataflow.program import Compute
from tilewright.hls_templates.rtl.address import address_leaf
from tilewright.hls_templates.rtl.array import Leaf, array_inputs, array_outputs, build_array
from tilewright.hls_templates.rtl.cell import Wires
from tilewright.hls_templates.rtl.control import Grid
from tilewright.hls_templates.rtl.fixed_model import FRACTION_BITS
from tilewright.hls_templates.rtl.netlist import Instance, Netlist
from tilewright.hls_templates.rtl.scratchpad import Scratchpad, scratchpad_leaf, selected
from tilewright.hls_templates.rtl.sequence import Sequence, divides, unit_of
from tilewright.hls_templates.rtl.sequencer import sequencer_leaf
from tilewright.hls_templates.rtl.softmax import FACTOR_BITS, SoftmaxKind, softmax_leaf
from tilewright.hls_templates.rtl.transfer import port_leaf, transfer_leaf
from tilewright.hls_templates.rtl.wires import (
    constant,
    counter_bits,
    fields,
    packed,
    sign_extended,
    wrapped_sum,
)


def accelerator(sequence: Sequence) -> Netlist:
    """The netlist of a sequence.

    Inputs: `start`, and the memory's answers: `answer`, `answer_is_write`, `answer_data`. Outputs: `done`, and a
    beat at the port: `valid`, `is_write`, `address`, `data`.
    """
    bits, address_bits, beat_bits = sequence.offset_bits, sequence.address_bits, sequence.beat_bits
    inputs = {"start": 1, "answer": 1, "answer_is_write": 1, "answer_data": beat_bits}
    store = store_leaf(sequence)
    instances = [
        Instance("sequencer", sequencer_leaf(sequence), (
            ("start", "start"), *((f"{unit}_done", f"{unit}__done") for unit in sequence.units),
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
        Instance("sums", sum_leaf(sequence), (
            ("row", "array__south_data"), *_matching(sequence, ("base", "own")), *_factor_nets(sequence),
        )),
        Instance("store", store, _matching(sequence, ("store",))),
        *(_pad_instance(sequence, pad) for pad in sequence.scratchpads),
        *_vector_instances(sequence),
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
    elif "vector" in sequence.units and unit_of(sequence.writer[pad.name]) == "vector":
        what = "quotients" if divides(sequence.writer[pad.name]) else "weights"
        nets |= {
            "write": "vector__write", "write_offset": "vector__write_offset", "write_data": f"vector__{what}",
        }  # fmt: skip
    else:
        nets |= {
            "write": "port__in_answer", "write_offset": "dma_in__answered", "write_data": "answer_data",
        }  # fmt: skip
    offsets = {
        "west": "addresses__west", "north": "addresses__north", "base": "addresses__folded",
        "own": f"addresses__{place}", "store": "dma_out__issued", "lanes": "vector__read_offset",
    }  # fmt: skip
    for reader in pad.readers:
        nets[f"{reader.role}_offset"] = offsets[reader.role]
        for nest in reader.nests:
            nets[f"{reader.role}_{nest}_on"] = f"sequencer__{nest}_on"
            nets[f"{reader.role}_{nest}_slot"] = f"sequencer__{nest}_{pad.name}_slot"
    return Instance(f"pad_{pad.name}", scratchpad_leaf(pad, sequence.offset_bits), tuple(nets.items()))


def _vector_instances(sequence: Sequence) -> list[Instance]:
    """The vector unit and what picks its words, of a program that has one."""
    if "vector" not in sequence.units:
        return []
    softmax = sequence.of_unit("vector")[0]
    kind = softmax_kind(sequence)
    weights = softmax.writes[0].buffer
    (mix,) = (nest.name for nest in sequence.readers[weights])
    unit = Instance("vector", softmax_leaf(kind), _nets(
        start="sequencer__vector_start", divides="sequencer__vector_divides", n="sequencer__vector_n",
        k="sequencer__vector_k", run_words="sequencer__vector_run_words", begins="sequencer__vector_begins",
        ends="sequencer__vector_ends", word="lanes__word", slot=f"sequencer__{softmax.name}_{weights}_slot",
        factor_slot=f"sequencer__{mix}_{weights}_slot", factor_word="addresses__across",
    ))  # fmt: skip
    return [unit, Instance("lanes", lanes_leaf(sequence), _matching(sequence, ("lanes",)))]


def softmax_kind(sequence: Sequence) -> SoftmaxKind:
    """The vector unit of a sequence; sums outlive the weights by the tile that is divided and one in front of it."""
    softmax, _ = sequence.of_unit("vector")
    assert isinstance(softmax.leaf, Compute)
    copies = sequence.program.buffer_by_name[softmax.writes[0].buffer].copies
    multiplier, shift = sequence.score_scale
    return SoftmaxKind(
        lanes=sequence.grid.cols, words=-(-softmax.leaf.tile[1][1] // sequence.grid.cols),
        size_bits=sequence.grid.size_bits, offset_bits=sequence.offset_bits,
        slot_bits=counter_bits(copies - 1), sum_slot_bits=counter_bits(copies + 1), multiplier=multiplier,
        shift=shift,
    )  # fmt: skip


def lanes_leaf(sequence: Sequence) -> Leaf:
    """The word that the vector unit takes now."""

    def build(wires: Mapping[str, WireVector]) -> Wires:
        sources = [(pad.name, nest) for pad, nests in _sources(sequence, "lanes") for nest in nests]
        words = [wires[f"{name}_lanes"] for name, _ in sources]
        return {"word": selected([wires[f"{nest}_on"] for _, nest in sources], words)}

    return Leaf("lanes", _inputs(sequence, ("lanes",)), {"word": sequence.beat_bits}, build)


def _factor_nets(sequence: Sequence) -> tuple[tuple[str, str], ...]:
    return (("factors", "vector__factors"),) if "vector" in sequence.units else ()


def _rescaled(word: WireVector, factors: WireVector, bits: int) -> WireVector:
    """Every sum times its factor, rounded half up."""
    found = []
    for one, factor in zip(fields(word, bits), fields(factors, FACTOR_BITS), strict=True):
        width = bits + FACTOR_BITS + 1
        product = (sign_extended(one, width) * factor.zero_extended(width))[:width]
        rounded = (product + constant(1 << (FRACTION_BITS - 1), width))[:width]
        found.append(rounded[FRACTION_BITS : FRACTION_BITS + bits])
    return packed(found)


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
                    word = wires[f"{pad.name}_{role}"]
                    if role == "own" and sequence.rescales(sequence.writer[pad.name]):
                        word = _rescaled(word, wires["factors"], sequence.grid.kind.pe.sum_bits)
                    conditions.append(wires[f"{nest}_{role}"])
                    values.append(word)
        if not values:
            return {"total": wires["row"]}
        base = selected(conditions, values)
        width = sequence.grid.kind.pe.sum_bits
        pairs = zip(fields(wires["row"], width), fields(base, width), strict=True)
        return {"total": packed([wrapped_sum(one, other) for one, other in pairs])}

    inputs = {"row": bits} | _inputs(sequence, ("base", "own"))
    if "vector" in sequence.units:
        inputs["factors"] = sequence.grid.cols * FACTOR_BITS
    return Leaf("sums", inputs, {"total": bits}, build)


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
