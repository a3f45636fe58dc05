"""Jobs that run at the same time as tasks of an executor, each with a lease, and how far they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import replace
from typing import ClassVar, Generic, TypeVar

from latf_sampling.core.lease import VISIBLE_AFTER, Lease, lease_of, remove_leases, wait_for
from latf_sampling.core.processes import LocalExecutor
from latf_sampling.core.tasks import MAX_LOST, WorkerDied, run_tasks
from latf_sampling.core.words import plural
from latf_sampling.errors import StoreError
from latf_sampling.simulation.equilibration import EquilibrationJob
from latf_sampling.simulation.job import WalkerJob

Job = TypeVar("Job", WalkerJob, EquilibrationJob)


class LeasedJobs(ABC, Generic[Job]):
    """Jobs, how far each is, and the lease of its present attempt.

    Parameters
    ----------
    jobs
        All of them.
    progress
        Called with the fraction of all that is done, and a few words.
    missing
        Numbers of those that are not finished.

    Attributes
    ----------
    kind : str
        What one is called.
    """

    kind: ClassVar[str]

    def __init__(self, jobs: list[Job], progress: Callable[[float, str], None], missing: Sequence[int]) -> None:
        self.jobs, self.progress, self.missing = jobs, progress, missing
        self.fractions = [float(number not in missing) for number in range(len(jobs))]
        self.leases: dict[int, Lease] = {}
        self.reported: dict[int, float] = {}  # by the present attempts, the last time that was looked
        self.at_once: int | None = None

    def run(
        self, executor: Executor, make_worker: Callable[[None], Callable[[tuple[Job, Lease | None]], None]]
    ) -> None:
        """Run those that are missing.

        Parameters
        ----------
        executor
            Where.
        make_worker
            Returns the function that runs a job under its lease.

        Raises
        ------
        StoreError
            What a worker on another node wrote does not come into sight.
        LatfError
            That of a worker.
        """
        if isinstance(executor, LocalExecutor) and self.missing:
            self.at_once = min(executor.processes, len(self.missing))
        results = run_tasks(
            make_worker,
            None,
            ((number, (self.jobs[number], None)) for number in self.missing),  # a lease comes with each attempt
            executor,
            submitted=self.submitted,
            begin_again=self.begin_again,
            watch=self.watch,
            pulse=self.reported.get,
            patience=self.jobs[0].protocol.patience if self.jobs else None,
            is_done=lambda number: self.is_finished(self.jobs[number]),
            stop=self.stop,
            name=lambda number: self.jobs[number].name,
        )
        try:
            with closing(results):
                for number, result in results:
                    if not isinstance(result, WorkerDied):
                        self._wait_for_files(self.jobs[number])
                    self.finished(number, result)
                    self.fractions[number] = 1.0
                    self.tell()
        finally:
            for folder in {lease.stem.parent for lease in self.leases.values()}:
                remove_leases(folder)

    @abstractmethod
    def is_finished(self, job: Job) -> bool:
        """Whether everything of a job is there."""

    @abstractmethod
    def finished(self, number: int, result: WorkerDied | None) -> None:
        """What a job that has ended leads to."""

    def _wait_for_files(self, job: Job) -> None:
        """Files that a worker wrote on another node may come into sight later."""
        if not wait_for(lambda: self.is_finished(job)):
            raise StoreError(
                f"{job.directory}: {job.name} has ended, and what it wrote last is not there after "
                f"{VISIBLE_AFTER:g} s; workers must write to a disk that this machine shares."
            )

    def begin_again(self, number: int, how: str, lost: int) -> bool:
        """Whether a job goes on whose worker was lost."""
        return lost < MAX_LOST

    def submitted(self, number: int, task: tuple[Job, Lease | None]) -> tuple[Job, Lease | None]:
        job, _ = task
        self.leases[number] = lease = Lease.grant(lease_of(job.directory))
        self.reported.pop(number, None)
        return replace(job, at_once=self.at_once), lease

    def watch(self, running: int) -> None:
        for number, lease in self.leases.items():
            if self.fractions[number] < 1 and (told := lease.progress()) is not None:
                self.reported[number] = told["fraction"]
                self.fractions[number] = min(told["fraction"], 0.999)
        self.tell()

    def tell(self) -> None:
        finished = sum(fraction == 1 for fraction in self.fractions)
        share = sum(self.fractions) / len(self.jobs)
        self.progress(share, f"{finished} of {plural(len(self.jobs), self.kind)} finished")

    def stop(self) -> None:
        for lease in self.leases.values():
            lease.revoke()
