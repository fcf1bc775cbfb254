"""Resources of arrays: register by register by hand, and what open synthesis counts."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tilewright.dataflow.errors import InputError
from tilewright.sim.architecture import Arithmetic, MatrixArray, Stationarity
from tilewright.sim.fpga_array import array_parts, array_resources, pe_resources
from tilewright.sim.fpga_counts import Resources

INT8 = MatrixArray("array", 4, 4, "output", (8, 8), 32)


def test_flip_flops_of_an_int8_array_are_counted_by_hand() -> None:
    parts = array_parts(INT8)
    assert parts["pes"].ff == 16 * (32 + 8 + 8 + 3 + 1)
    assert parts["west"].ff == 6 * 8 + 3 * 3  # 0 + 1 + 2 + 3 operands, and one chain of three flags
    assert parts["north"].ff == 6 * 8
    assert parts["south"].ff == 4 * 32  # the output register
    # four sizes of 16 bits, two walks, and 8 delays; side 4 makes two bits of each counter constant
    assert parts["control"].ff == 190
    assert array_resources(INT8).ff == 1255


@pytest.mark.parametrize(
    ("stationarity", "overlap", "lut", "ff"),
    [
        ("output", False, 64, 52), ("output", True, 64, 84), ("weight", False, 16.5, 52),
        ("weight", True, 16.5, 60), ("input", True, 16.5, 60),
    ],
)  # fmt: skip
def test_a_sum_that_stays_has_an_adder_and_a_multiplexer_per_bit_one_that_passes_half_an_adder(
    stationarity: Stationarity, overlap: bool, lut: float, ff: float
) -> None:
    pe = replace(INT8, stationarity=stationarity, drain_overlap=overlap)
    assert pe_resources(pe) == (lut, ff, 1)


@pytest.mark.parametrize(
    ("arithmetic", "bits", "dsp"),
    [("mac", (8, 8), 16), ("mac", (4, 4), 0), ("mac", (4, 8), 16), ("mac", (16, 16), 16), ("mac", (32, 16), 32),
     ("packed_mac", (8, 8), 8), ("ternary_add", (2, 8), 0), ("shift_add", (4, 8), 0)],
)  # fmt: skip
def test_products_of_more_than_eight_bits_take_dsps(
    arithmetic: Arithmetic, bits: tuple[int, int], dsp: int
) -> None:
    array = replace(INT8, arithmetic=arithmetic, operand_bits=bits, accumulator_bits=48)
    assert array_resources(array).dsp == dsp


def test_an_odd_number_of_columns_shares_no_multipliers() -> None:
    packed = replace(INT8, arithmetic="packed_mac")
    assert array_resources(replace(packed, rows=5, cols=6)).dsp == 15
    assert array_resources(replace(packed, rows=5, cols=5)).dsp == 25
    with pytest.raises(InputError, match="up to 8 bit"):
        pe_resources(replace(packed, operand_bits=(16, 8)))


def test_several_arrays_take_several_times_as_much() -> None:
    one, three = array_resources(INT8), array_resources(replace(INT8, count=3))
    assert three == Resources(3 * one.lut, 3 * one.ff, 3 * one.dsp)


def test_pipelined_integer_pes_have_not_been_synthesised() -> None:
    with pytest.raises(InputError, match="pe_cycles"):
        pe_resources(replace(INT8, pe_cycles=(1, 2)))


def test_arrays_of_another_generator_agree_but_for_their_missing_output_register(
    reference_folder: Path,
) -> None:
    """Public int8 arrays that drain without a register; their synthesis by the same tool."""
    with (reference_folder / "pe_synthesis.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["target"].startswith("xcup")]
    names = {"estimated_LC": "lut", "FF": "ff", "DSP48E2": "dsp"}
    compared = 0
    for row in rows:
        size = re.match(r"(\d+)x(\d+) output-stationary int8", row["params"])
        if not size or row["metric"] not in names:
            continue
        parts = array_parts(replace(INT8, rows=int(size[1]), cols=int(size[2])))
        del parts["south"]
        ours = sum(getattr(part, names[row["metric"]]) for part in parts.values())
        assert ours == pytest.approx(float(row["value"]), rel=0.15), row
        compared += 1
    assert compared >= 12
