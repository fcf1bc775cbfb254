"""FPGA resources of an array: what each register, adder and multiplexer of the generated RTL takes.

Flip-flops and DSPs are those of the RTL, register by register. LUTs follow from the logic functions: a LUT holds one
function of five or six inputs, or one of three or four beside one of two, or two of two (`_sites`). An adder
is one function per bit, whose carry chain costs nothing besides.

| part | flip-flops | functions per bit |
|---|---|---|
| sum that stays, gated by `first` | one per sum bit, two with overlap | adder (3 inputs), multiplexer to shift (6) |
| sum that passes | one per sum bit | adder (2 inputs) |
| operands | one per bit; a held one twice with overlap | enable only |
| flags and shift of a PE | 4 | - |
| western edge | operand and flag delays by row | - |
| northern edge | operand delays by column | - |
| southern edge | alignment delays by column, one output register per sum bit where sums stay | - |
"""

from tilewright.dataflow.errors import InputError
from tilewright.sim.architecture import MatrixArray
from tilewright.sim.arrays import ONE_CYCLE_PE
from tilewright.sim.fpga_counts import Resources, constant

_DSP_BITS = (27, 18)
#: Products of up to so many bits stay in LUTs.
_FABRIC_PRODUCT_BITS = 8
#: Signed multiplication is one DSP up to here; wider factors are multiplied as patterns and corrected.
_SIGNED_BITS = 8
_FLAGS = 3
_FLOAT_PE_CYCLES = (1, 2)


def pe_resources(array: MatrixArray) -> tuple[float, float, float]:
    """(LUT, FF, DSP) of one PE; a DSP that two packed products share counts one half each.

    Raises InputError for arithmetic without a synthesised PE.
    """
    if array.arithmetic == "mac" and array.pe_cycles != ONE_CYCLE_PE:
        return _float_pe(array)
    lanes = 2 if shares_multiplier(array) else 1
    product_lut, dsp = _product(array)
    sum_bits = lanes * array.accumulator_bits
    two, four, six = 0, 0, 0
    if array.arithmetic == "ternary_add":
        six += sum_bits  # adder that takes +x, 0 or -x
    elif array.stationarity == "output":
        four += sum_bits  # adder that starts anew at `first`
    if array.stationarity == "output":
        two += sum_bits  # the sum as the carry chain takes it
        six += sum_bits  # shift, or go on
    else:
        two += 1 if array.arithmetic == "ternary_add" else sum_bits + 1  # adder; the enables
    ff = _lane_flip_flops(array) * lanes + _shared_flip_flops(array, lanes)
    return (_sites(two, four, six) + product_lut) / lanes, ff / lanes, dsp / lanes


def shares_multiplier(array: MatrixArray) -> bool:
    """Whether two columns share a multiplier; an odd number of columns is built without.

    Raises InputError for packed operands that are too wide.
    """
    if array.arithmetic != "packed_mac":
        return False
    if max(array.operand_bits) > _SIGNED_BITS:
        raise InputError(
            f"{array.name}: packed_mac takes operands up to {_SIGNED_BITS} bit, got {array.operand_bits}"
        )
    return array.cols % 2 == 0


def _sites(two: float, four: float, six: float) -> float:
    """LUTs of so many functions of up to two, of three or four, and of five or six inputs."""
    return six + four + max(0.0, two - four) / 2


def _edge_bits(array: MatrixArray) -> tuple[int, int]:
    """(western, northern) operand bits; activations enter from the west, but where they are held."""
    weight_bits, activation_bits = array.operand_bits
    return (weight_bits, activation_bits) if array.stationarity == "input" else (activation_bits, weight_bits)


def _lane_flip_flops(array: MatrixArray) -> int:
    """Of what each column has: sums and the operand from the north."""
    _, north_bits = _edge_bits(array)
    doubles = 1 + array.drain_overlap
    if array.stationarity == "output":
        return array.accumulator_bits * doubles + north_bits
    return array.accumulator_bits + north_bits * doubles


def _shared_flip_flops(array: MatrixArray, lanes: int) -> int:
    """Of what travels east, by a step per column; the second column's product waits a step, too."""
    west_bits, _ = _edge_bits(array)
    waiting = 2 * _SIGNED_BITS if lanes == 2 else 0
    return lanes * (west_bits + _FLAGS + 1) + waiting


