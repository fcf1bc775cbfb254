"""The family dataflow: what flows where, against figures by hand; deadlocks and buffers that do not fit."""

from math import ceil

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.sequential_cases import gemm_network, small_network
from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.program import Direction, Program, Transfer
from tilewright.sim.architecture import Architecture, MatrixArray
from tilewright.sim.area import area_of
from tilewright.sim.design import Design
from tilewright.sim.device import device_named
from tilewright.sim.evaluate import evaluate, run_layer
from tilewright.sim.mapping import MappingError
from tilewright.sim.spatial_family import Dataflow

U280 = device_named("u280")


def architecture(**stated: object) -> Architecture:
    return Dataflow().build(stated, U280)  # type: ignore[arg-type]


def block(phase: str = "prefill", mode: str = "none", seq: int = 48) -> Graph:
    return next(layer.graph for layer in small_network(phase, mode, seq) if layer.name == "block")


def loads(program: Program) -> dict[str, int]:
    """Bytes read by tensor, last tiles left whole."""
    found: dict[str, int] = {}
    for nest in program.nests:
        if isinstance(nest.leaf, Transfer) and nest.leaf.direction is Direction.LOAD:
            elements = 1
            for _, size in nest.leaf.tile:
                elements *= size
            tensor = nest.leaf.tensor
            found[tensor] = found.get(tensor, 0) + nest.n_leaves * elements * nest.leaf.element_bits // 8
    return found


def test_what_one_stage_gives_another_never_touches_memory() -> None:
    graph = block()
    program = Dataflow().schedule(graph, architecture(block_rows=16))
    moved = {nest.leaf.tensor for nest in program.nests if isinstance(nest.leaf, Transfer)}
    assert moved <= {*graph.inputs, *graph.outputs}
    assert [stage.name for stage in program.stages][:3] == ["ln_1", "attn_c_attn", "score"]


def test_weights_that_fit_are_read_once_and_others_for_every_block() -> None:
    graph = block()
    weight = "mlp_c_fc_weight"
    n_bytes = graph.n_bytes(weight)
    roomy = Dataflow().schedule(graph, architecture(block_rows=16, weight_buffer_kib=1024))
    assert loads(roomy)[weight] == n_bytes
    # 3 blocks of 16 rows; 64 KiB hold two tiles of 64 columns of each product, and not all weights beside them.
    tight = loads(
        Dataflow().schedule(graph, architecture(block_rows=16, weight_buffer_kib=64, linear_cols=64))
    )
    times = {name: tight[name] / graph.n_bytes(name) for name in tight if name.endswith("weight")}
    assert times[weight] == 3
    assert set(times.values()) == {1, 3}


def test_keys_and_values_are_whole_arrays_and_queries_wait_in_full() -> None:
    graph = block()
    program = Dataflow().schedule(graph, architecture(block_rows=16, stream_depth=2))
    copies = {one.name: one.copies for one in program.buffers}
    assert copies[_named(program, "score.b")] == 1
    assert copies[_named(program, "score.a")] == 3  # every block: the keys are complete after the last one
    assert copies[_named(program, "mlp_c_proj.a")] == 2


def _named(program: Program, taker: str) -> str:
    return next(one.name for one in program.buffers if one.name.endswith(f" to {taker}"))


def test_a_stream_around_an_array_that_is_too_shallow_is_named_before_simulation() -> None:
    with pytest.raises(InputError) as raised:
        Dataflow().schedule(block(), architecture(block_rows=16, stream_depth=2, deepen=False))
    line = str(raised.value)
    assert "a link is too shallow" in line
    assert "'attn_c_attn' waits for room in" in line
    assert "'score' waits for" in line
    assert "\n" not in line
    # Deep enough for all three blocks, the same pipeline runs.
    hardware = architecture(block_rows=16, stream_depth=3, deepen=False)
    assert run_layer(block(), hardware, "dataflow").timing.latency_cycles > 0


