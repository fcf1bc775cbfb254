"""The Pareto figure: every simulated design, the front, the knee, the constraints, error bars."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewright.reports.style import COLOURS, GREY, INK, figure_style, log_axes, quantity, save
from tilewright.search.constraint import Constraint
from tilewright.search.front import Front
from tilewright.search.objective import unit_of
from tilewright.search.outcome import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Which validated model stands behind an objective; area has none of its own in time or energy.
_MODEL_OF = {"latency_ms": "latency", "ttft_ms": "latency", "tokens_per_s": "latency", "energy_mj": "energy",
             "power_w": "energy", "edp": "energy", "area": "area", "cost": "area"}  # fmt: skip


def pareto_figure(
    front: Front,
    rows: Sequence[Row],
    constraints: Sequence[Constraint],
    errors: Mapping[str, float | None],
    stem: Path,
) -> tuple[Path, Path]:
    """Draw one panel per pair of objectives; returns the PNG and the SVG.

    rows: all designs of the study. errors: validated error fraction by model (latency, energy, area), None
    where nothing has been validated; those axes carry no bars and the caption says so.
    """
    names = front.objectives
    pairs = list(combinations(range(len(names)), 2)) or [(0, 0)]
    with figure_style():
        import matplotlib.pyplot as plt

        figure, panels = plt.subplots(
            1, len(pairs), figsize=(4.4 * len(pairs), 4.0), squeeze=False, layout="constrained"
        )
        for axes, (x, y) in zip(panels[0], pairs, strict=True):
            _panel(axes, front, rows, constraints, errors, names[x], names[y])
        figure.suptitle(f"{_title(front, rows)}\n{_caption(names, errors)}", fontsize=9, color=INK)
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        return save(figure, stem)


def _panel(
    axes: "Axes",
    front: Front,
    rows: Sequence[Row],
    constraints: Sequence[Constraint],
    errors: Mapping[str, float | None],
    x: str,
    y: str,
) -> None:
    of_class = [row for row in rows if row.device_class == front.device_class and row.outcome.simulated]
    front_keys = {row.key for row in front.rows}
    for status, marker, label in (("ok", "o", "simulated"), ("infeasible", "x", "constraint violated")):
        points = [row for row in of_class if row.outcome.status == status and row.key not in front_keys]
        if points:
            axes.scatter(*_xy(points, x, y), s=12, marker=marker, c=GREY, linewidths=0.8, label=label)
    for colour, template in zip(COLOURS, sorted({row.design.template for row in front.rows}), strict=False):
        points = [row for row in front.rows if row.design.template == template]
        xs, ys = _xy(points, x, y)
        axes.errorbar(
            xs, ys, xerr=_bars(xs, x, errors), yerr=_bars(ys, y, errors), fmt="o", ms=4.5, color=colour,
            elinewidth=1.1, capsize=3, label=f"front: {template}",
        )  # fmt: skip
    _stairs(axes, front, x, y)
    _marks(axes, front, x, y)
    log_axes(axes)
    _constraint_edges(axes, constraints, x, y, front.device_class)
    axes.set_xlabel(_label(x, front.device_class))
    axes.set_ylabel(_label(y, front.device_class))


def _label(name: str, device_class: str) -> str:
    if name == "area" and device_class == "fpga":
        return "used fraction of the FPGA"
    return quantity(name, unit_of(name, device_class))


def _stairs(axes: "Axes", front: Front, x: str, y: str) -> None:
    """The edge of what the front reaches in this pair of objectives alone."""
    if any(name == "tokens_per_s" for name in (x, y)):
        return
    best, edge = float("inf"), []
    for a, b in sorted(zip(*_xy(front.rows, x, y), strict=True)):
        if b < best:
            edge.append((a, b))
            best = b
    axes.step([a for a, _ in edge], [b for _, b in edge], where="post", lw=1, color=COLOURS[0], alpha=0.5)


def _marks(axes: "Axes", front: Front, x: str, y: str) -> None:
    knee = front.rows[front.knee].outcome.metrics
    axes.scatter(
        [knee[x]],
        [knee[y]],
        marker="*",
        s=150,
        c="#F0E442",
        edgecolors=INK,
        linewidths=0.8,
        zorder=5,
        label="knee",
    )
    for index, (name, position) in enumerate(front.best.items()):
        best = front.rows[position].outcome.metrics
        axes.scatter(
            [best[x]], [best[y]], marker="sD^vPX"[index % 6], s=48, facecolors="none", edgecolors=INK,
            linewidths=1.1, zorder=5, label=f"best {name}",
        )  # fmt: skip


def _constraint_edges(
    axes: "Axes", constraints: Sequence[Constraint], x: str, y: str, device_class: str
) -> None:
    area_metric = "used_fraction" if device_class == "fpga" else "area_mm2"
    for constraint in constraints:
        metric = "area" if constraint.metric == area_metric else constraint.metric
        if metric == x:
            axes.axvline(constraint.limit, color="#C0392B", ls="--", lw=0.9)
            axes.annotate(str(constraint), (constraint.limit, 1), xycoords=("data", "axes fraction"),
                          rotation=90, va="top", ha="right", fontsize=6.5, color="#C0392B")  # fmt: skip
        elif metric == y:
            axes.axhline(constraint.limit, color="#C0392B", ls="--", lw=0.9)
            axes.annotate(str(constraint), (1, constraint.limit), xycoords=("axes fraction", "data"),
                          va="bottom", ha="right", fontsize=6.5, color="#C0392B")  # fmt: skip


def _xy(rows: Sequence[Row], x: str, y: str) -> tuple[list[float], list[float]]:
    return [row.outcome.metrics[x] for row in rows], [row.outcome.metrics[y] for row in rows]


def _bars(values: Sequence[float], name: str, errors: Mapping[str, float | None]) -> Any:
    error = errors.get(_MODEL_OF.get(name, ""))
    return None if error is None else [value * error for value in values]


def _title(front: Front, rows: Sequence[Row]) -> str:
    simulated = sum(row.outcome.simulated and row.device_class == front.device_class for row in rows)
    devices = ", ".join(sorted({row.design.device for row in front.rows}))
    return f"{devices}: {len(front.rows)} designs on the front of {simulated} simulated"


def _caption(names: Sequence[str], errors: Mapping[str, float | None]) -> str:
    parts = []
    for model in dict.fromkeys(_MODEL_OF[name] for name in names if name in _MODEL_OF):
        error = errors.get(model)
        parts.append(
            f"{model} none yet (no bars)" if error is None else f"{model} {100 * error:.1f} % (bars)"
        )
    return "validated error of the models: " + ", ".join(parts)
