"""What a training step keeps and holds, by hand; what it computes again; its optimizer's state and traffic."""

from itertools import pairwise
from typing import Any

import pytest

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.graph import Graph
from tilewright.dataflow.operator import Kind
from tilewright.dataflow.tensor import Role
from tilewright.sim.capacity import residents_of
from tilewright.sim.design import Design
from tilewright.sim.evaluate import evaluate
from tilewright.workloads.count import Counts, count
from tilewright.workloads.workload import Workload, load_workload

_BF16 = {"weights": "bf16", "activations": "bf16", "accumulators": "fp32", "kv_cache": "bf16"}
# tiny-gpt2: 2 layers, d = 64, 4 heads, inner width 256, vocabulary 256
_B, _S, _D, _H, _V, _LAYERS = 3, 16, 64, 4, 256, 2


def _load(model: str = "tiny-gpt2", **terms: Any) -> Workload:
    terms = {"batch": _B, "seq": _S, "precision": _BF16} | terms
    return load_workload(model, phase="train", **terms)


def _kept(counts: Counts, layer: str) -> dict[str, int]:
    return {kept.tensor: kept.n_bytes for kept in counts.saved_activations if kept.layer == layer}


def test_a_block_keeps_what_its_gradients_read_and_nothing_else() -> None:
    counts = count(_load())
    rows = _B * _S
    assert _kept(counts, "block") == {
        "x": 2 * rows * _D,
        "ln_1_moments": 4 * rows,
        "ln_1_out": 2 * rows * _D,
        "attn_c_attn_out": 2 * rows * 3 * _D,
        "shares": 2 * _B * _H * _S * _S,
        "mixed": 2 * rows * _D,
        "x_mixed": 2 * rows * _D,
        "ln_2_moments": 4 * rows,
        "ln_2_out": 2 * rows * _D,
        "mlp_c_fc_out": 2 * rows * 4 * _D,
        "activated": 2 * rows * 4 * _D,
    }
    head = 2 * rows * _D + 4 * rows + 2 * rows * _D
    tokens = 4 * rows
    blocks = _LAYERS * sum(_kept(counts, "block").values())
    assert counts.saved_activation_bytes == blocks + head + tokens


def test_frozen_weights_keep_no_inputs() -> None:
    kept = _kept(count(_load(adapter="lora:r=4,targets=q")), "block")
    # c_attn's input feeds A; the inputs of the frozen c_proj, c_fc and c_proj feed nothing
    assert "ln_1_out" in kept
    assert not {"mixed", "ln_2_out", "activated"} & set(kept)
    assert kept["attn_c_attn_lora_low"] == 2 * _B * _S * 4


def test_what_passes_by_a_layer_is_kept_once() -> None:
    counts = count(load_workload("t5-small", phase="train", seq=8, decoder_seq=4))
    states = [kept for kept in counts.saved_activations if kept.tensor == "encoder_states"]
    assert [(kept.layer, kept.count) for kept in states] == [("decoder_block", 1)]


def test_recomputed_attention_keeps_no_square_and_pays_its_products_again() -> None:
    plain, again = count(_load()), count(_load(recompute="attention"))
    squares = _LAYERS * 2 * _B * _H * _S * _S
    assert plain.saved_activation_bytes - again.saved_activation_bytes == squares
    pairs = _S * (_S + 1) // 2  # masked positions are skipped
    assert again.flops_total - plain.flops_total == _LAYERS * 2 * _B * pairs * _D


def test_recomputed_layers_keep_their_inputs_alone() -> None:
    counts = count(_load(recompute="layer", lowering="reference"))
    assert _kept(counts, "block") == {"x": 2 * _B * _S * _D}
    forward = load_workload("tiny-gpt2", batch=_B, seq=_S, lowering="reference", precision=_BF16)
    (block,) = (layer.graph for layer in forward.network if layer.name == "block")
    last = next(op for op in block.operators if op.name == "mlp_c_proj")
    # all of the block again but its last product, whose result nothing reads
    again = sum(block.macs(op) for op in block.operators) - block.macs(last)
    plain = count(_load(lowering="reference"))
    assert counts.flops_total - plain.flops_total == _LAYERS * 2 * again


def test_a_recomputed_graph_makes_what_it_reads_before_it_reads_it() -> None:
    for model, sizes in (("tiny-gpt2", {}), ("mamba-130m", {"seq": 4}), ("resnet-50", {"seq": None})):
        for policy in ("layer", "attention"):
            # a graph that reads a tensor before it is made is refused when it is built
            network = _load(model, recompute=policy, **sizes).network
            assert any("backward" in layer.name for layer in network)


@pytest.mark.parametrize(
    ("optimizer", "each"),
    [("none", 0), ("sgd", 4), ("momentum", 8), ("adam", 12), ("adamw", 12)],
)
def test_an_optimizer_keeps_a_master_and_its_moments(optimizer: str, each: int) -> None:
    counts = count(_load(optimizer=optimizer))
    assert counts.optimizer_state_bytes == each * counts.params_trainable
    assert counts.gradient_bytes == 2 * counts.params_trainable


