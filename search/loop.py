"""The loop of a study: generations of designs, each examined against the front as it stood before."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tilewright.search.field import Field
from tilewright.search.front import in_decades, reference_point
from tilewright.search.judge import Costs, Judge
from tilewright.search.objective import cost_of
from tilewright.search.outcome import Generation, Outcome, Progress, Row
from tilewright.search.pareto import hypervolume, pareto_mask
from tilewright.search.pool import Job, Pool
from tilewright.search.space import Vector
from tilewright.search.store import Store
from tilewright.search.study import EvaluationKeys, StudyPlan
from tilewright.sim.design import Design

ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A point that a sampler asked for, with its place in the study."""

    number: int
    field: Field
    vector: Vector
    design: Design
    key: str


class Loop:
    """A study while it runs.

    All fields run a generation together, so that the workers share its designs. Everything that decides what
    happens next is taken from the state before the generation; the order in which its outcomes come in
    decides nothing.
    """

    def __init__(
        self,
        plan: StudyPlan,
        judge: Judge,
        fields: Sequence[Field],
        store: Store,
        pool: Pool,
        progress: ProgressCallback,
    ) -> None:
        self._objectives = plan.objectives
        self._n_total = plan.evaluations
        self._judge, self._fields, self._store, self._pool = judge, fields, store, pool
        self._progress = progress
        self._keys = EvaluationKeys(plan)
        self._classes = sorted({field.device_class for field in fields})
        self._front: dict[str, Costs] = {name: np.empty((0, len(plan.objectives))) for name in self._classes}
        self._reference: dict[str, Costs] = {}
        self._hypervolume = dict.fromkeys(self._classes, 0.0)
        self._generation = 0
        self._n_examined = self._n_simulated = self._n_pruned = self._n_infeasible = self._n_from_store = 0

    def run(self) -> None:
        """Run generations until every field is done."""
        active = list(self._fields)
        while active:
            asked = {field: field.ask() for field in active}
            done = [field for field in active if not asked[field]]
            self._run_generation(asked)
            done += [field for field in active if asked[field] and field.is_done]
            active = [field for field in active if field not in done]
            _hand_on(done, active)

    def _run_generation(self, asked: dict[Field, list[Vector]]) -> None:
        points = self._numbered(asked)
        if not points:
            return
        outcomes = self._outcomes(points)
        for field in asked:
            own = [point for point in points if point.field is field]
            if own:
                field.tell([point.vector for point in own], [outcomes[point.number] for point in own])
        for device_class in self._classes:
            self._advance_front(
                device_class, [outcomes[p.number] for p in points if p.field.device_class == device_class]
            )
        self._store.put_generation([self._state(device_class) for device_class in self._classes])
        self._generation += 1
        self._report()

    def _numbered(self, asked: dict[Field, list[Vector]]) -> list[_Asked]:
        points = []
        for field, vectors in asked.items():
            for vector in vectors:
                design = field.design(vector)
                points.append(_Asked(self._n_examined, field, vector, design, self._keys.of(design)))
                self._n_examined += 1
        return points

    def _outcomes(self, points: Sequence[_Asked]) -> dict[int, Outcome]:
        """The outcome of each point by number; every new one is in the store when this returns."""
        outcomes: dict[int, Outcome] = {}
        jobs = []
        for point in points:
            if outcome := self._stored(point) or self._screened_out(point):
                outcomes[point.number] = outcome
                self._count(outcome)
            else:
                jobs.append(Job(point.number, point.design, self._front[point.field.device_class]))
        by_number = {point.number: point for point in points}
        for number, outcome in self._pool.examine(jobs):
            self._put(by_number[number], outcome)
            outcomes[number] = outcome
            self._count(outcome)
        return outcomes

    def _stored(self, point: _Asked) -> Outcome | None:
        """The stored outcome, if it is still what would come out.

        What is pruned depends on the front, so that is decided anew from the bounds that are stored.
        """
        if (found := self._store.get(point.key)) is None:
            return None
        outcome, *place = found
        front = self._front[point.field.device_class]
        if outcome.status == "pruned" and not self._judge.is_pruned(outcome.metrics, front):
            return None
        if place != [point.number, self._generation]:
            self._store.renumber(point.key, point.number, self._generation)
        self._n_from_store += 1
        return outcome

    def _screened_out(self, point: _Asked) -> Outcome | None:
        """The outcome of a point that needs no simulation, as its hardware alone rules it out."""
        screening = point.field.screening(point.vector)
        if screening.violation == 0:
            return None
        _, metrics = self._judge.screen(point.design)
        outcome = Outcome("infeasible", screening.reason, screening.violation, metrics=metrics)
        self._put(point, outcome)
        return outcome

    def _put(self, point: _Asked, outcome: Outcome) -> None:
        device_class = point.field.device_class
        self._store.put(Row(point.number, self._generation, point.key, device_class, point.design, outcome))

    def _count(self, outcome: Outcome) -> None:
        self._n_simulated += outcome.simulated
        self._n_pruned += outcome.status == "pruned"
        self._n_infeasible += outcome.status == "infeasible"
        self._report()

    def _report(self) -> None:
        self._progress(
            Progress(
                generation=self._generation,
                n_simulated=self._n_simulated,
                n_total=self._n_total,
                n_pruned=self._n_pruned,
                n_infeasible=self._n_infeasible,
                n_from_store=self._n_from_store,
                hypervolume=tuple(self._hypervolume.items()),
            )
        )

    def _advance_front(self, device_class: str, outcomes: Sequence[Outcome]) -> None:
        """Let the feasible outcomes of a generation join the front, and measure it."""
        values = [
            [cost_of(name, outcome.metrics) for name in self._objectives]
            for outcome in outcomes
            if outcome.status == "ok"
        ]
        if not values:
            return
        costs = np.array(values)
        if device_class not in self._reference:
            self._reference[device_class] = reference_point(costs, self._objectives)
        both = np.vstack([self._front[device_class], costs])
        front = both[pareto_mask(both)]
        self._front[device_class] = front
        self._hypervolume[device_class] = hypervolume(
            in_decades(front, self._objectives), self._reference[device_class]
        )

    def _state(self, device_class: str) -> Generation:
        return Generation(
            number=self._generation,
            device_class=device_class,
            hypervolume=self._hypervolume[device_class],
            n_front=len(self._front[device_class]),
            n_simulated=self._n_simulated,
            n_pruned=self._n_pruned,
            n_infeasible=self._n_infeasible,
        )


def _hand_on(done: Sequence[Field], active: Sequence[Field]) -> None:
    """Share what fields that are done have left of their quotas among those that go on."""
    left = sum(max(0, field.quota - field.n_simulated) for field in done)
    for i, field in enumerate(active):
        field.quota += left // len(active) + (i < left % len(active))
