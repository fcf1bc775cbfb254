"""Cost of a good die from wafer price, die area and yield; test, package and memory are not in it."""

import csv
from functools import lru_cache
from math import pi, sqrt
from pathlib import Path

from tilewright.dataflow.errors import InputError

_FILE = Path(__file__).parent / "data" / "die_cost.csv"

#: Rows of the data file that hold for every node.
_ANY_NODE = 0


def die_cost_usd(area_mm2: float, node_nm: int) -> float:
    """USD for one working die of `area_mm2`.

    Dies on a wafer of diameter d: pi d^2 / (4 A) - pi d / sqrt(2 A), the second term for what the edge cuts
    off. Yield: negative binomial, (1 + A D / c)^-c, with defect density D and cluster parameter c. Raises
    InputError for a node without a wafer price or a die that does not fit on a wafer.
    """
    table = _table()
    if (node_nm, "wafer") not in table:
        nodes = ", ".join(str(node) for node, quantity in table if quantity == "wafer")
        raise InputError(f"no wafer price is known for {node_nm} nm, only for {nodes} nm")
    diameter_mm, cluster = table[_ANY_NODE, "wafer_diameter"], table[_ANY_NODE, "cluster_parameter"]
    n_dies = pi * diameter_mm**2 / (4 * area_mm2) - pi * diameter_mm / sqrt(2 * area_mm2)
    if n_dies < 1:
        raise InputError(f"a die of {area_mm2:.6g} mm2 does not fit on a wafer of {diameter_mm:g} mm")
    yield_fraction = float((1 + area_mm2 * table[node_nm, "defect_density"] / cluster) ** -cluster)
    return table[node_nm, "wafer"] / (n_dies * yield_fraction)


@lru_cache(maxsize=1)
def _table() -> dict[tuple[int, str], float]:
    with _FILE.open(encoding="utf-8", newline="") as stream:
        return {(int(row["node_nm"]), row["quantity"]): float(row["value"]) for row in csv.DictReader(stream)}
