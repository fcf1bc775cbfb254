"""Figures of reproduced cases: how far each point is from its published value."""

from collections.abc import Sequence
from pathlib import Path

from tilewright.reports.style import COLOURS, GREY, figure_style, save


def ratio_figure(
    title: str,
    points: Sequence[tuple[str, str, float | None]],
    gains: Sequence[tuple[str, float]],
    lengths: Sequence[str],
    stem: Path,
) -> tuple[Path, Path]:
    """Errors of `points` (id, quantity, error as a fraction or None) by length, one colour a quantity.

    A length is the part of an id between slashes that `lengths` lists, in their order. `gains` (id, speed-up)
    add a panel: what our own choice of schedule gains over the published one.
    """
    with figure_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(
            1 + bool(gains), 1, figsize=(7.2, 3.2 + 2.4 * bool(gains)), squeeze=False, layout="constrained"
        )
        top = axes[0][0]
        quantities = list(dict.fromkeys(quantity for _, quantity, _ in points))
        for number, quantity in enumerate(quantities):
            shift = 0.7 * ((number + 0.5) / len(quantities) - 0.5)
            found = [
                (_place(name, lengths) + shift, 100 * error)
                for name, own, error in points
                if own == quantity and error is not None
            ]
            if found:
                colour = COLOURS[number % len(COLOURS)]
                top.scatter(*zip(*found, strict=True), s=16, color=colour, label=quantity, linewidths=0)
        top.axhline(0, color=GREY, linewidth=1)
        top.set_ylabel("ours less published, %")
        top.set_title(title, loc="left")
        top.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        if gains:
            below = axes[1][0]
            below.scatter(
                [_place(name, lengths) for name, _ in gains], [gain for _, gain in gains], s=16,
                color=COLOURS[2], linewidths=0,
            )  # fmt: skip
            below.axhline(1, color=GREY, linewidth=1)
            below.set_ylabel("speed-up of our own choice")
        for panel in axes[:, 0]:
            panel.set_xticks(range(len(lengths)), lengths)
            panel.set_xlim(-0.6, len(lengths) - 0.4)
            panel.grid(axis="x", visible=False)
        axes[-1][0].set_xlabel("tokens")
        return save(figure, stem)


def pair_figure(
    title: str, unit: str, points: Sequence[tuple[str, float, float | None]], stem: Path
) -> tuple[Path, Path]:
    """Bars of ours with the published value (None where there is none) as a mark; logarithmic."""
    with figure_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(max(4.5, 0.6 * len(points) + 1.5), 3.4), layout="constrained")
        axes.bar(
            range(len(points)), [ours for _, ours, _ in points], color=COLOURS[0], label="ours", width=0.6
        )
        known = [(place, value) for place, (_, _, value) in enumerate(points) if value is not None]
        if known:
            axes.scatter(
                [place for place, _ in known], [value for _, value in known], marker="_", s=420,
                color=COLOURS[1], label="published", zorder=3,
            )  # fmt: skip
        axes.set_yscale("log")
        axes.set_xticks(range(len(points)), [name for name, _, _ in points], rotation=30, ha="right")
        axes.set_ylabel(unit)
        axes.set_title(title, loc="left")
        axes.legend(loc="upper left")
        axes.grid(axis="x", visible=False)
        return save(figure, stem)


def _place(name: str, lengths: Sequence[str]) -> int:
    return next(lengths.index(part) for part in name.split("/") if part in lengths)
