"""Free energies of umbrella windows and weights of their frames, by MBAR over all windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from latf_sampling.analysis.mbar import silence_pymbar, solve_mbar
from latf_sampling.errors import DataError
from latf_sampling.units import KB, TemperatureLike, to_kelvin

OVERLAP = 0.03
"""Neighboring windows that overlap less leave errors that cannot be trusted (Klimovich, Shirts and Mobley,
doi:10.1007/s10822-015-9840-9)."""


@dataclass(frozen=True)
class WindowEstimate:
    """Free energies of windows, and weights of their frames, from MBAR over all of them.

    Attributes
    ----------
    free_energies, errors : numpy.ndarray (K,)
        Free energy of the molecule under each umbrella less that under the first, kJ/mol, and its standard error,
        infinite where nothing relates the two.
    overlap : numpy.ndarray (K, K)
        Probability that a frame of window i belongs to window j; rows sum to 1.
    u : numpy.ndarray (n, d)
        Values of the variable in all frames, window by window.
    windows : numpy.ndarray (n,)
        The window of each frame.
    log_weights : numpy.ndarray (n,)
        ln of each frame's weight in the ensemble without any umbrella; the weights sum to 1.
    inefficiency : numpy.ndarray (K,)
        Statistical inefficiency of each window: so many successive frames count as one.
    """

    free_energies: np.ndarray
    errors: np.ndarray
    overlap: np.ndarray
    u: np.ndarray
    windows: np.ndarray
    log_weights: np.ndarray
    inefficiency: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """Weights of mean 1 that undo all umbrellas; (n,)."""
        return len(self.log_weights) * np.exp(self.log_weights)


def combine_windows(
    series: Sequence[np.ndarray], bias: np.ndarray, temperature: TemperatureLike, overlap: float = OVERLAP
) -> WindowEstimate:
    """MBAR over umbrella windows of one temperature.

    Free energies and weights are from all frames; errors are those of the independent frames, by the statistical
    inefficiency of the slowest component of the variable. Slower motions that the variable does not show are not in
    the errors. Sources: Shirts and Chodera, doi:10.1063/1.2978177; Chodera et al., doi:10.1021/ct0502864.

    Parameters
    ----------
    series
        Values of the variable in each window, (frames, d), in the order of time.
    bias
        Bias of each window in all frames, window by window, kJ/mol; (K, n).
    temperature
        K.
    overlap
        Least overlap of neighboring windows.

    Raises
    ------
    DataError
        Two neighbors overlap less, or a window has no frame.
    SettingsError
        The temperature is not above 0.

    Examples
    --------
    Umbrellas of 1 kJ/mol at 0 and at 1 on a harmonic energy x^2 / 2 differ by 1/4 kJ/mol:

    >>> rng, T = np.random.default_rng(0), 1 / KB
    >>> series = [rng.normal(center / 2, 0.5**0.5, (2000, 1)) for center in (0, 1)]
    >>> x = np.concatenate(series)[:, 0]
    >>> estimate = combine_windows(series, np.stack([0.5 * (x - center) ** 2 for center in (0, 1)]), T)
    >>> bool(abs(estimate.free_energies[1] - 0.25) < 4 * estimate.errors[1])
    True
    """
    kt = KB * to_kelvin(temperature)
    counts = np.array([len(part) for part in series])
    if not counts.all():
        raise DataError(f"windows {np.flatnonzero(counts == 0).tolist()} have no frame.")
    reduced = bias / kt
    inefficiency, independent = _independent_frames(series)
    thinned = solve_mbar(reduced[:, np.concatenate(independent)], [len(part) for part in independent])
    solution = solve_mbar(reduced, counts, thinned.f_k)
    weights = solution.weights()
    shared = counts * (weights.T @ weights)
    for index in range(len(series) - 1):
        if not (least := min(shared[index, index + 1], shared[index + 1, index])) >= overlap:
            raise DataError(
                f"windows {index} and {index + 1} overlap by {least:.2g}, less than {overlap:g}: put windows between "
                "them, or take a lower stiffness."
            )
    free_energies = np.asarray(solution.f_k, np.float64)
    with np.errstate(invalid="ignore"):
        errors = np.asarray(thinned.compute_free_energy_differences()["dDelta_f"])[0]
    log_weights = -np.asarray(logsumexp((np.log(counts) + free_energies)[:, None] - reduced, axis=0))
    return WindowEstimate(
        kt * (free_energies - free_energies[0]),
        kt * np.where(np.isnan(errors), np.inf, errors),  # windows that nothing relates
        shared,
        np.concatenate(series),
        np.repeat(np.arange(len(series)), counts),
        log_weights - logsumexp(log_weights),
        inefficiency,
    )


def _independent_frames(series: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Statistical inefficiency of each window (K,), and the indices of its independent frames among all frames."""
    silence_pymbar()
    from pymbar import timeseries

    inefficiency, independent, first = np.ones(len(series)), [], 0
    for index, part in enumerate(series):
        # Fewer than three frames, or frames that never change, have no correlation in time that could be measured.
        moving = [column for column in part.T if len(part) > 2 and np.ptp(column) > 0]
        of_each = [timeseries.statistical_inefficiency(column, fast=True) for column in moving]
        inefficiency[index] = max(of_each, default=1.0)
        frames = timeseries.subsample_correlated_data(part[:, 0], g=inefficiency[index])
        independent.append(first + np.asarray(frames))
        first += len(part)
    return inefficiency, independent
