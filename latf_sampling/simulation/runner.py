"""The walkers of a round, each in a process of its own."""

from __future__ import annotations

import multiprocessing.connection
import traceback
from collections.abc import Callable

from latf_sampling.core import processes as pool
from latf_sampling.errors import LatfError, SimulationError
from latf_sampling.simulation.walker import WalkerJob, run_walker


def run_walkers(jobs: list[WalkerJob], progress: Callable[[float, str], None], processes: int | None = None) -> None:
    """Run walkers in parallel, each in a process of its own, at most so many at once (default: one per core).

    Raises
    ------
    SimulationError
        A walker failed or its process was killed; the others are stopped, finished segments stay.
    """
    context = multiprocessing.get_context("spawn")
    limit = processes or pool.cores()
    fractions = [context.Value("d", 0.0) for _ in jobs]
    waiting, running = list(range(len(jobs))), {}
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                number = waiting.pop(0)
                running[number] = pool.Child(_walker_process, jobs[number], fractions[number])
            multiprocessing.connection.wait([child.process.sentinel for child in running.values()], timeout=0.5)
            progress(sum(fraction.value for fraction in fractions) / len(jobs), f"{len(running)} walkers")
            for number, child in list(running.items()):
                if not child.process.is_alive():
                    del running[number]
                    _raise_failure(jobs[number], child)
    finally:
        pool.stop(running.values())


def _raise_failure(job: WalkerJob, child: pool.Child) -> None:
    words, how = child.last_words(), child.ended
    if words is not None:
        raise SimulationError(words)
    if how != "exit code 0":
        raise SimulationError(
            f"round {job.round_index}, walker {job.walker}: its process ended by {how}; "
            "finished segments are kept, run the campaign again to go on."
        )


def _walker_process(job: WalkerJob, fraction, connection) -> None:
    """What a child process runs."""

    def report(value: float) -> None:
        fraction.value = value

    try:
        run_walker(job, report)
    except LatfError as error:
        connection.send(str(error))
    except Exception:
        connection.send(f"round {job.round_index}, walker {job.walker}: unexpected failure.\n{traceback.format_exc()}")
