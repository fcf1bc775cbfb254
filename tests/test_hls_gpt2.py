"""Kernels of scheduled GPT-2 layers: text checked for all, computed results for a few."""

import random
from pathlib import Path
from typing import Any

import pytest

from tilewright.dataflow.program import Program
from tilewright.hls_templates.csim import ToolAbsentError, find_toolchain
from tilewright.hls_templates.project import generate
from tilewright.hls_templates.verify import verify
from tilewright.sim.architecture import Architecture
from tilewright.sim.device import device_named
from tilewright.sim.sequential import Sequential
from tilewright.workloads.workload import load_workload

_ADAPTERS = (None, "lora:r=16,targets=q+k+v+o", "lora:r=5,targets=q+v", "lora:r=8,targets=up+down")


def _layer(
    model: str, adapter: str | None, parameters: dict[str, Any], **shape: Any
) -> tuple[Program, Architecture]:
    """The program of a transformer block and the hardware that it is scheduled on."""
    family, device = Sequential(), device_named("u280")
    workload = load_workload(model, adapter=adapter, **shape)
    block = next(layer.graph for layer in workload.network if layer.name == "block")
    architecture = family.build(parameters, device)
    return family.schedule(block, architecture), architecture


@pytest.mark.parametrize(
    ("adapter", "parameters", "shape"),
    [
        ("lora:r=16,targets=q+k+v+o", {}, {"phase": "prefill", "batch": 1, "seq": 128}),
        ("lora:r=5,targets=q+v", {"stationarity": "weight", "rows": 12, "cols": 20},
         {"phase": "prefill", "batch": 2, "seq": 100}),
        (None, {"stationarity": "input", "fusion": False},
         {"phase": "decode", "batch": 3, "seq": 1, "cache": 77}),
    ],
)  # fmt: skip
def test_every_product_of_a_layer_is_generated_and_lints(
    tmp_path: Path, adapter: str | None, parameters: dict[str, Any], shape: dict[str, Any]
) -> None:
    program, architecture = _layer("gpt2", adapter, parameters, **shape)
    project = generate(program, architecture, tmp_path / "project")
    products = {"attn_c_attn", "attn_c_proj", "mlp_c_fc", "mlp_c_proj"}
    assert products <= set(project.covered)
    assert {*project.covered, *(one.stage for one in project.uncovered)} == {s.name for s in program.stages}
    (check,) = verify(project.folder, "lint")
    assert check.verdict == "passed", check.reason


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_random_designs_equal_numpy(tmp_path: Path, seed: int) -> None:
    try:
        find_toolchain()
    except ToolAbsentError as absent:
        pytest.skip(str(absent))
    choose = random.Random(seed)
    space = Sequential().space(device_named("u280"))
    parameters = {parameter.name: choose.choice(parameter.values) for parameter in space.parameters}
    parameters |= {
        "rows": choose.choice((4, 8, 12, 16, 32)), "cols": choose.choice((4, 8, 16, 20, 32)),
        "arrays": choose.choice((1, 2, 3)), "precision": choose.choice(("int8", "packed_int8")),
        "input_buffer_kib": 512, "weight_buffer_kib": 512, "output_buffer_kib": 512,
    }  # fmt: skip
    shape: dict[str, Any] = {
        "phase": "prefill",
        "batch": choose.choice((1, 3)),
        "seq": choose.choice((7, 100, 512)),
    }
    if choose.random() < 0.3:
        shape = {"phase": "decode", "batch": choose.choice((1, 3)), "seq": 1, "cache": 100}
    program, architecture = _layer("gpt2", choose.choice(_ADAPTERS), parameters, **shape)
    project = generate(program, architecture, tmp_path / "project")
    checks = verify(project.folder, "csim")
    assert [check.verdict for check in checks] == ["passed"] * 3, checks
