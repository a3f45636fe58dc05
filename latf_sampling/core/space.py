"""Space on a disk: asked for before work begins, so that it ends with a sentence while there is still some left."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from latf_sampling.core.outputs import reason
from latf_sampling.errors import StoreError

RESERVE = 1 << 20
"""Bytes that are left for what ends a run: the state of walkers, ledger and log."""
SPARE_FILES = 16
"""Number of files that are left for the same."""


@dataclass(frozen=True)
class Size:
    """Bytes and number of files.

    Examples
    --------
    >>> 3 * Size(100.0, 2) + Size(5.0, 1)
    Size(size=305.0, files=7)
    """

    size: float = 0.0
    files: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(self.size + other.size, self.files + other.files)

    def __rmul__(self, count: int) -> Size:
        return Size(count * self.size, count * self.files)


def free_space(path: str | Path) -> tuple[int, int | None]:
    """Bytes and number of files that can be written in a folder, which need not exist yet.

    Returns
    -------
    tuple
        `None` for the files where the file system has no limit.

    Raises
    ------
    StoreError
        The disk cannot be asked, such as one that was disconnected.

    Examples
    --------
    >>> free_space("/tmp")[0] > 0
    True
    """
    existing = Path(path).absolute()
    while not existing.exists() and existing.parent != existing:
        existing = existing.parent
    try:
        found = os.statvfs(existing)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({reason(error)}).") from error
    return found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None


def require_space(path: str | Path, wanted: Size, what: str) -> None:
    """Refuse to begin what the disk has no space for, besides `RESERVE`.

    Parameters
    ----------
    path
        A folder.
    wanted
        What will be written there.
    what
        What they are for, as "the next segment of round 1, walker 0".

    Raises
    ------
    StoreError
        There is less; says how much there is.

    Examples
    --------
    >>> require_space("/tmp", Size(1e30, 4), "the next segment")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    latf_sampling.errors.StoreError: /tmp: has ... free, and the next segment takes 1e+21 GB; free some space, and run \
the same command again.
    """
    space, number = free_space(path)
    size, files = wanted.size, wanted.files
    if space < size + RESERVE:
        has = f"has {spelled(space)} free, and {what} takes {spelled(size)}"
        if size <= space:
            has += f" besides a reserve of {spelled(RESERVE)}"
        raise StoreError(f"{path}: {has}; free some space, and run the same command again.")
    if number is not None and number < files + SPARE_FILES:
        raise StoreError(
            f"{path}: its disk can take {number:,} more files, and {what} takes {files:,}; remove some files there, "
            "and run the same command again."
        )


def spelled(size: float) -> str:
    """A number of bytes.

    >>> spelled(912), spelled(35e3), spelled(1.25e9), spelled(2e12)
    ('912 bytes', '35 kB', '1.25 GB', '2e+03 GB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} bytes"
