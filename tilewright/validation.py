"""`tilewright validate`: our figures beside reference points of a CSV file, and how far off they are."""

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import lru_cache
from importlib.resources import files
from math import isnan
from pathlib import Path
from statistics import mean, median
from typing import Any

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.textfile import read_text
from tilewright.files import MAX_FILE_BYTES
from tilewright.search.front import write_whole

#: A point: id, set, reference, ours, error_fraction, skipped_because.
Record = dict[str, Any]

#: Bytes that the reference keeps for a backward pass; the other metrics are fields of the counts.
_SAVED_METRIC = "saved_for_backward_bytes_fp32"
_COUNT_COLUMNS = ("model", "config_file", "phase", "batch", "seq", "cache", "adapter", "metric", "value")


def validate(which: str, points: Path | None, out: Path | None) -> dict[str, Any]:
    """Compare with the points of a CSV file, or with those that the project carries.

    which: counts, dram or all. Returns {"sets": ..., "points": ...}; with `out`, both are written there as
    CSV. Raises InputError for a file without the columns that the comparison needs.
    """
    if which == "all" and points is not None:
        raise InputError("validate all takes no --points: each set has columns of its own")
    names = list(_SETS) if which == "all" else [which]
    records = [record for name in names for record in _SETS[name](points)]
    answer = {"sets": _summaries(records), "points": records}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, rows in answer.items():
            write_whole(out / f"{name}.csv", _as_csv(rows))
    return answer


