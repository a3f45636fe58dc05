"""Where results are written: refused before the work starts if it cannot be done."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from latf_sampling.errors import StoreError

_KINDS: list[tuple[Callable[[int], bool], str]] = [
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
]
_PROBE = b"\n" * 4096
"""What is written to try a place: an empty file can be made on a full disk."""


def output_file(path: str | Path) -> Path:
    """The regular file that an output will be, after a try to write there; folders on the way need not exist.

    Parameters
    ----------
    path
        As the user gave it.

    Returns
    -------
    pathlib.Path
        The path.

    Raises
    ------
    StoreError
        Something else than a regular file is there, a symbolic link included, since a file is replaced by renaming; or
        the file cannot be written; says why.

    Examples
    --------
    >>> output_file("/dev/null")
    Traceback (most recent call last):
    latf_sampling.errors.StoreError: /dev/null: is a device; give the name of a regular file.
    """
    target = Path(path)
    try:
        check_replaceable(target)
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(None, "it is read-only")
        _try(target.absolute().parent, temporary_name(target))
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({reason(error)}).") from error
    return target


def output_directory(path: str | Path) -> Path:
    """A directory that results will be written to, after a try; it need not exist.

    Raises
    ------
    StoreError
        Something else is there, or nothing can be written in it; says why.

    Examples
    --------
    >>> output_directory("/dev/null")
    Traceback (most recent call last):
    latf_sampling.errors.StoreError: /dev/null: is a device; give the name of a directory.
    """
    directory = Path(path)
    try:
        mode = _mode(directory)
        if mode is not None and not stat.S_ISDIR(mode):
            raise StoreError(f"{path}: is {_kind(mode)}; give the name of a directory.")
        _try(directory.absolute(), f".output.{os.getpid()}")
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({reason(error)}).") from error
    return directory


def check_replaceable(path: Path) -> None:
    """Refuse to put a file where something else than a regular file is, a symbolic link included.

    Raises
    ------
    StoreError
        Names what is there.
    OSError
        That cannot be found out.
    """
    if path.is_symlink():
        raise StoreError(f"{path}: is a symbolic link; give the name of the file that it points to.")
    mode = _mode(path)
    if mode is not None and not stat.S_ISREG(mode):
        raise StoreError(f"{path}: is {_kind(mode)}; give the name of a regular file.")


def temporary_name(path: Path) -> str:
    """Name of the file that becomes `path` when it is complete; its suffix is kept, since writers go by it.

    >>> temporary_name(Path("cv.pt")) == f".cv.{os.getpid()}.pt"
    True
    """
    return f".{path.stem}.{os.getpid()}{path.suffix}"


def reason(error: OSError) -> str:
    """Why an operation failed, as the operating system says it.

    >>> reason(OSError(28, "No space left on device")), reason(OSError("truncated"))
    ('No space left on device', 'truncated')
    """
    return error.strerror or str(error) or type(error).__name__


def explain(error: OSError) -> str:
    """What went wrong with which file, as a sentence.

    >>> explain(PermissionError(13, "Permission denied", "/root/x"))
    '/root/x: cannot be read or written (Permission denied).'
    """
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return f"{f'{names[0]}:' if names else 'a file'} cannot be read or written ({reason(error)})."


def _mode(path: Path) -> int | None:
    """Type and permissions of what is at a path, links followed; `None` where nothing is."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def _kind(mode: int) -> str:
    return next((name for check, name in _KINDS if check(mode)), "a regular file")


def _try(folder: Path, name: str) -> None:
    """Write a file of this name, and remove it; where the folder does not exist yet, in the one that will hold it."""
    existing = folder
    while not existing.exists() and existing.parent != existing:
        existing = existing.parent
    longest = os.pathconf(existing, "PC_NAME_MAX")
    for part in (*folder.relative_to(existing).parts, name):
        if len(os.fsencode(part)) > longest:
            raise OSError(None, f"a name is longer than {longest} bytes")
    if not existing.is_dir():
        raise NotADirectoryError(None, f"{existing} is not a directory")
    probe = existing / name
    try:
        probe.write_bytes(_PROBE)
    finally:
        probe.unlink(missing_ok=True)
