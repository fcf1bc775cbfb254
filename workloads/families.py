"""All model families by `model_type`."""

from collections.abc import Mapping
from typing import Any

from tilewright.dataflow.errors import InputError, nearest
from tilewright.workloads import (
    families_bert,
    families_gpt,
    families_llama,
    families_mamba,
    families_seq2seq,
    families_stages,
    families_towers,
    families_vit,
)
from tilewright.workloads.family import Family

FAMILIES: Mapping[str, Family[Any]] = {
    **families_bert.FAMILIES,
    **families_gpt.FAMILIES,
    **families_llama.FAMILIES,
    **families_mamba.FAMILIES,
    **families_seq2seq.FAMILIES,
    **families_stages.FAMILIES,
    **families_towers.FAMILIES,
    **families_vit.FAMILIES,
}


def family_of(values: Mapping[str, Any], source: str) -> tuple[str, Family[Any]]:
    """The family that a file names. Raises InputError for a missing or unknown `model_type`."""
    known = sorted(FAMILIES)
    model_type = values.get("model_type")
    if not isinstance(model_type, str):
        raise InputError(f"{source}: model_type: missing; supported: {', '.join(known)}")
    if model_type not in FAMILIES:
        raise InputError(
            f"{source}: model_type: {model_type[:60]!r} is unknown{nearest(model_type, known)};"
            f" supported: {', '.join(known)}"
        )
    return model_type, FAMILIES[model_type]
