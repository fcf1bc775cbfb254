"""The evaluator that asks the simulator."""

from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

from tilewright.search.constraint import Constraint
from tilewright.search.evaluator import Simulated
from tilewright.search.judge import REFUSALS
from tilewright.search.objective import Figures, Part, area_metrics, combined
from tilewright.search.study import StudyPlan
from tilewright.sim.architecture import Architecture
from tilewright.sim.area import area_of
from tilewright.sim.design import Design
from tilewright.sim.device import device_named
from tilewright.sim.die_cost import die_cost_usd
from tilewright.sim.report import Report
from tilewright.sim.space import Space
from tilewright.sim.technology import resolve_table
from tilewright.sim.template import check_device, template_named


class Simulator:
    """Designs as `sim` sees them, for the workloads of a plan; an `Evaluate`."""

    def __init__(self, plan: StudyPlan) -> None:
        self._workloads = plan.workloads
        self._combine = plan.combine
        self._fidelity = plan.fidelity
        self._table = plan.tables[0]
        self._priced = "cost" in plan.objectives or any("cost" in text for text in plan.constraints)

    def space(self, template: str, device: str) -> Space:
        check_device(_template(template), device_named(device))
        return _template(template).space(device_named(device))

    def device_class(self, device: str) -> str:
        return device_named(device).device_class

    def limits(self, device: str) -> tuple[Constraint, ...]:
        known = device_named(device)
        if known.is_fpga:
            return (Constraint("used_fraction", "<=", 1.0, "fpga"),)
        if known.max_die_mm2 is None:
            return ()
        return (Constraint("area_mm2", "<=", known.max_die_mm2, "asic"),)

    def prepare(self, design: Design) -> None:
        # Simulating anything compiles everything; whether this very design fits does not matter.
        with suppress(*REFUSALS):
            self.bound(design)
            self.simulate(design)

    def screen(self, design: Design) -> Mapping[str, float]:
        device = device_named(design.device)
        architecture = _built(design)
        metrics = area_metrics(area_of(architecture, device)) | {"clock_mhz": architecture.clock_mhz}
        if self._priced and not device.is_fpga:
            metrics["cost"] = die_cost_usd(metrics["area_mm2"], device.node_nm)
        return metrics

    def bound(self, design: Design) -> Mapping[str, float]:
        if self._fidelity == "bound":
            return {}  # the bound is the result, there is nothing to save
        from tilewright.sim.bound import design_bound

        device, architecture = device_named(design.device), _built(design)
        table = resolve_table(device, self._table)
        parts = []
        for workload in self._workloads:
            least = design_bound(workload.network, architecture, device, table)
            figures = Figures(
                latency_ms=least.latency_cycles / (architecture.clock_mhz * 1e3),
                energy_mj=least.energy_pj * 1e-9,
                dram_bytes=float(least.dram_read_bytes + least.dram_write_bytes),
                tokens=workload.tokens,
            )
            parts.append(Part(workload.name, workload.weight, workload.phase, figures))
        together = combined(parts, self._combine)
        # A ratio of two lower bounds is no bound.
        bounded = {name: value for name, value in together.items() if not name.endswith("power_w")}
        return bounded | dict(self.screen(design))

    def simulate(self, design: Design) -> Simulated:
        from tilewright.sim.evaluate import evaluate

        parts, details = [], {}
        for workload in self._workloads:
            report = evaluate(
                workload.network,
                design,
                fidelity=self._fidelity,
                workload=workload.name,
                lowering=workload.lowering,
                tokens=workload.tokens,
                table=self._table,
            )
            parts.append(Part(workload.name, workload.weight, workload.phase, Figures.of(report)))
            details[workload.name] = _summary(report)
        return Simulated({**combined(parts, self._combine), **self.screen(design)}, details)


# Finding templates asks the interpreter for the entry points of all installed packages.
_template = lru_cache(maxsize=None)(template_named)


def _built(design: Design) -> Architecture:
    template, device = _template(design.template), device_named(design.device)
    return template.build(template.space(device).complete(design.parameters), device)


def _summary(report: Report) -> dict[str, Any]:
    """What a study keeps of a report beside the metrics."""
    return {
        "latency_cycles": report.latency_cycles,
        "bound_cycles": report.bound_cycles,
        "bottleneck": report.bottleneck,
        "utilisation": dict(report.utilisation),
        "energy_pj": {part.name: part.value for part in report.energy.children},
        "dram_read_bytes": report.dram_read_bytes,
        "dram_write_bytes": report.dram_write_bytes,
        "extrapolated_periods": len(report.extrapolated),
        "error_fraction": dict(report.error_fraction),
    }
