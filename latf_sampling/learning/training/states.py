"""The metastable states of a training: small clusters of frames, merged by the slow processes between them.

Labels that are refined by giving each frame its most likely future state, again and again, have no fixed point where
the lag is not much shorter than the life of a state: each round takes a little from the rarer of two neighbors, until
it has no frames (with the exact propagator of the three-hole potential, the third hole vanishes after twelve rounds at
a lag of 0.3, and after none at 0.2; see benchmarks/states.md). The states are therefore those of a Markov state model
of the clusters, whose slow processes tell how many there are and which clusters belong to each. They depend on the
data alone.
"""

from __future__ import annotations

import numpy as np

from latf_sampling.errors import SingleStateError

SLOWEST, SLOW = 1.0, 2.0
"""Lags that the time scale of a process has to exceed for it to distinguish states: the slowest one, and any other. Of
a faster one the decoder hardly sees the rarer state a lag later."""
FEW = 100
"""Pairs of frames below which nothing is said about transitions."""
GAP = 1.6
"""The time scales of the processes that distinguish states end with a step down by this factor, where there is one."""
BIASED = 0.1
"""Weight of a transition under a bias relative to one without: a bias drives a slow process until it is hardly slow any
more, and where only biased simulations have been, their transitions still count."""
RESTARTS = 1e-6
"""Share of transitions to any cluster, by population, which connects parts of the data without transitions."""
ITERATIONS = 100
"""Of the clustering in the space of the slow processes, which ends much sooner."""


def metastable_states(
    clusters: np.ndarray,
    first: np.ndarray,
    lag: int,
    minimum_population: float = 0.0,
    biased: np.ndarray | None = None,
) -> np.ndarray:
    """Merge clusters to metastable states.

    Parameters
    ----------
    clusters
        Cluster of each frame (frames,), from 0, none of them empty.
    first
        Frame t of each pair (pairs,); its partner is t + lag.
    lag
        Frames.
    minimum_population
        A state with a smaller share of the pairs becomes a part of the next one.
    biased
        Whether a bias acted on each frame (frames,); None if on none.

    Returns
    -------
    numpy.ndarray (frames,) int64
        State of each frame, from 0, in descending order of their numbers of frames.

    Raises
    ------
    SingleStateError
        No process is slow.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> slow = np.cumsum(rng.random(10_000) < 0.01) % 2
    >>> clusters = 3 * slow + rng.integers(3, size=10_000)
    >>> states = metastable_states(clusters, np.arange(9_995), lag=5)
    >>> float(max((states == slow).mean(), (states != slow).mean()))
    1.0
    """
    pairs = clusters[first], clusters[first + lag]
    counts, frames = np.zeros((clusters.max() + 1,) * 2), np.zeros(clusters.max() + 1)
    np.add.at(counts, pairs, 1.0 if biased is None else np.where(biased[first], BIASED, 1.0))
    np.add.at(frames, np.concatenate(pairs), 1 / (2 * len(first)))
    visited = frames > 0  # a cluster may have frames that belong to no pair
    joint = (counts + counts.T)[visited][:, visited] / (2 * counts.sum())
    populations = joint.sum(1)
    joint = (1 - RESTARTS) * joint + RESTARTS * np.outer(populations, populations)
    scale = np.sqrt(populations)
    values, vectors = np.linalg.eigh(joint / np.outer(scale, scale))
    values, vectors = values[-2::-1], vectors[:, -2::-1] / scale[:, None]  # without the stationary one
    merged = np.zeros(len(populations), int)
    times = -1 / np.log(np.clip(np.append(values, 0.0), 1e-6, 1 - RESTARTS / 2))
    if times[0] > SLOWEST:
        slow = _number_of_slow_processes(times)
        merged = _merge(vectors[:, :slow] * values[:slow], populations, frames[visited], minimum_population)
    if merged.max() == 0:
        if len(first) < FEW:
            raise SingleStateError(
                f"train: {len(first)} pairs of frames at a lag of {lag} frames are too few to tell states by slow "
                "transitions; give longer series, or a shorter lag."
            )
        raise SingleStateError(
            f"train: the data hold no slow transition at a lag of {lag} frames, only a single state. Use a shorter "
            "lag, or data that cross between states."
        )
    states = np.zeros(len(visited), int)
    states[visited] = merged
    order = np.argsort(-np.bincount(states[clusters]), kind="stable")
    return np.argsort(order)[states][clusters]


def _number_of_slow_processes(times: np.ndarray) -> int:
    """How many processes distinguish states, from all time scales in lags in descending order."""
    slow = max(1, int((times > SLOW).sum()))
    steps = np.flatnonzero(times[:slow] >= GAP * times[1 : slow + 1])
    return int(steps[-1]) + 1 if len(steps) else slow


def _merge(processes: np.ndarray, populations: np.ndarray, frames: np.ndarray, minimum_population: float) -> np.ndarray:
    """k-means of clusters by their slow processes (clusters, K), weighted by population, with K + 1 centers.

    Centers whose clusters have too small a share of the frames are left out in the end.

    The processes are scaled by their eigenvalues: merged clusters then keep as much as possible of what the clusters
    tell about the future (Noé and Clementi, doi:10.1021/acs.jctc.5b00553). Centers are added one by one where most is
    lost, so that nothing depends on chance, and a rare cluster does not count more for being far from all others.
    """
    centers = np.average(processes, axis=0, weights=populations)[None]
    while len(centers) <= processes.shape[1]:
        lost = populations * _distances(processes, centers).min(1)
        centers = _move(np.vstack([centers, processes[lost.argmax()]]), processes, populations)
    shares = np.bincount(_distances(processes, centers).argmin(1), frames, len(centers))
    populated = (shares >= max(minimum_population, 1e-12)) | (shares == shares.max())
    return _distances(processes, centers[populated]).argmin(1)


def _move(centers: np.ndarray, processes: np.ndarray, populations: np.ndarray) -> np.ndarray:
    """Centers in the middle of the clusters that are next to each."""
    for _ in range(ITERATIONS):
        members = np.eye(len(centers))[_distances(processes, centers).argmin(1)] * populations[:, None]
        shares = members.sum(0)[:, None]
        moved = np.where(shares > 0, members.T @ processes / np.maximum(shares, 1e-300), centers)
        if np.allclose(moved, centers):
            break
        centers = moved
    return centers


def _distances(processes: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Squares of the distances (clusters, centers)."""
    return ((processes[:, None] - centers) ** 2).sum(-1)
