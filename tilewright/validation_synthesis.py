"""Points of `validate synth`: resources of arrays beside open synthesis, DSPs beside routed published designs."""

from collections.abc import Mapping

from tilewright.dataflow.errors import InputError
from tilewright.sim.architecture import MatrixArray
from tilewright.sim.fpga_array import array_resources
from tilewright.sim.fpga_counts import constant

COUNTS = ("lut", "ff", "dsp")
COLUMNS = (
    "rows", "cols", "stationarity", "drain_overlap", "arithmetic", "weight_bits", "activation_bits",
    "accumulator_bits", "multiply_cycles", "add_cycles", *COUNTS,
)  # fmt: skip
_STATIONARITIES = ("output", "weight", "input")


def array_of_row(row: Mapping[str, str]) -> MatrixArray:
    """The array of a row with `COLUMNS`. Raises InputError for what is not a number or no stationarity."""
    if row["stationarity"] not in _STATIONARITIES:
        raise InputError(
            f"stationarity {row['stationarity']!r} is unknown; known: {', '.join(_STATIONARITIES)}"
        )
    try:
        rows, cols, weight, activation, accumulator, multiply, add, overlap = (
            int(row[name])
            for name in ("rows", "cols", "weight_bits", "activation_bits", "accumulator_bits",
                         "multiply_cycles", "add_cycles", "drain_overlap")
        )  # fmt: skip
    except ValueError as error:
        raise InputError(f"a size of the array is not a whole number: {error}") from None
    if min(rows, cols, weight, activation, accumulator) < 1:
        raise InputError(f"sizes of an array must be >= 1, got {rows} x {cols}")
    return MatrixArray(
        "array", rows, cols, row["stationarity"],  # type: ignore[arg-type]
        (weight, activation), accumulator, row["arithmetic"],  # type: ignore[arg-type]
        drain_overlap=bool(overlap), pe_cycles=(multiply, add),
    )  # fmt: skip


def array_counts(row: Mapping[str, str]) -> dict[str, int]:
    """Our counts of an array by `COUNTS`. Raises InputError as `array_of_row` and for a PE without a model."""
    found = array_resources(array_of_row(row))
    return {name: getattr(found, name) for name in COUNTS}


def operator_dsps(operator: str, count: int) -> int:
    """DSPs of `count` operators of a kind that `sim/data/fpga_area.csv` names."""
    return round(count * constant(f"operator_dsp_{operator}"))
