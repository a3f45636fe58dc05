"""The Bayesian bootstrap over blocks of time: random weights of blocks, of which the scatter of any average follows.

Blocks are given random weights instead of being drawn, so that none is ever missing (Rubin,
doi:10.1214/aos/1176345338).
The weights of B blocks are a Dirichlet distribution, whose concentration is such that an average scatters as much as
that of B independent blocks does, and more where correlation reaches over the borders of blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit, logit

from latf_sampling.analysis.blocks import EXCESS_FRAMES, statistical_inefficiency

MOST_LOST = 0.8
"""Blocks that lose a larger share of the variance are shorter than the correlation time, which is not known then."""
LEAST_CONCENTRATION = 0.05
"""With this concentration one block of a few has nearly all the weight; the scatter cannot become larger."""

RESAMPLES = 1000
"""Of the blocks, for the errors of populations."""


class Bootstrap:
    """Random weights of blocks of time, at each temperature as many as there are.

    Parameters
    ----------
    blocks
        Block of each frame; (n,).
    groups
        Group of each frame, such as its temperature (n,); a block belongs to one. The total weight of the blocks of a
        group is the same in every sample. `None` puts all into one group.
    inflation
        Factor by which the variance between the blocks of each group is too small, see `inflation`.

    Attributes
    ----------
    index : numpy.ndarray (n,)
        Index of the block of each frame, 0 to B - 1.
    known : bool
        Whether some group has several blocks; otherwise blocks say nothing about the error.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> values, blocks = rng.normal(size=2000), np.arange(2000) // 100
    >>> drawn = Bootstrap(blocks).draw(rng, 4000)
    >>> means = drawn @ np.bincount(blocks, values) / 2000
    >>> bool(abs(means.std() * 2000**0.5 - 1) < 0.4)
    True
    """

    def __init__(self, blocks: np.ndarray, groups: np.ndarray | None = None, inflation: np.ndarray | float = 1.0):
        distinct, first, self.index = np.unique(blocks, return_index=True, return_inverse=True)
        of_block = np.zeros(len(distinct), int) if groups is None else np.unique(groups[first], return_inverse=True)[1]
        self._members = np.eye(of_block.max() + 1)[of_block]  # (B, G)
        sizes = self._members.sum(0)
        concentration = ((sizes - 1) / inflation - 1) / sizes
        self._concentration = self._members @ np.maximum(concentration, LEAST_CONCENTRATION)
        self._sizes = self._members @ sizes
        self.known = bool((sizes > 1).any())

    def draw(self, rng: np.random.Generator, samples: int) -> np.ndarray:
        """Weights of the blocks, 1 on average; (samples, B)."""
        drawn = rng.gamma(self._concentration, size=(samples, len(self._sizes)))
        return drawn * self._sizes / (drawn @ self._members @ self._members.T)


def inflation(
    states: np.ndarray, temperatures: np.ndarray, weights: np.ndarray, blocks: np.ndarray, lengths: Sequence[int]
) -> np.ndarray:
    """Factor by which the variance between blocks is too small at each temperature, as correlation reaches over them.

    Of an exponential decay with the correlation time tau, blocks of L frames lose the share tau / L (1 - exp(-L / tau))
    of the variance. Trajectories of which some frames have no weight are not considered.

    Parameters
    ----------
    states, temperatures, weights, blocks
        State, temperature, weight at that temperature and block of each frame; (n,) each.
    lengths
        Numbers of frames of the trajectories, one after the other, whose sum is n.

    Returns
    -------
    numpy.ndarray (K,)
        For each distinct temperature of frames with a weight, from the lowest; 1 or more.
    """
    return inflation_by(state_inefficiencies(states, temperatures, weights, lengths), temperatures, weights, blocks)


def inflation_by(
    inefficiencies: np.ndarray, temperatures: np.ndarray, weights: np.ndarray, blocks: np.ndarray
) -> np.ndarray:
    """`inflation` where `state_inefficiencies` (K, states) are known already; (K,)."""
    used = weights > 0
    kelvin = np.unique(temperatures[used])
    factors = np.ones(len(kelvin))
    for k, temperature in enumerate(kelvin):
        at_temperature = used & (temperatures == temperature)
        length = at_temperature.sum() / len(np.unique(blocks[at_temperature]))
        tau = max(0.5 * (inefficiencies[k].max() - 1), 1e-9)
        factors[k] = 1 / (1 - min(tau / length * -np.expm1(-length / tau), MOST_LOST))
    return factors


def populations(
    states: np.ndarray,
    weights: np.ndarray,
    blocks: np.ndarray,
    n_states: int,
    rng: np.random.Generator,
    groups: np.ndarray | None = None,
    inflation: np.ndarray | float = 1.0,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Weighted populations, and their standard errors from the Bayesian bootstrap over blocks of time.

    Parameters
    ----------
    states, weights, blocks
        State index, weight and index of the block of each frame; (frames,) each.
    n_states
        Number of states.
    rng
        Draws the weights of the blocks.
    groups
        Group of each frame (frames,): the total weight of a group of blocks is the same in every resample. None puts
        all blocks into one group.
    inflation
        Of each group, or of all, by the function of this name.

    Returns
    -------
    tuple
        Populations (n_states,), and their errors (n_states,), or None where every group is a single block.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> states = (rng.random(10_000) < 0.3).astype(int)
    >>> values, errors = populations(states, np.ones(10_000), np.arange(10_000) // 500, 2, rng)
    >>> bool(abs(values[1] - 0.3) < 4 * errors[1] < 0.04)
    True
    """
    bootstrap = Bootstrap(blocks, groups, inflation)
    count = int(bootstrap.index.max()) + 1
    sums = np.bincount(bootstrap.index * n_states + states, weights, count * n_states).reshape(count, n_states)
    values = sums.sum(0) / sums.sum()
    if not bootstrap.known:
        return values, None
    resampled = bootstrap.draw(rng, RESAMPLES) @ sums
    return values, (resampled / resampled.sum(1, keepdims=True)).std(0)


