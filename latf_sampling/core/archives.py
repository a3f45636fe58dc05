"""Files that torch writes, which are zip archives: which kind, and whether whole, before torch reads them.

Torch itself does not look at checksums, and what it says of a file of another kind helps nobody.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from latf_sampling.core.arguments import describe

TENSORS, TORCHSCRIPT = "tensors", "TorchScript"
"""The kinds of archive: tensors and numbers, as `torch.save` writes, and programs, as `torch.jit.save` does."""


class ArchiveError(ValueError):
    """A file that is missing, damaged or no archive; the message completes 'cannot be read: ...'."""


def read_archive(path: str | Path) -> tuple[bytes, str]:
    """The content of a file that torch wrote, with its checksums compared, and its kind.

    Returns
    -------
    bytes
        To be read from memory, so that what is read is what was checked.
    str
        `TENSORS` or `TORCHSCRIPT`.

    Raises
    ------
    ArchiveError
        There is no such file, or it is something else, or it is damaged.
    """
    try:
        content = Path(path).read_bytes()
    except TypeError:
        raise ArchiveError(f"a path is needed, not {describe(path)}") from None
    except FileNotFoundError:
        raise ArchiveError("there is no such file") from None
    except IsADirectoryError:
        raise ArchiveError("it is a directory") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise ArchiveError(getattr(error, "strerror", None) or str(error)) from error
    if not content:
        raise ArchiveError("the file is empty")
    if not content.startswith(b"PK"):
        raise ArchiveError("it is no file that torch writes")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            if len(set(names)) < len(names):  # of which torch might read another one than was checked
                raise ArchiveError("it holds two entries of one name")
            if (damaged := archive.testzip()) is not None:
                raise ArchiveError(f"{damaged} in it is damaged")
    except ArchiveError:
        raise
    except Exception as error:  # zipfile raises many types for a damaged file
        raise ArchiveError("it is damaged or cut off") from error
    inner = {name.partition("/")[2] for name in names}
    if "data.pkl" not in inner:
        raise ArchiveError("it is no file that torch writes")
    return content, TORCHSCRIPT if "constants.pkl" in inner else TENSORS
