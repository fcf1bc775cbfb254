"""What `tilewright reproduce` answers: points and claims of one published system, ours beside them."""

import csv
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from tilewright.dataflow.errors import InputError, nearest


@dataclass(frozen=True, slots=True)
class Point:
    """One figure; `published` is None where the project does not carry the published value."""

    id: str
    quantity: str
    unit: str
    ours: float
    published: float | None = None

    @property
    def error_fraction(self) -> float | None:
        """ours / published - 1; of a share (unit "fraction") the difference."""
        if self.published is None:
            return None
        return self.ours - self.published if self.unit == "fraction" else self.ours / self.published - 1


@dataclass(frozen=True, slots=True)
class Claim:
    """What a paper says of its system as a whole, and the range in which ours agrees."""

    name: str
    published: float
    low: float
    high: float
    ours: float

    @property
    def holds(self) -> bool:
        return self.low <= self.ours <= self.high


@dataclass(frozen=True, slots=True)
class CaseResult:
    """`alternatives`: what our own search would do instead of the published choice, by point."""

    case: str
    points: tuple[Point, ...]
    claims: tuple[Claim, ...] = ()
    alternatives: tuple[Mapping[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The object of `reproduce --json`."""
        return {
            "case": self.case,
            "points": [asdict(one) | {"error_fraction": one.error_fraction} for one in self.points],
            "claims": [asdict(one) | {"holds": one.holds} for one in self.claims],
            "alternatives": [dict(one) for one in self.alternatives],
        }


@dataclass(frozen=True, slots=True)
class Case:
    """A published system: how it is run, and what its figure shows."""

    name: str
    summary: str
    run: Callable[[], CaseResult]
    draw: Callable[[CaseResult, Path], None]


def cases() -> Mapping[str, Case]:
    """All cases by name."""
    from tilewright.cases import allo_gpt2, dfx, flat, fusemax, intar

    found = (allo_gpt2.CASE, dfx.CASE, flat.CASE, fusemax.CASE, intar.CASE)
    return {case.name: case for case in found}


def case_named(name: str) -> Case:
    """Raises InputError for an unknown name (closest one named)."""
    known = cases()
    if name not in known:
        raise InputError(f"case {name!r} is unknown{nearest(name, list(known))}; known: {', '.join(known)}")
    return known[name]


@cache
def rows(file: str) -> tuple[dict[str, str], ...]:
    """The rows of a data file of the cases."""
    text = (files("tilewright.cases") / "data" / file).read_text(encoding="utf-8")
    return tuple(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def published(case: str) -> dict[str, float]:
    """The published figures that the project carries, by id."""
    return {row["id"]: float(row["published"]) for row in rows(f"{case}.csv")}


def design_file(case: str, name: str) -> Path:
    """The DESIGN.yaml of a case that users find under examples/cases."""
    return Path(str(files("tilewright.case_designs"))) / case / f"{name}.yaml"
