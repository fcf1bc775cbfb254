"""Running works on a vector unit in PyRTL, and what they give by numpy."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyrtl
from numpy.typing import NDArray

from tilewright.dataflow.errors import InputError, nearest
from tilewright.hls_templates.rtl import fixed_model as model
from tilewright.hls_templates.rtl.fixed_model import Words
from tilewright.hls_templates.rtl.functions import OPERATIONS, code_of
from tilewright.hls_templates.rtl.order import pack, unpack
from tilewright.hls_templates.rtl.vector import (
    MAXIMUM,
    NO_REDUCTION,
    PASS_BITS,
    SUM,
    Lanes,
    build_vector,
    vector_inputs,
    vector_lanes,
    vector_outputs,
)
from tilewright.hls_templates.rtl.wires import fresh_block


@dataclass(frozen=True)
class VectorJob:
    """One work: `operation` on the words `a` and `b` (rows, points), each row reduced if `reduces` says so.

    Without a reduction the rows are taken as one run of points.
    """

    operation: str
    a: Words
    b: Words
    reduces: int = NO_REDUCTION

    def __post_init__(self) -> None:
        if self.operation not in OPERATIONS:
            hint = nearest(self.operation, OPERATIONS)
            raise InputError(f"operation {self.operation!r} is unknown{hint}; known: {', '.join(OPERATIONS)}")
        if self.a.ndim != 2 or self.a.shape != self.b.shape or not self.a.size:
            raise InputError(
                f"vector work: operands of {self.a.shape} and {self.b.shape} make no rows of points"
            )
        if self.reduces not in (NO_REDUCTION, MAXIMUM, SUM):
            raise InputError(f"vector work: reduces must be 0, 1 or 2, got {self.reduces}")

    def rows(self) -> tuple[Words, Words]:
        """Operands as the unit takes them, a row of passes after another."""
        if self.reduces == NO_REDUCTION:
            return self.a.reshape(1, -1), self.b.reshape(1, -1)
        return self.a, self.b


@dataclass(frozen=True)
class VectorRun:
    """Per work its words in the shape of the operands, or one word per row; cycles from first pass to done."""

    results: tuple[Words, ...]
    n_cycles: int


class VectorSimulator:
    """A vector unit in PyRTL's FastSimulation, kept from run to run as hardware is."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        with fresh_block() as block:
            wires = {name: pyrtl.Input(bits, name) for name, bits in vector_inputs(lanes).items()}
            for name, wire in build_vector(lanes, wires).items():
                output = pyrtl.Output(vector_outputs(lanes)[name], name)
                output <<= wire
            self._simulation = pyrtl.FastSimulation(tracer=None, block=block)

    def run(self, jobs: Sequence[VectorJob], in_valid: Sequence[bool] = ()) -> VectorRun:
        """The results of works that follow each other; `in_valid` by cycle says whether operands are there.

        Raises InputError for no work and for one of more passes than the unit counts.
        """
        if not jobs:
            raise InputError("vector unit: a leaf must have a work")
        passes = self._passes_of(jobs)
        words: list[list[int]] = []
        reduced: list[int] = []
        place = cycle = 0
        idle = dict.fromkeys(vector_inputs(self.lanes), 0)
        while True:
            there = cycle >= len(in_valid) or bool(in_valid[cycle])
            inputs = dict(passes[place]) if place < len(passes) else dict(idle)
            inputs["in_valid"] = int(place < len(passes) and there)
            self._simulation.step(inputs)
            inspect = self._simulation.inspect
            place += inputs["in_valid"] & inspect("in_ready")
            if inspect("out_valid"):
                words.append(unpack(inspect("out"), model.WORD_BITS, self.lanes.count))
            if inspect("reduced_valid"):
                reduced.append(inspect("reduced"))
            cycle += 1
            if inspect("done"):
                return VectorRun(self._collected(jobs, words, reduced), cycle)

    def _passes_of(self, jobs: Sequence[VectorJob]) -> list[dict[str, int]]:
        found = []
        for job in jobs:
            a, b = job.rows()
            n_rows, n_points = a.shape
            row_passes = -(-n_points // self.lanes.count)
            if n_rows * row_passes >= 1 << PASS_BITS:
                raise InputError(
                    f"vector work: passes must be below {1 << PASS_BITS}, got {n_rows * row_passes}"
                )
            work = {
                "work_valid": 1, "operation": code_of(job.operation), "reduces": job.reduces,
                "passes": n_rows * row_passes, "row_passes": row_passes,
                "last_lanes": n_points - (row_passes - 1) * self.lanes.count, "ends": int(job is jobs[-1]),
            }  # fmt: skip
            room = ((0, 0), (0, row_passes * self.lanes.count - n_points))
            for left, right in zip(
                pack(np.pad(a, room).reshape(-1, self.lanes.count), model.WORD_BITS),
                pack(np.pad(b, room).reshape(-1, self.lanes.count), model.WORD_BITS),
                strict=True,
            ):
                found.append(work | {"a": left, "b": right})
        return found

    def _collected(
        self, jobs: Sequence[VectorJob], words: list[list[int]], reduced: list[int]
    ) -> tuple[Words, ...]:
        results: list[Words] = []
        for job in jobs:
            a, _ = job.rows()
            n_passes = a.shape[0] * -(-a.shape[1] // self.lanes.count)
            own, words = words[:n_passes], words[n_passes:]
            if job.reduces:
                results.append(_signed(np.array(reduced[: a.shape[0]])))
                reduced = reduced[a.shape[0] :]
            else:
                results.append(_signed(np.array(own)).reshape(-1)[: a.size].reshape(job.a.shape))
        return tuple(results)


def _signed(words: NDArray[np.int64]) -> Words:
    return np.asarray((words.astype(np.int64) << 32) >> 32, dtype=np.int64)


@lru_cache(maxsize=8)
def vector_simulator(count: int) -> VectorSimulator:
    """The simulator of a unit of so many lanes, built once."""
    return VectorSimulator(vector_lanes(count))


def expected(job: VectorJob) -> Words:
    """What a work gives, by numpy in the arithmetic of `rtl.fixed_model`."""
    words = pointwise(job.operation, job.a, job.b)
    if job.reduces == MAXIMUM:
        return np.asarray(words.max(axis=1), dtype=np.int64)
    return _signed(words.sum(axis=1)) if job.reduces == SUM else words


def pointwise(operation: str, a: Words, b: Words) -> Words:
    """One operation on every pair of words."""
    if operation in model.ERRORS:
        return model.evaluate(operation, a)  # type: ignore[arg-type]
    if operation == "sub_exp":
        return model.evaluate("exp", np.clip(a - b, model.SMALLEST, model.LARGEST))
    if operation == "add":
        exact = a + b
    elif operation == "sub":
        exact = a - b
    elif operation == "mul":
        exact = (a * b + (1 << (model.FRACTION_BITS - 1))) >> model.FRACTION_BITS
    else:
        exact = np.maximum(a, b) if operation == "max" else a
    return np.asarray(np.clip(exact, model.SMALLEST, model.LARGEST), dtype=np.int64)
