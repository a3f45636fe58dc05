"""What went wrong, in one sentence, and the exit code that belongs to it."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from pathlib import Path

from rich.console import Console
from rich.text import Text

from latf_sampling import __version__
from latf_sampling.core import storage
from latf_sampling.core.outputs import explain
from latf_sampling.core.tasks import UnexpectedFailure, describe
from latf_sampling.errors import LatfError

FAULT = 70
"""Exit code of a fault of the program, EX_SOFTWARE of sysexits.h."""


def explain_failure(error: Exception, console: Console) -> tuple[str, int]:
    """A sentence about an error that ends a command, and its exit code.

    The traceback of a fault of the program is written to a file, or to the console where none can be written. There is
    nothing to say where the reader of the output has ended, as in ``latf status x | head -1``.
    """
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left of it is lost at the end
        return "", 1
    if isinstance(error, LatfError) and not isinstance(error, UnexpectedFailure):
        return str(error), 2
    if isinstance(error, OSError):
        return explain(error), 2
    if isinstance(error, MemoryError):
        return f"there is not enough memory ({error}).", 2
    what = str(error).rstrip(".") if isinstance(error, UnexpectedFailure) else f"unexpected failure ({describe(error)})"
    text = f"{' '.join(sys.argv)}\nlatf_sampling {__version__}\n{traceback.format_exc()}"
    try:
        file = Path(tempfile.mkdtemp(prefix="latf-failure-")) / "traceback.txt"
        storage.write_text(file, text)
    except (OSError, LatfError):
        file = None
        console.print(Text(text), soft_wrap=True)
    where = "above" if file is None else f"in {file}"
    return f"{what}. This is a fault of latf_sampling; please report it with the traceback, which is {where}.", FAULT
