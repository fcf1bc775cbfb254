"""Design spaces: named parameters with the values that they may take."""

from collections.abc import Mapping
from dataclasses import dataclass

from tilewright.dataflow.errors import InputError, nearest

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

    def check(self, value: Value) -> None:
        """Raises InputError unless `value` is one of the values or, if ordered, lies between them."""
        if value in self.values and type(value) is type(self.default):
            return
        low, high = self.values[0], self.values[-1]
        if not self.ordered or isinstance(low, str | bool) or isinstance(high, str | bool):
            raise InputError(f"parameter {self.name!r} must be one of {list(self.values)}, got {value!r}")
        kinds = (int,) if isinstance(self.default, int) else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            raise InputError(f"parameter {self.name!r} must be in {low}..{high}, got {value!r}")


@dataclass(frozen=True, slots=True)
class Space:
    """The parameters of a template, in a fixed order.

    `constants` are figures of its model that were fitted to measurements: they may be stated like parameters,
    but are nothing that a search chooses.
    """

    parameters: tuple[Parameter, ...]
    constants: tuple[Parameter, ...] = ()

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
        return {parameter.name: parameter.default for parameter in (*self.parameters, *self.constants)}

    def complete(self, stated: Mapping[str, Value]) -> dict[str, Value]:
        """`stated` with defaults for the rest, in the space's order.

        A category must be one of its values; a size may lie between its smallest and largest value.
        Raises InputError for an unknown name (closest one named) or a value outside.
        """
        every = (*self.parameters, *self.constants)
        known = tuple(parameter.name for parameter in every)
        for name in stated:
            if name not in known:
                raise InputError(f"parameter {name!r} is unknown{nearest(name, known)}")
        for parameter in every:
            if parameter.name in stated:
                parameter.check(stated[parameter.name])
        return self.defaults() | dict(stated)
