"""A small made-up study for tests of reports: two device classes, a curve of trade-offs, a few failures."""

import numpy as np

from tilewright.search.front import Fronts, fronts_of
from tilewright.search.outcome import Generation, Outcome, Row
from tilewright.sim.design import Design

OBJECTIVES = ("latency_ms", "energy_mj", "area")


def example_fronts(n_designs: int = 60) -> Fronts:
    """Designs whose latency falls and whose area rises with the array's size, some over the area limit."""
    random = np.random.default_rng(7)
    rows = []
    for number in range(n_designs):
        device = ("u280", "asic7")[number % 2]
        size = int(2 ** random.integers(2, 8))
        noise = float(random.uniform(1.0, 1.8))
        area = (0.002 if device == "u280" else 0.6) * size * noise
        metrics = {"latency_ms": 900 / size * noise, "energy_mj": (20 + size**0.5) * noise, "area": area}
        violated = device == "u280" and area > 0.25
        outcome = Outcome(
            status="infeasible" if violated else "ok",
            reason="used_fraction <= 0.25" if violated else "",
            violation=float(violated),
            simulated=True,
            metrics=metrics | {"power_w": metrics["energy_mj"] / metrics["latency_ms"]},
        )
        design = Design("sequential", device, {"rows": size, "stationarity": "output", "fuse": True})
        rows.append(
            Row(number, number // 20, f"key{number}", "fpga" if device == "u280" else "asic", design, outcome)
        )
    history = [
        Generation(g, device_class, 1.0 + g, 5, 20 * g, 0, 0)
        for g in range(3)
        for device_class in ("asic", "fpga")
    ]
    plan = {
        "workloads": [{"name": "prefill"}],
        "combine": "sum",
        "objectives": list(OBJECTIVES),
        "constraints": ["used_fraction <= 0.25"],
        "fidelity": "tile",
        "seed": 1,
        "model_version": "test",
    }
    return fronts_of(plan, rows, history)
