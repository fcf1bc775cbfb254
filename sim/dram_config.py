"""DRAM configurations: organisation, timing constraints, address mapping and controller, checked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tilewright.dataflow.errors import InputError, nearest
from tilewright.sim.dram_timing import (
    BankRefresh,
    Constraint,
    bank_refresh_constraints,
    derive_constraints,
    on_slots,
)

_DATA_FILE = Path(__file__).parent / "data" / "dram.json"
STANDARDS = ("HBM2", "HBM2e", "HBM3", "DDR4", "DDR5", "LPDDR4", "LPDDR5", "GDDR6")
MAPPING_FIELDS = ("channel", "rank", "stack_id", "bank_group", "bank", "row", "column")


@dataclass(frozen=True, slots=True)
class Organisation:
    """Counts of one memory; `ranks` are the pseudo-channels on HBM, each with its own data bus."""

    channels: int
    ranks: int
    stack_ids: int
    bank_groups: int
    banks_per_group: int
    rows_per_bank: int
    bursts_per_row: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or value < 1 or value & (value - 1):
                raise InputError(f"organisation.{field.name} must be a power of two, got {value}")

    @property
    def banks_per_rank(self) -> int:
        return self.stack_ids * self.bank_groups * self.banks_per_group

    @property
    def banks_per_channel(self) -> int:
        return self.ranks * self.banks_per_rank

    def count(self, name: str) -> int:
        """Values that the mapping field `name` can take."""
        return {
            "channel": self.channels, "rank": self.ranks, "stack_id": self.stack_ids,
            "bank_group": self.bank_groups, "bank": self.banks_per_group,
            "row": self.rows_per_bank, "column": self.bursts_per_row,
        }[name]  # fmt: skip


@dataclass(frozen=True, slots=True)
class AddressMapping:
    """Bit slices above `offset_bits`, least significant first; a field named twice fills upwards.

    Each xor entry (field, with_field, with_field_lsb, bits) replaces the low bits of `field` by
    field XOR (with_field >> with_field_lsb), all with the values from before any xor.
    """

    offset_bits: int
    slices: tuple[tuple[str, int], ...]
    xor: tuple[tuple[str, str, int, int], ...] = ()

    def check(self, organisation: Organisation) -> None:
        """Refuse a mapping that overlaps, leaves a hole or names what does not exist."""
        for name, bits in self.slices:
            if name not in MAPPING_FIELDS:
                raise InputError(f"mapping: unknown field {name!r}{nearest(name, MAPPING_FIELDS)}")
            if bits < 1:
                raise InputError(f"mapping: {name} must take at least 1 bit, got {bits}")
        for name in MAPPING_FIELDS:
            need = organisation.count(name).bit_length() - 1
            given = sum(bits for field, bits in self.slices if field == name)
            if given > need:
                raise InputError(
                    f"mapping: {name} bits overlap, {given} given for {need} of the organisation"
                )
            if given < need:
                raise InputError(f"mapping: {name} leaves a hole, {given} bits given for {need} needed")
        for name, other, lsb, bits in self.xor:
            if name not in MAPPING_FIELDS or other not in MAPPING_FIELDS:
                raise InputError(f"mapping: xor names an unknown field, {name!r} with {other!r}")
            if organisation.count(name) < 1 << bits or organisation.count(other) < 1 << (lsb + bits):
                raise InputError(f"mapping: xor of {name} with {other} takes {bits} bits that do not exist")

    def decode(self, address: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
        """Values of every field per address; fields without bits are 0."""
        values = {name: np.zeros_like(address) for name in MAPPING_FIELDS}
        filled = dict.fromkeys(MAPPING_FIELDS, 0)
        shift = self.offset_bits
        for name, bits in self.slices:
            part = (address >> shift) & ((1 << bits) - 1)
            values[name] = values[name] | (part << filled[name])
            filled[name] += bits
            shift += bits
        plain = dict(values)
        for name, other, lsb, bits in self.xor:
            values[name] = values[name] ^ ((plain[other] >> lsb) & ((1 << bits) - 1))
        return values

    def encode(self, values: Mapping[str, int]) -> int:
        """The byte address of one burst; the inverse of `decode` for a single set of field values."""
        plain = dict(values)
        for name, other, lsb, bits in self.xor:
            if any(other == entry[0] for entry in self.xor):
                raise InputError(f"mapping: {other} is both a source and a target of an xor")
            plain[name] = plain[name] ^ ((plain[other] >> lsb) & ((1 << bits) - 1))
        address, shift = 0, self.offset_bits
        used = dict.fromkeys(MAPPING_FIELDS, 0)
        for name, bits in self.slices:
            address |= ((plain.get(name, 0) >> used[name]) & ((1 << bits) - 1)) << shift
            used[name] += bits
            shift += bits
        return address


@dataclass(frozen=True, slots=True)
class Controller:
    """How requests become commands.

    `frfcfs`: one read and one write queue per channel, oldest ready command first. `bank_queues`: a queue
    of commands per bank served round robin behind a read queue and a write buffer.
    `column_cap`: column accesses after which a row is closed (frfcfs, closed page; 0: never) or may be
    closed over waiting hits (bank_queues). Without `reorder` (frfcfs) column commands of the kind that is
    being served keep the order of arrival, and rows are opened ahead of them. Timeout pages: a row that nobody
    waits for is closed `page_timeout_cycles` after its last use, when no other row command wants the bus.
    """

    policy: Literal["frfcfs", "bank_queues"]
    row_hit_protection: bool
    page_policy: Literal["open", "closed", "timeout"]
    read_queue: int
    write_queue: int
    write_high_fraction: float
    write_low_fraction: float
    bank_queue: int
    column_cap: int
    reorder: bool = True
    page_timeout_cycles: int = 0

    def __post_init__(self) -> None:
        for name, known in (
            ("policy", ("frfcfs", "bank_queues")),
            ("page_policy", ("open", "closed", "timeout")),
        ):
            if (value := getattr(self, name)) not in known:
                raise InputError(f"controller.{name} must be one of {', '.join(known)}, got {value!r}")
        for name in ("read_queue", "write_queue"):
            if not 1 <= (value := getattr(self, name)) <= 4096:
                raise InputError(f"controller.{name} must be in 1..4096, got {value}")
        if not 0 <= self.write_low_fraction <= self.write_high_fraction <= 1:
            raise InputError(
                "controller: 0 <= write_low_fraction <= write_high_fraction <= 1 does not hold, got "
                f"{self.write_low_fraction} and {self.write_high_fraction}"
            )
        if self.policy == "bank_queues" and not 1 <= self.bank_queue <= 64:
            raise InputError(f"controller.bank_queue must be in 1..64, got {self.bank_queue}")
        if (self.page_policy == "timeout") != (self.page_timeout_cycles > 0):
            raise InputError(
                "controller.page_timeout_cycles must be > 0 with timeout pages and 0 without, got "
                f"{self.page_timeout_cycles} with {self.page_policy!r}"
            )


@dataclass(frozen=True, slots=True)
class Clocking:
    """The write clock of LPDDR5: a CAS command starts it before the first column command after a pause."""

    cas_cycles: int
    write_latency_cycles: int
    read_command_latency_cycles: int
    burst_cycles: int
    postamble_cycles: int
    act2_deadline_cycles: int


@dataclass(frozen=True)
class DramConfig:
    """One memory of `organisation.channels` channels; cycles are of the command clock, `tck_ns` long.

    `constraints` hold those of the set-wise refresh where `bank_refresh` chooses it; every bank is refreshed
    once an interval all the same. `ticks_per_cycle` is 2 where commands issue on half cycles (HBM3).
    `fabric_latency_ns` is the named constant of the path in front of the controller (0 for none). `energy`
    names a row of the energy table.
    """

    name: str
    standard: str
    note: str
    source: str
    tck_ns: float
    ticks_per_cycle: int
    transaction_bytes: int
    burst_cycles: int
    read_latency_cycles: int
    organisation: Organisation
    constraints: tuple[Constraint, ...]
    refresh_interval_cycles: int
    refresh_cycles: int
    separate_command_buses: bool
    mapping: AddressMapping
    controller: Controller
    energy: str
    clocking: Clocking | None = None
    fabric_latency_ns: float = 0.0
    bank_refresh: BankRefresh | None = None

    def __post_init__(self) -> None:
        _check(self)

    @cached_property
    def _digest(self) -> int:
        return hash(tuple(getattr(self, field.name) for field in fields(self)))

    def __hash__(self) -> int:
        return self._digest  # kept: results are remembered per configuration

    @staticmethod
    def named(name: str) -> "DramConfig":
        """The configuration called `name`; raises InputError with the closest known name."""
        return _named(name)

    def with_bank_refresh(self, refresh: BankRefresh) -> "DramConfig":
        """This memory refreshed by sets of banks instead of whole ranks."""
        added = bank_refresh_constraints(self.constraints, refresh, self.refresh_cycles)
        return replace(self, constraints=(*self.constraints, *added), bank_refresh=refresh)

    @property
    def capacity_bytes(self) -> int:
        o = self.organisation
        return o.channels * o.banks_per_channel * o.rows_per_bank * o.bursts_per_row * self.transaction_bytes

    @property
    def peak_bytes_per_cycle(self) -> float:
        """Bytes per command clock cycle with every data bus busy."""
        o = self.organisation
        return o.channels * self.n_data_buses * self.transaction_bytes / self.burst_cycles

    @property
    def n_data_buses(self) -> int:
        """Data buses of a channel: one per pseudo-channel on HBM, one shared by the ranks elsewhere."""
        return self.organisation.ranks if self.standard.startswith("HBM") else 1

    @property
    def refresh_sets(self) -> int:
        """Refresh commands that cover a rank once."""
        return self.bank_refresh.sets if self.bank_refresh else 1

    @property
    def peak_gb_per_s(self) -> float:
        return self.peak_bytes_per_cycle / self.tck_ns

    def cycles_between(self, before: str, after: str, scope: str = "bank") -> float | None:
        """The constraint from `before` to `after` at `scope` in cycles, None where there is none."""
        found = [
            c.cycles
            for c in self.constraints
            if c.scope == scope and before in c.before and after in c.after and not c.window and not c.sibling
        ]
        return max(found) if found else None


def _check(config: DramConfig) -> None:
    if config.standard not in STANDARDS:
        raise InputError(f"standard: unknown {config.standard!r}{nearest(config.standard, STANDARDS)}")
    tx = config.transaction_bytes
    if tx < 1 or tx & (tx - 1):
        raise InputError(f"{config.name}: transaction_bytes must be a power of two, got {tx}")
    if 1 << config.mapping.offset_bits != tx:
        raise InputError(f"mapping: offset_bits {config.mapping.offset_bits} does not match {tx} byte bursts")
    if not config.tck_ns > 0:
        raise InputError(f"{config.name}: tck_ns must be > 0, got {config.tck_ns}")
    if config.ticks_per_cycle not in (1, 2):
        raise InputError(f"{config.name}: ticks_per_cycle must be 1 or 2, got {config.ticks_per_cycle}")
    config.mapping.check(config.organisation)
    if config.organisation.banks_per_channel > 256:
        raise InputError(
            f"{config.name}: a channel may have 256 banks, got {config.organisation.banks_per_channel}"
        )
    row_cycle = config.cycles_between("ACT", "ACT")
    row_open = config.cycles_between("ACT", "PRE")
    row_close = config.cycles_between("PRE", "ACT")
    if row_cycle is None or row_open is None or row_close is None:
        raise InputError(f"{config.name}: constraints lack ACT-ACT, ACT-PRE or PRE-ACT of a bank")
    if row_cycle < row_open + row_close:
        raise InputError(
            f"{config.name}: tRC {row_cycle:g} is less than tRAS + tRP, {row_open:g} + {row_close:g} cycles"
        )
    if config.refresh_interval_cycles and config.refresh_interval_cycles <= config.refresh_cycles:
        raise InputError(
            f"{config.name}: tREFI {config.refresh_interval_cycles} must exceed tRFC {config.refresh_cycles}"
        )
    if config.bank_refresh is not None:
        _check_bank_refresh(config, config.bank_refresh)


def _check_bank_refresh(config: DramConfig, refresh: BankRefresh) -> None:
    if config.organisation.banks_per_rank % refresh.sets:
        raise InputError(
            f"{config.name}: bank_refresh.sets must divide the {config.organisation.banks_per_rank} banks of a "
            f"rank, got {refresh.sets}"
        )
    spacing = config.refresh_interval_cycles // refresh.sets
    if spacing <= refresh.to_refresh_cycles:
        raise InputError(
            f"{config.name}: tREFI / {refresh.sets} sets = {spacing} cycles must exceed "
            f"bank_refresh.to_refresh_cycles {refresh.to_refresh_cycles}"
        )
    if config.cycles_between("REFB", "ACT") is None:
        raise InputError(
            f"{config.name}: bank_refresh without constraints for REFB, which with_bank_refresh adds"
        )


@cache
def _data() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(_DATA_FILE.read_text(encoding="utf-8"))
    return loaded


def config_names() -> tuple[str, ...]:
    """All named configurations, in the order of the data file."""
    return tuple(_data()["configs"])


def energy_row(name: str) -> dict[str, Any]:
    """The fields of a row of the energy table."""
    return dict(_data()["energy"][name])


def fabric_row(name: str) -> dict[str, Any]:
    """The constants of the switch in front of a configuration; raises InputError where there is none."""
    rows = _data()["fabric"]
    if name not in rows:
        raise InputError(f"memory {name}: has no switch{nearest(name, tuple(rows))}")
    return dict(rows[name])


@cache
def _named(name: str) -> DramConfig:
    data = _data()
    if name not in data["configs"]:
        raise InputError(f"memory: unknown configuration {name!r}{nearest(name, config_names())}")
    return config_from_fields(name, _row_of(name), data["timing_sets"])


def _row_of(name: str) -> dict[str, Any]:
    """The fields of a named configuration; a row may state only what differs from the one that it is `like`."""
    row: dict[str, Any] = _data()["configs"][name]
    if "like" not in row:
        return row
    base = _row_of(row["like"])
    whole = base | row
    whole["controller"] = base["controller"] | row.get("controller", {})
    return whole


def config_from_fields(name: str, row: Mapping[str, Any], timing_sets: Mapping[str, Any]) -> DramConfig:
    """A configuration from the fields of the data file; `timing_cycles` are turned into constraints."""
    if "timing_set" in row:
        constraints = tuple(Constraint.from_fields(entry) for entry in timing_sets[row["timing_set"]])
    else:
        constraints = derive_constraints(
            row["timing_cycles"], row["command_bus_cycles"], row["separate_command_buses"]
        )
    if "controller_slots" in row:
        constraints = on_slots(constraints, row["controller_slots"], row["slots_per_controller_cycle"])
    mapping = row["mapping"]
    clocking = Clocking(**row["wck"]) if "wck" in row else None
    plain = (
        "standard", "note", "source", "tck_ns", "ticks_per_cycle", "transaction_bytes", "burst_cycles",
        "read_latency_cycles", "refresh_interval_cycles", "refresh_cycles",
        "separate_command_buses", "energy",
    )  # fmt: skip
    config = DramConfig(
        name=name,
        organisation=Organisation(**row["organisation"]),
        constraints=constraints,
        mapping=AddressMapping(
            mapping["offset_bits"],
            tuple((field, bits) for field, bits in mapping["fields"]),
            tuple((a, b, lsb, bits) for a, b, lsb, bits in mapping["xor"]),
        ),
        controller=Controller(**row["controller"]),
        clocking=clocking,
        fabric_latency_ns=row.get("fabric", {}).get("latency_ns", 0.0),
        **{field: row[field] for field in plain},
    )
    return config.with_bank_refresh(BankRefresh(**row["bank_refresh"])) if "bank_refresh" in row else config
