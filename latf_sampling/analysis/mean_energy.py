"""Weights of frames at any temperature from the mean energy at each latent point, where energies do not overlap.

The density of a variable u that is a function of the positions changes with the inverse temperature beta = 1 / kT as

    d(-ln p(u|beta)) / d(beta) = U(u, beta) - <U>_beta,

with U(u, beta) the mean potential energy of the configurations at u, or their mean enthalpy at constant pressure. So
w(u, beta), the integral of U(u, beta) over beta, takes the place of the reduced energy E / kT of a frame: frames from
all temperatures have weights at any other by MBAR (`latf_sampling.analysis.mbar`), whose states now have to overlap in
u alone. The energy of a solvent, whose fluctuations leave MBAR over energies nothing to weigh, averages out.

U(u, beta) is a regression of the energies of the frames on u, linear in the temperature, so that each u has a heat
capacity. Energies are not all that the frames say about it: which of the simulated temperatures a frame at u comes from
tells by how much w differs between them, which is how the Bennett acceptance ratio finds free energies. Both
likelihoods together are convex in the coefficients of the regression, and are maximized by Newton's method.
Sources: Shirts, Bair, Hooker and Pande, doi:10.1103/PhysRevLett.91.140601 (the ratio as maximum likelihood); Shirts and
Chodera, doi:10.1063/1.2978177 (MBAR); Williams and Seeger, Advances in Neural Information Processing Systems 13 (2001)
(regression with a kernel on few centers).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import log_softmax, logsumexp

from latf_sampling.analysis.mbar import Multistate
from latf_sampling.analysis.weights import kish, systematic
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.units import QuantityArrayLike, TemperatureLike, to_array, to_kelvin

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

CENTERS = 120
"""Kernels of the regression are around so many points; fewer where the points fill less."""
WIDTH = 0.64
"""Width of the kernels relative to the standard deviation of the points."""
RESOLVED = 1e-8
"""Combinations of kernels whose variance is below this share of the largest are left out: they repeat others."""
AMPLITUDES = tuple(4.0**k for k in range(-1, 6))
"""Prior standard deviations of U over the points, in kT, among which held-out energies choose."""
SLOPE = 0.5
"""Prior standard deviation of the change of U over half the range of temperatures, relative to that of U."""
FOLDS = 5
"""Parts of the time blocks, each of which is held out once."""
LABELED = 10_000
"""At most so many frames of a temperature are taken for the likelihood of the temperatures."""
MOST_STEPS = 100
REACH = 0.5
"""Weights reach beyond the simulated temperatures by this share of the range of their logarithm, where heat capacities
are taken to be what they are inside,"""
REACH_OF_ONE = 0.15
"""or by this much of the logarithm where there is one temperature."""
LEAST_SPREAD = 0.05
"""Half the range of temperatures, relative to their mean, that slopes are in units of, at least."""


def reach(temperatures: ArrayLike) -> tuple[float, float]:
    """Lowest and highest temperature that there are weights at, where some temperatures were simulated.

    Examples
    --------
    >>> [round(value) for value in reach([300.0, 400.0])]
    [260, 462]
    """
    low, high = float(np.min(temperatures)), float(np.max(temperatures))
    factor = math.exp(REACH * math.log(high / low) if high > low else REACH_OF_ONE)
    return low / factor, high * factor


class KernelBasis:
    """Functions of points, orthonormal under a Gaussian prior whose covariance is a Gaussian kernel.

    A function is a sum over `n` coefficients; with independent standard normal ones it is a draw from the prior, as far
    as the centers resolve it. The centers are the points farthest from each other.

    Parameters
    ----------
    points
        (n, d); coordinates should have similar standard deviations.
    rng
        Chooses the points that the centers are chosen among.

    Examples
    --------
    >>> points = np.random.default_rng(0).normal(size=(1000, 1))
    >>> basis = KernelBasis(points, np.random.default_rng(0))
    >>> basis(points).shape == (1000, basis.n)
    True
    """

    def __init__(self, points: np.ndarray, rng: np.random.Generator) -> None:
        candidates = points[rng.choice(len(points), min(len(points), 50 * CENTERS), replace=False)]
        self.width = WIDTH * (float(np.sqrt(points.var(0).mean())) or 1.0)  # points may all be the same
        chosen, distance = [0], np.full(len(candidates), np.inf)
        while True:
            distance = np.minimum(distance, ((candidates - candidates[chosen[-1]]) ** 2).sum(1))
            farthest = int(distance.argmax())
            if len(chosen) == CENTERS or distance[farthest] < (0.3 * self.width) ** 2:
                break
            chosen.append(farthest)
        self.centers = candidates[chosen]
        values, vectors = np.linalg.eigh(self._kernel(self.centers))
        kept = values > RESOLVED * values[-1]
        self._projection = vectors[:, kept] / np.sqrt(values[kept])
        self.n = int(kept.sum())

    def _kernel(self, points: np.ndarray) -> np.ndarray:
        square = (points**2).sum(1)[:, None] + (self.centers**2).sum(1) - 2 * points @ self.centers.T
        return np.exp(-0.5 / self.width**2 * np.maximum(square, 0.0))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Values of the functions at points (n, d); (n, number of functions)."""
        return self._kernel(points) @ self._projection


