"""Figures and page of a small made-up study."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.study_example import example_fronts
from tilewright.reports.breakdown import breakdown_figure, energy_leaves, latency_shares, roofline_figure
from tilewright.reports.history import hypervolume_figure, sweep_figure
from tilewright.reports.page import BestDesign, study_page
from tilewright.reports.pareto import pareto_figure
from tilewright.search.constraint import parse_constraint


def _report() -> dict[str, Any]:
    def operator(name: str, start: int, end: int, span: int, layers: int) -> dict[str, Any]:
        return {
            "name": name,
            "layer_class": "block",
            "layers": layers,
            "macs": 10**6,
            "span_cycles": span,
            "start_cycle": start,
            "end_cycle": end,
            "bottleneck": "array",
            "dram_read_bytes": 4096,
            "dram_write_bytes": 0,
        }

    return {
        "workload": "prefill",
        "device": "u280",
        "latency_ms": 2.0,
        "energy_pj": 10e9,
        "power_w": 5.0,
        "clock_mhz": 200.0,
        "latency_cycles": 400_000,
        "bound_cycles": 300_000,
        "bottleneck": "array",
        "dram_bytes": {"read": 8192, "write": 0},
        "peaks": {"macs_per_cycle": 256, "dram_bytes_per_cycle": 64.0},
        "energy": {"total": {"total": 10e9, "array": {"total": 6e9, "mac": 6e9}, "dram": 4e9}},
        "per_op": [operator("qkv", 0, 100_000, 100_000, 2), operator("proj", 50_000, 200_000, 100_000, 2)],
    }


def test_overlapping_operators_share_the_latency_without_counting_it_twice() -> None:
    # qkv ends at 100,000 cycles, proj at 200,000, two layers at 200 MHz: 1 ms each, 2 ms together.
    shares = {name: ms for name, ms, _ in latency_shares(_report())}
    assert shares == {"block.qkv": pytest.approx(1.0), "block.proj": pytest.approx(1.0)}


def test_energy_leaves_sum_to_the_energy() -> None:
    assert sum(pj for _, _, pj in energy_leaves(_report())) == pytest.approx(10e9)


def test_every_figure_is_written_as_png_and_svg_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    fronts = example_fronts()
    front = fronts.front("fpga")
    constraints = [parse_constraint("used_fraction <= 0.25", ())]
    table = pd.DataFrame({"seq": [128, 256], "latency_ms": [1.0, 2.0], "energy_mj": [1.0, 3.0]})
    for folder in (tmp_path / "a", tmp_path / "b"):
        pareto_figure(front, fronts.rows, constraints, {"latency": 0.1}, folder / "pareto")
        hypervolume_figure(fronts, folder / "hypervolume")
        breakdown_figure(_report(), folder / "breakdown")
        roofline_figure([_report()], folder / "roofline")
        sweep_figure(table, ["seq"], {"latency_ms": "ms", "energy_mj": "mJ"}, folder / "sweep")
    files = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert len(files) == 10
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_an_axis_without_a_validated_model_says_so_and_has_no_bars(tmp_path: Path) -> None:
    fronts = example_fronts()
    _, svg = pareto_figure(
        fronts.front("asic"), fronts.rows, [], {"latency": 0.1, "energy": None}, tmp_path / "p"
    )
    text = svg.read_text(encoding="utf-8")
    assert "latency 10.0 % (bars)" in text
    assert "energy none yet" in text


def _page(title: str, tmp_path: Path) -> str:
    figure, _ = hypervolume_figure(example_fronts(), tmp_path / "hypervolume")
    best = BestDesign("fpga", "knee", {"rows": 16}, (_report(),), (figure,), "best/fpga_knee",
                      ({"rung": "csim", "verdict": "skipped", "reason": "g++ absent"},))  # fmt: skip
    return study_page(title, example_fronts(), [best], {"hypervolume": figure}, ["a note"])


def test_the_page_holds_every_simulated_design_and_loads_nothing(tmp_path: Path) -> None:
    html = _page("demo", tmp_path)
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert found
    data = json.loads(found.group(1))
    assert sum(len(part["points"]) for part in data.values()) == 60
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "csim skipped" in html
    assert "g++ absent" in html


def test_a_title_with_markup_stays_text(tmp_path: Path) -> None:
    html = _page("</script><script>alert(1)</script>", tmp_path)
    assert "<script>alert(1)" not in html
