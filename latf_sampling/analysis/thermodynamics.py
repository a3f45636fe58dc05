"""Thermodynamics of metastable states: free energies, energies, entropies, heat capacities, melting temperatures.

The Gibbs-Helmholtz equation with a heat capacity gives the free energy of a state relative to another at any
temperature from three numbers: the differences in free energy, energy and heat capacity at one temperature,

    d(dF / T) / d(1 / T) = dU(T),    dU(T) = dU + dCp (T - T0).

They are those of the largest likelihood of both kinds of data, which state each frame is in and what its energy is, at
all simulated temperatures together. At constant pressure energies are enthalpies, and F is the Gibbs free energy.
Sources: Becktel and Schellman, doi:10.1002/bip.360261104 (the equation for the stability of proteins); Rubin,
doi:10.1214/aos/1176345338 (the bootstrap).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_softmax

from latf_sampling.analysis.bootstrap import Bootstrap, inflation_by, state_inefficiencies

RESAMPLES = 200
"""Samples of the bootstrap over blocks of time."""
STEPS = 100
UNSEEN = 0.5
"""Independent frames that a state without one at a temperature is taken to have there, by Jeffreys' prior. That none
was seen bounds its population and does not make it zero, which nothing but an infinite free energy would explain."""


@dataclass(frozen=True)
class StateThermodynamics:
    """Differences of each state from the first at one temperature, with standard errors; the first state has zeros.

    Attributes
    ----------
    temperature : float
    populations, free_energies, energies, entropies, heat_capacities : numpy.ndarray (states,)
        Population, dF, dU, T dS = dU - dF (in the unit of energy) and dCp (in that unit per unit of temperature).
    population_errors, free_energy_errors, energy_errors, entropy_errors, heat_capacity_errors : numpy.ndarray (states,)
        Standard errors.
    melting_temperatures : numpy.ndarray (states,)
        Where a state is as populated as the first, within the range that was simulated and somewhat beyond; NaN where
        it nowhere is, and for the first. Of two, the one nearer to the temperature that differences are determined at.
    melting_errors : numpy.ndarray (states,)
        Standard errors of these, from the samples of the bootstrap that have one.
    second_melting_temperatures, second_melting_errors : numpy.ndarray (states,)
        The other one of two, as a difference in heat capacity leads to (cold and hot melting); NaN where there is none.
    """

    temperature: float
    populations: np.ndarray
    population_errors: np.ndarray
    free_energies: np.ndarray
    free_energy_errors: np.ndarray
    energies: np.ndarray
    energy_errors: np.ndarray
    entropies: np.ndarray
    entropy_errors: np.ndarray
    heat_capacities: np.ndarray
    heat_capacity_errors: np.ndarray
    melting_temperatures: np.ndarray
    melting_errors: np.ndarray
    second_melting_temperatures: np.ndarray
    second_melting_errors: np.ndarray


@dataclass(frozen=True)
class GibbsHelmholtz:
    """Free energies of states at any temperature, and of resampled data, for errors.

    Attributes
    ----------
    reference : float
        T0.
    boltzmann : float
        Boltzmann constant in the unit of energy per unit of temperature.
    parameters : numpy.ndarray (1 + samples, 3, states)
        dF / kT0, dU and dCp at T0, relative to the first state: from all data, then of each sample of the bootstrap.
    reach : tuple of float
        Lowest and highest temperature of a melting temperature.
    """

    reference: float
    boltzmann: float
    parameters: np.ndarray
    reach: tuple[float, float]

    def reduced(self, temperature: float) -> np.ndarray:
        """DF / kT at a temperature; (1 + samples, states)."""
        integrals = _integrals(np.array([temperature]), self.reference, self.boltzmann)[0]
        return self.parameters[:, 0] + integrals[0] * self.parameters[:, 1] + integrals[1] * self.parameters[:, 2]

    def populations(self, temperature: float) -> tuple[np.ndarray, np.ndarray]:
        """Populations of the states at a temperature, and their standard errors; (states,) each."""
        return _value_and_error(np.exp(log_softmax(-self.reduced(temperature), axis=1)))

    def at(self, temperature: float) -> StateThermodynamics:
        """All differences at a temperature."""
        free = self.reduced(temperature) * self.boltzmann * temperature
        capacities = self.parameters[:, 2]
        energies = self.parameters[:, 1] + capacities * (temperature - self.reference)
        populations = np.exp(log_softmax(-self.reduced(temperature), axis=1))
        return StateThermodynamics(
            temperature,
            *_value_and_error(populations),
            *_value_and_error(free),
            *_value_and_error(energies),
            *_value_and_error(energies - free),
            *_value_and_error(capacities),
            *self._melting(),
        )

    def _melting(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Temperatures of equal population of each state with the first, nearest to T0 and second, with errors."""
        crossings = np.array([self._crossings(sample) for sample in range(len(self.parameters))])
        # In the samples it is the one on the same side of the stable range: their scatter is not the way to the other.
        nearest = np.nan_to_num(np.abs(crossings[0] - self.reference), nan=np.inf).argmin(1)
        found = []
        for side in (nearest, 1 - nearest):
            of_side = crossings[:, np.arange(len(side)), side]
            known = np.isfinite(of_side[0]) & (np.isfinite(of_side[1:]).sum(0) > 1)
            errors = [np.nanstd(of_side[1:, k], ddof=1) if known[k] else np.nan for k in range(len(side))]
            found += [of_side[0], np.array(errors)]
        return found[0], found[1], found[2], found[3]

    def _crossings(self, sample: int) -> np.ndarray:
        """Where the population of each state exceeds that of the first on heating, and on cooling; (states, 2).

        There is one of each kind at most, since dF / T is convex or concave in 1 / T.
        """
        dF, dU, dC = self.parameters[sample]
        found = np.full((len(dF), 2), np.nan)
        grid = np.linspace(*self.reach, 100)
        integrals = _integrals(grid, self.reference, self.boltzmann)
        for state in range(1, len(dF)):
            values = dF[state] + integrals @ [dU[state], dC[state]]
            if not np.isfinite(values).all():
                continue

            def difference(temperature: float, state: int = state) -> float:
                row = _integrals(np.array([temperature]), self.reference, self.boltzmann)[0]
                return float(dF[state] + row @ [dU[state], dC[state]])

            below = values < 0
            for inner in np.flatnonzero(below[1:] != below[:-1]):
                found[state, int(below[inner])] = brentq(difference, grid[inner], grid[inner + 1])
        return found


