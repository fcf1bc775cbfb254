"""The engine on small programs whose timing is worked out by hand."""

import pytest

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.program import (
    Buffer,
    Compute,
    Direction,
    Limit,
    Loop,
    Nest,
    Port,
    Program,
    Stage,
    Transfer,
    Unit,
    VectorWork,
)
from tilewright.dataflow.tensor import Role, Tensor
from tilewright.sim.architecture import (
    Architecture,
    BufferMemory,
    Dma,
    Dram,
    MatrixArray,
    VectorUnit,
)
from tilewright.sim.engine import EngineError, FixedBandwidth, Timing, compile_program, run

TENSOR = Tensor("x", ("m", "k"), "int8", Role.ACTIVATION)


def machine(channels: int = 1, array_clock_mhz: float | None = None) -> Architecture:
    """A 4 x 4 array, 4 lanes, two DMAs that start at once and move 16 bytes a cycle, wide memories."""
    return Architecture(
        "machine",
        "u280",
        200.0,
        (
            MatrixArray("pe_array", 4, 4, "output", (8, 8), 32, clock_mhz=array_clock_mhz),
            VectorUnit("lanes", 4, 32, (("exp", 3),), startup_cycles=2),
            Dma("reader", channels, 16, 64, 1024, setup_cycles=0),
            Dma("writer", 1, 16, 64, 1024, setup_cycles=0),
            BufferMemory("sram", 1 << 20, 16, 4096, "sram"),
            Dram("hbm", "hbm2", 1),
        ),
        (
            ("array", "pe_array"),
            ("vector", "lanes"),
            ("dma_in", "reader"),
            ("dma_out", "writer"),
            ("buffer", "sram"),
            ("dram", "hbm"),
        ),
    )


def buffer(name: str, copies: int = 2) -> Buffer:
    return Buffer(name, "buffer", 64, copies, 8)


def port(name: str, depth: int) -> Port:
    return Port(name, depth, (("m", 4), ("k", 4)))


