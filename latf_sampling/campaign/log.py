"""The log of a campaign: how each run began and ended, and what it did.

`log.txt` is for people. `log.jsonl` beside it has the same events for programs, one JSON object a line, each with
"time" (ISO 8601) and "event":

- "started": "process", "host", "platform", "python", "packages" (versions by name)
- "progress", once a minute, and where a run ends within a step: "step", "fraction", "words", and "seconds_left", null
  as long as it is not known
- "step", when one is finished: "step", "words", "seconds" in this run
- "free energy", after each round: "round", "observe" (as in the protocol), "temperature" (K), "state", "value" and
  "error" (kJ/mol, null if unknown), "disagreement" (a sentence where weightings of the frames disagree, or null)
- "warning": "kind" (the name of its class), "words"
- "ended": "words" ("finished", or the error)

A run that was killed is known by a start without an end before the next one.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from latf_sampling import __version__
from latf_sampling.campaign.progress import Paces, Progress
from latf_sampling.core import storage
from latf_sampling.core.installation import installed
from latf_sampling.core.tasks import describe
from latf_sampling.errors import FailureWarning, RepairWarning, StoreError

INTERVAL = 60.0
"""s between two events of the progress of a step."""
TAIL = 1 << 17
"""Bytes at the end of `log.jsonl` that are read to find the last events."""


class Log:
    """Writes the events of one run; a `Progress`, which passes on what it is told.

    Parameters
    ----------
    path
        `log.txt`; lines are added to it and to the file of events beside it.
    progress
        Is told of steps as before.
    """

    def __init__(self, path: Path, progress: Progress) -> None:
        self.path, self._progress = path, progress
        self._paces = Paces()
        self._done: set[str] = set()
        self._next = time.monotonic() + INTERVAL

    def __call__(self, step: str, fraction: float, words: str) -> None:
        self._paces(step, fraction, words)
        pace, _ = self._paces.steps[step]
        if fraction >= 1 and step not in self._done and words != "finished before":
            self._done.add(step)
            self.note("step", f"{step}: {words}", step=step, words=words, seconds=round(pace.seconds, 3))
        elif fraction < 1 and time.monotonic() >= self._next:
            self._next = time.monotonic() + INTERVAL
            left = pace.seconds_left()
            self.note(
                "progress",
                step=step,
                fraction=round(fraction, 4),
                words=words,
                seconds_left=None if left is None else round(left),
            )
        self._progress(step, fraction, words)

    def note_unfinished(self) -> None:
        """Write how far the last step is, unless it is finished."""
        if self._paces.current is not None:
            pace, words = self._paces.steps[self._paces.current]
            if pace.fraction < 1:
                step, fraction = self._paces.current, round(pace.fraction, 4)
                self.note("progress", step=step, fraction=fraction, words=words, seconds_left=None)

    def note(self, event: str, text: str | None = None, **details: Any) -> None:
        """Write an event, and a line for people if there is one.

        Raises
        ------
        StoreError
            It cannot be written.
        """
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        if text is not None:
            storage.append_line(self.path, f"{now} {' '.join(text.split())}")
        storage.append_line(events_file(self.path), json.dumps({"time": now, "event": event, **details}))


@contextmanager
def logged(path: Path, progress: Progress) -> Iterator[Log]:
    """Note the start of a run, each step that it finishes, its warnings, and how it ends.

    Parameters
    ----------
    path
        The log, to which lines are added. A run that was killed is known by a start without an end before it.
    progress
        Is told of steps as before.

    Yields
    ------
    Log
        To be told of steps, and of other events.

    Raises
    ------
    StoreError
        The log cannot be written.
    """
    log, show = Log(path, progress), warnings.showwarning

    def show_and_note(message: Warning | str, category: type[Warning], *rest) -> None:
        if issubclass(category, (FailureWarning, RepairWarning)):
            log.note("warning", str(message), kind=category.__name__, words=str(message))
        show(message, category, *rest)

    versions = {name: version for name, version in installed().items() if version is not None}
    versions = {"latf_sampling": __version__, **versions}
    process, host, python = os.getpid(), socket.gethostname(), platform.python_version()
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    log.note(
        "started",
        f"started: process {process} on {host}, {platform.platform()}; {packages}, Python {python}",
        process=process,
        host=host,
        platform=platform.platform(),
        python=python,
        packages=versions,
    )
    warnings.showwarning = show_and_note
    try:
        yield log
    except BaseException as error:
        with suppress(StoreError):  # as on the full disk that the error may be about
            log.note_unfinished()
            log.note("ended", f"ended: {describe(error)}", words=describe(error))
        raise
    finally:
        warnings.showwarning = show
    log.note("ended", "ended: finished", words="finished")


def events_file(log: Path) -> Path:
    """The file of events beside a log.

    Examples
    --------
    >>> events_file(Path("runs/demo/log.txt")).as_posix()
    'runs/demo/log.jsonl'
    """
    return log.with_suffix(".jsonl")


def last_events(log: Path) -> list[dict[str, Any]]:
    """The last events of a campaign, in order; none where there is no log. Lines that are damaged are left out."""
    if not events_file(log).is_file():
        return []
    try:
        with open(events_file(log), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    events = []
    for line in lines:
        with suppress(ValueError):  # the first one may begin before the tail, the last one be half written
            event = json.loads(line)
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                events.append(event)
    return events


def is_running(events: list[dict[str, Any]]) -> bool | None:
    """Whether the run that wrote events goes on; `None` where that cannot be told, as of a run on another machine."""
    latest = next((event for event in reversed(events) if event["event"] in ("started", "ended")), None)
    if latest is None or latest["event"] == "ended":
        return False
    if latest.get("host") != socket.gethostname() or not isinstance(latest.get("process"), int):
        return None
    return Path(f"/proc/{latest['process']}").exists() if Path("/proc/self").exists() else None
