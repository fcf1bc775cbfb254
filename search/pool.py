"""Worker processes: who examines the designs of a generation."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import BaseContext
from typing import Self

from tilewright.search.judge import Costs, Judge
from tilewright.search.outcome import Outcome
from tilewright.search.study import StudyError
from tilewright.sim.design import Design


@dataclass(frozen=True, slots=True)
class Job:
    """A design to examine against the front of its device class."""

    number: int
    design: Design
    front: Costs


class Pool:
    """`workers` processes, or this process itself if that is one.

    Processes are forked where that is safe, which is on Linux and from a single thread: they start at once
    and have the compiled kernels, and a script needs no `__main__` guard. Elsewhere they are spawned and read
    the kernels from the disk cache. They leave an interrupt to this process and end when it does, even
    killed.
    """

    def __init__(self, judge: Judge, workers: int) -> None:
        self._judge = judge
        self._executor: ProcessPoolExecutor | None = None
        if workers > 1:
            self._executor = ProcessPoolExecutor(
                workers, mp_context=_context(), initializer=_start_worker, initargs=(judge,)
            )
            # Fork now, while this is the only thread: a progress bar may well start another.
            self._executor.submit(os.getpid).result()

    def examine(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Outcome]]:
        """The outcomes of `jobs` by number, in the order in which they are done.

        Raises StudyError if a worker process dies; what a worker raises is raised here.
        """
        if self._executor is None:
            for job in jobs:
                yield job.number, self._judge.examine(job.design, job.front)
            return
        futures: dict[Future[Outcome], int] = {}
        try:
            futures = {
                self._executor.submit(_examine_in_worker, job.design, job.front): job.number for job in jobs
            }
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise StudyError("a worker process died (out of memory?); the study can be resumed") from error
        finally:
            for future in futures:
                future.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers once they are done with the design that they are at."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)


def _context() -> BaseContext:
    forks = sys.platform == "linux" and threading.active_count() == 1
    return multiprocessing.get_context("fork" if forks else "spawn")


#: The judge of this worker process; set once when the process starts.
_judge_of_worker: list[Judge] = []


def _start_worker(judge: Judge) -> None:
    _judge_of_worker.append(judge)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Without this a worker would wait for ever for jobs from a parent that was killed."""
    if (parent := multiprocessing.parent_process()) is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _examine_in_worker(design: Design, front: Costs) -> Outcome:
    return _judge_of_worker[0].examine(design, front)
