"""Arrays in NPY and NPZ files, which may be damaged or made to fill the memory."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from latf_sampling.errors import DataError

MOST_BYTES = 2**35
"""Arrays of one file may have so many bytes, 32 GiB: a small compressed file can claim any size."""


_FAULTS = (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What a damaged archive raises; NotImplementedError and RuntimeError for compression and passwords."""


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an NPZ file by their names.

    Raises
    ------
    DataError
        The file is missing, damaged or no NPZ file, or holds Python objects, which numpy would have to unpickle.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "a.npz"
    >>> np.savez(file, energy=[1.5, 2.0])
    >>> read_npz(file)
    {'energy': array([1.5, 2. ])}
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > MOST_BYTES:
                raise ValueError(f"its arrays have more than {MOST_BYTES / 2**30:.0f} GiB")
            if len({member.filename for member in members}) < len(members):
                raise ValueError("it holds two arrays of one name")
            arrays = {}
            for member in members:
                with archive.open(member) as file:
                    arrays[member.filename.removesuffix(".npy")] = _read(file, member.file_size)
                    file.read(1)  # the checksum is compared at the end
            return arrays
    except _FAULTS as error:
        raise DataError(f"{path}: cannot be read as numbers ({_reason(error)}).") from error


def read_npy(path: str | Path) -> np.ndarray:
    """The array of an NPY file.

    Raises
    ------
    DataError
        As `read_npz`.
    """
    try:
        with open(path, "rb") as file:
            return _read(file, os.fstat(file.fileno()).st_size)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as numbers ({_reason(error)}).") from error


def _read(file: IO[bytes], size: int) -> np.ndarray:
    """The array of a stream of so many bytes, which its header has to agree with before memory is taken."""
    version = npy.read_magic(file)
    if version > (3, 0):
        raise ValueError(f"its format {version} is unknown")
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = header(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, not numbers")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count * dtype.itemsize > size or size > MOST_BYTES:
        raise ValueError(f"its header claims an array of shape {shape}, which it does not hold")
    content = file.read(count * dtype.itemsize)
    if len(content) < count * dtype.itemsize:
        raise EOFError("it is cut off")
    array = np.frombuffer(bytearray(content), dtype, count)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
