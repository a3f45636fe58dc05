"""The log of a campaign: how each run began and ended, and what it did; for people, nothing reads it."""

from __future__ import annotations

import os
import platform
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from latf_sampling import __version__
from latf_sampling.campaign.progress import Progress
from latf_sampling.core import storage
from latf_sampling.core.installation import installed
from latf_sampling.core.processes import describe
from latf_sampling.errors import FailureWarning, RepairWarning, StoreError


@contextmanager
def logged(path: Path, progress: Progress) -> Iterator[Progress]:
    """Note the start of a run, each step that it finishes, its warnings, and how it ends.

    Parameters
    ----------
    path
        The log, to which lines are added. A run that was killed is known by a start without an end before it.
    progress
        Is told of steps as before.

    Yields
    ------
    Progress
        To be told of steps.

    Raises
    ------
    StoreError
        The log cannot be written.
    """
    done: set[str] = set()
    show = warnings.showwarning

    def note(text: str) -> None:
        storage.append_line(
            path, f"{datetime.now().astimezone().isoformat(timespec='seconds')} {' '.join(text.split())}"
        )

    def report(step: str, fraction: float, words: str) -> None:
        if fraction >= 1 and step not in done and words != "finished before":
            done.add(step)
            note(f"{step}: {words}")
        progress(step, fraction, words)

    def show_and_note(message: Warning | str, category: type[Warning], *rest) -> None:
        if issubclass(category, (FailureWarning, RepairWarning)):
            note(str(message))
        show(message, category, *rest)

    packages = ", ".join(f"{name} {version}" for name, version in installed().items() if version is not None)
    machine = f"process {os.getpid()} on {socket.gethostname()}, {platform.platform()}"
    note(f"started: {machine}; latf_sampling {__version__}, {packages}, Python {platform.python_version()}")
    warnings.showwarning = show_and_note
    try:
        yield report
    except BaseException as error:
        with suppress(StoreError):  # as on the full disk that the error may be about
            note(f"ended: {describe(error)}")
        raise
    finally:
        warnings.showwarning = show
    note("ended: finished")
