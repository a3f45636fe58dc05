"""Steps of a campaign that need torch or the frames, each as a task, which reads and writes the campaign's directory.

Torch takes some 500 MB, which the process that runs a campaign does without for as long as walkers are simulated.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latf_sampling.campaign.executors import local
from latf_sampling.campaign.progress import StepProgress, silent
from latf_sampling.core.lease import Lease, lease_of, remove_leases
from latf_sampling.core.platforms import torch_threads
from latf_sampling.core.processes import LocalExecutor
from latf_sampling.core.tasks import MAX_LOST, WorkerDied, run_tasks
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.errors import FailureWarning, SimulationError, StoreError
from latf_sampling.records.programs import programs
from latf_sampling.records.records import Records

FURTHER = 0.01
"""Fraction of a step by which it gets further."""


@dataclass(frozen=True)
class Step:
    """A step of a campaign; it can be pickled.

    Attributes
    ----------
    function
        Called with the records of the campaign, a progress callback, and the arguments.
    arguments
        What else it is called with.
    name
        What it is called in an error.
    beside
        A file or folder that it writes, next to which it has its lease.
    submits
        Whether it submits tasks; an executor is its last argument then.
    """

    function: Callable[..., Any]
    arguments: tuple
    name: str
    beside: Path
    submits: bool = False


@dataclass(frozen=True)
class Work:
    """A step with the campaign that it belongs to; it can be pickled.

    Attributes
    ----------
    step
    directory
        That of the campaign.
    records
        Class of its records.
    programs
        Digests of the programs in the protocol that may run, see `latf_sampling.records.programs`.
    processes
        Number of processes that it may submit tasks to; `None` where it submits none.
    """

    step: Step
    directory: Path
    records: type[Records]
    programs: frozenset[str]
    processes: int | None

    def run(self, lease: Lease | None) -> Any:
        """Do the step in this process.

        Raises
        ------
        StoreError
            A program is not one of those that may run.
        """
        assert lease is not None
        step, files = self.step, CampaignDirectory(self.directory)
        with lease.held() as report, torch_threads(None), ExitStack() as stack:
            report(0.0, "reading frames")  # a step that is silent has not been begun
            protocol = files.protocol()
            for program in programs(protocol):
                if program.digest not in self.programs:
                    raise StoreError(f"{program.key}: {program.file} is not the program that the campaign began with.")
            arguments = step.arguments
            if self.processes is not None:
                arguments = (*arguments, stack.enter_context(local(self.processes)))
            return step.function(self.records(protocol, files, trust=True), report, *arguments)


def run_step(records: Records, step: Step, executor: Executor, progress: StepProgress = silent) -> Any:
    """Do a step of a campaign as a task of an executor; one that is lost goes on elsewhere.

    A step that submits tasks is done in this process, unless the executor is one of processes of this machine: it could
    not reach another one from there.

    Parameters
    ----------
    records
        Of the campaign.
    step
        What is done.
    executor
        Where.
    progress
        Called with the fraction that is done, and a few words.

    Raises
    ------
    SimulationError
        Its worker was lost again and again.
    LatfError
        As by its function.
    """
    processes = None
    if step.submits:
        if not isinstance(executor, LocalExecutor):
            return step.function(records, progress, *step.arguments, executor)
        processes = executor.processes
    allowed = frozenset(program.digest for program in programs(records.protocol))
    attempts = _Attempts(step, progress)
    results = run_tasks(
        _worker,
        Work(step, records.directory.path, type(records), allowed, processes),
        [(0, None)],
        executor,
        submitted=attempts.submitted,
        begin_again=attempts.begin_again,
        watch=attempts.watch,
        pulse=attempts.pulse,
        patience=records.protocol.patience,
        stop=attempts.stop,
        name=lambda number: step.name,
    )
    try:
        with closing(results):
            _, result = next(results)
    finally:
        remove_leases(attempts.stem.parent)
    if isinstance(result, WorkerDied):
        raise SimulationError(
            f"{step.name}: its process ended by {result.how} {MAX_LOST} times without getting further; what is "
            "finished stays, and the same command goes on with it."
        )
    return result


class _Attempts:
    """The attempts at one step: the lease of the present one, and how often it was lost without getting further."""

    def __init__(self, step: Step, progress: StepProgress) -> None:
        self.stem, self.name, self.progress = lease_of(step.beside), step.name, progress
        self.lease: Lease | None = None
        self.lost, self.furthest, self.last = 0, 0.0, 0.0
        self.begun = False

    def submitted(self, number: int, task: Lease | None) -> Lease | None:
        self.lease, self.begun = Lease.grant(self.stem), False
        return self.lease

    def begin_again(self, number: int, how: str, deaths: int) -> bool:
        self.lost = 1 if self.furthest > self.last + FURTHER else self.lost + 1
        self.last = self.furthest
        if self.lost >= MAX_LOST:
            return False
        words = f"it is started again, attempt {self.lost + 1} of {MAX_LOST}."
        warnings.warn(f"{self.name}: its process ended by {how}; {words}", FailureWarning, stacklevel=2)
        return True

    def watch(self, running: int) -> None:
        told = None if self.lease is None else self.lease.progress()
        if told is not None:
            self.begun = True
            self.furthest = max(self.furthest, told["fraction"])
            self.progress(told["fraction"], told["words"])

    def pulse(self, number: int) -> float | None:
        """No limit for one that was begun: how long a step takes depends on the data."""
        return time.monotonic() if self.begun else None

    def stop(self) -> None:
        if self.lease is not None:
            self.lease.revoke()


def _worker(work: Work) -> Callable[[Lease | None], Any]:
    return work.run