def test_buffers_that_do_not_fit_name_the_stage_the_limit_and_the_value() -> None:
    graph = block(seq=1000)
    with pytest.raises(
        MappingError, match=r"input_buffer holds 65536 bytes, the pipeline needs \d+; .* of stage"
    ):
        Dataflow().schedule(graph, architecture(input_buffer_kib=64))


def test_stages_overlap_and_the_interval_is_that_of_the_busiest() -> None:
    report = evaluate(small_network("prefill", "none", 200), Design("dataflow", "u280", {"block_rows": 8}))
    block_stages = [one for one in report.operators if one.layer_class == "block"]
    busy = sum(one.end_cycle - one.start_cycle for one in block_stages)
    assert busy > max(one.end_cycle for one in block_stages)
    assert report.interval_cycles is not None
    assert 0 < report.interval_cycles <= report.latency_cycles
    assert report.to_dict()["interval_cycles"] == report.interval_cycles
    sequential = evaluate(small_network("prefill", "none", 200), Design("sequential", "u280"))
    assert "interval_cycles" not in sequential.to_dict()


def test_smaller_blocks_fill_the_pipeline_sooner() -> None:
    graph = block(seq=256)
    cycles = [
        run_layer(graph, architecture(block_rows=rows, linear_arrays=4), "dataflow").timing.latency_cycles
        for rows in (128, 32)
    ]
    assert cycles[1] < cycles[0]


def test_a_product_alone_takes_its_folds() -> None:
    (layer,) = gemm_network(64, 128, 256)
    run = run_layer(layer.graph, architecture(linear_rows=8, linear_cols=16, block_rows=64), "dataflow")
    busy = dict(run.timing.busy_cycles)["array"]
    assert busy >= ceil(64 / 8) * ceil(128 / 16) * 256
    assert busy <= 1.2 * ceil(64 / 8) * ceil(128 / 16) * 256


def test_resources_are_summed_over_all_stages() -> None:
    one, four = (
        area_of(architecture(linear_arrays=n, linear_rows=8, linear_cols=16), U280).dsp for n in (1, 4)
    )
    assert one is not None
    assert four is not None
    assert four - one == 3 * 8 * 16  # a DSP for each int8 PE
    arrays = architecture(linear_arrays=3, attention_arrays=2).of_kind(MatrixArray)
    assert [array.name for array in arrays] == [
        "array", "array_1", "array_2", "attention_array", "attention_array_1"
    ]  # fmt: skip


def test_a_decoding_step_reads_its_cache_after_the_new_row_is_there() -> None:
    graph = block("decode")
    program = Dataflow().schedule(graph, architecture())
    key_load = next(
        nest for nest in program.nests
        if isinstance(nest.leaf, Transfer) and nest.leaf.direction is Direction.LOAD and nest.leaf.tensor == "key_cache"
    )  # fmt: skip
    assert key_load.after == ("key_cache.store",)
    assert loads(program)["key_cache"] >= graph.n_bytes("key_cache")


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_the_laws_hold_over_the_space_of_the_family(data: st.DataObject) -> None:
    device = data.draw(st.sampled_from(("u280", "asic7")))
    space = Dataflow().space(device_named(device))
    parameters = {one.name: data.draw(st.sampled_from(one.values)) for one in space.parameters}
    phase, mode, seq = data.draw(
        st.sampled_from((("prefill", "none", 48), ("prefill", "unmerged", 100), ("decode", "unmerged", 1)))
    )
    design = Design("dataflow", device, parameters)
    try:
        report = evaluate(small_network(phase, mode, seq), design)
    except InputError as error:
        if not any(said in str(error) for said in ("does not fit", "the pipeline needs")):
            raise
        assume(False)
        raise
    bound = evaluate(small_network(phase, mode, seq), design, fidelity="bound")
    assert report.interval_cycles is not None
    assert bound.latency_cycles <= report.latency_cycles
    assert report.interval_cycles <= report.latency_cycles
    assert bound.energy_pj <= report.energy_pj
    assert bound.dram_read_bytes <= report.dram_read_bytes
    assert bound.dram_write_bytes <= report.dram_write_bytes
    assert report.macs <= report.macs_computed
