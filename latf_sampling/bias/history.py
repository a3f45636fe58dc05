"""What biases added, and when: one text file a walker, which grows by whole lines and which other walkers read.

The file looks like PLUMED's HILLS: a line ``#! FIELDS step ...``, then one line of numbers an entry, written so that
reading gives back every bit. Only its own walker writes to it, under a lock, and whole lines count alone: a process
that is killed while writing leaves at most a broken last line, which others do not read and which its next run removes.
So no entry is lost or read twice, whoever stops when. Taking back entries (a simulation goes on from an earlier state)
replaces the file by one of the next generation, which tells readers to begin anew.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np

from latf_sampling.core import storage
from latf_sampling.errors import SimulationError, StoreError

SUFFIX = ".hills"


class History:
    """One walker's own entries, in memory and, if it has a path, on the disk.

    Parameters
    ----------
    path
        Its file; entries that are in it already are read. None keeps them in memory only.
    fields
        Names of the columns; the first is "step".
    settings
        What entries depend on: a file with other settings is refused.

    Attributes
    ----------
    rows : numpy.ndarray (n, fields)

    Raises
    ------
    SimulationError
        Another process writes to this file, it is damaged, or it was written with other fields or settings.
    StoreError
        The file cannot be written.
    """

    def __init__(self, path: Path | None, fields: list[str], settings: dict[str, str]) -> None:
        self.path, self.fields, self.settings = path, fields, settings
        self._buffer, self._count = np.empty((64, len(fields))), 0
        self._written = self._size = self._generation = 0
        if path is None:
            return
        self._lock = storage.try_lock(path.with_suffix(".lock"))
        if self._lock is None:
            raise SimulationError(f"{path}: another process adds to this history; give each walker a name of its own.")
        try:
            if path.exists():
                reader = Reader(path, fields, settings)
                self._extend(reader.news())
                if path.stat().st_size > reader.place:  # a broken last line goes
                    os.truncate(path, reader.place)
                self._written, self._size, self._generation = self._count, reader.place, reader.generation
            else:
                self._replace(self.rows)
        except BaseException as error:
            self.close()  # an error that someone looks at keeps this object alive
            if isinstance(error, OSError):
                raise StoreError(f"{path}: cannot be written ({error.strerror}).") from error
            raise

    @property
    def rows(self) -> np.ndarray:
        return self._buffer[: self._count]

    def add(self, row) -> None:
        """Take up an entry (fields,), in memory; `write` brings it to the disk."""
        self._extend(np.asarray(row, np.float64)[None])

    def write(self) -> None:
        """Append what is new to the file.

        Raises
        ------
        StoreError
            The disk is full, or the like; entries that are in the file stay, and the next call goes on after them.
        """
        if self.path is None or self._written == self._count:
            return
        self._size = storage.append(self.path, _lines(self.rows[self._written :]), self._size)
        self._written = self._count

    def sync(self) -> None:
        """See to it that what was written survives a power cut too."""
        if self.path is not None:
            storage.sync(self.path)

    def rewind(self, step: int) -> bool:
        """Take back entries after a step; returns whether there were any.

        Raises
        ------
        StoreError
            The file cannot be written; nothing was taken back.
        """
        kept = int(np.searchsorted(self.rows[:, 0], step, side="right"))
        if kept == self._count:
            return False
        if self.path is not None:
            self._generation += 1
            self._replace(self.rows[:kept])
        self._count = kept
        return True

    def close(self) -> None:
        """Let other processes write to the file."""
        if self.path is not None:
            self._lock.close()

    def _extend(self, rows: np.ndarray) -> None:
        while self._count + len(rows) > len(self._buffer):
            self._buffer = np.concatenate([self._buffer, np.empty_like(self._buffer)])
        self._buffer[self._count : self._count + len(rows)] = rows
        self._count += len(rows)

    def _replace(self, rows: np.ndarray) -> None:
        settings = "".join(f"#! SET {name} {value}\n" for name, value in self.settings.items())
        head = f"#! FIELDS {' '.join(self.fields)}\n{settings}#! SET generation {self._generation}\n"
        text = head + _lines(rows)
        storage.write_text(self.path, text)
        self._written, self._size = len(rows), len(text)


class Reader:
    """What is new in a history, each time one asks.

    Attributes
    ----------
    generation : int
        Of the file when it was last read; a higher one than before says that entries were taken back.
    place : int
        Bytes read so far, all of them whole lines.
    """

    def __init__(self, path: Path, fields: list[str], settings: dict[str, str]) -> None:
        self.path, self.fields, self.settings = path, fields, settings
        self.generation, self.place = -1, 0
        self._step = -math.inf  # of the last entry

    def check(self) -> None:
        """Refuse a file that is damaged, or that was written with other fields or settings."""
        try:
            with open(self.path, "rb") as file:
                self._head(file)
        except OSError as error:
            raise SimulationError(f"{self.path}: cannot be read as a history ({error.strerror}).") from error

    def news(self) -> np.ndarray:
        """Entries (n, fields) since the last call; all of them, if `generation` has changed with this one.

        Raises
        ------
        SimulationError
            The file is gone or damaged, or was written with other fields or settings.
        """
        try:
            with open(self.path, "rb") as file:
                head = self._head(file)
                if head != self.generation:
                    self.generation, self.place, self._step = head, file.tell(), -math.inf
                if file.seek(0, os.SEEK_END) < self.place:
                    raise SimulationError(f"{self.path}: is shorter than it was; another program changed it.")
                file.seek(self.place)
                content = file.read()
        except OSError as error:
            raise SimulationError(f"{self.path}: cannot be read as a history ({error.strerror}).") from error
        whole = content[: content.rfind(b"\n") + 1]
        rows = np.empty((whole.count(b"\n"), len(self.fields)))
        step = self._step
        for row, line in zip(rows, whole.split(b"\n")):
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
            row[:], step = numbers, numbers[0]
        self.place, self._step = self.place + len(whole), step
        return rows

    def _head(self, file) -> int:
        """Read the first lines, and check that they are what is expected; returns the generation."""
        wanted = {"FIELDS": " ".join(self.fields), **self.settings}
        found = {}
        while "generation" not in found:  # the last one
            words = file.readline().decode(errors="replace").split()
            if len(words) < 3 or words[0] != "#!":
                raise SimulationError(f"{self.path}: is no history of hills, or its first lines are damaged.")
            found.update({"FIELDS": " ".join(words[2:])} if words[1] == "FIELDS" else {words[2]: " ".join(words[3:])})
        for name, value in wanted.items():
            if found.get(name) != value:
                raise SimulationError(
                    f"{self.path}: was written with {name} {found.get(name)}, not {value}; "
                    "give each bias a directory of its own."
                )
        if not found["generation"].isdecimal():
            raise SimulationError(f"{self.path}: its first lines are damaged (generation {found['generation']}).")
        return int(found["generation"])


class Neighbours:
    """The histories of all other walkers in a folder."""

    def __init__(self, own: Path, fields: list[str], settings: dict[str, str]) -> None:
        self._own, self._format = own, (fields, settings)
        self._readers: dict[Path, Reader] = {}

    def check(self) -> None:
        """Refuse a folder whose histories are of another bias."""
        for path in self._paths():
            Reader(path, *self._format).check()

    def news(self) -> tuple[list[np.ndarray], bool]:
        """New entries of each other walker; and whether those read before are void, since a walker took some back."""
        for path in self._paths():
            if path not in self._readers:
                self._readers[path] = Reader(path, *self._format)
        before = self.places()
        try:
            news = [reader.news() for reader in self._readers.values()]
        except BaseException:
            self.resume(before)  # what was read will not be taken up, and counts as new again
            raise
        after = self.places()
        return news, any(before[name][0] not in (-1, after[name][0]) for name in after)

    def entries(self) -> list[np.ndarray]:
        """All entries of each other walker, whether they were news before or not."""
        return [Reader(path, *self._format).news() for path in self._paths()]

    def _paths(self) -> list[Path]:
        return sorted(path for path in self._own.parent.glob(f"[!.]*{SUFFIX}") if path != self._own)

    def places(self) -> dict[str, tuple[int, int]]:
        """Generation of each file, and how far it is read."""
        return {path.name: (reader.generation, reader.place) for path, reader in self._readers.items()}

    def resume(self, places: dict[str, tuple[int, int]]) -> None:
        """Go on from such places; what was read beyond them counts as new."""
        self._readers.clear()
        for name, (generation, place) in places.items():
            path = self._own.parent / name
            self._readers[path] = Reader(path, *self._format)
            self._readers[path].generation, self._readers[path].place = generation, place


def _lines(rows: np.ndarray) -> str:
    """One line an entry; steps as whole numbers, the rest with as many digits as give back every bit."""
    return "".join(f"{int(row[0])} {' '.join(map(repr, row[1:]))}\n" for row in rows.tolist())
