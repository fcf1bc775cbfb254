"""Adapters of convolutions: LoRA as a convolution into few channels and one of a single tap, others refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from tilewright.dataflow.errors import InputError
from tilewright.workloads.count import Counts, count
from tilewright.workloads.workload import load_workload


def _count(folder: Path, model: str, mode: str = "unmerged", phase: str = "prefill", **fields: Any) -> Counts:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "LORA", "r": 4, **fields}))
    terms: dict[str, Any] = {"adapter_mode": mode, "lowering": "reference", "image": 224, "phase": phase}
    return count(load_workload(model, adapter=file, **terms))


def test_lora_of_the_patches_is_a_convolution_into_few_channels_and_one_of_a_single_tap(
    tmp_path: Path,
) -> None:
    names = {"target_modules": ["projection", "query"]}
    whole, bare = (_count(tmp_path, "vit-base-patch16-224", mode, **names) for mode in ("unmerged", "none"))
    # 3 channels of 16 x 16 into 4, these into 768, for each of 14 x 14 patches; 12 layers of q beside it
    per_patch = 4 * (3 * 16 * 16 + 768)
    assert whole.params_trainable == per_patch + 12 * 4 * (768 + 768)
    assert whole.flops_conv - bare.flops_conv == 2 * 14 * 14 * per_patch
    assert whole.n_ops_conv - bare.n_ops_conv == 2
    assert whole.flops_linear - bare.flops_linear == 2 * 12 * 197 * 4 * (768 + 768)


def test_a_training_step_needs_both_factors_gradients_and_none_of_the_image(tmp_path: Path) -> None:
    counts = _count(tmp_path, "vit-base-patch16-224", phase="train", target_modules=["projection"])
    down, up, base = (2 * 14 * 14 * n for n in (4 * 768, 4 * 768, 768 * 768))
    # forward, gradients of A and B, and of what lies between them
    assert counts.flops_conv == base + 2 * down + 3 * up


def test_a_bias_behind_a_convolutions_factors_is_trained_with_them(tmp_path: Path) -> None:
    names = {"target_modules": ["projection"]}
    plain = _count(tmp_path, "vit-base-patch16-224", **names).params_trainable
    assert _count(tmp_path, "vit-base-patch16-224", lora_bias=True, **names).params_trainable == plain + 768


def test_strides_and_padding_are_those_of_the_convolution(tmp_path: Path) -> None:
    names = {"target_modules": ["embedder.embedder.convolution"]}
    whole, bare = (_count(tmp_path, "resnet-50", mode, **names) for mode in ("unmerged", "none"))
    assert whole.flops_conv - bare.flops_conv == 2 * 112 * 112 * 4 * (3 * 7 * 7 + 64)


def test_all_linear_leaves_convolutions_out(tmp_path: Path) -> None:
    counts = _count(tmp_path, "vit-base-patch16-224", target_modules="all-linear")
    assert counts.params_trainable == 4 * (12 * (4 * (768 + 768) + 2 * (768 + 3072)) + 768 + 1000)


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        ("convnext-tiny-224", {"target_modules": ["dwconv"]}, r"dwconv' of 96 groups of channels is not"),
        ("mamba-130m", {"target_modules": ["in_proj", "conv1d"]}, r"conv1d' of 1536 groups of channels is not"),
        ("resnet-50", {"target_modules": ["convolution"], "use_dora": True}, "DoRA of the convolution"),
        ("resnet-50", {"target_modules": ["convolution"], "peft_type": "LOHA"}, "cannot change the convolution"),
        ("vit-base-patch16-224", {"target_modules": ["projection", "query"], "peft_type": "HRA"},
         r"cannot change the convolution '.*projection'"),
    ],
)  # fmt: skip
def test_what_has_no_form_for_a_convolution_is_refused_by_name(
    tmp_path: Path, model: str, fields: dict[str, Any], message: str
) -> None:
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "LORA", "r": 4, **fields}))
    with pytest.raises(InputError, match=message):
        load_workload(model, adapter=file)


def test_frames_of_sound_take_lora_along_one_axis(tmp_path: Path) -> None:
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "LORA", "r": 4, "target_modules": ["conv1", "conv2"]}))
    counts = count(load_workload("whisper-tiny", adapter=file, lowering="reference"))
    assert counts.params_trainable == 4 * (80 * 3 + 384) + 4 * (384 * 3 + 384)
