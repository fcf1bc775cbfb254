"""Pointer arguments of a kernel: widths, bundles, and the memory that each one is linked to."""

from dataclasses import dataclass
from typing import Any

from tilewright.hls_templates.layout import ACTIVATIONS
from tilewright.hls_templates.plan import KernelPlan
from tilewright.sim.architecture import Architecture, Dram


@dataclass(frozen=True, slots=True)
class Target:
    """What the vendor's tools call a device; `memory` names a channel: HBM[3], DDR[0] or HP1."""

    part: str
    platform: str
    memory: str
    n_channels: int
    note: str = ""


# Ordering codes and shell names as the boards are sold; "{}" takes a channel's number.
_TARGETS: dict[str, tuple[str, str, str]] = {
    "u280": ("xcu280-fsvh2892-2L-e", "xilinx_u280_gen3x16_xdma_1_202211_1", "HBM[{}]"),
    "u55c": ("xcu55c-fsvh2892-2L-e", "xilinx_u55c_gen3x16_xdma_3_202210_1", "HBM[{}]"),
    "u50": ("xcu50-fsvh2104-2-e", "xilinx_u50_gen3x16_xdma_5_202210_1", "HBM[{}]"),
    "u250": ("xcu250-figd2104-2L-e", "xilinx_u250_gen3x16_xdma_4_1_202210_1", "DDR[{}]"),
    "zcu102": ("xczu9eg-ffvb1156-2-e", "", "HP{}"),
    "zcu104": ("xczu7ev-ffvc1156-2-e", "", "HP{}"),
}
_DEFAULT_DEVICE = "u280"


def target_of(architecture: Architecture) -> Target:
    """The part, shell and memory of the architecture's device.

    A device that the vendor does not sell gets the part of a U280, and a note that says so: its code can be
    synthesised there for a comparison.
    """
    drams = architecture.of_kind(Dram)
    n_channels = drams[0].channels if drams else 1
    if architecture.device in _TARGETS:
        return Target(*_TARGETS[architecture.device], n_channels)
    part, platform, memory = _TARGETS[_DEFAULT_DEVICE]
    note = (
        f"{architecture.device} is no part of the vendor: `run.tcl` and `link.cfg` name a"
        f" {_DEFAULT_DEVICE.upper()}, on which the code can be synthesised for a comparison."
    )
    return Target(part, platform, memory, n_channels, note)


def port_contexts(plan: KernelPlan, architecture: Architecture) -> list[dict[str, Any]]:
    """The arguments in order, with their pragmas' options and their places in memory.

    Activations share the first channel, because stages hand tensors on in it; every other port takes a
    channel of its own as long as there are some, spread evenly over those that the design uses.
    """
    target, machine = target_of(architecture), plan.machine
    apart = [name for name in plan.ports if name not in ACTIVATIONS]
    step = max(1, target.n_channels // (len(apart) + 1))
    found = []
    for name in plan.ports:
        channel = 0 if name in ACTIVATIONS else (1 + apart.index(name)) * step % target.n_channels
        is_output = name == "y"
        way = "write" if is_output else "read"
        lanes, bits = plan.lanes[name], plan.bits[name]
        burst = max(2, min(256, machine.burst_words * machine.port_bits // (lanes * bits)))
        found.append({
            "name": name,
            "const": "" if is_output else "const ",
            "word": f"{name}_word_t",
            "lanes": lanes,
            "bits": bits,
            "bundle": f"gmem_{name}",
            "options": f"max_{way}_burst_length={burst} num_{way}_outstanding={machine.max_outstanding}",
            "memory": target.memory.format(channel),
            "memory_name": "activations" if name in ACTIVATIONS else name,
        })  # fmt: skip
    return found
