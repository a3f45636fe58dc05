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

from latf_sampling.analysis.arguments import by_trajectory
from latf_sampling.analysis.mbar import Multistate, kish
from latf_sampling.errors import DataError

BLOCKS = 10
"""Series are cut into so many blocks for held-out validation, populations and kinetics."""
LONG = 5.0
"""A block is at least so many statistical inefficiencies long, ten correlation times,"""
SHORT = 1.0
"""or so many where else there would be less than `FEW` blocks: what their borders then lose is made up for."""
FEW = 4
UNSEEN = 4
"""A trajectory looks as if it had about so many more independent frames than it has, since the mean that correlation is
measured about is its own (found for Gaussian processes of 1 to 20 inefficiencies)."""
MOST = 16
"""So many blocks of each kind are enough: more would know the error little better, and longer ones forgive an
underestimated correlation time."""
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
    parts = [part.astype(np.float64) for part in by_trajectory(parts, "statistical_inefficiency") if len(part)]
    if not parts or all(np.ptp(part) == 0 and part[0] == parts[0][0] for part in parts):
        return 1.0
    logging.getLogger("pymbar").setLevel(logging.ERROR)  # it advertises JAX
    from pymbar import timeseries

    return float(timeseries.statistical_inefficiency_multiple(parts, fast=True))


class Blocks:
    """Blocks of the frames of several trajectories, of which none reaches over an end.

    Trajectories of one kind, the same ensemble, tell together how long their blocks have to be. Without states all are
    of one kind. With states each state is one, since one may be slower than another, and so is each mixture of states
    that a trajectory goes through.

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
    index : numpy.ndarray (n,)
        Block of each frame, all trajectories one after another.
    kinds : numpy.ndarray (count,)
        Kind of each block, 0 to K - 1.
    fitted : numpy.ndarray (K,)
        Number of means that are taken from the blocks of each kind: one, or one for each state in it.
    leak : numpy.ndarray (K,)
        Share of the variance that is lost at the borders of blocks, if correlation decays exponentially: 10 % at most
        where there are more than `FEW` blocks, below 40 % elsewhere.
    inefficiency : numpy.ndarray (K,)
        So many successive frames of each kind count as one.

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
        self.states = states
        if states is not None:
            # The means of two states differ, however fast the frames of each are.
            series = [states.centred(each) for each in series]
        alike: dict[tuple[int, ...], list[slice]] = {}
        for end, length in zip(np.cumsum(lengths), lengths):
            if length:
                part = slice(int(end) - length, int(end))
                visited = (0,) if states is None else tuple(np.unique(states.states[part]).tolist())
                alike.setdefault(visited, []).append(part)
        self.fitted = np.array([len(visited) for visited in alike])
        self.inefficiency = np.array(
            [
                max(statistical_inefficiency([each[part] for part in parts]) for each in series)
                for parts in alike.values()
            ]
        )
        self.index, self.count, kinds, self.leak = np.empty(sum(lengths), int), 0, [], np.zeros(len(alike))
        self._pieces, pieces = np.empty(sum(lengths), int), 0
        for kind, (parts, inefficiency) in enumerate(zip(alike.values(), self.inefficiency)):
            frames = sum(part.stop - part.start for part in parts)
            inefficiency = self.inefficiency[kind] = frames / max(frames / inefficiency - UNSEEN, 1)
            least = max(min(LONG * inefficiency, frames / FEW), SHORT * inefficiency, frames / MOST)
            borders = 0
            for part in parts:
                length = part.stop - part.start
                here = max(1, int(length / least + 1e-9))
                self.index[part] = self.count + np.arange(length) * here // length
                self.count += here
                borders += here - 1
                self._pieces[part] = pieces + np.arange(length) // max(1, round(inefficiency))
                pieces = self._pieces[part][-1] + 1
                kinds += [kind] * here
            self.leak[kind] = borders * inefficiency / (2 * frames)
        self.kinds = np.array(kinds)

    def independent(self, weights: np.ndarray) -> float:
        """Effective number of pieces of time, each one statistical inefficiency long, by their weights (`kish`)."""
        return kish(np.bincount(self._pieces, weights))

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
        """Standard error of ln(sum top / sum bottom), and the degrees of freedom that it is known with.

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
            Error and degrees of freedom; an error is infinite where one block or none has frames on one of the sides,
            or blocks are no more than means.
        """
        known = ((top > 0).sum(0) > 1) & ((bottom > 0).sum(0) > 1)
        known &= np.isfinite(response).all(0)
        if self.count <= self.fitted.sum() or not known.any():
            return np.full(top.shape[1], np.inf), np.ones(top.shape[1])
        of_kind = np.eye(len(self.fitted))[:, self.kinds]  # (K, B)
        number = of_kind.sum(1)
        # As many frames of each kind in every resample, as there were in the simulation.
        weights = rng.exponential(size=(RESAMPLES, self.count))
        weights /= (weights @ of_kind.T / number)[:, self.kinds]
        with np.errstate(all="ignore"):  # sides that are not known
            resampled = np.log(weights @ top) - np.log(weights @ bottom) + (weights - 1) @ response
            pulls = top / top.sum(0) - bottom / bottom.sum(0) + response  # of each block, to first order
            free = number - self.fitted
            alone = free < 1  # its pull as a whole is all that is known of its scatter
            middle = np.where(alone, 0.0, 1 / number)[:, None] * (of_kind @ pulls)
            pulls = pulls - middle[self.kinds]
            squares = of_kind @ pulls**2
            # Random weights scatter less than independent blocks do, and blocks less about means that are their own.
            short = np.where(alone, 1.0, 1 / (1 - self.leak - self.fitted / number))[:, None]
            drawn = np.where(alone, 0.0, number / (number + 1))[:, None]
            variance = short * squares
            error = resampled.std(0) * np.sqrt(variance.sum(0) / (drawn * squares).sum(0))
            # As many as there are blocks if these are Gaussian and alike, two if one of them makes all the scatter; one
            # less where blocks are so short that the error hangs on how well the inefficiency is known.
            each = 3 * squares**2 / (of_kind @ pulls**4) - 1
            each = np.clip(np.nan_to_num(each, nan=1.0), 1, np.maximum(free - (self.leak > 0.5 / LONG), 1)[:, None])
            freedom = variance.sum(0) ** 2 / (variance**2 / each).sum(0)  # Welch and Satterthwaite
        return np.where(known, error, np.inf), np.where(known, freedom, 1.0)


def reach(error: np.ndarray, freedom: np.ndarray, doubt: float = 1 - LEVEL) -> np.ndarray:
    """Half the width of the interval that misses the truth with a probability of `doubt`, by Student's t."""
    return error * stats.t.isf(doubt / 2, freedom)
