"""`tilewright cascade check`: what a cascade holds and costs at given sizes."""

from dataclasses import asdict
from typing import Any

from tilewright.dataflow.cascade import Cascade, load_cascade
from tilewright.dataflow.cascade_summary import describe_cascade
from tilewright.dataflow.errors import InputError
from tilewright.runs import scalar

#: Sizes of ranks that are not stated; small powers of two, so that grouped heads and splits divide.
ASSUMED_ELEMENTS = 64
ASSUMED_SPLIT_ELEMENTS = 16


def check(name_or_path: str, settings: list[str] | None) -> dict[str, Any]:
    """Bind a cascade to sizes (NAME=value settings, else assumed ones, listed) and summarise it.

    Raises InputError with line and column for a text that is no cascade.
    """
    cascade = load_cascade(name_or_path)
    stated = _stated(settings)
    assumed = {
        rank: size
        for rank, size in _assumed(cascade).items()
        if rank not in stated and rank.upper() not in stated
    }
    summary = describe_cascade(cascade, assumed | stated)
    return {
        "name": summary.name,
        "assumed sizes": assumed,
        "ranks": dict(summary.ranks),
        "macs": summary.macs,
        "exp": summary.exponentials,
        "evaluations": dict(summary.evaluations),
        "reductions": dict(summary.reductions),
        "passes": dict(summary.passes),
        "live footprint bytes": summary.footprint.total_bytes,
        "live footprint bytes, pointwise fused": summary.fused_footprint.total_bytes,
        "compulsory bytes": summary.traffic._asdict(),
        "tensors": [_plain(asdict(tensor)) for tensor in summary.tensors],
        "operators": [_plain(asdict(operator)) for operator in summary.operators],
    }


def _assumed(cascade: Cascade) -> dict[str, int]:
    outer = {parts[0] for parts in cascade.splits.values()}
    inner = {parts[1] for parts in cascade.splits.values()}
    return {
        rank: ASSUMED_SPLIT_ELEMENTS if rank in inner else ASSUMED_ELEMENTS
        for rank in cascade.ranks
        if rank not in outer
    }


def _stated(settings: list[str] | None) -> dict[str, int | float]:
    found: dict[str, int | float] = {}
    for setting in settings or []:
        name, _, text = setting.partition("=")
        value = scalar(text) if text else None
        if not name or isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"--set takes RANK=number, got {setting!r}")
        found[name] = value
    return found


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    """Tuples as text, for a table and for JSON alike."""
    return {
        key: " ".join(map(str, value)) if isinstance(value, tuple) else value
        for key, value in entry.items()
    }  # fmt: skip
