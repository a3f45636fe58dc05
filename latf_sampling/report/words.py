"""Numbers as text, with their units and no more digits than their errors justify."""

from __future__ import annotations

import math
from collections.abc import Sequence

from latf_sampling.core.words import with_error


def value(number: float, error: float | None, unit: str = "kJ/mol") -> str:
    """A number with its error, to two digits of the error if the first of them is 1 or 2, else to one.

    >>> value(8.6261, 0.0668), value(7.656, 1.114)
    ('8.63 ± 0.07 kJ/mol', '7.7 ± 1.1 kJ/mol')
    >>> value(8.6261, float("inf"))
    '8.6 kJ/mol, error not bounded'
    """
    if not math.isfinite(number):
        return "no finite value"
    if error is None:
        return f"{number:.2f} {unit}"
    if not math.isfinite(error):
        return f"{number:.1f} {unit}, error not bounded"
    return f"{with_error(number, error)} {unit}"


def kelvin(temperatures: Sequence[float]) -> str:
    """Different temperatures, in ascending order."""
    return ", ".join(f"{temperature:g} K" for temperature in sorted(set(temperatures)))


def span(picoseconds: float) -> str:
    """A simulated time."""
    return f"{picoseconds / 1000:.3g} ns" if picoseconds >= 100 else f"{picoseconds:.3g} ps"


def wall(seconds: float) -> str:
    """A wall time."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def listed(words: Sequence[str]) -> str:
    """A list in a sentence: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def temperature(mode: str, overlaps: Sequence[float]) -> str:
    """How temperature enters a model, and why."""
    listed_overlaps = ", ".join(f"{value:.2g}" for value in overlaps)
    found = f" (overlaps: {listed_overlaps}; 0.03 is reliable)" if listed_overlaps else ""
    return {
        "reweighted": "Between temperatures frames are weighted by MBAR, since the energies of neighboring simulated "
        f"temperatures overlap{found}.",
        "thermodynamic": "Between temperatures frames are weighted by their mean energy at each point of the variable "
        f"(temperature_mode: thermodynamic), which needs no overlap of energies{found}. Outside the simulated "
        "temperatures this takes heat capacities to be what they are between them.",
        "steered": "Temperature enters through the width of the prior alone (temperature_mode: steered), which "
        "misplaces populations at temperatures that were not simulated.",
    }[mode]


TEMPERATURE_DEPENDENT = (
    "The potential energy depends on temperature (system.temperature_dependent): energies of frames at one temperature "
    "say nothing about another, so that MBAR joins rounds at the same temperature alone, and nothing is reweighted "
    "between temperatures."
)
