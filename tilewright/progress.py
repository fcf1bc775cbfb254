"""The progress of a study on a terminal: a bar, the hypervolume of each device class, what was pruned."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from tilewright.search.outcome import Progress
from tilewright.search.study import StudyPlan


@contextmanager
def study_progress(
    plan: StudyPlan, stream: TextIO, *, quiet: bool
) -> Iterator[Callable[[Progress], None] | None]:
    """A callback for `run_study` that keeps a bar on `stream`; none if `quiet`."""
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("designs"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
        console=Console(file=stream),
        refresh_per_second=4,
    )
    task = bar.add_task("", total=plan.evaluations)

    def show(progress: Progress) -> None:
        bar.start()  # not before: the bar's thread would keep worker processes from being forked
        volumes = ", ".join(f"{name} {value:.4g}" for name, value in progress.hypervolume)
        bar.update(
            task,
            completed=progress.n_simulated,
            description=f"hypervolume {volumes or '-'}; {progress.n_pruned} pruned,"
            f" {progress.n_infeasible} infeasible",
        )

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()
