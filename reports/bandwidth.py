"""Bandwidth over time: what crosses the memory's interface during one layer of each class, by kind of tensor."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tilewright.reports.style import COLOURS, GREY, INK, figure_style, save

#: Layer classes drawn, those with most time; the figure says which are left out.
_MOST_CLASSES = 3
#: Series drawn one by one, those that move most; the rest are summed as "other".
_MOST_SERIES = 6


def bandwidth_figure(report: Mapping[str, Any], stem: Path) -> tuple[Path, Path]:
    """Stacked GB/s over the time of one layer; `report` is a `Report.to_dict()` with its `memory`.

    The dashed line is the peak of the channels in use.
    """
    memory = report["memory"]
    classes = sorted(memory["over_time"], key=lambda one: -one["layers"] * one["edges_us"][-1])
    shown, left_out = classes[:_MOST_CLASSES], classes[_MOST_CLASSES:]
    names = series_names(shown)
    with figure_style():
        import matplotlib.pyplot as plt

        figure, rows = plt.subplots(
            len(shown), 1, figsize=(9.0, 1.0 + 2.1 * len(shown)), layout="constrained", squeeze=False
        )
        for axes, one in zip(rows[:, 0], shown, strict=True):
            _stack(axes, one, names)
            axes.axhline(memory["peak_gb_per_s"], color=INK, lw=1.0, ls="--")
            axes.set_ylim(0, 1.08 * memory["peak_gb_per_s"])
            axes.set_xlim(0, one["edges_us"][-1])
            axes.set_ylabel("GB/s")
            axes.set_title(f"{one['layer_class']} (1 of {one['layers']})", loc="left")
        rows[-1, 0].set_xlabel("time from the start of the layer (us)")
        handles, labels = rows[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
        without = f"; not drawn: {', '.join(one['layer_class'] for one in left_out)}" if left_out else ""
        figure.suptitle(
            f"{report['workload']} on {report['device']}: memory traffic, {memory['n_channels']} x"
            f" {memory['config']}, {memory['peak_gb_per_s']:.4g} GB/s at most{without}",
            fontsize=10,
            color=INK,
        )
        return save(figure, stem)


def series_names(classes: list[Mapping[str, Any]]) -> list[str]:
    """The series of all classes, those that move most first; small ones are left to "other"."""
    moved: dict[str, float] = {}
    for one in classes:
        width = one["edges_us"][1] * one["layers"]
        for name, row in one["gb_per_s"].items():
            moved[name] = moved.get(name, 0.0) + width * sum(row)
    names = sorted((name for name in moved if moved[name] > 0), key=lambda name: (-moved[name], name))
    return names if len(names) <= _MOST_SERIES else names[: _MOST_SERIES - 1]


def _stack(axes: Any, one: Mapping[str, Any], names: list[str]) -> None:
    edges, rates = one["edges_us"], one["gb_per_s"]
    zero = [0.0] * (len(edges) - 1)
    rows = [rates.get(name, zero) for name in names]
    rest = [row for name, row in rates.items() if name not in names and any(row)]
    other = [sum(values) for values in zip(*rest, strict=True)] if rest else zero
    colours = [*COLOURS[: len(names)], GREY]
    base = zero
    for name, row, colour in zip([*names, "other"], [*rows, other], colours, strict=True):
        top = [low + value for low, value in zip(base, row, strict=True)]
        if name != "other" or any(row):
            axes.stairs(top, edges, baseline=base, fill=True, color=colour, label=name)
        base = top
