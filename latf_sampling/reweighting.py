"""Frames of one temperature as frames of another: MBAR over the simulated temperatures.

In the canonical ensemble the reduced potential of frame i at temperature T is E_i / kT (with a barostat (E_i + p V_i) /
kT), so that one number per frame is enough to give every frame its weight at any T. How many frames that leaves, the
effective sample size, says where it holds. Source: Shirts and Chodera, doi:10.1063/1.2978177.
"""

from __future__ import annotations

import logging

import numpy as np
from scipy.special import logsumexp

from latf_sampling.errors import DataError

SOLVED_FRAMES = 20_000
"""The free energies of the simulated temperatures are found on at most so many frames of each."""


class TemperatureReweighting:
    """Weights of frames at any temperature.

    Parameters
    ----------
    energies
        Potential energy (or enthalpy E + pV) of each frame without bias, in the unit of `boltzmann` times temperature;
        (frames,).
    temperatures
        Temperature at which each frame was simulated (frames,).
    weights
        Weight of each frame (frames,) that undoes its bias; a group of frames must weigh as much as the number of
        independent-like frames it stands for (see `kish`). None is 1 for all.
    boltzmann
        Boltzmann constant.
    rng
        Chooses the frames that free energies are solved on.

    Attributes
    ----------
    temperatures, counts, free_energies : numpy.ndarray (K,)
        The simulated temperatures, the summed weights of their frames, and their reduced free energies -ln Z, of which
        the first is 0.

    Raises
    ------
    DataError
        Shapes differ, or an energy is not finite.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> energies = np.concatenate([rng.gamma(2, kT, 5000) for kT in (1.0, 2.0)])  # density of states ~ E
    >>> reweighting = TemperatureReweighting(energies, np.repeat([1.0, 2.0], 5000), None, 1.0, rng)
    >>> weights = np.exp(reweighting.log_weights(1.5))
    >>> bool(abs(weights @ energies - 3.0) < 0.1)  # the mean energy there is 2 kT
    True
    """

    def __init__(
        self, energies: np.ndarray, temperatures: np.ndarray, weights, boltzmann: float, rng: np.random.Generator
    ) -> None:
        self.boltzmann = float(boltzmann)
        energies = np.asarray(energies, np.float64)
        temperatures = np.asarray(temperatures, np.float64)
        weights = np.ones(len(energies)) if weights is None else np.asarray(weights, np.float64)
        if not len(energies) == len(temperatures) == len(weights):
            raise DataError(
                f"TemperatureReweighting: {len(energies)} energies, {len(temperatures)} temperatures and "
                f"{len(weights)} weights do not belong together."
            )
        if not np.isfinite(energies).all():
            raise DataError(
                f"TemperatureReweighting: the energy of frame {np.argmin(np.isfinite(energies))} is not finite."
            )
        lowest = energies.min()
        self._energies = energies - lowest  # a constant changes no weight, and sums stay within range
        distinct, which = np.unique(temperatures, return_inverse=True)
        self.temperatures = distinct
        self.counts = np.bincount(which, weights)
        with np.errstate(divide="ignore"):
            self._log_base = np.log(weights)
        beta = 1 / (self.boltzmann * distinct)
        solved = self._solve(beta, which, weights, rng)
        self.free_energies = solved + (beta - beta[0]) * lowest
        mixture = np.log(self.counts) + solved
        self._log_base -= logsumexp(mixture - np.multiply.outer(self._energies, beta), axis=1)

    def _solve(self, beta: np.ndarray, which: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Reduced free energy of each temperature, the first one's 0."""
        if len(beta) == 1:
            return np.zeros(1)
        logging.getLogger("pymbar").setLevel(logging.ERROR)  # it advertises JAX
        import pymbar

        drawn = []
        for index, count in enumerate(self.counts):
            frames = np.flatnonzero(which == index)
            # Frames without bias all weigh the same: then this is thinning, and no frame is taken twice.
            drawn.append(frames[systematic(weights[frames], min(SOLVED_FRAMES, max(1, int(count))), rng)])
        reduced = np.multiply.outer(beta, self._energies[np.concatenate(drawn)])
        solved = pymbar.MBAR(reduced, [len(part) for part in drawn], solver_protocol="robust")
        return np.asarray(solved.f_k, np.float64)

    def log_weights(self, temperature: float) -> np.ndarray:
        """ln of each frame's weight at a temperature, weights of sum 1; (frames,)."""
        log = self._log_base - self._energies / (self.boltzmann * temperature)
        return log - logsumexp(log)

    def heat_capacity(self, temperature: float) -> float:
        """Variance of E / kT at a temperature, the configurational heat capacity in units of k."""
        weights = np.exp(self.log_weights(temperature))
        mean = weights @ self._energies
        return float(weights @ (self._energies - mean) ** 2) / (self.boltzmann * temperature) ** 2

    def effective_sample_size(self, temperature: float) -> float:
        """Number of equally weighted frames that would be as good as these at a temperature (Kish)."""
        return float(np.exp(-logsumexp(2 * self.log_weights(temperature))))


def kish(weights: np.ndarray) -> float:
    """Effective number of weighted frames, (sum w)^2 / sum w^2.

    Source: Kish, Survey Sampling (1965).
    """
    return float(weights.sum() ** 2 / (weights**2).sum())


def systematic(weights: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw n indices in proportion to weights with the least noise: evenly spaced marks, one offset; (n,) sorted.

    Source: Kitagawa, doi:10.1080/10618600.1996.10474692.
    """
    total = np.cumsum(weights)
    marks = (rng.random() + np.arange(n)) * (total[-1] / n)
    return np.minimum(np.searchsorted(total, marks, side="right"), len(weights) - 1)
