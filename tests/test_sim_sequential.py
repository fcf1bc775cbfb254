"""The family sequential: its space, its hardware, and the programs of its policy."""

from dataclasses import replace

import pytest

from tests.sequential_cases import architecture, block_of, gemm_graph, small_network
from tilewright.dataflow.errors import InputError
from tilewright.dataflow.program import Compute, Program, Transfer, Unit
from tilewright.sim.actions import count_actions
from tilewright.sim.architecture import Architecture, BufferMemory, Dma, Dram, MatrixArray
from tilewright.sim.device import device_named
from tilewright.sim.evaluate import run_layer
from tilewright.sim.mapping import MappingError
from tilewright.sim.sequential import Sequential


def schedule(
    graph_of: str = "prefill", mode: str = "none", **parameters: int | float | str | bool
) -> Program:
    graph = block_of(small_network(graph_of, mode))
    return Sequential().schedule(graph, architecture(**parameters))


def test_only_fpgas_pack_two_products_into_a_multiplier() -> None:
    def precisions(device: str) -> tuple[object, ...]:
        space = Sequential().space(device_named(device))
        return next(one.values for one in space.parameters if one.name == "precision")

    assert "packed_int8" in precisions("u280")
    assert "packed_int8" not in precisions("asic7")


def test_ordered_values_ascend_and_hold_the_default() -> None:
    for device in ("u280", "zcu104", "asic45"):
        for parameter in Sequential().space(device_named(device)).parameters:
            assert parameter.default in parameter.values
            if parameter.ordered:
                assert list(parameter.values) == sorted(set(parameter.values))


def test_a_space_offers_no_more_memory_channels_than_the_device_has() -> None:
    space = Sequential().space(device_named("zcu104"))
    assert next(one.values for one in space.parameters if one.name == "hbm_channels") == (1,)


def test_the_hardware_is_what_the_parameters_say() -> None:
    built = architecture(rows=8, cols=16, arrays=2, precision="packed_int8", weight_buffer_kib=64, banks=4)
    (array,) = built.of_kind(MatrixArray)
    assert (array.rows, array.cols, array.count, array.arithmetic) == (8, 16, 2, "packed_mac")
    assert array.macs_per_cycle == 256
    weights = built.component_by_slot["weight_buffer"]
    assert isinstance(weights, BufferMemory)
    assert (weights.capacity_bytes, weights.banks) == (65536, 4)


