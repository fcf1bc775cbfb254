"""Counts of FPGA resources, and the constants of `data/fpga_area.csv` behind them."""

from dataclasses import dataclass
from functools import cache

from tilewright.sim.technology import Points, rows


@dataclass(frozen=True, slots=True)
class Resources:
    """Counts; BRAM36 in halves, as a tile splits into two BRAM18."""

    lut: int = 0
    ff: int = 0
    dsp: int = 0
    bram36: float = 0.0
    uram: int = 0

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(
            self.lut + other.lut, self.ff + other.ff, self.dsp + other.dsp,
            self.bram36 + other.bram36, self.uram + other.uram,
        )  # fmt: skip

    def times(self, count: int) -> "Resources":
        """`count` of them."""
        return Resources(
            self.lut * count, self.ff * count, self.dsp * count, self.bram36 * count, self.uram * count
        )


@cache
def constant(name: str) -> float:
    """A constant of `data/fpga_area.csv` that does not depend on a size."""
    return constants(name)[0][1]


@cache
def constants(name: str) -> Points:
    """(size, value) of a constant of `data/fpga_area.csv`."""
    found = [
        (float(row["size"]), float(row["value"])) for row in rows("fpga_area.csv") if row["name"] == name
    ]
    return tuple(sorted(found))
