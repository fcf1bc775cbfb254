"""pymoo operators for points whose coordinates are indices into lists of values."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.mutation import Mutation
from pymoo.core.repair import Repair

from tilewright.search.space import Vector, Vectors

#: Chance that a step goes on by one more value: a mean of 1.5 values, now and then far enough to leave a
#: valley.
_LONGER_STEP = 1 / 3


class StepMutation(Mutation):  # type: ignore[misc]
    """Change each parameter with probability 1 / n_parameters, and at least one of them.

    An ordered parameter steps up or down by a geometrically distributed number of values and turns back at
    the ends; a category takes any of its other values.
    """

    def __init__(self, ordered: NDArray[np.bool_]) -> None:
        super().__init__()
        self._ordered = ordered

    def _do(  # the name X is pymoo's
        self,
        problem: Any,
        X: Vectors,  # noqa: N803
        *_: Any,
        random_state: Any = None,
        **__: Any,
    ) -> Vectors:
        points = np.asarray(X).astype(np.int64)  # crossover hands on whole numbers as floats
        largest = np.asarray(problem.xu).astype(np.int64)
        chosen = random_state.random(points.shape) < 1 / points.shape[1]
        one = random_state.integers(0, points.shape[1], len(points))
        chosen[np.arange(len(points)), one] |= ~chosen.any(axis=1)
        length = random_state.geometric(1 - _LONGER_STEP, points.shape)
        stepped = _turned_back(points + length * random_state.choice((-1, 1), points.shape), largest)
        away = random_state.integers(1, np.maximum(largest, 1) + 1, points.shape)
        changed = np.where(self._ordered, stepped, (points + away) % (largest + 1))
        return np.where(chosen, changed, points)


def _turned_back(points: Vectors, largest: Vectors) -> Vectors:
    """Reflect coordinates at 0 and at `largest` until they lie between."""
    period = np.maximum(2 * largest, 1)
    folded = np.mod(points, period)
    return np.where(largest == 0, 0, np.minimum(folded, period - folded))


class Repaired(Repair):  # type: ignore[misc]
    """Moves each point to the nearest feasible one."""

    def __init__(self, repair: Callable[[Vector], Vector]) -> None:
        super().__init__()
        self._repair = repair

    def _do(self, _: Any, X: Vectors, **__: Any) -> Vectors:  # noqa: N803
        return np.array([self._repair(tuple(point)) for point in np.asarray(X).tolist()], dtype=np.int64)


class Unseen(DuplicateElimination):  # type: ignore[misc]
    """Drops points that were examined before, and all but the first of equal ones."""

    def __init__(self, seen: set[Vector]) -> None:
        super().__init__()
        self._seen = seen

    def do(self, pop: Any, *others: Any, **_: Any) -> Any:
        met = {tuple(point) for other in others for point in np.asarray(other.get("X")).tolist()}
        keep = []
        for i, point in enumerate(np.asarray(pop.get("X")).tolist()):
            vector = tuple(point)
            if vector not in self._seen and vector not in met:
                met.add(vector)
                keep.append(i)
        return pop[keep]
