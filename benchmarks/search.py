"""CPU milliseconds that sampler and durable store take for each evaluation (limit 1 ms).

    python benchmarks/search.py [evaluations]

The spaces are those of the `sequential` family on a U280 and a 7 nm ASIC; the evaluator is arithmetic over
the parameters, whose own time is measured and taken off, and returns as much to store as six workloads do.
"""

import sys
import tempfile
import time
from collections.abc import Mapping
from math import log2
from pathlib import Path

from tilewright.search.constraint import Constraint, parse_constraint
from tilewright.search.evaluator import Simulated
from tilewright.search.front import Fronts
from tilewright.search.objective import Figures, Part, combined
from tilewright.search.run import run_study
from tilewright.search.study import StudyPlan, StudyWorkload
from tilewright.sim.design import Design
from tilewright.sim.device import device_named
from tilewright.sim.space import Space
from tilewright.sim.template import template_named

WORKLOADS = tuple(StudyWorkload(f"workload{i}", (), 512, str(i)) for i in range(6))
DETAILS = {workload.name: {f"component{i}": 1 / (i + 3) for i in range(30)} for workload in WORKLOADS}


class Arithmetic:
    """Latency falls and area rises with the PEs, buffers trade DRAM energy for area; nothing is simulated."""

    def __init__(self) -> None:
        self.own_s = 0.0

    def space(self, template: str, device: str) -> Space:
        return template_named(template).space(device_named(device))

    def device_class(self, device: str) -> str:
        return device_named(device).device_class

    def limits(self, device: str) -> tuple[Constraint, ...]:
        return (parse_constraint("area <= 1"),)

    def prepare(self, design: Design) -> None:
        pass

    def screen(self, design: Design) -> Mapping[str, float]:
        p = {name: float(value) for name, value in design.parameters.items() if not isinstance(value, str)}
        pes = p["rows"] * p["cols"] * p["arrays"]
        buffers = p["input_buffer_kib"] + p["weight_buffer_kib"] + p["output_buffer_kib"]
        return {"area": pes / 2**16 + buffers / 2**14 + p["vector_lanes"] / 2**12}

    def bound(self, design: Design) -> Mapping[str, float]:
        return {}

    def simulate(self, design: Design) -> Simulated:
        start = time.process_time()
        p = {name: float(value) for name, value in design.parameters.items() if not isinstance(value, str)}
        pes = p["rows"] * p["cols"] * p["arrays"]
        buffers = p["input_buffer_kib"] + p["weight_buffer_kib"] + p["output_buffer_kib"]
        latency = 1e6 / (pes * p["clock_mhz"]) + 50 / p["hbm_channels"] + 20 / p["vector_lanes"]
        energy = 5 + 40 / log2(buffers) + latency * (0.1 + pes / 1e5)
        parts = [
            Part(w.name, 1.0, "prefill", Figures(latency, energy * i, 1e6, 512))
            for i, w in enumerate(WORKLOADS, 1)
        ]
        found = Simulated({**combined(parts, "sum"), **self.screen(design)}, DETAILS)
        self.own_s += time.process_time() - start
        return found


def cpu_ms_per_evaluation(evaluations: int, population: int | None) -> tuple[float, Fronts]:
    """CPU time of a study over its evaluations, the evaluator's own taken off."""
    plan = StudyPlan(
        workloads=WORKLOADS,
        templates=("sequential",),
        devices=("u280", "asic7"),
        objectives=("latency_ms", "energy_mj", "area"),
        evaluations=evaluations,
        population=population,
    )
    evaluate = Arithmetic()
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        fronts = run_study(plan, Path(folder), evaluate=evaluate)
        used_s = time.process_time() - start - evaluate.own_s
    return 1e3 * used_s / evaluations, fronts


def main() -> None:
    evaluations = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    start = time.process_time()
    cpu_ms_per_evaluation(50, population=8)
    print(f"first study of 50 evaluations, pymoo's import included: {time.process_time() - start:.2f} CPU s")
    for population in (20, 40, 100):
        used_ms, fronts = cpu_ms_per_evaluation(evaluations, population)
        sizes = ", ".join(f"{front.device_class} {len(front.rows)}" for front in fronts.fronts)
        print(f"population {population:3}: {used_ms:.3f} CPU ms per evaluation (front: {sizes})")


if __name__ == "__main__":
    main()
