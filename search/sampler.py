"""Samplers: who proposes the next designs, behind ask and tell."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tilewright.search.space import SearchSpace, Vector, Vectors

#: Turns a point into the nearest feasible one (or leaves it).
Repair = Callable[[Vector], Vector]

#: Random points that are tried for each one that is wanted before a space counts as used up.
_TRIES = 50

#: Rounds of mating for one generation; what is missing then is filled with random points.
_MATING_ROUNDS = 5


class Sampler(Protocol):
    """Proposes points of one space; a point that was examined is never proposed again."""

    def ask(self) -> list[Vector]:
        """Distinct points that were not examined yet, best first; none when the space is used up."""
        ...

    def tell(
        self, examined: list[Vector], costs: NDArray[np.float64], violations: NDArray[np.float64]
    ) -> None:
        """What became of the first points of the last `ask`.

        costs: (n_examined, n_objectives), lower is better. violations: (n_examined,), 0 if feasible.
        """
        ...


class Exhaustive:
    """Every point of the space, `batch` at a time."""

    def __init__(self, space: SearchSpace, batch: int) -> None:
        self._points = space.vectors()
        self._batch = batch
        self._left: list[Vector] = []

    def ask(self) -> list[Vector]:
        self._left += islice(self._points, self._batch - len(self._left))
        return list(self._left)

    def tell(
        self,
        examined: list[Vector],
        costs: NDArray[np.float64],
        violations: NDArray[np.float64],
    ) -> None:
        self._left = self._left[len(examined) :]


class Random:
    """Random points, repaired, after the balanced seeds."""

    def __init__(self, space: SearchSpace, batch: int, repair: Repair, seed: int) -> None:
        self._space, self._batch, self._repair = space, batch, repair
        self._rng = np.random.default_rng(seed)
        self._seen: set[Vector] = set()
        self._seeded = False

    def ask(self) -> list[Vector]:
        if not self._seeded:
            self._seeded = True
            return seed_points(self._space, self._batch, self._repair, self._rng)
        return _unseen(self._space, self._batch, self._repair, self._rng, self._seen)

    def tell(
        self,
        examined: list[Vector],
        costs: NDArray[np.float64],
        violations: NDArray[np.float64],
    ) -> None:
        self._seen.update(examined)


class Nsga2:
    """NSGA-II of pymoo over indices: uniform crossover, and steps for ordered parameters as mutation.

    The first generation are the balanced seeds. Where mating finds no new point, random ones take its place.
    """

    def __init__(self, space: SearchSpace, batch: int, repair: Repair, seed: int, n_objectives: int) -> None:
        self._space, self._batch, self._repair = space, batch, repair
        self._rng = np.random.default_rng(seed)
        self._seen: set[Vector] = set()
        self._seeds = seed_points(space, batch, repair, self._rng)
        self._algorithm: Any = None
        self._n_objectives = n_objectives
        self._asked: Any = None

    def ask(self) -> list[Vector]:
        from pymoo.core.population import Population

        if self._algorithm is None:
            self._algorithm = _nsga2(
                self._space, self._seeds, self._repair, self._seen, self._n_objectives, self._rng
            )
        asked = self._algorithm.ask()
        points = [] if asked is None else _vectors(asked.get("X"))
        if missing := self._batch - len(points) if self._seen else 0:
            more = _unseen(self._space, missing, self._repair, self._rng, self._seen | set(points))
            if more:
                added = Population.new(X=np.array(more))
                asked = added if asked is None else Population.merge(asked, added)
                points += more
        self._asked = asked
        return points

    def tell(
        self, examined: list[Vector], costs: NDArray[np.float64], violations: NDArray[np.float64]
    ) -> None:
        self._seen.update(examined)
        infills = self._asked[: len(examined)]
        infills.set("F", costs, "G", violations[:, None], "H", np.zeros((len(examined), 0)))
        for individual in infills:
            individual.evaluated = {"F", "G", "H"}
        self._algorithm.tell(infills=infills)


def seed_points(space: SearchSpace, n: int, repair: Repair, rng: np.random.Generator) -> list[Vector]:
    """Up to `n` distinct points to begin with: the balanced seeds, repaired, then random ones."""
    seeds = [repair(vector) for vector in _vectors(space.seeds(n, rng))]
    points = list(dict.fromkeys(seeds))
    return points + _unseen(space, n - len(points), repair, rng, set(points))


def _unseen(
    space: SearchSpace, n: int, repair: Repair, rng: np.random.Generator, seen: set[Vector]
) -> list[Vector]:
    """Up to `n` distinct random points, repaired, that are not in `seen`.

    Where chance finds too few the space is nearly used up, and its points are gone through in order.
    """
    found: dict[Vector, None] = {}
    for vector in _vectors(space.random(_TRIES * n, rng)):
        if len(found) == n:
            break
        if vector not in seen and (point := repair(vector)) not in seen:
            found[point] = None
    if len(found) < n and space.n_designs <= 2 * (len(seen) + len(found)):
        found.update(dict.fromkeys(islice(_left_over(space, seen, found), n - len(found))))
    return list(found)


def _left_over(space: SearchSpace, seen: set[Vector], found: dict[Vector, None]) -> Iterator[Vector]:
    taken = set(found)
    return (vector for vector in space.vectors() if vector not in seen and vector not in taken)


def _vectors(points: Vectors) -> list[Vector]:
    return [tuple(point) for point in np.asarray(points).tolist()]


def _nsga2(
    space: SearchSpace,
    seeds: list[Vector],
    repair: Repair,
    seen: set[Vector],
    n_objectives: int,
    rng: np.random.Generator,
) -> Any:
    """pymoo's algorithm, set up; imported here because that takes half a second."""
    from pymoo.algorithms.moo.nsga2 import NSGA2, binary_tournament
    from pymoo.core.mating import Mating
    from pymoo.core.problem import Problem
    from pymoo.core.termination import NoTermination
    from pymoo.operators.crossover.ux import UX
    from pymoo.operators.selection.tournament import TournamentSelection

    from tilewright.search.operators import Repaired, StepMutation, Unseen

    largest = np.array(space.n_values) - 1
    unseen, repaired = Unseen(seen), Repaired(repair)
    mating = Mating(
        TournamentSelection(func_comp=binary_tournament),
        UX(),
        StepMutation(np.array([parameter.ordered for parameter in space.parameters])),
        repair=repaired,
        eliminate_duplicates=unseen,
        n_max_iterations=_MATING_ROUNDS,
    )
    problem = Problem(
        n_var=len(largest),
        n_obj=n_objectives,
        n_ieq_constr=1,
        xl=np.zeros_like(largest),
        xu=largest,
        vtype=int,
    )
    algorithm = NSGA2(
        pop_size=len(seeds), sampling=np.array(seeds), mating=mating, eliminate_duplicates=unseen
    )
    algorithm.setup(problem, seed=int(rng.integers(2**31)), termination=NoTermination(), verbose=False)
    return algorithm
