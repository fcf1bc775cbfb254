"""Devices: FPGA parts, process nodes and GPUs with their totals, shell, clock and memory."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from tilewright.dataflow.errors import InputError, nearest

RESOURCES = ("lut", "ff", "dsp", "bram36", "uram")
_FILES = tuple(Path(__file__).parent / "data" / name for name in ("devices.csv", "gpu_devices.csv"))


@dataclass(frozen=True, slots=True)
class GpuSheet:
    """The data sheet of a GPU; rates are peaks. `matrix_macs` are (type, MACs per multiprocessor and cycle).

    `l2_partitions`: each keeps its own copy of what its multiprocessors read.
    """

    multiprocessors: int
    fp32_lanes: int  # of one multiprocessor
    matrix_macs: tuple[tuple[str, int], ...]
    l2_bytes: int
    l2_partitions: int
    memory_bytes: int
    memory_gb_per_s: float
    board_power_w: float
    die_mm2: float


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
    device_class: Literal["fpga", "asic", "gpu"]
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
    gpu: GpuSheet | None = None

    @property
    def is_fpga(self) -> bool:
        return self.device_class == "fpga"


@lru_cache(maxsize=1)
def devices() -> Mapping[str, Device]:
    """All devices by their id, in the order of the data files (FPGAs, process nodes, GPUs)."""
    rows: dict[str, dict[str, dict[str, str]]] = {}
    for file in _FILES:
        with file.open(encoding="utf-8", newline="") as stream:
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
    if values["device_class"] == "gpu":
        return _gpu(name, rows, values)
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


def _gpu(name: str, rows: Mapping[str, Mapping[str, str]], values: Mapping[str, str]) -> Device:
    """A GPU runs at the clock of its published peaks; `memory_config` names the standard of its memory."""
    clock_mhz = float(values["clock_mhz"])
    matrix = tuple(
        (key.removeprefix("matrix_macs_"), int(value))
        for key, value in values.items()
        if key.startswith("matrix_macs_")
    )
    sheet = GpuSheet(
        multiprocessors=int(values["multiprocessors"]),
        fp32_lanes=int(values["fp32_lanes"]),
        matrix_macs=matrix,
        l2_bytes=round(float(values["l2_mb"]) * 1e6),
        l2_partitions=int(values["l2_partitions"]),
        memory_bytes=round(float(values["memory_gb"]) * 1e9),
        memory_gb_per_s=float(values["memory_gb_per_s"]),
        board_power_w=float(values["board_power_w"]),
        die_mm2=float(values["die_mm2"]),
    )
    return Device(
        name=name,
        device_class="gpu",
        node_nm=int(values["node_nm"]),
        default_clock_mhz=clock_mhz,
        clock_range_mhz=(clock_mhz, clock_mhz),
        memory_config=values["memory_config"],
        memory_channels=1,
        source=rows["device_class"]["source"],
        provenance=tuple((key, f"{row['source']}; {row['verification']}") for key, row in rows.items()),
        gpu=sheet,
    )
