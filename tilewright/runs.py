"""One run: a workload on a design, as the command line names them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.textfile import read_text
from tilewright.files import MAX_FILE_BYTES, DesignFile, WorkloadFile, problem_line
from tilewright.hierarchy import declared_architecture
from tilewright.placements import placement_of
from tilewright.sim.architecture import Dram
from tilewright.sim.design import Design
from tilewright.sim.device import device_named
from tilewright.sim.placed_residents import with_placement
from tilewright.sim.template import check_device, template_named

if TYPE_CHECKING:
    from tilewright.sim.architecture import Architecture
    from tilewright.sim.report import Report
    from tilewright.sim.space import Value
    from tilewright.workloads.workload import Workload

_YAML_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Run:
    """A workload on a design; `architecture` replaces what the template would build."""

    workload: "Workload"
    design: Design
    architecture: "Architecture | None" = None
    table: str = "default"

    def simulate(self, fidelity: str, memory_detail: bool = False) -> "Report":
        """The report; `memory_detail` adds what tensors and channels got of the memory."""
        from tilewright.sim.evaluate import evaluate, evaluate_architecture

        named: dict[str, Any] = {
            "fidelity": fidelity,
            "workload": self.workload.name,
            "lowering": self.workload.lowering,
            "tokens": self.workload.tokens,
            "table": self.table,
            "memory_detail": memory_detail,
        }
        if self.architecture is not None:
            return evaluate_architecture(
                self.workload.network,
                self.architecture,
                template=self.design.template,
                objective=self.design.objective,
                **named,
            )
        return evaluate(self.workload.network, self.design, **named)

    def built(self) -> "Architecture":
        """The hardware that the run simulates."""
        return self.of_hardware(self.design, self.architecture)

    @staticmethod
    def of_hardware(design: Design, architecture: "Architecture | None") -> "Architecture":
        """The declared architecture, else what the design's template builds."""
        if architecture is not None:
            return architecture
        template = template_named(design.template)
        device = device_named(design.device)
        built = template.build(template.space(device).complete(design.parameters), device)
        return with_placement(built, design.placement)

    def write_trace(self, file: Path) -> None:
        """Write a Chrome/Perfetto timeline: one process for each layer class, a track for each component."""
        from tilewright.sim.engine import compile_program
        from tilewright.sim.rated_memory import memory_of
        from tilewright.sim.timeline import write_timeline

        architecture = self.built()
        (dram,) = architecture.of_kind(Dram)
        memory = memory_of(dram, architecture.clock_mhz)
        template = template_named(self.design.template)
        layers = []
        for layer in self.workload.network:
            program = template.schedule(layer.graph, architecture, self.design.objective)
            tasks = compile_program(program, architecture, memory)
            layers.append((f"{layer.name} (1 of {layer.count})", tasks))
        write_timeline(file, layers)

    def generate(self, folder: Path) -> dict[str, Any]:
        """Write the HLS project of the layer class that has most of the work.

        Returns {"files": paths, "not_covered": stages that the kernel leaves out, with the reason}.
        """
        from tilewright.hls_templates.project import generate

        architecture = self.built()
        layer = max(
            self.workload.network,
            key=lambda layer: layer.count * sum(layer.graph.macs(op) for op in layer.graph.operators),
        )
        program = template_named(self.design.template).schedule(
            layer.graph, architecture, self.design.objective
        )
        report = self.simulate("tile")
        figures = {
            "latency of the workload": f"{report.latency_ms:.5g} ms",
            "energy of the workload": f"{report.energy_pj * 1e-9:.5g} mJ",
            "area": f"{_area(report):.5g} " + ("mm2" if report.area.mm2 is not None else "of the device"),
        }
        title = f"{self.workload.name}, layer {layer.name}"
        project = generate(program, architecture, folder, title=title, figures=figures)
        return {
            "files": [str(project.folder / name) for name in project.files],
            "not_covered": [f"{left.stage}: {left.reason}" for left in project.uncovered],
        }

    def explain(self, report: "Report") -> list[dict[str, Any]]:
        """What the next larger value of each ordered parameter changes, as fractions of `report`."""
        if self.architecture is not None:
            raise InputError("--explain steps a template's parameters; a declared architecture has none")
        space = template_named(self.design.template).space(device_named(self.design.device))
        current = space.complete(self.design.parameters)
        rows = []
        for parameter in space.parameters:
            values = parameter.values
            position = values.index(current[parameter.name])
            if not parameter.ordered or position + 1 == len(values):
                continue
            stepped = {**current, parameter.name: values[position + 1]}
            rows.append(_gain(parameter.name, values[position], values[position + 1], self, stepped, report))
        return rows


