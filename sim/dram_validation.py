"""The memory model against published simulators: one record per point of a table of cycles."""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tilewright.dataflow.errors import InputError
from tilewright.sim.dram_config import DramConfig
from tilewright.sim.dram_measured import COLUMNS, figure_of
from tilewright.sim.dram_patterns import trace_of
from tilewright.sim.dram_trace import Load, MemoryResult, simulate_trace

OWN_POINTS = Path(__file__).parent / "data" / "dram_points.csv"
OWN_MEASURED = Path(__file__).parent / "data" / "dram_measured.csv"
_COLUMNS = ("config", "pattern", "injection", "n_requests", "cycles")


@dataclass(frozen=True, slots=True)
class DramPoint:
    """One comparison; `ours` and `error_fraction` are None where `skipped_because` says why."""

    id: str
    set: str
    reference: float
    ours: float | None
    error_fraction: float | None
    skipped_because: str | None


def validate_dram(points_csv: Path | str | None = None) -> list[DramPoint]:
    """Compare cycles on every row of a table with the columns config, pattern, injection, n_requests, cycles.

    None takes the project's own table. Where a table has them, mean read latency (ns) and activates are
    points of the sets `dram_<config>_latency` (single and paced load) and `dram_<config>_activates`. Lines
    that begin with # are comments. Raises InputError for a file that cannot be read or lacks a column; a row
    that cannot be run is a skip. An id is `<set>|<row number>`, rows counted from 1.

    A table with the columns device, op, other_dims, metric, value holds measurements instead: idle latencies,
    bandwidths and ratios of bandwidths of a board's memory, in the sets `<device>_<op>`. None takes both.
    """
    points: list[DramPoint] = []
    for file in (Path(points_csv),) if points_csv else (OWN_POINTS, OWN_MEASURED):
        rows = _rows(file)
        measured = bool(rows) and all(column in rows[0] for column in COLUMNS)
        for number, row in enumerate(rows, start=1):
            points.extend([_measured(number, row)] if measured else _compare(number, row))
    return points


def _measured(number: int, row: dict[str, str]) -> DramPoint:
    name = f"{row['device']}_{row['op']}"
    try:
        reference = float(row["value"])
        ours = figure_of(row)
    except ValueError as refusal:
        return DramPoint(f"{name}|{number}", name, float("nan"), None, None, str(refusal))
    error = ours / reference - 1 if reference else None
    return DramPoint(f"{name}|{number}", name, reference, ours, error, None)


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    reader = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    names = reader.fieldnames or ()
    for column in COLUMNS if "device" in names else _COLUMNS:
        if column not in names:
            raise InputError(f"{file}: column {column!r} is missing")
    return list(reader)


def load_of(config: DramConfig, injection: str) -> Load:
    """The load that an injection mode names: saturate, single or paced<percent>.

    The published runs round the interval between requests to a thousandth of the tick of their controller.
    """
    if injection in ("saturate", "single"):
        return injection  # type: ignore[return-value]
    percent = injection.removeprefix("paced")
    if percent == injection or not percent.replace(".", "", 1).isdigit():
        raise InputError(f"injection must be saturate, single or paced<percent>, got {injection!r}")
    ticks = config.transaction_bytes / (config.peak_bytes_per_cycle * float(percent) / 100)
    return ("period", round(ticks * config.ticks_per_cycle, 3) / config.ticks_per_cycle)


@cache
def _simulate(config_name: str, pattern: str, injection: str, n_requests: int) -> MemoryResult:
    config = DramConfig.named(config_name)
    address, is_write = trace_of(pattern, n_requests, config.transaction_bytes)
    address %= config.capacity_bytes  # the published decoders leave higher bits out
    return simulate_trace(config, address, is_write, load_of(config, injection))


def _compare(number: int, row: dict[str, str]) -> list[DramPoint]:
    name = f"dram_{row['config']}"
    wanted = [(name, row["cycles"], "n_cycles")]
    if row["injection"] != "saturate" and row.get("avg_read_latency_ns"):
        wanted.append((f"{name}_latency", row["avg_read_latency_ns"], "mean_read_latency_ns"))
    if row.get("activates"):
        wanted.append((f"{name}_activates", row["activates"], "n_activates"))
    try:
        references = [float(reference) for _, reference, _ in wanted]
        result = _simulate(row["config"], row["pattern"], row["injection"], int(row["n_requests"]))
    except ValueError as refusal:  # an InputError, or a number that is none
        return [DramPoint(f"{name}|{number}", name, float("nan"), None, None, str(refusal))]
    points = []
    for (label, _, field), reference in zip(wanted, references, strict=True):
        ours = float(getattr(result, field))
        error = ours / reference - 1 if reference else None
        points.append(DramPoint(f"{label}|{number}", label, reference, ours, error, None))
    return points
