"""Kinetics of the metastable states: implied time scales, and the Chapman-Kolmogorov test.

Transitions are counted at every frame (a sliding window) in the largest set of states that are connected in both
directions. The transition matrix is the most likely one without the condition of detailed balance, so that
trajectories may start anywhere. Counts of a sliding window are not independent; errors therefore come from the Bayesian
bootstrap over blocks of time, which gives blocks random weights and never loses a transition. Sources: Swope, Pitera
and Suits, doi:10.1021/jp037421y (implied time scales); Prinz et al., doi:10.1063/1.3565032 (Chapman-Kolmogorov test);
Rubin, doi:10.1214/aos/1176345338 (Bayesian bootstrap).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latf_sampling.analysis.blocks import BLOCKS

RESAMPLES = 200
N_LAGS = 8
"""Lags of the implied time scales, besides the lag of the training."""
MIN_FRAMES = 100
"""Frames that the longest series must have."""
MAX_MULTIPLE = 5
"""The Chapman-Kolmogorov test goes up to so many lags, if the longest series is five times as long as these."""


@dataclass(frozen=True)
class Kinetics:
    """Times between states at one temperature. Times are in frames.

    Attributes
    ----------
    temperature : float
        K.
    lag : int
        Lag of the training, at which the test is made.
    interval : float or None
        Time between frames, ps, where it is known.
    states : tuple of int
        The states that are connected in both directions at that lag.
    lags : numpy.ndarray (k,)
        Lags of the implied time scales.
    timescales, lower, upper : numpy.ndarray (k, states of the model - 1)
        Implied time scales -lag / ln|eigenvalue|, slowest first, and their 95 % intervals; NaN where fewer states are
        connected.
    multiples : numpy.ndarray (m,)
        Multiples of the lag in the test: 1, where both probabilities are the same, 2, ...
    predicted, estimated : numpy.ndarray (m, len(states))
        Probability to be in a state again after so many lags: by powers of the matrix at one lag, and counted.
    errors : numpy.ndarray (m, len(states))
        Standard error of their difference.
    notes : tuple of str
        What could not be estimated, and why.
    """

    temperature: float
    lag: int
    interval: float | None
    states: tuple[int, ...]
    lags: np.ndarray
    timescales: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    multiples: np.ndarray
    predicted: np.ndarray
    estimated: np.ndarray
    errors: np.ndarray
    notes: tuple[str, ...]

    @property
    def slowest(self) -> tuple[float, float, float] | None:
        """Slowest implied time scale at the training lag and its 95 % interval, in frames; `None` if not estimated."""
        rows = np.flatnonzero(self.lags == self.lag)
        if not len(rows) or not len(self.states):
            return None
        row = rows[0]
        return float(self.timescales[row, 0]), float(self.lower[row, 0]), float(self.upper[row, 0])

    @property
    def deviation(self) -> float | None:
        """Largest absolute difference between predicted and estimated probability; `None` without a test."""
        return float(np.abs(self.predicted - self.estimated).max()) if len(self.multiples) > 1 else None

    @property
    def deviation_in_errors(self) -> float | None:
        """The largest difference in units of its standard error; up to about 4 is chance, as the largest of many."""
        if len(self.multiples) < 2:
            return None
        difference, errors = np.abs(self.predicted - self.estimated)[1:], self.errors[1:]
        return float((difference / np.maximum(errors, 1e-12)).max())


def estimate_kinetics(
    states: Sequence[np.ndarray],
    n_states: int,
    lag: int,
    temperature: float,
    rng: np.random.Generator,
    interval: float | None = None,
) -> Kinetics:
    """Implied time scales and Chapman-Kolmogorov test of unbiased series of states.

    Parameters
    ----------
    states
        State index of the frames of each series, (frames,) each.
    n_states
        Number of states of the model, of which some may never be visited in these series.
    lag
        Lag of the training, frames.
    temperature
        Temperature of these series, K.
    rng
        Draws the weights of the blocks.
    interval
        Time between frames, ps.

    Returns
    -------
    Kinetics
        Series that are too short, or a single state, raise no error: arrays are then empty, and `notes` gives the
        reason.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> states = np.cumsum(rng.random(20_000) < 0.02) % 2  # leaves either state at a rate of 0.02
    >>> kinetics = estimate_kinetics([states], n_states=2, lag=5, temperature=300.0, rng=rng)
    >>> time, lower, upper = kinetics.slowest
    >>> bool(lower < -1 / np.log(1 - 2 * 0.02) < upper)
    True
    """
    longest = max(len(series) for series in states)
    notes = []
    visited = np.unique(np.concatenate(states))
    if len(visited) < n_states:
        never = ", ".join(str(state) for state in sorted(set(range(n_states)) - set(visited.tolist())))
        notes.append(f"Never visited: state {never}.")
    short = longest < max(MIN_FRAMES, 2 * lag)
    if short:
        notes.append(f"The longest series has {longest} frames, too few for kinetics at a lag of {lag}.")
    draws = rng.dirichlet(np.ones(BLOCKS * len(states)), RESAMPLES)
    counts = _block_counts(states, n_states, lag)
    connected = _connected(counts.sum(0))
    if len(connected) < 2:
        notes.append("No two states are connected in both directions at the training lag.")
    elif len(connected) < len(visited):
        left = ", ".join(str(state) for state in sorted(set(visited.tolist()) - set(connected.tolist())))
        notes.append(f"Left out, since not entered and left again: state {left}.")
    usable = not short and len(connected) > 1
    lags = np.unique([*np.geomspace(1, longest // 10, N_LAGS).round().astype(int), lag]) if usable else np.zeros(0, int)
    timescales = np.full((3, len(lags), n_states - 1), np.nan)
    for index, value in enumerate(lags):
        implied = _implied(_block_counts(states, n_states, value), int(value), draws)
        timescales[:, index, : implied.shape[1]] = implied
    multiples = [k for k in range(1, MAX_MULTIPLE + 1) if k == 1 or 5 * k * lag <= longest] if usable else []
    test = []
    for multiple in multiples:
        if (probabilities := _test(states, n_states, lag, multiple, connected, draws)) is None:
            break
        test.append(probabilities)
    if usable and len(test) < 2:
        notes.append("No Chapman-Kolmogorov test: two lags are too long for these series.")
    predicted, estimated, errors = np.array(test).reshape(len(test), 3, len(connected)).transpose(1, 0, 2)
    return Kinetics(
        temperature=temperature,
        lag=lag,
        interval=interval,
        states=tuple(connected.tolist()) if usable else (),
        lags=lags,
        timescales=timescales[0],
        lower=timescales[1],
        upper=timescales[2],
        multiples=np.array(multiples[: len(test)], int),
        predicted=predicted,
        estimated=estimated,
        errors=errors,
        notes=tuple(notes),
    )


def _block_counts(states: Sequence[np.ndarray], n_states: int, lag: int) -> np.ndarray:
    """Transitions that begin in each block of each series; (series * BLOCKS, n_states, n_states)."""
    counts = []
    for series in states:
        begins, ends = series[:-lag], series[lag:]
        block = np.arange(len(begins)) * BLOCKS // len(series)
        flat = (block * n_states + begins) * n_states + ends
        counts.append(np.bincount(flat, minlength=BLOCKS * n_states**2))
    return np.concatenate(counts).reshape(-1, n_states, n_states).astype(np.float64)


def _connected(counts: np.ndarray) -> np.ndarray:
    """The largest set of states that are connected in both directions, in ascending order."""
    from deeptime.markov.tools.estimation import largest_connected_set

    return np.sort(largest_connected_set(counts, directed=True))


def _submatrix(counts: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Counts between some states; (..., n, n)."""
    return counts[..., states[:, None], states]


