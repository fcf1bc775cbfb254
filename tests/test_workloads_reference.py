"""Counts of small models against the reference implementation, to the unit; the data tell their origin."""

import json
from pathlib import Path
from typing import Any

import pytest

from tilewright.workloads.count import Counts, count
from tilewright.workloads.workload import load_workload

_DATA = Path(__file__).parent / "data"
_SIZES = ("batch", "seq", "cache", "decoder_seq", "samples", "image")


def _points() -> list[Any]:
    files = sorted(_DATA.glob("reference_*.json"))
    points = [point for file in files for point in json.loads(file.read_text())["points"]]
    names = [f"{point['label']} {point['phase']}" for point in points]
    return [pytest.param(point, id=name) for point, name in zip(points, names, strict=True)]


def _count(folder: Path, point: dict[str, Any]) -> Counts:
    file, adapter = folder / "config.json", None
    file.write_text(json.dumps(point["config"]))
    if "adapter" in point:
        adapter = folder / "adapter_config.json"
        adapter.write_text(json.dumps(point["adapter"]))
    sizes = {name: point[name] for name in _SIZES if name in point}
    phase = "prefill" if point["phase"] == "params" else point["phase"]
    return count(load_workload(file, adapter=adapter, phase=phase, lowering="reference", **sizes))


@pytest.mark.parametrize("point", _points())
def test_counts_are_those_of_the_reference(tmp_path: Path, point: dict[str, Any]) -> None:
    counts = _count(tmp_path, point)
    assert {metric: getattr(counts, metric) for metric in point["counts"]} == point["counts"]
