"""Blocks of time, and the bootstrap over them: the error of a ratio of weighted counts from correlated frames.

The frames of a trajectory are cut into blocks that are several correlation times long, so that one says nothing about
the next. The Bayesian bootstrap gives blocks random weights instead of drawing them, so that no resample lacks one
(Rubin, doi:10.1214/aos/1176345338). Few blocks know their own scatter poorly: intervals are Student's, and have fewer
degrees of freedom still where a few blocks make most of the scatter.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from scipy import stats

from latf_sampling.errors import DataError
from latf_sampling.reweighting import Multistate

LONG = 5.0
"""A block is at least so many statistical inefficiencies long, ten correlation times."""
MOST = 16
"""So many blocks, for each state where weights are solved for, are enough: more would know the error little better, and
longer ones forgive an underestimated correlation time."""
RESAMPLES = 1000
LEVEL = 0.95
"""Probability that an interval holds the truth."""


def statistical_inefficiency(parts: Sequence[np.ndarray]) -> float:
    """How many successive frames count as one, 1 + 2 tau, with the correlation time tau in frames.

    Parameters
    ----------
    parts
        A value for each frame, per trajectory; (frames,) each.

    Returns
    -------
    float
        At least 1, and 1 where all values are the same. Source: Chodera et al., doi:10.1021/ct0502864.

    Examples
    --------
    >>> slow = np.repeat(np.random.default_rng(0).normal(size=2000), 10)  # each value ten times
    >>> 8 < statistical_inefficiency([slow]) < 12
    True
    """
    parts = [np.asarray(part, np.float64) for part in parts if len(part)]
    if not parts or all(np.ptp(part) == 0 and part[0] == parts[0][0] for part in parts):
        return 1.0
    logging.getLogger("pymbar").setLevel(logging.ERROR)  # it advertises JAX
    from pymbar import timeseries

    return float(timeseries.statistical_inefficiency_multiple(parts, fast=True))


class Blocks:
    """Blocks of the frames of several trajectories, of which none reaches over an end.

    Parameters
    ----------
    lengths
        Frames of each trajectory.
    series
        Quantities of interest at each frame; (n,) each, all trajectories one after another. Blocks are long for the
        slowest of them.
    states
        Where the weights are from MBAR: what they come from, its frames in the same order.

    Attributes
    ----------
    count : int
        Number of blocks.
    fitted : int
        Number of means that are taken from the blocks: one, or one for each state that has frames.
    leak : float
        Share of the variance that is lost at the borders of blocks, if correlation decays exponentially; 10 % at most.
    index : numpy.ndarray (n,)
        Block of each frame, all trajectories one after another.

    Examples
    --------
    >>> blocks = Blocks([1000, 0, 400], [np.random.default_rng(0).normal(size=1400)])
    >>> blocks.count, np.bincount(blocks.index).max().item()
    (15, 100)

    Raises
    ------
    DataError
        The frames are not as many as those of the states.
    """

    def __init__(self, lengths: Sequence[int], series: Sequence[np.ndarray], states: Multistate | None = None) -> None:
        if states is not None and len(states) != sum(lengths):
            raise DataError(f"there are weights of {sum(lengths)} frames, but MBAR was solved with {len(states)}.")
        self.states, self.fitted = states, 1 if states is None else int((states.counts > 0).sum())
        if states is not None:
            # The means of two states differ, however fast the frames of each are.
            series = [states.centred(each) for each in series]
        ends = np.cumsum(lengths)[:-1]
        inefficiency = max(statistical_inefficiency(np.split(each, ends)) for each in series)
        least = max(LONG * inefficiency, sum(lengths) / (MOST * self.fitted))
        index, self.count = [np.empty(0, int)], 0
        for length in lengths:
            if length:
                here = max(1, int(length / least))
                index.append(self.count + np.arange(length) * here // length)
                self.count += here
        self.index = np.concatenate(index)
        borders = self.count - (len(index) - 1)
        self.leak = borders * inefficiency / (2 * len(self.index))

    def sums(self, weights: np.ndarray, sets: np.ndarray, n_sets: int) -> np.ndarray:
        """Weight of each set of frames in each block; (count, n_sets). A frame of a set below 0 belongs to none."""
        inside = sets >= 0
        flat = self.index[inside] * n_sets + sets[inside]
        return np.bincount(flat, weights[inside], self.count * n_sets).reshape(self.count, n_sets)

    def response(self, weights: np.ndarray, sets: np.ndarray, n_sets: int) -> np.ndarray:
        """`Multistate.response` of the states to these blocks, zero without states; (count, n_sets)."""
        if self.states is None:
            return np.zeros((self.count, n_sets))
        return self.states.response(self.index, self.count, sets, n_sets, weights)

    def log_ratio_errors(
        self, top: np.ndarray, bottom: np.ndarray, response: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Standard error of ln(sum top / sum bottom), and half the width of its interval at the level `LEVEL`.

        Parameters
        ----------
        top, bottom
            Weights of sets of frames in each block; (B, S) and (B, 1), or (B, S) both.
        response
            Change of ln of each ratio if a block counts once more, beyond the block's own part in it; (B, S). Zero
            where weights are given, and not solved for.
        rng
            Draws the weights of blocks.

        Returns
        -------
        tuple of numpy.ndarray (S,)
            Error and half width; infinite where one block or none has frames on one of the sides, or blocks are no more
            than means.
        """
        known = ((top > 0).sum(0) > 1) & ((bottom > 0).sum(0) > 1)
        known &= np.isfinite(response).all(0)
        if self.count <= self.fitted or not known.any():
            return np.full(top.shape[1], np.inf), np.full(top.shape[1], np.inf)
        weights = rng.exponential(size=(RESAMPLES, self.count))
        weights /= weights.mean(1, keepdims=True)
        with np.errstate(all="ignore"):  # sides that are not known
            resampled = np.log(weights @ top) - np.log(weights @ bottom) + (weights - 1) @ response
            pulls = top / top.sum(0) - bottom / bottom.sum(0) + response  # of each block, to first order
            # Random weights scatter less than independent blocks do, and blocks less about means that are their own.
            short = (self.count + 1) / (self.count - self.fitted)
            error = resampled.std(0) * np.sqrt(short / (1 - self.leak))
            squares = pulls**2
            # As many as there are blocks if these are Gaussian and alike, two if one of them makes all the scatter.
            freedom = np.clip(3 * squares.sum(0) ** 2 / (squares**2).sum(0) - 1, 1, self.count - self.fitted)
            half = error * stats.t.ppf((1 + LEVEL) / 2, freedom)
        return np.where(known, error, np.inf), np.where(known, half, np.inf)
