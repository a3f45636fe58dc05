"""The training after a round as a task of an executor, which reads and writes the directory of the campaign."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from latf_sampling.campaign.progress import StepProgress
from latf_sampling.core.lease import Lease, lease_of, remove_leases
from latf_sampling.core.platforms import torch_threads
from latf_sampling.core.tasks import MAX_LOST, WorkerDied, run_tasks
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.errors import FailureWarning, StoreError, TrainingError
from latf_sampling.records.programs import programs
from latf_sampling.records.records import Records

FURTHER = 0.01
"""Fraction of a training by which it gets further."""


@dataclass(frozen=True)
class Training:
    """The training of the model after a round.

    Attributes
    ----------
    directory
        That of the campaign.
    index
        Number of the round.
    campaign, records
        Their classes.
    programs
        Digests of the programs in the protocol that may run, see `latf_sampling.records.programs`.
    """

    directory: Path
    index: int
    campaign: type
    records: type[Records]
    programs: frozenset[str]

    def run(self, lease: Lease | None) -> None:
        """Train the model in this process.

        Raises
        ------
        StoreError
            A program is not one of those that may run.
        """
        assert lease is not None
        files = CampaignDirectory(self.directory)
        with lease.held() as report, torch_threads(None):
            report(0.0, "reading frames")  # a training that is silent has not been begun
            protocol = files.protocol()
            for program in programs(protocol):
                if program.digest not in self.programs:
                    raise StoreError(f"{program.key}: {program.file} is not the program that the campaign began with.")
            campaign = object.__new__(self.campaign)
            campaign.records = self.records(protocol, files, trust=True)
            campaign.learn_round(self.index, report)


def learn(records: Records, campaign: type, index: int, executor: Executor, progress: StepProgress) -> None:
    """Train the model after a round on an executor, and write it; a training that is lost goes on elsewhere.

    Parameters
    ----------
    records
        Of the campaign.
    campaign
        Its class.
    index
        Number of the round.
    executor
        Where the model is trained.
    progress
        Called with the fraction that is done, and a few words.

    Raises
    ------
    TrainingError
        Training failed, or its worker was lost again and again.
    LatfError
        As by `Campaign.train`.
    """
    allowed = frozenset(program.digest for program in programs(records.protocol))
    training = Training(records.directory.path, index, campaign, type(records), allowed)
    attempts = _Attempts(records.directory.round(index).learning.path, f"round {index}: learn", progress)
    results = run_tasks(
        _learner,
        training,
        [(0, None)],
        executor,
        submitted=attempts.submitted,
        begin_again=attempts.begin_again,
        watch=attempts.watch,
        pulse=attempts.pulse,
        patience=records.protocol.patience,
        stop=attempts.stop,
        name=lambda number: attempts.name,
    )
    try:
        with closing(results):
            for _, result in results:
                if isinstance(result, WorkerDied):
                    raise TrainingError(
                        f"{attempts.name}: its process ended by {result.how} {MAX_LOST} times without getting further; "
                        "what is finished stays, and the same command goes on with it."
                    )
    finally:
        remove_leases(attempts.stem.parent)


class _Attempts:
    """The attempts at one training: the lease of the present one, and how often it was lost without getting further."""

    def __init__(self, folder: Path, name: str, progress: StepProgress) -> None:
        self.stem, self.name, self.progress = lease_of(folder), name, progress
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
        """No limit for one that was begun: how long a stage takes depends on the data."""
        return time.monotonic() if self.begun else None

    def stop(self) -> None:
        if self.lease is not None:
            self.lease.revoke()


def _learner(training: Training) -> Callable[[Lease | None], None]:
    return training.run
