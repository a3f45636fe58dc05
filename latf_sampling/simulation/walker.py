"""From a system and settings to finished segments of trajectory.

Every segment starts in a new OpenMM context from the state that the previous one saved, with a seed of its own. A run
that continues after an interruption therefore does exactly what the uninterrupted run does.

A simulation that explodes is contained. The walker is rolled back to its last finished segment: hills since then are
taken back, frames were not written yet. It goes on with another random stream, after the second explosion also with
half the time step for that segment, and the third explosion retires it. What happened is recorded before the next
attempt (`latf_sampling.data.failures`), and the streams are named by the number of the attempt, so that a run that is
killed at any moment and continued makes the same attempts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from latf_sampling.core.backends import choose_backend, compiles
from latf_sampling.core.platforms import torch_threads
from latf_sampling.core.words import plural
from latf_sampling.data.failures import ALLOWED_EXPLOSIONS, WalkerFailures
from latf_sampling.data.layout import LearningDirectory, WalkerDirectory
from latf_sampling.errors import SimulationError
from latf_sampling.simulation.explosion import Explosion
from latf_sampling.simulation.job import WalkerJob
from latf_sampling.simulation.segment import Segment, load_molecule, walker_platform
from latf_sampling.systems import Molecule

if TYPE_CHECKING:
    from latf_sampling.bias import Bias
    from latf_sampling.cv.collective_variable import CollectiveVariable
    from latf_sampling.learning.model import LaTF
    from latf_sampling.settings.bias import BiasSettings


def run_walker(job: WalkerJob, progress: Callable[[float], None] = lambda fraction: None) -> None:
    """Run a walker's missing segments, until all are finished, or it leaves its trust region or is retired.

    Parameters
    ----------
    job
        The walker.
    progress
        Called with the fraction that is finished; it goes back when the walker is rolled back.

    Raises
    ------
    SimulationError
        The walker cannot be simulated; finished segments remain. An explosion is none of these errors: it is recorded
        in the walker's folder.
    """
    directory = WalkerDirectory(job.directory)
    done, failures = directory.finished_segments(), directory.failures()
    progress(len(done) / job.segments)
    if directory.is_finished(job.segments):
        return
    molecule = load_molecule(job)
    with ExitStack() as stack:
        bias = make_bias(job, molecule, stack)
        _to_last_segment(directory, bias)
        while not directory.is_finished(job.segments):
            try:
                left = Segment(job, molecule, bias, directory.finished(), failures, progress).run()
            except Explosion as explosion:
                # In this order: a walker that is retired is never touched again.
                _to_last_segment(directory, bias)
                failures = _after(failures, explosion)
                failures.write()
                left = None
            if left is not None or failures.retired is not None:
                progress(1.0)
                return


def _to_last_segment(directory: WalkerDirectory, bias: Bias | None) -> None:
    """Take hills back that were added after the last finished segment."""
    if bias is not None:
        done = directory.finished()
        bias.rewind(directory.segment(done - 1).manifest().content["step"] if done else 0)


def _after(failures: WalkerFailures, explosion: Explosion) -> WalkerFailures:
    """The failures with one more explosion, which may be the reason to retire the walker."""
    failure = explosion.failure
    if len(failures.explosions) < ALLOWED_EXPLOSIONS:
        return failures.add(failure)
    times = plural(ALLOWED_EXPLOSIONS + 1, "time")
    return failures.add(failure, f"exploded {times}, the last time in segment {failure.segment}: {failure.reason}")


def make_bias(job: WalkerJob, molecule: Molecule, stack: ExitStack) -> Bias | None:
    """The bias of a walker, whose force is added to the molecule's system; `None` for plain dynamics.

    It contains what the walkers of the round have added so far. The stack closes it.
    """
    settings = job.bias
    if settings is None:
        return None
    if job.learning is None:
        raise SimulationError(f"{job.name}: a bias needs a collective variable, and no round before it learned one.")
    # Here, since plain dynamics needs nothing of this.
    from latf_sampling.bias.from_settings import BiasTask
    from latf_sampling.bias.from_settings import make_bias as bias_from_settings
    from latf_sampling.cv.compiled_variable import CompiledVariable
    from latf_sampling.cv.compiler.kernel import KernelError

    learning, platform = LearningDirectory(job.learning), walker_platform(job, molecule)[0].getName()

    def of(cv: CollectiveVariable) -> Bias:
        task = BiasTask(
            molecule.system, cv, load_model, job.temperature, job.timestep, platform, job.hills, job.bias_name
        )
        bias = bias_from_settings(settings, task)
        stack.callback(bias.close)
        return bias

    def load_model() -> LaTF:
        from latf_sampling.learning.model import LaTF

        return LaTF.load(learning.model)

    if _without_torch(settings, platform):
        with suppress(KernelError):
            return of(CompiledVariable.load(learning.cv, molecule.topology))
    from latf_sampling.cv.latent_cv import LatentCV

    stack.enter_context(torch_threads(1))
    return of(LatentCV.load(learning.cv, molecule.topology))


def _without_torch(settings: BiasSettings, platform: str) -> bool:
    """Whether a bias is machine code on a platform, and needs no model: torch takes 500 MB in each process."""
    return not settings.needs_model and choose_backend(settings.backend, platform)[0] == "pythonforce" and compiles()
