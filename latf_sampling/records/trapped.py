"""Plain dynamics that never reached a state in which biased walkers were.

It says nothing about the population of such a state, but any estimate that takes its frames as sampled in equilibrium
concludes that the state is empty. MBAR leaves it out, and so does the density that a model learns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latf_sampling.cv.collective_variable import CollectiveVariable
from latf_sampling.data.trajectories import Frames

CORE = 0.9
"""A frame is in the core of its most probable state if this probability is at least so much of the largest one of all
frames."""
CHUNK = 2048
"""Frames for which a variable is evaluated at once."""


def trapped(walkers: Sequence[Frames], reached: Sequence[set[int]]) -> list[bool]:
    """Whether each walker is plain dynamics that never visited the core of a state which biased walkers visited.

    Parameters
    ----------
    walkers
        Biased walkers, and others.
    reached
        The states whose cores each of them visited, by `cores`.
    """
    sought = set[int]().union(*(states for walker, states in zip(walkers, reached) if walker.biased))
    return [not walker.biased and not states >= sought for walker, states in zip(walkers, reached)]


def cores(probabilities: Sequence[np.ndarray]) -> list[set[int]]:
    """The states whose cores each walker visited.

    Parameters
    ----------
    probabilities
        Of all states of one model, at each frame of each walker; (frames, states).
    """
    largest = np.concatenate(probabilities).max(0)
    return [
        set(part.argmax(1)[((part >= CORE * largest) & (part == part.max(1, keepdims=True))).any(1)].tolist())
        for part in probabilities
    ]


def latent(cv: CollectiveVariable, walker: Frames) -> np.ndarray:
    """The variable at all frames of a walker, (frames, d)."""
    values = []
    for piece in walker.pieces():
        x, boxes = np.asarray(piece.xyz), piece.unitcell_vectors
        for start in range(0, len(x), CHUNK):
            part = slice(start, start + CHUNK)
            values.append(cv(x[part].astype(np.float64), None if boxes is None else boxes[part]))
    return np.concatenate(values)
