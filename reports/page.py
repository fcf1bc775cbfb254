"""The page of a study: one self-contained HTML file with a chart to hover, a table to sort, the figures."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilewright.search.front import Front, Fronts
from tilewright.search.objective import unit_of
from tilewright.search.outcome import Row


@dataclass(frozen=True, slots=True)
class BestDesign:
    """One chosen design of a front as the page shows it.

    `label` is the objective that it is best in, or "knee"; `reports` are `Report.to_dict()` values, one for
    each workload; `figures` are files to embed; `checks` the rungs of its generated code, if there is any.
    """

    device_class: str
    label: str
    design: Mapping[str, Any]
    reports: tuple[Mapping[str, Any], ...]
    figures: tuple[Path, ...] = ()
    folder: str = ""
    checks: tuple[Mapping[str, Any], ...] = ()


def study_page(
    title: str, fronts: Fronts, best: Sequence[BestDesign], figures: Mapping[str, Path], notes: Sequence[str]
) -> str:
    """The page's HTML. It loads nothing from elsewhere; same inputs, same bytes.

    figures: caption to SVG or PNG file. notes: sentences about the models and what is not validated.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tilewright.reports"), undefined=StrictUndefined, autoescape=True
    )
    return environment.get_template("page.html.jinja").render(
        title=title,
        plan=fronts.plan,
        left_out=fronts.left_out,
        classes=[_class_summary(front, fronts.rows) for front in fronts.fronts],
        data=_script_json({front.device_class: _class_data(front, fronts.rows) for front in fronts.fronts}),
        best=[_best(entry) for entry in best],
        figures=[(caption, _embedded(file)) for caption, file in figures.items()],
        notes=notes,
    )


def _class_summary(front: Front, rows: Sequence[Row]) -> dict[str, Any]:
    of_class = [row for row in rows if row.device_class == front.device_class]
    return {
        "name": front.device_class,
        "devices": sorted({row.design.device for row in of_class}),
        "n_examined": len(of_class),
        "n_simulated": sum(row.outcome.simulated for row in of_class),
        "n_front": len(front.rows),
        "hypervolume": front.hypervolume,
    }


def _class_data(front: Front, rows: Sequence[Row]) -> dict[str, Any]:
    """What the chart and the table need: metrics with units, points, the front's indices."""
    shown = [row for row in rows if row.device_class == front.device_class and row.outcome.simulated]
    metrics = list(dict.fromkeys([*front.objectives, *(m for row in shown for m in row.outcome.metrics)]))
    parameters = list(dict.fromkeys(name for row in shown for name in row.design.parameters))
    front_keys = {row.key for row in front.rows}
    return {
        "objectives": list(front.objectives),
        "metrics": [{"name": name, "unit": _unit(name, front.device_class)} for name in metrics],
        "parameters": parameters,
        "knee": front.rows[front.knee].key,
        "best": {front.rows[index].key: name for name, index in front.best.items()},
        "points": [
            {
                "key": row.key,
                "number": row.number,
                "status": row.outcome.status,
                "reason": row.outcome.reason,
                "front": row.key in front_keys,
                "device": row.design.device,
                "template": row.design.template,
                "p": [row.design.parameters.get(name) for name in parameters],
                "m": [row.outcome.metrics.get(name) for name in metrics],
            }
            for row in shown
        ],
    }


def _unit(name: str, device_class: str) -> str:
    unit = unit_of(name, device_class)
    return "fraction" if unit == "1" and name.endswith(("area", "_fraction")) else unit


def _best(entry: BestDesign) -> dict[str, Any]:
    return {
        "device_class": entry.device_class,
        "label": entry.label,
        "design": entry.design,
        "folder": entry.folder,
        "checks": entry.checks,
        "figures": [_embedded(file) for file in entry.figures],
        "reports": [
            {
                "workload": report["workload"],
                "latency_ms": report["latency_ms"],
                "energy_mj": report["energy_pj"] * 1e-9,
                "power_w": report["power_w"],
                "bottleneck": report["bottleneck"],
                "bound_fraction": report["bound_cycles"] / report["latency_cycles"],
                "dram_mb": (report["dram_bytes"]["read"] + report["dram_bytes"]["write"]) * 1e-6,
            }
            for report in entry.reports
        ],
    }


def _script_json(value: object) -> str:
    """JSON that is safe inside a script element: no character there can end it."""
    text = json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _embedded(file: Path) -> str:
    kind = {".svg": "image/svg+xml", ".png": "image/png"}[file.suffix]
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode('ascii')}"
