"""Allo (arXiv 2404.04815): a GPT-2 medium layer as three regions of streaming modules on an Alveo U280."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from tilewright.api import workload_of
from tilewright.cases.attention import design
from tilewright.cases.case import Case, CaseResult, Point, design_file, published, rows
from tilewright.sim.device import device_named
from tilewright.sim.spatial import End, Link, Pipeline, Process, stages_of
from tilewright.sim.spatial_emit import SpatialRun, simulate_pipeline
from tilewright.sim.spatial_static import StaticReport, static_report

NAME = "allo_gpt2"
DEVICE = "u280"
CLOCK_MHZ = 250.0
REGIONS = (1, 2, 3)
_LAYERS = 24
# 460 GB/s at 250 MHz: the ports, a channel each, take a tenth of it.
_MEMORY_BYTES_PER_CYCLE = 1840.0
#: Modules by the ids of the published table; three alike stand there as one.
_NAMES = {"linear_k": "linear_qkv_each"}
_ALIKE = ("linear_v", "linear_q")
#: What the source reports of each region.
_REPORTED = {
    1: ("weight_loader", "linear_k", "input_loader"),
    2: ("weight_loader_ds0", "attention", "mask", "softmax", "context", "linear_ds0", "residual", "layernorm",
        "K_writer", "V_writer", "Q_buffer"),
    3: ("weight_loader", "linear_ds1", "gelu", "linear_ds2", "residual", "layernorm", "output_writer"),
}  # fmt: skip


#: DSPs of the routed kernels, and arrays (rows, columns, rows of a block) that the family is tried with.
_KERNEL_DSPS = 1776
_CHOICES = (
    (6, 8, 32, 8), (4, 8, 64, 8), (4, 16, 32, 16), (4, 16, 32, 32), (3, 16, 64, 16), (2, 16, 64, 16), (2, 32, 32, 32),
)  # fmt: skip


@cache
def pipeline() -> Pipeline:
    """The layer as its source states it: loops, intervals, depths (`data/allo_gpt2_*.csv`)."""
    links = tuple(
        Link(row["name"], "array" if row["kind"] == "array" else "stream", int(row["depth"]), int(row["beats"]),
             int(row["bits"]))
        for row in rows(f"{NAME}_links.csv")
    )  # fmt: skip
    return Pipeline(NAME, tuple(_process(row) for row in rows(f"{NAME}_processes.csv")), links)


def _process(row: Mapping[str, str]) -> Process:
    kind = row["kind"]
    interval = stages_of(["float_add"]) if row["ii"] == "sum" else int(row["ii"])
    return Process(
        name=row["process"], module=f"region{row['region']}/{row['module']}",
        outer=tuple(int(trips) for trips in row["outer"].split()), trips=int(row["trips"]),
        packets=int(row["packets"]), ii=interval,
        stages=stages_of(row["operations"].split()) + int(row["skew"]),
        kind="load" if kind == "load" else "store" if kind == "store" else "compute",
        bits=int(row["bits"]), macs=int(row["macs"]), takes=_ends(row["takes"]), gives=_ends(row["gives"]),
    )  # fmt: skip


def _ends(text: str) -> tuple[End, ...]:
    found = []
    for one in text.split():
        link, level = one.split("@")
        found.append(End(link, int(level)))
    return tuple(found)


def modules_of(region: int) -> tuple[str, ...]:
    """The modules of a region, in order."""
    return tuple(name for name in pipeline().modules if name.startswith(f"region{region}/"))


@cache
def region_report(region: int) -> StaticReport:
    """What a static report says of a region."""
    return static_report(pipeline(), modules_of(region), DEVICE, CLOCK_MHZ, _MEMORY_BYTES_PER_CYCLE)


@cache
def layer_run() -> SpatialRun:
    """The whole layer simulated, regions joined by their streams, with real arrival times."""
    return simulate_pipeline(pipeline(), DEVICE, CLOCK_MHZ, _MEMORY_BYTES_PER_CYCLE)


def run() -> CaseResult:
    """Modules and regions as a static report counts them, and when the simulated layer's regions end."""
    known = published(NAME)
    points: list[Point] = []
    for region in REGIONS:
        report = region_report(region)
        ours = dict(report.modules)
        found = {"latency": report.latency_cycles, "interval": report.interval_cycles}
        found |= {_NAMES.get(one, one): ours[f"region{region}/{one}"] for one in _REPORTED[region]}
        for name, cycles in found.items():
            point = f"region{region}/{name}/cycles"
            quantity = f"region {name}" if name in ("latency", "interval") else "module cycles"
            points.append(Point(point, quantity, "cycles", float(cycles), known.get(point)))
    layer = layer_run()
    for region in REGIONS:
        end = layer.end_of(set(modules_of(region)))
        points.append(Point(f"region{region}/simulated_end/cycles", "simulated", "cycles", float(end)))
    total = layer.timing.latency_cycles
    points.append(Point("layer/latency/cycles", "simulated", "cycles", float(total)))
    all_ms = _LAYERS * total / CLOCK_MHZ * 1e-3
    points.append(Point("model/latency_ms", "simulated model", "ms", all_ms))
    return CaseResult(NAME, tuple(points), (), _alternatives(total))


def _alternatives(published_layer: int) -> tuple[Mapping[str, Any], ...]:
    """One layer on the family `dataflow`: with arrays like the source's, and with the fastest of a few others.

    The others use no more DSPs than the source's kernels. `speedup` is over the simulated layer of the source.
    """
    from tilewright.sim.evaluate import evaluate

    stated, _, file = design(NAME, "dataflow")
    workload = workload_of(file, design_file(NAME, "dataflow").parent)
    # The layer without what stands before and behind it.
    block = max(workload.network, key=lambda layer: layer.count)
    device = device_named(stated.device)
    limit = dict(device.shell).get("dsp", 0) + _KERNEL_DSPS
    found = []
    for arrays, n_rows, n_cols, block_rows in _CHOICES:
        chosen = {**stated.parameters, "linear_arrays": arrays, "linear_rows": n_rows, "linear_cols": n_cols,
                  "block_rows": block_rows}  # fmt: skip
        report = evaluate((replace(block, count=1),), replace(stated, parameters=chosen))
        if (report.area.dsp or 0) <= limit:
            found.append(
                {
                    "id": f"{arrays} arrays of {n_rows} x {n_cols}, blocks of {block_rows} rows",
                    "latency_cycles": report.latency_cycles,
                    "interval_cycles": report.interval_cycles,
                    "dsp": report.area.dsp,
                    "speedup": published_layer / report.latency_cycles,
                }
            )
    first, rest = found[0], found[1:]
    return (first, min(rest, key=lambda one: one["latency_cycles"]))


def draw(result: CaseResult, file: Path) -> None:
    """Errors of modules and regions, and the simulated layer module by module."""
    from tilewright.reports.spatial import spatial_figure

    errors = [
        (one.id.removesuffix("/cycles"), one.error_fraction)
        for one in result.points
        if one.error_fraction is not None
    ]
    bars = layer_run().active()
    spatial_figure("Allo GPT-2 medium layer: ours less published", errors, bars, CLOCK_MHZ, file)


CASE = Case(NAME, "Allo: a GPT-2 medium layer as a spatial pipeline (arXiv 2404.04815)", run, draw)
