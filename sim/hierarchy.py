"""A declared hierarchy: levels of memory from the backing store inwards, fan-outs between them, a vector unit.

What a mapper needs of hardware and no more: capacities, words per cycle, energy per word, which tensors a
level may or must leave out, and how instances of a level hang under the one above.
"""

from dataclasses import dataclass
from functools import cached_property
from math import inf, isfinite
from typing import Literal

from tilewright.dataflow.errors import InputError, nearest

#: How a level's fills run beside the work under it. `ideal`: at once, in the space of one tile; `double`: at once,
#: in the space of two; `single`: before it, so that their time adds; `choice`: the mapper takes double or single.
Buffering = Literal["ideal", "double", "single", "choice"]
BUFFERINGS: tuple[Buffering, ...] = ("ideal", "double", "single", "choice")

#: Largest capacity in bits and instances of a level; beyond, products of counts leave 64-bit integers.
MAX_CAPACITY_BITS = 1 << 50
MAX_INSTANCES = 1 << 24


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a fan-out: `size` positions, the ranks that may lie on it (empty: any).

    With `multicast` a word read above serves every position that wants it; with `reduction` partial sums of
    the positions are added on their way up. Without, every position used costs its own access above.
    """

    name: str
    size: int
    ranks: tuple[str, ...] = ()
    multicast: bool = True
    reduction: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.size <= MAX_INSTANCES:
            raise InputError(f"axis {self.name!r}: size must be in 1..{MAX_INSTANCES}, got {self.size}")


@dataclass(frozen=True, slots=True)
class Level:
    """One level of memory; bandwidths are words per cycle of an instance, energies pJ per word.

    `capacity_bits` is None for the backing store. `shared_words_per_cycle` limits reads and writes together.
    `may_bypass` and `must_bypass` name tensors, or `inputs`, `outputs`, `all`. `axes` are those along which
    instances of this level hang under one instance of the level above.
    """

    name: str
    capacity_bits: int | None
    read_pj: float
    write_pj: float
    read_words_per_cycle: float = inf
    write_words_per_cycle: float = inf
    shared_words_per_cycle: float = inf
    may_bypass: tuple[str, ...] = ()
    must_bypass: tuple[str, ...] = ()
    buffering: Buffering = "ideal"
    axes: tuple[Axis, ...] = ()

    def __post_init__(self) -> None:
        place = f"level {self.name!r}"
        if self.capacity_bits is not None and not 0 < self.capacity_bits <= MAX_CAPACITY_BITS:
            raise InputError(
                f"{place}: capacity must be in 1..{MAX_CAPACITY_BITS} bits, got {self.capacity_bits}"
            )
        for name in ("read_pj", "write_pj"):
            if not (isfinite(value := getattr(self, name)) and value >= 0):
                raise InputError(f"{place}: {name} must be >= 0, got {value}")
        for name in ("read_words_per_cycle", "write_words_per_cycle", "shared_words_per_cycle"):
            if not (value := getattr(self, name)) > 0:
                raise InputError(f"{place}: {name} must be > 0, got {value}")
        if self.buffering not in BUFFERINGS:
            raise InputError(
                f"{place}: buffering {self.buffering!r} is unknown{nearest(self.buffering, BUFFERINGS)}"
            )
        if len({axis.name for axis in self.axes}) != len(self.axes):
            raise InputError(f"{place}: two axes have one name")

    @property
    def n_positions(self) -> int:
        """Instances under one instance of the level above."""
        product = 1
        for axis in self.axes:
            product *= axis.size
        return product


@dataclass(frozen=True, slots=True)
class VectorLanes:
    """The unit that runs everything but contractions, beside the PEs: `lanes` evaluations a cycle.

    It reads and writes level `level` through its own port of `words_per_cycle`.
    """

    lanes: int
    evaluation_pj: float
    level: str
    words_per_cycle: float = inf

    def __post_init__(self) -> None:
        if self.lanes <= 0 or not self.words_per_cycle > 0:
            raise InputError(f"vector unit: lanes and words_per_cycle must be > 0, got {self.lanes}")
        if not (isfinite(self.evaluation_pj) and self.evaluation_pj >= 0):
            raise InputError(f"vector unit: evaluation_pj must be >= 0, got {self.evaluation_pj}")


@dataclass(frozen=True)
class Hierarchy:
    """Levels from the backing store inwards; the last feeds the multipliers, directly or over `mac_axes`.

    `word_bits` is the word of bandwidths and energies; `element_bits` overrides the tensors' own widths.
    `rest_pj_per_cycle` is spent whatever runs.
    """

    name: str
    levels: tuple[Level, ...]
    mac_pj: float
    word_bits: int = 16
    element_bits: int | None = None
    mac_axes: tuple[Axis, ...] = ()
    rest_pj_per_cycle: float = 0.0
    vector: VectorLanes | None = None

    def __post_init__(self) -> None:
        place = f"hierarchy {self.name!r}"
        if not 1 <= len(self.levels) <= 8:
            raise InputError(f"{place}: must have 1 to 8 levels, has {len(self.levels)}")
        names = [level.name for level in self.levels]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"{place}: level {twice[0]!r} stands twice")
        if self.levels[0].capacity_bits is not None or self.levels[0].axes:
            raise InputError(f"{place}: level {names[0]!r} backs all others and has no capacity and no axes")
        for level in self.levels[1:]:
            if level.capacity_bits is None:
                raise InputError(f"{place}: level {level.name!r} needs a capacity")
        if self.levels[0].may_bypass or self.levels[0].must_bypass:
            raise InputError(f"{place}: no tensor may bypass level {names[0]!r}, which backs all others")
        if not 1 <= self.word_bits <= 4096:
            raise InputError(f"{place}: word_bits must be in 1..4096, got {self.word_bits}")
        if self.element_bits is not None and not 1 <= self.element_bits <= 4096:
            raise InputError(f"{place}: element_bits must be in 1..4096, got {self.element_bits}")
        for name in ("mac_pj", "rest_pj_per_cycle"):
            if not (isfinite(value := getattr(self, name)) and value >= 0):
                raise InputError(f"{place}: {name} must be >= 0, got {value}")
        if self.vector is not None and self.vector.level not in names:
            level_name = self.vector.level
            raise InputError(f"{place}: vector unit: no level {level_name!r}{nearest(level_name, names)}")
        if self.n_pes > MAX_INSTANCES:
            raise InputError(f"{place}: {self.n_pes} multipliers, the limit is {MAX_INSTANCES}")

    @cached_property
    def fan_outs(self) -> tuple[tuple[Axis, ...], ...]:
        """The axes under every level: those of the level inside it, and of the multipliers last."""
        return (*(level.axes for level in self.levels[1:]), self.mac_axes)

    @cached_property
    def n_pes(self) -> int:
        """Multipliers in all."""
        product = 1
        for axes in self.fan_outs:
            for axis in axes:
                product *= axis.size
        return product

    def position(self, level: str) -> int:
        """Where a level stands. Raises InputError for an unknown name."""
        names = [one.name for one in self.levels]
        if level not in names:
            raise InputError(f"hierarchy {self.name!r}: no level {level!r}{nearest(level, names)}")
        return names.index(level)