def _as_csv(rows: list[dict[str, Any]]) -> str:
    import pandas as pd

    return str(pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


def _summaries(records: Iterable[Record]) -> list[dict[str, Any]]:
    by_set: dict[str, list[Record]] = {}
    for record in records:
        by_set.setdefault(record["set"], []).append(record)
    return [_summary(name, rows) for name, rows in by_set.items()]


def _summary(name: str, rows: list[Record]) -> dict[str, Any]:
    errors = [abs(row["error_fraction"]) for row in rows if row["error_fraction"] is not None]
    compared = [row for row in rows if row["skipped_because"] is None]
    return {
        "name": name,
        "n_points": len(compared),
        "n_skipped": len(rows) - len(compared),
        "mean_abs_error_fraction": mean(errors) if errors else None,
        "median_abs_error_fraction": median(errors) if errors else None,
        "worst_abs_error_fraction": max(errors) if errors else None,
        "spearman": _spearman([(row["reference"], row["ours"]) for row in compared]),
    }


def _spearman(pairs: list[tuple[float, float]]) -> float | None:
    """Rank correlation; None for fewer than three points or where one side is constant."""
    if len(pairs) < 3 or any(len(set(side)) < 2 for side in zip(*pairs, strict=True)):
        return None
    import pandas as pd

    table = pd.DataFrame(pairs, columns=["reference", "ours"]).rank()
    return float(table["reference"].corr(table["ours"]))


def record(
    identity: str, set_name: str, reference: float | None, ours: float | None, skipped: str | None
) -> Record:
    """One point; a relative error needs a reference that is not 0, else it is 0 or 1."""
    error = None
    if ours is not None:
        error = (ours - reference) / reference if reference else float(ours != reference)
    return {
        "id": identity,
        "set": set_name,
        "reference": reference,
        "ours": ours,
        "error_fraction": error,
        "skipped_because": skipped,
    }


def _own_points(package: str, name: str) -> Path:
    """Points that the project carries as data of a package, so that a user can repeat the check."""
    return Path(str(files(package) / "data" / name))


def _rows(file: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    lines = [line for line in read_text(file, MAX_FILE_BYTES).splitlines() if not line.startswith("#")]
    reader = csv.DictReader(lines)
    if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
        raise InputError(f"{file}: column {missing[0]!r} is missing")
    return list(reader)


def _counts(points: Path | None) -> list[Record]:
    file = points or _own_points("tilewright.workloads", "count_points.csv")
    return [_count_record(row, file.parent) for row in _rows(file, _COUNT_COLUMNS)]


def _count_record(row: Mapping[str, str], folder: Path) -> Record:
    keys = ("model", "adapter", "phase", "batch", "seq", "cache", "metric")
    identity = "|".join(row[key] for key in keys)
    try:
        reference = int(row["value"])
    except ValueError:
        return record(identity, "counts", 0, None, f"value {row['value']!r} is not a whole number")
    terms = tuple(row[key] for key in ("config_file", "model", "adapter", "phase", "batch", "seq", "cache"))
    try:
        ours = _count_of(terms, row["metric"], folder)
    except InputError as error:
        return record(identity, "counts", reference, None, str(error))
    return record(identity, "counts", reference, ours, None)


def _count_of(terms: tuple[str, ...], metric: str, folder: Path) -> int:
    """Our count of one metric. Raises InputError for what cannot be expressed."""
    if metric == _SAVED_METRIC:
        return _saved_bytes(terms, folder)
    counts = _run_counts(terms, folder)
    if metric == "flops_extra_vs_base":
        config, model, _, *rest = terms
        bare = _run_counts((_base_config(config, model), model, "none", *rest), folder)
        return int(counts["flops_total"] - bare["flops_total"])
    if not isinstance(counts.get(metric), int):
        raise InputError(f"metric {metric!r} is not one of ours")
    return int(counts[metric])


def _saved_bytes(terms: tuple[str, ...], folder: Path) -> int:
    """What the reference keeps for the backward pass of a training step, eager and in fp32."""
    from tilewright import api
    from tilewright.workloads.eager import check_rules, eager_saved_bytes
    from tilewright.workloads.read import read_json

    config_file, model, _, phase, batch, seq, _ = terms
    if phase != "train":
        raise InputError(f"metric {_SAVED_METRIC!r} is of a training step, got phase {phase!r}")
    file = folder / _base_config(config_file, model)
    adapter = folder / config_file if config_file.startswith("adapter_configs") else None
    if adapter is not None and adapter.is_dir():
        adapter = adapter / "adapter_config.json"
    config, fields = read_json(file), read_json(adapter) if adapter else None
    check_rules(config, fields)
    types = dict.fromkeys(("weights", "activations", "accumulators", "kv_cache"), "fp32")
    sizes = _sizes(seq)
    workload = api.load_workload(
        str(file), adapter=str(adapter) if adapter else None, phase=phase, batch=_whole("batch", batch or "1"),
        lowering="reference", seq=sizes.get("seq"), image=sizes.get("image"), precision=types,
        optimizer="none",
    )  # fmt: skip
    return eager_saved_bytes(workload, config, fields)


def _base_config(config_file: str, model: str) -> str:
    """The model's own file beside an adapter's: adapter files stand in folders <model>__<adapter>."""
    if not config_file.startswith("adapter_configs"):
        return config_file
    return f"hf_configs/{model}.json"


@lru_cache(maxsize=64)
def _run_counts(terms: tuple[str, ...], folder: Path) -> dict[str, Any]:
    from tilewright import api
    from tilewright.workloads.uncounted import uncounted

    config, model, _, phase, batch, seq, cache = terms
    is_adapter = config.startswith("adapter_configs")
    file = folder / _base_config(config, model)
    sizes = _sizes(seq)
    workload = api.load_workload(
        str(file) if config and file.exists() else model,
        adapter=str(folder / config) if is_adapter else None,
        phase="prefill" if phase == "params" else phase,
        batch=_whole("batch", batch or "1"),
        cache=_whole("cache", cache or "0"),
        lowering="reference",
        seq=sizes.get("seq"),
        image=sizes.get("image"),
    )
    counts = api.count(workload).to_dict() | uncounted(workload)
    if file.suffix == ".onnx":
        from tilewright.workloads.onnx_census import census
        from tilewright.workloads.onnx_dims import OnnxTerms

        counts |= census(
            file, OnnxTerms(batch=workload.batch, seq=sizes.get("seq"), image=sizes.get("image"))
        )
    return counts


def _sizes(seq: str) -> dict[str, int]:
    """Tokens ("512"), or the side of a square image ("224x224"); rows of parameters have neither."""
    if not seq:
        return {}
    return {"image" if "x" in seq else "seq": _whole("seq", seq.partition("x")[0])}


def _whole(column: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{column} {text!r} is not a whole number") from None


def _dram(points: Path | None) -> list[Record]:
    from tilewright.sim.dram_validation import validate_dram

    found = [asdict(point) for point in validate_dram(points)]
    return found if points is not None else [*found, *_contention()]


def _contention() -> list[Record]:
    """Random companies of requesters: remembered steady rates beside our own co-simulation of them.

    A check of the model against itself: it says what answering from the cache loses, nothing of silicon.
    """
    from tilewright.sim.dram_contention_validation import SET, companies, compare

    records = []
    for number, company in enumerate(companies(), start=1):
        for who, (reference, ours) in enumerate(compare(company, number)):
            name = SET if who == 0 else f"{SET}_requester"
            records.append(
                record(f"{name}|{number}" + (f".{who}" if who else ""), name, reference, ours, None)
            )
    return records


_ARRAY_COLUMNS = ("rows", "cols", "m", "n", "k", "stationarity", "cycles")


def _arrays(points: Path | None) -> list[Record]:
    from tilewright.sim.arrays import gemm_cycles

    file = points or _own_points("tilewright.sim", "array_points.csv")
    records = []
    for number, row in enumerate(_rows(file, _ARRAY_COLUMNS), start=1):
        cycles = _whole("cycles", row["cycles"])
        try:
            sizes = {name: _whole(name, row[name]) for name in _ARRAY_COLUMNS[:5]}
            ours = gemm_cycles(**sizes, stationarity=row["stationarity"])  # type: ignore[arg-type]
        except InputError as error:
            records.append(record(f"arrays|{number}", "arrays", cycles, None, str(error)))
        else:
            records.append(record(f"arrays|{number}", "arrays", cycles, ours, None))
    return records if points else [*records, *_simulated_arrays(len(records))]


def _simulated_arrays(n_before: int) -> list[Record]:
    """Our forms against the RTL, simulated now; and SCALE-Sim's, whose arrays differ, against the same RTL."""
    from tilewright.validation_arrays import simulated_points

    found = simulated_points()
    plain = [point for point in found if point.is_plain]
    return [
        *(
            record(f"arrays|{number}", "arrays", point.rtl_cycles, point.own_cycles, None)
            for number, point in enumerate(found, start=n_before + 1)
        ),
        *(
            record(
                f"arrays_scalesim|{number}", "arrays_scalesim", point.rtl_cycles, point.scalesim_cycles, None
            )
            for number, point in enumerate(plain, start=1)
        ),
    ]


def _hardware(points: Path | None) -> list[Record]:
    """Measured operators of GPUs and layers of a Gemmini, one set per device and operator."""
    from tilewright.hardware import predict
    from tilewright.hardware_points import read_points

    own = [_own_points("tilewright.sim", name) for name in ("gemmini_points.csv", "gpu_points.csv")]
    records = []
    for file in [points] if points else own:
        for point in read_points(file):
            identity, ours, reason = f"{point.set}|{point.number}", None, point.skipped_because
            if reason is None:
                try:
                    ours = predict(point, {})
                except InputError as error:
                    reason = str(error)
            reference = None if isnan(point.reference) else point.reference
            records.append(record(identity, point.set, reference, ours, reason))
    return records


def _synth(points: Path | None) -> list[Record]:
    """Resources of arrays beside open synthesis; without a file also DSPs of published designs after routing."""
    from tilewright.validation_synthesis import COLUMNS, COUNTS, array_counts

    file = points or _own_points("tilewright.sim", "fpga_synthesis.csv")
    records = []
    for number, row in enumerate(_rows(file, COLUMNS), start=1):
        ours: Mapping[str, int] = {}
        reason = None
        try:
            ours = array_counts(row)
        except InputError as error:
            reason = str(error)
        records += [
            record(f"synth|{number}", f"synth_{name}", _whole(name, row[name]), ours.get(name), reason)
            for name in COUNTS
        ]
    return records if points else [*records, *_routed()]


def _routed() -> list[Record]:
    from tilewright.validation_synthesis import operator_dsps

    references: dict[str, int] = {}
    ours: dict[str, int] = {}
    columns = ("design", "routed_dsp", "operator", "count")
    for row in _rows(_own_points("tilewright.sim", "fpga_routed.csv"), columns):
        name = row["design"]
        references[name] = _whole("routed_dsp", row["routed_dsp"])
        ours[name] = ours.get(name, 0) + operator_dsps(row["operator"], _whole("count", row["count"]))
    return [record(name, "routed_dsp", references[name], ours[name], None) for name in references]


_SETS: dict[str, Callable[[Path | None], list[Record]]] = {
    "counts": _counts,
    "dram": _dram,
    "arrays": _arrays,
    "hardware": _hardware,
    "synth": _synth,
}


def table_of(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The sets as rows for printing, with the reasons of skips counted."""
    reasons: dict[str, dict[str, int]] = {}
    for point in answer["points"]:
        if point["skipped_because"] is not None:
            counted = reasons.setdefault(point["set"], {})
            counted[point["skipped_because"]] = counted.get(point["skipped_because"], 0) + 1
    rows = []
    for entry in answer["sets"]:
        most = sorted(reasons.get(entry["name"], {}).items(), key=lambda item: -item[1])[:3]
        rows.append(entry | {"skipped because": "; ".join(f"{count} x {reason}" for reason, count in most)})
    return rows
