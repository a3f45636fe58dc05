"""Replica exchange: which walkers try to exchange, with which probability, and how far configurations travel.

Walkers keep their temperatures and exchange configurations, so that the frames of each walker are of one ensemble.
Source: Sugita and Okamoto, doi:10.1016/S0009-2614(99)01123-9.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from latf_sampling.units import KB


def partners(temperatures: Sequence[float], attempt: int) -> dict[int, int]:
    """Who tries to exchange with whom at one attempt: walkers at neighboring temperatures, in even and odd pairs.

    The distinct temperatures are the rungs of a ladder. Even attempts are of the rungs 0 and 1, 2 and 3, ..., odd ones
    of 1 and 2, 3 and 4, ...; two rungs exchange each time. Where several walkers stand on a rung, the first there is
    paired with the first on the next, and so on; where a rung has more of them than the next, they take turns.

    Parameters
    ----------
    temperatures
        Of all walkers, K.
    attempt
        Its number.

    Returns
    -------
    dict
        The partner of each walker that has one.

    Examples
    --------
    >>> partners([300.0, 350.0, 400.0], 0), partners([300.0, 350.0, 400.0], 1)
    ({0: 1, 1: 0}, {1: 2, 2: 1})
    """
    kelvins = sorted(set(temperatures))
    rungs = [[k for k, temperature in enumerate(temperatures) if temperature == kelvin] for kelvin in kelvins]
    first = attempt % 2 if len(rungs) > 2 else 0
    pairs: dict[int, int] = {}
    for lower, upper in zip(rungs[first::2], rungs[first + 1 :: 2]):
        turn = attempt // 2
        for k in range(min(len(lower), len(upper))):
            one, other = lower[(turn + k) % len(lower)], upper[(turn + k) % len(upper)]
            pairs |= {one: other, other: one}
    return pairs


def acceptance(
    temperatures: tuple[float, float], energies: tuple[float, float], bias_changes: tuple[float, float] = (0.0, 0.0)
) -> float:
    """Metropolis probability that two walkers exchange their configurations.

    Parameters
    ----------
    temperatures
        Of the two walkers, K.
    energies
        Of their configurations without bias, kJ/mol; enthalpies E + pV at constant pressure.
    bias_changes
        Of each walker's own bias, kJ/mol: at the configuration of the other less at its own.

    Returns
    -------
    float
        min(1, exp(-D)) with D = sum_i (E_j - E_i + V_i(x_j) - V_i(x_i)) / kT_i, the change of the sum of both reduced
        energies.

    Examples
    --------
    >>> round(acceptance((300.0, 600.0), (0.0, 10.0)), 3), acceptance((300.0, 600.0), (10.0, 0.0))
    (0.135, 1.0)
    """
    difference = energies[1] - energies[0]
    change = (difference + bias_changes[0]) / (KB * temperatures[0])
    change += (-difference + bias_changes[1]) / (KB * temperatures[1])
    return math.exp(-max(0.0, change))


def round_trips(temperatures: Sequence[float], exchanges: Iterable[tuple[int, int]]) -> np.ndarray:
    """How often each configuration went from the lowest temperature to the highest and back, or the other way round.

    Parameters
    ----------
    temperatures
        Of all walkers, K.
    exchanges
        Pairs of walkers that exchanged their configurations, in the order of time.

    Returns
    -------
    numpy.ndarray (walkers,)
        Round trips of the configuration that each walker began with.

    Examples
    --------
    >>> round_trips([300.0, 350.0, 400.0], [(0, 1), (1, 2), (1, 2), (0, 1)]).tolist()
    [1, 0, 0]
    """
    low, high = min(temperatures), max(temperatures)
    configuration = list(range(len(temperatures)))  # of each walker
    ends: list[list[float]] = [[temperature] if temperature in (low, high) else [] for temperature in temperatures]
    for pair in exchanges:
        one, other = pair
        configuration[one], configuration[other] = configuration[other], configuration[one]
        for walker in pair:
            visited, here = ends[configuration[walker]], temperatures[walker]
            if here in (low, high) and visited[-1:] != [here]:
                visited.append(here)
    return np.array([max(0, len(visited) - 1) // 2 for visited in ends])