def load(
    name: str, loops: tuple[Loop, ...], to: Port, n_bytes: int = 64, after: tuple[str, ...] = ()
) -> Nest:
    tile = (("m", n_bytes // 4), ("k", 4))
    return Nest(
        name, "dma_in", loops, Transfer(Direction.LOAD, "x", tile, 8, n_bytes), writes=(to,), after=after
    )


def store(name: str, loops: tuple[Loop, ...], source: Port, n_bytes: int = 64) -> Nest:
    tile = (("m", n_bytes // 4), ("k", 4))
    return Nest(name, "dma_out", loops, Transfer(Direction.STORE, "x", tile, 8, n_bytes), reads=(source,))


def work(
    name: str,
    loops: tuple[Loop, ...],
    points: int,
    reads: tuple[Port, ...] = (),
    writes: tuple[Port, ...] = (),
    after: tuple[str, ...] = (),
    rank: str = "m",
) -> Nest:
    """A vector nest whose leaf takes 2 + ceil(points / 4) cycles."""
    leaf = Compute(Unit.VECTOR, ("op",), ((rank, points),), functions=(VectorWork("add", ()),))
    return Nest(name, "vector", loops, leaf, reads, writes, after)


def program(buffers: tuple[Buffer, ...], *stages: tuple[Nest, ...]) -> Program:
    return Program(
        "p", (TENSOR,), buffers, tuple(Stage(f"s{i}", (), nests) for i, nests in enumerate(stages))
    )


def timing(
    made: Program, memory: FixedBandwidth | None = None, machine_: Architecture | None = None
) -> Timing:
    return run(compile_program(made, machine_ or machine(), memory or FixedBandwidth(16, 0)))


def times(result: Timing) -> dict[str, tuple[int, int]]:
    return {nest.name: (nest.start_cycle, nest.end_cycle) for nest in result.nests}


M4 = (Loop("m", 16, 4),)


def load_and_work(copies: int = 2) -> Program:
    """Four tiles of 64 bytes, loaded in 4 cycles each and worked on in 2 + 6."""
    reader = work("w", M4, 24, (port("b", 1),), rank="x")
    return program((buffer("b", copies),), (load("l", M4, port("b", 1)), reader))


def test_double_buffering_hides_the_shorter_of_load_and_work() -> None:
    # A load takes 4 cycles, a leaf of 24 points 2 + 6 = 8: one load stands out, then the lanes never wait.
    made = program(
        (buffer("b"),), (load("l", M4, port("b", 1)), work("w", M4, 24, (port("b", 1),), rank="x"))
    )
    result = timing(made)
    assert result.latency_cycles == 4 + 4 * 8
    assert dict(result.busy_cycles) == {"reader": 16, "lanes": 32, "hbm": 16}


def test_a_single_buffer_makes_load_and_work_take_turns() -> None:
    made = program(
        (buffer("b", 1),), (load("l", M4, port("b", 1)), work("w", M4, 24, (port("b", 1),), rank="x"))
    )
    assert timing(made).latency_cycles == 4 * (4 + 8)


def test_a_tile_taken_at_an_outer_loop_serves_all_inner_leaves() -> None:
    # One token for 4 leaves of 3 cycles: the second load ends at 8, before the first token is given back.
    loops = (Loop("m", 8, 4), Loop("n", 4, 1))
    made = program(
        (buffer("b", 1),),
        (load("l", loops[:1], port("b", 1)), work("w", loops, 4, (port("b", 1),), rank="x")),
    )
    assert timing(made).latency_cycles == 2 * (4 + 4 * 3)


def test_a_port_at_depth_zero_takes_one_token_for_the_whole_nest() -> None:
    made = program(
        (buffer("b", 1),), (load("l", (), port("b", 0)), work("w", M4, 24, (port("b", 0),), rank="x"))
    )
    assert timing(made).latency_cycles == 4 + 4 * 8


def test_a_remainder_tile_is_cheaper() -> None:
    # 10 points in tiles of 4 on 4 lanes: 3 leaves of 2 + 1; in tiles of 8: 2 + 2, then 2 points 2 + 1.
    assert timing(program((), (work("w", (Loop("m", 10, 4),), 4),))).latency_cycles == 9
    assert timing(program((), (work("w", (Loop("m", 10, 8),), 8),))).latency_cycles == 7


def test_a_triangular_loop_visits_only_tiles_up_to_the_diagonal() -> None:
    loops = (Loop("m", 16, 4), Loop("n", 16, 4, Limit("m", 0)))
    assert timing(program((), (work("w", loops, 4, rank="x"),))).latency_cycles == (1 + 2 + 3 + 4) * 3


def test_every_reader_of_a_stage_sees_every_token_and_the_slowest_frees_it() -> None:
    # The loader (4 a tile) feeds a store (4 a tile) and the lanes (8 a tile) through one copy.
    made = program(
        (buffer("b", 1),),
        (
            load("l", M4, port("b", 1)),
            work("w", M4, 24, (port("b", 1),), rank="x"),
            store("s", M4, port("b", 1)),
        ),
    )
    assert timing(made).latency_cycles == 4 * (4 + 8)


def test_readers_of_a_later_stage_take_the_tokens_that_follow() -> None:
    made = program(
        (buffer("b"),),
        (load("l0", M4, port("b", 1)), work("w0", M4, 24, (port("b", 1),), rank="x")),
        (load("l1", M4, port("b", 1)), work("w1", M4, 24, (port("b", 1),), rank="x")),
    )
    result = timing(made)
    # The later loader runs ahead into free copies, so the lanes never wait between the stages.
    assert result.latency_cycles == 4 + 8 * 8
    assert times(result)["w1"][0] == times(result)["w0"][1] == 36
    assert times(result)["l1"][0] == times(result)["l0"][1]


def test_nests_wait_for_those_named_in_after() -> None:
    made = program((), (work("a", M4, 4, rank="x"),), (work("b", M4, 4, after=("a",), rank="x"),))
    assert times(timing(made)) == {"a": (0, 12), "b": (12, 24)}


def test_a_component_serves_its_slots_first_come_first_served_ties_by_program_order() -> None:
    # Both are ready at 0: the earlier nest goes first, then they alternate.
    made = program((), (work("a", M4, 4, rank="x"), work("b", M4, 8, rank="x")))
    assert times(timing(made)) == {"a": (0, 3 * 4 + 4 * 3), "b": (0, 28)}


def test_transfers_share_the_dram_and_hold_their_channel_while_they_wait() -> None:
    # Two loaders on two channels, 64 bytes at 8 bytes a cycle: 8 cycles each, one after another on the DRAM.
    made = program(
        (buffer("b", 9), buffer("c", 9)),
        (load("l", M4, port("b", 1)), load("r", M4, port("c", 1))),
        (work("w", M4, 4, (port("b", 1), port("c", 1)), rank="x"),),
    )
    result = timing(made, FixedBandwidth(8, 5), machine(channels=2))
    # 8 services back to back; each channel adds the latency of 5 before it asks again, which the other hides.
    assert dict(result.busy_cycles)["hbm"] == 64
    assert times(result)["l"][1] == 13 + 3 * 16
    assert times(result)["r"][1] == 21 + 3 * 16


def test_a_slower_clock_of_a_component_stretches_its_leaves() -> None:
    leaf = Compute(Unit.MATRIX, ("op",), (("m", 4), ("n", 4), ("k", 3)), ("m",), ("n",), ("k",))
    made = program((), (Nest("g", "array", (Loop("m", 8, 4),), leaf),))
    assert timing(made).latency_cycles == 2 * (3 + 3 * 4)  # K + 3N
    assert (
        timing(made, machine_=machine(array_clock_mhz=150.0)).latency_cycles == 2 * 20
    )  # ceil(15 * 200 / 150)


def test_narrow_memory_ports_slow_a_leaf_down() -> None:
    narrow = machine()
    parts = tuple(
        BufferMemory("sram", 1 << 20, 1, 8, "sram") if part.name == "sram" else part
        for part in narrow.components
    )
    # 16 elements of 8 bits through 8 bits a cycle: 16 cycles instead of 2 + 6.
    made = program(
        (buffer("b"),), (load("l", (), port("b", 0)), work("w", (), 24, (port("b", 0),), rank="x"))
    )
    result = timing(made, machine_=Architecture("n", "u280", 200.0, parts, narrow.slots))
    assert times(result)["w"][1] - times(result)["l"][1] == 16


def test_a_cycle_of_buffers_is_a_deadlock_that_names_nests_and_buffers() -> None:
    made = program(
        (buffer("b"), buffer("c")),
        (
            work("w", M4, 4, (port("b", 1),), (port("c", 1),), rank="x"),
            work("v", M4, 4, (port("c", 1),), (port("b", 1),), rank="x"),
        ),
    )
    with pytest.raises(
        EngineError, match="deadlock at cycle 0: nest 'w' waits for a tile in buffer 'b'; nest 'v'"
    ):
        timing(made)


def test_a_full_buffer_that_nobody_drains_is_a_deadlock() -> None:
    made = program((buffer("b"),), (load("l", M4, port("b", 1)),))
    with pytest.raises(EngineError, match="nest 'l' waits for a free copy of buffer 'b'"):
        timing(made)


def test_tiles_left_over_are_an_error() -> None:
    made = program(
        (buffer("b", 9),), (load("l", M4, port("b", 1)), work("w", M4[:0], 4, (port("b", 0),), rank="x"))
    )
    with pytest.raises(EngineError, match="buffer 'b': 4 tiles are written, 1 are taken"):
        timing(made)


def test_readers_of_a_stage_that_take_different_numbers_of_tiles_are_an_error() -> None:
    made = program(
        (buffer("b", 9),),
        (
            load("l", (), port("b", 0)),
            load("k", (), port("b", 0)),
            work("w", (), 4, (port("b", 0),), rank="x"),
            work("v", (Loop("m", 8, 4),), 4, (port("b", 1),), rank="x"),
        ),
        (work("u", (), 4, (port("b", 0),), rank="x"),),
    )
    with pytest.raises(EngineError, match="nest 'v' takes more tiles of buffer 'b'"):
        timing(made)


def test_nests_that_wait_for_each_other_are_named() -> None:
    made = program((), (work("a", M4, 4, after=("b",)), work("b", M4, 4, after=("a",))))
    with pytest.raises(EngineError, match="deadlock at cycle 0: nest 'a' waits for nests that never finish"):
        timing(made)


def test_a_nest_that_reads_what_it_writes_is_refused() -> None:
    made = program((buffer("b"),), (work("w", M4, 4, (port("b", 1),), (port("b", 1),)),))
    with pytest.raises(EngineError, match="nest 'w' both reads and writes buffer 'b'"):
        timing(made)


def test_an_unbound_slot_is_wrong_input_with_the_nearest_name() -> None:
    leaf = Compute(Unit.VECTOR, ("op",), (("m", 4),), functions=(VectorWork("add", ()),))
    with pytest.raises(
        InputError, match=r"nest 'w': slot 'vectr' is not bound .* \(did you mean 'vector'\?\)"
    ):
        timing(program((), (Nest("w", "vectr", M4, leaf),)))


def test_a_slot_bound_to_the_wrong_kind_is_wrong_input() -> None:
    leaf = Compute(Unit.VECTOR, ("op",), (("m", 4),), functions=(VectorWork("add", ()),))
    with pytest.raises(
        InputError, match="slot 'array' must be bound to a VectorUnit, it is bound to 'pe_array'"
    ):
        timing(program((), (Nest("w", "array", M4, leaf),)))


def test_the_stage_names_the_component_with_most_to_do() -> None:
    made = program(
        (buffer("b"),), (load("l", M4, port("b", 1)), work("w", M4, 24, (port("b", 1),), rank="x"))
    )
    assert [(stage.name, stage.bottleneck) for stage in timing(made).stages] == [("s0", "lanes")]
    slow = timing(made, FixedBandwidth(4, 0))
    assert [(stage.name, stage.bottleneck) for stage in slow.stages] == [("s0", "hbm")]
    assert slow.latency_cycles == 4 * 16 + 8
