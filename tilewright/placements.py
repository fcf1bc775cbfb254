"""The `placement` of a DESIGN.yaml as a `Placement`."""

import re
from typing import TYPE_CHECKING

from tilewright.dataflow.errors import InputError
from tilewright.sim.placement import Placement, Rule, policy_placement

if TYPE_CHECKING:
    from tilewright.files import PlacementFields

_SPAN = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")
_MOST_CHANNELS = 4096  # more than any memory has


def placement_of(stated: "PlacementFields | str", n_channels: int) -> Placement | None:
    """The placement that a design states for a memory of `n_channels`: a policy's name, or its fields.

    Raises InputError: field, limit, value.
    """
    if isinstance(stated, str):
        return policy_placement(stated, n_channels)
    rules = tuple(Rule(what, _channels(what, words)) for what, words in stated.channels.items())
    found = Placement(rules, stated.interleave_bytes, stated.kv_page_bytes)
    found.check_channels(n_channels)
    return found


def _channels(what: str, words: int | str | list[int | str]) -> tuple[int, ...]:
    """Channels from 3, "0-7" or a list of those."""
    found: list[int] = []
    for word in words if isinstance(words, list) else [words]:
        match = _SPAN.fullmatch(str(word).strip())
        if match is None:
            raise InputError(f"placement.channels.{what}: must be a channel or first-last, got {word!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InputError(f"placement.channels.{what}: first-last must ascend, got {word!r}")
        if last - first >= _MOST_CHANNELS:
            raise InputError(
                f"placement.channels.{what}: may span {_MOST_CHANNELS} channels at most, got {word!r}"
            )
        found += range(first, last + 1)
    return tuple(found)
