"""Blocks of time, and the bootstrap over them: the error of a ratio of weighted counts from correlated frames.

The frames of a trajectory are cut into blocks that are several correlation times long, so that blocks are nearly
independent of each other. The Bayesian bootstrap gives blocks random weights instead of drawing them, so that no
resample lacks one (Rubin, doi:10.1214/aos/1176345338). The scatter of few blocks is itself uncertain: intervals are
Student's, with fewer degrees of freedom still where a few blocks make most of the scatter (Welch,
doi:10.1093/biomet/34.1-2.28; Satterthwaite, doi:10.2307/3002019).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtrit

from latf_sampling.analysis.arguments import FrameValues, by_trajectory
from latf_sampling.analysis.mbar import Multistate, silence_pymbar
from latf_sampling.analysis.weights import kish
from latf_sampling.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

BLOCKS = 10
"""Blocks of equal length that each series is cut into where nothing is known about its correlation time: to split data
into training and test sets, and for errors of kinetics."""

BLOCK_LENGTH = 5.0
"""A block is at least so many statistical inefficiencies long, which is ten correlation times,"""
SHORT_BLOCK_LENGTH = 1.0
"""or so many where there would be fewer than `MIN_BLOCKS` blocks otherwise; the variance that is lost at the borders of
such blocks is corrected for."""
MIN_BLOCKS = 4
MAX_BLOCKS = 16
"""Limit for the blocks of each kind: more would hardly improve the error, and longer ones are less sensitive to an
underestimated correlation time."""
EXCESS_FRAMES = 4
"""A trajectory appears to have about so many more independent frames than it has, since correlation is measured about
its own mean (determined for Gaussian processes of 1 to 20 inefficiencies)."""
RESAMPLES = 1000
LEVEL = 0.95
"""Probability that an interval holds the true value."""


def statistical_inefficiency(parts: FrameValues) -> float:
    """How many successive frames count as one, 1 + 2 tau, with the correlation time tau in frames.

    Source: Chodera et al., doi:10.1021/ct0502864.

    Parameters
    ----------
    parts
        A value for each frame, per trajectory; (frames,) each.

    Returns
    -------
    float
        At least 1, and 1 where all values are the same.

    Examples
    --------
    >>> slow = np.repeat(np.random.default_rng(0).normal(size=2000), 10)  # each value ten times
    >>> 8 < statistical_inefficiency([slow]) < 12
    True
    """
    values = [part.astype(np.float64) for part in by_trajectory(parts, "statistical_inefficiency") if len(part)]
    if not values or all(np.ptp(part) == 0 and part[0] == values[0][0] for part in values):
        return 1.0
    silence_pymbar()
    from pymbar import timeseries

    # Its annotation also names the pair that it returns with return_correlation_function=True.
    return float(timeseries.statistical_inefficiency_multiple(values, fast=True))  # pyright: ignore[reportArgumentType]


class Blocks:
    """Blocks of the frames of several trajectories; a block never extends over the end of a trajectory.

    The length of blocks is determined from all trajectories of one kind, that is of one ensemble, together. Without
    states all are of one kind. With states each state is a kind, since one may be slower than another, and so is each
    mixture of states that a trajectory goes through.

    Parameters
    ----------
    lengths
        Number of frames of each trajectory.
    series
        Quantities of interest at each frame; (n,) each, all trajectories one after another. Blocks are long enough for
        the slowest of them.
    states
        Where the weights are from MBAR: its solution, for frames in the same order.

    Attributes
    ----------
    count : int
        Number of blocks.
    index : numpy.ndarray (n,)
        Block of each frame, all trajectories one after another.
    kinds : numpy.ndarray (count,)
        Kind of each block, 0 to K - 1.
    fitted : numpy.ndarray (K,)
        Number of means that are estimated from the blocks of each kind: one, or one for each state in it.
    lost_variance : numpy.ndarray (K,)
        Fraction of the variance that is lost at the borders of blocks, if correlation decays exponentially: 10 % at
        most where there are more than `MIN_BLOCKS` blocks, below 40 % elsewhere.
    inefficiency : numpy.ndarray (K,)
        Statistical inefficiency: so many successive frames of each kind count as one.

    Raises
    ------
    DataError
        The number of frames is not that of the states.

    Examples
    --------
    >>> blocks = Blocks([1000, 0, 400], [np.random.default_rng(0).normal(size=1400)])
    >>> blocks.count, np.bincount(blocks.index).max().item()
    (15, 100)
    """

    def __init__(self, lengths: Sequence[int], series: Sequence[np.ndarray], states: Multistate | None = None) -> None:
        if states is not None and len(states) != sum(lengths):
            raise DataError(f"there are weights of {sum(lengths)} frames, but MBAR was solved with {len(states)}.")
        self.states = states
        if states is not None:
            # The means of two states differ, however fast the frames of each are.
            series = [states.centered(values) for values in series]
        parts_of_kind: dict[tuple[int, ...], list[slice]] = {}
        for end, length in zip(np.cumsum(lengths), lengths):
            if length:
                part = slice(int(end) - length, int(end))
                visited = (0,) if states is None else tuple(np.unique(states.states[part]).tolist())
                parts_of_kind.setdefault(visited, []).append(part)
        self.fitted = np.array([len(visited) for visited in parts_of_kind])
        self.inefficiency = np.array(
            [
                max(statistical_inefficiency([values[part] for part in parts]) for values in series)
                for parts in parts_of_kind.values()
            ]
        )
        self.index, self.count, kinds = np.empty(sum(lengths), int), 0, []
        self.lost_variance = np.zeros(len(parts_of_kind))
        self._pieces, pieces = np.empty(sum(lengths), int), 0
        for kind, (parts, inefficiency) in enumerate(zip(parts_of_kind.values(), self.inefficiency)):
            frames = sum(part.stop - part.start for part in parts)
            inefficiency = self.inefficiency[kind] = frames / max(frames / inefficiency - EXCESS_FRAMES, 1)
            wanted = min(BLOCK_LENGTH * inefficiency, frames / MIN_BLOCKS)
            least = max(wanted, SHORT_BLOCK_LENGTH * inefficiency, frames / MAX_BLOCKS)
            borders = 0
            for part in parts:
                length = part.stop - part.start
                blocks = max(1, int(length / least + 1e-9))
                self.index[part] = self.count + np.arange(length) * blocks // length
                self.count += blocks
                borders += blocks - 1
                self._pieces[part] = pieces + np.arange(length) // max(1, round(inefficiency))
                pieces = self._pieces[part][-1] + 1
                kinds += [kind] * blocks
            self.lost_variance[kind] = borders * inefficiency / (2 * frames)
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
            Change of ln of each ratio if a block counts once more, beyond the block's own contribution to it; (B, S).
            Zero where the weights do not depend on the frames.
        rng
            Draws the weights of blocks.

        Returns
        -------
        tuple of numpy.ndarray (S,)
            Error and degrees of freedom; an error is infinite where at most one block has frames of one of the sets,
            or there are not more blocks than fitted means.
        """
        known = ((top > 0).sum(0) > 1) & ((bottom > 0).sum(0) > 1)
        known &= np.isfinite(response).all(0)
        if self.count <= self.fitted.sum() or not known.any():
            return np.full(top.shape[1], np.inf), np.ones(top.shape[1])
        of_kind = np.eye(len(self.fitted))[:, self.kinds]  # (K, B)
        number = of_kind.sum(1)
        # Every resample has as many frames of each kind as the simulation.
        weights = rng.exponential(size=(RESAMPLES, self.count))
        weights /= (weights @ of_kind.T / number)[:, self.kinds]
        with np.errstate(all="ignore"):  # ratios that are not known
            resampled = np.log(weights @ top) - np.log(weights @ bottom) + (weights - 1) @ response
            influence = top / top.sum(0) - bottom / bottom.sum(0) + response  # of each block, to first order
            dof = number - self.fitted
            alone = dof < 1  # the influence of such a block is the only measure of its scatter
            mean = np.where(alone, 0.0, 1 / number)[:, None] * (of_kind @ influence)
            influence = influence - mean[self.kinds]
            squares = of_kind @ influence**2
            # Random weights scatter less than independent blocks do, and blocks scatter less about their own mean.
            corrected = np.where(alone, 1.0, 1 / (1 - self.lost_variance - self.fitted / number))[:, None]
            drawn = np.where(alone, 0.0, number / (number + 1))[:, None]
            variance = corrected * squares
            error = resampled.std(0) * np.sqrt(variance.sum(0) / (drawn * squares).sum(0))
            # By the kurtosis: as many as there are blocks if these are Gaussian and alike, two if one of them makes all
            # the scatter; one less where blocks are so short that the error depends on the estimated inefficiency.
            of_each = 3 * squares**2 / (of_kind @ influence**4) - 1
            most = np.maximum(dof - (self.lost_variance > 0.5 / BLOCK_LENGTH), 1)[:, None]
            of_each = np.clip(np.nan_to_num(of_each, nan=1.0), 1, most)
            combined = variance.sum(0) ** 2 / (variance**2 / of_each).sum(0)  # Welch and Satterthwaite
        return np.where(known, error, np.inf), np.where(known, combined, 1.0)


def half_width(error: ArrayLike, dof: ArrayLike, significance: float = 1 - LEVEL) -> np.ndarray:
    """Half the width of the interval that misses the true value with probability `significance`, by Student's t.

    Parameters
    ----------
    error, dof
        Standard error and its degrees of freedom; arrays of one shape, or numbers.

    Examples
    --------
    >>> round(float(half_width(1.0, 4.0)), 2)
    2.78
    """
    return np.multiply(error, -stdtrit(dof, significance / 2))
