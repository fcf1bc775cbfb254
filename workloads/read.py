"""Reading JSON files and checking them: every refusal is one line with file and field."""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tilewright.dataflow.errors import InputError
from tilewright.dataflow.textfile import read_text

MAX_FILE_BYTES = 16 * 2**20

M = TypeVar("M", bound=BaseModel)


def read_json(file: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises InputError: missing, unreadable, over MAX_FILE_BYTES, not UTF-8, not JSON (line and column),
    nested too deeply, not an object.
    """
    text = read_text(file, MAX_FILE_BYTES)
    return _parse(text, str(file))


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise InputError(f"{source}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise InputError(f"{source}: nested too deeply") from None
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    except ValueError:  # an integer with thousands of digits
        raise InputError(f"{source}: a number has too many digits") from None
    if not isinstance(value, dict):
        raise InputError(f"{source}: must hold a JSON object, holds {_kind(value)}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, in which no key may stand twice: which of the two would count is anybody's guess."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"key {twice!r} stands twice")
    return found


def preset_names(folder: str) -> tuple[str, ...]:
    """The names of the JSON presets in `workloads/data/<folder>`."""
    entries = files("tilewright.workloads").joinpath("data", folder).iterdir()
    return tuple(sorted(entry.name[:-5] for entry in entries if entry.name.endswith(".json")))


def read_preset(folder: str, name: str) -> dict[str, Any]:
    text = files("tilewright.workloads").joinpath("data", folder, f"{name}.json").read_text("utf-8")
    return _parse(text, f"preset {name}")


def checked(kind: type[M], values: Mapping[str, Any], source: str) -> M:
    """`values` as a checked model. Raises InputError that names the first wrong field and its value."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "value_error":  # a check of our own: of one field, or of several that it names
            raise InputError(f"{source}: {field}: {message}" if field else f"{source}: {message}") from None
        got = "" if first["type"] == "missing" else f", got {shown(first['input'])}"
        raise InputError(f"{source}: {field}: {message[:1].lower()}{message[1:]}{got}") from None


def shown(value: Any) -> str:
    """A value in an error message: on one line, not longer than 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
