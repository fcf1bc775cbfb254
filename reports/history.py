"""How a search went (hypervolume over generations) and what a sweep found (one line per series)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tilewright.reports.style import COLOURS, figure_style, quantity, save
from tilewright.search.front import Fronts

if TYPE_CHECKING:
    import pandas as pd


def hypervolume_figure(fronts: Fronts, stem: Path) -> tuple[Path, Path]:
    """Hypervolume over generations, one line for each device class, as shares of its last value."""
    with figure_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(5.6, 3.2), layout="constrained")
        for colour, front in zip(COLOURS, fronts.fronts, strict=False):
            last = front.history[-1].hypervolume if front.history else 0.0
            if last > 0:
                axes.plot(
                    [generation.number for generation in front.history],
                    [generation.hypervolume / last for generation in front.history],
                    color=colour,
                    label=f"{front.device_class} ({last:.4g} at the end)",
                )
        axes.set(xlabel="generation", ylabel="hypervolume / last", ylim=(0, 1.05))
        axes.legend(loc="lower right")
        return save(figure, stem)


def sweep_figure(
    table: "pd.DataFrame", axes_names: Sequence[str], metrics: Mapping[str, str], stem: Path
) -> tuple[Path, Path]:
    """One panel per metric: the first numeric axis along x, a line for each combination of the others.

    table: one row per evaluated point, with the columns named by `axes_names` and `metrics` (name: unit).
    """
    import pandas as pd

    numeric = [name for name in axes_names if pd.api.types.is_numeric_dtype(table[name])]
    x = numeric[0] if numeric else axes_names[0]
    others = [name for name in axes_names if name != x]
    with figure_style():
        import matplotlib.pyplot as plt

        figure, panels = plt.subplots(
            1, len(metrics), figsize=(4.2 * len(metrics), 3.6), squeeze=False, layout="constrained"
        )
        groups = [("", table)] if not others else list(table.groupby(others, sort=True))
        for panel, (metric, unit) in zip(panels[0], metrics.items(), strict=True):
            for index, (key, group) in enumerate(groups):
                label = ", ".join(map(str, key)) if isinstance(key, tuple) else str(key)
                ordered = group.sort_values(x)
                panel.plot(ordered[x], ordered[metric], "o-", ms=4, lw=1,
                           color=COLOURS[index % len(COLOURS)], label=label)  # fmt: skip
            panel.set(xlabel=x, ylabel=quantity(metric, unit), yscale="log")
            if numeric and table[x].min() > 0 and table[x].max() / table[x].min() > 8:
                panel.set_xscale("log")
        if others:
            handles, labels = panels[0][0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)),
                          title=", ".join(others))  # fmt: skip
        return save(figure, stem)
