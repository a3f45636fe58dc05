"""Writing, reading and locking files: a file is written completely or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from latf_sampling.core.outputs import check_replaceable, reason, temporary_name
from latf_sampling.errors import StoreError

WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
"""What file systems without locks, like some network disks, answer to a lock."""


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Write a file under a temporary name, and rename it when it is complete and on the disk.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> with atomic_write(target) as temporary:
    ...     _ = temporary.write_text("complete")
    >>> target.read_text()
    'complete'

    Raises
    ------
    StoreError
        The file cannot be written, for example on a full disk, or the path is that of a device, a symbolic link or
        anything else but a regular file; an earlier file of this name is unchanged.
    """
    path = Path(path)
    temporary = path.parent / temporary_name(path)  # "." has no name to replace
    try:
        check_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({reason(error)}); nothing was changed.") from error
    finally:
        with suppress(OSError):  # a folder that cannot be made or written must not hide the error above
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file completely or not at all, as UTF-8.

    Names of files that are not UTF-8 are written with the bytes that they have on the disk.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def overwrite(path: str | Path, text: str) -> None:
    """Write a small text file that is written again soon: at once, and not safely; readers may see half of it.

    Raises
    ------
    StoreError
        It cannot be written.
    """
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({reason(error)}).") from error


def append(path: str | Path, text: str, place: int) -> int:
    """Append complete lines to a file of which a number of bytes are known; returns the new number.

    If a call is interrupted, or the disk is full, the file still ends with a complete line. The next call, with the
    same lines and more, continues after it.

    Parameters
    ----------
    text
        The lines, with a line break at the end.
    place
        Number of bytes before the lines. More bytes than that must be the beginning of `text`.

    Raises
    ------
    StoreError
        The lines cannot be written, for example on a full disk; earlier lines are unchanged.
    """
    content = text.encode()
    try:
        with open(path, "r+b", buffering=0) as file:
            written = file.seek(0, os.SEEK_END) - place
            if not 0 <= written <= len(content):
                raise OSError(None, "another program changed it")
            try:
                while written < len(content):  # one call, unless the disk is full, so that few lines are incomplete
                    written += file.write(content[written:])
            except OSError:
                # Complete lines are kept, since another process may have read them.
                file.truncate(place + content.rfind(b"\n", 0, written) + 1)
                raise
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"{path}: cannot be written ({reason}); earlier lines are unchanged.") from error
    return place + len(content)


def append_line(path: str | Path, line: str) -> None:
    """Append a line to a text file, after a last one that is broken on a line of its own.

    Raises
    ------
    StoreError
        The line cannot be written, for example on a full disk, or the path is that of anything but a regular file.
    """
    try:
        check_replaceable(Path(path))
        with open(path, "ab+") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            broken = file.read() not in (b"", b"\n")
            file.write(f"{chr(10) * broken}{line}\n".encode(errors="surrogateescape"))
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({reason(error)}).") from error


def sync(path: str | Path) -> None:
    """Write a file from the buffers of the operating system to the disk."""
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())


def try_lock(path: str | Path) -> IO[bytes] | None:
    """Lock a file for this process.

    Returns
    -------
    file object or None
        The lock is held until this file is closed; `None` if another process holds it.

    Raises
    ------
    StoreError
        The file cannot be made or locked, for example on a file system without locks.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path, "ab+")  # noqa: SIM115 - it stays open as long as the lock is held
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror}).") from error
    try:
        # The kernel releases this lock when the process ends, also when it is killed.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    except OSError as error:
        lock.close()
        if error.errno in WITHOUT_LOCKS:
            raise StoreError(
                f"{path}: cannot be locked, since its file system has no locks ({reason(error)}), and two processes "
                "could write there at the same time; give a directory on another disk, or have locks turned on."
            ) from error
        raise StoreError(f"{path}: cannot be locked ({reason(error)}).") from error
    return lock


NETWORK = ("9p", "afs", "beegfs", "ceph", "cifs", "fuse.", "gluster", "gpfs", "lustre", "nfs", "panfs", "smb", "wekafs")
"""Beginnings of the types of file systems that other machines may write to at the same time."""


def network_file_system(path: str | Path, mounts: str | Path = "/proc/self/mountinfo") -> str | None:
    """Type of the file system of a path if other machines may write to it too; `None` where this is not known.

    Parameters
    ----------
    path
        A file or folder that exists.
    mounts
        Linux's list of what is mounted where.

    Examples
    --------
    >>> network_file_system("/dev") is None
    True
    """
    try:
        lines = Path(mounts).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # another operating system
        return None
    place, best, kind = Path(path).resolve(), Path(), ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mounted = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), before.split()[4]))
        if place.is_relative_to(mounted) and len(mounted.parts) >= len(best.parts):  # later ones lie on top
            best, kind = mounted, after.split()[0]
    return kind if kind.startswith(NETWORK) else None


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file completely or not at all."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True))


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises
    ------
    StoreError
        The file is missing or damaged.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: is damaged; it is not JSON ({error}).") from error


def remove(path: str | Path) -> None:
    """Remove a file, if it exists."""
    Path(path).unlink(missing_ok=True)


def remove_stale(folder: str | Path, stem: str | None = None) -> None:
    """Remove temporary files of processes that were killed while writing.

    Parameters
    ----------
    folder
        Where the files are.
    stem
        Only those of the file of this name without its ending; by default all, also those of folders below.
    """
    if not Path(folder).is_dir():  # its disk may be gone
        return
    for path in Path(folder).rglob(".*") if stem is None else Path(folder).glob(".*"):
        match = re.fullmatch(r"\.(.+)\.\d+(\.\w+)?", path.name)
        if match and stem in (None, match[1]) and path.is_file():
            path.unlink(missing_ok=True)


def move(source: str | Path, target: str | Path) -> None:
    """Rename a file or a folder on the same disk; what has the new name already is replaced.

    Raises
    ------
    StoreError
        It cannot be renamed; names it.
    """
    source, target = Path(source), Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(source, target)
        _sync_directory(target.parent)
    except OSError as error:
        raise StoreError(f"{source}: cannot be moved to {target} ({reason(error)}).") from error


def remove_folder(path: str | Path) -> None:
    """Remove a folder and everything in it."""
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
