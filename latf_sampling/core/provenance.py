"""Where, when and with what a task of a campaign was done, and how often it was begun."""

from __future__ import annotations

import platform
import socket
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latf_sampling import __version__
from latf_sampling.core.installation import installed
from latf_sampling.core.storage import append_line

if TYPE_CHECKING:
    import openmm

ATTEMPTS = "attempts.txt"
"""Name of the file that tells how often the tasks of a folder were begun: a line for each time."""


class Attempt:
    """A task that begins: it is noted in a file of its folder, since a process that is killed can write nothing more.

    Parameters
    ----------
    folder
        Where the results of the task will be; `None` for a task that is done at once, which is not noted.
    task
        Name of the task in this folder.

    Attributes
    ----------
    number : int
        How often the task was begun, this time included.

    Raises
    ------
    StoreError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = Attempt(folder, "segment-000")  # which is killed
    >>> attempt = Attempt(folder, "segment-000")
    >>> provenance = attempt.provenance(stream=["segment", 0, 0, 0])
    >>> provenance["attempts"], provenance["stream"]
    (2, ['segment', 0, 0, 0])
    """

    def __init__(self, folder: Path | None, task: str) -> None:
        self.began, self._clock, self.number = _now(), time.perf_counter(), 1
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            append_line(folder / ATTEMPTS, f"{task} {self.began} {socket.gethostname()}")
            self.number = len(attempts(folder)[task])

    def provenance(
        self, *, device: dict[str, str] | None = None, stream: Sequence[str | int] = (), **further: Any
    ) -> dict[str, Any]:
        """What the manifest of the task, which has ended, states about how it was done.

        Parameters
        ----------
        device
            As `device` tells it.
        stream
            Name of its random stream, see `latf_sampling.core.streams`.
        further
            More about it: values that JSON can hold.
        """
        return {
            "attempts": self.number,
            "began": self.began,
            "ended": _now(),
            "seconds": time.perf_counter() - self._clock,
            "host": socket.gethostname(),
            **(device or {}),
            "versions": versions(),
            **({"stream": list(stream)} if stream else {}),
            **further,
        }


def attempts(folder: Path) -> dict[str, list[str]]:
    """The times at which each task of a folder was begun, ISO 8601 in UTC; empty where none was.

    A last line that a killed process left incomplete is passed over.
    """
    found: dict[str, list[str]] = {}
    try:
        lines = (folder / ATTEMPTS).read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return found
    for words in map(str.split, lines):
        if len(words) == 3:
            found.setdefault(words[0], []).append(words[1])
    return found


@cache
def versions() -> dict[str, str]:
    """Versions of this package, of Python and of everything installed that matters here."""
    packages = {name: number for name, number in installed().items() if number is not None}
    return {"latf_sampling": __version__, "python": platform.python_version(), **packages}


def device(context: openmm.Context) -> dict[str, str]:
    """Platform and device that a context computes on.

    Examples
    --------
    >>> import openmm
    >>> system = openmm.System()
    >>> _ = system.addParticle(1.0)
    >>> reference = openmm.Platform.getPlatformByName("Reference")
    >>> device(openmm.Context(system, openmm.VerletIntegrator(0.001), reference))
    {'platform': 'Reference'}
    """
    chosen = context.getPlatform()
    names = [name for name in ("DeviceIndex", "DeviceName", "Threads") if name in chosen.getPropertyNames()]
    values = {name: chosen.getPropertyValue(context, name) for name in names}
    return {"platform": chosen.getName(), **({"device": _spelled(values)} if values else {})}


def _spelled(values: dict[str, str]) -> str:
    """
    >>> _spelled({"DeviceIndex": "1", "DeviceName": "NVIDIA H200"}), _spelled({"Threads": "2"})
    ('1 NVIDIA H200', '2 threads')
    """
    if "Threads" in values:
        return f"{values['Threads']} threads"
    return " ".join(values.values())


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