def gibbs_helmholtz(
    states: np.ndarray,
    energies: np.ndarray,
    temperatures: np.ndarray,
    weights: np.ndarray,
    blocks: np.ndarray,
    n_states: int,
    reference: float,
    boltzmann: float,
    reach: tuple[float, float],
    rng: np.random.Generator,
    lengths: Sequence[int] | None = None,
) -> GibbsHelmholtz:
    """Free energies of states at any temperature, from frames at one or more temperatures.

    With one temperature, heat capacities come from the fluctuations of the energy within each state, Var(E) / kT^2.

    Parameters
    ----------
    states, energies, temperatures, weights, blocks
        State, energy (or enthalpy), temperature, weight at that temperature and block of time of each frame; (n,) each.
    n_states
        Number of states.
    reference
        T0, that differences are determined at.
    boltzmann
        Boltzmann constant in the unit of energy per unit of temperature.
    reach
        Lowest and highest temperature of a melting temperature.
    rng
        Draws the weights of the blocks. Errors are NaN where there is one block at each temperature.
    lengths
        Numbers of frames of the trajectories, one after the other, whose sum is n. By them errors are corrected for
        what blocks that are not much longer than the correlation time lose; `None` takes blocks as independent.

    Examples
    --------
    Two states with energies 0 and 3, of which the second has twice the configurations: it melts at 3 / ln 2 = 4.33.

    >>> rng, T = np.random.default_rng(0), np.repeat([3.0, 6.0], 20_000)
    >>> states = (rng.random(40_000) < 1 / (1 + 0.5 * np.exp(3 / T))).astype(int)
    >>> energies = 3.0 * states + 100 * T + rng.normal(size=40_000)
    >>> blocks = np.arange(40_000) // 1000
    >>> result = gibbs_helmholtz(states, energies, T, np.ones(40_000), blocks, 2, 4.0, 1.0, (2.0, 8.0), rng).at(4.0)
    >>> bool(abs(result.melting_temperatures[1] - 4.33) < 4 * result.melting_errors[1] < 0.4)
    True
    >>> bool(abs(result.energies[1] - 3.0) < 4 * result.energy_errors[1] < 0.2)
    True
    """
    used = weights > 0
    kelvin, which = np.unique(temperatures[used], return_inverse=True)
    inefficiencies = None if lengths is None else state_inefficiencies(states, temperatures, weights, lengths)
    factors = 1.0 if inefficiencies is None else inflation_by(inefficiencies, temperatures, weights, blocks)
    bootstrap = Bootstrap(blocks[used], which, factors)
    weight, state = weights[used], states[used]
    means = np.bincount(which, weight * energies[used]) / np.bincount(which, weight)
    energy = energies[used] - means[which]  # squares lose no digits
    shape = (int(bootstrap.index.max()) + 1, len(kelvin), n_states)
    cell = np.ravel_multi_index((bootstrap.index, which, state), shape)
    sums = np.stack(
        [np.bincount(cell, weight * energy**power, int(np.prod(shape))).reshape(shape) for power in range(3)], 1
    )
    fit = _Fit(kelvin, reference, boltzmann)
    seen = sums[:, 0].sum(0)
    unseen = (seen == 0).astype(float)
    if inefficiencies is not None:
        unseen *= _frames_of_a_visit(seen, inefficiencies)
    parameters = [fit.solve(sums.sum(0), UNSEEN * unseen)]
    for drawn in bootstrap.draw(rng, RESAMPLES):
        guessed = unseen * rng.gamma(UNSEEN, size=unseen.shape)
        parameters.append(fit.solve(np.tensordot(drawn, sums, 1), guessed, parameters[0]))
    whole = np.array(parameters)
    if not bootstrap.known:
        whole[1:] = np.nan
    return GibbsHelmholtz(reference, boltzmann, whole, reach)


