"""The figure of bandwidth over time shows what moves most, and is the same for the same report."""

from pathlib import Path
from typing import Any

from tilewright.reports.bandwidth import bandwidth_figure, series_names


def report() -> dict[str, Any]:
    """Two classes of two bins; weights move most, a series of nothing is left out."""
    block = {
        "layer_class": "block", "layers": 4, "resolution": "transfer", "edges_us": (0.0, 5.0, 10.0),
        "gb_per_s": {"activation read": (1.0, 0.0), "weight read": (8.0, 6.0), "state read": (0.0, 0.0)},
    }  # fmt: skip
    head = block | {"layer_class": "head", "layers": 1, "gb_per_s": {"weight read": (12.0, 12.0)}}
    memory = {"config": "hbm2_pc_bg", "n_channels": 1, "peak_gb_per_s": 16.0, "over_time": [block, head]}
    return {"workload": "w", "device": "d", "memory": memory}


def test_series_are_in_the_order_of_what_they_move() -> None:
    assert series_names(report()["memory"]["over_time"]) == ["weight read", "activation read"]


def test_more_series_than_colours_leave_small_ones_to_other() -> None:
    many = {f"s{i}": (float(i), 0.0) for i in range(1, 10)}
    names = series_names([{"layers": 1, "edges_us": (0.0, 1.0, 2.0), "gb_per_s": many}])
    assert names == ["s9", "s8", "s7", "s6", "s5"]


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    first = [file.read_bytes() for file in bandwidth_figure(report(), tmp_path / "a")]
    assert [file.read_bytes() for file in bandwidth_figure(report(), tmp_path / "b")] == first
    assert b"weight read" in first[1]
    assert b"16 GB/s at most" in first[1]