def _product(array: MatrixArray) -> tuple[float, float]:
    """(LUTs, DSPs) of a PE's product, or of the one that two columns share."""
    _, activation_bits = array.operand_bits
    narrow, wide = sorted(array.operand_bits)
    if array.arithmetic == "ternary_add":
        return 0.0, 0.0  # part of the adder
    if array.arithmetic == "shift_add":
        return constant("shift_lut_per_activation_bit") * activation_bits, 0.0
    if array.arithmetic not in ("mac", "packed_mac"):
        raise InputError(f"{array.name}: arithmetic {array.arithmetic!r} has no PE synthesised for FPGAs")
    if shares_multiplier(array):
        return constant("packed_lut_per_bit") * _edge_bits(array)[1], 1.0
    if narrow + wide <= _FABRIC_PRODUCT_BITS:
        # rows of partial products after the first are added: a gate and an adder per bit
        return 2.0 * (narrow - 1) * (wide + 1), 0.0
    dsp = float(-(-wide // _DSP_BITS[0]) * -(-narrow // _DSP_BITS[1]))
    if activation_bits <= _SIGNED_BITS:
        return 0.0, dsp
    return constant("corrected_lut_per_bit") * (wide + narrow) / 2, dsp


def _float_pe(array: MatrixArray) -> tuple[float, float, float]:
    """The bfloat16 PE with float32 sums, whose addition takes two cycles."""
    if (array.operand_bits, array.accumulator_bits, array.pe_cycles) != ((16, 16), 32, _FLOAT_PE_CYCLES):
        raise InputError(
            f"{array.name}: no PE with pe_cycles {array.pe_cycles} has been synthesised for FPGAs"
        )
    kind = "output" if array.stationarity == "output" else "held"
    return constant(f"float_pe_lut_{kind}"), constant(f"float_pe_ff_{kind}"), 1.0


def array_parts(array: MatrixArray) -> dict[str, Resources]:
    """What the parts of one array take: pes, west, north, south, control. Raises InputError as `pe_resources`."""
    lut, ff, dsp = pe_resources(array)
    rows, cols = array.rows, array.cols
    n_pes = rows * cols
    west_bits, north_bits = _edge_bits(array)
    sums_stay = array.stationarity == "output"
    _, add_cycles = array.pe_cycles
    row_skew = 1 if sums_stay else add_cycles
    step = 2 if shares_multiplier(array) else 1
    chain_bits = array.accumulator_bits * (2 if sums_stay and array.pe_cycles != ONE_CYCLE_PE else 1)
    north = sum(column - column % step for column in range(cols)) * north_bits
    south = cols * (cols - 1) // 2 * chain_bits
    # operands beyond a held matrix are zero: a gate per bit, two to a LUT
    gates = (0, 0) if sums_stay else (rows * west_bits // 2, cols * north_bits // 2)
    parts = {
        "pes": Resources(lut=round(n_pes * lut), ff=round(n_pes * ff), dsp=-(-round(2 * n_pes * dsp) // 2)),
        # the delays of the flags are one chain, which all rows tap
        "west": Resources(gates[0], row_skew * (rows * (rows - 1) // 2 * west_bits + (rows - 1) * _FLAGS)),
        "north": Resources(gates[1], north if sums_stay or array.drain_overlap else 0),
        "south": Resources(ff=south if array.drain_overlap or not sums_stay else 0),
        "control": _control(array),
    }
    if sums_stay:
        parts["south"] += Resources(ff=cols * array.accumulator_bits)
        if array.pe_cycles != ONE_CYCLE_PE:
            adders = (round(cols * constant(f"float_column_{name}")) for name in ("lut", "ff"))
            parts["south"] += Resources(*adders)
    return parts


def _control(array: MatrixArray) -> Resources:
    """Walks over the folds, phases, and the delays to the first result.

    A walk's counters go in steps of the array's side, so their lowest bits are constant.
    """
    kind = "output" if array.stationarity == "output" else "held"
    overlapped = "_overlap" if kind == "held" and array.drain_overlap else ""
    multiply_cycles, add_cycles = array.pe_cycles
    n_walks = 3 if overlapped else 2
    fixed_bits = _trailing_zeros(array.rows) + _trailing_zeros(array.cols)
    delays = array.rows + array.cols + multiply_cycles
    if kind == "held":
        delays += (add_cycles - 1) * array.rows
    else:
        delays += 2 * (add_cycles - 1) + 2 * array.rows.bit_length()
    ff = constant(f"control_ff_{kind}{overlapped}") + delays - n_walks * fixed_bits
    return Resources(lut=round(constant(f"control_lut_{kind}{overlapped}")), ff=round(ff))


def _trailing_zeros(number: int) -> int:
    return (number & -number).bit_length() - 1


def array_resources(array: MatrixArray) -> Resources:
    """All `count` arrays. Raises InputError as `pe_resources`."""
    total = Resources()
    for part in array_parts(array).values():
        total += part
    return total.times(array.count)
