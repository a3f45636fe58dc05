"""The walkers of a round, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from latf_sampling.core.processes import WorkerDied, available_cores, run_tasks
from latf_sampling.core.words import plural
from latf_sampling.data.layout import WalkerDirectory
from latf_sampling.errors import FailureWarning
from latf_sampling.simulation.job import WalkerJob
from latf_sampling.simulation.retirement import give_another_chance, refuse_too_many, retire_lost
from latf_sampling.simulation.walker import run_walker
from latf_sampling.units import SECOND

MAX_LOST = 3
"""A walker is retired when so many of its processes were lost in one and the same segment."""


def run_walkers(jobs: list[WalkerJob], progress: Callable[[float, str], None], processes: int | None = None) -> None:
    """Run walkers in parallel, each in a process of its own.

    A walker whose process is lost, since the system killed it, it crashed, or there was no new frame for the protocol's
    `stalled_after`, is started again after its last finished segment, and retired if that happens three times in one
    segment. The others go on.

    Parameters
    ----------
    jobs
        All walkers of a round.
    progress
        Called with the fraction of all segments that is done, and a few words.
    processes
        Number of walkers that run at the same time; `None` takes one per core.

    Raises
    ------
    SimulationError
        A walker cannot be simulated, or more than half of them had to be retired; the others are stopped, and finished
        segments stay.
    LatfError
        Another error of a walker, such as a full disk; the others are stopped likewise.
    """
    give_another_chance(jobs)
    refuse_too_many(jobs)
    missing = [number for number, job in enumerate(jobs) if not _directory(job).is_finished(job.segments)]
    # without locks: each number has one writer, and a lock would be leaked by a process that is killed
    context = multiprocessing.get_context("spawn")
    fractions = [context.Value("d", float(number not in missing), lock=False) for number in range(len(jobs))]
    lost: Counter[tuple[int, int]] = Counter()
    known = [len(_directory(job).failures().failures) for job in jobs]

    def watch(running: int) -> None:
        shares = [fraction.value for fraction in fractions]
        finished = sum(share >= 1 for share in shares)
        progress(sum(shares) / len(jobs), f"{finished} of {plural(len(jobs), 'walker')} finished")

    def begin_again(number: int, how: str, deaths: int) -> bool:
        job, segment = jobs[number], len(_directory(jobs[number]).markers())
        lost[number, segment] += 1
        if lost[number, segment] >= MAX_LOST:
            return False
        _warn(
            f"{job.name}: its process ended by {how} in segment {segment}; it is started again, attempt "
            f"{lost[number, segment] + 1} of {MAX_LOST}."
        )
        return True

    limit = jobs[0].protocol.stalled_after if jobs else None
    results = run_tasks(
        _WalkerWorker,
        fractions,
        ((number, (number, jobs[number])) for number in missing),
        processes or available_cores(),
        begin_again=begin_again,
        fresh=True,
        watch=watch,
        pulse=lambda number: fractions[number].value,
        patience=None if limit is None else limit / SECOND,
        name=lambda number: jobs[number].name,
    )
    with closing(results):
        for number, result in results:
            job = jobs[number]
            if isinstance(result, WorkerDied):
                retire_lost(job, f"its process ended by {result.how} {plural(MAX_LOST, 'time')}")
                fractions[number].value = 1.0
            failures = _directory(job).failures()
            for failure in failures.failures[known[number] : -1 if failures.retired is not None else None]:
                _warn(f"{job.name}: segment {failure.segment} was rolled back: {failure.sentence}.")
            if failures.retired is not None:
                refuse_too_many(jobs)
                _warn(f"{job.name} is retired: {failures.retired}. The round goes on without it.")


class _WalkerWorker:
    """Runs a walker and reports the fraction that is done.

    Parameters
    ----------
    fractions
        A shared number for each walker.
    """

    def __init__(self, fractions: Sequence[Any]) -> None:
        self.fractions = fractions

    def __call__(self, task: tuple[int, WalkerJob]) -> None:
        number, job = task

        def report(fraction: float) -> None:
            self.fractions[number].value = fraction

        run_walker(job, report)


def _directory(job: WalkerJob) -> WalkerDirectory:
    return WalkerDirectory(job.directory)


def _warn(text: str) -> None:
    warnings.warn(text, FailureWarning, stacklevel=3)
