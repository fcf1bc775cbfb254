"""Devices: FPGA parts and process nodes with their totals, shell, clock and memory."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Device:
    """What a design is built on.

    `totals` and `shell` are (resource, count) over lut, ff, dsp, bram36, uram on an FPGA (shell: what the
    platform itself takes) and empty on an ASIC. `memory_config` names a `sim.memory` configuration of one
    channel, `memory_channels` how many of them the device has (pseudo-channels on HBM).
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