def _frames_of_a_visit(seen: np.ndarray, inefficiencies: np.ndarray) -> np.ndarray:
    """How many frames count as one for a state without any at a temperature; (K, states).

    They are as many as where the state is slowest of the other temperatures, or as of the slowest state if it has
    frames nowhere; all frames of the temperature at most.

    Parameters
    ----------
    seen
        Sum of the weights of each state at each temperature; (K, states).
    inefficiencies
        Of these (K, states or fewer); 1 where there are none.
    """
    slowest = np.full(seen.shape[1], inefficiencies.max())
    somewhere = np.flatnonzero(seen.sum(0) > 0)
    slowest[somewhere] = inefficiencies.max(0)[somewhere]
    return np.minimum(slowest, seen.sum(1, keepdims=True))


def _integrals(temperatures: np.ndarray, reference: float, boltzmann: float) -> np.ndarray:
    """Change of dF / kT from T0 to temperatures (k,) for each unit of dU and of dCp; (k, 2)."""
    beta, beta0 = 1 / (boltzmann * temperatures), 1 / (boltzmann * reference)
    return np.stack([beta - beta0, np.log(beta / beta0) / boltzmann - reference * (beta - beta0)], 1)


def _value_and_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values[0], values[1:].std(0, ddof=1)


class _Fit:
    """The largest likelihood of states and energies; parameters are those of all states but the first."""

    def __init__(self, temperatures: np.ndarray, reference: float, boltzmann: float) -> None:
        self.temperatures, self.boltzmann = temperatures, boltzmann
        self.integrals = _integrals(temperatures, reference, boltzmann)
        self.slopes = temperatures - reference

    def solve(self, sums: np.ndarray, unseen: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
        """dF / kT0, dU and dCp of the states (3, states), from sums of w, w E and w E^2 (3, K, states).

        To those come weights (K, states) of frames of unknown energy.
        """
        counts, first, second = sums
        n_states = counts.shape[1]
        order = 2 if len(self.temperatures) > 1 else 1
        totals = counts.sum(1)
        within = np.where(counts > 0, second - first**2 / np.where(counts > 0, counts, 1.0), 0.0)
        # Energies that are the same within each state still do not say everything.
        noise = np.maximum(within.sum(1) / totals, 1e-6 * (self.boltzmann * self.temperatures) ** 2)
        capacities = np.zeros(n_states)
        if order == 1:
            share = within[0] / np.where(counts[0] > 0, counts[0], 1.0)
            known = (counts[0] > 0) & (counts[0][0] > 0)
            capacities = np.where(known, share - share[0], 0.0) / (self.boltzmann * self.temperatures[0] ** 2)
        fixed = self.integrals[:, 1:] * capacities[None]  # part of dF / kT that is known already
        polynomials = np.stack([np.ones(len(self.slopes)), self.slopes], 1)[:, :order]
        integrals = self.integrals[:, :order]
        free = n_states - 1
        matrix, side = np.zeros((order * free, order * free)), np.zeros(order * free)
        for k, x in enumerate(polynomials):  # least squares of energies about their mean at each temperature
            gram = np.diag(counts[k, 1:]) - np.outer(counts[k, 1:], counts[k, 1:]) / totals[k]
            # Energies are about the mean of all frames; that of resampled ones is not 0.
            product = first[k, 1:] - counts[k, 1:] * first[k].sum() / totals[k]
            if order == 1:
                product = product - gram @ (self.slopes[k] * capacities[1:])
            matrix += np.kron(np.outer(x, x), gram) / noise[k]
            side += np.kron(x, product) / noise[k]
        # A state that is missing altogether has no numbers; this keeps them finite.
        prior = 1e-9 * max(float(totals.sum()), 1.0)
        parameters = np.zeros((1 + order) * free)
        if start is not None:
            parameters = start[: 1 + order, 1:].ravel().copy()

        frames = counts + unseen
        totals = frames.sum(1)

        def logits(values: np.ndarray) -> np.ndarray:
            a = values.reshape(1 + order, free)
            return -np.column_stack([np.zeros(len(totals)), a[0] + integrals @ a[1:] + fixed[:, 1:]])

        def value(values: np.ndarray) -> float:
            u = values[free:]
            energy = 0.5 * u @ matrix @ u - u @ side
            return float(energy - (frames * log_softmax(logits(values), axis=1)).sum() + 0.5 * prior * values @ values)

        design = np.column_stack([np.ones(len(totals)), integrals])  # (K, 1 + order)
        now = value(parameters)
        for _ in range(STEPS):
            p = np.exp(log_softmax(logits(parameters), axis=1)) * totals[:, None]
            gradient = (design.T @ (frames - p)[:, 1:]).ravel() + prior * parameters
            gradient[free:] += matrix @ parameters[free:] - side
            hessian = prior * np.eye(len(parameters))
            hessian[free:, free:] += matrix
            for k, row in enumerate(design):
                block = np.diag(p[k, 1:]) - np.outer(p[k, 1:], p[k, 1:]) / totals[k]
                hessian += np.kron(np.outer(row, row), block)
            scale = 1 / np.sqrt(hessian.diagonal())
            step = -scale * np.linalg.solve(hessian * np.outer(scale, scale), scale * gradient)
            slope = float(gradient @ step)
            if slope > -1e-8:
                break
            length = 1.0
            while length > 1e-6 and value(parameters + length * step) > now + 1e-4 * length * slope:
                length /= 2
            parameters = parameters + length * step
            now = value(parameters)
        solved = np.zeros((3, n_states))
        solved[: 1 + order, 1:] = parameters.reshape(1 + order, free)
        if order == 1:
            solved[2] = capacities
        return solved
