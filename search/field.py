"""Fields: one template on one device, with its sampler and its share of a study's evaluations."""

from collections.abc import Sequence
from math import inf

import numpy as np

from tilewright.search.front import in_decades
from tilewright.search.judge import Judge
from tilewright.search.objective import cost_of
from tilewright.search.outcome import Outcome
from tilewright.search.repair import Screening, nearest_feasible, why_empty
from tilewright.search.sampler import Exhaustive, Nsga2, Random, Sampler
from tilewright.search.space import SearchSpace, Vector
from tilewright.search.study import DEFAULT_POPULATION, StudyPlan
from tilewright.sim.design import Design

#: A space is screened in full for a feasible design up to this size, by this many random points beyond.
_FULL_SCREENING = 4096
_RANDOM_SCREENING = 256
#: Points that the search for a first feasible design may look at from the closest infeasible one.
_LONG_REPAIR = 1024

#: Designs that a field may examine without a simulation, as a multiple of its evaluations: what the bound
#: or a constraint rules out costs little, but must not keep a study going for ever.
_FREE_PER_EVALUATION = 4

#: Violations told to the sampler: a pruned design stands behind every feasible one and before every
#: infeasible one, and one that cannot be built behind all.
_PRUNED_VIOLATION = 1e-9
_WORST_VIOLATION = 1e9


class Field:
    """A template on a device: its space, what is known of its points, and who proposes the next ones."""

    def __init__(self, plan: StudyPlan, judge: Judge, space: SearchSpace, quota: int, seed: int) -> None:
        self.space = space
        self.device_class = judge.evaluate.device_class(space.device)
        self.quota = quota
        self.n_simulated = 0
        self.n_free = 0
        self._objectives = plan.objectives
        self._mapping_objective = plan.mapping_objective
        self._judge = judge
        self._screenings: dict[Vector, Screening] = {}
        self._missed: list[Screening] | None = []  # None as soon as a design is feasible
        self._sampler = self._make_sampler(plan, seed)

    def _make_sampler(self, plan: StudyPlan, seed: int) -> Sampler:
        """The plan's sampler, or every point in turn where the quota suffices for that."""
        batch = max(4, min(plan.population or DEFAULT_POPULATION, self.quota))
        if plan.sampler == "exhaustive" or self.space.n_designs <= self.quota:
            return Exhaustive(self.space, batch)
        if plan.sampler == "random":
            return Random(self.space, batch, self._repaired, seed)
        return Nsga2(self.space, batch, self._repaired, seed, len(plan.objectives))

    @property
    def is_done(self) -> bool:
        """Whether the quota is used up, or too much was ruled out without a simulation to go on."""
        return self.n_simulated >= self.quota or self.n_free > _FREE_PER_EVALUATION * self.quota

    def ask(self) -> list[Vector]:
        """The next points, no more than evaluations are left; none when the space is used up."""
        return self._sampler.ask()[: self.quota - self.n_simulated]

    def tell(self, vectors: list[Vector], outcomes: Sequence[Outcome]) -> None:
        """Count the outcomes of the points that were asked for and let the sampler learn from them."""
        simulated = [outcome.simulated for outcome in outcomes]
        self.n_simulated += sum(simulated)
        self.n_free += len(outcomes) - sum(simulated)
        self._note_missed(outcomes)
        values = [
            [cost_of(name, outcome.metrics) for name in self._objectives]
            for outcome in outcomes
            if outcome.simulated
        ]
        # What was not simulated has no costs; its violation alone decides how the sampler ranks it.
        costs = np.zeros((len(outcomes), len(self._objectives)))
        if values:
            costs[simulated] = in_decades(np.array(values), self._objectives)
        violations = np.array([_told_violation(outcome) for outcome in outcomes])
        self._sampler.tell(vectors, costs, violations)

    def _note_missed(self, outcomes: Sequence[Outcome]) -> None:
        if self._missed is None or any(outcome.status != "infeasible" for outcome in outcomes):
            self._missed = None
            return
        for outcome in outcomes:
            known = self._judge.screening_of(outcome.metrics, self.space.device)
            self._missed.append(known if known.violated else Screening(inf, reason=outcome.reason))

    def why_without_front(self) -> str:
        """Why no examined design is feasible, in one line; "" if one is."""
        return why_empty(self.space, self._missed) if self._missed else ""

    def design(self, vector: Vector) -> Design:
        return Design(
            self.space.template, self.space.device, self.space.decode(vector), self._mapping_objective
        )

    def screening(self, vector: Vector) -> Screening:
        """What is known of a point before it is simulated; each point is screened once."""
        if (known := self._screenings.get(vector)) is None:
            known, _ = self._judge.screen(self.design(vector))
            self._screenings[vector] = known
        return known

    def _repaired(self, vector: Vector) -> Vector:
        return nearest_feasible(self.space, vector, self.screening)

    def why_empty(self) -> str:
        """Why no point passes the screening, in one line; "" as soon as one is found that does."""
        points = [self.space.default()]
        if self.space.n_designs <= _FULL_SCREENING:
            points += self.space.vectors()
        else:
            some = self.space.seeds(_RANDOM_SCREENING, np.random.default_rng(0))
            points += [tuple(point) for point in some.tolist()]
        for point in points:
            if self.screening(point).violation == 0:
                return ""
        closest = min(points, key=lambda point: self.screening(point).violation)
        found = nearest_feasible(self.space, closest, self.screening, _LONG_REPAIR)
        if self.screening(found).violation == 0:
            return ""
        return why_empty(self.space, list(self._screenings.values()))


def _told_violation(outcome: Outcome) -> float:
    if outcome.status == "pruned":
        return _PRUNED_VIOLATION
    return min(outcome.violation, _WORST_VIOLATION)
