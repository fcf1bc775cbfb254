"""What the command line prints for people: tables with units, on standard output."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from tilewright.sim.memory_report import ChannelTraffic, MemoryReport, TensorTraffic
    from tilewright.sim.report import Report


#: Tensors of the memory's table, those that move most.
_MOST_TENSORS = 24


def _print(*tables: Table | Text | str) -> None:
    # A pipe has no width: nothing is cut there.
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 240)
    for table in tables:
        console.print(table)


def _table(title: str, *columns: str) -> Table:
    """A plain table; the first column is text, the others are figures."""
    table = Table(
        title=title or None,
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        min_width=min(len(title), 100),
    )
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position == 0 else "right", overflow="fold")
    return table


def _figure(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def rows(title: str, entries: Sequence[Mapping[str, Any]]) -> None:
    """Mappings with the same keys as one table."""
    columns = list(dict.fromkeys(name for entry in entries for name in entry))
    table = _table(title, *columns)
    for column, name in zip(table.columns, columns, strict=True):
        if all(isinstance(entry.get(name, ""), str) for entry in entries):
            column.justify = "left"
    for entry in entries:
        table.add_row(*(_figure(entry.get(name, "")) for name in columns))
    _print(table)


def counts(name: str, figures: Mapping[str, Any]) -> None:
    """Headline counts, then the operators."""
    table = _table(f"{name}, lowering {figures['lowering']}", "count", "value")
    for key, value in figures.items():
        if key not in ("ops", "lowering", "saved_activations"):
            table.add_row(key, _figure(value))
    operators = _table("", "operator", "kind", "MACs", "repeat")
    for entry in figures["ops"]:
        operators.add_row(entry["name"], entry["kind"], _figure(entry["macs"]), _figure(entry["repeat"]))
    _print(table, "", operators, *_kept(figures["saved_activations"]))


def _kept(entries: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    """What a training step keeps for its backward pass; nothing in other phases."""
    if not entries:
        return ()
    table = _table("", "kept for the backward pass", "made by", "bytes", "layers")
    for entry in entries:
        place = f"{entry['layer']}.{entry['tensor']}"
        table.add_row(place, entry["operator"], _figure(entry["n_bytes"]), _figure(entry["count"]))
    return ("", table)


def _interval(result: "Report") -> tuple[tuple[str, str], ...]:
    """From one input to the next, where a pipeline takes several in flight."""
    if result.interval_cycles is None:
        return ()
    milliseconds = result.interval_cycles / (result.clock_mhz * 1e3)
    return (("interval", f"{milliseconds:.5g} ms ({result.interval_cycles:,} cycles, inputs in flight)"),)


def report(result: "Report", explained: Sequence[Mapping[str, Any]] | None) -> None:
    """Headline figures, area, energy by component, operators; what a larger parameter would change."""
    headline = _table(f"{result.workload} on {result.device} ({result.template}, {result.fidelity})", "", "")
    share = result.bound_cycles / result.latency_cycles
    for name, value in (
        (
            "latency",
            f"{result.latency_ms:.5g} ms ({result.latency_cycles:,} cycles at {result.clock_mhz:g} MHz)",
        ),
        *_interval(result),
        ("bound", f"{result.bound_cycles:,} cycles ({100 * share:.1f} % of the latency)"),
        ("bottleneck", result.bottleneck),
        ("MACs", f"{result.macs:,} asked for, {result.macs_computed:,} computed"),
        ("energy", f"{result.energy_pj * 1e-9:.5g} mJ ({result.power_w:.4g} W)"),
        ("DRAM read", f"{result.dram_read_bytes:,} bytes"),
        ("DRAM write", f"{result.dram_write_bytes:,} bytes"),
        ("area", _area(result)),
        ("lowering", result.lowering),
        ("validated error", _errors(result)),
        ("tables", ", ".join(result.tables)),
    ):
        headline.add_row(name, value, style=None)
    headline.columns[1].justify = "left"
    busy = _table("busy share of the latency", "component", "share")
    for name, fraction in result.utilisation:
        busy.add_row(name, f"{100 * fraction:.1f} %")
    energy = _table("energy", "component", "mJ", "share")
    for part in result.energy.children:
        energy.add_row(part.name, f"{part.value * 1e-9:.4g}", f"{100 * part.value / result.energy_pj:.1f} %")
    _print(headline, "", busy, "", energy, "", _operators(result))
    if result.memory is not None:
        _memory(result.memory)
    if explained is not None:
        rows("one step up in each parameter (changes as fractions)", explained)


def _memory(memory: "MemoryReport") -> None:
    """What the tensors that move most, and the channels, got of the memory."""
    tensors = _table(
        f"memory by tensor ({memory.n_channels} x {memory.config}, {memory.peak_gb_per_s:.4g} GB/s at most)",
        *(
            "tensor",
            "channels",
            "transfers",
            "MB",
            "GB/s",
            "of peak",
            "row hits",
            "latency (ns)",
            "energy (uJ)",
        ),
    )
    moved = sorted(memory.tensors, key=lambda one: -(one.read_bytes + one.write_bytes))
    for one in moved[:_MOST_TENSORS]:
        tensors.add_row(
            f"{one.layer_class}.{one.tensor} ({one.kind})", _spans(one.channels), _figure(one.n_transfers),
            *_traffic(one.read_bytes + one.write_bytes, one),
        )  # fmt: skip
    channels = _table(
        "memory by channel (means over the latency)",
        *("channel", "busy", "MB", "GB/s", "of peak", "row hits", "latency (ns)", "energy (uJ)"),
    )
    for group in _alike(memory.channels):
        first = group[0]
        name = _spans(tuple(channel.channel for channel in group))
        n_bytes = first.read_bytes + first.write_bytes
        channels.add_row(name, f"{100 * first.busy_fraction:.1f} %", *_traffic(n_bytes, first))
    _print(tensors, "", channels, "")


def _traffic(n_bytes: float, one: "TensorTraffic | ChannelTraffic") -> tuple[str, ...]:
    return (
        f"{n_bytes * 1e-6:.4g}",
        f"{one.gb_per_s:.4g}",
        f"{100 * one.bandwidth_fraction:.1f} %",
        f"{100 * one.row_hit_fraction:.1f} %",
        f"{one.mean_latency_ns:.4g}",
        f"{one.energy_pj * 1e-6:.4g}",
    )


def _alike(channels: "Sequence[ChannelTraffic]") -> "list[list[ChannelTraffic]]":
    """Neighbouring channels with the same figures together."""
    groups: list[list[ChannelTraffic]] = []
    for one in channels:
        if groups and replace(one, channel=groups[-1][0].channel) == groups[-1][0]:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _spans(channels: tuple[int, ...]) -> str:
    """Channel numbers with runs of them as first-last."""
    found: list[list[int]] = []
    for channel in channels:
        if found and channel == found[-1][-1] + 1:
            found[-1] = [found[-1][0], channel]
        else:
            found.append([channel])
    return ", ".join("-".join(str(end) for end in span) for span in found)


def _area(result: "Report") -> str:
    area = result.area
    if area.mm2 is not None:
        return f"{area.mm2:.4g} mm2"
    parts = ", ".join(f"{name} {100 * fraction:.1f} %" for name, fraction in area.fractions)
    return f"{100 * (area.used_fraction or 0):.1f} % of the device ({parts})"


def _errors(result: "Report") -> str:
    return ", ".join(
        f"{name} {'none yet' if error is None else f'{100 * error:.1f} %'}"
        for name, error in result.error_fraction
    ) or "none yet"  # fmt: skip


def _operators(result: "Report") -> Table:
    table = _table(
        "operators (of one layer; cycles by which each lengthens it)",
        *("operator", "layers", "MACs", "cycles", "ends at", "energy (uJ)", "DRAM bytes", "bound by"),
    )
    for entry in result.operators:
        table.add_row(
            f"{entry.layer_class}.{entry.name}",
            _figure(entry.layers),
            _figure(entry.macs),
            _figure(entry.span_cycles),
            _figure(entry.end_cycle),
            f"{entry.energy_pj * 1e-6:.4g}",
            _figure(entry.dram_read_bytes + entry.dram_write_bytes),
            entry.bottleneck,
        )
    return table


def sweep(answer: Mapping[str, Any]) -> None:
    rows(f"{len(answer['rows'])} points", answer["rows"])
    files(answer)


def codesign(answer: Mapping[str, Any]) -> None:
    """The chosen designs of each front and where everything is."""
    rows("chosen designs", answer["best"])
    for sentence in (*answer["left_out"], *answer["notes"]):
        _print(sentence)
    if answer["checks"]:
        checks(answer["checks"])
    files(answer)


def checks(entries: Sequence[Mapping[str, Any]]) -> None:
    table = _table("checks", "rung", "verdict", "tool", "reason")
    for column in table.columns:
        column.justify = "left"
    for entry in entries:
        table.add_row(*(str(entry.get(key) or "") for key in ("rung", "verdict", "tool", "reason")))
    _print(table)


def generated(answer: Mapping[str, Any]) -> None:
    """The folder of a generated project and what its kernel does not cover."""
    for line in answer["not_covered"]:
        _print(f"not covered: {line}")
    files(answer)


def files(answer: Mapping[str, Any]) -> None:
    for name in answer["files"]:
        _print(f"wrote {name}")


def comparison(answer: Mapping[str, Any]) -> None:
    rows(f"first: {answer['first']}\nsecond: {answer['second']}", answer["rows"])


def calibration(answer: Mapping[str, Any]) -> None:
    """The fitted constants, the errors by set, what was left out."""
    rows(
        f"{answer['template']} on {answer['device']}, {answer['n_points']} points, {answer['n_folds']} folds",
        [{"constant": name, "value": value} for name, value in answer["constants"].items()],
    )
    every = {
        "name": "mean of the sets",
        "n_points": answer["n_points"],
        "mean_abs_error_fraction": answer["mean_abs_error_fraction"],
        "held_out_error_fraction": answer["held_out_error_fraction"],
    }
    rows("errors", [*answer["sets"], every])
    if answer["left_out"]:
        rows("left out", answer["left_out"])
    files(answer)


def layer_mapping(answer: Mapping[str, Any], text: str) -> None:
    """The groups of a layer, their sum, and every group's loops."""
    total = {
        "group": "all",
        **{name: answer[name] for name in ("cycles", "energy_pj", "backing_words", "optimal")},
    }
    rows(
        f"layer {answer['layer']} on {answer['hierarchy']}, objective {answer['objective']}",
        [{**row, "cycles": round(row["cycles"]), "backing_words": round(row["backing_words"])}
         for row in (*answer["groups"], total)],
    )  # fmt: skip
    _print("", text)


