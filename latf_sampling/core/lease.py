"""Which attempt at a task may write its files, wherever attempts run.

A worker that is thought to be lost may still run: its node was cut off from the network, or its process was stopped.
The task has then been submitted again, and two processes would write the same files. Two things prevent that. Each task
has a lock, which a worker holds as long as it runs; and a file names the attempt that may run. The driver names another
one whenever it submits the task, and none when it ends. Workers read the name once a second, so that an earlier attempt
ends and its lock becomes free, for which the next one waits. No signal has to reach another node for that, and progress
comes back in the same way.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latf_sampling.core import storage
from latf_sampling.errors import StoreError

INTERVAL = 0.5
"""s between two looks of a worker at its lease."""
LONGEST_WAIT = 60.0
"""s that an attempt waits for the end of the one before."""
VISIBLE_AFTER = 10.0
"""s after which a file that was written on one node is there on another one."""

LEASES = "running"
"""Folder of leases, as long as something runs."""

Report = Callable[..., None]
"""Called with the fraction of a task that is done, and a few words."""


class Superseded(Exception):
    """This attempt at a task must not go on: the driver has ended, or has submitted the task again."""


@dataclass(frozen=True)
class Lease:
    """The right of one attempt to write the files of its task.

    Attributes
    ----------
    stem : pathlib.Path
        Name of the files of the lease, without their endings.
    token : str
        Name of the attempt.

    Examples
    --------
    >>> import tempfile
    >>> first = Lease.grant(Path(tempfile.mkdtemp()) / "task")
    >>> with first.held() as report:
    ...     report(0.5, "half of it")
    >>> first.progress()["fraction"], first.is_valid()
    (0.5, True)
    >>> second = Lease.grant(first.stem)
    >>> first.is_valid()
    False
    """

    stem: Path
    token: str

    @classmethod
    def grant(cls, stem: Path) -> Lease:
        """Let a new attempt at a task be the one that may run."""
        lease = cls(stem, uuid.uuid4().hex)
        storage.write_text(lease._owner, lease.token)
        return lease

    def revoke(self) -> None:
        """Let no attempt at the task run, or the one that was granted later."""
        if self.is_valid():
            storage.write_text(self._owner, "")

    @property
    def _owner(self) -> Path:
        return self.stem.with_suffix(".owner")

    @property
    def _lock(self) -> Path:
        return self.stem.with_suffix(".lock")

    def _progress(self, part: str) -> Path:
        return self.stem.with_suffix(f".{part}.progress" if part else ".progress")

    def is_valid(self) -> bool:
        """Whether this attempt may run."""
        try:
            return self._owner.read_text(encoding="utf-8") == self.token
        except FileNotFoundError:
            return False

    def check(self) -> None:
        """Raise `Superseded` if this attempt may not run."""
        if not self.is_valid():
            raise Superseded("another attempt at the same task")

    @contextmanager
    def held(self) -> Iterator[Report]:
        """In a worker: wait for the end of earlier attempts, and hold the lock of the task.

        Yields
        ------
        callable
            To be called with the fraction that is done, and a few words, as often as possible; it raises `Superseded`.

        Raises
        ------
        Superseded
            This attempt may not run, or an earlier one still does.
        StoreError
            The files of the lease are not there, or cannot be locked or written.
        """
        if not wait_for(self._owner.exists):
            raise StoreError(
                f"{self._owner}: is not there on {socket.gethostname()}; workers need the directory of the campaign "
                "under the same path, on a disk that all nodes share."
            )
        end = time.monotonic() + LONGEST_WAIT
        while True:
            self.check()
            lock = storage.try_lock(self._lock)
            if lock is not None:
                break
            if time.monotonic() > end:
                raise Superseded(f"an earlier attempt that still runs {self._holder()}".rstrip())
            time.sleep(INTERVAL)
        with lock:
            self.check()
            yield self.reporter()

    def reporter(self, part: str = "") -> Report:
        """Of `held`; or of a part of the task, where several processes share the work on it."""
        last = -INTERVAL

        def report(fraction: float, words: str = "") -> None:
            nonlocal last
            now = time.monotonic()
            if now - last < INTERVAL and fraction < 1:
                return
            last = now
            self.check()
            content = {"fraction": fraction, "words": words, "host": socket.gethostname(), "process": os.getpid()}
            storage.overwrite(self._progress(part), json.dumps({"token": self.token, **content}))

        return report

    def progress(self, part: str = "") -> dict[str, Any] | None:
        """What this attempt, or its work on a part, reported last; `None` before it began.

        Has "fraction", "words", "host" and "process".
        """
        with suppress(OSError, ValueError):  # it is just being written
            content = json.loads(self._progress(part).read_text(encoding="utf-8"))
            return content if content["token"] == self.token else None
        return None

    def _holder(self) -> str:
        """Where the last attempt that reported runs."""
        with suppress(OSError, ValueError, KeyError):
            content = json.loads(self._progress("").read_text(encoding="utf-8"))
            return f"on {content['host']}, process {content['process']}"
        return ""


def lease_of(path: Path) -> Path:
    """Name of the lease for a file, or for the files in a folder."""
    return path.parent / LEASES / path.name


def wait_for(visible: Callable[[], bool]) -> bool:
    """Wait until something is visible that was written on another node; whether it is."""
    end = time.monotonic() + VISIBLE_AFTER
    while not visible():
        if time.monotonic() > end:
            return False
        time.sleep(INTERVAL)
    return True


def remove_leases(folder: Path) -> None:
    """Remove a folder of leases, unless a task in it still runs."""
    for path in folder.glob("*.lock"):
        lock = storage.try_lock(path)
        if lock is None:
            return
        lock.close()
    if folder.is_dir():
        storage.remove_folder(folder)
