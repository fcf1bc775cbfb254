"""Timing constraints between DRAM commands, and the flat tables that the kernels read."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tilewright.dataflow.errors import InputError, nearest

Scope = Literal["channel", "rank", "stack_id", "bank_group", "bank"]
SCOPES = ("channel", "rank", "stack_id", "bank_group", "bank")
COMMANDS = ("ACT", "PRE", "RD", "WR", "RDA", "WRA", "PREA", "REF", "REFB")  # REFB: refresh of a set of banks
ACT, PRE, RD, WR, RDA, WRA, PREA, REF, REFB = range(9)
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


@dataclass(frozen=True, slots=True)
class BankRefresh:
    """Refresh by sets of banks instead of whole ranks, one set after the other.

    `sets`: how many cover a rank, so that set k is its banks k, k + sets, ...: as many as banks for per-bank
    refresh, the banks of a group for the same bank of every group (DDR5), half the banks for pairs (LPDDR5).
    `cycles`: tRFCpb; `to_activate_cycles`: until an ACT of another bank; `to_refresh_cycles`: until the next.
    """

    sets: int
    cycles: int
    to_activate_cycles: int
    to_refresh_cycles: int

    def __post_init__(self) -> None:
        if self.sets < 2 or self.sets & (self.sets - 1):
            raise InputError(f"bank_refresh.sets must be a power of two from 2 on, got {self.sets}")
        for name in ("cycles", "to_activate_cycles", "to_refresh_cycles"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"bank_refresh.{name} must be >= 1, got {value}")


def bank_refresh_constraints(
    constraints: tuple[Constraint, ...], refresh: BankRefresh, refresh_cycles: int
) -> tuple[Constraint, ...]:
    """What REFB adds to the constraints of a memory whose all-bank refresh takes `refresh_cycles`.

    A bank is ready for REFB when it would let its rank be refreshed; an ACT of another bank holds REFB back as
    it does another ACT; on the command bus it is a REF.
    """
    rows = []
    to_activate = [c for c in constraints if c.scope == "rank" and "REF" in c.before and "ACT" in c.after]
    late = refresh_cycles - max(c.cycles for c in to_activate)  # an ACT that opens its row with a later cycle
    gap = max(
        c.cycles
        for c in constraints
        if c.scope == "rank" and c.before == ("ACT",) == c.after and not c.window
    )
    for c in constraints:
        if c.scope == "channel" and ("REF" in c.before or "REF" in c.after):
            before = ("REFB",) if "REF" in c.before else c.before
            after = ("REFB",) if "REF" in c.after else c.after
            rows.append(Constraint("channel", before, after, c.cycles))
        elif "REF" in c.after and "REF" not in c.before:
            before = tuple(command for command in c.before if command != "PREA")
            rows.append(Constraint("bank", before, ("REFB",), c.cycles))
    return (
        *rows,
        Constraint("bank", ("REFB",), ("ACT",), refresh.cycles - late),
        Constraint("rank", ("REFB",), ("ACT",), max(refresh.to_activate_cycles - late, 0)),
        Constraint("rank", ("ACT",), ("REFB",), gap + late),
        Constraint("rank", ("REFB",), ("REFB",), refresh.to_refresh_cycles),
    )


def derive_constraints(
    timing: Mapping[str, int], bus_cycles: Mapping[str, int], separate_command_buses: bool
) -> tuple[Constraint, ...]:
    """Constraints from data sheet parameters in cycles, named without their t or n.

    bus_cycles: of the commands that take more than one cycle of their bus. A command acts with its last
    cycle: what follows counts from there, and the next may itself begin earlier. Formulas: JESD235 and
    JESD79-4 (read to write leaves two cycles of bus turnaround; write to read counts from the last data beat).
    """
    t = timing
    write_end = t["CWL"] + t["BL"]
    rows: list[tuple[str, tuple[str, ...], tuple[str, ...], int]] = [
        ("rank", _READS, _READS, max(t["CCDS"], t["BL"])),
        ("rank", _WRITES, _WRITES, max(t["CCDS"], t["BL"])),
        ("rank", _READS, _WRITES, t["CL"] + t["BL"] + 2 - t["CWL"]),
        ("rank", _WRITES, _READS, write_end + t["WTRS"]),
        ("bank_group", _READS, _READS, t["CCDL"]),
        ("bank_group", _WRITES, _WRITES, t.get("CCDL_WR", t["CCDL"])),
        ("bank_group", _WRITES, _READS, write_end + t["WTRL"]),
        ("rank", ("ACT",), ("ACT",), t["RRDS"]),
        ("bank_group", ("ACT",), ("ACT",), t["RRDL"]),
        ("bank", ("ACT",), ("ACT",), t["RC"]),
        ("bank", ("ACT",), _READS, t["RCDRD"]),
        ("bank", ("ACT",), _WRITES, t["RCDWR"]),
        ("bank", ("ACT",), ("PRE",), t["RAS"]),
        ("rank", ("ACT",), ("PREA",), t["RAS"]),
        ("bank", ("PRE",), ("ACT",), t["RP"]),
        ("rank", ("PREA",), ("ACT",), t.get("RPAB", t["RP"])),
        ("bank", ("RD",), ("PRE",), t["RTP"]),
        ("rank", ("RD",), ("PREA",), t["RTP"]),
        ("bank", ("WR",), ("PRE",), write_end + t["WR"]),
        ("rank", ("WR",), ("PREA",), write_end + t["WR"]),
        ("bank", ("RDA",), ("ACT",), t["RTP"] + t["RP"]),
        ("bank", ("WRA",), ("ACT",), write_end + t["WR"] + t["RP"]),
        ("rank", ("ACT",), ("REF",), t["RC"]),
        ("rank", ("PRE",), ("REF",), t["RP"]),
        ("rank", ("PREA",), ("REF",), t.get("RPAB", t["RP"])),
        ("rank", ("RDA",), ("REF",), t["RTP"] + t["RP"]),
        ("rank", ("WRA",), ("REF",), write_end + t["WR"] + t["RP"]),
        ("rank", ("REF",), ("ACT",), t["RFC"]),
        ("rank", ("REF",), ("PREA",), t["RFC"]),
    ]
    constraints = [
        Constraint(scope, before, after, max(cycles + _late(bus_cycles, before, after), 0))
        for scope, before, after, cycles in rows
    ]
    constraints.append(Constraint("rank", ("ACT",), ("ACT",), t["FAW"], window=4))
    return (*constraints, *_bus_constraints(bus_cycles, separate_command_buses))


def on_slots(
    constraints: tuple[Constraint, ...], slots: Mapping[str, int], n_slots: int
) -> tuple[Constraint, ...]:
    """Constraints behind a controller whose clock is `n_slots` times slower than the memory's.

    Each kind of command has one slot of the slow cycle, its first by `slots`, so that a gap is the least one
    from slot to slot that the constraint allows. A row cycle is no shorter than its two parts.
    """

    def aligned(c: Constraint) -> Constraint:
        offset = slots[c.after[0]] - slots[c.before[0]]
        return replace(c, cycles=c.cycles + (offset - c.cycles) % n_slots)

    moved = [aligned(c) for c in constraints]
    parts = {
        (c.before[0], c.after[0]): c.cycles
        for c in moved
        if c.scope == "bank" and c.after in (("ACT",), ("PRE",))
    }
    whole = parts["ACT", "PRE"] + parts["PRE", "ACT"]
    return tuple(
        replace(c, cycles=max(c.cycles, whole))
        if c.scope == "bank" and c.before == ("ACT",) == c.after
        else c
        for c in moved
    )


def _late(bus_cycles: Mapping[str, int], before: tuple[str, ...], after: tuple[str, ...]) -> int:
    """Cycles between first bus cycles beyond those between the last ones."""
    return bus_cycles.get(before[0], 1) - bus_cycles.get(after[0], 1)


def _bus_constraints(bus_cycles: Mapping[str, int], separate: bool) -> list[Constraint]:
    """What a command of several bus cycles blocks: its own bus, or the only one."""
    rows = ("ACT", "PRE", "PREA", "REF")
    columns = ("RD", "WR", "RDA", "WRA")
    blocked: dict[str, tuple[str, ...]]
    blocked = {command: rows if command in rows else columns for command in (*rows, *columns)}
    if not separate:
        blocked = dict.fromkeys(blocked, (*rows, *columns))
    return [
        Constraint("channel", (command,), blocked[command], cycles)
        for command, cycles in bus_cycles.items()
        if cycles > 1
    ]


class TimingTables(NamedTuple):
    """Constraints in flat form, in ticks.

    rules: (3, n), after, scope and delay, sorted by the `before` command; first: (10,), where the rules
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
    first = np.searchsorted([key[0] for key, _ in ordered], np.arange(len(COMMANDS) + 1)).astype(np.int64)
    return TimingTables(
        np.array([[key[2], key[1], delay] for key, delay in ordered], dtype=np.int64).T.copy(),
        first,
        window,
        np.array(span, dtype=np.int64),
    )