def mapping(answer: Mapping[str, Any], text: str) -> None:
    """The loop nest of a mapping, what every level is asked for, and the certificate."""
    headline = _table(
        f"{answer['contraction']} on {answer['hierarchy']}, objective {answer['objective']}", "", ""
    )
    backing = answer["levels"][0]["name"]
    for name, value in (
        ("ranks", ", ".join(f"{rank} {size:,}" for rank, size in answer["ranks"].items())),
        (
            "cycles",
            f"{answer['cycles']:,.0f} ({100 * answer['utilisation']:.1f} % of the multipliers at work)",
        ),
        ("energy", f"{answer['energy_pj']:.6g} pJ"),
        (f"words of {backing}", f"{answer['backing_words']:,.0f}"),
    ):
        headline.add_row(name, value)
    headline.columns[1].justify = "left"
    _print(headline, "", text, "")
    rows("accesses", [
        {name: round(value) if name.endswith("_words") else value for name, value in row.items()}
        for row in answer["accesses"]
    ])  # fmt: skip
    if certificate := answer.get("certificate"):
        verdict = "optimal" if certificate["optimal"] else "not proven optimal"
        _print(
            f"certificate: {verdict} among {certificate['space']}; bound {certificate['bound']:.10g}, value"
            f" {certificate['value']:.10g}; {certificate['n_evaluated']:,} mappings evaluated,"
            f" {certificate['n_pruned']:,} branches ruled out"
        )


