"""Where the walkers of a round run. To add an executor, write its function and enter it in `EXECUTORS`."""

from __future__ import annotations

from collections.abc import Callable

from latf_sampling.campaign.progress import StepProgress
from latf_sampling.errors import SettingsError
from latf_sampling.simulation.runner import run_walkers
from latf_sampling.simulation.walker import WalkerJob

Executor = Callable[[list[WalkerJob], StepProgress], None]
"""Runs walkers to their end, each as `latf_sampling.simulation.walker.run_walker` does, and returns when all are
finished or retired (an explosion is recorded in the walker's folder, and no error). It raises `SimulationError` where
one of them cannot be simulated; a walker that is run again continues after its last finished segment."""

EXECUTORS: dict[str, Executor] = {
    "local": run_walkers,
}
"""Executors by name: "local" runs each walker in a process of its own on this machine."""


def executor(name: str) -> Executor:
    """The executor of a name.

    Raises
    ------
    SettingsError
        There is no such executor; names those that exist.
    """
    if name not in EXECUTORS:
        raise SettingsError(f"executor: there is no '{name}'; choose one of {', '.join(sorted(EXECUTORS))}.")
    return EXECUTORS[name]
