"""Replica exchange between walkers that run in different processes, on one machine or several.

Walkers keep their temperatures, and with these their segments, and exchange configurations: positions, box, and
velocities that are scaled to the other temperature. They meet in a folder. At each attempt a walker writes what the
other needs, and waits for what the other writes: first the energy and the variable of its configuration, then how its
own bias would change, then, where the exchange is accepted, the configuration. Both draw the same random number from a
stream that is named after the attempt, and so decide alike.

Each of these files is written once. A walker that is killed or rolled back passes the same attempts again: it finds
what it wrote before, so that what the other has accepted remains so. A walker that ended, since it was retired or has
left its trust region, exchanges no more: the other notes that, and goes on by itself.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latf_sampling.analysis.exchange import acceptance, partners
from latf_sampling.core import storage, streams
from latf_sampling.core.arrays import read_npz
from latf_sampling.data.exchanges import Exchange
from latf_sampling.data.layout import RoundDirectory, WalkerDirectory
from latf_sampling.errors import SimulationError
from latf_sampling.settings import Protocol, RoundSettings, n_steps
from latf_sampling.simulation.job import WalkerJob

if TYPE_CHECKING:
    from latf_sampling.bias import Bias

PAUSES = 0.001, 0.02
"""s between two looks for a file of the other walker: the first, and after a while."""
CHECK_INTERVAL = 0.5
"""s between two looks whether the other walker has ended."""

Configuration = dict[str, np.ndarray]
"""By name: "positions" (N, 3) in nm, "velocities" (N, 3) in nm/ps and, in a periodic system, "box" (3, 3) in nm."""


def attempt_interval(job: WalkerJob) -> int:
    """Frames from one attempt of a walker to the next; 0 where its round has no exchange."""
    return _interval(job.protocol, job.round_index)


def _interval(protocol: Protocol, index: int) -> int:
    settings = protocol.runs[index]
    if not isinstance(settings, RoundSettings) or settings.exchange is None:
        return 0
    return n_steps(settings.exchange.interval, protocol.frame_interval)


class Meeting:
    """One attempt of a walker to exchange its configuration with that of another.

    Parameters
    ----------
    job
        The walker.
    number
        Of the attempt, from 1.
    waiting
        Called again and again while the other walker has not come.
    """

    def __init__(self, job: WalkerJob, number: int, waiting: Callable[[], None]) -> None:
        self.job, self.number, self.waiting = job, number, waiting
        self.round = RoundDirectory(job.directory.parent)
        self.partner = partners(job.temperatures, number).get(job.walker)

    def exchange(
        self, frame: int, energy: float, bias: Bias | None, configuration: Configuration
    ) -> tuple[Exchange, Configuration | None] | None:
        """Exchange, if the other walker comes and the exchange is accepted.

        Parameters
        ----------
        frame
            Number of frames before.
        energy
            Of the configuration without bias, kJ/mol; the enthalpy at constant pressure.
        bias
            Of this walker; `None` for plain dynamics.
        configuration
            What the walker offers.

        Returns
        -------
        tuple or None
            What happened, and the configuration to go on with if it was accepted. `None` where there is no other
            walker.
        """
        if self.partner is None or any(self._path("none", walker).exists() for walker in self._pair):
            return None
        point = None if bias is None else bias.cv(configuration["positions"], configuration.get("box")).tolist()
        mine = self._own("offer", lambda: {"energy": energy, "variable": point})
        theirs = self._other("offer")
        if theirs is None:
            return None
        changes = 0.0, 0.0
        if bias is not None:
            points = np.array([mine["variable"], theirs["variable"]])
            my_change = self._own("bias", lambda: float(np.diff(bias.energy(points))[0]))
            their_change = self._other("bias")
            if their_change is None:
                return None
            changes = my_change, their_change
        temperatures = self.job.temperature, self.job.temperatures[self.partner]
        probability = acceptance(temperatures, (mine["energy"], theirs["energy"]), changes)
        accepted = bool(self._random_number() < probability)
        outcome = Exchange(frame, self.partner, probability, accepted)
        if not accepted:
            return outcome, None
        self._own("configuration", lambda: configuration)
        received = self._other("configuration")
        if received is None:
            return None
        return outcome, {**received, "velocities": received["velocities"] * np.sqrt(temperatures[0] / temperatures[1])}

    @property
    def _pair(self) -> list[int]:
        return sorted({self.job.walker, self.job.walker if self.partner is None else self.partner})

    def _random_number(self) -> float:
        """Between 0 and 1, the same for both walkers."""
        names = "exchange", self.job.round_index, self.number, self._pair[0]
        return streams.stream(self.job.protocol.seed, *names).random()

    def _path(self, what: str, walker: int) -> Path:
        return _message(self.round, self.number, what, walker)

    def _own(self, what: str, make: Callable[[], Any]) -> Any:
        """What this walker tells the other, which it writes unless it did so before."""
        path = self._path(what, self.job.walker)
        if not path.exists():
            content = make()
            if isinstance(content, dict) and "positions" in content:
                with storage.atomic_write(path) as temporary:
                    np.savez(temporary, **content)
            else:
                storage.write_json(path, content)
        return _read(path)

    def _other(self, what: str) -> Any:
        """What the other walker tells; `None`, which is noted, if it has ended and will not tell."""
        assert self.partner is not None
        path, other = self._path(what, self.partner), self.round.walker(self.partner)
        segment = self.number * attempt_interval(self.job) // frames_of_segment(self.job)
        (pause, longest), checked = PAUSES, -math.inf
        while not path.exists():
            if time.monotonic() - checked > CHECK_INTERVAL:
                checked = time.monotonic()
                if _has_ended(other) and not path.exists():
                    storage.write_json(self._path("none", self.job.walker), self.partner)
                    return None
                if other.segment(segment).marker.exists() and not path.exists():
                    raise SimulationError(
                        f"{self.job.name}: walker {self.partner} has gone on, and what it told at exchange "
                        f"{self.number} is gone: {path}; run the campaign again, so that all walkers go on from there."
                    )
            self.waiting()
            time.sleep(pause)
            pause = min(1.2 * pause, longest)
        return _read(path)


def _message(files: RoundDirectory, attempt: int, what: str, walker: int) -> Path:
    """What a walker tells another at an attempt."""
    suffix = "npz" if what == "configuration" else "json"
    return files.exchange / f"{attempt:08d}" / f"{what}-{walker:02d}.{suffix}"


def _read(path: Path) -> Any:
    return read_npz(path) if path.suffix == ".npz" else storage.read_json(path)


def _has_ended(walker: WalkerDirectory) -> bool:
    """Whether a walker will not go on in this run, however far it has come."""
    return walker.stop_reason() is not None or walker.failures().retired is not None


def _is_past(walker: WalkerDirectory, segment: int) -> bool:
    """Whether a walker never simulates a segment again."""
    if walker.segment(segment).marker.exists() or walker.stop_reason() is not None:
        return True
    failures = walker.failures()
    return failures.retired is not None and not failures.retired_by_process  # another run gives those a chance


def remove_past(job: WalkerJob, segment: int) -> None:
    """Remove what walkers told each other up to a segment, once all of them are past it.

    Parameters
    ----------
    job
        A walker that has finished the segment.
    segment
        Its number.
    """
    interval = attempt_interval(job)
    files = RoundDirectory(job.directory.parent)
    if not interval or not files.exchange.exists():
        return
    if all(_is_past(files.walker(number), segment) for number in range(len(job.temperatures))):
        _remove(files, 0, ((segment + 1) * frames_of_segment(job) - 1) // interval)


def first_lost(protocol: Protocol, index: int, files: RoundDirectory) -> int | None:
    """The segment from which all walkers of a round have to go on together; `None` if each can go on by itself.

    A walker that lost segments repeats its exchanges, for which the others must have their part of them still there.

    Parameters
    ----------
    protocol, index
        The campaign, and the number of the round.
    files
        The round's.
    """
    interval, frames = _interval(protocol, index), n_steps(protocol.segment, protocol.frame_interval)
    if not interval:
        return None
    temperatures = protocol.runs[index].walkers
    walkers = [files.walker(number) for number in range(len(temperatures))]
    finished = [walker.finished() for walker in walkers]
    going_on = [number for number, walker in enumerate(walkers) if not _is_past(walker, finished[number])]
    for number in going_on:
        for attempt in range(-(-max(1, finished[number] * frames) // interval), max(finished) * frames // interval + 1):
            partner = partners(temperatures, attempt).get(number)
            if partner is None or finished[partner] <= attempt * interval // frames:
                continue
            told = (_message(files, attempt, what, partner) for what in ("offer", "none"))
            if not any(path.exists() for path in told):
                return min(finished[number] for number in going_on)
    return None


def remove_from(protocol: Protocol, index: int, files: RoundDirectory, segment: int) -> None:
    """Remove what walkers of a round told each other from a segment on, which all of them repeat."""
    frames = segment * n_steps(protocol.segment, protocol.frame_interval)
    _remove(files, -(-frames // _interval(protocol, index)), math.inf)


def frames_of_segment(job: WalkerJob) -> int:
    """Number of frames of a segment."""
    return n_steps(job.protocol.segment, job.protocol.frame_interval)


def _remove(files: RoundDirectory, first: int, last: float) -> None:
    """Remove what walkers told each other from one attempt to another; several processes may do so at once."""
    for folder in files.exchange.glob("*"):
        if folder.name.isdecimal() and first <= int(folder.name) <= last:
            shutil.rmtree(folder, ignore_errors=True)
