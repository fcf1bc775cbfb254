"""What a kernel must compute, in numpy on whole matrices: no tiles, no order, exact integers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.hls_templates.layout import ACTIVATIONS, Placement
from tilewright.hls_templates.quantise import (
    FixedPoint,
    Rounding,
    StageScales,
    requantise,
    saturate,
    table_of,
)
from tilewright.hls_templates.stage import PostStep

Memory = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StageReference:
    """One stage as design.json states it."""

    name: str
    scales: StageScales
    steps: tuple[PostStep, ...]
    placements: Mapping[str, Placement]

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> "StageReference":
        scales: dict[str, Any] = {
            name: FixedPoint(**value) if isinstance(value, dict) else value
            for name, value in stored["scales"].items()
        }
        return StageReference(
            stored["name"],
            StageScales(**scales),
            tuple(PostStep(**step) for step in stored["steps"]),
            {item["operand"]: Placement.from_dict(item) for item in stored["placements"]},
        )  # fmt: skip


def random_memories(description: Mapping[str, Any], seed: int) -> dict[str, Memory]:
    """Elements of every memory of the small shapes, uniform over their range; padding is random as well."""
    generator = np.random.default_rng(seed)
    memories: dict[str, Memory] = {}
    for name, n_words in sorted(description["small"]["memory_words"].items()):
        port = port_of(description, name)
        low = -(1 << (port["bits"] - 1))
        memories[name] = generator.integers(low, -low, n_words * port["lanes"], dtype=np.int64)
    return memories


def port_of(description: Mapping[str, Any], memory: str) -> Mapping[str, Any]:
    """The first port of a memory: all that share one have the same words."""
    found: Mapping[str, Any] = next(port for port in description["ports"] if port["memory_name"] == memory)
    return found


def run(description: Mapping[str, Any], memories: Mapping[str, Memory]) -> Memory:
    """The activations' memory after all stages of the small shapes."""
    state = {name: elements.copy() for name, elements in memories.items()}
    for stored in description["small"]["stages"]:
        _run_stage(StageReference.from_dict(stored), state, description["rounding"])
    return state["activations"]


def _run_stage(stage: StageReference, memories: dict[str, Memory], rounding: Rounding) -> None:
    def matrix(operand: str) -> Memory:
        placement = stage.placements[operand]
        memory = "activations" if operand in ACTIVATIONS else operand
        return memories[memory][placement.element_positions()]

    x = matrix("x")
    sums = x @ matrix("w")
    if "a" in stage.placements:
        assert stage.scales.adapter is not None
        u = requantise(x @ matrix("a"), stage.scales.adapter, stage.placements["x"].bits, rounding)
        sums = sums + u @ matrix("b")
    result = stage.placements["y"]
    values = _post(stage, sums, matrix, result.bits, rounding)
    _clear_padding(result, memories["activations"])
    memories["activations"][result.element_positions()] = values


def _post(stage: StageReference, sums: Memory, matrix: Any, bits: int, rounding: Rounding) -> Memory:
    """The steps behind the sums; the requantisation stands before the first one that needs results."""
    values: Memory | None = None
    for step in stage.steps:
        if step.kind == "bias":
            sums = sums + (matrix("bias") << stage.scales.bias_shift)
            continue
        if values is None:
            values = requantise(sums, stage.scales.output, bits, rounding)
        if step.kind == "table":
            values = np.array(table_of(step.function, stage.scales), dtype=np.int64)[values + 128]
        else:
            values = _combine(step, values, matrix(step.side), stage.scales, bits, rounding)
    return requantise(sums, stage.scales.output, bits, rounding) if values is None else values


def _combine(
    step: PostStep, values: Memory, other: Memory, scales: StageScales, bits: int, rounding: Rounding
) -> Memory:
    """A result with a second matrix: added, added with a scale, or multiplied."""
    if step.kind == "residual":
        return saturate(values + other, bits)
    assert scales.side is not None
    if step.kind == "product":
        return requantise(values * other, scales.side, bits, rounding)
    return saturate(values + requantise(other, scales.side, bits, rounding), bits)


def _clear_padding(placement: Placement, memory: Memory) -> None:
    """A kernel writes whole words: zeros behind the end of a row."""
    from dataclasses import replace

    lanes = placement.lanes
    spans = tuple(replace(span, size=-(-span.size // lanes) * lanes) for span in placement.col_spans)
    cols = max(span.start + span.size for span in spans)
    for span in spans:
        one = replace(placement, cols=span.size, col_spans=(replace(span, start=0),))
        memory[one.element_positions()] = 0
    assert cols >= placement.cols


def to_bytes(elements: Memory, bits: int) -> bytes:
    """Elements as they lie in memory: little endian, two of 4 bits in a byte, the first one low."""
    if bits == 4:
        low, high = elements[0::2] & 15, elements[1::2] & 15
        return (low | high << 4).astype(np.uint8).tobytes()
    return elements.astype({8: "<i1", 16: "<i2"}[bits]).tobytes()
