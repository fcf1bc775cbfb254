"""One look for all figures: colours that survive colour blindness and print, and saving whole files."""

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's palette, black and yellow left out (both vanish on one of paper and screen).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
GREY = "#B8BDC4"
INK = "#1F2933"

# matplotlib types its settings as literals, so a plain mapping is handed over as Any.
_SETTINGS: Any = {
    "figure.dpi": 110,
    "savefig.dpi": 150,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#8A939E",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E9ED",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "tilewright",  # the same figure gives the same bytes
    "svg.fonttype": "none",
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw without a display, in the house's look, and close every figure afterwards."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    with mpl.rc_context(_SETTINGS):
        try:
            yield
        finally:
            plt.close("all")


def save(figure: "Figure", stem: Path) -> tuple[Path, Path]:
    """Write `stem`.png and `stem`.svg, each whole or not at all; returns both. Dates are left out."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    # The layout is solved once, for the first file; solving it again would cost as much as drawing.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    written = []
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
        handle, temporary = tempfile.mkstemp(dir=stem.parent, suffix=suffix, prefix=".figure")
        os.close(handle)
        try:
            figure.savefig(temporary, metadata=metadata)
            os.chmod(temporary, 0o644)
            os.replace(temporary, stem.with_suffix(suffix))
        finally:
            Path(temporary).unlink(missing_ok=True)
        written.append(stem.with_suffix(suffix))
    return written[0], written[1]


def log_axes(axes: "Axes") -> None:
    """Logarithmic axes with few plain labels, chosen for the data that is drawn by now."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        axis.set_major_locator(FixedLocator(_decade_ticks(low, high)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())  # unlabelled, and slow to draw


def _decade_ticks(low: float, high: float) -> list[float]:
    """Powers of ten in a wide range, 1-2-5 steps and finer ones in a narrower one."""
    decades = math.log10(high / low)
    steps: tuple[float, ...] = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8) if decades < 0.7 else (1, 2, 5)
    if decades > 2:
        steps = (1,)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [
        step * 10.0**exponent
        for exponent in exponents
        for step in steps
        if low <= step * 10.0**exponent <= high
    ]


def quantity(name: str, unit: str) -> str:
    """An axis label: the words of a metric's name without the unit, then the unit."""
    words = name
    for ending in ("_ms", "_mj", "_mm2", "_w", "_per_s"):
        words = words.removesuffix(ending)
    return f"{words.replace('_', ' ')} ({unit})" if unit not in ("", "1") else words.replace("_", " ")
