"""All model families by `model_type`; a family's module is imported when a file names it."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from tilewright.dataflow.errors import InputError, nearest
from tilewright.workloads.family import Family

_TYPES_BY_MODULE: Mapping[str, tuple[str, ...]] = {
    "families_bert": ("bert", "roberta", "xlm-roberta", "distilbert"),
    "families_decoders": (
        "phi3", "starcoder2", "olmo", "gemma2", "gemma3_text", "qwen2_moe", "qwen3_moe", "olmoe",
    ),
    "families_deepseek": ("deepseek_v2", "deepseek_v3"),
    "families_encoders": ("albert", "electra", "deberta-v2", "modernbert"),
    "families_gpt_oss": ("gpt_oss",),
    "families_gpt": ("gpt2", "opt"),
    "families_hybrid": ("mobilevit", "efficientformer", "levit"),
    "families_llama": ("llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "phi"),
    "families_mamba": ("mamba", "mamba2"),
    "families_mobile": ("poolformer", "mobilenet_v2", "swiftformer"),
    "families_neox": ("gpt_neox", "gptj", "gpt_neo", "bloom", "falcon"),
    "families_pyramids": ("segformer", "pvt", "pvt_v2", "cvt"),
    "families_seq2seq": ("t5", "bart", "pegasus", "whisper"),
    "families_sound": ("wav2vec2", "audio-spectrogram-transformer"),
    "families_stages": ("swin", "convnext", "convnextv2", "resnet"),
    "families_towers": ("clip", "siglip"),
    "families_vit": ("vit", "deit", "dinov2", "beit"),
}  # fmt: skip
_MODULE_BY_TYPE = {name: module for module, names in _TYPES_BY_MODULE.items() for name in names}


def model_types() -> tuple[str, ...]:
    """The `model_type`s that are read, sorted."""
    return tuple(sorted(_MODULE_BY_TYPE))


def family_of(values: Mapping[str, Any], source: str) -> tuple[str, Family[Any]]:
    """The family that a file names. Raises InputError for a missing or unknown `model_type`."""
    known = model_types()
    model_type = values.get("model_type")
    if model_type is None:
        raise InputError(f"{source}: model_type: missing; supported: {', '.join(known)}")
    if not isinstance(model_type, str):
        raise InputError(f"{source}: model_type: must be a name, got {str(model_type)[:60]!r}")
    if model_type not in known:
        raise InputError(
            f"{source}: model_type: {model_type[:60]!r} is unknown{nearest(model_type, known)}; export it to an"
            f" .onnx file or write it as a .cascade, which are models too; supported: {', '.join(known)}"
        )
    module = import_module(f"tilewright.workloads.{_MODULE_BY_TYPE[model_type]}")
    families = cast(Mapping[str, Family[Any]], module.FAMILIES)
    return model_type, families[model_type]
