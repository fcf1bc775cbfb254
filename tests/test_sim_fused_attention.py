"""Fused attention: DRAM traffic and time by hand, invariants over shapes and choices."""

from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.program import Direction, Program, Transfer
from tilewright.sim.actions import count_actions
from tilewright.sim.architecture import Architecture, Dram
from tilewright.sim.design import Design
from tilewright.sim.device import device_named
from tilewright.sim.engine import Timing, compile_program, run
from tilewright.sim.evaluate import evaluate
from tilewright.sim.fused_attention import FusedAttention, attention_program
from tilewright.sim.fused_attention_cascade import CascadeSchedule
from tilewright.sim.fused_attention_flat import FlatChoice, FlatSchedule, Grid
from tilewright.sim.fused_attention_shape import AttentionShape, attentions_of
from tilewright.sim.fused_attention_unfused import UnfusedSchedule
from tilewright.sim.mapping import MappingError
from tilewright.sim.rated_memory import memory_of
from tilewright.sim.trips import total_elements
from tilewright.workloads.workload import load_workload

NAMES = ("Q", "K", "V", "AV")
FAST_MEMORY = 1e5  # GB/s: the array or the lanes are the limit


def shape_of(heads: int, queries: int, keys: int, width: int) -> AttentionShape:
    return AttentionShape(heads, queries, keys, width, width, 16, NAMES, ())


def architecture(**stated: object) -> Architecture:
    wide = {"dma_channels": 32, "dma_bytes_per_cycle": 512, "precision": "fp16"}
    return FusedAttention().build({**wide, **stated}, device_named("asic7"))  # type: ignore[arg-type]


def timing(program: Program, hardware: Architecture) -> Timing:
    (dram,) = hardware.of_kind(Dram)
    return run(compile_program(program, hardware, memory_of(dram, hardware.clock_mhz)))


def moved_bytes(program: Program, tensor: str, direction: Direction) -> int:
    return 2 * sum(
        total_elements(nest.loops, dict(nest.leaf.tile))
        for nest in program.nests
        if isinstance(nest.leaf, Transfer) and nest.leaf.tensor == tensor and nest.leaf.direction is direction
    )


def flat(
    queries: int, kept: str, *, stationarity: str = "output", tile: int = 64, softmax: bool = True
) -> FlatSchedule:
    choice = FlatChoice(
        "row", tile, stationarity, stationarity, frozenset(kept.split()), softmax,  # type: ignore[arg-type]
    )  # fmt: skip
    return FlatSchedule(shape_of(2, queries, queries, 32), choice, Grid(32, 32, 32, 1 << 20))


def test_one_pass_moves_inputs_and_output_once_where_all_queries_stay() -> None:
    hardware = architecture(buffer_kib=1024, schedule="interleaved")
    program = attention_program(shape_of(3, 128, 256, 32), hardware, "attention")
    for tensor, direction, elements in (
        ("Q", Direction.LOAD, 3 * 128 * 32), ("K", Direction.LOAD, 3 * 256 * 32),
        ("V", Direction.LOAD, 3 * 256 * 32), ("AV", Direction.STORE, 3 * 128 * 32),
    ):  # fmt: skip
        assert moved_bytes(program, tensor, direction) == 2 * elements
    counts = count_actions(program, hardware)
    assert counts.dram_read_bytes + counts.dram_write_bytes == 2 * 3 * 32 * (2 * 128 + 2 * 256)


