"""Design spaces: named parameters with the values that they may take."""

from collections.abc import Mapping
from dataclasses import dataclass

Value = int | float | str | bool


@dataclass(frozen=True, slots=True)
class Parameter:
    """One choice; `ordered` values (sizes) may be stepped through, others are categories."""

    name: str
    values: tuple[Value, ...]
    default: Value
    meaning: str
    ordered: bool = True

    def __post_init__(self) -> None:
        if self.default not in self.values:
            raise ValueError(f"parameter {self.name!r}: default {self.default!r} is not a value")


@dataclass(frozen=True, slots=True)
class Space:
    """The parameters of a template, in a fixed order."""

    parameters: tuple[Parameter, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def n_designs(self) -> int:
        total = 1
        for parameter in self.parameters:
            total *= len(parameter.values)
        return total

    def defaults(self) -> dict[str, Value]:
        return {parameter.name: parameter.default for parameter in self.parameters}

    def complete(self, stated: Mapping[str, Value]) -> dict[str, Value]:
        """`stated` with defaults for the rest, in the space's order.

        Raises InputError for an unknown name (closest one named).
        """
        from tilewright.dataflow.errors import InputError, nearest

        for name in stated:
            if name not in self.names:
                raise InputError(f"parameter {name!r} is unknown{nearest(name, self.names)}")
        return self.defaults() | dict(stated)