class _Temperatures:
    """Polynomials in the temperature, x^j with x = (T / T0 - 1) / spread, and their integrals over 1 / kT."""

    order = 2
    """1 and x: a mean energy and a heat capacity."""

    def __init__(self, temperatures: np.ndarray, boltzmann: float) -> None:
        self.boltzmann = boltzmann
        low, high = temperatures.min(), temperatures.max()
        self.middle = math.sqrt(low * high)
        self.spread = max(0.5 * (high - low) / self.middle, LEAST_SPREAD)

    def values(self, temperature: np.ndarray | float) -> np.ndarray:
        """x^j at temperatures (...); (..., order)."""
        x = (np.asarray(temperature, float) / self.middle - 1) / self.spread
        return np.stack([x**j for j in range(self.order)], -1)

    def integrals(self, temperature: np.ndarray | float) -> np.ndarray:
        """Integrals of x^j over beta from that of T0 to that of temperatures (...); (..., order)."""
        r = self.middle / np.asarray(temperature, float)  # beta / beta0
        terms = [r - 1, (np.log(r) - (r - 1)) / self.spread]
        return np.stack(terms, -1) / (self.boltzmann * self.middle)


class MeanEnergyReweighting(Multistate):
    """Weights of frames at any temperature by their mean energy at each point of a variable.

    Parameters
    ----------
    points
        The variable at each frame (n, d), in coordinates of similar standard deviations.
    energies
        Potential energy (or enthalpy E + pV) of each frame without bias; (n,).
    temperatures
        Temperature at which each frame was simulated (n,); the states are the distinct ones, in ascending order.
    weights, boltzmann
        As in `Multistate`.
    rng
        Chooses centers and frames; a generator or a seed.
    blocks
        Block of time of each frame (n,), of which some are held out to choose the amplitude of the prior. `None` takes
        ten parts of the frames as they stand.
    basis, amplitude
        Those of an earlier regression, as of the frames that are resampled here; `None` makes and chooses them.

    Attributes
    ----------
    basis : KernelBasis
    amplitude : float
        Prior standard deviation of U over the points, in kT at the middle of the temperatures.
    reach : tuple of float
        Lowest and highest temperature that there are weights at; beyond, the effective sample size is 0.
    mean_energies : numpy.ndarray (n, order)
        Coefficients of U at the point of each frame.

    Raises
    ------
    DataError, SettingsError
        As in `Multistate`.

    Examples
    --------
    Two states with energies 0 and 3 kJ/mol under the noise of a solvent, of which the second has twice the frames at
    infinite temperature. At kT = 1.5 it then has a share of 2 exp(-2) / (1 + 2 exp(-2)) = 0.213:

    >>> rng, kT = np.random.default_rng(0), np.repeat([1.0, 2.0], 20_000)
    >>> upper = rng.random(40_000) < 1 / (1 + 0.5 * np.exp(3 / kT))
    >>> u, energies = upper + 0.1 * rng.normal(size=40_000), 3.0 * upper + 1000 * kT + rng.normal(0, 20, 40_000)
    >>> reweighting = MeanEnergyReweighting(u[:, None], energies, kT, None, 1.0, rng)
    >>> bool(abs(np.exp(reweighting.log_weights(1.5)) @ upper - 0.213) < 0.02)
    True
    """

    def __init__(
        self,
        points: ArrayLike,
        energies: QuantityArrayLike,
        temperatures: QuantityArrayLike,
        weights: ArrayLike | None,
        boltzmann: float,
        rng: np.random.Generator | int,
        blocks: np.ndarray | None = None,
        basis: KernelBasis | None = None,
        amplitude: float | None = None,
    ) -> None:
        rng, name = np.random.default_rng(rng), type(self).__name__
        energy = to_array(energies, "energy", f"{name}, energies").astype(np.float64, copy=False)
        kelvin = to_array(temperatures, "temperature", f"{name}, temperatures").astype(np.float64, copy=False)
        place = np.asarray(points, np.float64)
        if not (energy.ndim == 1 and energy.shape == kelvin.shape and place.ndim == 2 and len(place) == len(energy)):
            raise DataError(
                f"{name}: points {place.shape}, energies {energy.shape} and temperatures {kelvin.shape} do not belong "
                "together; give (n, d), (n,) and (n,)."
            )
        if not np.isfinite(place).all():
            raise DataError(f"{name}: the point of frame {int((~np.isfinite(place)).any(1).argmax())} is not finite.")
        weight = np.ones(len(energy)) if weights is None else np.asarray(weights, np.float64)
        distinct, states = np.unique(kelvin, return_inverse=True)
        # What has no weight, as a temperature of which all frames are left out, is not learned from.
        self._check_numbers(energy, kelvin, weight)
        if blocks is None:
            blocks = np.arange(len(energy)) * 2 * FOLDS // len(energy)
        self.basis = KernelBasis(place[weight > 0], rng) if basis is None else basis
        counted = np.bincount(states, weight, len(distinct)) > 0
        self._polynomials = _Temperatures(distinct[counted], float(boltzmann))
        regression = _Regression(self.basis, place, energy, states, distinct, weight, blocks, self._polynomials)
        self.amplitude = regression.best_amplitude() if amplitude is None else amplitude
        coefficients = regression.fit(self.amplitude, rng)
        self.mean_energies = regression.evaluate(coefficients)
        self._coefficients = coefficients
        self.reach = reach(distinct[counted])
        bias = (self.mean_energies @ self._polynomials.integrals(distinct).T).T * (boltzmann * distinct)[:, None]
        super().__init__(np.zeros(len(energy)), bias, distinct, states, rng, weight, boltzmann)

    @staticmethod
    def _check_numbers(energies: np.ndarray, temperatures: np.ndarray, weights: np.ndarray) -> None:
        name = MeanEnergyReweighting.__name__
        if weights.shape != energies.shape:
            raise DataError(f"{name}: {len(energies)} energies and {weights.size} weights do not belong together.")
        if not len(energies) or not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
            raise DataError(f"{name}: weights must be finite and not negative, and one at least must be above 0.")
        if not np.isfinite(energies).all():
            raise DataError(f"{name}: the energy of frame {int(np.argmin(np.isfinite(energies)))} is not finite.")
        if not ((temperatures > 0) & np.isfinite(temperatures)).all():
            raise SettingsError(f"{name}: temperatures must be finite and above 0.")

    def mean_energy(self, points: ArrayLike, temperature: TemperatureLike) -> np.ndarray:
        """Mean energy at points (n, d) of the variable at a temperature, up to a constant for all points; (n,)."""
        values = self.basis(np.asarray(points, np.float64)) @ self._coefficients.T
        return values @ self._polynomials.values(to_kelvin(temperature))

    def log_weights(self, temperature: TemperatureLike) -> np.ndarray:
        """ln of each frame's weight in the unbiased ensemble at a temperature, weights of sum 1; (n,)."""
        log = self._log_base - self.mean_energies @ self._polynomials.integrals(to_kelvin(temperature))
        return log - logsumexp(log)

    def heat_capacity(self, temperature: TemperatureLike) -> float:
        """Variance of U / kT over the variable: how fast its density changes with the logarithm of temperature."""
        kelvin = to_kelvin(temperature)
        weights, energies = np.exp(self.log_weights(kelvin)), self.mean_energies @ self._polynomials.values(kelvin)
        mean = weights @ energies
        return float(weights @ (energies - mean) ** 2) / (self.boltzmann * kelvin) ** 2

    def effective_sample_size(self, temperature: TemperatureLike) -> float:
        """Number of equally weighted frames that would be as good as these at a temperature (`weights.kish`)."""
        kelvin = to_kelvin(temperature)
        if not self.reach[0] <= kelvin <= self.reach[1]:
            return 0.0
        return super().effective_sample_size(kelvin)


