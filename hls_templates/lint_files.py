"""The lint rung of a folder: its C++, its Tcl script and its link configuration together."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tilewright.hls_templates.lint import Finding, interfaces, lint_source
from tilewright.hls_templates.source import read_source

# Commands of the vendor's HLS scripts with the options that generated ones use.
_TCL_COMMANDS: Mapping[str, tuple[str, ...]] = {
    "open_project": ("-reset",),
    "open_solution": ("-reset", "-flow_target"),
    "set_top": (),
    "add_files": ("-cflags", "-tb"),
    "set_part": (),
    "create_clock": ("-period", "-name"),
    "csim_design": ("-argv",),
    "csynth_design": (),
    "cosim_design": ("-argv",),
    "export_design": ("-format", "-output"),
    "close_project": (),
    "exit": (),
}
_CFG_KEYS = {"": ("platform", "kernel_frequency"), "connectivity": ("nk", "sp", "slr", "stream_connect")}


def lint_project(folder: Path, description: Mapping[str, Any]) -> list[Finding]:
    """Everything wrong in the project's `hls` folder. Raises OSError if a file is missing."""
    hls = folder / "hls"
    texts = {
        name: (hls / name).read_text(encoding="utf-8")
        for name in ("params.h", "kernel.h", "kernel.cpp", "tb.cpp", "run.tcl", "link.cfg")
    }
    kernel = str(description["kernel"])
    source = read_source("hls/kernel.cpp", texts["kernel.cpp"], texts["params.h"])
    found = lint_source(source)
    for name in ("kernel.h", "params.h", "tb.cpp"):
        found += lint_source(read_source(f"hls/{name}", texts[name], texts["params.h"]))
    port_findings, bundles = interfaces(source, kernel)
    found += port_findings
    found += lint_tcl(texts["run.tcl"], kernel, hls)
    found += lint_link(texts["link.cfg"], kernel, list(bundles), int(description["n_channels"]))
    return found


def lint_tcl(text: str, kernel: str, folder: Path) -> list[Finding]:
    """Known commands and options, files that exist, the kernel as top, projects opened before use."""
    found: list[Finding] = []
    opened = False
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            words = shlex.split(line)
        except ValueError as error:
            found.append(Finding("hls/run.tcl", number, f"not a Tcl command: {error}"))
            continue
        command, arguments = words[0], words[1:]
        found += [
            Finding("hls/run.tcl", number, message)
            for message in _tcl_faults(command, arguments, kernel, folder)
        ]
        opened = opened or command == "open_project"
        if not opened and command in _TCL_COMMANDS:
            found.append(Finding("hls/run.tcl", number, f"{command} stands before open_project"))
    return found


def _tcl_faults(command: str, arguments: list[str], kernel: str, folder: Path) -> list[str]:
    if command not in _TCL_COMMANDS:
        return [f"command {command!r} is not one of the script's known ones"]
    options = [word for word in arguments if re.match(r"-[a-z]", word)]
    values_of = [arguments[i + 1] for i, word in enumerate(arguments[:-1]) if word == "-cflags"]
    faults = [
        f"{command} has no option {option!r}"
        for option in options
        if option not in _TCL_COMMANDS[command] and option not in values_of
    ]
    if command == "set_top" and arguments != [kernel]:
        faults.append(f"set_top names {' '.join(arguments)!r}, the kernel is {kernel!r}")
    if command == "add_files":
        name = next((word for word in arguments if not word.startswith("-")), "")
        if name.endswith(".cpp") and not (folder / name).is_file():
            faults.append(f"add_files names {name!r}, which does not exist")
    if command == "create_clock":
        period = arguments[arguments.index("-period") + 1] if "-period" in arguments[:-1] else ""
        if not re.fullmatch(r"\d+(\.\d+)?", period) or float(period) <= 0:
            faults.append(f"create_clock needs a period in ns, got {period!r}")
    return faults


def lint_link(text: str, kernel: str, ports: list[str], n_channels: int) -> list[Finding]:
    """Known sections and keys, every port mapped once, channels that the design uses."""
    found: list[Finding] = []
    section, unit = "", f"{kernel}_1"
    mapped: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if match := re.fullmatch(r"\[(\w+)\]", stripped):
            section = match.group(1)
            if section not in _CFG_KEYS:
                found.append(Finding("hls/link.cfg", number, f"section {section!r} is unknown"))
            continue
        key, equals, value = stripped.partition("=")
        if not equals or key not in _CFG_KEYS.get(section, ()):
            found.append(
                Finding("hls/link.cfg", number, f"{stripped!r} is no setting of section {section!r}")
            )
        elif key == "nk":
            parts = value.split(":")
            if parts[0] != kernel or len(parts) < 3:
                found.append(
                    Finding("hls/link.cfg", number, f"nk does not name kernel {kernel!r}: {value!r}")
                )
            else:
                unit = parts[2]
        elif key == "sp":
            found += [
                Finding("hls/link.cfg", number, m) for m in _link_faults(value, unit, ports, n_channels)
            ]
            port = value.partition(":")[0].rpartition(".")[2]
            mapped[port] = mapped.get(port, 0) + 1
    for port in ports:
        if mapped.get(port, 0) != 1:
            message = f"port {port!r} is mapped {mapped.get(port, 0)} times, exactly once is needed"
            found.append(Finding("hls/link.cfg", 1, message))
    return found


def _link_faults(value: str, unit: str, ports: list[str], n_channels: int) -> list[str]:
    match = re.fullmatch(r"(\w+)\.(\w+):(?:(HBM|DDR)\[(\d+)\]|HP(\d))", value)
    if not match:
        return [f"sp does not map a port to a channel: {value!r}"]
    faults = []
    if match.group(1) != unit:
        faults.append(f"sp names compute unit {match.group(1)!r}, nk makes {unit!r}")
    if match.group(2) not in ports:
        faults.append(f"the kernel has no port {match.group(2)!r}")
    channel = int(match.group(4) or match.group(5))
    if channel >= n_channels:
        faults.append(f"channel {channel} is not below the {n_channels} that the design uses")
    return faults
