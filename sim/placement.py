"""Placement: which channels of a memory hold which tensors, and in what portions."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from tilewright.dataflow.errors import InputError, nearest
from tilewright.dataflow.tensor import Role

#: A weight whose rows the data picks (embeddings, lookup tables): a kind of its own beside the roles.
EMBEDDING = "embedding"
KINDS = (*(role.value for role in Role), EMBEDDING)
#: Pages of a KV cache where nothing else is stated: 16 tokens of a head of 128 elements at 16 bits. A choice.
KV_PAGE_BYTES = 4096
#: Ways in which channel sets may overlap: groups of channels that the engine keeps apart.
MAX_GROUPS = 8
_WEIGHTS = (Role.WEIGHT.value, Role.ADAPTER.value, EMBEDDING)


@dataclass(frozen=True, slots=True)
class Rule:
    """Tensors of a kind (`KINDS`), or whose name matches a pattern (*, ?), lie on `channels`."""

    what: str
    channels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """Rules in order; patterns go before kinds, and what no rule names lies on all channels.

    A tensor is dealt over its channels in portions of `interleave_bytes` (0: a whole run at a time).
    `kv_page_bytes`: a KV cache is kept in pages of so many bytes, anywhere on its channels.
    """

    rules: tuple[Rule, ...] = ()
    interleave_bytes: int = 0
    kv_page_bytes: int = KV_PAGE_BYTES

    def __post_init__(self) -> None:
        if self.interleave_bytes < 0:
            raise InputError(f"placement: interleave_bytes must be >= 0, got {self.interleave_bytes}")
        if self.kv_page_bytes < 1:
            raise InputError(f"placement: kv_page_bytes must be >= 1, got {self.kv_page_bytes}")
        for rule in self.rules:
            if not rule.channels or len(set(rule.channels)) != len(rule.channels):
                raise InputError(
                    f"placement: channels of {rule.what!r} must be given, each once, got {rule.channels}"
                )

    def check_channels(self, n_channels: int) -> None:
        """Raises InputError for a channel that is not there, or sets that overlap in too many ways."""
        for rule in self.rules:
            for channel in rule.channels:
                if not 0 <= channel < n_channels:
                    raise InputError(
                        f"placement: {rule.what!r}: channel must be in 0..{n_channels - 1}, got {channel}"
                    )
        if (n := len(self.groups(n_channels))) > MAX_GROUPS:
            raise InputError(f"placement: channels may form {MAX_GROUPS} groups, these sets form {n}")

    def check_names(self, names: frozenset[str]) -> None:
        """Raises InputError for a rule that is no kind and matches none of the tensors `names`."""
        for rule in self.rules:
            if rule.what not in KINDS and not any(fnmatchcase(name, rule.what) for name in names):
                known = (*KINDS, *sorted(names))
                raise InputError(
                    f"placement: {rule.what!r} is no role and no tensor{nearest(rule.what, known)};"
                    f" roles: {', '.join(KINDS)}"
                )

    def channels_of(self, name: str, kind: str, n_channels: int) -> tuple[int, ...]:
        """The channels of tensor `name`, ascending."""
        for rule in self.rules:
            if rule.what not in KINDS and fnmatchcase(name, rule.what):
                return tuple(sorted(rule.channels))
        wanted = (kind, Role.WEIGHT.value) if kind == EMBEDDING else (kind,)
        for word in wanted:
            for rule in self.rules:
                if rule.what == word:
                    return tuple(sorted(rule.channels))
        return tuple(range(n_channels))

    def groups(self, n_channels: int) -> tuple[tuple[int, ...], ...]:
        """The channels in groups that no rule tells apart, by their first channel."""
        found: dict[tuple[bool, ...], list[int]] = {}
        sets = [frozenset(rule.channels) for rule in self.rules]
        for channel in range(n_channels):
            found.setdefault(tuple(channel in one for one in sets), []).append(channel)
        return tuple(tuple(group) for group in found.values())


def kind_of(role: Role, gathered: bool) -> str:
    """The kind of a tensor; `gathered`: its rows are picked by data."""
    return EMBEDDING if gathered and role is Role.WEIGHT else role.value


#: Placements that a template offers, with what they mean.
POLICIES = {
    "interleaved": "every tensor over all channels",
    "weights_half": "weights and adapters on half of the channels, all else on the other half",
    "weights_most": "weights and adapters on three quarters of the channels, all else on the rest",
    "by_role": "weights on half of the channels, caches and activations on a quarter each",
}


def policy_placement(policy: str, n_channels: int) -> Placement | None:
    """The placement that a policy means on `n_channels`; None for the interleaved one.

    A part has at least one channel; where there are fewer channels than parts, the last parts share the last
    channel. Raises InputError for an unknown policy.
    """
    if policy not in POLICIES:
        raise InputError(
            f"placement {policy!r} is unknown{nearest(policy, list(POLICIES))}; known: {', '.join(POLICIES)}"
        )
    if policy == "interleaved":
        return None
    quarters = {"weights_half": (2, 4, 4), "weights_most": (3, 4, 4), "by_role": (2, 3, 4)}[policy]
    first = max(1, n_channels * quarters[0] // 4)
    second = max(first + 1, n_channels * quarters[1] // 4) if quarters[1] < 4 else n_channels
    weights = _span(0, first, n_channels)
    caches = _span(first, second, n_channels)
    others = caches if quarters[1] == 4 else _span(second, n_channels, n_channels)
    rest = {kind: others for kind in KINDS if kind not in _WEIGHTS}
    rest[Role.KV_CACHE.value] = caches
    placed = dict.fromkeys(_WEIGHTS, weights) | rest
    return Placement(tuple(Rule(kind, channels) for kind, channels in placed.items()))


def _span(first: int, end: int, n_channels: int) -> tuple[int, ...]:
    """Channels first..end - 1; the last channel where they are none."""
    return tuple(range(first, min(end, n_channels))) or (n_channels - 1,)
