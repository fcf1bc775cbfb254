"""A declared architecture: the components of DESIGN.yaml's `architecture` as an `Architecture`."""

import json
from dataclasses import MISSING, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tilewright.dataflow.errors import InputError, nearest
from tilewright.sim.architecture import (
    Architecture,
    ArchitectureError,
    BufferMemory,
    Component,
    Dma,
    Dram,
    Fifo,
    Link,
    MatrixArray,
    Noc,
    VectorUnit,
)

KINDS: dict[str, type[Component]] = {
    "matrix_array": MatrixArray,
    "vector_unit": VectorUnit,
    "buffer": BufferMemory,
    "fifo": Fifo,
    "dma": Dma,
    "noc": Noc,
    "dram": Dram,
    "link": Link,
}
_KEYS = ("name", "clock_mhz", "components", "slots")


def declared_architecture(content: dict[str, Any], device: str, clock_mhz: float) -> Architecture:
    """The architecture that `content` declares, on `device`; `clock_mhz` unless it states its own.

    `content` holds `components`, a list of {component: which, and its fields}, and `slots`, a mapping of
    the slots that programs name to components. Raises InputError: component, field, value.
    """
    if unknown := [key for key in content if key not in _KEYS]:
        key = unknown[0]
        raise InputError(f"architecture: unknown key {key!r}{nearest(key, _KEYS)}")
    components = content.get("components")
    slots = content.get("slots")
    if not isinstance(components, list) or not components:
        raise InputError("architecture.components must be a list of components")
    if not isinstance(slots, dict):
        raise InputError("architecture.slots must map slots to components")
    stated_clock = content.get("clock_mhz", clock_mhz)
    if isinstance(stated_clock, bool) or not isinstance(stated_clock, int | float):
        raise InputError(f"architecture.clock_mhz must be a number, got {stated_clock!r}")
    try:
        return Architecture(
            name=str(content.get("name", "declared")),
            device=device,
            clock_mhz=float(stated_clock),
            components=tuple(_component(position, entry) for position, entry in enumerate(components)),
            slots=tuple((str(slot), str(name)) for slot, name in slots.items()),
        )
    except ArchitectureError as error:
        raise InputError(f"architecture: {error}") from None


def _component(position: int, entry: object) -> Component:
    place = f"architecture.components.{position}"
    if not isinstance(entry, dict) or "component" not in entry:
        raise InputError(f"{place} must be a mapping with `component`, one of {', '.join(KINDS)}")
    kind = str(entry["component"])
    if kind not in KINDS:
        raise InputError(f"{place}.component {kind!r} is unknown{nearest(kind, list(KINDS))}")
    stated = {key: value for key, value in entry.items() if key != "component"}
    known = {field.name: field for field in fields(KINDS[kind])}
    if unknown := [key for key in stated if key not in known]:
        raise InputError(f"{place}: {kind} has no field {unknown[0]!r}{nearest(unknown[0], list(known))}")
    needed = [name for name, field in known.items() if field.default is MISSING and name not in stated]
    if needed:
        raise InputError(f"{place}.{needed[0]} is missing")
    adapter: TypeAdapter[Component] = TypeAdapter(KINDS[kind])
    try:
        return adapter.validate_json(json.dumps(stated), strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        field_name = ".".join(str(part) for part in problem["loc"])
        raise InputError(f"{place}.{field_name}: {problem['msg']}, got {problem['input']!r}") from None
