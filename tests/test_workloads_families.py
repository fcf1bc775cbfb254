"""What each family's file describes, on small models whose sizes are worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from tilewright.dataflow.errors import InputError
from tilewright.workloads.count import Counts, count
from tilewright.workloads.families import family_of, model_types
from tilewright.workloads.workload import Workload, load_workload

#: 2 layers, width 16, 4 heads of 4, 2 heads of keys and values, inner width 24, 10 tokens known.
_ROTARY = {
    "vocab_size": 10, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
}  # fmt: skip
_ATTENTION = 16 * 16 + 2 * 16 * 8 + 16 * 16
_GATED = 3 * 16 * 24


def _load(folder: Path, model_type: str, fields: dict[str, Any], **terms: Any) -> Workload:
    file = folder / "config.json"
    file.write_text(json.dumps({"model_type": model_type, **fields}))
    return load_workload(file, lowering="reference", **terms)


def _count(folder: Path, model_type: str, fields: dict[str, Any], **terms: Any) -> Counts:
    return count(_load(folder, model_type, fields, **terms))


@pytest.mark.parametrize(
    ("model_type", "extra", "per_layer", "rest"),
    [
        ("llama", {}, _ATTENTION + _GATED + 32, 160 + 160 + 16),
        ("llama", {"attention_bias": True, "mlp_bias": True}, _ATTENTION + _GATED + 32 + 48 + 64, 336),
        ("llama", {"tie_word_embeddings": True}, _ATTENTION + _GATED + 32, 160 + 16),
        ("mistral", {}, _ATTENTION + _GATED + 32, 336),
        ("qwen2", {}, _ATTENTION + _GATED + 32 + 32, 336),
        ("qwen3", {}, _ATTENTION + _GATED + 32 + 8, 336),
        ("gemma", {}, _ATTENTION + _GATED + 32, 160 + 16),
        ("phi", {}, _ATTENTION + 48 + 2 * 16 * 24 + 24 + 16 + 32, 160 + 160 + 10 + 32),
    ],
)
def test_parameters_are_those_of_the_modules(
    tmp_path: Path, model_type: str, extra: dict[str, Any], per_layer: int, rest: int
) -> None:
    assert _count(tmp_path, model_type, _ROTARY | extra).params_total == 2 * per_layer + rest


def test_shared_keys_shrink_the_cache_and_not_the_products(tmp_path: Path) -> None:
    shared = _count(tmp_path, "llama", _ROTARY, seq=8)
    own = _count(tmp_path, "llama", _ROTARY | {"num_key_value_heads": 4}, seq=8)
    assert shared.flops_attention_bmm == own.flops_attention_bmm == 2 * 2 * 2 * 8 * 8 * 16
    assert shared.kv_cache_bytes_fp16 == 2 * 2 * 8 * 8 * 2  # keys and values, layers, tokens, g e, bytes
    assert own.kv_cache_bytes_fp16 == 2 * shared.kv_cache_bytes_fp16


def test_a_window_bounds_what_a_step_sees_and_what_it_keeps(tmp_path: Path) -> None:
    fields = _ROTARY | {"sliding_window": 32}
    step = _count(tmp_path, "mistral", fields, phase="decode", cache=100)
    assert step.flops_attention_bmm == 2 * 2 * 2 * 32 * 16
    assert step.kv_cache_bytes_fp16 == 2 * 2 * 31 * 8 * 2


def test_the_hardware_computes_only_what_the_window_lets_it_see(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "mistral", **_ROTARY, "sliding_window": 3}))
    counts = count(load_workload(file, seq=6))
    assert counts.flops_attention_bmm == 2 * 2 * 2 * (1 + 2 + 3 + 3 + 3 + 3) * 16


def test_layers_with_and_without_a_window_are_two_classes(tmp_path: Path) -> None:
    fields = _ROTARY | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    blocks = _load(tmp_path, "qwen2", fields, seq=8).network[1:-1]
    assert [(block.name, block.count) for block in blocks] == [("block_0", 1), ("block_1", 1)]


def test_rotary_angles_are_a_product_in_the_releases_that_computed_them_so(tmp_path: Path) -> None:
    flops = {
        version: _count(tmp_path, "llama", _ROTARY | {"transformers_version": version}, seq=8).flops_total
        for version in ("4.57.6", "5.23.0", "4.31.0")
    }
    assert flops["4.57.6"] - flops["5.23.0"] == 2 * (4 // 2) * 8
    assert flops["4.31.0"] == flops["5.23.0"]


def test_both_spellings_of_the_rotated_share_are_read(tmp_path: Path) -> None:
    for extra in ({"partial_rotary_factor": 0.25}, {"rope_parameters": {"partial_rotary_factor": 0.25}}):
        block = _load(tmp_path, "phi", _ROTARY | {"head_dim": 8} | extra).network[1].graph
        rotate = next(operator for operator in block.operators if operator.name == "rotate_query")
        assert rotate.parameters == (("rotary_dim", 2),)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ({"layer_types": ["full_attention"]}, "layer_types: 1 layers given, num_hidden_layers is 2"),
        ({"rope_parameters": {"partial_rotary_factor": "x"}}, "rope_parameters.partial_rotary_factor must"),
        ({"head_dim": 0}, "head_dim: input should be greater than 0, got 0"),
    ],
)
def test_contradictory_fields_are_refused(tmp_path: Path, fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError) as error:
        _load(tmp_path, "llama", _ROTARY | fields)
    assert expected in str(error.value)


def test_opt_projects_a_narrow_table_and_normalises_behind_the_sums(tmp_path: Path) -> None:
    fields = {
        "vocab_size": 10, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 24,
        "max_position_embeddings": 6, "word_embed_proj_dim": 8, "do_layer_norm_before": False,
    }  # fmt: skip
    per_layer = 4 * (256 + 16) + 2 * 16 * 24 + 24 + 16 + 64
    counts = _count(tmp_path, "opt", fields, seq=3)
    assert counts.params_total == 2 * per_layer + 80 + (6 + 2) * 16 + 2 * 8 * 16
    assert counts.flops_output_head == 2 * 3 * 8 * 10


_TEXT_ENCODER = {
    "vocab_size": 10, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 12, "type_vocab_size": 3,
}  # fmt: skip
_ENCODER_LAYER = 4 * (256 + 16) + 2 * 16 * 24 + 24 + 16 + 64
_ENCODER_BODY = 2 * _ENCODER_LAYER + (10 + 12 + 3) * 16 + 32


@pytest.mark.parametrize(
    ("model_type", "architecture", "head"),
    [
        ("bert", "BertForMaskedLM", 256 + 16 + 32 + 10),
        ("bert", "BertForSequenceClassification", 256 + 16 + 32 + 2),
        ("bert", "BertForTokenClassification", 32 + 2),
        ("bert", "BertForQuestionAnswering", 32 + 2),
        ("bert", "BertModel", 256 + 16),
        ("roberta", "RobertaForMaskedLM", 256 + 16 + 32 + 10),
        ("xlm-roberta", "XLMRobertaForSequenceClassification", 256 + 16 + 32 + 2),
    ],
)
def test_the_head_follows_the_architecture(
    tmp_path: Path, model_type: str, architecture: str, head: int
) -> None:
    counts = _count(tmp_path, model_type, _TEXT_ENCODER | {"architectures": [architecture]}, seq=4)
    assert counts.params_total == _ENCODER_BODY + head


def test_an_encoder_has_neither_cache_nor_mask_nor_decode_phase(tmp_path: Path) -> None:
    counts = _count(tmp_path, "bert", _TEXT_ENCODER, seq=4)
    assert counts.kv_cache_bytes_fp16 == 0
    assert count(load_workload(tmp_path / "config.json", seq=4)).flops_total == counts.flops_total
    with pytest.raises(InputError, match="bert is an encoder: it has no decode phase"):
        _load(tmp_path, "bert", _TEXT_ENCODER, phase="decode", cache=4)


def test_positions_of_roberta_start_behind_the_row_of_the_padding(tmp_path: Path) -> None:
    _load(tmp_path, "roberta", _TEXT_ENCODER, seq=10)
    with pytest.raises(InputError, match="exceed the 10 positions"):
        _load(tmp_path, "roberta", _TEXT_ENCODER, seq=11)


@pytest.mark.parametrize(
    ("fields", "trainable"),
    [
        ({"target_modules": ["query", "value"]}, 296_450),
        ({"target_modules": ["query", "value"], "bias": "lora_only"}, 314_882),
        ({"target_modules": ["query", "key", "value", "dense"]}, 1_340_930),
        ({"target_modules": "all-linear"}, 1_340_930),
        ({"target_modules": ["query", "value"], "layers_to_transform": [0, 1, 2, 3]}, 99_842),
        ({"target_modules": ["query", "value", "word_embeddings"]}, 546_770),
        (
            {
                "target_modules": ["query", "value"],
                "trainable_token_indices": {"word_embeddings": [1, 2, 3, 4]},
            },
            299_522,
        ),
    ],
)
def test_trainable_parameters_of_bert_with_two_labels_are_those_of_peft(
    tmp_path: Path, fields: dict[str, Any], trainable: int
) -> None:
    """Expected values: get_peft_model(BertForSequenceClassification) of peft 0.21.2, r = 8."""
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "LORA", "r": 8, "task_type": "SEQ_CLS", **fields}))
    assert count(load_workload("bert-base-uncased", adapter=file, seq=1)).params_trainable == trainable


def test_a_logical_target_is_the_module_below_the_layer_and_no_other() -> None:
    # output.dense is the network's way down and the end of attention.output.dense too
    down = count(load_workload("bert-base-uncased", adapter="lora:r=2,targets=down", seq=1))
    assert down.params_trainable == 12 * 2 * (3072 + 768)


#: Images of 12 x 12 in patches of 4: 9 patches; 2 layers, width 16, 3 labels.
_VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 12, "patch_size": 4, "num_channels": 3, "id2label": {"0": "a", "1": "b", "2": "c"},
}  # fmt: skip


@pytest.mark.parametrize(("model_type", "n_class_tokens"), [("vit", 1), ("deit", 2)])
def test_an_image_becomes_patches_behind_class_tokens(
    tmp_path: Path, model_type: str, n_class_tokens: int
) -> None:
    n_tokens = 9 + n_class_tokens
    counts = _count(tmp_path, model_type, _VISION)
    assert counts.flops_conv == 2 * 9 * 16 * 3 * 4 * 4
    assert counts.flops_attention_bmm == 2 * 2 * 2 * n_tokens * n_tokens * 16
    assert counts.flops_output_head == 2 * 16 * 3
    embedding = 3 * 16 * 16 + 16 + (n_class_tokens + n_tokens) * 16
    assert counts.params_total == 2 * _ENCODER_LAYER + embedding + 32 + 16 * 3 + 3


def test_another_image_resizes_the_positions_and_keeps_the_parameters(tmp_path: Path) -> None:
    small, large = (_count(tmp_path, "vit", _VISION, image=side) for side in (12, 20))
    assert small.params_total == large.params_total
    assert large.flops_conv == small.flops_conv * 25 // 9


def test_an_image_and_tokens_are_not_mixed_up(tmp_path: Path) -> None:
    for model_type, fields, terms in (("vit", _VISION, {"seq": 5}), ("llama", _ROTARY, {"image": 224})):
        with pytest.raises(InputError, match=r"takes an image, no seq|takes tokens \(seq\), no image"):
            _load(tmp_path, model_type, fields, **terms)
    with pytest.raises(InputError, match="image must be an integer in 4"):
        _load(tmp_path, "vit", _VISION, image=3)


@pytest.mark.parametrize(
    ("targets", "trainable"),
    [
        (["q_proj", "v_proj"], 294_912),
        (["query", "value"], 294_912),
        ("all-linear", 1_341_248),
    ],
)
def test_trainable_parameters_of_vit_are_those_of_peft_in_old_and_new_names(
    tmp_path: Path, targets: list[str] | str, trainable: int
) -> None:
    """Expected values: get_peft_model(ViTForImageClassification) of peft 0.21.2, r = 8."""
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "LORA", "r": 8, "target_modules": targets}))
    counts = count(load_workload("vit-base-patch16-224", adapter=file))
    assert counts.params_trainable == trainable


_EXPERTS = _ROTARY | {"num_local_experts": 8, "num_experts_per_tok": 2}


def test_each_token_goes_through_its_chosen_experts_only(tmp_path: Path) -> None:
    counts = _count(tmp_path, "mixtral", _EXPERTS, seq=5)
    assert counts.flops_moe_expert_bmm == counts.flops_other == 2 * 2 * 5 * 2 * _GATED
    assert counts.params_total == 2 * (_ATTENTION + 8 * _GATED + 8 * 16 + 32) + 336


def test_more_chosen_experts_than_there_are_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="num_experts_per_tok 9 exceeds num_local_experts 8"):
        _load(tmp_path, "mixtral", _EXPERTS | {"num_experts_per_tok": 9})


#: 2 layers, width 16, 32 inner channels of 4 states, 3 taps, step sizes of rank 1.
_STATE_SPACE = {
    "vocab_size": 10, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "conv_kernel": 3,
}  # fmt: skip
_MIXER = 16 * 64 + 32 * 9 + 32 + 32 * 16


def test_a_state_space_model_keeps_a_state_that_does_not_grow(tmp_path: Path) -> None:
    state_bytes = 2 * (32 * 4 + 32 * 3) * 2
    for terms in ({"seq": 5}, {"seq": 50}, {"phase": "decode", "cache": 7}):
        assert _count(tmp_path, "mamba", _STATE_SPACE, **terms).kv_cache_bytes_fp16 == state_bytes


def test_the_hardware_computes_no_position_of_the_convolution_that_is_dropped(tmp_path: Path) -> None:
    reference = _count(tmp_path, "mamba", _STATE_SPACE, seq=5)
    hardware = count(load_workload(tmp_path / "config.json", seq=5))
    assert reference.flops_conv == 2 * 2 * 32 * 3 * (5 + 2)
    assert hardware.flops_conv == 2 * 2 * 32 * 3 * 5
    assert reference.flops_ssm_bmm == hardware.flops_ssm_bmm == 2 * 2 * 5 * 32 * 4


def test_parameters_of_a_state_space_model_are_those_of_its_mixers(tmp_path: Path) -> None:
    # per layer: products, convolution with bias, bias of the step sizes, A, D, norm
    per_layer = _MIXER + 32 * 4 + 32 + 32 * 4 + 32 + 16
    assert _count(tmp_path, "mamba", _STATE_SPACE).params_total == 2 * per_layer + 160 + 16


def test_a_width_that_contradicts_the_expansion_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="intermediate_size 30 is not expand 2 times hidden_size 16"):
        _load(tmp_path, "mamba", _STATE_SPACE | {"intermediate_size": 30})


#: 2 layers each, width 16, 4 heads of 4, inner width 24.
_T5 = {"vocab_size": 10, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4,
       "relative_attention_num_buckets": 8}  # fmt: skip
_BART = {
    "vocab_size": 10, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 20,
}  # fmt: skip


@pytest.mark.parametrize(("model_type", "fields"), [("t5", _T5), ("bart", _BART)])
def test_a_decoder_looks_at_itself_and_at_the_encoder(
    tmp_path: Path, model_type: str, fields: dict[str, Any]
) -> None:
    counts = _count(tmp_path, model_type, fields, seq=7, decoder_seq=3)
    pairs = 7 * 7 + 3 * 3 + 3 * 7
    assert counts.flops_attention_bmm == 2 * 2 * 2 * pairs * 16
    assert counts.kv_cache_bytes_fp16 == 2 * 2 * (3 + 7) * 16 * 2


@pytest.mark.parametrize(("model_type", "fields"), [("t5", _T5), ("bart", _BART)])
def test_a_step_of_the_decoder_projects_no_key_of_the_encoder_again(
    tmp_path: Path, model_type: str, fields: dict[str, Any]
) -> None:
    step = _count(tmp_path, model_type, fields, phase="decode", seq=7, cache=3)
    assert step.flops_linear == 2 * (2 * (6 * 256 + 2 * 16 * 24) + 160)
    assert step.kv_cache_bytes_fp16 == 2 * 2 * (4 + 7) * 16 * 2
    assert step.params_total == _count(tmp_path, model_type, fields, seq=7).params_total


def test_the_encoder_runs_alone_in_its_own_phase(tmp_path: Path) -> None:
    alone = _load(tmp_path, "t5", _T5, phase="prefill:encoder", seq=7)
    assert [layer.name for layer in alone.network] == ["encoder_embed", "encoder_block", "encoder_head"]
    with pytest.raises(InputError, match="llama has no encoder beside a decoder"):
        _load(tmp_path, "llama", _ROTARY, phase="prefill:encoder")


def test_a_gated_network_of_t5_has_one_more_product(tmp_path: Path) -> None:
    plain = _count(tmp_path, "t5", _T5).params_total
    gated = _count(tmp_path, "t5", _T5 | {"feed_forward_proj": "gated-gelu"}).params_total
    assert gated - plain == 4 * 16 * 24


def test_the_positions_of_sound_are_never_trained() -> None:
    counts = count(load_workload("whisper-tiny"))
    assert counts.params_total - counts.params_trainable == 1500 * 384


def test_an_encoder_of_sound_takes_its_own_number_of_frames_only() -> None:
    load_workload("whisper-tiny", phase="prefill:encoder", seq=3000)
    with pytest.raises(InputError, match="the encoder takes 3000 frames, got seq 2000"):
        load_workload("whisper-tiny", phase="prefill:encoder", seq=2000)
    with pytest.raises(InputError, match="seq 4 and decoder_seq 5"):
        load_workload("whisper-tiny", seq=4, decoder_seq=5)


@pytest.mark.parametrize(
    ("model_type", "fields", "expected"),
    [
        (
            "bart",
            {"architectures": ["BartForTokenClassification"]},
            "the task TOKEN_CLS of an encoder with a",
        ),
        ("bart", {"architectures": ["BartForCausalLM"]}, "'BartForCausalLM': a decoder alone is not"),
        (
            "bert",
            {"architectures": ["BertForMultipleChoice"]},
            "'BertForMultipleChoice': models with this head",
        ),
        ("vit", {"architectures": ["ViTForMaskedImageModeling"]}, "models with this head are not supported"),
    ],
)
def test_a_task_without_a_head_here_is_refused_with_its_file(
    tmp_path: Path, model_type: str, fields: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InputError, match=rf"config\.json: .*{expected}"):
        _load(tmp_path, model_type, fields)


def test_a_classifier_of_an_encoder_with_a_decoder_reads_its_text_twice(tmp_path: Path) -> None:
    workload = _load(tmp_path, "bart", _BART | {"architectures": ["BartForSequenceClassification"]}, seq=7)
    assert (workload.run.seq, workload.run.encoder_seq) == (7, 7)


def test_an_adapter_on_an_encoder_with_a_decoder_reaches_every_attention() -> None:
    # t5-small: 6 + 6 attentions to itself, 6 to the encoder, each 512 -> 512
    counts = count(load_workload("t5-small", adapter="lora:r=4,targets=q+v", phase="decode", cache=1))
    assert counts.params_trainable == 18 * 2 * 4 * 1024


_LABELS = {"id2label": {"0": "a", "1": "b", "2": "c"}}


def test_windows_of_a_stage_are_sequences_of_its_batch(tmp_path: Path) -> None:
    # 8 x 8 patches in 4 windows of 16, then 4 x 4 in one; widths 8 and 16
    fields = {"embed_dim": 8, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 32}
    workload = _load(tmp_path, "swin", fields | _LABELS)
    assert [(layer.name, layer.count) for layer in workload.network] == [
        ("stage0_embed", 1),
        ("stage0_block", 1),
        ("stage1_downsample", 1),
        ("stage1_block", 2),
        ("stage1_head", 1),
    ]
    counts = count(workload)
    assert counts.flops_attention_bmm == 2 * 2 * (4 * 16 * 16 * 8 + 2 * 16 * 16 * 16)
    assert counts.flops_conv == 2 * 64 * 8 * 3 * 16


@pytest.mark.parametrize("phase", ["prefill", "train"])
def test_windows_of_the_last_stage_are_pooled_together(tmp_path: Path, phase: str) -> None:
    # 16 x 16 patches, then 8 x 8 in 4 windows: 3 labels from 16 channels once per image, not per window
    fields = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4, "image_size": 64}
    counts = count(_load(tmp_path, "swin", fields | _LABELS, batch=5, phase=phase))
    assert counts.flops_output_head == 2 * 5 * 3 * 16 * (3 if phase == "train" else 1)


def test_an_image_that_windows_do_not_cover_is_refused(tmp_path: Path) -> None:
    fields = {"embed_dim": 8, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 32}
    with pytest.raises(InputError, match="image 36: windows of 4 do not cover stage 0"):
        _load(tmp_path, "swin", fields, image=36)


def test_convnext_convolves_each_channel_by_itself(tmp_path: Path) -> None:
    fields = {"hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 16}
    counts = _count(tmp_path, "convnext", fields | _LABELS)
    stem, merge = 16 * 8 * 3 * 16, 4 * 16 * 8 * 4
    assert counts.flops_conv == 2 * (stem + 16 * 8 * 49 + merge + 4 * 16 * 49)
    assert counts.flops_linear == 2 * (2 * 16 * 8 * 32 + 2 * 4 * 16 * 64 + 16 * 3)


def test_resnet_shortens_by_a_convolution_where_the_shape_changes(tmp_path: Path) -> None:
    fields = {"hidden_sizes": [8], "depths": [2], "embedding_size": 4, "image_size": 32}
    workload = _load(tmp_path, "resnet", fields | _LABELS)
    first, second = workload.network[1:3]
    assert "shortcut_convolution" in [operator.name for operator in first.graph.operators]
    assert "shortcut_convolution" not in [operator.name for operator in second.graph.operators]
    # the image is 16 wide behind the stem's convolution, 8 behind the pooling
    stem, inner = 16 * 16 * 4 * 3 * 49, 64 * (2 * 2 * 9)
    layers = 64 * (4 * 2 + 2 * 8 + 4 * 8) + 64 * (8 * 2 + 2 * 8) + 2 * inner
    assert count(workload).flops_conv == 2 * (stem + layers)


def test_stages_are_trained_from_the_last_to_the_first(tmp_path: Path) -> None:
    fields = {"hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 16}
    forward = _count(tmp_path, "convnext", fields)
    step = _count(tmp_path, "convnext", fields, phase="train")
    # the gradients of depthwise weights are stated as if each channel met all others
    depthwise = 2 * (16 * 8 * 49 * (8 - 1) + 4 * 16 * 49 * (16 - 1))
    # everything twice more but the gradient of the image
    assert step.flops_total == 3 * forward.flops_total - 2 * 16 * 8 * 3 * 16 + depthwise
    # a convolution's gradients come from one call
    assert step.n_ops_conv == 2 * forward.n_ops_conv


_CLIP = {
    "projection_dim": 12,
    "text_config": {
        "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "vocab_size": 10, "max_position_embeddings": 5,
    },
    "vision_config": {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4,
        "image_size": 8, "patch_size": 4,
    },
}  # fmt: skip


def test_two_towers_are_matched_pair_by_pair(tmp_path: Path) -> None:
    whole = _count(tmp_path, "clip", _CLIP, batch=3)
    text = _count(tmp_path, "clip", _CLIP, batch=3, phase="prefill:text_tower")
    vision = _count(tmp_path, "clip", _CLIP, batch=3, phase="prefill:vision_tower")
    match = 2 * (3 * 8 * 12 + 3 * 16 * 12 + 3 * 3 * 12)
    assert whole.flops_total == text.flops_total + vision.flops_total + match
    assert whole.params_total == text.params_total == vision.params_total
    assert whole.output_elems == 9


def test_a_wrong_field_of_a_tower_is_named_with_its_tower(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"text_config\.hidden_size: input should be greater than 0, got 0"):
        _load(tmp_path, "clip", _CLIP | {"text_config": {"hidden_size": 0}})
    with pytest.raises(InputError, match="gpt2 has no towers"):
        load_workload("gpt2", phase="prefill:text_tower")


def test_every_known_model_type_has_its_family() -> None:
    for model_type in model_types():
        found, family = family_of({"model_type": model_type}, "file")
        assert found == model_type
        assert set(family.targets) <= {"q", "k", "v", "o", "up", "gate", "down"}
