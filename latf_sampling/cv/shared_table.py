"""Numbers in memory that forces elsewhere map by a path: in other contexts, threads and processes.

On Linux they are an anonymous file in memory, which no cleaner of temporary files can remove and no full disk can cut
short; elsewhere a temporary file. The first number is a key, by which a reader knows that it has mapped the right file:
a path may lead elsewhere once its owner is gone, and `torch.from_file` makes an empty file where there is none.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import resource
import tempfile
import weakref
from pathlib import Path

import numpy as np

from latf_sampling.errors import StoreError

HIGH = 512
"""Descriptors of tables are at least so high, where a process may have so many."""


class SharedTable:
    """Numbers (m,) that can be mapped by other forces and processes of the same user as long as this object lives.

    Attributes
    ----------
    values : numpy.ndarray (m,)
        Write to it in place.
    stem, number : str, int
        Together the path of the file. The number comes apart, since a TorchScript module must not have a constant path.
    key : float
        What the file begins with.

    Raises
    ------
    StoreError
        There is no memory, no space on the disk, or too many files are open.

    Examples
    --------
    >>> table = SharedTable(3)
    >>> table.values[:] = [1, 2, 3]
    >>> mapped(table.path, table.key, 3)
    array([1., 2., 3.])
    """

    def __init__(self, size: int) -> None:
        try:
            self.stem, self.number, descriptor = _open()
        except OSError as error:
            raise StoreError(f"bias: no file for a table of {8 * size} bytes ({error.strerror}).") from error
        try:
            # Where memory or disk are full, writing to a mapped file would kill the process.
            os.posix_fallocate(descriptor, 0, 8 * (1 + size))
            buffer = mmap.mmap(descriptor, 8 * (1 + size))
        except OSError as error:
            _close(descriptor, self.path)
            raise StoreError(
                f"bias: no room for a table of {8 * size} bytes in {self.path} ({error.strerror}); free memory, or "
                "space in the folder of temporary files."
            ) from error
        whole = np.frombuffer(buffer, np.float64)
        self.key = 1 + int.from_bytes(os.urandom(6), "little") / 2**48
        whole[0], self.values = self.key, whole[1:]
        weakref.finalize(self, _close, descriptor, self.path)

    @property
    def path(self) -> str:
        return f"{self.stem}{self.number}"


def mapped(path: str, key: float, size: int) -> np.ndarray | None:
    """The numbers (size,) that are shared under a path, to be read; `None` if they are not there any more."""
    try:
        whole = np.memmap(path, np.float64, "c", shape=(1 + size,))
    except (OSError, ValueError):  # gone, or another file that is too short
        return None
    return whole[1:].view(np.ndarray) if whole[0] == key else None


def _open() -> tuple[str, int, int]:
    """A new empty file: its path in two parts, and its descriptor."""
    if hasattr(os, "memfd_create"):
        low = os.memfd_create("latf-bias")
        # A high number, which hardly another file gets when this one is closed.
        try:
            high = fcntl.fcntl(
                low, fcntl.F_DUPFD_CLOEXEC, min(HIGH, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
            )
        finally:
            os.close(low)
        return f"/proc/{os.getpid()}/fd/", high, high
    descriptor, path = tempfile.mkstemp(prefix="latf-bias-", suffix="-0")
    return path[:-1], 0, descriptor


def _close(descriptor: int, path: str) -> None:
    os.close(descriptor)
    if not path.startswith("/proc/"):
        Path(path).unlink(missing_ok=True)
