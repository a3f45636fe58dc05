"""What readers of other packages print and raise, in words of ours."""

from __future__ import annotations

import ctypes
import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress

_SPEAKING = (OSError, RuntimeError, EOFError, ValueError)
"""Errors that a reader raises on purpose; others are accidents of its code, whose texts would mislead."""
_ACCIDENTS = re.compile(
    "invalid literal for|could not convert|math domain error|(not enough|too many) values to unpack"
)
"""Texts of a `ValueError` that Python itself raises."""


def why(error: Exception) -> str:
    """The reason in parentheses, after a space, as far as the reader's words help; else nothing.

    >>> why(OSError("XTC read error: Float")), why(IndexError("list index out of range"))
    (' (XTC read error: Float)', '')
    """
    text = " ".join(str(error).split())[:200]
    return f" ({text})" if text and isinstance(error, _SPEAKING) and not _ACCIDENTS.match(text) else ""


@contextmanager
def quiet() -> Iterator[None]:
    """Let nothing be printed, neither by Python nor by libraries in C, which write past it.

    >>> with quiet():
    ...     print("dcdplugin) detected standard 32-bit DCD file")
    """
    with ExitStack() as stack, open(os.devnull, "wb") as nothing:
        _flush()
        for number in (1, 2):
            with suppress(OSError):  # it is closed already
                saved = os.dup(number)
                stack.callback(os.close, saved)
                stack.callback(os.dup2, saved, number)
                os.dup2(nothing.fileno(), number)
        stack.callback(_flush)
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))
        yield


def _flush() -> None:
    """Bring what was printed so far to where it belongs."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or none
            stream.flush()
    ctypes.CDLL(None).fflush(None)
