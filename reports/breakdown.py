"""Where one design's time and energy go: breakdown bars and a roofline, from a stored report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tilewright.reports.style import COLOURS, GREY, INK, figure_style, log_axes, save

#: Operators drawn one by one; the rest are summed as "other".
_MOST_BARS = 14


def breakdown_figure(report: Mapping[str, Any], stem: Path) -> tuple[Path, Path]:
    """Latency by operator and energy by component and action; `report` is a `Report.to_dict()`."""
    with figure_style():
        import matplotlib.pyplot as plt

        figure, (left, right) = plt.subplots(
            1, 2, figsize=(11.5, 4.6), layout="constrained", width_ratios=(1.15, 1)
        )
        _latency_bars(left, report)
        _energy_bars(right, report)
        figure.suptitle(
            f"{report['workload']} on {report['device']}: {report['latency_ms']:.4g} ms,"
            f" {report['energy_pj'] * 1e-9:.4g} mJ, {report['power_w']:.3g} W",
            fontsize=11,
            color=INK,
        )
        return save(figure, stem)


def latency_shares(report: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    """(operator, ms over all its layers, bottleneck), largest first, small ones summed as "other".

    An operator counts from where the one before it ended, so the shares sum to the latency.
    """
    clock = report["clock_mhz"] * 1e3
    rows = [
        (f"{one['layer_class']}.{one['name']}", one["span_cycles"] * one["layers"] / clock, one["bottleneck"])
        for one in report["per_op"]
    ]
    rows.sort(key=lambda row: -row[1])
    if len(rows) > _MOST_BARS:
        rest = sum(row[1] for row in rows[_MOST_BARS - 1 :])
        rows = [*rows[: _MOST_BARS - 1], (f"other ({len(rows) - _MOST_BARS + 1})", rest, "")]
    return rows


def _latency_bars(axes: Any, report: Mapping[str, Any]) -> None:
    rows = latency_shares(report)[::-1]
    kinds = sorted({bottleneck for _, _, bottleneck in rows if bottleneck})
    colour_of = {kind: COLOURS[index % len(COLOURS)] for index, kind in enumerate(kinds)} | {"": GREY}
    axes.barh([name for name, _, _ in rows], [ms for _, ms, _ in rows],
              color=[colour_of[kind] for _, _, kind in rows])  # fmt: skip
    if kinds:
        from matplotlib.patches import Patch

        patches = [Patch(color=colour_of[kind], label=f"bound by {kind}") for kind in kinds]
        axes.legend(handles=patches, loc="lower right")
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("latency, all layers (ms)")
    axes.tick_params(axis="y", labelsize=7)


def energy_leaves(report: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """(component, action, pJ) of the energy tree's leaves, in the tree's order."""
    found: list[tuple[str, str, float]] = []

    def walk(component: str, path: str, node: Any) -> None:
        if not isinstance(node, Mapping):
            found.append((component, path, float(node)))
            return
        for name, child in node.items():
            if name != "total":
                walk(component, f"{path} {name}".strip(), child)

    for tree in report["energy"].values():
        children = tree.items() if isinstance(tree, Mapping) else ()
        for component, child in children:
            if component == "total":
                continue
            if isinstance(child, Mapping):
                walk(component, "", child)
            else:
                found.append((component, component, float(child)))
    return found


def _energy_bars(axes: Any, report: Mapping[str, Any]) -> None:
    by_component: dict[str, list[tuple[str, float]]] = {}
    for component, action, pj in energy_leaves(report):
        by_component.setdefault(component, []).append((action, pj))
    names = sorted(by_component, key=lambda name: sum(pj for _, pj in by_component[name]))
    total = report["energy_pj"] or 1.0
    for row, name in enumerate(names):
        left = 0.0
        for position, (action, pj) in enumerate(by_component[name]):
            axes.barh(row, pj * 1e-9, left=left * 1e-9, color=COLOURS[position % len(COLOURS)],
                      edgecolor="white", linewidth=0.5)  # fmt: skip
            if pj > 0.16 * total:
                axes.text(
                    (left + pj / 2) * 1e-9, row, action, ha="center", va="center", fontsize=6, color="white"
                )
            left += pj
        axes.text(left * 1e-9, row, f" {100 * left / total:.1f} %", va="center", fontsize=7, color=INK)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.12)
    axes.set_xlabel("energy by component and action (mJ)")


def roofline_figure(reports: Sequence[Mapping[str, Any]], stem: Path) -> tuple[Path, Path]:
    """Operators of one design under its roofline: GMAC/s over MACs per DRAM byte.

    reports: one for each workload of the design. Operators without MACs or DRAM traffic are left out.
    """
    with figure_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
        first = reports[0]
        clock_hz = first["clock_mhz"] * 1e6
        peak = first["peaks"]["macs_per_cycle"] * clock_hz * 1e-9
        bandwidth = first["peaks"]["dram_bytes_per_cycle"] * clock_hz * 1e-9
        intensities: list[float] = []
        for colour, report in zip(COLOURS, reports, strict=False):
            xs, ys = _roofline_points(report)
            intensities += xs
            axes.scatter(xs, ys, s=16, color=colour, alpha=0.8, label=report["workload"], zorder=3)
        ridge = peak / bandwidth
        low = min([*intensities, ridge]) / 3
        high = max([*intensities, ridge]) * 3
        axes.plot([low, ridge, high], [low * bandwidth, peak, peak], color=INK, lw=1.4)
        axes.annotate(f"{peak:.4g} GMAC/s", (high, peak), ha="right", va="bottom", fontsize=7)
        axes.annotate(f"{bandwidth:.4g} GB/s", (low, low * bandwidth), va="bottom", fontsize=7, rotation=28)
        axes.set(xlabel="operational intensity (MAC per DRAM byte)", ylabel="achieved (GMAC/s)")
        log_axes(axes)
        axes.set_title(f"roofline on {first['device']}")
        axes.legend(loc="lower right")
        return save(figure, stem)


def _roofline_points(report: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """MAC per DRAM byte and GMAC/s of each operator over the cycles by which it lengthens its layer."""
    xs, ys = [], []
    for operator in report["per_op"]:
        n_bytes = operator["dram_read_bytes"] + operator["dram_write_bytes"]
        if operator["macs"] and n_bytes and operator["span_cycles"]:
            xs.append(operator["macs"] / n_bytes)
            ys.append(operator["macs"] / operator["span_cycles"] * report["clock_mhz"] * 1e-3)
    return xs, ys
