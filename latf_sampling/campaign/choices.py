"""From which frames walkers go on, as functions of plain arrays: of states, latent points and their uncertainty.

Each returns indices of frames, one for each walker, and the reason in words.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import KDTree

from latf_sampling.core.words import plural

Choice = tuple[np.ndarray, str]
"""Indices of frames (walkers,), and the reason: a sentence without its subject and period."""
MOST = 5000
"""Frames that are compared with each other, evenly spread over all."""
NEAREST = 10
"""A frame is as far at the border as its so many nearest others are away."""
APART = 2.0
"""Least distance of the frames of two walkers, in hill widths, as long as there are enough frames so far apart."""


def uniform(frames: int, count: int, rng: np.random.Generator) -> Choice:
    """Frames at random, all with the same probability.

    Examples
    --------
    >>> uniform(100, 3, np.random.default_rng(0))
    (array([85, 63, 51]), 'drawn at random from 100 frames, all with the same probability')
    """
    chosen = rng.integers(frames, size=count)
    return chosen, f"drawn at random from {plural(frames, 'frame')}, all with the same probability"


def least_counts(states: np.ndarray, n_states: int, count: int, length: int, rng: np.random.Generator) -> Choice:
    """Frames of the states in which fewest frames are.

    One walker after the other gets the state with the fewest frames, with those that the walkers before it will add.
    Source: Bowman, Ensign and Pande, doi:10.1021/ct900620b.

    Parameters
    ----------
    states
        State of each frame; (n,).
    n_states
        Number of states.
    count
        Number of walkers.
    length
        Frames that each of them will add.
    rng
        Chooses frames within a state.

    Examples
    --------
    >>> least_counts(np.array([0, 0, 0, 0, 1, 1]), 2, 2, 3, np.random.default_rng(0))
    (array([5, 2]), 'in the states with the fewest frames: state 1 with 2, state 0 with 4')
    """
    counts = np.bincount(states, minlength=n_states)
    expected = np.where(counts > 0, counts, np.inf)
    chosen, named = [], dict[int, int]()
    for _ in range(count):
        state = int(np.argmin(expected))
        expected[state] += length
        chosen.append(int(rng.choice(np.flatnonzero(states == state))))
        named.setdefault(state, int(counts[state]))
    listed = ", ".join(f"state {state} with {number:,}" for state, number in named.items())
    return np.array(chosen), f"in the states with the fewest frames: {listed}"


def frontier(latent: np.ndarray, width: np.ndarray, count: int, rng: np.random.Generator) -> Choice:
    """Frames at the border of what was visited: those whose nearest others are farthest away.

    Parameters
    ----------
    latent
        Latent points of the frames; (n, d).
    width
        Hill width of each component; (d,).
    count
        Number of walkers.
    rng
        Chooses the frames that are compared, where there are more than `MOST`.

    Examples
    --------
    >>> points = np.append(np.linspace(0, 1, 50), 4.0)[:, None]
    >>> chosen, reason = frontier(points, np.ones(1), 1, np.random.default_rng(0))
    >>> chosen.tolist(), reason
    ([50], 'at the border of what was visited, where the 10 nearest of 51 frames are up to 3.2 hill widths away')
    """
    compared = _some(len(latent), rng)
    points = latent[compared] / width
    near = min(NEAREST, max(1, len(compared) - 1))
    distances = KDTree(points).query(points, near + 1)[0][:, -1] if len(compared) > 1 else np.zeros(1)
    chosen = _apart(points, -distances, count)
    return compared[chosen], (
        f"at the border of what was visited, where the {near} nearest of {len(compared):,} frames are up to "
        f"{distances[chosen].max():.2g} hill widths away"
    )


def most_uncertain(uncertainty: np.ndarray, latent: np.ndarray, width: np.ndarray, count: int) -> Choice:
    """Frames at which the flows of the ensemble differ most in their free energy.

    Parameters
    ----------
    uncertainty
        Standard deviation of the free energy at each frame, kJ/mol; (n,).
    latent, width
        Latent points (n, d), and hill widths (d,).
    count
        Number of walkers.

    Examples
    --------
    >>> most_uncertain(np.array([0.1, 2.0, 0.3]), np.zeros((3, 1)), np.ones(1), 1)
    (array([1]), 'where the flows of the ensemble differ most in their free energy, by 2 kJ/mol')
    """
    chosen = _apart(latent / width, -uncertainty, count)
    low, high = uncertainty[chosen].min(), uncertainty[chosen].max()
    number = f"{high:.2g}" if low == high else f"{low:.2g} to {high:.2g}"
    return chosen, f"where the flows of the ensemble differ most in their free energy, by {number} kJ/mol"


def _some(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of at most `MOST` frames, in order."""
    return np.arange(frames) if frames <= MOST else np.sort(rng.choice(frames, MOST, replace=False))


def _apart(points: np.ndarray, costs: np.ndarray, count: int) -> np.ndarray:
    """Indices of the points (n, d) of lowest cost that are `APART`; then of the next ones, wherever they are."""
    order = np.argsort(costs, kind="stable")
    chosen: list[int] = []
    for index in order.tolist():
        if len(chosen) == count:
            break
        if not chosen or np.linalg.norm(points[chosen] - points[index], axis=1).min() >= APART:
            chosen.append(index)
    rest = [index for index in order.tolist() if index not in set(chosen)]
    chosen += rest[: count - len(chosen)]
    return np.array([chosen[k % len(chosen)] for k in range(count)])
