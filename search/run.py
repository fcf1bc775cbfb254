"""Running a study: from a plan to its fronts in a folder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tilewright.dataflow.errors import InputError
from tilewright.search.evaluator import Evaluate
from tilewright.search.field import Field
from tilewright.search.front import Fronts, write_tables
from tilewright.search.judge import Judge
from tilewright.search.loop import Loop, ProgressCallback
from tilewright.search.objective import METRICS
from tilewright.search.pool import Pool
from tilewright.search.space import SearchSpace, search_spaces
from tilewright.search.store import Store
from tilewright.search.study import StudyPlan


def run_study(
    plan: StudyPlan,
    folder: Path,
    *,
    workers: int = 1,
    resume: bool = False,
    progress: ProgressCallback | None = None,
    evaluate: Evaluate | None = None,
) -> Fronts:
    """Run a study, or what is left of it, and write its tables; returns its fronts.

    The result depends on the plan alone: not on `workers`, and not on whether the study was interrupted,
    killed and resumed, for a resumed study runs from the start and finds its outcomes in the store.
    `progress` is called after every design and generation. `evaluate` replaces the simulator.

    Raises InputError for a wrong plan, a folder that holds another study (or this one, without `resume`), or
    if no design is feasible; StudyError if the folder cannot be written. KeyboardInterrupt leaves a store
    that can be resumed.
    """
    if workers < 1:
        raise InputError(f"workers must be >= 1, got {workers}")
    if evaluate is None:
        from tilewright.search.simulator import Simulator

        evaluate = Simulator(plan)
    judge = Judge(evaluate, plan.objectives, plan.parsed_constraints)
    fields, left_out = _fields(plan, judge)
    with Store(folder, plan.identity(), resume=resume) as store:
        if workers > 1:
            evaluate.prepare(fields[0].design(fields[0].space.default()))
        with Pool(judge, workers) as pool:
            Loop(plan, judge, fields, store, pool, progress or (lambda _: None)).run()
        left_out += [reason for field in fields if (reason := field.why_without_front())]
        store.put_left_out(left_out)
        fronts = store.fronts()
    write_tables(fronts, folder)
    if not fronts.fronts:
        raise InputError(left_out[0])
    return fronts


def _fields(plan: StudyPlan, judge: Judge) -> tuple[list[Field], list[str]]:
    """A field for each template on each device that has a feasible design, and why the others have none.

    Raises InputError if there is no field.
    """
    evaluate = judge.evaluate
    pairs = [(template, device) for template in plan.templates for device in plan.devices]
    found = {pair: evaluate.space(*pair) for pair in pairs}
    spaces = search_spaces(found, plan.space)
    _check_classes(plan, {evaluate.device_class(device) for device in plan.devices})
    quotas = _quotas(plan, spaces)
    seeds = np.random.SeedSequence(plan.seed).generate_state(len(spaces)).tolist()
    fields, left_out = [], []
    for space, quota, seed in zip(spaces, quotas, seeds, strict=True):
        field = Field(plan, judge, space, quota, seed)
        if reason := field.why_empty():
            left_out.append(reason)
        else:
            fields.append(field)
    if not fields:
        raise InputError(left_out[0])
    return fields, left_out


def _check_classes(plan: StudyPlan, device_classes: set[str]) -> None:
    for constraint in plan.parsed_constraints:
        if not any(constraint.applies_to(device_class) for device_class in device_classes):
            raise InputError(
                f"constraint '{constraint}': no device of the study is an {constraint.device_class}"
            )
    for name in plan.objectives:
        if (needed := METRICS[name].device_class) and device_classes != {needed}:
            raise InputError(f"objective {name!r} is known of {needed} devices only")


def _quotas(plan: StudyPlan, spaces: Sequence[SearchSpace]) -> list[int]:
    """The evaluations of each space: equal shares, the first ones larger by one if need be."""
    if plan.sampler == "exhaustive":
        sizes = [space.n_designs for space in spaces]
        if sum(sizes) > plan.evaluations:
            raise InputError(
                f"sampler 'exhaustive': the space has {sum(sizes)} designs,"
                f" evaluations are {plan.evaluations}"
            )
        return sizes
    if plan.evaluations < len(spaces):
        raise InputError(f"evaluations must be >= {len(spaces)}, one for each template on each device")
    share, rest = divmod(plan.evaluations, len(spaces))
    return [share + (i < rest) for i in range(len(spaces))]
