"""The walkers of a round, each a task of an executor.

A task is a walker from its last finished segment to its end. Walkers that share a bias do so through the files of the
campaign, and progress comes back through files, so that it does not matter where a task runs.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import nullcontext

from latf_sampling.core.lease import Lease
from latf_sampling.core.processes import LocalExecutor
from latf_sampling.core.tasks import MAX_LOST, WorkerDied
from latf_sampling.core.words import plural
from latf_sampling.data.layout import WalkerDirectory
from latf_sampling.errors import FailureWarning
from latf_sampling.simulation.exchange import attempt_interval
from latf_sampling.simulation.job import WalkerJob
from latf_sampling.simulation.leased_jobs import LeasedJobs
from latf_sampling.simulation.retirement import give_another_chance, refuse_too_many, retire_lost
from latf_sampling.simulation.walker import run_walker

ALL_BEGIN = 60.0
"""s after which it is said that walkers with replica exchange wait for others that have not begun."""
Task = tuple[WalkerJob, Lease | None]


def run_walkers(
    jobs: list[WalkerJob],
    progress: Callable[[float, str], None],
    executor: Executor | None = None,
    processes: int | None = None,
) -> None:
    """Run walkers in parallel, each as a task of an executor.

    A walker whose worker is lost, since the system killed it, it crashed, its node failed, or there was no new frame
    for the protocol's `stalled_after`, is submitted again and goes on after its last finished segment. It is retired if
    that happens `core.tasks.MAX_LOST` times in one segment. The others go on.

    Parameters
    ----------
    jobs
        All walkers of a round.
    progress
        Called with the fraction of all segments that is done, and a few words.
    executor
        Where walkers run; `None` takes processes of this machine.
    processes
        Number of these; `None` takes one per core.

    Raises
    ------
    SimulationError
        A walker cannot be simulated, or more than half of them had to be retired, or the executor failed; the others
        are stopped, and finished segments stay.
    LatfError
        Another error of a walker, such as a full disk; the others are stopped likewise.
    """
    give_another_chance(jobs)
    refuse_too_many(jobs)
    with (
        LocalExecutor(processes) if executor is None else nullcontext(executor) as used,
        used.widened(len(jobs)) if _exchange(jobs) and isinstance(used, LocalExecutor) else nullcontext(),
    ):
        _Round(jobs, progress).run(used, _make_worker)


class _Round(LeasedJobs[WalkerJob]):
    """The walkers of a round."""

    kind = "walker"

    def __init__(self, jobs: list[WalkerJob], progress: Callable[[float, str], None]) -> None:
        missing = [number for number, job in enumerate(jobs) if not self.is_finished(job)]
        super().__init__(jobs, progress, missing)
        self.waits_until = math.inf
        self.lost: Counter[tuple[int, int]] = Counter()
        self.known = [len(_directory(job).failures().failures) for job in jobs]

    def submitted(self, number: int, task: Task) -> Task:
        if _exchange(self.jobs):  # also a walker whose worker was lost, while the others keep all that are left
            self.waits_until = time.monotonic() + ALL_BEGIN
        return super().submitted(number, task)

    def watch(self, running: int) -> None:
        if time.monotonic() > self.waits_until and self.at_once is None:  # processes of this machine are enough
            self.waits_until = math.inf
            begun = sum(self.leases[number].progress() is not None for number in self.missing if number in self.leases)
            if begun < len(self.missing):
                _warn(
                    f"replica exchange: {begun} of {plural(len(self.missing), 'walker')} run, and wait for the others; "
                    f"give the executor {len(self.missing)} workers at the same time."
                )
        super().watch(running)

    def begin_again(self, number: int, how: str, lost: int) -> bool:
        job, segment = self.jobs[number], _directory(self.jobs[number]).finished()
        self.lost[number, segment] += 1
        if self.lost[number, segment] >= MAX_LOST:
            return False
        _warn(
            f"{job.name}: its process ended by {how} in segment {segment}; it is started again, attempt "
            f"{self.lost[number, segment] + 1} of {MAX_LOST}."
        )
        return True

    def is_finished(self, job: WalkerJob) -> bool:
        return _directory(job).is_finished(job.segments)

    def finished(self, number: int, result: WorkerDied | None) -> None:
        job = self.jobs[number]
        if isinstance(result, WorkerDied):
            retire_lost(job, f"its process ended by {result.how} {MAX_LOST} times")
        failures = _directory(job).failures()
        for failure in failures.failures[self.known[number] : -1 if failures.retired is not None else None]:
            _warn(f"{job.name}: segment {failure.segment} was rolled back: {failure.sentence}.")
        if failures.retired is not None:
            refuse_too_many(self.jobs)
            _warn(f"{job.name} is retired: {failures.retired}. The round goes on without it.")


def _make_worker(setup: None) -> Callable[[Task], None]:
    return _run_walker


def _run_walker(task: Task) -> None:
    """The task: a walker to its end, under its lease."""
    job, lease = task
    assert lease is not None
    with lease.held() as report:
        run_walker(job, report)


def _exchange(jobs: list[WalkerJob]) -> bool:
    """Whether walkers have replica exchange, and wait for each other."""
    return bool(jobs) and attempt_interval(jobs[0]) > 0


def _directory(job: WalkerJob) -> WalkerDirectory:
    return WalkerDirectory(job.directory)


def _warn(text: str) -> None:
    warnings.warn(text, FailureWarning, stacklevel=3)
