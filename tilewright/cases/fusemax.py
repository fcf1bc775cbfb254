"""FuseMax (arXiv 2406.10491): five configurations of attention on a 256 x 256 array at 45 nm."""

from itertools import product
from pathlib import Path
from statistics import mean

from tilewright.cases.attention import Model, choice, design, models, simulate, tokens
from tilewright.cases.case import Case, CaseResult, Claim, Point, published

LENGTHS = ("1K", "4K", "16K", "64K", "256K", "1M")
CONFIGURATIONS = ("unfused", "flat", "cascade", "arch", "binding")
UNITS = {
    "latency_s": "s",
    "energy_pj": "pJ",
    "dram_bytes": "bytes",
    "util_2d": "fraction",
    "util_1d": "fraction",
}
# The papers' means are stated to two digits; ours agree within 3 %.
_TOLERANCE = 0.03


def run() -> CaseResult:
    """Every configuration, model and length; the means of the paper's abstract over all of them."""
    known = published("fusemax")
    points: list[Point] = []
    ours: dict[tuple[str, str, str], dict[str, float]] = {}
    for model, length, name in product(models(), LENGTHS, CONFIGURATIONS):
        figures = ours[model.name, length, name] = _figures(model, length, name)
        points += [
            Point(point, quantity, UNITS[quantity], value, known.get(point))
            for quantity, value in figures.items()
            if (point := f"{model.name}/{length}/{name}/{quantity}")
        ]
    return CaseResult("fusemax", tuple(points), tuple(_claims(ours)))


def _figures(model: Model, length: str, name: str) -> dict[str, float]:
    """Figures of one configuration at one length."""
    pinned = choice("cloud", model, tokens(length)) if name == "flat" else {}
    report = simulate("fusemax", name, model, tokens(length), pinned)
    busy = dict(report.utilisation)
    if name == "flat":  # its source counts the share of PEs that the mapping uses
        stated = design("fusemax", name)[0].parameters
        n_pes = int(stated["rows"]) * int(stated["cols"])
        busy["array"] = report.macs / n_pes / report.latency_cycles
    return {
        "latency_s": report.latency_ms * 1e-3,
        "energy_pj": report.energy_pj,
        "dram_bytes": float(report.dram_read_bytes + report.dram_write_bytes),
        "util_2d": busy["array"],
        "util_1d": busy["vector"],
    }


def _claims(ours: dict[tuple[str, str, str], dict[str, float]]) -> list[Claim]:
    """Means over models and lengths of the ratios to FLAT; end to end with six products beside attention."""
    speedups, energies, whole_speedups, whole_energies = [], [], [], []
    for model, length in product(models(), LENGTHS):
        best, base = ours[model.name, length, "binding"], ours[model.name, length, "flat"]
        time, energy = _linear(model, tokens(length), "binding")
        base_time, base_energy = _linear(model, tokens(length), "flat")
        speedups.append(base["latency_s"] / best["latency_s"])
        energies.append(best["energy_pj"] / base["energy_pj"])
        whole_speedups.append((base["latency_s"] + base_time) / (best["latency_s"] + time))
        whole_energies.append((best["energy_pj"] + energy) / (base["energy_pj"] + base_energy))
    named = (
        ("attention_speedup", 6.7, mean(speedups)),
        ("attention_energy", 0.79, mean(energies)),
        ("end_to_end_speedup", 5.3, mean(whole_speedups)),
        ("end_to_end_energy", 0.83, mean(whole_energies)),
    )
    return [
        Claim(name, value, value * (1 - _TOLERANCE), value * (1 + _TOLERANCE), found)
        for name, value, found in named
    ]


def _linear(model: Model, n_tokens: int, name: str) -> tuple[float, float]:
    """(seconds, pJ) of the layer's six products on the array of a configuration, one after another."""
    from tilewright.cases.attention import simulate_linear

    sizes = [(model.width, model.width)] * 4
    sizes += [(model.width, model.ffn_width), (model.ffn_width, model.width)]
    found = {size: simulate_linear("fusemax", name, n_tokens, *size) for size in set(sizes)}
    return (
        sum(found[size].latency_ms for size in sizes) * 1e-3,
        sum(found[size].energy_pj for size in sizes),
    )


def draw(result: CaseResult, file: Path) -> None:
    """Ours over published by quantity and length."""
    from tilewright.reports.cases import ratio_figure

    ratio_figure(
        "FuseMax: ours over published",
        [(one.id, one.quantity, one.error_fraction) for one in result.points], [], LENGTHS, file,
    )  # fmt: skip


CASE = Case("fusemax", "FuseMax: one-pass attention on paired arrays (arXiv 2406.10491)", run, draw)
