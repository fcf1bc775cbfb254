"""Tensors: named ranks, a data type and a role."""

from dataclasses import dataclass
from enum import StrEnum

#: Bits of an element by data type.
DTYPE_BITS: dict[str, int] = {
    "int2": 2,
    "int4": 4,
    "int8": 8,
    "int16": 16,
    "int32": 32,
    "fp8": 8,
    "fp16": 16,
    "bf16": 16,
    "fp32": 32,
}


class Role(StrEnum):
    """What a tensor is for; placement, precision and traffic tables go by it."""

    WEIGHT = "weight"
    ACTIVATION = "activation"
    KV_CACHE = "kv_cache"
    STATE = "state"
    ADAPTER = "adapter"
    INDEX = "index"
    GRADIENT = "gradient"
    OPTIMIZER = "optimizer"


@dataclass(frozen=True, slots=True)
class Profile:
    """A rank whose size varies: a histogram of (size, how many times), sizes ascending."""

    entries: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        sizes = [size for size, _ in self.entries]
        if not sizes or sizes != sorted(set(sizes)):
            raise ValueError(f"Profile.entries must hold ascending distinct sizes, got {sizes}")
        for size, count in self.entries:
            if size < 0 or count <= 0:
                raise ValueError(f"Profile entry must be size >= 0, count > 0, got {size, count}")

    @property
    def n_instances(self) -> int:
        return sum(count for _, count in self.entries)

    @property
    def total(self) -> int:
        """Sum of the sizes over all instances."""
        return sum(size * count for size, count in self.entries)

    @property
    def largest(self) -> int:
        return self.entries[-1][0]


@dataclass(frozen=True, slots=True)
class Tensor:
    """An array with named ranks, outermost first; sizes belong to the graph it stands in."""

    name: str
    ranks: tuple[str, ...]
    dtype: str
    role: Role

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BITS:
            raise ValueError(f"Tensor {self.name!r}: unknown dtype {self.dtype!r}")
        if len(set(self.ranks)) != len(self.ranks):
            raise ValueError(f"Tensor {self.name!r} repeats a rank: {self.ranks}")

    @property
    def bits(self) -> int:
        """Bits of one element."""
        return DTYPE_BITS[self.dtype]