def test_a_small_bank_is_block_ram_and_a_large_one_ultra_ram() -> None:
    built = architecture(input_buffer_kib=64, weight_buffer_kib=1024, banks=32)
    kinds = {memory.name: memory.kind for memory in built.of_kind(BufferMemory)}
    assert kinds["input_buffer"] == "bram"  # 2 KiB a bank
    assert kinds["weight_buffer"] == "uram"  # 32 KiB a bank, one block


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"rows": 0}, "'rows' must be in 4..128, got 0"),
        ({"rows": 8.5}, "'rows' must be in 4..128, got 8.5"),
        ({"stationarity": "outputs"}, "'stationarity' must be one of"),
        ({"fusion": 1}, "'fusion' must be one of"),
        ({"hbm_channels": 64}, "'hbm_channels' must be in 1..32, got 64"),
        ({"clock_mhz": 900.0}, "'clock_mhz' must be in 100.0..300.0, got 900.0"),
        ({"row": 8}, "did you mean 'rows'"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(parameters: dict[str, float], named: str) -> None:
    with pytest.raises(InputError) as error:
        architecture(**parameters)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_a_product_runs_every_multiply_accumulate_once() -> None:
    graph = gemm_graph(100, 70, 33)
    for objective in ("latency", "energy", "edp"):
        built = architecture(rows=8, cols=16)
        program = Sequential().schedule(graph, built, objective)
        assert count_actions(program, built).n_macs == 100 * 70 * 33


def test_a_product_that_fits_on_chip_moves_compulsory_traffic_only() -> None:
    graph = gemm_graph(64, 96, 128)
    counts = count_actions(Sequential().schedule(graph, architecture()), architecture())
    assert counts.dram_read_bytes == 64 * 128 + 128 * 96
    assert counts.dram_write_bytes == 64 * 96


def test_every_buffer_fits_in_its_memory() -> None:
    for parameters in ({}, {"prefetch_depth": 4}, {"output_buffer_kib": 16}, {"weight_buffer_kib": 16}):
        built = architecture(**parameters)
        for phase in ("prefill", "decode"):
            program = Sequential().schedule(block_of(small_network(phase, "unmerged")), built)
            used: dict[str, int] = {}
            for buffer in program.buffers:
                used[buffer.slot] = used.get(buffer.slot, 0) + buffer.slot_bytes * buffer.copies
            for slot, n_bytes in used.items():
                memory = built.component_by_slot[slot]
                assert isinstance(memory, BufferMemory)
                assert n_bytes <= memory.capacity_bytes


def test_every_operator_is_computed_by_one_stage_or_folded_into_a_store() -> None:
    graph = block_of(small_network("decode", "unmerged"))
    for fusion in (False, True):
        program = Sequential().schedule(graph, architecture(fusion=fusion))
        staged = [name for stage in program.stages for name in stage.operators]
        assert len(staged) == len(set(staged))
        left = {operator.name for operator in graph.operators} - set(staged)
        # rows that a product's store puts into the cache need no stage
        assert left == ({"append_key", "append_value"} if fusion else set())


def test_fused_attention_keeps_scores_out_of_dram() -> None:
    moved = {
        leaf.tensor
        for nest in schedule().nests
        if isinstance(leaf := nest.leaf, Transfer)
    }  # fmt: skip
    assert moved.isdisjoint({"scores", "maxima", "exponents", "sums", "shares"})
    apart = schedule(fusion=False)
    assert {"scores", "shares"} <= {n.leaf.tensor for n in apart.nests if isinstance(n.leaf, Transfer)}


def test_fusion_moves_less_and_is_not_slower() -> None:
    graph = block_of(small_network("prefill", "unmerged"))
    fused, apart = (run_layer(graph, architecture(fusion=fusion)) for fusion in (True, False))
    assert fused.counts.dram_read_bytes < apart.counts.dram_read_bytes
    assert fused.counts.dram_write_bytes < apart.counts.dram_write_bytes
    assert fused.timing.latency_cycles <= apart.timing.latency_cycles


def test_a_causal_mask_skips_tiles_but_no_point() -> None:
    network = small_network("prefill", seq=256)
    graph = block_of(network)
    built = architecture(rows=8, cols=8)
    score = next(operator for operator in graph.operators if operator.name == "score")
    exact, square = graph.n_points(score), 4 * 256 * 256 * 16
    for fusion in (True, False):
        program = Sequential().schedule(graph, replace_parameters(built, fusion=fusion))
        (product,) = (
            nest for nest in count_actions(program, built).nests
            if nest.macs and nest.nest in ("score_mix_score", "score_gemm")
        )  # fmt: skip
        assert exact <= product.macs < square


def replace_parameters(built: Architecture, **changed: bool) -> Architecture:
    """The same hardware with other choices of the family noted in it."""
    return replace(built, parameters=tuple((dict(built.parameters) | changed).items()))


def test_a_low_rank_path_goes_on_from_the_products_tile() -> None:
    nests = {nest.name: nest for nest in schedule(mode="unmerged").nests}
    product, down, up = (nests[f"attn_c_proj_{part}"] for part in ("gemm", "lora_down", "lora_up"))
    shared = {port.buffer for port in product.reads} & {port.buffer for port in down.reads}
    assert shared == {"input"}
    assert up.reads[2].buffer == product.writes[0].buffer
    assert {port.buffer for port in up.reads} & {port.buffer for port in down.writes}
    assert product.slot == down.slot == up.slot == "array"


def test_maps_ride_on_the_product_when_fused() -> None:
    program = schedule()
    stage = next(one for one in program.stages if one.name == "mlp_c_fc")
    assert len(stage.operators) == 3  # product, bias, activation
    (vector,) = (nest for nest in stage.nests if nest.slot == "vector")
    assert isinstance(vector.leaf, Compute)
    assert [work.function for work in vector.leaf.functions] == ["add", "gelu_new", "requantize"]


def test_operands_wider_than_the_array_are_refused() -> None:
    graph = gemm_graph(16, 16, 16)
    wide = replace(
        graph, tensors=tuple(replace(t, dtype="int16") if t.name == "b" else t for t in graph.tensors)
    )
    with pytest.raises(MappingError, match="'b' has 16 bits, the array takes 8 as weights"):
        Sequential().schedule(wide, architecture())
    Sequential().schedule(wide, architecture(precision="int16"))


def test_a_declared_architecture_is_scheduled_too() -> None:
    """No template built it: other component names, one memory behind all three slots, no parameters."""
    built = architecture()
    array, vector = built.component_by_slot["array"], built.component_by_slot["vector"]
    memory = BufferMemory("scratchpad", 1 << 20, 64, 128, "sram")
    declared = Architecture(
        "mine",
        "asic7",
        1000.0,
        (array, vector, memory, Dma("mover", 4, 64, 256, 16), Dram("hbm", "hbm2_pc_bg", 8)),
        (
            ("array", "array"),
            ("vector", "vector"),
            ("input_buffer", "scratchpad"),
            ("weight_buffer", "scratchpad"),
            ("output_buffer", "scratchpad"),
            ("dma_in", "mover"),
            ("dma_out", "mover"),
        ),
    )
    run = run_layer(block_of(small_network()), declared)
    assert run.timing.latency_cycles > 0
    assert sum(buffer.slot_bytes * buffer.copies for buffer in run.program.buffers) <= 1 << 20


def test_a_missing_slot_is_named() -> None:
    built = architecture()
    without = replace(built, slots=tuple(slot for slot in built.slots if slot[0] != "vector"))
    with pytest.raises(InputError, match="binds no component to slot 'vector'"):
        Sequential().schedule(gemm_graph(8, 8, 8), without)


def test_matrix_and_vector_leaves_stand_on_their_own_units() -> None:
    for nest in schedule("decode", "unmerged").nests:
        if isinstance(nest.leaf, Compute):
            assert nest.slot == ("array" if nest.leaf.unit is Unit.MATRIX else "vector")
        else:
            assert nest.slot in ("dma_in", "dma_out")
