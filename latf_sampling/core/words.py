"""Numbers with their nouns."""

from __future__ import annotations


def plural(number: int, noun: str) -> str:
    """A number with its noun.

    >>> plural(1, "walker"), plural(12000, "frame"), plural(2, "trajectory"), plural(0, "process")
    ('1 walker', '12,000 frames', '2 trajectories', '0 processes')
    """
    if number != 1:
        if noun.endswith(("s", "x", "sh", "ch")):
            noun += "es"
        elif noun.endswith("y") and noun[-2] not in "aeiou":
            noun = f"{noun[:-1]}ies"
        else:
            noun += "s"
    return f"{number:,} {noun}"
