"""Numbers with their nouns, and times on the clock."""

from __future__ import annotations

import math
from collections.abc import Sequence


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


def first_of(items: Sequence[str], most: int, separator: str = ", ") -> str:
    """The first few of some words, and how many more there are.

    Examples
    --------
    >>> first_of(["SER 12", "GLY 14", "ALA 15"], 2)
    'SER 12, GLY 14, and 1 more'
    """
    more = [f"and {len(items) - most} more"] if len(items) > most else []
    return separator.join([*items[:most], *more])


def percent(share: float) -> str:
    """A share in percent with two digits, and nearly all of it as 100 rather than 1e+02.

    >>> percent(0.0734), percent(0.0004), percent(0.997), percent(1.0)
    ('7.3', '0.04', '100', '100')
    """
    return "100" if share >= 0.995 else f"{100 * share:.2g}"


def with_error(number: float, error: float) -> str:
    """A number with its error, to two digits of the error if the first of them is 1 or 2, else to one.

    >>> with_error(8.6261, 0.0668), with_error(7.656, 1.114)
    ('8.63 ± 0.07', '7.7 ± 1.1')
    """
    power = math.floor(math.log10(error)) if error > 0 else -2
    digits = -power + (error < 2.95 * 10.0**power)
    digits = min(max(digits, 0), 6)
    return f"{number:.{digits}f} ± {error:.{digits}f}"


def duration(seconds: float) -> str:
    """A time on the clock with two digits, for people.

    >>> duration(0.4), duration(42.3), duration(150), duration(5400), duration(200_000)
    ('0 s', '42 s', '2.5 min', '1.5 h', '2.3 days')
    """
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            value = seconds / size
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{seconds:.0f} s"