def state_inefficiencies(
    states: np.ndarray, temperatures: np.ndarray, weights: np.ndarray, lengths: Sequence[int]
) -> np.ndarray:
    """How many successive frames count as one for the population of each state at each temperature.

    Parameters
    ----------
    states, temperatures, weights, lengths
        As in `inflation`.

    Returns
    -------
    numpy.ndarray (K, states)
        For each distinct temperature of frames with a weight, from the lowest; 1 for a state without frames there.
    """
    kelvin = np.unique(temperatures[weights > 0])
    ends = np.cumsum(lengths)[:-1]
    parts = list(zip(*(np.split(values, ends) for values in (states, temperatures, weights))))
    inefficiencies = np.ones((len(kelvin), int(states.max()) + 1))
    for k, temperature in enumerate(kelvin):
        here = [state for state, at, weight in parts if len(at) and at[0] == temperature and (weight > 0).all()]
        if not here:
            continue
        frames = sum(map(len, here))
        for value in np.unique(np.concatenate(here)):
            inefficiency = statistical_inefficiency([(state == value).astype(float) for state in here])
            inefficiencies[k, value] = frames / max(frames / inefficiency - EXCESS_FRAMES * len(here), 1.0)
    return inefficiencies


def population_interval(populations: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of populations, of which the log odds are taken to have a normal distribution.

    It lies between 0 and 1, and farther towards 1/2, as the distribution of an estimate near 0 or 1 does.

    Parameters
    ----------
    populations, errors
        Populations and their standard errors; arrays of one shape.

    Returns
    -------
    tuple of numpy.ndarray
        Lower and upper ends; NaN where the population is 0 or 1, of which the error is unknown.

    Examples
    --------
    >>> low, high = population_interval(np.array([0.5, 0.95]), np.array([0.01, 0.04]))
    >>> low.round(3).tolist(), high.round(3).tolist()
    ([0.48, 0.785], [0.52, 0.99])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        odds, width = logit(populations), 1.96 * errors / (populations * (1 - populations))
        return expit(odds - width), expit(odds + width)
