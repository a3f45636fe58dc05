"""The hills or kernels that walkers added to a bias, and when: one text file a walker, which other walkers read.

The file looks like PLUMED's HILLS: a line ``#! FIELDS step ...``, then one line of numbers a hill, written so that
reading restores every bit. Only its own walker writes to it, under a lock, and only complete lines count: a process
that is killed while writing leaves at most a broken last line, which others do not read and which its next run removes.
So no hill is lost or read twice, whichever process stops when. Removing hills (a simulation continues from an earlier
state) replaces the file by one of the next generation, which tells readers to begin anew.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from latf_sampling.core import storage
from latf_sampling.errors import SimulationError, StoreError

SUFFIX = ".hills"
GENERATION = re.compile(rb"#! SET generation (\d+)")
PATIENCE = 60.0
"""s; so long the file of another walker may be shorter than it was, or missing: on network disks sizes lag behind."""
Limits = Mapping[str, tuple[float, float]]
"""Lowest and highest value that a hill can have in a column."""


class History:
    """The hills of one walker, in memory and, if it has a path, on the disk.

    Parameters
    ----------
    path
        The walker's file; the hills that it contains are read. `None` keeps them in memory only.
    fields
        Names of the columns; the first is "step".
    settings
        What hills depend on: a file with other settings is refused.
    read_only
        Read the file as it is, without a lock, whoever writes to it. A file that does not exist has no hills.
    limits
        What numbers a hill can have.

    Attributes
    ----------
    rows : numpy.ndarray (n, fields)
    known : set of str
        Names of the files of other walkers whose hills were ever part of this walker's bias.

    Raises
    ------
    SimulationError
        Another process writes to this file, it is damaged, or it was written with other fields or settings.
    StoreError
        The file cannot be written.
    """

    def __init__(
        self,
        path: Path | None,
        fields: list[str],
        settings: dict[str, str],
        read_only: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self.path, self.fields, self.settings, self.read_only = path, fields, settings, read_only
        self.known: set[str] = set()
        self._buffer, self._count = np.empty((64, len(fields))), 0
        self._written = self._size = self._generation = 0
        self._lock: IO | None = None
        if path is None:
            return
        if read_only:
            if path.exists():
                self._extend(Reader(path, fields, settings, limits).read_new())
            return
        self._lock = storage.try_lock(path.with_suffix(".lock"))
        if self._lock is None:
            raise SimulationError(f"{path}: another process adds to this history; give each walker a name of its own.")
        try:
            self._lock.seek(0)
            self.known = set(self._lock.read().decode(errors="replace").split("\n")) - {""}
            if path.exists():
                reader = Reader(path, fields, settings, limits)
                self._extend(reader.read_new())
                if path.stat().st_size > reader.offset:  # a broken last line
                    os.truncate(path, reader.offset)
                self._written, self._size, self._generation = self._count, reader.offset, reader.generation
            else:
                self._replace(path, self.rows)
        except BaseException as error:
            self.close()  # a caller that keeps the error keeps this object alive
            if isinstance(error, OSError):
                raise StoreError(f"{path}: cannot be written ({error.strerror}).") from error
            raise

    @property
    def rows(self) -> np.ndarray:
        return self._buffer[: self._count]

    def add(self, row: Sequence[float] | np.ndarray) -> None:
        """Add a hill (fields,) in memory; `write` brings it to the disk."""
        self._extend(np.asarray(row, np.float64)[None])

    def write(self) -> None:
        """Append the new hills to the file.

        Raises
        ------
        StoreError
            The file cannot be written, for example on a full disk. Hills that are in the file stay, and the next call
            continues after them.
        """
        if self.path is None or self._written == self._count:
            return
        self._size = storage.append(self.path, _lines(self.rows[self._written :]), self._size)
        self._written = self._count

    def remember(self, names: set[str]) -> None:
        """Note the names of files whose hills are part of the bias, in the lock, for when this walker continues."""
        if self._lock is not None and (new := names - self.known):
            self._lock.write("".join(f"{name}\n" for name in sorted(new)).encode())
            self._lock.flush()
            self.known |= new

    def sync(self) -> None:
        """Ensure that what was written survives a power cut too."""
        if self.path is not None and not self.read_only:
            storage.sync(self.path)

    def rewind(self, step: int) -> bool:
        """Remove the hills after a step; returns whether there were any.

        Raises
        ------
        StoreError
            The file cannot be written; no hill was removed.
        """
        remaining = int(np.searchsorted(self.rows[:, 0], step, side="right"))
        if remaining == self._count:
            return False
        if self.path is not None:
            self._generation += 1
            self._replace(self.path, self.rows[:remaining])
        self._count = remaining
        return True

    def summary(self) -> dict[str, Any]:
        """Number and digest of the hills in the file, and the digest of its settings, for `verify_hills`."""
        assert self.path is not None
        sums = {"sha256": hills_digest(self.path, self._written), "head": _head_digest(self.path)}
        return {"entries": self._written, **sums}

    def close(self) -> None:
        """Let other processes write to the file."""
        if self._lock is not None:
            self._lock.close()

    def _extend(self, rows: np.ndarray) -> None:
        while self._count + len(rows) > len(self._buffer):
            self._buffer = np.concatenate([self._buffer, np.empty_like(self._buffer)])
        self._buffer[self._count : self._count + len(rows)] = rows
        self._count += len(rows)

    def _replace(self, path: Path, rows: np.ndarray) -> None:
        settings = "".join(f"#! SET {name} {value}\n" for name, value in self.settings.items())
        head = f"#! FIELDS {' '.join(self.fields)}\n{settings}#! SET generation {self._generation}\n"
        text = head + _lines(rows)
        storage.write_text(path, text)
        self._written, self._size = len(rows), len(text)


class Reader:
    """Reads a history, each time as far as it is new.

    Attributes
    ----------
    generation : int
        Of the file when it was last read; a higher one than before means that hills were removed.
    offset : int
        Bytes read so far, all of them complete lines.
    """

    def __init__(
        self,
        path: Path,
        fields: list[str],
        settings: dict[str, str],
        limits: Limits | None = None,
        patience: float = 0.0,
    ) -> None:
        self.path, self.fields, self.settings, self.patience = path, fields, settings, patience
        self.limits = [(fields.index(name), name, *ends) for name, ends in (limits or {}).items()]
        self.generation, self.offset = -1, 0
        self._lagging_since: float | None = None
        self._step = -math.inf  # of the last hill

    def check(self) -> None:
        """Refuse a file that is damaged, or that was written with other fields or settings."""
        try:
            with open(self.path, "rb") as file:
                self._read_head(file)
        except OSError as error:
            raise SimulationError(f"{self.path}: cannot be read as a history ({error.strerror}).") from error

    def read_new(self) -> np.ndarray:
        """Hills (n, fields) since the last call; all of them, if `generation` has changed with this one.

        Raises
        ------
        SimulationError
            The file is missing or damaged, or was written with other fields or settings.
        """
        try:
            with open(self.path, "rb") as file:
                if file.seek(0, os.SEEK_END) == 0 and self._may_lag():
                    return np.empty((0, len(self.fields)))
                file.seek(0)
                generation = self._read_head(file)
                if generation != self.generation:
                    self.generation, self.offset, self._step = generation, file.tell(), -math.inf
                if file.seek(0, os.SEEK_END) < self.offset:
                    if self._may_lag():
                        return np.empty((0, len(self.fields)))
                    raise SimulationError(f"{self.path}: is shorter than it was; another program changed it.")
                file.seek(self.offset)
                content = file.read()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE) and self._may_lag():
                return np.empty((0, len(self.fields)))
            raise SimulationError(f"{self.path}: cannot be read as a history ({error.strerror}).") from error
        self._lagging_since = None
        complete = content[: content.rfind(b"\n") + 1]
        rows = np.empty((complete.count(b"\n"), len(self.fields)))
        step = self._step
        for row, line in zip(rows, complete.split(b"\n")):
            try:
                numbers = [float(word) for word in line.split()]
            except ValueError:
                numbers = []
            if len(numbers) != len(row) or not all(map(math.isfinite, numbers)) or numbers[0] <= step:
                after = "the first lines" if step == -math.inf else f"step {step:.0f}"
                raise SimulationError(
                    f"{self.path}: is damaged after {after}: expected a later step and {len(row) - 1} more numbers; "
                    f"got '{line[:80].decode(errors='replace')}'."
                )
            self._check_limits(numbers)
            row[:], step = numbers, numbers[0]
        self.offset, self._step = self.offset + len(complete), step
        return rows

    def _may_lag(self) -> bool:
        """Whether a file that is not as long as it was may be so because a network disk has not noticed yet."""
        if self._lagging_since is None:
            self._lagging_since = time.monotonic()
        return time.monotonic() - self._lagging_since < self.patience

    def _check_limits(self, numbers: Sequence[float]) -> None:
        """Refuse a hill that no walker of this bias can have added, with the walker and the step."""
        for place, name, low, high in self.limits:
            if not low <= numbers[place] <= high:
                raise SimulationError(
                    f"{self.path}: the hill of walker '{self.path.stem}' at step {numbers[0]:.0f} has {name} "
                    f"{numbers[place]:.6g}, and {low:.6g} to {high:.6g} is possible; restore the file, or remove the "
                    "lines from there on."
                )
        if self.fields[-1] == "clock" and numbers[-1] < numbers[0]:
            raise SimulationError(
                f"{self.path}: the hill of walker '{self.path.stem}' at step {numbers[0]:.0f} has an earlier clock "
                f"({numbers[-1]:.6g}); restore the file, or remove the lines from there on."
            )

    def _read_head(self, file: IO[bytes]) -> int:
        """Read the first lines, and check that they are what is expected; returns the generation."""
        expected = {"FIELDS": " ".join(self.fields), **self.settings}
        head: dict[str, str] = {}
        while "generation" not in head:  # the last one
            words = file.readline().decode(errors="replace").split()
            if len(words) < 3 or words[0] != "#!":
                raise SimulationError(f"{self.path}: is no history of hills, or its first lines are damaged.")
            head.update({"FIELDS": " ".join(words[2:])} if words[1] == "FIELDS" else {words[2]: " ".join(words[3:])})
        for name, value in expected.items():
            if head.get(name) != value:
                raise SimulationError(
                    f"{self.path}: was written with {name} {head.get(name)}, not {value}; "
                    "give each bias a directory of its own."
                )
        if not head["generation"].isdecimal():
            raise SimulationError(f"{self.path}: its first lines are damaged (generation {head['generation']}).")
        return int(head["generation"])


class Neighbors:
    """The histories of all other walkers in a folder."""

    def __init__(self, own: Path, fields: list[str], settings: dict[str, str], limits: Limits | None = None) -> None:
        self._own, self._format = own, (fields, settings, limits)
        self._readers: dict[Path, Reader] = {}

    def check(self) -> None:
        """Refuse a folder whose histories are of another bias."""
        for path in self._paths():
            Reader(path, *self._format).check()

    def read_new(self) -> tuple[list[np.ndarray], bool]:
        """New hills of each other walker, and whether those read before are void, since a walker removed some."""
        for path in self._paths():
            if path not in self._readers:
                self._readers[path] = Reader(path, *self._format, patience=PATIENCE)
        before = self.offsets()
        try:
            rows = [reader.read_new() for reader in self._readers.values()]
        except BaseException:
            self.seek(before)  # what was read will not be added to the bias, and counts as new again
            raise
        after = self.offsets()
        return rows, any(before[name][0] not in (-1, after[name][0]) for name in after)

    def read_all(self, own: np.ndarray) -> list[np.ndarray]:
        """All hills of each walker, of which `own` are those of this one, in the order of names."""
        rows = {path.stem: Reader(path, *self._format).read_new() for path in self._paths()}
        return [hills for _, hills in sorted({**rows, self._own.stem: own}.items())]

    def read(self, walker: str, own: np.ndarray) -> np.ndarray:
        """All hills of one walker by its name, of which `own` are those of this one; none where there is no file."""
        path = self._own.with_name(f"{walker}{SUFFIX}")
        if path == self._own:
            return own
        return Reader(path, *self._format).read_new() if path.exists() else own[:0]

    def missing(self, known: set[str]) -> list[str]:
        """Those of some names of files that are not in the folder."""
        return sorted(known - {path.name for path in self._paths()})

    def offsets(self) -> dict[str, tuple[int, int]]:
        """Generation of each file, and how far it is read."""
        return {path.name: (reader.generation, reader.offset) for path, reader in self._readers.items()}

    def seek(self, offsets: Mapping[str, Sequence[int]]) -> None:
        """Continue from such offsets; what was read beyond them counts as new."""
        self._readers.clear()
        for name, (generation, offset) in offsets.items():
            path = self._own.parent / name
            self._readers[path] = Reader(path, *self._format, patience=PATIENCE)
            self._readers[path].generation, self._readers[path].offset = generation, offset

    def _paths(self) -> list[Path]:
        return sorted(path for path in self._own.parent.glob(f"[!.]*{SUFFIX}") if path != self._own)


def hills_digest(path: Path, entries: int) -> str | None:
    """SHA-256 of the first so many hills of a file; `None` where the file is missing or holds fewer."""
    try:
        _, hills = _head_and_hills(path)
    except OSError:
        return None
    if len(hills) < entries or (entries and not hills[entries - 1].endswith(b"\n")):
        return None
    return hashlib.sha256(b"".join(hills[:entries])).hexdigest()


def _head_digest(path: Path) -> str:
    """SHA-256 of the settings in a file of hills: all lines of its head but the generation, which may change."""
    lines = [line.rstrip(b"\r\n") for line in _head_and_hills(path)[0]]
    return hashlib.sha256(b"\n".join(line for line in lines if not GENERATION.fullmatch(line))).hexdigest()


def _head_and_hills(path: Path) -> tuple[list[bytes], list[bytes]]:
    """The lines of a file, with their ends: those of the head, and those of the hills."""
    lines = path.read_bytes().splitlines(keepends=True)
    return [line for line in lines if line.startswith(b"#!")], [line for line in lines if not line.startswith(b"#!")]


def verify_hills(path: Path, saved: Mapping[str, Any], complete: bool) -> None:
    """Compare a walker's files with what its bias stated when it saved them.

    Parameters
    ----------
    path
        The walker's file of hills.
    saved
        As `latf_sampling.bias.Bias.saved` stated it.
    complete
        Whether nothing was added to the files since.

    Raises
    ------
    StoreError
        A file is missing, shorter, or was changed; names it.
    """
    entries = int(saved["entries"])
    if hills_digest(path, entries) != saved["sha256"]:
        what = f"its first {entries} hills are not those that were added" if path.exists() else "is missing"
        raise StoreError(f"{path}: {what}.")
    if "head" in saved and _head_digest(path) != saved["head"]:
        raise StoreError(f"{path}: its first lines, with the settings of the bias, were changed.")
    if complete and hills_digest(path, entries + 1) is not None:
        raise StoreError(f"{path}: holds more hills than the {entries} that were added.")
    state = path.with_suffix(".npz")
    if complete and "state" in saved and not (state.exists() and storage.checksum(state) == saved["state"]):
        raise StoreError(f"{state}: {'was changed' if state.exists() else 'is missing'} since it was written.")


def keep_hills(path: Path, entries: int) -> None:
    """Remove all hills of a file after the first so many, whatever follows; without any the file is removed."""
    if entries == 0:
        storage.remove(path)
        return
    head, hills = _head_and_hills(path)
    with storage.atomic_write(path) as temporary:
        temporary.write_bytes(b"".join([*head, *hills[:entries]]))


def take_back(path: Path, step: int) -> None:
    """Remove the hills after a step from the file of a walker that has ended, as `History.rewind` does.

    Other walkers notice by the generation of the file; a file that does not exist has no hills.

    Raises
    ------
    SimulationError
        A process still adds to the file.
    StoreError
        The file is damaged or cannot be written.
    """
    if not path.exists():
        return
    lock = storage.try_lock(path.with_suffix(".lock"))
    if lock is None:
        raise SimulationError(f"{path}: another process adds to this history.")
    with lock:
        head, hills = _head_and_hills(path)
        try:
            kept = [line for line in hills if line.endswith(b"\n") and float(line.split()[0]) <= step]
        except (ValueError, IndexError) as error:
            raise StoreError(f"{path}: is damaged; a line begins with no step ({error}).") from error
        if kept == hills:
            return
        with storage.atomic_write(path) as temporary:
            temporary.write_bytes(b"".join([*map(_next_generation, head), *kept]))


def _next_generation(line: bytes) -> bytes:
    """A line of the head, with the number of the next generation if it is the one that states it."""
    match = GENERATION.fullmatch(line.rstrip())
    return b"#! SET generation %d\n" % (int(match[1]) + 1) if match else line


def _lines(rows: np.ndarray) -> str:
    """One line a hill; steps as whole numbers, the rest with as many digits as restore every bit."""
    return "".join(f"{int(row[0])} {' '.join(map(repr, row[1:]))}\n" for row in rows.tolist())
