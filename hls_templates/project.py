"""Writing a kernel as a folder: texts from templates, a description in JSON, all or nothing."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.program import Program
from tilewright.hls_templates.plan import KernelPlan, Shapes, Uncovered, plan_kernel
from tilewright.hls_templates.ports import port_contexts, target_of
from tilewright.hls_templates.quantise import Quantisation
from tilewright.hls_templates.render import block_bytes, kernel_context, render
from tilewright.hls_templates.rtl.check import rtl_project
from tilewright.sim.architecture import Architecture
from tilewright.sim.version import RELEASE

GENERATOR = "tilewright hls"
#: Compiler flags of the C simulation, in the Makefile and in the verifier.
CSIM_FLAGS = ("-std=c++14", "-O1", "-Wall", "-Wno-unknown-pragmas", "-fsanitize=address")

_HLS_FILES = ("kernel.h", "kernel.cpp", "params.h", "tb.cpp", "run.tcl", "link.cfg")
_HEADERS = (
    "hls_stream.h", "hls_streamofblocks.h", "hls_vector.h", "tilewright_channel.h", "tilewright_csim.h",
)  # fmt: skip
# C and C++ words, and names that the generated code gives to something else.
_TAKEN_WORDS = """
    alignas alignof and asm auto bool break case catch char class const constexpr continue default delete do
    double else enum explicit export extern false float for friend goto if inline int long main mutable
    namespace new noexcept not nullptr operator or private protected public register return short signed
    sizeof static static_assert struct switch template this throw true try typedef typeid typename union
    unsigned using virtual void volatile while xor activations element hls requantise saturate size_at
    x x_down w a b bias residual residual2 y s stage row log folder bytes result