def _gain(
    name: str, old: "Value", new: "Value", run: Run, parameters: Mapping[str, "Value"], before: "Report"
) -> dict[str, Any]:
    row: dict[str, Any] = {"parameter": name, "from": old, "to": new}
    design = Design(
        run.design.template, run.design.device, parameters, run.design.objective, run.design.placement
    )
    try:
        after = Run(run.workload, design, table=run.table).simulate(before.fidelity)
    except ValueError as error:  # InputError or a mapping that does not exist
        return row | {"refused": str(error)}
    return row | {
        "latency_change_fraction": after.latency_ms / before.latency_ms - 1,
        "energy_change_fraction": after.energy_pj / before.energy_pj - 1,
        "area_change_fraction": _area(after) / _area(before) - 1,
    }


def _area(report: "Report") -> float:
    area = report.area.mm2 if report.area.mm2 is not None else report.area.used_fraction
    assert area is not None, "every report has an area"
    return area


def workload_file(model: str, stated: Mapping[str, Any]) -> tuple[WorkloadFile, Path]:
    """What a MODEL argument and the stated options name, and the folder its paths are relative to.

    A WORKLOAD.yaml is read, and options that were given replace its fields.
    """
    given = {name: value for name, value in stated.items() if value is not None}
    try:
        if model.lower().endswith(_YAML_SUFFIXES):
            file = WorkloadFile.load(model)
            return WorkloadFile.model_validate(file.model_dump() | given), Path(model).parent
        return WorkloadFile.model_validate({"model": model} | given), Path()
    except ValidationError as error:
        raise InputError(f"{model}: {problem_line(WorkloadFile, error)}") from None


def from_options(
    model: str | None,
    stated: Mapping[str, Any],
    template: str | None,
    device: str | None,
    settings: list[str] | None,
) -> Run:
    """The run that the options of `simulate` name; by default `sequential` on a U280."""
    from tilewright.api import workload_of

    if model is None:
        raise InputError("give a MODEL, a WORKLOAD.yaml or --design DESIGN.yaml")
    file, folder = workload_file(model, stated)
    design = Design(
        "sequential" if template is None else template,
        "u280" if device is None else device,
        _settings(settings),
    )
    _check_design(design)
    return Run(workload_of(file, folder), design)


def from_file(path: Path, settings: list[str] | None) -> Run:
    """The run that a DESIGN.yaml holds; `settings` (k=v) replace parameters."""
    from tilewright.api import workload_of

    file = DesignFile.load(path)
    if isinstance(file.workload, str):
        workload_path = path.parent / file.workload
        named, folder = WorkloadFile.load(workload_path), workload_path.parent
    else:
        named, folder = file.workload, path.parent
    design = Design(file.template, file.device, file.parameters | _settings(settings), file.objective)
    try:
        _check_design(design)
        device = device_named(file.device)
        architecture = None
        if file.architecture is not None:
            if design.parameters:
                raise InputError("state parameters of a template or an architecture, not both")
            architecture = declared_architecture(file.architecture, file.device, device.default_clock_mhz)
        if file.placement is not None:
            for dram in Run.of_hardware(design, architecture).of_kind(Dram):
                design = replace(design, placement=placement_of(file.placement, dram.channels))
            if architecture is not None:
                architecture = with_placement(architecture, design.placement)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return Run(workload_of(named, folder), design, architecture, file.tables)


def _check_design(design: Design) -> None:
    template, device = template_named(design.template), device_named(design.device)
    check_device(template, device)
    template.space(device).complete(design.parameters)


