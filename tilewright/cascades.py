"""`tilewright cascade check`: what a cascade holds and costs at given sizes, and its picture."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tilewright.dataflow.cascade import Cascade, load_cascade
from tilewright.dataflow.cascade_summary import describe_cascade
from tilewright.dataflow.cascade_text import StatementView, cost_text, statement_views
from tilewright.runs import dimensions

#: Sizes of ranks that are neither stated nor have a default; small powers of two, so that splits divide.
ASSUMED_ELEMENTS = 64
ASSUMED_SPLIT_ELEMENTS = 16


def check(name_or_path: str, settings: list[str] | None, picture: Path | None = None) -> dict[str, Any]:
    """Bind a cascade to sizes (NAME=value settings, else its defaults, else assumed ones, listed) and summarise it.

    With `picture` (.svg or .png) it is drawn there. Raises InputError with line and column for a text that
    is no cascade, and for sizes that it cannot have.
    """
    cascade = load_cascade(name_or_path)
    stated = dimensions(settings) or {}
    assumed = {
        rank: size
        for rank, size in _assumed(cascade).items()
        if rank not in stated and rank.upper() not in stated
    }
    summary = describe_cascade(cascade, assumed | stated)
    graph = cascade.bind(assumed | stated)
    views = statement_views(cascade, graph)
    if picture is not None:
        from tilewright.reports.cascade_graph import draw_cascade

        draw_cascade(cascade, graph, summary, picture)
    return {
        "name": summary.name,
        "summary": cascade.summary,
        "assumed sizes": assumed,
        "ranks": dict(summary.ranks),
        "macs": summary.macs,
        "exp": summary.exponentials,
        "evaluations": dict(summary.evaluations),
        "reductions": dict(summary.reductions),
        "moves": dict(summary.moves),
        "passes": dict(summary.passes),
        "live footprint bytes": summary.footprint.total_bytes,
        "live footprint bytes, pointwise fused": summary.fused_footprint.total_bytes,
        "compulsory bytes": summary.traffic._asdict(),
        "picture": None if picture is None else str(picture),
        "drawing": drawing(views),
        "tensors": [_plain(asdict(tensor)) for tensor in summary.tensors],
        "operators": [_plain(asdict(operator)) for operator in summary.operators],
    }


def drawing(views: tuple[StatementView, ...]) -> list[str]:
    """The statements in execution order, a line each with its cost; bars mark what runs step by step."""
    titles = [f"{view.name}[{','.join(view.ranks)}]" for view in views]
    formulas = [view.formula if len(view.formula) <= 96 else f"{view.formula[:93]}..." for view in views]
    width, length = max(map(len, titles)), max(map(len, formulas))
    lines, serial = [], ""
    for view, title, formula in zip(views, titles, formulas, strict=True):
        if view.serial_rank and view.serial_rank != serial:
            lines.append(f"+ step by step along {view.serial_rank}")
        serial = view.serial_rank
        lines.append(
            f"{'|' if serial else ' '} {title:{width}} = {formula:{length}}   {cost_text(view)}".rstrip()
        )
    return lines


def _assumed(cascade: Cascade) -> dict[str, int]:
    inner = {parts[1] for parts in cascade.splits.values()}
    return {rank: ASSUMED_SPLIT_ELEMENTS if rank in inner else ASSUMED_ELEMENTS for rank in cascade.unsized}


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    """Tuples as text, for a table and for JSON alike."""
    return {
        key: " ".join(map(str, value)) if isinstance(value, tuple) else value
        for key, value in entry.items()
    }  # fmt: skip
