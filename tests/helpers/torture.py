"""Campaigns whose processes are killed, and how to tell whether that made a difference."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from latf_sampling.core.provenance import ATTEMPTS, attempts
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.records.ledger import summary

COMPARED = {".nc", ".npz", ".xml", ".hills", ".pdb", ".cif", ".xtc", ".csv"}
"""Endings of files that are the same in each run of a protocol on the Reference platform, byte by byte; those of models
hold the time of their export, and have fingerprints in the ledger."""
WORKERS = ("spawn_main", "process_worker_pool", "executorlib", "dask worker [")
"""What the command line of a process that does tasks has in it: of `multiprocessing`, Parsl, executorlib and Dask."""


@dataclass
class Torture:
    """A campaign that is run while its processes are killed, until it is finished.

    Parameters
    ----------
    protocol, directory
        The campaign.
    seed
        Of the moments of the kills.
    roots
        Processes whose children do the work, such as those of a scheduler; the driver is always one of them.
    mark
        What the command lines of further ones have in them, such as those of Parsl, which detaches its blocks.
    patience
        Seconds at most after which a moment is taken, from when there is somebody to kill.
    limit
        Seconds for one process to come that far.

    Attributes
    ----------
    kills : dict
        How often each kind of process was killed.
    """

    protocol: Path
    directory: Path
    seed: int = 0
    roots: tuple[int, ...] = ()
    mark: str | None = None
    patience: float = 0.3
    limit: float = 300.0
    kills: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.files = CampaignDirectory(self.directory)

    def run(self, victims: Iterable[str]) -> str:
        """Run the campaign to its end; returns the words of the last process.

        Parameters
        ----------
        victims
            Whom to kill one after the other: "driver", "worker" (a process that simulates), or "trainer". What is over
            before it could be killed is left out.
        """
        process = self.begin()
        for victim in victims:
            if not self.wait_for(victim, process):
                break
            time.sleep(self.rng.uniform(0.0, self.patience))
            pids = [process.pid] if victim == "driver" else self.workers(process.pid)
            if process.poll() is not None or not pids:
                continue
            os.kill(self.rng.choice(pids), signal.SIGKILL)
            self.kills[victim] = self.kills.get(victim, 0) + 1
            if victim == "driver":
                process.communicate()
                process = self.begin()
        words = process.communicate()[0]
        assert process.returncode == 0, words
        return words

    def begin(self) -> subprocess.Popen:
        """The driver, in a process group of its own."""
        self.before = self.written()
        return subprocess.Popen(
            [sys.executable, "-m", "latf_sampling.cli.main", "run", str(self.protocol), "-o", str(self.directory)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, victim: str, process: subprocess.Popen) -> bool:
        """Wait until there is somebody to kill; returns whether there is. Each driver makes some progress before."""
        ready: Callable[[], bool] = {
            "driver": lambda: self.written() > self.before,
            "worker": self.simulates,
            "trainer": self.trains,
        }[victim]
        end = time.monotonic() + self.limit
        while process.poll() is None and time.monotonic() < end:
            if ready():
                return True
            time.sleep(0.03)  # looking for files takes a while
        return False

    def written(self) -> int:
        return sum(path.is_file() for path in self.directory.rglob("*"))

    def simulates(self) -> bool:
        """Whether a segment was begun that is not finished."""
        walkers = [path.parent for path in self.directory.rglob(f"walker-*/{ATTEMPTS}")]
        return any(not (walker / f"{[*attempts(walker)][-1]}.json").exists() for walker in walkers if attempts(walker))

    def trains(self) -> bool:
        """Whether a training was begun that is not finished."""
        folders = [path.parent for path in self.directory.rglob(f"learning/{ATTEMPTS}")]
        return any(not (folder / "history.json").exists() for folder in folders)

    def workers(self, driver: int) -> list[int]:
        """Processes that do tasks."""
        parents = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace")
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:  # it has just ended
                continue
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1]), words
        marked = {pid for pid, (_, words) in parents.items() if self.mark is not None and self.mark in words}
        found, news = set(), {driver, *self.roots, *marked}
        while news:
            news = {pid for pid, (parent, _) in parents.items() if parent in news and pid not in found}
            found |= news
        found = {pid for pid in found if any(word in parents[pid][1] for word in WORKERS)}
        if self.mark is not None:  # of Parsl: who has a task, and the manager itself, but not the helper of a manager
            found &= self.told() | {pid for pid in found if parents[pid][0] not in found}
        return sorted(found)

    def told(self) -> set[int]:
        """Processes that have reported the progress of a task."""
        found = set()
        for path in self.directory.rglob("*.progress"):
            with suppress(OSError, ValueError):  # it is just being written or removed
                found.add(json.loads(path.read_text())["process"])
        return found


def differences(mine: Path, other: Path) -> list[str]:
    """What differs between two runs of a protocol on the Reference platform: names and bytes of files, the ledger."""
    names = [{str(path.relative_to(folder)) for path in folder.rglob("*")} for folder in (mine, other)]
    found = [f"only in one: {name}" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        paths = mine / name, other / name
        if paths[0].suffix in COMPARED and _content(paths[0]) != _content(paths[1]):
            found.append(f"differs: {name}")
    ledgers = [summary(CampaignDirectory(folder)) for folder in (mine, other)]
    return found + [f"ledger: {key}" for key in ("tasks", "repeatable") if ledgers[0][key] != ledgers[1][key]]


def _content(path: Path) -> bytes:
    """What a file holds; of hills without the line that tells how often they were taken back."""
    lines = path.read_bytes().splitlines(keepends=True) if path.suffix == ".hills" else [path.read_bytes()]
    return b"".join(line for line in lines if not line.startswith(b"#! SET generation"))
