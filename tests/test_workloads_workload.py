"""Loading a model: from a preset, a file, a folder; what a run makes of it."""

from pathlib import Path

import pytest

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Kind
from tilewright.dataflow.tensor import Role
from tilewright.workloads.count import count
from tilewright.workloads.workload import load_workload


def _macs(graph: Graph, name: str) -> int:
    return next(graph.macs(operator) for operator in graph.operators if operator.name == name)


def test_layers_of_gpt2_are_one_class() -> None:
    workload = load_workload("gpt2", seq=128)
    assert [(layer.name, layer.count) for layer in workload.network] == [
        ("embed", 1),
        ("block", 12),
        ("head", 1),
    ]


def test_the_hardware_computes_the_causal_triangle_and_the_reference_the_square() -> None:
    for lowering, pairs in (("reference", 16 * 16), ("hardware", 16 * 17 // 2)):
        block = load_workload("gpt2", seq=16, lowering=lowering).network[1].graph
        assert _macs(block, "score") == _macs(block, "mix") == pairs * 768


def test_a_decode_step_appends_one_row_to_the_cache_and_reads_all_of_it() -> None:
    block = load_workload("gpt2", phase="decode", cache=100).network[1].graph
    append = next(operator for operator in block.operators if operator.name == "append_key")
    assert append.kind is Kind.SCATTER
    assert block.n_points(append) == 768
    assert block.tensor_by_name["key_cache"].role is Role.KV_CACHE
    assert block.n_elements("key_cache") == 101 * 768
    assert _macs(block, "score") == 101 * 768


def test_the_last_token_alone_goes_through_the_head_in_hardware() -> None:
    all_tokens = load_workload("gpt2", seq=8, lowering="reference").network[-1].graph
    last_token = load_workload("gpt2", seq=8).network[-1].graph
    assert _macs(all_tokens, "lm_head") == 8 * _macs(last_token, "lm_head") == 8 * 768 * 50257


def test_a_file_and_its_folder_are_the_same_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_layer": 3}')
    for model in (tmp_path, tmp_path / "config.json"):
        assert load_workload(model).network[1].count == 3


def test_a_context_beyond_the_positions_is_refused() -> None:
    with pytest.raises(InputError, match="cache 1000 \\+ seq 25 exceed the 1024 positions"):
        load_workload("gpt2", seq=25, cache=1000)


def test_the_one_pass_form_has_the_products_of_the_three_pass_form() -> None:
    """The rescaled sums add nothing to the contractions, whatever the tail of the last tile is."""
    for lowering in ("reference", "hardware"):
        for seq in (64, 200):
            forms = [
                load_workload("gpt2", seq=seq, lowering=lowering, attention=form)
                for form in ("three_pass", "one_pass")
            ]
            flops = {count(form).flops_attention_bmm for form in forms}
            assert len(flops) == 1


def test_the_one_pass_form_of_a_window_skips_what_it_cannot_see() -> None:
    flops = {
        form: count(load_workload("mistral-7b-v0.1", seq=6000, attention=form)).flops_attention_bmm
        for form in ("three_pass", "one_pass")
    }
    assert flops["one_pass"] == flops["three_pass"]
    assert flops["three_pass"] == 2 * 2 * 32 * 4096 * (4096 * 4097 // 2 + (6000 - 4096) * 4096)


def test_one_pass_reads_the_keys_tile_by_tile_in_order() -> None:
    block = load_workload("gpt2", seq=256, attention="one_pass").network[1].graph
    serial = {operator.serial_rank for operator in block.operators if operator.group == "attention"}
    assert serial == {"n1", ""}
    assert (block.size("n1"), block.size("n0")) == (2, 128)


def test_the_decoder_of_a_model_of_sound_takes_its_tokens_under_either_name() -> None:
    by_decoder, by_seq = (load_workload("whisper-tiny", **{name: 13}) for name in ("decoder_seq", "seq"))
    assert by_decoder.network == by_seq.network
    assert by_decoder.network != load_workload("whisper-tiny", seq=14).network
