"""Adapters by file or preset: what is stated, checked against a model, becomes a plan."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilewright.dataflow.errors import InputError, nearest
from tilewright.workloads.adapter_file import AdapterFile, BottleneckFile, LoraFile
from tilewright.workloads.adapter_methods import METHODS, PRESET_METHODS, Site
from tilewright.workloads.lowering import AdapterPlan
from tilewright.workloads.read import checked, read_json
from tilewright.workloads.targets import ALL_LINEAR
from tilewright.workloads.transformer import Model

FILE_NAME = "adapter_config.json"
LOGICAL_TARGETS = ("q", "k", "v", "o", "up", "gate", "down")
_PRESET_KEYS = {
    "lora": ("r", "alpha", "targets", "layers", "rslora", "bias"),
    "bottleneck": ("r", "style", "function", "layers", "n", "q"),
}


@dataclass(frozen=True, slots=True)
class Adapter:
    """A checked adapter; `logical` targets of a preset are not module names yet."""

    source: str
    file: AdapterFile
    logical: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """The task that overrides the model's, or the empty string."""
        return self.file.task_type or ""

    def plan(self, model: Model, targets: Mapping[str, str | tuple[str, ...]]) -> AdapterPlan:
        """The adapter on `model`; `targets` are the family's modules by logical target.

        Raises InputError for what does not fit the model: a rank above its width, a pattern that is none,
        a logical target that the family does not have, another number of layers.
        """
        site = Site(model, targets, self.source, self.logical)
        return PRESET_METHODS[self.file.peft_type].plan(self.file, site)


def adapter_names() -> tuple[str, ...]:
    """The methods that a preset string may start with."""
    return tuple(_PRESET_KEYS)


def read_adapter(stated: str | Path) -> Adapter:
    """An adapter_config.json, its folder, or a preset like `lora:r=16,targets=q+k+v+o`.

    Raises InputError for a wrong file or preset.
    """
    file = Path(stated)
    if file.is_dir():
        file = file / FILE_NAME
    elif not file.exists() and file.suffix != ".json" and len(file.parts) == 1:
        return _preset(str(stated))
    source = str(file)
    values = read_json(file)
    method = values.get("peft_type")
    if not isinstance(method, str):
        raise InputError(f"{source}: peft_type: missing; supported: {', '.join(METHODS)}")
    if method not in METHODS:
        known = list(METHODS)
        raise InputError(
            f"{source}: peft_type: {method[:60]!r} is not supported{nearest(method, known)};"
            f" supported: {', '.join(known)}"
        )
    return Adapter(source, checked(METHODS[method].file, values, source))


def _preset(text: str) -> Adapter:
    """`lora:key=value,...` with the keys r, alpha (default 2 r), targets, layers, rslora and bias, or
    `bottleneck:key=value,...` with r, style, function, layers and Compacter's n and q."""
    source = f"adapter {text[:100]!r}"
    method, _, rest = text.partition(":")
    if method not in adapter_names():
        raise InputError(
            f"{source} is neither a file nor a preset{nearest(method, adapter_names())};"
            " a preset is like lora:r=16,targets=q+k+v+o"
        )
    stated: dict[str, str] = {}
    keys = _PRESET_KEYS[method]
    for item in rest.split(",") if rest else ():
        key, equals, value = item.partition("=")
        if not equals or key not in keys:
            raise InputError(
                f"{source}: {item!r} is not key=value{nearest(key, keys)}; keys: {', '.join(keys)}"
            )
        if key in stated:
            raise InputError(f"{source}: {key} stands twice")
        stated[key] = value
    return _lora_preset(stated, source) if method == "lora" else _bottleneck_preset(stated, source)


def _lora_preset(stated: Mapping[str, str], source: str) -> Adapter:
    rank = _integer(stated.get("r", "8"), "r", source)
    values: dict[str, Any] = {"peft_type": "LORA", "r": rank, "bias": stated.get("bias", "none")}
    values["lora_alpha"] = _integer(stated.get("alpha", str(2 * rank)), "alpha", source)
    if (switch := stated.get("rslora", "false")) not in ("true", "false"):
        raise InputError(f"{source}: rslora must be true or false, got {switch!r}")
    values["use_rslora"] = switch == "true"
    logical = tuple(stated.get("targets", "q+v").split("+"))
    if logical == ("all",):
        values["target_modules"], logical = ALL_LINEAR, ()
    for target in logical:
        if target not in LOGICAL_TARGETS:
            known = (*LOGICAL_TARGETS, "all")
            raise InputError(
                f"{source}: target {target!r} is unknown{nearest(target, known)}; known: {', '.join(known)}"
            )
    if "layers" in stated:
        values["layers_to_transform"] = _layers(stated["layers"], source)
    return Adapter(source, checked(LoraFile, values, source), logical)


def _bottleneck_preset(stated: Mapping[str, str], source: str) -> Adapter:
    values: dict[str, Any] = {"peft_type": "BOTTLENECK"}
    for key, text in stated.items():
        if key == "layers":
            values["layers_to_transform"] = _layers(text, source)
        else:
            values[key] = text if key in ("style", "function") else _integer(text, key, source)
    return Adapter(source, checked(BottleneckFile, values, source))


def _integer(text: str, key: str, source: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise InputError(f"{source}: {key} must be a whole number, got {text!r}")
    return int(text)


def _layers(text: str, source: str) -> list[int]:
    """`3` or `0-3`."""
    found = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if first > last:
        raise InputError(f"{source}: layers must be a number or a range like 0-3, got {text!r}")
    return list(range(first, last + 1))
