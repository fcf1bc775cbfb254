"""Open synthesis of a generated array for UltraScale+: yosys, run module by module, and what it counts.

The modules stay apart, so a PE is synthesised once however many there are, and the counts of the whole array are
those of its modules times their number. LUTs are the tool's estimate of logic cells: two functions of two inputs
share a LUT, and one of them shares that of a function of three or four. It lacks LUTs used as memory or as shift
registers, which are added.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilewright.hls_templates.rtl.control import Grid
from tilewright.hls_templates.rtl.tools import ToolAbsentError
from tilewright.hls_templates.rtl.verilog import TEST_BENCH, TOP
from tilewright.sim.architecture import Arithmetic, MatrixArray
from tilewright.sim.fpga_array import array_resources
from tilewright.sim.fpga_counts import Resources

#: What `synthesise` runs after reading the sources; noted beside every committed measurement.
SYNTHESIS_COMMAND = "synth_xilinx -family xcup -noiopad -noclkbuf -top {top}"
#: Largest disagreement of the model with the tool that the rung lets pass, as a fraction of the tool's count.
LIMIT_FRACTION = 0.15
_SECONDS = 1200
_FLIP_FLOPS = ("FDRE", "FDSE", "FDCE", "FDPE")
#: Sites that a LUT cell of another use than logic takes.
_MEMORY_LUTS: Mapping[str, int] = {
    "SRL16E": 1, "SRLC32E": 1, "RAM32M": 4, "RAM64M": 4, "RAM32M16": 8, "RAM64M8": 8, "RAM32X1D": 2,
    "RAM64X1D": 2,
}  # fmt: skip


class SynthesisError(Exception):
    """The Verilog is not synthesised; the message says why."""


@dataclass(frozen=True, slots=True)
class Yosys:
    """The synthesis tool on this machine."""

    path: str
    version: str


def find_yosys() -> Yosys:
    """Raises ToolAbsentError if it is not installed."""
    path = shutil.which("yosys")
    if path is None:
        raise ToolAbsentError("yosys absent")
    answer = subprocess.run([path, "-V"], capture_output=True, text=True, timeout=60, check=False)
    words = answer.stdout.split()
    return Yosys(path, words[1] if len(words) > 1 else "")


def synthesise(yosys: Yosys, sources: Sequence[Path], top: str) -> Resources:
    """What the whole design `top` takes. Raises SynthesisError with the tool's last line."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.txt"
        read = " ".join(f'"{source.resolve()}"' for source in sources)
        command = SYNTHESIS_COMMAND.format(top=top)
        script = f"read_verilog {read}; {command}; tee -o {report} stat -tech xilinx"
        try:
            done = subprocess.run(
                [yosys.path, "-q", "-p", script],
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise SynthesisError(f"yosys took more than {_SECONDS} s") from None
        if done.returncode or not report.is_file():
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raise SynthesisError(f"yosys: {lines[-1] if lines else f'exit status {done.returncode}'}")
        return read_report(report.read_text(encoding="utf-8"))


def read_report(text: str) -> Resources:
    """Counts of the last section of a `stat -tech xilinx` report, which is the whole hierarchy.

    Raises SynthesisError for a text without one.
    """
    section = text.rpartition("=== ")[2]
    cells = {
        name: int(count) for name, count in re.findall(r"^\s+([A-Z]\w*)\s+(\d+)$", section, re.MULTILINE)
    }
    found = re.search(r"Estimated number of LCs:\s+(\d+)", section)
    if found is None:
        raise SynthesisError("yosys: the report has no estimate of logic cells")
    memory = sum(sites * cells.get(name, 0) for name, sites in _MEMORY_LUTS.items())
    return Resources(
        lut=int(found[1]) + memory,
        ff=sum(cells.get(name, 0) for name in _FLIP_FLOPS),
        dsp=cells.get("DSP48E2", 0),
        bram36=cells.get("RAMB36E2", 0) + cells.get("RAMB18E2", 0) / 2,
        uram=cells.get("URAM288", 0),
    )


_ARITHMETIC: Mapping[str, Arithmetic] = {"ternary": "ternary_add", "shift_add": "shift_add"}


def array_of(grid: Grid) -> MatrixArray:
    """The component that `rtl.array.grid_of` builds as `grid`."""
    kind, pe = grid.kind, grid.kind.pe
    return MatrixArray(
        "array", grid.rows, grid.cols, kind.stationarity, (pe.weight_bits, pe.activation_bits), pe.sum_bits,
        "packed_mac" if kind.lanes == 2 else _ARITHMETIC.get(pe.name, "mac"), drain_overlap=kind.drain_overlap,
        pe_cycles=(pe.multiply_cycles, pe.add_cycles),
    )  # fmt: skip


def check_synthesis(folder: Path, description: Mapping[str, Any], grid: Grid, yosys: Yosys) -> str:
    """Synthesise the Verilog of a project; returns the counts beside the model's.

    Raises SynthesisError where a count is further from the model's than LIMIT_FRACTION.
    """
    names = [name for name in description["rtl"]["files"] if Path(name).name != TEST_BENCH]
    found = synthesise(yosys, [folder / name for name in names], TOP.removesuffix(".v"))
    return compared(array_resources(array_of(grid)), found)


def compared(ours: Resources, found: Resources) -> str:
    """Counts of the tool beside the model's. Raises SynthesisError beyond the limit, naming the resource."""
    parts = []
    for name in ("lut", "ff", "dsp"):
        model, tool = getattr(ours, name), getattr(found, name)
        if abs(model - tool) > LIMIT_FRACTION * tool:
            raise SynthesisError(
                f"{tool:,} {name.upper()} after synthesis, the model says {model:,}: more than"
                f" {LIMIT_FRACTION:.0%} apart"
            )
        parts.append(f"{tool:,} {name.upper()} (model {model:,})")
    return ", ".join(parts)
