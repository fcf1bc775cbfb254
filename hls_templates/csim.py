"""The csim rung: compile the generated kernel, run it on random integers, compare with numpy bit for bit."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilewright.hls_templates.project import CSIM_FLAGS
from tilewright.hls_templates.reference import port_of, random_memories, run, to_bytes

_SEED = 20240607
_COMPILE_SECONDS = 240
_RUN_SECONDS = 240


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A compiler and the folder of the vendor-compatible `ap_int.h`."""

    compiler: str
    version: str
    headers: Path


class ToolAbsentError(Exception):
    """A tool that the rung needs is not on this machine; the message names it."""


class CsimError(Exception):
    """The simulation does not do what it should; the message says where."""


def find_toolchain() -> Toolchain:
    """Raises ToolAbsentError without g++ or without the ap_int headers."""
    compiler = shutil.which("g++")
    if compiler is None:
        raise ToolAbsentError("g++ absent")
    headers = ap_int_headers()
    if headers is None:
        raise ToolAbsentError("ap_int.h absent (install the extra 'csim')")
    version = subprocess.run(
        [compiler, "-dumpfullversion"], capture_output=True, text=True, timeout=20, check=False
    ).stdout.strip()
    return Toolchain(compiler, version, headers)


def ap_int_headers() -> Path | None:
    """The folder of `ap_int.h` in the installed hls4ml, which is not imported."""
    spec = importlib.util.find_spec("hls4ml")
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / "templates" / "vivado" / "ap_types"
        if (folder / "ap_int.h").is_file():
            return folder
    return None


def check_csim(folder: Path, description: Mapping[str, Any], tools: Toolchain) -> str:
    """Simulate the small shapes; returns what was compared. Raises CsimError with the first difference."""
    data = folder / "data"
    expected = write_data(data, description)
    with tempfile.TemporaryDirectory() as scratch:
        program = compile_kernel(folder, Path(scratch), tools, ("-DSMALL_SHAPES",))
        status, output = _execute([str(program), str(data)], _RUN_SECONDS)
    _compare_result(data, expected, status, output)
    n_leaves = _compare_trips(data, description, "small")
    n_stages = len(description["small"]["stages"])
    return f"{n_stages} stages, {len(expected)} bytes equal numpy's, {n_leaves} leaves as in the program"


def check_trips(folder: Path, description: Mapping[str, Any], tools: Toolchain) -> str:
    """Run the loops of the full shapes without their bodies; returns what was counted. Raises CsimError."""
    with tempfile.TemporaryDirectory() as scratch:
        flags = ("-DTRIPS_ONLY", "-O0")
        program = compile_kernel(folder, Path(scratch), tools, flags)
        status, output = _execute([str(program), scratch], _RUN_SECONDS)
        if status != 0:
            raise CsimError(_first_line(output) or f"the kernel ended with status {status}")
        n_leaves = _compare_trips(Path(scratch), description, "full")
    return f"{n_leaves} leaves at full size as in the program"


def write_data(folder: Path, description: Mapping[str, Any]) -> bytes:
    """Write the inputs and numpy's result into `folder`; returns the result's bytes."""
    memories = random_memories(description, _SEED)
    expected = run(description, memories)
    folder.mkdir(exist_ok=True)
    for name, elements in memories.items():
        (folder / f"{name}.bin").write_bytes(to_bytes(elements, port_of(description, name)["bits"]))
    golden = to_bytes(expected, port_of(description, "activations")["bits"])
    (folder / "golden.bin").write_bytes(golden)
    for name in ("result.bin", "trips.txt"):
        (folder / name).unlink(missing_ok=True)
    return golden


def compile_kernel(folder: Path, scratch: Path, tools: Toolchain, flags: Sequence[str]) -> Path:
    """Kernel and testbench as one translation unit. Raises CsimError with the compiler's first error."""
    source = scratch / "all.cpp"
    source.write_text('#include "kernel.cpp"\n#include "tb.cpp"\n', encoding="utf-8")
    program = scratch / "csim"
    command = [
        tools.compiler, *CSIM_FLAGS, *flags, "-DTILEWRIGHT_CSIM", f"-I{folder / 'hls'}",
        f"-I{folder / 'include'}", "-isystem", str(tools.headers), str(source), "-o", str(program),
    ]  # fmt: skip
    status, output = _execute(command, _COMPILE_SECONDS)
    if status != 0:
        errors = [line for line in output.splitlines() if " error: " in line]
        raise CsimError(f"it does not compile: {(errors or [_first_line(output)])[0]}")
    return program


def _execute(command: Sequence[str], seconds: int) -> tuple[int, str]:
    """Exit status and output; the address sanitizer ends a program with a status of its own."""
    environment = {**os.environ, "ASAN_OPTIONS": "exitcode=98"}
    try:
        done = subprocess.run(
            list(command),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            errors="replace",
            env=environment,
        )
    except subprocess.TimeoutExpired as late:
        raise CsimError(f"{Path(command[0]).name} did not end within {seconds} s") from late
    return done.returncode, done.stderr + done.stdout


def _compare_result(data: Path, expected: bytes, status: int, output: str) -> None:
    if status not in (0, 1):
        reason = next((line for line in output.splitlines() if "ERROR:" in line), _first_line(output))
        raise CsimError(reason or f"the kernel ended with status {status}")
    result = (data / "result.bin").read_bytes()
    if len(result) != len(expected):
        raise CsimError(f"the result has {len(result)} bytes, numpy's has {len(expected)}")
    wrong = [index for index, (a, b) in enumerate(zip(result, expected, strict=True)) if a != b]
    if wrong:
        raise CsimError(
            f"{len(wrong)} of {len(expected)} bytes differ from numpy's, the first is byte {wrong[0]}"
        )
    if status != 0:
        raise CsimError("the testbench finds a difference that numpy's result does not have")


def _compare_trips(data: Path, description: Mapping[str, Any], size: str) -> int:
    """Hold the counted leaves against the program's; returns their sum."""
    counted: dict[tuple[int, int], int] = {}
    for line in (data / "trips.txt").read_text(encoding="utf-8").splitlines():
        kind, *rest = line.split()
        if kind == "leaf":
            stage, nest, count = map(int, rest)
            counted[stage, nest] = count
    total = 0
    for index, stage in enumerate(description[size]["stages"]):
        for position, nest in enumerate(stage["nests"]):
            found = counted.pop((index, position), 0)
            if found != nest["n_leaves"]:
                raise CsimError(
                    f"nest {nest['name']!r} runs {found} leaves, the program has {nest['n_leaves']}"
                )
            total += found
    if counted:
        raise CsimError(f"the kernel counts a nest that the program does not have: {min(counted)}")
    return total


def _first_line(output: str) -> str:
    return next((line.strip() for line in output.splitlines() if line.strip()), "")
