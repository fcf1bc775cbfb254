"""Tilewright: lower transformer and adapter workloads, simulate and co-design accelerators."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilewright.api import (
        Design,
        InputError,
        Report,
        Study,
        codesign,
        count,
        generate,
        load_workload,
        simulate,
        sweep,
        verify,
    )

__version__ = "0.1.0"

__all__ = [
    "Design",
    "InputError",
    "Report",
    "Study",
    "codesign",
    "count",
    "generate",
    "load_workload",
    "simulate",
    "sweep",
    "verify",
]


def __getattr__(name: str) -> Any:
    """The public names, imported when first used: `import tilewright` itself stays quick."""
    if name in __all__:
        return getattr(import_module("tilewright.api"), name)
    raise AttributeError(f"module 'tilewright' has no attribute {name!r}")
