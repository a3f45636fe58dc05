"""The walkers of a round, each in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from latf_sampling.core.processes import WorkerDied, available_cores, run_tasks
from latf_sampling.core.words import plural
from latf_sampling.errors import SimulationError
from latf_sampling.simulation.walker import WalkerJob, run_walker


def run_walkers(jobs: list[WalkerJob], progress: Callable[[float, str], None], processes: int | None = None) -> None:
    """Run walkers in parallel, each in a process of its own.

    Parameters
    ----------
    jobs
        The walkers.
    progress
        Called with the fraction of all segments that is done, and a few words.
    processes
        Number of walkers that run at the same time; `None` takes one per core.

    Raises
    ------
    SimulationError
        A walker failed or its process was killed; the others are stopped, and finished segments stay.
    LatfError
        Another error of a walker, such as a full disk; the others are stopped likewise.
    """
    # without locks: each number has one writer, and a lock would be leaked by a process that is killed
    fractions = [multiprocessing.get_context("spawn").Value("d", 0.0, lock=False) for _ in jobs]

    def watch(running: int) -> None:
        shares = [fraction.value for fraction in fractions]
        finished = sum(share >= 1 for share in shares)
        progress(sum(shares) / len(jobs), f"{finished} of {plural(len(jobs), 'walker')} finished")

    results = run_tasks(
        _WalkerWorker,
        fractions,
        ((number, (number, job)) for number, job in enumerate(jobs)),
        processes or available_cores(),
        max_deaths=1,
        fresh=True,
        watch=watch,
        name=lambda number: _name(jobs[number]),
    )
    with closing(results):
        for number, result in results:
            if isinstance(result, WorkerDied):
                raise SimulationError(
                    f"{_name(jobs[number])}: its process ended by {result.how}; finished segments are kept, run the "
                    "campaign again to go on."
                )


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


def _name(job: WalkerJob) -> str:
    return f"round {job.round_index}, walker {job.walker}"
