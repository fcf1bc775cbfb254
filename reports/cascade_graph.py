"""The picture of a cascade: its statements in execution order, what they read, and its recurrences."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewright.dataflow.cascade import Cascade
from tilewright.dataflow.cascade_summary import CascadeSummary
from tilewright.dataflow.cascade_text import StatementView, cost_text, short, statement_views
from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Kind
from tilewright.reports.style import COLOURS, GREY, INK, figure_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: What a picture can be stored as, and the statements that one holds.
SUFFIXES = (".svg", ".png")
MAX_STATEMENTS = 60

#: Sizes in points: a character of the fixed font at 8 pt, a row, a box, a live-in, a lane of a tensor.
_CHARACTER, _ROW, _BOX, _PILL, _LANE, _GAP = 4.85, 58.0, 42.0, 15.0, 14.0, 34.0
_FONT: Any = {"family": "DejaVu Sans Mono", "size": 8}
_MAX_FORMULA = 108

_COLOUR_BY_KIND = {
    Kind.CONTRACTION: COLOURS[0],
    Kind.POINTWISE: COLOURS[5],
    Kind.REDUCTION: COLOURS[2],
    Kind.SCAN: COLOURS[3],
    Kind.GATHER: COLOURS[1],
}
_WORD_BY_KIND = {
    Kind.CONTRACTION: "product and sum",
    Kind.POINTWISE: "map",
    Kind.REDUCTION: "reduction",
    Kind.SCAN: "recurrence",
    Kind.GATHER: "gather",
}


@dataclass(frozen=True, slots=True)
class _Lane:
    """A tensor's way beside the boxes, from the row that writes it to those that read it."""

    name: str
    source: int
    targets: tuple[int, ...]
    steps: int  # steps back, 0 for a read of the same step

    @property
    def span(self) -> tuple[int, int]:
        rows = (self.source, *self.targets)
        return min(rows), max(rows)