def cascade(answer: Mapping[str, Any]) -> None:
    """The summary of a cascade: its drawing, then figures, then tensors and operators."""
    _print(answer["name"], answer["summary"], "")
    for line in answer["drawing"]:
        _print(Text(line))
    _print("")
    table = _table("", "", "")
    for key, value in answer.items():
        if isinstance(value, int | float):
            table.add_row(key, _figure(value))
        elif isinstance(value, Mapping) and value:
            table.add_row(key, ", ".join(f"{name} {_figure(inner)}" for name, inner in value.items()))
    for column in table.columns:
        column.justify = "left"
    _print(table)
    for key in ("tensors", "operators"):
        rows(f"\n{key}", answer[key])
    if answer["picture"]:
        _print(f"wrote {answer['picture']}")


def reproduction(answer: Mapping[str, Any]) -> None:
    """A reproduced case: errors by quantity, the paper's claims, what our own choice gains."""
    from tilewright.reproduction import summaries

    rows(f"{answer['case']}: ours against published", summaries(answer["points"]))
    if answer["claims"]:
        rows("claims", answer["claims"])
    gains = [float(one["speedup"]) for one in answer["alternatives"]]
    if gains:
        _print(
            f"our own choice of schedule: {min(gains):.3g} to {max(gains):.3g} times as fast,"
            f" better by over 1 % at {sum(gain > 1.01 for gain in gains)} of {len(gains)} points"
        )
