"""Synthesise generated arrays with yosys and print the rows of sim/data/fpga_synthesis.csv.

`python scripts/measure_synthesis.py >> rows.csv` takes some minutes: about twenty seconds an array.
"""

import csv
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from tilewright.hls_templates.rtl.array import grid_of
from tilewright.hls_templates.rtl.synthesis import SYNTHESIS_COMMAND, find_yosys, synthesise
from tilewright.hls_templates.rtl.verilog import TEST_BENCH, TOP, array_files
from tilewright.sim.architecture import Arithmetic, MatrixArray, Stationarity
from tilewright.sim.arrays import ONE_CYCLE_PE

COLUMNS = (
    "rows", "cols", "stationarity", "drain_overlap", "arithmetic", "weight_bits", "activation_bits",
    "accumulator_bits", "multiply_cycles", "add_cycles", "lut", "ff", "dsp", "tool",
)  # fmt: skip
_BF16 = (1, 2)


def arrays() -> Iterator[MatrixArray]:
    """Square arrays of three sizes by PE and stationarity, then odd shapes and rarer PEs."""

    def one(
        rows: int, cols: int, stationarity: Stationarity, overlap: bool, bits: tuple[int, int] = (8, 8),
        accumulator_bits: int = 32, arithmetic: Arithmetic = "mac", pe_cycles: tuple[int, int] = ONE_CYCLE_PE,
    ) -> MatrixArray:  # fmt: skip
        return MatrixArray(
            "array", rows, cols, stationarity, bits, accumulator_bits, arithmetic, drain_overlap=overlap,
            pe_cycles=pe_cycles,
        )  # fmt: skip

    for side in (8, 4, 16):
        yield one(side, side, "output", False)
        yield one(side, side, "weight", True)
        yield one(side, side, "output", True, arithmetic="packed_mac")
        yield one(side, side, "output", False, (4, 4))
    yield one(8, 8, "output", False, (16, 16), 32, pe_cycles=_BF16)
    yield one(8, 8, "weight", False, (16, 16), 32, pe_cycles=_BF16)
    for stationarity, side in product(("weight",), (8, 16)):
        yield one(side, side, stationarity, False, (4, 4))  # type: ignore[arg-type]
        yield one(side, side, stationarity, False, (16, 16), 48)  # type: ignore[arg-type]
    yield one(8, 8, "output", True, (16, 16), 48)
    yield one(8, 8, "input", False, arithmetic="packed_mac")
    yield one(4, 16, "output", True)
    yield one(16, 4, "weight", False)
    yield one(8, 4, "input", True, (4, 8))
    yield one(8, 8, "weight", True, (2, 8), arithmetic="ternary_add")
    yield one(8, 8, "output", True, (4, 8), arithmetic="shift_add")
    yield one(8, 8, "weight", False, (4, 8), arithmetic="packed_mac")


def main() -> None:
    tool = find_yosys()
    note = f"yosys {tool.version}: {SYNTHESIS_COMMAND.format(top=TOP.removesuffix('.v'))}"
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(COLUMNS)
    for array in arrays():
        with tempfile.TemporaryDirectory() as scratch:
            files = {name: text for name, text in array_files(grid_of(array)).items() if name != TEST_BENCH}
            for name, text in files.items():
                (Path(scratch) / name).write_text(text, encoding="utf-8")
            found = synthesise(tool, [Path(scratch) / name for name in files], TOP.removesuffix(".v"))
        table.writerow(
            [array.rows, array.cols, array.stationarity, int(array.drain_overlap), array.arithmetic,
             *array.operand_bits, array.accumulator_bits, *array.pe_cycles, found.lut, found.ff, found.dsp, note]
        )  # fmt: skip
        sys.stdout.flush()


if __name__ == "__main__":
    main()
