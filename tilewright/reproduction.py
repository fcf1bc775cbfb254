"""`tilewright reproduce`: run a case, write its tables and its figure."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from tilewright.cases.case import case_named
from tilewright.dataflow.textfile import write_whole


def run(name: str, out: Path | None) -> dict[str, Any]:
    """The object of `reproduce --json`; with `out`, points, claims and alternatives as CSV and a figure.

    Raises InputError for an unknown case.
    """
    case = case_named(name)
    result = case.run()
    answer = result.to_dict()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for table in ("points", "claims", "alternatives"):
            if answer[table]:
                write_whole(out / f"{table}.csv", _as_csv(answer[table]))
        case.draw(result, out / name)
    return answer


def summaries(points: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Errors by quantity, over the points whose published value the project carries."""
    by_quantity: dict[str, list[Mapping[str, Any]]] = {}
    for point in points:
        by_quantity.setdefault(point["quantity"], []).append(point)
    rows = []
    for quantity, own in by_quantity.items():
        errors = [abs(one["error_fraction"]) for one in own if one["error_fraction"] is not None]
        rows.append(
            {
                "quantity": quantity,
                "unit": own[0]["unit"],
                "n_points": len(own),
                "n_published": len(errors),
                "mean_error_%": 100 * mean(errors) if errors else None,
                "worst_error_%": 100 * max(errors) if errors else None,
            }
        )
    return rows


def _as_csv(rows: list[dict[str, Any]]) -> str:
    import pandas as pd

    return str(pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))
