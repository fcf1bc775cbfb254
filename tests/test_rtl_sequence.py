"""Sequenced programs in PyRTL: results equal numpy's to the bit, cycles those of the tile simulator."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.program import Program
from tilewright.hls_templates.rtl import address, attention_model, datapath, sequencer, tools
from tilewright.hls_templates.rtl.array import array_grid
from tilewright.hls_templates.rtl.control import Grid
from tilewright.hls_templates.rtl.pe import PeKind, pe_kind
from tilewright.hls_templates.rtl.sequence import Sequence
from tilewright.hls_templates.rtl.sequence_simulate import SequenceRun, SequenceSimulator
from tilewright.hls_templates.rtl.sequence_verilog import build_sequence, run_sequence, sequence_files
from tilewright.hls_templates.rtl.sequenced_programs import (
    attention_program,
    gemm_program,
    lora_program,
    sequenced_architecture,
)
from tilewright.hls_templates.rtl.tools import SimulationError, find_simulator
from tilewright.sim.architecture import Dram
from tilewright.sim.engine import compile_program
from tilewright.sim.engine import run as run_engine
from tilewright.sim.rated_memory import memory_of

Words = NDArray[np.int64]
SETUP_CYCLES = 4


def integers(seed: int, *shape: int) -> Words:
    return np.random.default_rng([seed, *shape]).integers(-128, 128, shape)


def engine_cycles(program: Program, grid: Grid, latency_cycles: int) -> int:
    architecture = sequenced_architecture(grid, SETUP_CYCLES, latency_cycles)
    memory = memory_of(architecture.of_kind(Dram)[0], architecture.clock_mhz)
    return run_engine(compile_program(program, architecture, memory)).latency_cycles


def close(cycles: int, model: int) -> bool:
    return abs(cycles - model) <= max(0.01 * model, 16)


def gemm(
    grid: Grid, sizes: tuple[int, int, int], tile: tuple[int, int, int], latency: int, copies: int = 2
) -> None:
    o, t, i = sizes
    w, x = integers(1, o, i), integers(2, i, t)
    program = gemm_program(grid, o, t, i, tile, copies)
    run = SequenceSimulator(Sequence(program, grid, SETUP_CYCLES)).run({"w": w, "x": x}, latency)
    assert (run.results["y"] == w @ x).all()
    assert close(run.n_cycles, engine_cycles(program, grid, latency))


def lora_run(
    grid: Grid, sizes: tuple[int, int, int, int], tile: tuple[int, int], latency: int, shift: int
) -> tuple[SequenceRun, Words, int]:
    o, t, i, rank = sizes
    w, x, a, b = integers(1, o, i), integers(2, i, t), integers(3, rank, i), integers(4, o, rank)
    program = lora_program(grid, o, t, i, rank, tile)
    run = SequenceSimulator(Sequence(program, grid, SETUP_CYCLES, shift)).run(
        {"w": w, "x": x, "a": a, "b": b}, latency
    )
    u = np.clip((a @ x + (1 << shift >> 1)) >> shift, -128, 127)
    return run, w @ x + b @ u, engine_cycles(program, grid, latency)


def test_one_tile_takes_the_sum_of_its_parts() -> None:
    grid = array_grid(4, 4)
    program = gemm_program(grid, 4, 4, 4, (4, 4, 4))
    run = SequenceSimulator(Sequence(program, grid, SETUP_CYCLES)).run(
        {"w": integers(1, 4, 4), "x": integers(2, 4, 4)}, 10
    )
    # x: 4 setup, 1 beat of 16 bytes, 10 latency; w after it; 4 + 2 * 4 + 4 on the array; y: 4, 4 beats, 10
    assert run.n_cycles == 15 + 15 + 16 + 18
    assert run.n_beats == 1 + 1 + 4


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(("sizes", "tile", "latency", "copies"), [
    ((16, 12, 20), (8, 8, 8), 25, 2),
    ((16, 16, 16), (8, 8, 8), 7, 1),
    ((12, 28, 50), (8, 12, 17), 3, 2),
])  # fmt: skip
def test_a_tiled_product_is_numpys_in_the_cycles_of_the_tile_simulator(
    overlap: bool, sizes: tuple[int, int, int], tile: tuple[int, int, int], latency: int, copies: int
) -> None:
    gemm(array_grid(4, 4, drain_overlap=overlap), sizes, tile, latency, copies)


def words_of(side: int, most: int) -> st.SearchStrategy[int]:
    return st.integers(1, most).map(lambda n: n * side)


@given(st.sampled_from(((2, 2), (4, 2), (2, 4))), st.booleans(), st.data())
@settings(max_examples=6, deadline=None)
def test_any_product_in_any_tiles_keeps_values_and_cycles(
    sides: tuple[int, int], overlap: bool, data: st.DataObject
) -> None:
    grid = array_grid(*sides, drain_overlap=overlap)
    o, t, i = (
        data.draw(words_of(sides[0], 5)),
        data.draw(words_of(sides[1], 5)),
        data.draw(st.integers(1, 20)),
    )
    tile = data.draw(words_of(sides[0], 3)), data.draw(words_of(sides[1], 3)), data.draw(st.integers(1, 20))
    gemm(grid, (o, t, i), tile, data.draw(st.integers(1, 40)), data.draw(st.sampled_from((1, 2, 3))))


@pytest.mark.slow
@given(st.sampled_from(((2, 2), (4, 4), (8, 4), (4, 8))), st.booleans(), st.data())
@settings(max_examples=60, deadline=None)
def test_many_products_in_any_tiles_keep_values_and_cycles(
    sides: tuple[int, int], overlap: bool, data: st.DataObject
) -> None:
    grid = array_grid(*sides, drain_overlap=overlap)
    o, t, i = (
        data.draw(words_of(sides[0], 8)),
        data.draw(words_of(sides[1], 8)),
        data.draw(st.integers(1, 80)),
    )
    tile = data.draw(words_of(sides[0], 4)), data.draw(words_of(sides[1], 4)), data.draw(st.integers(4, 40))
    gemm(grid, (o, t, i), tile, data.draw(st.integers(1, 100)), data.draw(st.sampled_from((1, 2, 3))))


@pytest.mark.parametrize(("sizes", "tile", "latency"), [
    ((16, 24, 20, 8), (8, 8), 30),
    ((20, 12, 30, 4), (8, 8), 5),
])  # fmt: skip
def test_a_fused_low_rank_product_is_numpys_in_the_cycles_of_the_tile_simulator(
    sizes: tuple[int, int, int, int], tile: tuple[int, int], latency: int
) -> None:
    run, truth, model = lora_run(array_grid(4, 4), sizes, tile, latency, shift=7)
    assert (run.results["y"] == truth).all()
    assert close(run.n_cycles, model)


@pytest.mark.parametrize("pe", [pe_kind("int4"), pe_kind("int16", 32)])
def test_operands_of_other_widths_are_multiplied_too(pe: PeKind) -> None:
    grid = array_grid(2, 4, pe=pe)
    limit = 1 << (pe.weight_bits - 1)
    random = np.random.default_rng(5)
    # sums of 16 bits by 16 wrap at 32, as numpy's would
    w, x = random.integers(-limit, limit, (4, 7)), random.integers(-limit, limit, (7, 8))
    run = SequenceSimulator(Sequence(gemm_program(grid, 4, 8, 7, (2, 4, 3)), grid, SETUP_CYCLES)).run(
        {"w": w, "x": x}, 5
    )
    assert (run.results["y"] == (w @ x).astype(np.int32)).all()


def test_runs_on_one_accelerator_follow_each_other() -> None:
    grid = array_grid(2, 2)
    simulator = SequenceSimulator(Sequence(gemm_program(grid, 6, 4, 5, (4, 2, 3), 3), grid, SETUP_CYCLES))
    cycles = set()
    for seed in range(3):
        w, x = integers(seed, 6, 5), integers(seed + 9, 5, 4)
        run = simulator.run({"w": w, "x": x}, 6)
        assert (run.results["y"] == w @ x).all()
        cycles.add(run.n_cycles)
    assert len(cycles) == 1


def test_a_reader_that_does_not_wait_for_its_tile_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = sequencer._tokens

    def eager(sequence: Sequence, nests: dict[str, sequencer._NestWires], buffer: str, copies: int) -> None:
        real(sequence, nests, buffer, copies)
        if buffer == "w":
            nests["gemm"].conditions.pop()

    monkeypatch.setattr(sequencer, "_tokens", eager)
    with pytest.raises(AssertionError):
        gemm(array_grid(4, 4), (16, 12, 20), (8, 8, 8), 25)


def test_a_wrong_address_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = address._stepped

    def late(register: object, when: object, value: object, done: object, rest: int) -> None:
        # the sums of a fold start one row too low
        real(register, when, value, done, rest - 1 if rest else 0)  # type: ignore[arg-type]

    monkeypatch.setattr(address, "_stepped", late)
    with pytest.raises(AssertionError):
        gemm(array_grid(4, 4), (16, 12, 20), (8, 8, 8), 25)


def test_programs_that_do_not_fit_the_hardware_are_refused() -> None:
    grid = array_grid(4, 4)
    program = gemm_program(grid, 8, 8, 8, (4, 4, 4))
    with pytest.raises(InputError, match="'o' must be whole words of 4 rows, got 6"):
        Sequence(gemm_program(grid, 6, 8, 8, (6, 4, 4)), grid, SETUP_CYCLES)
    with pytest.raises(InputError, match="output-stationary"):
        Sequence(program, array_grid(4, 4, "weight"), SETUP_CYCLES)
    with pytest.raises(InputError, match="setup_cycles must be >= 1, got 0"):
        Sequence(program, grid, 0)
    with pytest.raises(InputError, match="words of 3 x 8 bits"):
        Sequence(program, array_grid(3, 4), SETUP_CYCLES)
    with pytest.raises(InputError, match="requantise_shift must be 0 to 31, got 32"):
        Sequence(program, grid, SETUP_CYCLES, 32)
    narrow = array_grid(4, 4, pe="int4")
    with pytest.raises(InputError, match="north has 4"):
        Sequence(attention_program(narrow, 4, 4, 4, 4, (4, 4)), narrow, SETUP_CYCLES)
    simulator = SequenceSimulator(Sequence(program, grid, SETUP_CYCLES))
    with pytest.raises(InputError, match=r"'w' must be \(8, 8\), got \(4, 8\)"):
        simulator.run({"x": integers(1, 8, 8), "w": integers(1, 4, 8)}, 5)
    with pytest.raises(InputError, match="'x' is missing"):
        simulator.run({}, 5)
    with pytest.raises(InputError, match="latency_cycles must be >= 1"):
        simulator.run({}, 0)


def attend(
    grid: Grid, sizes: tuple[int, int, int, int], tile: tuple[int, int], latency: int, copies: int = 2
) -> tuple[Words, Words]:
    """(values stored, their model), the cycles held to the tile simulator."""
    queries, keys, e, f = sizes
    q, k, v = integers(1, e, queries), integers(2, keys, e), integers(3, f, keys)
    multiplier, shift = attention_model.scale_of(1 / (128 * e))
    program = attention_program(grid, queries, keys, e, f, tile, copies)
    sequence = Sequence(program, grid, SETUP_CYCLES, score_scale=(multiplier, shift))
    run = SequenceSimulator(sequence).run({"q": q, "k": k, "v": v}, latency)
    assert close(run.n_cycles, engine_cycles(program, grid, latency))
    return run.results["y"], attention_model.attention(q, k, v, min(tile[1], keys), multiplier, shift)


@pytest.mark.parametrize(("sizes", "tile", "latency", "copies"), [
    ((8, 12, 8, 8), (4, 4), 10, 2),
    ((12, 20, 6, 4), (8, 8), 20, 1),
])  # fmt: skip
def test_one_pass_attention_equals_its_integers_in_the_cycles_of_the_tile_simulator(
    sizes: tuple[int, int, int, int], tile: tuple[int, int], latency: int, copies: int
) -> None:
    found, model = attend(array_grid(4, 4), sizes, tile, latency, copies)
    assert (found == model).all()


@pytest.mark.slow
@given(st.booleans(), st.data())
@settings(max_examples=12, deadline=None)
def test_any_attention_in_any_tiles_keeps_values_and_cycles(overlap: bool, data: st.DataObject) -> None:
    side = data.draw(st.sampled_from((2, 4)))
    sizes = (
        data.draw(words_of(side, 6)), data.draw(words_of(side, 10)), data.draw(st.integers(1, 24)),
        data.draw(words_of(side, 5)),
    )  # fmt: skip
    tile = data.draw(words_of(side, 3)), data.draw(words_of(side, 4))
    grid = array_grid(side, side, drain_overlap=overlap)
    found, model = attend(
        grid, sizes, tile, data.draw(st.integers(1, 60)), data.draw(st.sampled_from((1, 2, 3)))
    )
    assert (found == model).all()


@pytest.mark.parametrize(("keys", "sharpness"), [(16, 1.0), (64, 0.25), (200, 1.0), (200, 4.0)])
def test_attention_keeps_its_stated_error(keys: int, sharpness: float) -> None:
    q, k, v = integers(1, 16, 40), integers(2, keys, 16), integers(3, 24, keys)
    scale = sharpness / (128 * 16)
    multiplier, shift = attention_model.scale_of(scale)
    found = attention_model.attention(q, k, v, 16, multiplier, shift) / 2**16
    exact, bound = attention_model.exact_attention(q, k, v, scale)
    assert (np.abs(found - exact) <= bound).all()
    assert np.abs(found - exact).mean() < 0.6  # of values of -128 .. 127


def test_mixed_values_that_are_not_rescaled_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datapath, "_rescaled", lambda word, *_: word)
    found, model = attend(array_grid(4, 4), (4, 12, 8, 4), (4, 4), 5)
    assert (found != model).any()


def verilog_jobs(grid: Grid) -> list[tuple[Sequence, dict[str, Words], int]]:
    """A product, a low-rank product and an attention, with their tensors and the memory's latency."""
    scale = attention_model.scale_of(1 / 1024)
    gemm_of = Sequence(gemm_program(grid, 12, 20, 30, (8, 12, 17)), grid, SETUP_CYCLES)
    lora_of = Sequence(lora_program(grid, 12, 16, 10, 4, (8, 8)), grid, SETUP_CYCLES, 7)
    program = attention_program(grid, 8, 12, 8, 8, (4, 4))
    attention_of = Sequence(program, grid, SETUP_CYCLES, score_scale=scale)
    return [
        (gemm_of, {"w": integers(1, 12, 30), "x": integers(2, 30, 20)}, 9),
        (lora_of, {
            "w": integers(1, 12, 10), "x": integers(2, 10, 16), "a": integers(3, 4, 10), "b": integers(4, 12, 4),
        }, 30),
        (attention_of, {"q": integers(1, 8, 8), "k": integers(2, 12, 8), "v": integers(3, 8, 12)}, 10),
    ]  # fmt: skip


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="iverilog absent")
@pytest.mark.parametrize("job", range(3))
def test_the_verilog_shell_does_what_pyrtl_does(job: int, tmp_path: Path) -> None:
    sequence, tensors, latency = verilog_jobs(array_grid(4, 4))[job]
    command = build_sequence(find_simulator("iverilog"), sequence, tmp_path)
    printed = run_sequence(command, sequence, tensors, latency, tmp_path)
    built = SequenceSimulator(sequence).run(tensors, latency)
    assert (printed.results["y"] == built.results["y"]).all()
    assert (printed.n_cycles, printed.n_beats) == (built.n_cycles, built.n_beats)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("verilator") is None, reason="verilator absent")
