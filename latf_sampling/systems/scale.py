"""Coordinates in another unit of length, by the lengths of their bonds."""

from __future__ import annotations

UNITS = (
    (7.0, 14.0, "ten times too long: are these ångströms, read as nanometers?"),
    (1.7, 2.1, "1.9 times too long: are these bohrs, read as ångströms?"),
    (0.07, 0.14, "ten times too short: are these nanometers, read as ångströms?"),
    (0.47, 0.59, "half as long as they should be: are these ångströms, read as bohrs?"),
)
"""Ranges of the factor by which all bonds are too long, and what such a factor tells."""


def scale_words(factor: float) -> str:
    """What it means that all bonds are longer than they should be by a factor.

    Examples
    --------
    >>> scale_words(10.02)
    'ten times too long: are these ångströms, read as nanometers?'
    >>> scale_words(1.1)
    '1.1 times as long as they should be: is the unit of length right?'
    """
    for low, high, words in UNITS:
        if low < factor < high:
            return words
    return f"{factor:.3g} times as long as they should be: is the unit of length right?"
