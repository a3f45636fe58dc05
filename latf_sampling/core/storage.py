"""Writing, reading and locking files: nothing is ever half-written, and a finished file stays what it was."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from latf_sampling.errors import StoreError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Write a file under a temporary name, and give it its own once it is whole and on the disk.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> with atomic_write(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text()
    'whole'

    Raises
    ------
    StoreError
        The file cannot be written, for example on a full disk; an earlier file of this name is untouched.
    """
    path = Path(path)
    # The suffix stays last, since writers of trajectories choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error}); nothing was changed.") from error
    finally:
        with suppress(OSError):  # a folder that could not be made or written must not hide the error above
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file at once or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text)


def append(path: str | Path, text: str, place: int) -> int:
    """Add whole lines to a file that ends at a place, in bytes; returns where it ends then.

    A call that is interrupted, or that finds the disk full, leaves whole lines alone behind. The next one, given the
    same lines and more, goes on after them.

    Raises
    ------
    StoreError
        They cannot be written, for example on a full disk; what was there is untouched.
    """
    content = text.encode()
    try:
        with open(path, "r+b", buffering=0) as file:
            there = file.seek(0, os.SEEK_END) - place
            if not 0 <= there <= len(content):
                raise OSError(None, "another program changed it")
            try:
                while there < len(content):  # one call, unless the disk is full: readers see few broken lines
                    there += file.write(content[there:])
            except OSError:
                # Whole lines stay, since a reader may have taken them up.
                file.truncate(place + content.rfind(b"\n", 0, there) + 1)
                raise
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"{path}: cannot be written ({reason}); what was there is untouched.") from error
    return place + len(content)


def sync(path: str | Path) -> None:
    """Bring a file from the memory of the operating system to the disk."""
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())


def try_lock(path: str | Path) -> IO | None:
    """A file that one process alone may hold, open as long as it is wanted; none where another process holds it.

    Raises
    ------
    StoreError
        It cannot be made or locked.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path, "a+")  # noqa: SIM115 - held open as long as the lock is
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror}).") from error
    try:
        # The kernel drops this lock with the process, however it ends, so that a kill leaves nothing behind.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    except OSError as error:
        lock.close()
        raise StoreError(f"{path}: cannot be locked ({error.strerror}).") from error
    return lock


def write_json(path: str | Path, content) -> None:
    """Write a JSON file at once or not at all."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True))


def read_json(path: str | Path):
    """Read a JSON file.

    Raises
    ------
    StoreError
        The file is missing or damaged.
    """
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error}).") from error


def remove(path: str | Path) -> None:
    """Remove a file that is no longer needed, where it exists."""
    Path(path).unlink(missing_ok=True)


def remove_stale(folder: str | Path, stem: str | None = None) -> None:
    """Remove temporary files of processes that were killed while writing; of files of one name, or of all below."""
    for leftover in Path(folder).rglob(".*") if stem is None else Path(folder).glob(".*"):
        found = re.fullmatch(r"\.(.+)\.\d+(\.\w+)?", leftover.name)
        if found and stem in (None, found[1]) and leftover.is_file():
            leftover.unlink(missing_ok=True)


def remove_folder(path: str | Path) -> None:
    """Remove a folder that is no longer needed, with all that is in it."""
    shutil.rmtree(path)


def checksum(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
