"""Timing constraints between DRAM commands, and the flat tables that the kernels read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tilewright.dataflow.errors import InputError, nearest

Scope = Literal["channel", "rank", "stack_id", "bank_group", "bank"]
SCOPES = ("channel", "rank", "stack_id", "bank_group", "bank")
COMMANDS = ("ACT", "PRE", "RD", "WR", "RDA", "WRA", "PREA", "REF")
ACT, PRE, RD, WR, RDA, WRA, PREA, REF = range(8)
CHANNEL, RANK, STACK_ID, BANK_GROUP, BANK, OTHER_STACK_IDS, OTHER_RANKS = range(7)

_READS = ("RD", "RDA")
_WRITES = ("WR", "WRA")


@dataclass(frozen=True, slots=True)
class Constraint:
    """A command of `after` may issue no earlier than `cycles` after one of `before` in the same scope.

    With `window` w it counts from the w-th last such command; `sibling` means between different
    nodes of the scope under one parent. Cycles run from first bus cycle to first bus cycle.
    """

    scope: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    cycles: float
    window: int = 0
    sibling: bool = False

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise InputError(f"constraint: unknown scope {self.scope!r}{nearest(self.scope, SCOPES)}")
        for command in (*self.before, *self.after):
            if command not in COMMANDS:
                raise InputError(f"constraint: unknown command {command!r}{nearest(command, COMMANDS)}")
        if self.cycles < 0:
            raise InputError(
                f"constraint {self.before[0]} to {self.after[0]}: cycles must be >= 0, got {self.cycles}"
            )

    @staticmethod
    def from_fields(row: Mapping[str, Any]) -> "Constraint":
        return Constraint(
            row["scope"], tuple(row["before"]), tuple(row["after"]), row["cycles"],
            row.get("window", 0), row.get("sibling", False),
        )  # fmt: skip


def derive_constraints(
    timing: Mapping[str, int], activate_bus_cycles: int, standard: str
) -> tuple[Constraint, ...]:
    """Constraints from data sheet parameters in cycles, named without their t or n.

    An ACT that takes more than one bus cycle opens its row with its last cycle: what follows it counts from
    there, and it may itself begin earlier. Formulas: JESD235 and JESD79-4 (read to write leaves two
    cycles of bus turnaround; write to read counts from the last data beat).
    """
    t, late = timing, activate_bus_cycles - 1
    write_end = t["CWL"] + t["BL"]
    ccdl_wr = t.get("CCDL_WR", t["CCDL"])
    rows: list[tuple[str, tuple[str, ...], tuple[str, ...], int]] = [
        ("rank", _READS, _READS, max(t["CCDS"], t["BL"])),
        ("rank", _WRITES, _WRITES, max(t["CCDS"], t["BL"])),
        ("rank", _READS, _WRITES, t["CL"] + t["BL"] + 2 - t["CWL"]),
        ("rank", _WRITES, _READS, write_end + t["WTRS"]),
        ("bank_group", _READS, _READS, t["CCDL"]),
        ("bank_group", _WRITES, _WRITES, ccdl_wr),
        ("bank_group", _WRITES, _READS, write_end + t["WTRL"]),
        ("rank", ("ACT",), ("ACT",), t["RRDS"]),
        ("bank_group", ("ACT",), ("ACT",), t["RRDL"]),
        ("bank", ("ACT",), ("ACT",), t["RC"]),
        ("bank", ("ACT",), _READS, t["RCDRD"] + late),
        ("bank", ("ACT",), _WRITES, t["RCDWR"] + late),
        ("bank", ("ACT",), ("PRE",), t["RAS"] + late),
        ("rank", ("ACT",), ("PREA",), t["RAS"] + late),
        ("bank", ("PRE",), ("ACT",), t["RP"] - late),
        ("rank", ("PREA",), ("ACT",), t["RP"] - late),
        ("bank", ("RD",), ("PRE",), t["RTP"]),
        ("rank", ("RD",), ("PREA",), t["RTP"]),
        ("bank", ("WR",), ("PRE",), write_end + t["WR"]),
        ("rank", ("WR",), ("PREA",), write_end + t["WR"]),
        ("bank", ("RDA",), ("ACT",), t["RTP"] + t["RP"] - late),
        ("bank", ("WRA",), ("ACT",), write_end + t["WR"] + t["RP"] - late),
        ("rank", ("ACT",), ("REF",), t["RC"] + late),
        ("rank", ("PRE", "PREA"), ("REF",), t["RP"]),
        ("rank", ("RDA",), ("REF",), t["RTP"] + t["RP"]),
        ("rank", ("WRA",), ("REF",), write_end + t["WR"] + t["RP"]),
        ("rank", ("REF",), ("ACT",), t["RFC"] - late),
        ("rank", ("REF",), ("PREA",), t["RFC"]),
    ]
    constraints = [Constraint(*row) for row in rows]
    constraints.append(Constraint("rank", ("ACT",), ("ACT",), t["FAW"], window=4))
    if activate_bus_cycles > 1 and standard.startswith("HBM"):
        blocked = ("ACT", "PRE", "PREA", "REF")
        constraints.append(Constraint("channel", ("ACT",), blocked, activate_bus_cycles))
    return tuple(constraints)


class TimingTables(NamedTuple):
    """Constraints in flat form, in ticks.

    rules: (3, n), after, scope and delay, sorted by the `before` command; first: (9,), where the rules
    of each `before` command begin. four_activate_ticks: 0 for none. span: (5,), banks per node of each scope.
    """

    rules: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    four_activate_ticks: int
    span: npt.NDArray[np.int64]


def timing_tables(
    constraints: tuple[Constraint, ...], ticks_per_cycle: int, span: tuple[int, ...]
) -> TimingTables:
    """Flatten constraints; the longest wins where scope, before and after are equal.

    What holds back RD and WR holds back RDA and WRA alike in every standard: only the former are kept.
    """
    longest: dict[tuple[int, int, int], int] = {}
    window = 0
    for constraint in constraints:
        ticks = constraint.cycles * ticks_per_cycle
        if ticks != int(ticks):
            raise InputError(
                f"constraint {constraint.before[0]} to {constraint.after[0]}: {constraint.cycles} cycles "
                f"is no whole number of ticks"
            )
        if constraint.window:
            if constraint.window != 4 or constraint.scope != "rank" or constraint.before != ("ACT",):
                raise InputError(f"constraint: only a window of 4 ACT per rank is known, got {constraint}")
            window = max(window, int(ticks))
            continue
        scope = SCOPES.index(constraint.scope)
        if constraint.sibling:
            scope = {STACK_ID: OTHER_STACK_IDS, RANK: OTHER_RANKS}[scope]
        for before in constraint.before:
            for after in constraint.after:
                if after in ("RDA", "WRA"):
                    continue
                key = (COMMANDS.index(before), scope, COMMANDS.index(after))
                longest[key] = max(longest.get(key, 0), int(ticks))
    ordered = sorted(longest.items())
    first = np.searchsorted([key[0] for key, _ in ordered], np.arange(9)).astype(np.int64)
    return TimingTables(
        np.array([[key[2], key[1], delay] for key, delay in ordered], dtype=np.int64).T.copy(),
        first,
        window,
        np.array(span, dtype=np.int64),
    )