def _transition_matrix(counts: np.ndarray) -> np.ndarray:
    return counts / counts.sum(-1, keepdims=True)


def _implied(counts: np.ndarray, lag: int, draws: np.ndarray) -> np.ndarray:
    """Implied time scales and the ends of their intervals; (3, connected states - 1)."""
    counts = _submatrix(counts, _connected(counts.sum(0)))
    value = _timescales(counts.sum(0), lag)
    drawn = _timescales(np.tensordot(draws, counts, 1), lag)
    return np.stack([value, *np.quantile(drawn, (0.025, 0.975), axis=0)])


def _timescales(counts: np.ndarray, lag: int) -> np.ndarray:
    """(..., n, n) -> (..., n - 1), slowest first."""
    if counts.shape[-1] < 2:
        return np.zeros((*counts.shape[:-2], 0))
    sizes = np.sort(np.abs(np.linalg.eigvals(_transition_matrix(counts))), axis=-1)[..., -2::-1]
    return -lag / np.log(np.clip(sizes, 1e-300, 1 - 1e-15))


def _test(
    states: Sequence[np.ndarray], n_states: int, lag: int, multiple: int, connected: np.ndarray, draws: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Predicted and estimated probabilities (n,) after some lags, and the error of their difference.

    `None` where the series end too early for some state to be followed so long.
    """
    once, later = (_submatrix(_block_counts(states, n_states, lag * factor), connected) for factor in (1, multiple))
    if (later.sum((0, 2)) == 0).any():
        return None

    def stay(counts: np.ndarray, power: int) -> np.ndarray:
        return np.diagonal(np.linalg.matrix_power(_transition_matrix(counts), power), axis1=-2, axis2=-1)

    predicted, estimated = stay(once.sum(0), multiple), stay(later.sum(0), 1)
    drawn = stay(np.tensordot(draws, once, 1), multiple) - stay(np.tensordot(draws, later, 1), 1)
    n = draws.shape[1]
    return predicted, estimated, drawn.std(0) * np.sqrt((n + 1) / (n - 1))