def test_moments_of_eight_bits_have_a_scale_for_each_block() -> None:
    counts = count(_load("tiny-gpt2", optimizer="adam8bit", adapter="lora:r=4,targets=q"))
    # A: 64 x 4 and B: 4 x 192 in each layer, one block of scales each, two moments, and the master
    numbers = 64 * 4 + 4 * 192
    assert counts.optimizer_state_bytes == _LAYERS * (2 * (numbers + 2 * 4) + 4 * numbers)


def test_wide_weights_need_no_master() -> None:
    counts = count(_load(precision=_BF16 | {"weights": "fp32"}))
    assert counts.optimizer_state_bytes == 8 * counts.params_trainable


def test_updates_change_no_flops_and_step_every_trained_number_once() -> None:
    for adapter in (None, "lora:r=4,targets=q"):
        plain, stepped = _load(adapter=adapter, optimizer="none"), _load(adapter=adapter)
        assert count(stepped).flops_total == count(plain).flops_total
        updates = stepped.network[len(plain.network) :]
        assert plain.network == stepped.network[: len(plain.network)]
        stepping = [
            layer.count * layer.graph.n_points(op)
            for layer in updates
            for op in layer.graph.operators
            if op.function == "adam_step"
        ]
        assert sum(stepping) == count(stepped).params_trainable
        assert all(op.kind is Kind.POINTWISE for layer in updates for op in layer.graph.operators)


def _update_traffic(optimizer: str) -> tuple[float, float]:
    """DRAM bytes read and written per trained number by the updates of a step."""
    workload = load_workload("tiny-gpt2", phase="train", seq=_S, optimizer=optimizer)
    report = evaluate(workload.network, Design("sequential", "u280", {}), workload="w", tokens=1)
    rows = [entry for entry in report.to_dict()["per_op"] if entry["layer_class"].startswith("update")]
    n = count(workload).params_trainable
    return (
        sum(row["layers"] * row["dram_read_bytes"] for row in rows) / n,
        sum(row["layers"] * row["dram_write_bytes"] for row in rows) / n,
    )


def test_the_traffic_of_an_update_is_its_state_twice_and_its_gradient() -> None:
    # 8-bit weights and gradients; the master read and written, the weight written
    assert _update_traffic("sgd") == (1 + 4, 4 + 1)
    assert _update_traffic("momentum") == (1 + 4 + 4, 4 + 4 + 1)
    read, written = _update_traffic("adamw")
    assert written == 4 + 4 + 4 + 1
    # the two moments are stepped apart: the gradient and the first one are read twice
    assert read == 2 * 1 + 4 + 4 + 4 + 4


def test_the_peak_holds_all_that_is_stored_and_what_is_kept() -> None:
    counts = count(_load())
    stored = counts.weight_bytes + counts.gradient_bytes + counts.optimizer_state_bytes
    assert counts.peak_training_bytes > stored + counts.saved_activation_bytes
    peaks = [count(_load(recompute=policy)).peak_training_bytes for policy in ("none", "attention", "layer")]
    assert all(more >= less for more, less in pairwise(peaks))


def test_a_training_step_takes_its_weights_once_and_its_states_in_memory() -> None:
    workload = _load()
    counts, held = count(workload), residents_of(workload.network)
    tied = 2 * (counts.params_with_tied_counted_twice - counts.params_total)
    assert held.weight_bytes == counts.weight_bytes + tied
    assert held.training_bytes >= counts.optimizer_state_bytes + counts.gradient_bytes
    assert held.training_bytes <= (
        counts.optimizer_state_bytes + counts.gradient_bytes + tied + counts.saved_activation_bytes
    )


def test_steps_of_a_generation_hold_the_weights_of_the_prompt_once() -> None:
    prompt = load_workload("tiny-gpt2", seq=8)
    run = load_workload("tiny-gpt2", phase="generate", seq=8, output_tokens=8)
    assert residents_of(run.network).weight_bytes == residents_of(prompt.network).weight_bytes


def test_a_loss_is_of_all_tokens() -> None:
    step = _load(lowering="hardware")
    (head,) = (layer.graph for layer in step.network if layer.name == "head")
    assert _macs(head) == _B * _S * _D * _V


def _macs(graph: Graph) -> int:
    return sum(graph.macs(op) for op in graph.operators)


def test_roles_of_an_update_tell_states_from_gradients() -> None:
    *_, update = (layer.graph for layer in _load().network if layer.name == "update_2")
    roles = {tensor.role for tensor in update.tensors}
    assert roles == {Role.WEIGHT, Role.GRADIENT, Role.OPTIMIZER}


def test_wrong_policies_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"optimizer 'adm' is unknown \(did you mean 'adam'\?\)"):
        _load(optimizer="adm")
    with pytest.raises(InputError, match="recompute 'all' is unknown; known: none, layer, attention"):
        _load(recompute="all")
    with pytest.raises(InputError, match="optimizer belongs to the phase train, got phase 'prefill'"):
        load_workload("tiny-gpt2", optimizer="sgd")