def test_the_shell_of_an_attention_in_verilator_does_what_pyrtl_does(tmp_path: Path) -> None:
    sequence, tensors, latency = verilog_jobs(array_grid(2, 2))[2]
    command = build_sequence(find_simulator("verilator"), sequence, tmp_path)
    printed = run_sequence(command, sequence, tensors, latency, tmp_path)
    built = SequenceSimulator(sequence).run(tensors, latency)
    assert (printed.results["y"] == built.results["y"]).all()
    assert (printed.n_cycles, printed.n_beats) == (built.n_cycles, built.n_beats)


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="iverilog absent")
def test_a_fault_in_the_verilog_is_caught(tmp_path: Path) -> None:
    sequence, tensors, latency = verilog_jobs(array_grid(4, 4))[0]
    command = build_sequence(find_simulator("iverilog"), sequence, tmp_path)
    shell = tmp_path / "accelerator.v"
    text = shell.read_text(encoding="utf-8")
    # the north's address generator drives the scratchpad of the west
    assert text.count(".west_offset(addresses__west)") == 1
    shell.write_text(
        text.replace(".west_offset(addresses__west)", ".west_offset(addresses__north)"), encoding="utf-8"
    )
    sources = sorted(tmp_path.glob("*.v"))
    command = tools.build(find_simulator("iverilog"), sources, "accelerator_tb", tmp_path)
    # beats of a longer run are read where the tile of the west has none
    with pytest.raises(SimulationError, match="undefined beat"):
        run_sequence(command, sequence, tensors, latency, tmp_path)


def test_the_same_program_gives_the_same_verilog() -> None:
    sequence = verilog_jobs(array_grid(4, 4))[2][0]
    texts = sequence_files(sequence)
    assert texts == sequence_files(sequence)
    assert {
        "accelerator.v",
        "accelerator_tb.v",
        "array_top.v",
        "array_pe.v",
        "sequencer.v",
        "softmax_unit.v",
    } <= set(texts)
    assert sum(len(text) for text in texts.values()) < 1_500_000