def test_one_pass_reads_keys_once_for_every_block_of_queries_that_fits() -> None:
    # 8 KiB: a key and a value tile take 2 * 32 * 32 words, 66 words for each query: 31 queries do not fill a tile
    with pytest.raises(
        MappingError, match="a tile of 32 queries needs 4224 bytes of the buffer, 4096 are free"
    ):
        CascadeSchedule(shape_of(1, 64, 64, 32), "interleaved", Grid(32, 32, 32, 8192), True).block_tiles()
    # 4224 bytes a tile and 4096 for the keys: one tile in 12 KiB, two in 13 KiB, of 4 in all
    for buffer_bytes, tiles in ((12288, 1), (13312, 2), (1 << 20, 4)):
        schedule = CascadeSchedule(
            shape_of(1, 128, 64, 32), "interleaved", Grid(32, 32, 32, buffer_bytes), True
        )
        assert schedule.block_tiles() == tiles
        assert moved_bytes(schedule.program("x"), "K", Direction.LOAD) == 2 * (4 // tiles) * 64 * 32


def test_phases_of_one_tile_add_up_as_the_source_states() -> None:
    # 32 x 32, width 32, exponential of 6: phase a 33, wave 32, maxima 1, exponentials 8, mixing 64 (32 + 32 on the row)
    program_cycles = {"phased": 33 + 32 + 1 + 8 + 64, "interleaved": max(33 + 8 + 32, 1 + 1 + 8 + 64)}
    for schedule, per_tile in program_cycles.items():
        hardware = architecture(schedule=schedule, memory_gb_per_s=FAST_MEMORY, buffer_kib=1024)
        cycles = [
            timing(attention_program(shape_of(heads, 64, 64, 32), hardware, "a"), hardware).latency_cycles
            for heads in (20, 40)
        ]
        # Twenty heads of four tiles more. The division of a block, 2 x 32 cycles, hides or not, and where it comes
        # between two sides of a phase one of them waits for a cycle.
        assert 80 * per_tile <= cycles[1] - cycles[0] <= 80 * (per_tile + 1) + 20 * 64


def test_a_cascade_on_the_row_of_lanes_takes_four_cycles_a_score_and_the_corrections() -> None:
    hardware = architecture(
        schedule="cascade", exponential="unit", memory_gb_per_s=FAST_MEMORY, buffer_kib=1024
    )
    program = attention_program(shape_of(10, 64, 64, 32), hardware, "a")
    # a tile of 32 x 32 on 32 lanes: 4 x 32 for the scores, 6 for the state, 64 for the mixed values; 32 at the end
    busy = dict(timing(program, hardware).busy_cycles)["vector"]
    assert busy == 10 * (4 * (4 * 32 + 5 + 64) + 2 * 32)


def test_three_phases_write_and_read_every_score_twice() -> None:
    program = UnfusedSchedule(shape_of(2, 128, 96, 32), Grid(32, 32, 32, 1 << 20), False).program("x")
    scores = 2 * 128 * 96
    for tensor in ("AV.QK", "AV.A"):
        assert moved_bytes(program, tensor, Direction.LOAD) == 2 * scores
        assert moved_bytes(program, tensor, Direction.STORE) == 2 * scores
    assert moved_bytes(program, "K", Direction.LOAD) == 2 * 2 * 96 * 32


def test_rows_kept_on_chip_leave_only_inputs_and_output() -> None:
    program = flat(128, "QK A Q K V").program("x")
    assert moved_bytes(program, "AV.QK", Direction.STORE) == 0
    assert moved_bytes(program, "K", Direction.LOAD) == 2 * 2 * 128 * 32
    # keys that are not kept come again for every 32 queries
    assert moved_bytes(flat(128, "QK A").program("x"), "K", Direction.LOAD) == 4 * 2 * 2 * 128 * 32


def test_a_tile_that_overflows_spills_the_share_that_lacks_room() -> None:
    choice = FlatChoice("head", 1, "output", "output", frozenset({"QK", "A"}), False, "besides")
    schedule = FlatSchedule(shape_of(1, 128, 128, 32), choice, Grid(32, 32, 32, 32768))
    # scores 128 x 128 once, six pieces of 32 x 32 (of Q, K, V, AV) twice, in bytes
    need = 2 * (128 * 128 + 4 * 2 * 32 * 32)
    assert schedule.need_bytes() == need
    assert schedule.spilled_fraction() == 1 - 32768 / need
    spilled = moved_bytes(schedule.program("x"), "AV.QK", Direction.STORE)
    assert spilled == pytest.approx(2 * 128 * 128 * (1 - 32768 / need), rel=1e-3)


def test_idle_pes_of_a_narrow_rank_take_their_time() -> None:
    # output stationary: values of width 32 use a quarter of 128 columns, so mixing takes 4 times the scores' cycles
    hardware = architecture(rows=128, cols=128, schedule="flat", keep_k=True, keep_v=True, keep_q=True,
                            memory_gb_per_s=FAST_MEMORY, buffer_kib=4096, query_tile=128, vector_lanes=512)  # fmt: skip
    program = attention_program(shape_of(4, 256, 256, 32), hardware, "a")
    busy = dict(timing(program, hardware).busy_cycles)["array"]
    assert busy == 4 * (2 * 2 * 32 + 2 * 256)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 3), st.integers(1, 150), st.integers(1, 150), st.sampled_from([16, 24, 64]),
    st.sampled_from(["unfused", "flat", "cascade", "phased", "interleaved"]),
    st.sampled_from(["output", "weight", "input"]), st.booleans(), st.booleans(),
)  # fmt: skip
def test_no_schedule_beats_the_array_or_moves_less_than_it_must(
    heads: int,
    queries: int,
    keys: int,
    width: int,
    schedule: str,
    stationarity: str,
    scores: bool,
    rest: bool,
) -> None:
    hardware = architecture(
        schedule=schedule, stationarity=stationarity, keep_scores=scores, keep_q=rest, keep_v=rest, keep_out=rest,
        query_tile=32,
    )  # fmt: skip
    shape = shape_of(heads, queries, keys, width)
    program = attention_program(shape, hardware, "a")
    took = timing(program, hardware)
    assert took.latency_cycles >= ceil(shape.n_macs / (32 * 32))
    counts = count_actions(program, hardware)
    assert counts.dram_read_bytes >= 2 * heads * (queries + 2 * keys) * width
    assert counts.dram_write_bytes >= 2 * heads * queries * width
    assert sum(counts.macs.values()) >= shape.n_macs


def test_a_model_runs_on_the_family_with_everything_around_its_attention() -> None:
    workload = load_workload("gpt2", phase="prefill", seq=128)
    block = next(layer.graph for layer in workload.network if layer.name == "block")
    (shape,) = attentions_of(block)
    assert (shape.n_heads, shape.n_queries, shape.n_keys, shape.key_width) == (12, 128, 128, 64)
    for schedule in ("unfused", "flat", "cascade", "phased", "interleaved"):
        report = evaluate(workload.network, Design("fused_attention", "asic7", {"schedule": schedule}))
        assert report.latency_cycles >= report.bound_cycles
        assert report.macs_computed >= report.macs


def test_an_fpga_has_no_exponentials_in_its_array() -> None:
    with pytest.raises(InputError, match="parameter 'schedule' must be one of"):
        FusedAttention().build({"schedule": "interleaved"}, device_named("u280"))


def test_scores_are_kept_with_their_weights_or_not_at_all() -> None:
    with pytest.raises(MappingError, match="kept: QK and A share their room"):
        FlatChoice("row", 64, "output", "output", frozenset({"QK"}))
    with pytest.raises(MappingError, match="query_tile must be > 0, got 0"):
        FlatChoice("row", 0, "output", "output", frozenset())