def draw_cascade(cascade: Cascade, graph: Graph, summary: CascadeSummary, file: Path) -> None:
    """Write the picture of `cascade` bound to sizes as `graph`; the same graph gives the same bytes.

    Raises InputError for a suffix other than .svg and .png, and for more than MAX_STATEMENTS statements.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise InputError(f"{file}: a picture is stored as {' or '.join(SUFFIXES)}")
    views = statement_views(cascade, graph)
    if len(views) > MAX_STATEMENTS:
        raise InputError(f"{file}: a picture holds at most {MAX_STATEMENTS} statements, got {len(views)}")
    with figure_style():
        import matplotlib.pyplot as plt

        sheet = _Sheet(cascade, graph, summary, views)
        figure = plt.figure(figsize=(sheet.width / 72, sheet.height / 72))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, sheet.width), ylim=(sheet.height, 0))
        axes.set_axis_off()
        sheet.draw(axes)
        metadata = {"Software": None} if file.suffix.lower() == ".png" else {"Date": None}
        handle, draft = tempfile.mkstemp(dir=file.parent, suffix=file.suffix, prefix=".picture")
        os.close(handle)
        try:
            figure.savefig(draft, metadata=metadata)
            os.chmod(draft, 0o644)
            os.replace(draft, file)
        finally:
            Path(draft).unlink(missing_ok=True)


def lanes(views: Sequence[StatementView]) -> tuple[tuple[_Lane, int], ...]:
    """The ways of tensors that are read elsewhere than in the next row, each with the number of its lane.

    Ways whose rows overlap have different lanes.
    """
    row = {view.name: position for position, view in enumerate(views)}
    found: list[_Lane] = []
    for position, view in enumerate(views):
        later = tuple(i for i, v in enumerate(views) if view.name in v.reads and i > position + 1)
        if later:
            found.append(_Lane(view.name, position, later, 0))
        back: dict[int, list[int]] = {}
        for i, other in enumerate(views):
            if steps := dict(other.past).get(view.name):
                back.setdefault(steps, []).append(i)
        found += [_Lane(view.name, row[view.name], tuple(rows), steps) for steps, rows in back.items()]
    ends: list[int] = []
    placed: dict[_Lane, int] = {}
    for lane in sorted(found, key=lambda lane: (lane.span, lane.name, lane.steps)):
        first, last = lane.span
        free = next((k for k, end in enumerate(ends) if end < first), len(ends))
        ends[free : free + 1] = [last]
        placed[lane] = free
    return tuple(placed.items())


class _Sheet:
    """Where everything stands, in points from the upper left corner."""

    def __init__(
        self, cascade: Cascade, graph: Graph, summary: CascadeSummary, views: tuple[StatementView, ...]
    ) -> None:
        self._cascade, self._graph, self._summary, self._views = cascade, graph, summary, views
        self._lanes = lanes(views)
        self._live_ins = [[name for name in view.reads if name in graph.inputs] for view in views]
        self._rows: list[float] = []
        y = 66.0 + 11 * len(self._header())
        for position, view in enumerate(views):
            if view.serial_rank != (views[position - 1].serial_rank if position else ""):
                y += 22.0
            pills = len(self._live_ins[position])
            height = max(_BOX, pills * (_PILL + 3) - 3)
            self._rows.append(y + height / 2)
            y += height + _ROW - _BOX
        n_lanes = 1 + max((number for _, number in self._lanes), default=-1)
        names = [_tensor_text(graph, name) for live in self._live_ins for name in live]
        self._pill_width = 12 + _CHARACTER * max(map(len, names), default=0)
        texts = [
            line
            for view in views
            for line in (f"{_title(view)}          {_shape(view)}", _formula(view), cost_text(view))
        ]
        self._box_width = 18 + _CHARACTER * max(map(len, texts))
        self._left = 24 + (self._pill_width + _GAP if names else 0)
        self._right = self._left + self._box_width
        heads = [cascade.summary, *self._header()]
        self.width = max(
            self._right + 40 + n_lanes * _LANE + 40, 48 + _CHARACTER * max(map(len, heads)) * 1.02
        )
        self.height = y + 54

    def _header(self) -> list[str]:
        outer = {parts[0] for parts in self._cascade.splits.values()}
        sizes = [f"{rank}={size}" for rank, size in self._summary.ranks if rank not in outer]
        lines = _wrapped("ranks ", sizes)
        for rank, (first, second) in self._cascade.splits.items():
            n_outer, n_inner = self._graph.size(first), self._graph.size(second)
            lines.append(f"split {rank} -> {first}, {second}: {n_outer} x {n_inner}")
        return lines[:3]

    def _footer(self) -> list[str]:
        summary = self._summary
        passes = (
            ", ".join(f"{rank} {count}" for rank, count in summary.passes if count > 1)
            or "one over each rank"
        )
        return [
            f"{short(summary.macs)} MAC, {short(summary.exponentials)} exp; passes: {passes}",
            f"live at most {short(summary.footprint.total_bytes)}B ({short(summary.fused_footprint.total_bytes)}B with"
            f" maps fused); least traffic {short(summary.traffic.read_bytes)}B in,"
            f" {short(summary.traffic.write_bytes)}B out",
        ]

    def draw(self, axes: "Axes") -> None:
        axes.text(24, 26, self._cascade.name, size=13, weight="bold", color=INK, va="center")
        axes.text(24, 44, self._cascade.summary, size=8.5, color=INK, va="center")
        for position, line in enumerate(self._header()):
            axes.text(24, 59 + 11 * position, line, color="#52606D", va="center", **_FONT)
        self._draw_recurrences(axes)
        for position, view in enumerate(self._views):
            self._draw_statement(axes, position, view)
        arrivals = self._arrivals()
        for lane, number in self._lanes:
            self._draw_lane(axes, lane, number, arrivals)
        for position, line in enumerate(self._footer()):
            axes.text(24, self.height - 34 + 12 * position, line, color=INK, va="center", **_FONT)
        self._draw_key(axes)

    def _draw_key(self, axes: "Axes") -> None:
        kinds = [kind for kind in _COLOUR_BY_KIND if any(view.kind is kind for view in self._views)]
        x = self.width - 24 - sum(16 + _CHARACTER * len(_WORD_BY_KIND[kind]) + 8 for kind in kinds)
        if x < 24 + 8.2 * len(self._cascade.name):
            return
        for kind in kinds:
            axes.plot([x + 4], [26], "s", color=_COLOUR_BY_KIND[kind], markersize=7)
            axes.text(x + 12, 26, _WORD_BY_KIND[kind], color=INK, va="center", **_FONT)
            x += 24 + _CHARACTER * len(_WORD_BY_KIND[kind])

    def _draw_recurrences(self, axes: "Axes") -> None:
        """A frame around the rows that run together, step by step."""
        from matplotlib.patches import FancyBboxPatch

        start = 0
        for end in range(1, len(self._views) + 1):
            serial = self._views[start].serial_rank
            if end < len(self._views) and self._views[end].serial_rank == serial:
                continue
            if serial:
                top, bottom = (
                    self._rows[start] - self._half(start) - 20,
                    self._rows[end - 1] + self._half(end - 1) + 8,
                )
                left, right = 12, self.width - 12
                frame = FancyBboxPatch(
                    (left, top), right - left, bottom - top, boxstyle="round,pad=0,rounding_size=8",
                    facecolor="#F7F0F5", edgecolor=COLOURS[3], linewidth=0.9, linestyle=(0, (4, 2)), zorder=0,
                )  # fmt: skip
                axes.add_patch(frame)
                steps = self._graph.size(serial)
                axes.text(
                    left + 10,
                    top + 9,
                    f"step by step: {serial} = 0 .. {steps - 1}",
                    color="#8C4A73",
                    va="center",
                    **_FONT,
                )
            start = end

    def _half(self, position: int) -> float:
        """Half the height of a row's box."""
        return max(_BOX, len(self._live_ins[position]) * (_PILL + 3) - 3) / 2

    def _draw_statement(self, axes: "Axes", position: int, view: StatementView) -> None:
        from matplotlib.patches import FancyBboxPatch, Rectangle

        y, colour = self._rows[position], _COLOUR_BY_KIND.get(view.kind, GREY)
        half = self._half(position)
        box = FancyBboxPatch(
            (self._left, y - half), self._box_width, 2 * half, boxstyle="round,pad=0,rounding_size=4",
            facecolor="white", edgecolor=colour, linewidth=1.1, zorder=2,
        )  # fmt: skip
        axes.add_patch(box)
        axes.add_patch(
            Rectangle((self._left, y - half + 3), 4, 2 * half - 6, color=colour, linewidth=0, zorder=3)
        )
        is_output = view.name in self._graph.outputs
        x = self._left + 11
        axes.text(
            x,
            y - 12,
            _title(view) + ("  (out)" if is_output else ""),
            weight="bold",
            color=INK,
            va="center",
            zorder=4,
            **_FONT,
        )
        axes.text(
            self._right - 7, y - 12, _shape(view), color="#52606D", va="center", ha="right", zorder=4, **_FONT
        )
        axes.text(x, y + 0.5, _formula(view), color=INK, va="center", zorder=4, **_FONT)
        axes.text(x, y + 13, cost_text(view), color="#52606D", va="center", zorder=4, **_FONT)
        self._draw_live_ins(axes, position)
        if position and self._views[position - 1].name in view.reads:
            above = self._rows[position - 1] + self._half(position - 1)
            self._arrow(
                axes, (self._left + self._box_width / 2, above), (self._left + self._box_width / 2, y - half)
            )

    def _draw_live_ins(self, axes: "Axes", position: int) -> None:
        from matplotlib.patches import FancyBboxPatch

        names = self._live_ins[position]
        first = self._rows[position] - (len(names) - 1) * (_PILL + 3) / 2
        for number, name in enumerate(names):
            y = first + number * (_PILL + 3)
            pill = FancyBboxPatch(
                (24, y - _PILL / 2), self._pill_width, _PILL, boxstyle=f"round,pad=0,rounding_size={_PILL / 2}",
                facecolor="#EEF2F6", edgecolor="#8A939E", linewidth=0.7, zorder=2,
            )  # fmt: skip
            axes.add_patch(pill)
            axes.text(
                24 + self._pill_width / 2, y + 0.3, _tensor_text(self._graph, name), color=INK, ha="center",
                va="center", zorder=4, **_FONT,
            )  # fmt: skip
            self._arrow(axes, (24 + self._pill_width, y), (self._left, y))

    def _arrivals(self) -> Mapping[tuple[_Lane, int], float]:
        """Where a lane meets the box of each row that it leads to: one below the other, later steps first."""
        found: dict[tuple[_Lane, int], float] = {}
        for row, y in enumerate(self._rows):
            arriving = sorted(
                (lane for lane, _ in self._lanes if row in lane.targets),
                key=lambda lane: (-lane.steps, lane.source),
            )
            apart = min(7.0, 24.0 / max(1, len(arriving)))
            for place, lane in enumerate(arriving):
                found[lane, row] = y - 15 + place * apart
        return found

    def _draw_lane(
        self, axes: "Axes", lane: _Lane, number: int, arrivals: Mapping[tuple[_Lane, int], float]
    ) -> None:
        x = self._right + 22 + number * _LANE
        colour = COLOURS[3] if lane.steps else "#6B7683"
        style = (0, (3, 2)) if lane.steps else "-"
        start = self._rows[lane.source] + self._half(lane.source) - (5 if lane.steps else 9)
        ends = [arrivals[lane, target] for target in lane.targets]
        low, high = min([start, *ends]), max([start, *ends])
        axes.plot([self._right, x], [start, start], color=colour, linewidth=0.9, linestyle=style, zorder=1)
        axes.plot([x, x], [low, high], color=colour, linewidth=0.9, linestyle=style, zorder=1)
        for end in ends:
            self._arrow(axes, (x, end), (self._right, end), colour, style)
        corners = sorted([start, *ends])
        length, middle = max((after - before, (after + before) / 2) for before, after in pairwise(corners))
        label = f"{lane.name} -{lane.steps}" if lane.steps else lane.name
        axes.text(
            x, middle, label, color=colour, rotation=90 if length > 4 * len(label) + 6 else 0, ha="center", va="center",
            zorder=4, family=_FONT["family"], size=6.5, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip

    def _arrow(
        self,
        axes: "Axes",
        start: tuple[float, float],
        end: tuple[float, float],
        colour: str = "#6B7683",
        style: object = "-",
    ) -> None:
        axes.annotate(
            "", xy=end, xytext=start, zorder=1,
            arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 0.9, "linestyle": style,
                        "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8},
        )  # fmt: skip


def _title(view: StatementView) -> str:
    return f"{view.name}[{','.join(view.ranks)}]"


def _shape(view: StatementView) -> str:
    return "x".join(map(str, view.shape)) + f", {short(view.n_bytes)}B"


def _formula(view: StatementView) -> str:
    text = f"= {view.formula}"
    return text if len(text) <= _MAX_FORMULA else f"{text[: _MAX_FORMULA - 3]}..."


def _tensor_text(graph: Graph, name: str) -> str:
    return f"{name}[{','.join(graph.tensor_by_name[name].ranks)}]"


def _wrapped(start: str, words: Sequence[str], width: int = 100) -> list[str]:
    """The words in lines of at most `width` characters, the first one behind `start`."""
    lines = [start]
    for word in words:
        if len(lines[-1]) + len(word) > width:
            lines.append(" " * len(start))
        lines[-1] += f"{word} "
    return [line.rstrip() for line in lines]
