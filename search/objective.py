"""Objectives and metrics: the named figures of a design, over one workload or several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Literal, cast

from tilewright.dataflow.errors import InputError, nearest
from tilewright.sim.report import AreaReport, Report

Combine = Literal["sum", "geomean", "worst"]
COMBINES: tuple[Combine, ...] = ("sum", "geomean", "worst")


@dataclass(frozen=True, slots=True)
class Metric:
    """A named figure of a design; `device_class` "" where both classes have it."""

    name: str
    unit: str
    meaning: str
    device_class: str = ""
    maximise: bool = False


_FPGA_RESOURCES = ("lut", "ff", "dsp", "bram36", "uram")

#: Figures of a workload; each stands for the study's combination and, as `<workload>.<name>`, for one of
#: them.
_WORKLOAD_METRICS = (
    Metric("latency_ms", "ms", "time of the run"),
    Metric("energy_mj", "mJ", "energy of the run"),
    Metric("power_w", "W", "mean power: energy over time"),
    Metric("edp", "mJ ms", "energy times latency"),
    Metric(
        "tokens_per_s", "1/s", "tokens over time, of the decode workloads if there are any", maximise=True
    ),
    Metric("ttft_ms", "ms", "time to first token: latency of the prefill workloads"),
    Metric("dram_bytes", "byte", "bytes read from and written to DRAM"),
)

#: Figures of the hardware alone, known before anything is simulated.
_DESIGN_METRICS = (
    Metric("area", "mm2 or fraction", "area_mm2 on an ASIC, used_fraction on an FPGA"),
    Metric("area_mm2", "mm2", "silicon area", "asic"),
    Metric("used_fraction", "1", "largest used fraction of the FPGA's resources, shell included", "fpga"),
    *(Metric(f"{name}_fraction", "1", f"used fraction of {name}", "fpga") for name in _FPGA_RESOURCES),
    *(Metric(name, "1", f"{name} used", "fpga") for name in _FPGA_RESOURCES),
    Metric("clock_mhz", "MHz", "default clock of the design"),
    Metric("cost", "USD", "cost of the good die", "asic"),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in (*_WORKLOAD_METRICS, *_DESIGN_METRICS)}
WORKLOAD_METRICS: tuple[str, ...] = tuple(metric.name for metric in _WORKLOAD_METRICS)

#: What a study may optimise.
OBJECTIVES: tuple[str, ...] = (
    "latency_ms", "energy_mj", "area", "power_w", "edp", "tokens_per_s", "ttft_ms", "cost",
)  # fmt: skip


def objective_named(name: str) -> Metric:
    """Raises InputError for a name that is no objective (closest one named)."""
    if name not in OBJECTIVES:
        raise InputError(
            f"objective {name!r} is unknown{nearest(name, OBJECTIVES)}; known: {', '.join(OBJECTIVES)}"
        )
    return METRICS[name]


def unit_of(name: str, device_class: str) -> str:
    """The unit of a metric on a device class; `area` is the one whose unit depends on it."""
    if name == "area":
        return METRICS["used_fraction" if device_class == "fpga" else "area_mm2"].unit
    return METRICS[name.rpartition(".")[2]].unit


@dataclass(frozen=True, slots=True)
class Figures:
    """What one workload takes on a design; of a bound, the least that it can take."""

    latency_ms: float
    energy_mj: float
    dram_bytes: float
    tokens: int

    @staticmethod
    def of(report: Report) -> "Figures":
        return Figures(
            latency_ms=report.latency_ms,
            energy_mj=report.energy_pj * 1e-9,
            dram_bytes=float(report.dram_read_bytes + report.dram_write_bytes),
            tokens=report.tokens,
        )

    @property
    def power_w(self) -> float:
        return self.energy_mj / self.latency_ms

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / (self.latency_ms * 1e-3)


@dataclass(frozen=True, slots=True)
class Part:
    """One workload's share in a study: its figures, how often it runs, its phase."""

    name: str
    weight: float
    phase: str
    figures: Figures


def combined(parts: Sequence[Part], how: Combine) -> dict[str, float]:
    """The metrics of several workloads together, and of each as `<workload>.<metric>`.

    sum: the workloads run one after another, each `weight` times; power, edp and tokens_per_s are those of
    that whole run. geomean: weighted geometric mean of each metric. worst: the largest weight x value; of
    power_w and tokens_per_s, which repetition does not change, the worst value itself.
    """
    metrics = _together(parts, how)
    for part in parts:
        alone = _together((Part(part.name, 1.0, part.phase, part.figures),), "sum")
        metrics |= {f"{part.name}.{name}": value for name, value in alone.items()}
    return metrics


def _together(parts: Sequence[Part], how: Combine) -> dict[str, float]:
    metrics = {
        name: _total([(part.weight, cast(float, getattr(part.figures, name))) for part in parts], how)
        for name in ("latency_ms", "energy_mj", "dram_bytes")
    }
    if how == "sum":
        metrics["power_w"] = metrics["energy_mj"] / metrics["latency_ms"]
        metrics["edp"] = metrics["energy_mj"] * metrics["latency_ms"]
    else:
        powers = [(part.weight, part.figures.power_w) for part in parts]
        metrics["power_w"] = max(value for _, value in powers) if how == "worst" else _total(powers, how)
        metrics["edp"] = _total(
            [(part.weight, part.figures.energy_mj * part.figures.latency_ms) for part in parts], how
        )
    prefills = [part for part in parts if _is_phase(part, "prefill")]
    if prefills:
        metrics["ttft_ms"] = _total([(part.weight, part.figures.latency_ms) for part in prefills], how)
    metrics["tokens_per_s"] = _token_rate(parts, how)
    return metrics


def _token_rate(parts: Sequence[Part], how: Combine) -> float:
    rated = [part for part in parts if _is_phase(part, "decode")] or list(parts)
    if how == "worst":
        return min(part.figures.tokens_per_s for part in rated)
    if how == "geomean":
        return _total([(part.weight, part.figures.tokens_per_s) for part in rated], how)
    tokens = sum(part.weight * part.figures.tokens for part in rated)
    return tokens / (1e-3 * sum(part.weight * part.figures.latency_ms for part in rated))


def _is_phase(part: Part, phase: str) -> bool:
    return part.phase.partition(":")[0] == phase


def _total(weighted: Sequence[tuple[float, float]], how: Combine) -> float:
    """(weight, value) pairs to one value; a geometric mean with a zero in it is zero."""
    if how == "sum":
        return sum(weight * value for weight, value in weighted)
    if how == "worst":
        return max(weight * value for weight, value in weighted)
    if any(value <= 0 for _, value in weighted):
        return 0.0
    weights = sum(weight for weight, _ in weighted)
    return exp(sum(weight * log(value) for weight, value in weighted) / weights)


def area_metrics(area: AreaReport) -> dict[str, float]:
    """The metrics of an area report: mm2 on a chip, resources and used fractions on an FPGA."""
    if area.device_class != "fpga":
        mm2 = cast(float, area.mm2)
        return {"area": mm2, "area_mm2": mm2}
    used = cast(float, area.used_fraction)
    metrics = {"area": used, "used_fraction": used}
    for name in _FPGA_RESOURCES:
        if (count := getattr(area, name)) is not None:
            metrics[name] = float(count)
    return metrics | {f"{name}_fraction": value for name, value in area.fractions}


def cost_of(name: str, metrics: Mapping[str, float]) -> float:
    """The value to minimise for an objective: the metric, negated if it is maximised."""
    return -metrics[name] if METRICS[name].maximise else metrics[name]