def _settings(settings: list[str] | None) -> "dict[str, Value]":
    """NAME=VALUE settings over those of the files that @FILE names."""
    found: dict[str, Value] = {}
    of_files: dict[str, Value] = {}
    for setting in settings or []:
        if setting.startswith("@"):
            of_files |= _parameters_in(Path(setting[1:]))
            continue
        name, equals, text = setting.partition("=")
        value = scalar(text) if equals and text else None
        if not isinstance(value, int | float | str | bool):
            raise InputError(f"--set takes NAME=VALUE or @FILE, got {setting!r}")
        if name in found:
            raise InputError(f"--set gives {name!r} twice")
        found[name] = value
    return of_files | found


def _parameters_in(file: Path) -> "dict[str, Value]":
    """The `parameters` of a YAML file, as `calibrate` writes them."""
    try:
        content = yaml.safe_load(read_text(file, MAX_FILE_BYTES))
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{file}: {' '.join(str(error).split())}") from None
    parameters = content.get("parameters") if isinstance(content, dict) else None
    if not isinstance(parameters, dict) or not all(isinstance(name, str) for name in parameters):
        raise InputError(f"{file}: has no mapping `parameters`")
    for name, value in parameters.items():
        if not isinstance(value, int | float | str | bool):
            raise InputError(f"{file}: parameters.{name} must be a number or a word, got {value!r}")
    return dict(parameters)


def dimensions(settings: list[str] | None) -> dict[str, int | float] | None:
    """Sizes of symbolic dimensions, ranks and a cascade's numbers from NAME=n settings; None if there are none."""
    found: dict[str, int | float] = {}
    for setting in settings or []:
        name, _, text = setting.partition("=")
        value = scalar(text) if len(text) <= 32 else None
        if not name or isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise InputError(f"--dim takes NAME=n, got {setting!r}")
        if name in found:
            raise InputError(f"--dim gives {name!r} twice")
        found[name] = value
    return found or None


def histogram(text: str | None) -> dict[int, int] | None:
    """How many sequences have so many tokens, from `LENGTH:SEQUENCES,...`; None for None."""
    if text is None:
        return None
    found: dict[int, int] = {}
    for entry in text.split(","):
        length, _, count = entry.partition(":")
        if not all(part.isdecimal() and len(part) <= 8 for part in (length, count or "1")):
            raise InputError(f"--lengths takes LENGTH:SEQUENCES,..., got {entry!r}")
        if int(length) in found:
            raise InputError(f"--lengths gives the length {int(length)} twice")
        found[int(length)] = int(count or "1")
    return found


def scalar(text: str) -> object:
    """A word as YAML reads it: a number, a truth value or itself; None for anything that is no word."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return None


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Two reports side by side: headline figures and energy by component, with the ratio second / first.

    Each file is the output of `simulate --json` or a DESIGN.yaml, which is simulated.
    """
    reports = [_report_of(first), _report_of(second)]
    rows = []
    tables = [_figures(report, path) for report, path in zip(reports, (first, second), strict=True)]
    for name in dict.fromkeys([*tables[0], *tables[1]]):
        before, after = tables[0].get(name), tables[1].get(name)
        ratio = after / before if before and after is not None else None
        rows.append({"figure": name, "first": before, "second": after, "ratio": ratio})
    return {"first": str(first), "second": str(second), "rows": rows}


def _report_of(path: Path) -> dict[str, Any]:
    if path.suffix.lower() in _YAML_SUFFIXES:
        return from_file(path, None).simulate("tile").to_dict()
    try:
        content = json.loads(read_text(path, MAX_FILE_BYTES))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: {error}") from None
    if not isinstance(content, dict) or "latency_ms" not in content:
        raise InputError(f"{path}: is not the output of `simulate --json`")
    return content


def _figures(report: Mapping[str, Any], path: Path) -> dict[str, float]:
    """The numbers of a report by a readable name, units in the name."""
    found: dict[str, float] = {}
    try:
        for name in ("latency_ms", "energy_pj", "power_w", "macs", "bound_cycles"):
            found[name] = report[name]
        for direction in ("read", "write"):
            found[f"dram_{direction}_bytes"] = report["dram_bytes"][direction]
        for name, value in report["area"].items():
            if isinstance(value, int | float):
                found[f"area {name}"] = value
        for tree in report["energy"].values():
            for name, value in tree.items():
                total = value["total"] if isinstance(value, dict) else value
                if name != "total":
                    found[f"energy_pj {name}"] = total
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is not the output of `simulate --json` (field {error})") from None
    return found
