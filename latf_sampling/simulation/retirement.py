"""Walkers that are retired: what is taken back then, and when there are too many of them to go on."""

from __future__ import annotations

from collections.abc import Sequence

from latf_sampling.bias.history import SUFFIX, take_back
from latf_sampling.core.storage import remove
from latf_sampling.core.words import plural
from latf_sampling.data.failures import Failure, WalkerFailures
from latf_sampling.data.layout import WalkerDirectory
from latf_sampling.errors import SimulationError
from latf_sampling.simulation.job import WalkerJob

MOST_RETIRED = 0.5
"""A round goes on as long as no larger share of its walkers is retired: with more, the fault is not one of single
walkers, and frames of those that survive are no fair sample of where the dynamics goes."""


def retire_lost(job: WalkerJob, reason: str) -> None:
    """Retire a walker whose process was lost: its hills since the last finished segment are taken back.

    Raises
    ------
    SimulationError
        Its process still runs.
    StoreError
        A file is damaged or cannot be written.
    """
    directory = WalkerDirectory(job.directory)
    failures, done = directory.failures(), directory.finished()
    step = directory.segment(done - 1).manifest().content["step"] if done else 0
    if job.hills is not None:
        take_back(job.hills / f"{job.bias_name}{SUFFIX}", step)
    stream = job.stream(done, failures.attempt(done))
    timestep = job.protocol.integrator.timestep
    failure = Failure("process", done, failures.attempt(done), step, reason, timestep, stream)
    failures.add(failure, retired=f"{reason} in segment {done}").write()


def give_another_chance(jobs: Sequence[WalkerJob]) -> None:
    """Let walkers go on that an earlier run retired since their processes were lost: what killed them may be gone.

    Nothing of that is left but in the log: a campaign ends as one whose processes were not killed.
    """
    for job in jobs:
        failures = WalkerDirectory(job.directory).failures()
        if not failures.retired_by_process:
            continue
        if failures.explosions:
            WalkerFailures(failures.path, tuple(failures.explosions)).write()
        else:
            remove(failures.path)


def too_many_retired(walkers: Sequence[WalkerDirectory]) -> bool:
    """Whether more than half of the walkers of a round are retired."""
    return sum(walker.failures().retired is not None for walker in walkers) > MOST_RETIRED * len(walkers)


def refuse_too_many(jobs: Sequence[WalkerJob]) -> None:
    """End a round in which more than half of the walkers are retired.

    Parameters
    ----------
    jobs
        All walkers of the round.

    Raises
    ------
    SimulationError
        With a diagnosis of the walker that says most: which force had the energy, on which atoms the largest forces
        were, and what the bias was.
    """
    directories = [WalkerDirectory(job.directory) for job in jobs]
    if not too_many_retired(directories):
        return
    failures = [directory.failures() for directory in directories]
    retired = [(job, found) for job, found in zip(jobs, failures) if found.retired is not None]
    # Explosions say more about the cause than lost processes.
    job, found = next(((job, found) for job, found in retired if not found.retired_by_process), retired[0])
    last = found.failures[-1]
    details = [f"{job.name} {found.retired}"]
    if last.diagnosis is not None:
        details.append(last.diagnosis.sentence)
    share = f"{plural(len(retired), 'walker')} of {len(jobs)}" if len(jobs) > 1 else "its only walker"
    advice = (
        "run the campaign again to go on"
        if found.retired_by_process
        else "change its cause in the protocol, and begin the campaign in another directory"
    )
    raise SimulationError(
        f"{job.round_name}: {share} had to be retired, and the campaign stops; {'; '.join(details)}. Finished "
        f"segments are kept; {advice}."
    )
