"""Bottleneck presets: parameters and work by the published formulas, on sizes worked out by hand."""

from dataclasses import replace

import pytest

from tilewright.dataflow.errors import InputError
from tilewright.workloads.count import count
from tilewright.workloads.workload import Workload, load_workload

#: tiny-gpt2: 2 layers of width 64; 16 tokens.
_LAYERS, _WIDTH, _TOKENS = 2, 64, 16


def _load(preset: str, lowering: str = "reference", **terms: str) -> Workload:
    return load_workload("tiny-gpt2", adapter=preset, seq=_TOKENS, lowering=lowering, logits="all", **terms)


def _extra(preset: str, lowering: str = "reference") -> int:
    whole, bare = _load(preset, lowering), _load(preset, lowering, adapter_mode="none")
    return count(whole).flops_total - count(bare).flops_total


@pytest.mark.parametrize(
    ("style", "n_modules"), [("sequential", 2), ("pfeiffer", 1), ("parallel", 1), ("adaptformer", 1)]
)
def test_a_bottleneck_has_two_products_and_two_offsets(style: str, n_modules: int) -> None:
    preset = f"bottleneck:r=8,style={style}"
    assert count(_load(preset)).params_trainable == _LAYERS * n_modules * (2 * 8 * _WIDTH + 8 + _WIDTH)
    for lowering in ("reference", "hardware"):
        assert _extra(preset, lowering) == 2 * _LAYERS * n_modules * _TOKENS * 2 * 8 * _WIDTH


def test_adaptformer_on_vit_has_its_published_size() -> None:
    counts = count(load_workload("vit-base-patch16-224", adapter="bottleneck:r=64,style=adaptformer"))
    assert counts.params_trainable == 12 * 99_136


def test_a_sequential_bottleneck_stands_behind_the_offset_of_its_module() -> None:
    graph = _load("bottleneck:r=8").network[1].graph
    down = graph.producer["attn_c_proj_bottleneck_low"]
    assert down.inputs[0].tensor == "attn_c_proj_out"
    assert graph.producer["x_mixed"].inputs[1].tensor == "attn_c_proj_adapted"


def test_a_parallel_bottleneck_reads_what_the_network_reads() -> None:
    graph = _load("bottleneck:r=8,style=parallel").network[1].graph
    assert graph.producer["parallel_bottleneck_low"].inputs[0] == graph.producer["mlp_c_fc_product"].inputs[0]
    assert graph.producer["y"].inputs[1].tensor == "mlp_c_proj_adapted"


def test_compacter_shares_its_rule_and_is_factored_on_hardware() -> None:
    preset = "bottleneck:r=8,style=compacter,n=4,q=2"
    matrix = 2 * (8 + _WIDTH)  # s_i and t_i of rank 2, of both widths
    shared = 4**3
    trained = _LAYERS * 2 * (2 * matrix + 8 + _WIDTH) + shared
    assert count(_load(preset)).params_trainable == trained
    made = 2 * (4 * (8 // 4) * (_WIDTH // 4) * 2 + 4 * 8 * _WIDTH)
    assert _extra(preset) == 2 * _LAYERS * 2 * (made + _TOKENS * 2 * 8 * _WIDTH)
    factored = 2 * 4 * 2 * (_WIDTH + 8 + 4 * 4)
    assert _extra(preset, "hardware") == 2 * _LAYERS * 2 * _TOKENS * factored


def test_bottlenecks_are_trained_through() -> None:
    step = load_workload("tiny-gpt2", adapter="bottleneck:r=8,layers=1", phase="train", seq=4)
    names = {operator.name for layer in step.network for operator in layer.graph.operators}
    assert "mlp_c_proj_bottleneck_up_backward_1" in names
    assert [layer.name for layer in step.network].count("embed_backward") == 0


def test_an_invertible_bottleneck_couples_halves_at_both_ends() -> None:
    preset, half, rank = "bottleneck:style=invertible", _WIDTH // 2, _WIDTH // 4
    matrix = half * rank
    assert count(_load(preset)).params_trainable == 2 * (2 * matrix + rank + half)  # F and G, once
    for lowering in ("reference", "hardware"):
        assert _extra(preset, lowering) == 2 * 2 * (2 * _TOKENS * 2 * matrix)  # F and G, in and out
    way_in, way_out = (_load(preset).network[place].graph for place in (0, -1))
    assert way_in.producer["invertible_f_moved"].function == "add"
    assert way_out.producer["lm_head_product"].inputs[0].tensor == "invertible_f_moved"
    assert way_out.producer["invertible_f_moved"].function == "sub"


def test_an_invertible_bottleneck_is_trained_down_to_the_table() -> None:
    preset, matrix = "bottleneck:style=invertible", _WIDTH // 2 * (_WIDTH // 4)
    step = load_workload(
        "tiny-gpt2", adapter=preset, phase="train", seq=_TOKENS, logits="all", optimizer="none"
    )
    macs = {
        layer.name: sum(o.macs for o in count(replace(step, network=(layer,))).ops if "invertible" in o.name)
        for layer in step.network
    }
    # each matrix has a gradient; what F reads comes from the frozen table
    assert macs["embed_backward"] == (4 + 3) * _TOKENS * matrix
    assert macs["head_backward"] == (4 + 4) * _TOKENS * matrix


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("bottleneck:r=8,style=serial", "style: input should be 'sequential'"),
        ("bottleneck:alpha=8", "'alpha=8' is not key=value; keys: r, style"),
        ("bottleneck:r=6,style=compacter", "n 4 does not divide the 6 numbers"),
        ("bottlneck:r=6", "did you mean 'bottleneck'"),
        ("bottleneck:style=invertible,layers=1", "an invertible bottleneck is in no layer"),
    ],
)
def test_a_wrong_preset_is_refused(preset: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _load(preset)
