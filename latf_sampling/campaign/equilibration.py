"""The equilibration before the first round, each a task of the executor."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

from latf_sampling.campaign.progress import StepProgress
from latf_sampling.core.lease import Lease
from latf_sampling.core.manifest import Manifest
from latf_sampling.core.tasks import MAX_LOST, WorkerDied
from latf_sampling.errors import FailureWarning, SimulationError
from latf_sampling.records.records import Records
from latf_sampling.settings import RoundSettings
from latf_sampling.simulation.equilibration import EquilibrationJob, equilibrate
from latf_sampling.simulation.leased_jobs import LeasedJobs

Task = tuple[EquilibrationJob, Lease | None]


def equilibrated(records: Records, index: int, executor: Executor, progress: StepProgress) -> list[Path | None]:
    """What each walker of a run starts from, after the equilibrations that are missing; `None` without equilibration.

    Parameters
    ----------
    records
        Of the campaign.
    index
        Number of the run: the first round, or the simulations of `evaluate`.
    executor
        Where tasks run.
    progress
        Called with the fraction that is done, and a few words.

    Raises
    ------
    SimulationError
        An equilibration failed, or its worker was lost again and again.
    """
    protocol = records.protocol
    settings, run = protocol.equilibrate, protocol.runs[index]
    assert isinstance(run, RoundSettings)
    if settings is None:
        return [None] * len(run.walkers)
    jobs = {job.directory: job for job in (job_of(records, index, number) for number in range(len(run.walkers)))}
    missing = [job for job in jobs.values() if not job.is_finished]
    if settings.pressure is not None and missing:
        # That of the first round; where external trajectories are round 0, of the run itself.
        begins = 0 if isinstance(protocol.runs[0], RoundSettings) else index
        first = replace(job_of(records, begins, 0), pressure=settings.pressure)
        _run([first], executor, lambda share, words: progress(0.5 * share, words))
        volume = Manifest.load(first.marker).verified().content["volume"]
        missing = [replace(job, pressure=None, volume=volume) for job in missing if job.directory != first.directory]
        _run(missing, executor, lambda share, words: progress(0.5 + 0.5 * share, words))
    else:
        _run(missing, executor, progress)
    return [job_of(records, index, number).start for number in range(len(run.walkers))]


def job_of(records: Records, index: int, number: int) -> EquilibrationJob:
    """The equilibration that a walker of a run begins with."""
    protocol, directory = records.protocol, records.directory
    run = protocol.runs[index]
    assert isinstance(run, RoundSettings)
    folder = directory.equilibration_of(protocol, index, number)
    return EquilibrationJob(protocol, folder, directory.system, run.walkers[number], number)


def _run(jobs: list[EquilibrationJob], executor: Executor, progress: StepProgress) -> None:
    jobs = [job for job in jobs if not job.is_finished]
    if jobs:
        _Equilibrations(jobs, progress, range(len(jobs))).run(executor, _make_worker)


class _Equilibrations(LeasedJobs[EquilibrationJob]):
    """Equilibrations that run at the same time."""

    kind = "equilibration"

    def is_finished(self, job: EquilibrationJob) -> bool:
        return job.is_finished

    def finished(self, number: int, result: WorkerDied | None) -> None:
        job = self.jobs[number]
        if isinstance(result, WorkerDied):
            raise SimulationError(
                f"{job.name}: its process ended by {result.how} {MAX_LOST} times; what is finished stays, and the same "
                "command goes on with it."
            )
        for remark in Manifest.load(job.marker).content["warnings"]:
            warnings.warn(remark, FailureWarning, stacklevel=2)


def _make_worker(setup: None) -> Callable[[Task], None]:
    return _equilibrate


def _equilibrate(task: Task) -> None:
    job, lease = task
    assert lease is not None
    with lease.held() as report:
        equilibrate(job, report)