class _Regression:
    """The likelihood of energies and of temperatures, given the points.

    Energies of each temperature have a mean over all points of their own, which is of no interest here, so that they
    and the functions of the basis are taken relative to their means.
    """

    def __init__(
        self,
        basis: KernelBasis,
        points: np.ndarray,
        energies: np.ndarray,
        states: np.ndarray,
        temperatures: np.ndarray,
        weights: np.ndarray,
        blocks: np.ndarray,
        polynomials: _Temperatures,
    ) -> None:
        self.basis, self.points, self.energies, self.states = basis, points, energies, states
        self.temperatures, self.weights, self.polynomials = temperatures, weights, polynomials
        self.kT = polynomials.boltzmann * polynomials.middle
        self.counts = np.bincount(states, weights, len(temperatures))
        distinct, order = np.unique(blocks, return_inverse=True)
        # Neighbors in time are in different folds, so that each has frames of every series.
        folds = np.arange(len(distinct))[order] % FOLDS
        self.moments = self._moments(folds)
        self.variances = np.array([self._noise(state) for state in range(len(temperatures))])

    def _moments(self, folds: np.ndarray) -> np.ndarray:
        """Sums of w z z^T over the frames of each fold and temperature, z = (1, E, functions); (F, K, m + 2, m + 2)."""
        size = self.basis.n + 2
        sums = np.zeros((FOLDS, len(self.temperatures), size, size))
        means = np.bincount(self.states, self.weights * self.energies, len(self.temperatures))
        self._offsets = means / np.where(self.counts > 0, self.counts, 1.0)
        for part in self._parts():
            z = np.column_stack(
                [
                    np.ones(len(part)),
                    self.energies[part] - self._offsets[self.states[part]],
                    self.basis(self.points[part]),
                ]
            )
            for fold in range(FOLDS):
                for state in range(len(self.temperatures)):
                    here = z[(folds[part] == fold) & (self.states[part] == state)]
                    weights = self.weights[part][(folds[part] == fold) & (self.states[part] == state)]
                    sums[fold, state] += here.T @ (weights[:, None] * here)
        return sums

    def _parts(self) -> list[np.ndarray]:
        used = np.flatnonzero(self.weights > 0)
        return np.array_split(used, max(1, len(used) // 50_000))

    @staticmethod
    def _centered(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Gram matrix of functions (m, m), their products with the energy (m,) and its square, about the means."""
        if moments[0, 0] <= 0:
            size = len(moments) - 2
            return np.zeros((size, size)), np.zeros(size), 0.0
        centered = moments - np.outer(moments[0], moments[0]) / moments[0, 0]
        return centered[2:, 2:], centered[1, 2:], float(centered[1, 1])

    def _noise(self, state: int) -> float:
        """Variance of the energy about its mean at the points, at one temperature."""
        gram, products, square = self._centered(self.moments[:, state].sum(0))
        if not self.counts[state] > 0:
            return 1.0
        ridge = (square / self.counts[state] + 1e-12) / (AMPLITUDES[-1] * self.kT) ** 2
        solution = np.linalg.solve(gram + (ridge + 1e-12) * np.eye(len(gram)), products)
        rest = (square - products @ solution) / self.counts[state]
        return max(rest, 1e-6 * self.kT**2)  # energies that are a function of the points still are not all there is

    def _normal_equations(self, moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Matrix and right-hand side of the least squares over temperatures; moments (K, ...)."""
        order, size = self.polynomials.order, self.basis.n
        matrix, side = np.zeros((order * size, order * size)), np.zeros(order * size)
        for state, x in enumerate(self.polynomials.values(self.temperatures)):
            gram, products, _ = self._centered(moments[state])
            matrix += np.kron(np.outer(x, x), gram) / self.variances[state]
            side += np.kron(x, products) / self.variances[state]
        return matrix, side

    def _prior(self, amplitude: float) -> np.ndarray:
        """Inverse variances of the coefficients; (order * m,)."""
        deviations = amplitude * self.kT * SLOPE ** np.arange(self.polynomials.order)
        return np.repeat(1 / deviations**2, self.basis.n)

    def best_amplitude(self) -> float:
        """The largest amplitude whose error on held-out energies exceeds the smallest by no more than its own error.

        A smaller one would do as well for the energies held out, but draws all U towards their mean, and error bars
        from resampled frames do not see that.
        """
        errors = np.zeros((len(AMPLITUDES), FOLDS))
        total = self.moments.sum(0)
        for fold, held in enumerate(self.moments):
            matrix, side = self._normal_equations(total - held)
            for number, amplitude in enumerate(AMPLITUDES):
                solution = np.linalg.solve(matrix + np.diag(self._prior(amplitude)), side).reshape(-1, self.basis.n)
                for state, x in enumerate(self.polynomials.values(self.temperatures)):
                    gram, products, _ = self._centered(held[state])
                    u = x @ solution
                    errors[number, fold] += (u @ gram @ u - 2 * u @ products) / self.variances[state]
        sums = errors.sum(1)
        best = int(sums.argmin())
        beyond = errors - errors[best]
        spread = np.sqrt(FOLDS) * beyond.std(1, ddof=1)
        return AMPLITUDES[int(np.flatnonzero(sums - sums[best] <= spread).max())]

    def fit(self, amplitude: float, rng: np.random.Generator) -> np.ndarray:
        """Coefficients of U; (order, m)."""
        matrix, side = self._normal_equations(self.moments.sum(0))
        prior = self._prior(amplitude)
        start = np.linalg.solve(matrix + np.diag(prior), side)
        if np.count_nonzero(self.counts) == 1:
            return self._with_fluctuations(start.reshape(-1, self.basis.n), amplitude)
        likelihood = _Likelihood(self, matrix + np.diag(prior), side, rng)
        return likelihood.maximize(start).reshape(-1, self.basis.n)

    def _with_fluctuations(self, coefficients: np.ndarray, amplitude: float) -> np.ndarray:
        """With one temperature, the heat capacity at each point from fluctuations, Var(E) / kT^2."""
        state = int(self.counts.argmax())
        size = self.basis.n
        gram, products = np.zeros((size + 1, size + 1)), np.zeros(size + 1)
        square = 0.0
        for part in self._parts():
            functions = self.basis(self.points[part])
            rest = self.energies[part] - self._offsets[self.states[part]] - functions @ coefficients[0]
            z = np.column_stack([np.ones(len(part)), functions])
            gram += z.T @ (self.weights[part, None] * z)
            products += z.T @ (self.weights[part] * rest**2)
            square += float(self.weights[part] @ rest**4)
        total = gram[0, 0]
        centered = gram[1:, 1:] - np.outer(gram[0, 1:], gram[0, 1:]) / total
        side = products[1:] - gram[0, 1:] * products[0] / total
        noise = max(square / total - (products[0] / total) ** 2, 1e-6 * self.kT**4)  # energies may all be the same
        # x = 1 is a change of the temperature by spread * T0, over which U changes by Var(E) / kT^2 times that.
        factor = self.polynomials.spread / (self.polynomials.boltzmann * self.temperatures[state])
        prior = (amplitude * self.kT * SLOPE / factor) ** -2
        variance = np.linalg.solve(centered / noise + prior * np.eye(size), side / noise)
        return np.stack([coefficients[0], factor * variance])

    def evaluate(self, coefficients: np.ndarray) -> np.ndarray:
        """U of each frame as coefficients of the polynomials; (n, order)."""
        parts = np.array_split(np.arange(len(self.points)), max(1, len(self.points) // 50_000))
        return np.concatenate([self.basis(self.points[part]) @ coefficients.T for part in parts])


class _Likelihood:
    """Energies and temperatures together: a convex function of the coefficients and of free energies of temperatures.

    The logit of temperature k at u is ln N_k + f_k - w(u, beta_k).
    """

    def __init__(self, regression: _Regression, matrix: np.ndarray, side: np.ndarray, rng: np.random.Generator) -> None:
        self.matrix, self.side = matrix, side
        used = np.flatnonzero(regression.counts > 0)
        drawn, labels, weights = [], [], []
        for number, state in enumerate(used):
            frames = np.flatnonzero((regression.states == state) & (regression.weights > 0))
            # Frames that all weigh the same are thinned, and none is taken twice.
            count = min(LABELED, max(1, round(kish(regression.weights[frames]))))
            drawn.append(frames[systematic(regression.weights[frames], count, rng)])
            labels.append(np.full(count, number))
            weights.append(np.full(count, regression.counts[state] / count))
        frames, self.labels, self.weights = np.concatenate(drawn), np.concatenate(labels), np.concatenate(weights)
        self.functions = regression.basis(regression.points[frames])
        self.integrals = regression.polynomials.integrals(regression.temperatures[used])
        self.log_counts = np.log(regression.counts[used])
        self.size = len(side)

    def _log_probabilities(self, parameters: np.ndarray) -> np.ndarray:
        coefficients = parameters[: self.size].reshape(self.integrals.shape[1], -1)
        w = (self.functions @ coefficients.T) @ self.integrals.T
        return log_softmax(self.log_counts + np.append(0.0, parameters[self.size :]) - w, axis=1)

    def _value(self, parameters: np.ndarray) -> float:
        """Negative log-likelihood."""
        a = parameters[: self.size]
        log = self._log_probabilities(parameters)[np.arange(len(self.labels)), self.labels]
        return float(0.5 * a @ self.matrix @ a - a @ self.side - self.weights @ log)

    def _step(self, parameters: np.ndarray) -> tuple[np.ndarray, float]:
        """Newton's step, and how fast the value falls along it."""
        a, n_states = parameters[: self.size], len(self.integrals)
        p = np.exp(self._log_probabilities(parameters))
        rest = (p - np.eye(n_states)[self.labels]) * self.weights[:, None]  # derivative by the logits
        gradient = np.append(
            self.matrix @ a - self.side - (self.integrals.T @ (rest.T @ self.functions)).ravel(), rest.sum(0)[1:]
        )
        weighted = p * self.weights[:, None]
        by_order = p @ self.integrals  # mean integral at each frame, (n, order)
        hessian = np.zeros((len(gradient), len(gradient)))
        order, m = self.integrals.shape[1], self.functions.shape[1]
        for i in range(order):
            for j in range(i + 1):
                second = weighted @ (self.integrals[:, i] * self.integrals[:, j])
                covariance = second - self.weights * by_order[:, i] * by_order[:, j]
                block = self.functions.T @ (covariance[:, None] * self.functions)
                hessian[i * m : (i + 1) * m, j * m : (j + 1) * m] = block
                hessian[j * m : (j + 1) * m, i * m : (i + 1) * m] = block
            cross = weighted * (self.integrals[:, i] - by_order[:, i, None])
            columns = -(self.functions.T @ cross)[:, 1:]
            hessian[i * m : (i + 1) * m, self.size :] = columns
            hessian[self.size :, i * m : (i + 1) * m] = columns.T
        hessian[: self.size, : self.size] += self.matrix
        free = np.diag(weighted.sum(0)) - weighted.T @ p
        hessian[self.size :, self.size :] = free[1:, 1:] + 1e-9 * self.weights.sum() * np.eye(n_states - 1)
        step = -np.linalg.solve(hessian, gradient)
        return step, float(gradient @ step)

    def maximize(self, start: np.ndarray) -> np.ndarray:
        """The coefficients of the largest likelihood, by Newton's method with steps that are halved where need be."""
        parameters = np.append(start, np.zeros(len(self.integrals) - 1))
        value = self._value(parameters)
        for _ in range(MOST_STEPS):
            step, slope = self._step(parameters)
            if slope > -1e-6:  # in nats; half of it is how far the value is above its minimum
                break
            length = 1.0
            while length > 1e-6:
                tried = parameters + length * step
                now = self._value(tried)
                if now <= value + 1e-4 * length * slope:
                    break
                length /= 2
            else:
                break  # as far as rounding errors let it
            parameters, value = tried, now
        return parameters[: self.size]
