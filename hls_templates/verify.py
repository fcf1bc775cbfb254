"""The rungs that a generated folder is checked on; `checks.json` keeps their verdicts."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from tilewright.dataflow.errors import InputError, nearest
from tilewright.hls_templates.csim import (
    CsimError,
    ToolAbsentError,
    Toolchain,
    check_csim,
    check_trips,
    find_toolchain,
)
from tilewright.hls_templates.lint_files import lint_project
from tilewright.hls_templates.project import is_project
from tilewright.hls_templates.rtl import tools as rtl_tools
from tilewright.hls_templates.rtl.check import (
    RtlError,
    any_simulator,
    check_pyrtl,
    check_verilog,
    described_grid,
)
from tilewright.hls_templates.rtl.synthesis import SynthesisError, check_synthesis, find_yosys
from tilewright.sim.version import RELEASE

Verdict = Literal["passed", "failed", "skipped"]

#: Rungs by level; a level includes those below it.
LEVELS: Mapping[str, tuple[str, ...]] = {
    "lint": ("lint",),
    "csim": ("lint", "csim", "trips"),
    "rtl": ("lint", "csim", "trips", "pyrtl", "rtl"),
    "synth": ("lint", "csim", "trips", "pyrtl", "rtl", "synth"),
    "all": ("lint", "csim", "trips", "pyrtl", "rtl", "synth"),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One rung: its verdict, what judged, and why or what was compared. `seconds` is wall time."""

    rung: str
    verdict: Verdict
    tool: str
    version: str
    reason: str
    seconds: float

    def to_dict(self) -> dict[str, str]:
        """Everything but the time, which no two runs share."""
        return {
            "rung": self.rung, "verdict": self.verdict, "tool": self.tool, "version": self.version,
            "reason": self.reason,
        }  # fmt: skip


def verify(folder: Path | str, level: str = "all") -> list[Check]:
    """Check a generated folder up to `level` and write its `checks.json`.

    A rung whose tool is absent is skipped, never passed. Raises InputError for a folder that `generate`
    did not write, for one whose description is damaged, and for an unknown level.
    """
    root = Path(folder)
    if level not in LEVELS:
        raise InputError(
            f"level {level!r} is unknown{nearest(level, list(LEVELS))}; known: {', '.join(LEVELS)}"
        )
    description = read_description(root)
    rungs: dict[str, Callable[[Path, Mapping[str, Any]], Check]] = {
        "lint": _lint, "csim": _csim, "trips": _trips, "pyrtl": _pyrtl, "rtl": _rtl,
        "synth": _synth,
    }  # fmt: skip
    checks = [rungs[name](root, description) for name in LEVELS[level]]
    text = json.dumps([check.to_dict() for check in checks], indent=1) + "\n"
    try:
        (root / "checks.json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{root / 'checks.json'} cannot be written: {error.strerror}") from error
    return checks


def read_description(folder: Path) -> Mapping[str, Any]:
    """design.json of a generated folder, whose files must all lie inside it."""
    if not is_project(folder):
        raise InputError(f"{folder} is no generated project: it has no design.json of ours")
    description: Mapping[str, Any] = json.loads((folder / "design.json").read_text(encoding="utf-8"))
    needed = ("kernel", "files", "ports", "n_channels", "rounding", "small", "full")
    if missing := [key for key in needed if key not in description]:
        raise InputError(f"{folder / 'design.json'} lacks {missing[0]!r}: generate the project again")
    for name in description["files"]:
        path = PurePosixPath(str(name))
        if path.is_absolute() or ".." in path.parts:
            raise InputError(f"{folder / 'design.json'} names a file outside of the folder: {name!r}")
        if not (folder / path).is_file():
            raise InputError(f"{folder} lacks {name!r}: generate the project again")
    return description


def _lint(folder: Path, description: Mapping[str, Any]) -> Check:
    start = time.perf_counter()
    found = lint_project(folder, description)
    seconds = time.perf_counter() - start
    n_pragmas = (folder / "hls" / "kernel.cpp").read_text(encoding="utf-8").count("#pragma HLS")
    if not found:
        reason = f"{n_pragmas} pragmas, run.tcl and link.cfg parsed"
        return Check("lint", "passed", "tilewright", RELEASE, reason, seconds)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return Check("lint", "failed", "tilewright", RELEASE, f"{found[0]}{more}", seconds)


def _csim(folder: Path, description: Mapping[str, Any]) -> Check:
    return _with_compiler("csim", check_csim, folder, description)


def _trips(folder: Path, description: Mapping[str, Any]) -> Check:
    return _with_compiler("trips", check_trips, folder, description)


def _with_compiler(
    rung: str,
    check: Callable[[Path, Mapping[str, Any], Toolchain], str],
    folder: Path,
    description: Mapping[str, Any],
) -> Check:
    start = time.perf_counter()
    try:
        tools = find_toolchain()
    except ToolAbsentError as absent:
        return Check(rung, "skipped", "g++", "", str(absent), 0.0)
    try:
        verdict, reason = "passed", check(folder, description, tools)
    except CsimError as fault:
        verdict, reason = "failed", str(fault)
    except OSError as error:
        verdict, reason = "failed", f"{error.filename}: {error.strerror}"
    return Check(rung, verdict, "g++", tools.version, reason, time.perf_counter() - start)  # type: ignore[arg-type]


def _pyrtl(_: Path, description: Mapping[str, Any]) -> Check:
    version = metadata.version("pyrtl")
    return _simulated("pyrtl", "pyrtl", version, lambda: check_pyrtl(described_grid(description)))


def _rtl(folder: Path, description: Mapping[str, Any]) -> Check:
    try:
        simulator = any_simulator()
    except rtl_tools.ToolAbsentError as absent:
        return Check("rtl", "skipped", "iverilog", "", str(absent), 0.0)
    return _simulated(
        "rtl",
        simulator.name,
        simulator.version,
        lambda: check_verilog(folder, description, described_grid(description), simulator),
    )


def _synth(folder: Path, description: Mapping[str, Any]) -> Check:
    try:
        yosys = find_yosys()
    except rtl_tools.ToolAbsentError as absent:
        return Check("synth", "skipped", "yosys", "", str(absent), 0.0)
    return _simulated(
        "synth",
        "yosys",
        yosys.version,
        lambda: check_synthesis(folder, description, described_grid(description), yosys),
    )


def _simulated(rung: str, tool: str, version: str, check: Callable[[], str]) -> Check:
    """A rung whose check raises where it fails, and says what it lacks where it cannot run."""
    start = time.perf_counter()
    verdict: Verdict = "passed"
    try:
        reason = check()
    except rtl_tools.ToolAbsentError as absent:
        verdict, reason = "skipped", str(absent)
    except (RtlError, rtl_tools.SimulationError, SynthesisError, InputError) as fault:
        verdict, reason = "failed", str(fault)
    return Check(rung, verdict, tool, version, reason, time.perf_counter() - start)
