"""What is known by name, for `tilewright list`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilewright.sim.device import Device


def rows(what: str) -> list[dict[str, Any]]:
    """The rows of a list: models, adapters, cascades, templates, devices or memories."""
    return _LISTS[what]()


def table(entries: list[dict[str, Any]]) -> None:
    from tilewright import tables

    tables.rows("", entries)


def _models() -> list[dict[str, Any]]:
    from tilewright.workloads.workload import model_names

    return [{"model": name} for name in model_names()]


def _adapters() -> list[dict[str, Any]]:
    from tilewright.workloads.adapter import adapter_names

    return [{"adapter": name} for name in adapter_names()]


def _cascades() -> list[dict[str, Any]]:
    from tilewright.dataflow.cascade import cascade_names, load_cascade

    return [{"cascade": name, "summary": load_cascade(name).summary} for name in cascade_names()]


def _templates() -> list[dict[str, Any]]:
    from tilewright.sim.template import templates

    return [{"template": name, "summary": template.summary} for name, template in sorted(templates().items())]


def _devices() -> list[dict[str, Any]]:
    from tilewright.sim.device import devices

    return [
        {
            "device": device.name,
            "class": device.device_class,
            "node_nm": device.node_nm,
            "clock_mhz": device.default_clock_mhz,
            "memory": _memory_of(device),
            **dict(device.totals),
        }
        for device in devices().values()
    ]


def _memory_of(device: "Device") -> str:
    if device.gpu is not None:
        return f"{device.gpu.memory_bytes / 1e9:g} GB at {device.gpu.memory_gb_per_s:g} GB/s"
    return f"{device.memory_channels} x {device.memory_config}"


def _memories() -> list[dict[str, Any]]:
    from tilewright.sim.dram_config import DramConfig, config_names

    rows = []
    for name in config_names():
        config = DramConfig.named(name)
        rows.append({"memory": name, "standard": config.standard, "peak_gb_per_s": config.peak_gb_per_s,
                     "capacity_bytes": config.capacity_bytes})  # fmt: skip
    return rows


def _cases() -> list[dict[str, Any]]:
    from tilewright.cases.case import cases

    return [{"case": case.name, "summary": case.summary} for case in cases().values()]


_LISTS = {
    "cases": _cases,
    "models": _models,
    "adapters": _adapters,
    "cascades": _cascades,
    "templates": _templates,
    "devices": _devices,
    "memories": _memories,
}
