"""Which programs this user has run: what a received campaign brings along runs only once it is trusted.

Whoever runs a protocol of their own trusts the programs that it names. Their digests are kept in the user's state
directory, one empty file each, so that the campaign can be read later, wherever it has been moved to. A program
that was changed by a single character is another one.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

_DIGEST = re.compile("[0-9a-f]{64}")


def directory() -> Path | None:
    """Directory of the digests: latf_sampling/trusted in $XDG_STATE_HOME, or in ~/.local/state; None without a home."""
    try:
        states = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    except RuntimeError:  # a user without a home directory, as in some containers
        return None
    return states / "latf_sampling" / "trusted"


def trust(digests: Iterable[str]) -> None:
    """Remember programs by their SHA-256; a warning says if that is not possible.

    Examples
    --------
    >>> import tempfile
    >>> os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp()
    >>> trust(["ab" * 32])
    >>> is_trusted("ab" * 32), is_trusted("cd" * 32)
    (True, False)
    >>> del os.environ["XDG_STATE_HOME"]
    """
    missing = [digest for digest in digests if not is_trusted(digest)]
    folder, reason = directory(), "this user has no home directory"
    if not missing:
        return
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for digest in missing:
                (folder / digest).touch(mode=0o600)
            return
        except OSError as error:
            reason = f"{folder} cannot be written ({error.strerror})"
    warnings.warn(
        f"{reason}: it is not remembered that you run programs of your own in this campaign; commands that read it "
        "later need --trust.",
        stacklevel=2,
    )


def is_trusted(digest: str) -> bool:
    """Whether this user has run the program of a SHA-256 before."""
    folder = directory()
    if folder is None or not _DIGEST.fullmatch(digest):
        return False
    try:
        return (folder / digest).is_file() and folder.stat().st_uid == os.getuid()
    except OSError:
        return False
