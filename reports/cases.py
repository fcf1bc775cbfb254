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
            panel.grid(axis="x", visible=False)
        axes[-1][0].set_xlabel("tokens")
        return save(figure, stem)


def _place(name: str, lengths: Sequence[str]) -> int:
    return next(lengths.index(part) for part in name.split("/") if part in lengths)
