"""Counts against the reference implementation, to the unit, over every row that we can express."""

import csv
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tilewright.workloads.count import Counts, count
from tilewright.workloads.families import model_types
from tilewright.workloads.read import read_json
from tilewright.workloads.workload import load_workload

EXTRACT = Path(__file__).resolve().parents[1] / "workloads/data/count_points.csv"
PRESETS = {"tiny-gpt2-2l-64d": "tiny-gpt2"}
PHASES = (
    "params", "prefill", "decode", "train", "prefill:encoder", "prefill:text_tower", "prefill:vision_tower",
)  # fmt: skip
ADAPTERS = (
    "lora_", "dora_", "adalora_", "ia3", "vera_", "shira_", "lokr_", "boft_", "prompt_20", "prefix_20",
)  # fmt: skip
#: Metrics of other tools or of what eager PyTorch allocates, which a dataflow graph does not have.
FOREIGN = ("params_text_tower", "params_vision_tower", "uncounted_", "onnx_", "saved_for_backward")
COUNTED = set(Counts.__dataclass_fields__) | {"flops_extra_vs_base"}


@dataclass(frozen=True)
class Point:
    """One run of the reference: rows of the table that differ in the metric only."""

    model: str
    config_file: str
    phase: str
    batch: str
    seq: str
    cache: str
    adapter: str


def _points(table: Path) -> dict[Point, dict[str, int]]:
    found: dict[Point, dict[str, int]] = defaultdict(dict)
    with table.open(encoding="utf-8", newline="") as rows:
        for row in csv.DictReader(rows):
            sizes = (row[name] for name in ("batch", "seq", "cache"))
            point = Point(row["model"], row["config_file"], row["phase"], *sizes, row["adapter"])
            found[point][row["metric"]] = int(row["value"])
    return found


def _is_ours(point: Point, folder: Path) -> bool:
    if point.phase not in PHASES:
        return False
    if point.adapter not in ("", "none") and not point.adapter.startswith(ADAPTERS):
        return False
    if point.config_file.endswith(".onnx"):
        return point.model in PRESETS
    config = folder / "hf_configs" / f"{point.model}.json"
    return read_json(config)["model_type"] in model_types()


@cache
def _counts(point: Point, folder: Path | None) -> Counts:
    if folder is None or point.config_file.endswith(".onnx"):
        model, adapter = PRESETS.get(point.model, point.model), None
    else:
        is_adapter = point.config_file.startswith("adapter_configs")
        file = f"hf_configs/{point.model}.json" if is_adapter else point.config_file
        model, adapter = str(folder / file), str(folder / point.config_file) if is_adapter else None
    phase = "prefill" if point.phase == "params" else point.phase
    batch, held = int(point.batch or 1), int(point.cache or 0)
    return count(
        load_workload(
            model, adapter=adapter, phase=phase, batch=batch, cache=held, lowering="reference",
            **_sizes(point.seq),
        )
    )  # fmt: skip


def _sizes(seq: str) -> dict[str, int]:
    """Tokens, or the side of an image ("224x224"); a row of parameters has neither."""
    name = "image" if "x" in seq else "seq"
    return {name: int(seq.partition("x")[0])} if seq else {}


def _ours(point: Point, metric: str, folder: Path | None) -> int:
    counts = _counts(point, folder)
    if metric != "flops_extra_vs_base":
        return int(getattr(counts, metric))
    bare = f"hf_configs/{point.model}.json"
    base = Point(point.model, bare, point.phase, point.batch, point.seq, point.cache, "none")
    return counts.flops_total - _counts(base, folder).flops_total


def _differences(points: dict[Point, dict[str, int]], folder: Path | None) -> list[str]:
    return [
        f"{point.model}|{point.adapter}|{point.phase}|{point.batch}|{point.seq}|{point.cache}|{metric}:"
        f" reference {value}, ours {ours}"
        for point, metrics in points.items()
        for metric, value in metrics.items()
        if metric in COUNTED and (ours := _ours(point, metric, folder)) != value
    ]


def test_the_committed_extract_is_met_to_the_unit() -> None:
    points = _points(EXTRACT)
    assert sum(len(metrics) for metrics in points.values()) > 30
    assert _differences(points, None) == []


def test_every_public_row_of_our_families_is_met_to_the_unit(reference_folder: Path) -> None:
    points = {
        point: metrics
        for point, metrics in _points(reference_folder / "golden_counts_public.csv").items()
        if _is_ours(point, reference_folder)
    }
    assert len(points) > 50
    assert _differences(points, reference_folder) == []


def test_no_metric_of_the_reference_is_passed_over_in_silence(reference_folder: Path) -> None:
    metrics = {
        metric
        for point, metrics in _points(reference_folder / "golden_counts_public.csv").items()
        if _is_ours(point, reference_folder)
        for metric in metrics
    }
    assert {metric for metric in metrics - COUNTED if not metric.startswith(FOREIGN)} == set()
