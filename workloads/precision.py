"""The data type of each role of a workload."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from tilewright.dataflow.errors import InputError, nearest
from tilewright.dataflow.tensor import DTYPE_BITS, Role


@dataclass(frozen=True, slots=True)
class Precision:
    """Data types by role; adapters are stored like weights.

    `accumulators` is the type of sums that stay open: the statistics of norms and of softmax.
    The default is the 8-bit inference that the generated hardware computes.
    """

    weights: str = "int8"
    activations: str = "int8"
    accumulators: str = "int32"
    kv_cache: str = "int8"

    def __post_init__(self) -> None:
        for field in fields(self):
            if (dtype := getattr(self, field.name)) not in DTYPE_BITS:
                known = [*DTYPE_BITS]
                hint = nearest(str(dtype), known)
                raise InputError(
                    f"precision.{field.name}: unknown data type {dtype!r}{hint}; known: {', '.join(known)}"
                )

    @staticmethod
    def of(stated: "Precision | Mapping[str, str] | None") -> "Precision":
        """What is stated, the rest by default. Raises InputError for an unknown role or type."""
        if isinstance(stated, Precision):
            return stated
        roles = [field.name for field in fields(Precision)]
        for role in stated or {}:
            if role not in roles:
                raise InputError(
                    f"precision: unknown role {role!r}{nearest(role, roles)}; known: {', '.join(roles)}"
                )
        return Precision(**(stated or {}))

    def dtype(self, role: Role) -> str:
        """The type that tensors of `role` are stored in."""
        return _FIXED_DTYPE.get(role) or getattr(self, _FIELD_BY_ROLE[role])


_FIXED_DTYPE = {Role.INDEX: "int32"}
_FIELD_BY_ROLE = {
    Role.WEIGHT: "weights",
    Role.ADAPTER: "weights",
    Role.ACTIVATION: "activations",
    Role.GRADIENT: "activations",
    Role.STATE: "kv_cache",
    Role.KV_CACHE: "kv_cache",
    Role.OPTIMIZER: "accumulators",
}
