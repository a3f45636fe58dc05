"""Why a reader of another package fails, in words about the file and not about the reader's code."""

from __future__ import annotations

import re

DAMAGED = "it is damaged, cut off, or of another format than its name says"


def reason(error: Exception) -> str:
    """What an error of a reader says about its file.

    Examples
    --------
    >>> reason(ValueError("could not convert string to float: '********'"))
    "it holds '********' in place of a number"
    >>> reason(IndexError("list index out of range"))
    'it is damaged, cut off, or of another format than its name says'
    >>> reason(ValueError("Unknown atom type CX"))
    'Unknown atom type CX'
    """
    text = " ".join(str(error).split())
    if number := re.match(r"(?:could not convert string to float|invalid literal for .*?): (.+)", text):
        return f"it holds {number[1][:40]} in place of a number"
    if number := re.match(r"Could not convert (.+) to <class", text):
        return f"its {number[1]} is no number"
    if isinstance(error, UnicodeDecodeError):
        return f"it is no text, at byte {error.start}"
    accidents = (LookupError, AttributeError, TypeError, ArithmeticError, NameError, AssertionError, StopIteration)
    code = re.search(
        r"math domain|NoneType|unpack|buffer size|not enough values|can only convert|takes .* argument|object", text
    )
    if not text or isinstance(error, accidents) or code:
        return DAMAGED
    return text[:300].rstrip(".")
