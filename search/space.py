"""Search spaces: a template's parameters on a device, as vectors of small integers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilewright.dataflow.errors import InputError, nearest
from tilewright.sim.space import Parameter, Space, Value

#: A point of a space: for each parameter the index of its value.
Vector = tuple[int, ...]
Vectors = NDArray[np.int64]


@dataclass(frozen=True)
class SearchSpace:
    """The values that a study allows a template's parameters to take on a device, parameters in order."""

    template: str
    device: str
    parameters: tuple[Parameter, ...]

    @property
    def n_values(self) -> tuple[int, ...]:
        return tuple(len(parameter.values) for parameter in self.parameters)

    @property
    def n_designs(self) -> int:
        """Points of the space, feasible or not (a Python integer: it may exceed 64 bits)."""
        total = 1
        for count in self.n_values:
            total *= count
        return total

    def decode(self, vector: Sequence[int]) -> dict[str, Value]:
        """The parameters of a point."""
        return {
            parameter.name: parameter.values[index]
            for parameter, index in zip(self.parameters, vector, strict=True)
        }

    def encode(self, values: Mapping[str, Value]) -> Vector:
        """The point of `values`, which name every parameter.

        Raises InputError for a value that is not in the space.
        """
        vector = []
        for parameter in self.parameters:
            value = values[parameter.name]
            if (index := _index_of(value, parameter)) is None:
                raise InputError(
                    f"parameter {parameter.name!r}: {value!r} is not one of {_listed(parameter.values)}"
                )
            vector.append(index)
        return tuple(vector)

    def default(self) -> Vector:
        """The template's defaults; where the study leaves a default out, the nearest value that it allows."""
        vector = []
        for parameter in self.parameters:
            index = _index_of(parameter.default, parameter)
            vector.append(0 if index is None else index)
        return tuple(vector)

    def vectors(self) -> Iterator[Vector]:
        """Every point, the last parameter varying fastest."""
        for flat in range(self.n_designs):
            vector = []
            for count in reversed(self.n_values):
                flat, index = divmod(flat, count)
                vector.append(index)
            yield tuple(reversed(vector))

    def neighbours(self, vector: Vector, axis: int | None = None) -> Iterator[Vector]:
        """The points one step away in an ordered parameter, or in that of `axis`: steps down, then up."""
        axes = range(len(vector)) if axis is None else (axis,)
        for step in (-1, 1):
            for i in axes:
                if self.parameters[i].ordered and 0 <= vector[i] + step < len(self.parameters[i].values):
                    yield (*vector[:i], vector[i] + step, *vector[i + 1 :])

    def random(self, n: int, rng: np.random.Generator) -> Vectors:
        """`n` points, each equally likely: (n, n_parameters)."""
        return rng.integers(0, np.array(self.n_values), size=(n, len(self.parameters)))

    def seeds(self, n: int, rng: np.random.Generator) -> Vectors:
        """`n` points to begin with: (n, n_parameters), n >= 1.

        The template's defaults, the corners with every ordered parameter at its smallest and at its largest
        value (categories at their defaults), and for the rest a latin hypercube: each parameter takes each of
        its values equally often, up to one. A point may be there twice.
        """
        default = np.array(self.default())
        ordered = np.array([parameter.ordered for parameter in self.parameters])
        smallest = np.where(ordered, 0, default)
        largest = np.where(ordered, np.array(self.n_values) - 1, default)
        first = np.array([default, smallest, largest], dtype=np.int64)[:n]
        return np.vstack([first, self._latin_hypercube(n - len(first), rng)])

    def _latin_hypercube(self, n: int, rng: np.random.Generator) -> Vectors:
        """Each parameter's values spread over the points as evenly as `n` allows, in a random order."""
        columns = []
        for count in self.n_values:
            # Stratum i of n covers the indices from i * count / n on, in integers so that none is out of
            # range.
            jitter = rng.integers(0, count, size=n)
            columns.append(rng.permutation((np.arange(n) * count + jitter) // max(n, 1)))
        return np.array(columns, dtype=np.int64).reshape(len(self.n_values), n).T


def search_spaces(
    spaces: Mapping[tuple[str, str], Space], allowed: Mapping[str, Sequence[Value]]
) -> tuple[SearchSpace, ...]:
    """The search space of each (template, device), with the parameters in `allowed` kept to those values.

    A parameter must be known to at least one template and a value legal on at least one device: each space
    keeps the values that it has. Raises InputError for an unknown parameter (closest one named), a value that
    is legal nowhere, or a space that is left without a value.
    """
    _check_allowed(spaces, allowed)
    return tuple(
        SearchSpace(
            template, device, tuple(_restricted(p, allowed, template, device) for p in space.parameters)
        )
        for (template, device), space in spaces.items()
    )


def _check_allowed(spaces: Mapping[tuple[str, str], Space], allowed: Mapping[str, Sequence[Value]]) -> None:
    everything = [parameter for space in spaces.values() for parameter in space.parameters]
    names = tuple(dict.fromkeys(parameter.name for parameter in everything))
    for name, values in allowed.items():
        if name not in names:
            raise InputError(f"space: parameter {name!r} is unknown{nearest(name, names)}")
        if not values:
            raise InputError(f"space: parameter {name!r} has no value")
        offered = [parameter for parameter in everything if parameter.name == name]
        for value in values:
            if all(_index_of(value, parameter) is None for parameter in offered):
                raise InputError(
                    f"space: parameter {name!r}: {value!r} is not one of {_listed(offered[0].values)}"
                )


def _restricted(
    parameter: Parameter, allowed: Mapping[str, Sequence[Value]], template: str, device: str
) -> Parameter:
    """`parameter` with the values that are allowed, in its own order."""
    if parameter.name not in allowed:
        return parameter
    kept = tuple(
        value for value in parameter.values if any(_same(value, other) for other in allowed[parameter.name])
    )
    if not kept:
        raise InputError(
            f"space: parameter {parameter.name!r} has no value left for {template} on {device},"
            f" which offers {_listed(parameter.values)}"
        )
    default = kept[_nearest_index(parameter, kept)]
    return Parameter(parameter.name, kept, default, parameter.meaning, parameter.ordered)


def _nearest_index(parameter: Parameter, kept: Sequence[Value]) -> int:
    """The kept value that stands closest to the default in the parameter's order."""
    position = [_index_of(value, parameter) or 0 for value in kept]
    home = _index_of(parameter.default, parameter) or 0
    return min(range(len(kept)), key=lambda i: (abs(position[i] - home), i))


def _index_of(value: Value, parameter: Parameter) -> int | None:
    for index, other in enumerate(parameter.values):
        if _same(value, other):
            return index
    return None


def _same(a: Value, b: Value) -> bool:
    """Equal, where True is not 1: a switch is no number."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _listed(values: Sequence[Value]) -> str:
    return ", ".join(str(value) for value in values)
