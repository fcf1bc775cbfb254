"""The figure of a calibration: what the model says against what was measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tilewright.reports.style import COLOURS, GREY, INK, figure_style, log_axes, save

_MARKERS = "osD^vPX*"


def calibration_figure(
    points: Mapping[str, Sequence[tuple[float, float, float]]], unit: str, title: str, stem: Path
) -> tuple[Path, Path]:
    """Draw every set's (measured, ours, ours held out) in `unit`, and the errors; returns the PNG and the SVG.

    Filled marks are of the constants fitted to all points, hollow ones of those fitted without the point's fold.
    The band is 10 % to either side.
    """
    with figure_style():
        import matplotlib.pyplot as plt

        figure, (left, right) = plt.subplots(1, 2, figsize=(11.0, 4.6), layout="constrained")
        values = [value for rows in points.values() for value in _values(rows)]
        ends = [min(values) / 1.3, max(values) * 1.3]
        left.fill_between(
            ends, [0.9 * end for end in ends], [1.1 * end for end in ends], color=GREY, alpha=0.35, lw=0
        )
        left.plot(ends, ends, color=INK, lw=0.9)
        right.axhspan(-10, 10, color=GREY, alpha=0.35, lw=0)
        right.axhline(0, color=INK, lw=0.9)
        for number, (name, rows) in enumerate(points.items()):
            measured, ours, held_out = zip(*rows, strict=True)
            look = {"marker": _MARKERS[number // len(COLOURS) % len(_MARKERS)], "ls": "", "ms": 5}
            colour = COLOURS[number % len(COLOURS)]
            for axes, (hollow, filled) in (
                (left, (held_out, ours)),
                (right, (_percent(held_out, measured), _percent(ours, measured))),
            ):
                axes.plot(measured, hollow, mfc="none", mec=colour, **look)
                axes.plot(measured, filled, mfc=colour, mec="none", label=name, **look)
        for axes in (left, right):
            axes.set_xscale("log")
            axes.set_xlim(ends)
            axes.set_xlabel(f"measured ({unit})")
        left.set_yscale("log")
        left.set_ylim(ends)
        log_axes(left)
        left.set_ylabel(f"model ({unit})")
        right.set_ylabel("model over measured, less 1 (%)")
        figure.suptitle(title, fontsize=9, color=INK)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7)
        return save(figure, stem)


def _values(rows: Sequence[tuple[float, float, float]]) -> list[float]:
    """All figures of a set."""
    return [value for row in rows for value in row]


def _percent(ours: Sequence[float], measured: Sequence[float]) -> list[float]:
    return [100 * (one / true - 1) for one, true in zip(ours, measured, strict=True)]
