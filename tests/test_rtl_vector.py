"""The vector unit: its registers equal numpy's fixed point to the bit, functions keep their errors, cycles the form."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.program import VectorWork
from tilewright.hls_templates.rtl import fixed_model as model
from tilewright.hls_templates.rtl import functions
from tilewright.hls_templates.rtl.fixed_model import Words
from tilewright.hls_templates.rtl.vector import MAXIMUM, NO_REDUCTION, SUM, lanes_of, vector_lanes
from tilewright.hls_templates.rtl.vector_simulate import (
    VectorJob,
    VectorSimulator,
    expected,
    vector_simulator,
)
from tilewright.sim.architecture import VectorUnit
from tilewright.sim.vector import leaf_cycles

CORNERS = [0, 1, -1, 2, 1 << 16, -(1 << 16), 8 << 16, 16 << 16, (16 << 16) - 1, model.LARGEST, model.SMALLEST]


def arguments(n: int, seed: int = 1) -> Words:
    """Corners, then words whose magnitudes are spread evenly over the powers of two."""
    random = np.random.default_rng(seed)
    spread = 2.0 ** random.uniform(0, 31, n) * random.choice([-1, 1], n)
    return np.concatenate([CORNERS, spread.astype(np.int64)])


def exact(name: str, x: Words) -> np.ndarray:
    reals = model.to_reals(x)
    if name == "exp":
        return np.exp(np.minimum(reals, 40))
    if name == "reciprocal":
        return 1 / np.where(x == 0, np.inf, reals)
    if name == "rsqrt":
        return 1 / np.sqrt(np.where(x > 0, reals, np.inf))
    if name == "gelu":
        return 0.5 * reals * (1 + erf(reals / np.sqrt(2)))
    return reals / (1 + np.exp(-np.clip(reals, -700, 700)))


@pytest.mark.parametrize("name", model.ERRORS)
def test_a_function_keeps_its_stated_error(name: model.FunctionName) -> None:
    x = np.concatenate([arguments(100_000), np.arange(-(1 << 18), 1 << 18, 5)])
    if name in ("reciprocal", "rsqrt"):
        x = x[x > 0] if name == "rsqrt" else x[x != 0]
    truth, bound = exact(name, x), model.ERRORS[name]
    has_place = np.abs(truth) < model.to_reals(np.array(model.LARGEST))
    error = np.abs(model.to_reals(model.evaluate(name, x)) - truth)
    limit = bound.absolute + bound.relative * np.abs(truth)
    assert (error <= limit)[has_place].all()
    # the statement is no looser than twice what is found
    assert (error / limit)[has_place].max() > 0.5


def test_results_without_a_place_are_the_largest_word() -> None:
    assert model.evaluate("exp", model.to_words(11.0)) == model.LARGEST  # e^11 > 2^15
    assert model.evaluate("exp", model.to_words(-20.0)) == 0
    assert model.evaluate("reciprocal", np.array(0)) == model.LARGEST
    assert (model.evaluate("rsqrt", np.array([0, -5])) == model.LARGEST).all()
    assert model.evaluate("reciprocal", model.to_words(-4.0)) == -(1 << 14)


@pytest.mark.parametrize("operation", functions.OPERATIONS)
def test_a_lane_equals_numpy_to_the_bit(operation: str) -> None:
    a, b = arguments(400)[None], arguments(400, 2)[None]
    job = VectorJob(operation, a, b)
    assert (vector_simulator(4).run([job]).results[0] == expected(job)).all()


works = st.tuples(
    st.sampled_from(functions.OPERATIONS), st.integers(1, 4), st.integers(1, 23),
    st.sampled_from((NO_REDUCTION, MAXIMUM, SUM)),
)  # fmt: skip


@given(
    st.sampled_from((1, 3, 4)), st.lists(works, min_size=1, max_size=4), st.lists(st.booleans(), max_size=12)
)
@settings(max_examples=40, deadline=None)
def test_works_of_a_leaf_equal_numpy_and_the_closed_form(
    lanes: int, leaf: list[tuple[str, int, int, int]], there: list[bool]
) -> None:
    jobs = []
    for name, rows, points, reduces in leaf:
        words = arguments(rows * points)[-rows * points :].reshape(rows, points)
        jobs.append(VectorJob(name, words, np.full_like(words, 1 << 16), reduces))
    run = vector_simulator(lanes).run(jobs)
    for job, result in zip(jobs, run.results, strict=True):
        assert (result == expected(job)).all()
    # rows that are reduced are passes of their own: points of whole passes
    unit = VectorUnit("lanes", lanes, 32)
    cycles = 8
    for job in jobs:
        rows, points = (1, job.a.size) if not job.reduces else job.a.shape
        cycles += rows * (leaf_cycles(unit, [VectorWork(job.operation, ("p",))], {"p": points}) - 8)
    assert run.n_cycles == cycles
    # a gap in the operands costs what it lasts
    stalled = vector_simulator(lanes).run(jobs, there)
    n_passes, place, gaps = run.n_cycles - 8, 0, 0
    for is_there in there:
        if place == n_passes:
            break
        place, gaps = place + is_there, gaps + (not is_there)
    assert stalled.n_cycles == run.n_cycles + gaps
    assert all((a == b).all() for a, b in zip(stalled.results, run.results, strict=True))


def test_a_leaf_of_several_works_takes_the_cycles_of_the_tile_simulator() -> None:
    tile = {"m": 6, "n": 8}
    works = [VectorWork("add", ("m", "n")), VectorWork("exp", ("m", "n")), VectorWork("rsqrt", ("m",))]
    words = arguments(48)[-48:].reshape(6, 8)
    jobs = [
        VectorJob("add", words, words),
        VectorJob("exp", words, words),
        VectorJob("rsqrt", words[:, :1], words[:, :1]),
    ]
    # 48 points on 4 lanes twice, 6 points once: 8 + 12 + 12 + 2
    assert (
        leaf_cycles(VectorUnit("lanes", 4, 32), works, tile) == vector_simulator(4).run(jobs).n_cycles == 34
    )


def test_a_wrong_coefficient_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    words = functions._rom_words()
    words[7] ^= 1 << 20  # in c0 of exp's eighth segment
    monkeypatch.setattr(functions, "_rom_words", lambda: words)
    x = model.to_words(np.linspace(-1, 0, 300))[None]
    job = VectorJob("exp", x, x)
    assert (VectorSimulator(vector_lanes(2)).run([job]).results[0] != expected(job)).any()


def test_units_that_are_not_built_are_refused() -> None:
    unit = VectorUnit("lanes", 8, 32)
    assert lanes_of(unit).count == 8
    for wrong, what in (
        (replace(unit, element_bits=16), "32 bits"),
        (replace(unit, startup_cycles=3), "startup_cycles 8"),
        (replace(unit, cycles_per_evaluation=(("exp", 4),)), "exp"),
        (replace(unit, lanes=4096), "1 to 256"),
    ):
        with pytest.raises(InputError, match=what):
            lanes_of(wrong)
    with pytest.raises(InputError, match="'exq' is unknown"):
        VectorJob("exq", np.ones((1, 1), dtype=np.int64), np.ones((1, 1), dtype=np.int64))
