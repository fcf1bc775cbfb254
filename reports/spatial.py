"""Figures of spatial pipelines: how far each module is from a published figure, and when each of them runs."""

from collections.abc import Sequence
from pathlib import Path

from tilewright.reports.style import COLOURS, GREY, figure_style, save


def spatial_figure(
    title: str,
    errors: Sequence[tuple[str, float]],
    bars: Sequence[tuple[str, int, int]],
    clock_mhz: float,
    stem: Path,
) -> tuple[Path, Path]:
    """Errors (name, fraction) above; modules (name, first and last cycle) below, the colours those of regions.

    A region is what stands before the slash of a name.
    """
    with figure_style():
        import matplotlib.pyplot as plt

        figure, (top, below) = plt.subplots(
            2, 1, figsize=(7.2, 1.4 + 0.17 * (len(errors) + len(bars))), layout="constrained",
            height_ratios=(len(errors) + 2, len(bars)),
        )  # fmt: skip
        regions = list(dict.fromkeys(_region(name) for name, *_ in bars))
        colour = {region: COLOURS[i % len(COLOURS)] for i, region in enumerate(regions)}
        for place, (name, error) in enumerate(errors):
            top.plot(100 * error, place, "o", markersize=4, color=colour.get(_region(name), GREY))
        top.axvline(0, color=GREY, linewidth=1)
        top.set_yticks(range(len(errors)), [name for name, _ in errors], fontsize=7)
        top.invert_yaxis()
        top.set_xlabel("ours less published, %")
        top.set_title(title, loc="left")
        to_ms = 1e-3 / clock_mhz
        for place, (name, first, last) in enumerate(bars):
            below.barh(
                place, (last - first) * to_ms, left=first * to_ms, height=0.7, color=colour[_region(name)]
            )
        below.set_yticks(range(len(bars)), [name for name, *_ in bars], fontsize=7)
        below.invert_yaxis()
        below.set_xlabel("ms from the start of the layer, simulated")
        for panel in (top, below):
            panel.grid(axis="y", visible=False)
        return save(figure, stem)


def _region(name: str) -> str:
    return name.split("/", maxsplit=1)[0]
