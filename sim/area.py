"""Area of a design: mm2 by component on an ASIC, resources and used fractions on an FPGA."""

from functools import lru_cache

from tilewright.dataflow.errors import InputError
from tilewright.sim.architecture import Architecture
from tilewright.sim.asic_area import component_mm2, controller_mm2, utilisation
from tilewright.sim.device import RESOURCES, Device
from tilewright.sim.fpga_counts import Resources
from tilewright.sim.fpga_resources import controller_resources, resources_of
from tilewright.sim.report import AreaReport, Breakdown

SHELL = "shell"
CONTROLLER = "controller"
WIRING = "wiring"


def area_of(architecture: Architecture, device: Device, table: str = "synthesis") -> AreaReport:
    """Area of `architecture` on `device`; `table` names the ASIC logic table (`sim.asic_area`).

    Of a GPU it is the die of its data sheet, whatever the design.
    A design that does not fit still has an area: `check_fits` refuses it. Raises InputError for a component
    that the device class cannot have.
    """
    if device.gpu is not None:
        return AreaReport("gpu", mm2=device.gpu.die_mm2)
    if device.is_fpga:
        return _fpga_area(architecture, device)
    return _asic_area(architecture, device, table)


def check_fits(area: AreaReport, device: Device) -> None:
    """Raises InputError naming the resource that overflows most, with used, available and excess."""
    if area.used_fraction is None or area.used_fraction <= 1:
        return
    name, fraction = max(area.fractions, key=lambda pair: pair[1])
    if device.is_fpga:
        used, have = getattr(area, name), dict(device.totals)[name]
        raise InputError(
            f"design does not fit on {device.name}: {name} needs {used}, the device has {have}"
            f" ({used - have} too many, {fraction - 1:.1%} over)"
        )
    raise InputError(
        f"design does not fit on {device.name}: die needs {area.mm2:.1f} mm2, one reticle is"
        f" {device.max_die_mm2:.0f} mm2 ({fraction - 1:.1%} over)"
    )


@lru_cache(maxsize=4096)
def used_resources(architecture: Architecture, device: Device) -> tuple[tuple[str, Resources], ...]:
    """FPGA resources by component, the controller included, the shell not."""
    found = [(one.name, resources_of(one, device)) for one in architecture.components]
    return (*found, (CONTROLLER, controller_resources()))


def _fpga_area(architecture: Architecture, device: Device) -> AreaReport:
    parts = used_resources(architecture, device)
    shell = Resources(**dict(device.shell))
    total = shell
    for _, resources in parts:
        total = total + resources
    # a half tile left over still takes its whole BRAM36
    counts = {name: int(-(-getattr(total, name) // 1)) for name in RESOURCES}
    totals = dict(device.totals)
    fractions = tuple((name, _fraction(counts[name], totals[name])) for name in RESOURCES)
    luts = (*((name, one.lut) for name, one in parts), (SHELL, shell.lut))
    return AreaReport(
        "fpga",
        **counts,
        used_fraction=max(fraction for _, fraction in fractions),
        fractions=fractions,
        parts=Breakdown.of("lut", tuple(Breakdown(name, lut) for name, lut in luts)),
    )


def _fraction(used: int, available: int) -> float:
    """Used share; a resource that the device lacks is infinitely overused as soon as it is needed."""
    if available:
        return used / available
    return float("inf") if used else 0.0


@lru_cache(maxsize=4096)
def _asic_area(architecture: Architecture, device: Device, table: str) -> AreaReport:
    node_nm = device.node_nm
    parts = []
    cells = controller_mm2(node_nm, table)
    parts.append(Breakdown(CONTROLLER, cells))
    for component in architecture.components:
        part, own_cells = component_mm2(component, node_nm, table)
        parts.append(part)
        cells += own_cells
    parts.append(Breakdown(WIRING, cells * (1 / utilisation() - 1)))
    tree = Breakdown.of("mm2", tuple(parts))
    fraction = tree.value / device.max_die_mm2 if device.max_die_mm2 else None
    fractions = () if fraction is None else (("die", fraction),)
    return AreaReport("asic", mm2=tree.value, used_fraction=fraction, fractions=fractions, parts=tree)
