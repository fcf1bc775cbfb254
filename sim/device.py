"""Devices: FPGA parts and process nodes with their totals, shell, clock and memory."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from tilewright.dataflow.errors import InputError, nearest

RESOURCES = ("lut", "ff", "dsp", "bram36", "uram")
_FILE = Path(__file__).parent / "data" / "devices.csv"


@dataclass(frozen=True, slots=True)
class Device:
    """What a design is built on.

    `totals` and `shell` are (resource, count) over lut, ff, dsp, bram36, uram on an FPGA (shell: what the
    platform itself takes) and empty on an ASIC. `memory_config` names a `sim.memory` configuration of one
    channel, `memory_channels` how many of them the device has (pseudo-channels on HBM). `memory_port` is
    what the platform adds for every memory channel that a design connects. `max_die_mm2` is the largest
    die of an ASIC. `provenance` gives (quantity, "source; verification") for every figure.
    """

    name: str
    device_class: Literal["fpga", "asic"]
    node_nm: int
    default_clock_mhz: float
    clock_range_mhz: tuple[float, float]
    memory_config: str
    memory_channels: int
    totals: tuple[tuple[str, int], ...] = ()
    shell: tuple[tuple[str, int], ...] = ()
    source: str = ""
    memory_port: tuple[tuple[str, int], ...] = ()
    max_die_mm2: float | None = None
    nominal_voltage_v: float | None = None
    provenance: tuple[tuple[str, str], ...] = ()

    @property
    def is_fpga(self) -> bool:
        return self.device_class == "fpga"


@lru_cache(maxsize=1)
def devices() -> Mapping[str, Device]:
    """All devices by their id, in the order of the data file (FPGAs, then process nodes)."""
    rows: dict[str, dict[str, dict[str, str]]] = {}
    with _FILE.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            rows.setdefault(row["device"], {})[row["quantity"]] = row
    return MappingProxyType({name: _device(name, quantities) for name, quantities in rows.items()})


def device_named(name: str) -> Device:
    """The device of that id. Raises InputError for an unknown one (closest one named)."""
    known = devices()
    if name not in known:
        raise InputError(f"device {name!r} is unknown{nearest(name, list(known))}; known: {', '.join(known)}")
    return known[name]


def _device(name: str, rows: Mapping[str, Mapping[str, str]]) -> Device:
    values = {quantity: row["value"] for quantity, row in rows.items()}
    on_fpga = values["device_class"] == "fpga"

    def optional(quantity: str) -> float | None:
        return float(values[quantity]) if quantity in values else None

    def counts(prefix: str) -> tuple[tuple[str, int], ...]:
        return tuple((key, int(values[prefix + key])) for key in RESOURCES if prefix + key in values)

    return Device(
        name=name,
        device_class="fpga" if on_fpga else "asic",
        node_nm=int(values["node_nm"]),
        default_clock_mhz=float(values["default_clock_mhz"]),
        clock_range_mhz=(float(values["clock_min_mhz"]), float(values["clock_max_mhz"])),
        memory_config=values["memory_config"],
        memory_channels=int(values["memory_channels"]),
        totals=counts("") if on_fpga else (),
        shell=counts("shell_"),
        source=rows["device_class"]["source"],
        memory_port=counts("memory_port_"),
        max_die_mm2=optional("max_die_mm2"),
        nominal_voltage_v=optional("nominal_voltage_v"),
        provenance=tuple((key, f"{row['source']}; {row['verification']}") for key, row in rows.items()),
    )