"""
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")


@dataclass(frozen=True, slots=True)
class Project:
    """A generated folder: its files (relative), the stages in the kernel, those left out and why."""

    folder: Path
    kernel: str
    files: tuple[str, ...]
    covered: tuple[str, ...]
    uncovered: tuple[Uncovered, ...]


def generate(
    program: Program,
    architecture: Architecture,
    folder: Path | str,
    *,
    title: str = "",
    figures: Mapping[str, str] | None = None,
    quantisation: Quantisation | None = None,
) -> Project:
    """Write the HLS project of a program on an architecture; an earlier project in `folder` is replaced.

    `figures` are lines of the README, name to value with unit. The folder appears complete or not at all.
    Raises InputError for a name that C does not accept, a program without a stage that a kernel can compute,
    an architecture without array, vector unit or DMA, and a folder that is not a project of ours.
    """
    target = Path(folder)
    _check_names(program)
    _check_folder(target)
    plan = plan_kernel(program, architecture, quantisation or Quantisation())
    texts = project_texts(program, architecture, plan, title or program.name, figures or {})
    _write(target, texts)
    covered = tuple(placed.stage.name for placed in plan.full.stages)
    return Project(target, program.name, tuple(sorted(texts)), covered, plan.uncovered)


def project_texts(
    program: Program, architecture: Architecture, plan: KernelPlan, title: str, figures: Mapping[str, str]
) -> dict[str, str]:
    """Every file of the project by its path in the folder."""
    if "\n" in title or "*/" in title or title.endswith("\\"):
        raise InputError(f"title must be one line without '*/', got {title!r}")
    rtl_texts, rtl_description = rtl_project(architecture)
    context = _context(program, architecture, plan, title, figures) | {"rtl": rtl_description}
    texts = {f"hls/{name}": render(f"{name}.jinja", context) for name in _HLS_FILES}
    texts |= {name: render(f"{name}.jinja", context) for name in ("Makefile", "README.md")}
    include = files("tilewright.hls_templates") / "include"
    texts |= {f"include/{name}": (include / name).read_text(encoding="utf-8") for name in _HEADERS}
    texts |= rtl_texts
    description = _description(architecture, plan, context) | {"rtl": rtl_description}
    texts["design.json"] = (
        json.dumps(description | {"files": sorted([*texts, "design.json"])}, indent=1) + "\n"
    )
    return texts


def _context(
    program: Program, architecture: Architecture, plan: KernelPlan, title: str, figures: Mapping[str, str]
) -> dict[str, Any]:
    target = target_of(architecture)
    context = kernel_context(plan) | {
        "title": title,
        "version": RELEASE,
        "kernel": program.name,
        "device": architecture.device,
        "part": target.part,
        "platform": target.platform,
        "notes": [target.note] if target.note else [],
        "clock_mhz": f"{architecture.clock_mhz:g}",
        "period_ns": f"{1000 / architecture.clock_mhz:.3f}",
        "figures": sorted(figures.items()),
        "ports": port_contexts(plan, architecture),
        "memories": _memories(plan),
        "flags": " ".join(CSIM_FLAGS),
        "macs": plan.full.macs,
        "n_program_stages": len(program.stages),
        "uncovered": plan.uncovered,
        "stage_rows": _stage_rows(plan),
        "engine_rows": [
            {
                "name": engine.name,
                "rows": engine.grid.rows,
                "cols": engine.grid.cols,
                "stationarity": engine.grid.stationarity,
                "bytes": block_bytes(engine, plan),
            }
            for engine in plan.engines
        ],
    }
    return context


def _memories(plan: KernelPlan) -> list[dict[str, Any]]:
    """The arrays behind the pointers, activations first."""
    found = [{"name": "activations", "word_bits": plan.lanes["x"] * plan.bits["x"]}]
    return found + [
        {"name": name, "word_bits": plan.lanes[name] * plan.bits[name]}
        for name in plan.ports
        if name in ("w", "a", "b", "bias")
    ]


def _stage_rows(plan: KernelPlan) -> list[dict[str, Any]]:
    rows = []
    for placed in plan.full.stages:
        stage = placed.stage
        steps = [step.function or step.kind for step in stage.post_steps]
        rows.append({
            "name": stage.name, "engine": plan.engines[plan.engine_of(stage.name)[0]].name,
            "m": stage.extent("m"), "n": stage.extent("n"), "k": stage.extent("k"),
            "r": stage.extent("r") if stage.has_adapter else 0,
            "steps": ", ".join(steps) or "none",
        })  # fmt: skip
    return rows


def _description(architecture: Architecture, plan: KernelPlan, context: Mapping[str, Any]) -> dict[str, Any]:
    """design.json: what the kernel is, and what the verifier needs."""
    return {
        "generator": GENERATOR,
        "version": RELEASE,
        "title": context["title"],
        "kernel": context["kernel"],
        "device": architecture.device,
        "part": context["part"],
        "clock_mhz": architecture.clock_mhz,
        "architecture": architecture.name,
        "parameters": dict(architecture.parameters),
        "figures": dict(context["figures"]),
        "rounding": plan.quantisation.rounding,
        "n_channels": target_of(architecture).n_channels,
        "ports": context["ports"],
        "uncovered": [asdict(stage) for stage in plan.uncovered],
        "stages": context["stage_rows"],
        "full": _shapes(plan.full, full=True),
        "small": _shapes(plan.small, full=False),
    }


def _shapes(shapes: Shapes, *, full: bool) -> dict[str, Any]:
    """Trips of every nest; at the small size also where everything lies."""
    stages = []
    for placed in shapes.stages:
        stage = placed.stage
        found: dict[str, Any] = {
            "name": stage.name,
            "nests": [{"name": name, "n_leaves": count} for name, count in stage.nests],
            "scales": asdict(placed.scales),
            "steps": [asdict(step) for step in stage.post_steps],
        }
        if not full:
            found["placements"] = [asdict(placement) for placement in placed.placements]
        stages.append(found)
    return {"memory_words": dict(shapes.memory_words), "stages": stages}


def _check_names(program: Program) -> None:
    names = [("program", program.name)]
    for stage in program.stages:
        names.append(("stage", stage.name))
        names += [("nest", nest.name) for nest in stage.nests]
    names += [("tensor", tensor.name) for tensor in program.tensors]
    for what, name in names:
        if not _IDENTIFIER.match(name) or len(name) > 120:
            raise InputError(f"{what} name {name!r} is no C identifier")
    if program.name in _TAKEN_WORDS.split() or re.match(r"(gemm|lora)[0-9]", program.name):
        raise InputError(f"program name {program.name!r} is taken in the generated code")


def is_project(folder: Path) -> bool:
    """Whether a folder was written by `generate`."""
    try:
        stored = json.loads((folder / "design.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(stored, dict) and stored.get("generator") == GENERATOR


def _check_folder(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder} is no folder")
    if folder.is_dir() and any(folder.iterdir()) and not is_project(folder):
        raise InputError(f"{folder} is not empty and holds no generated project: choose another folder")


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    """Write beside, then swap in; what was there before goes last."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}") from error
    try:
        for name, text in sorted(texts.items()):
            file = partial / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="\n")
        partial.chmod(0o755)
        if folder.exists():
            old = Path(mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
            os.rename(folder, old / "project")
            os.rename(partial, folder)
            shutil.rmtree(old)
        else:
            os.rename(partial, folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
