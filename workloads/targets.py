"""Which modules an adapter file targets, resolved as the reference library does."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from tilewright.dataflow.errors import InputError
from tilewright.workloads.builder import Module

T = TypeVar("T")

ALL_LINEAR = "all-linear"

#: A repeated group that holds a repetition or a choice: matching it may take exponential time.
_REPEATED_REPETITION = re.compile(r"[*+|}][^()]*\)+\s*[*+{]")


@dataclass(frozen=True, slots=True)
class Targets:
    """The targeting fields of a file: names (suffixes of paths), a pattern, or all linear modules.

    A list is matched against the ends of paths, a string against the whole path. `layers` and
    `layers_pattern` restrict a list to some layers, `exclude` takes modules out again. With `within`, the
    names are whole paths below a layer of one of these stacks, which no file can say.
    """

    names: tuple[str, ...] | str
    layers: tuple[int, ...] | None = None
    layers_pattern: tuple[str, ...] = ()
    exclude: tuple[str, ...] | str | None = None
    within: tuple[str, ...] = ()

    @property
    def vary_by_layer(self) -> bool:
        stated = (() if self.within else self.names, self.exclude or ())
        texts = [text for group in stated for text in ((group,) if isinstance(group, str) else group)]
        return self.layers is not None or any(_may_name_a_layer(text) for text in texts)

    def match(self, module: Module, path: str) -> bool:
        """Whether the file targets `module`, which is `path` with the layer's number in it."""
        if self.excludes(path):
            return False
        if self.names == ALL_LINEAR:
            found = module.kind == "linear" and not module.is_head
        elif isinstance(self.names, str):
            return re.fullmatch(self.names, path) is not None
        elif self.within:
            found = any(path.startswith(f"{stack}.") for stack in self.within) and any(
                re.fullmatch(rf".*\.\d+\.{re.escape(name)}", path) for name in self.names
            )
        else:
            found = _listed(self.names, path)
        return found and (path in self.names or self._has_layer(path))

    def excludes(self, path: str) -> bool:
        """Whether the file takes the module at `path` out."""
        return self.exclude is not None and _listed(self.exclude, path)

    def _has_layer(self, path: str) -> bool:
        if self.layers is None:
            return True
        patterns = [rf"(?:^|.*?\.){pattern}\.(\d+)\." for pattern in self.layers_pattern]
        for pattern in patterns or [r".*?\.[^.]*\.(\d+)\."]:
            if found := re.match(pattern, path):
                return int(found.group(1)) in self.layers
        return False


def by_pattern(patterns: Mapping[str, T], path: str, default: T) -> T:
    """The value of the first pattern that matches the end of `path`, else `default`."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return default


def check_pattern(pattern: str, field: str, source: str) -> None:
    """Raises InputError if `pattern` is not a regular expression, or one that may never end."""
    if _REPEATED_REPETITION.search(pattern):
        raise InputError(f"{source}: {field}: {pattern[:60]!r} repeats a group that repeats or chooses")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"{source}: {field}: {pattern[:60]!r} is not a pattern: {error}") from None


def patterns_vary_by_layer(patterns: Iterable[str]) -> bool:
    """Whether a pattern may match one layer and not another."""
    return any(_may_name_a_layer(pattern) for pattern in patterns)


def _listed(names: tuple[str, ...] | str, path: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in names)


def _may_name_a_layer(text: str) -> bool:
    """A plain (dotted) module name without a number cannot; one with a number or a pattern may."""
    parts = text.split(".")
    return text != ALL_LINEAR and not all(re.fullmatch(r"[A-Za-z_][A-Za-z_0-9]*", part) for part in parts)
