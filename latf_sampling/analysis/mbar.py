"""Frames of one state as frames of another: the multistate Bennett acceptance ratio (MBAR) over all simulations.

A state is a temperature and a bias. Frame i has the reduced potential (E_i + V_k(i)) / kT_k in state k (with a barostat
E_i + p V_i takes the place of E_i), so that its energy and the bias of every state at it are enough to give it a weight
in any other state. The effective sample size, the number of frames that this leaves, tells where the weights are of
use. Source: Shirts and Chodera, doi:10.1063/1.2978177.

Training, which draws frames at all temperatures, and umbrella windows (`latf_sampling.analysis.windows`) use it too.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.optimize import brentq
from scipy.special import expit, logsumexp

from latf_sampling.analysis.weights import systematic
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.units import KB, QuantityArrayLike, TemperatureLike, to_array, to_kelvin

if TYPE_CHECKING:
    import pymbar
    from numpy.typing import ArrayLike

SOLVED_FRAMES = 20_000
"""The free energies of the simulated states are solved for on at most so many frames of each state,"""
SOLVED_ENTRIES = 20_000_000
"""and on at most so many frames times states in all, which is the smaller limit from 32 states on."""
MAX_ITERATIONS = 1000
"""Newton's method converges in tens; frames that do not overlap at all never let it, in however many."""
NO_OVERLAP = 0.003
"""States that overlap less are not solved for together: it would take forever, to no result."""
COMPARED_FRAMES = 500
"""Whether two states overlap is determined on at most so many frames of each,"""
GAP = 14.0
"""and without looking closer where their reduced potentials are farther apart, for which the overlap is below 0.002."""
SHARE_OF_GROUP = 0.05
"""Frames claim to be good at a temperature if so large a share of them is left in their effective number there."""
NORMAL_QUARTILES = 1.349
"""Distance of the quartiles of a normal distribution in standard deviations."""
CHUNK = 2_000_000
"""Frames times states that are held in memory at once."""


def silence_pymbar() -> None:
    """Switch pymbar's warnings off, of which one advertises JAX on import; to be called before importing it."""
    logging.getLogger("pymbar").setLevel(logging.ERROR)


def solve_mbar(reduced: np.ndarray, counts: ArrayLike, start: np.ndarray | None = None) -> pymbar.MBAR:
    """Solve the equations of MBAR; every estimate of this package comes from here.

    Parameters
    ----------
    reduced
        Reduced potential of every frame in every state, frames sorted by the state that they were simulated in; (K, n).
    counts
        Number of frames from each state; (K,).
    start
        Reduced free energies (K,) to begin the search with.

    Examples
    --------
    Two states of one harmonic energy, of which the second is higher by 3 kT everywhere:

    >>> x = np.random.default_rng(0).normal(size=200)
    >>> solution = solve_mbar(np.stack([x**2 / 2, x**2 / 2 + 3]), [100, 100])
    >>> solution.f_k.round(6).tolist()
    [0.0, 3.0]
    """
    silence_pymbar()
    import pymbar

    solvers = tuple({"method": name, "options": {"maxiter": MAX_ITERATIONS}} for name in ("adaptive", "L-BFGS-B"))
    return pymbar.MBAR(reduced, counts, solver_protocol=solvers, initial_f_k=start, maximum_iterations=MAX_ITERATIONS)


class Multistate:
    """Weights of frames, from any mixture of temperatures and biases, in the unbiased ensemble of any temperature.

    States that overlap neither directly nor through others are solved for in groups, each by itself. Nothing relates
    the groups: what is taken for the difference of their free energies, the mean of those of perturbation to first
    order in both directions, is a guess. For temperatures it is the integral of the mean energy over 1 / kT by the
    trapezoidal rule.

    Energies, biases and temperatures may have units of OpenMM.

    Parameters
    ----------
    energies
        Potential energy (or enthalpy E + pV) of each frame without bias, kJ/mol; (n,).
    bias
        Bias of each simulated state at every frame, kJ/mol; (K, n). An unbiased state has zeros; `None` where all are
        unbiased.
    temperatures
        Temperature of each state, K; (K,), or one for all.
    states
        The state that each frame was simulated in, 0 to K - 1; (n,). A state may have no frame.
    rng
        Draws the frames that free energies are solved on; a generator or a seed.
    weights
        Weight of each frame in its own state (n,), as of a bias that is undone already; a group of frames must weigh as
        much as the number of equally weighted frames it stands for (see `weights.kish`). `None` is 1 for all.
    boltzmann
        Boltzmann constant, if energies are in another unit.
    start
        Reduced free energies of the states (K,) to begin the search with, where they are known roughly.

    Attributes
    ----------
    temperatures, counts, free_energies : numpy.ndarray (K,)
        Of the states: the temperatures, the summed weights of their frames, and their reduced free energies -ln Z, of
        which the first is 0.
    states : numpy.ndarray (n,)
        State of each frame.
    groups : numpy.ndarray (K,)
        Number of the group that each state belongs to, from 0; all are 0 where states overlap.

    Raises
    ------
    DataError
        Shapes differ, there is no frame of any weight, a number is not finite, or a frame's state does not exist.
    SettingsError
        A temperature is not finite and above 0.

    Examples
    --------
    A harmonic energy x^2 / 2 at kT = 1, unbiased and with an umbrella at 2:

    >>> rng = np.random.default_rng(0)
    >>> x = np.concatenate([rng.normal(0, 1, 5000), rng.normal(1, 0.5**0.5, 5000)])
    >>> bias = np.stack([np.zeros(10_000), (x - 2) ** 2 / 2])
    >>> states = np.repeat([0, 1], 5000)
    >>> mixture = Multistate(x**2 / 2, bias, np.ones(2), states, rng, boltzmann=1.0)
    >>> weights = np.exp(mixture.log_weights(1.0))
    >>> bool(abs(weights @ x) < 0.1)
    True
    >>> bool(abs(mixture.free_energies[1] - (1 + np.log(2) / 2)) < 0.1)
    True
    """

    def __init__(
        self,
        energies: QuantityArrayLike,
        bias: QuantityArrayLike | None,
        temperatures: QuantityArrayLike,
        states: ArrayLike,
        rng: np.random.Generator | int,
        weights: ArrayLike | None = None,
        boltzmann: float = KB,
        start: np.ndarray | None = None,
    ) -> None:
        self.boltzmann = float(boltzmann)
        rng, name = np.random.default_rng(rng), type(self).__name__
        energy = to_array(energies, "energy", f"{name}, energies").astype(np.float64, copy=False)
        self._bias = None if bias is None else to_array(bias, "energy", f"{name}, bias")
        kelvin = to_array(temperatures, "temperature", f"{name}, temperatures").astype(np.float64, copy=False)
        if kelvin.ndim == 0:
            kelvin = np.full(1 if self._bias is None else self._bias.shape[:1] or 1, kelvin)
        self.temperatures = kelvin
        state = np.asarray(states)
        weight = np.ones(energy.shape) if weights is None else np.asarray(weights, np.float64)
        self._check(energy, state, weight)
        self.states, self._weights = state.astype(int, copy=False), weight
        self._lowest = energy.min()
        self._energies = energy - self._lowest  # a constant changes no weight, and sums stay within range
        self._beta = 1 / (self.boltzmann * self.temperatures)
        self.counts = np.bincount(self.states, weight, len(self.temperatures))
        shift = (self._beta - self._beta[0]) * self._lowest
        self._solved = self._solve(rng, None if start is None else start - shift)
        self.free_energies = self._solved + shift
        with np.errstate(divide="ignore"):
            self._log_base, self._log_counts = np.log(weight), np.log(self.counts)
        for part in self._chunks():
            self._log_base[part] -= logsumexp(self._log_terms(part), axis=0)

    def _check(self, energies: np.ndarray, states: np.ndarray, weights: np.ndarray) -> None:
        name = type(self).__name__
        for title, array in (("energies", energies), ("states", states), ("weights", weights)):
            if array.ndim != 1:
                raise DataError(f"{name}: the {title} have the shape {array.shape}; give one for each frame, (n,).")
        if self.temperatures.ndim != 1:
            raise DataError(
                f"{name}: the temperatures have the shape {self.temperatures.shape}; give one for each state."
            )
        if not len(energies) == len(states) == len(weights):
            raise DataError(
                f"{name}: {len(energies)} energies, {len(states)} states of frames and {len(weights)} weights do not "
                "belong together."
            )
        if not len(energies):
            raise DataError(f"{name}: there is no frame.")
        if states.dtype.kind not in "iufb" or (states % 1 != 0).any():
            raise DataError(f"{name}: states are whole numbers, 0 for the first of the temperatures.")
        if not np.isfinite(energies).all():
            raise DataError(f"{name}: the energy of frame {np.argmin(np.isfinite(energies))} is not finite.")
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
            raise DataError(f"{name}: weights must be finite and not negative, and one at least must be above 0.")
        if not ((self.temperatures > 0) & np.isfinite(self.temperatures)).all():
            raise SettingsError(f"{name}: temperatures must be finite and above 0.")
        if states.min() < 0 or states.max() >= len(self.temperatures):
            raise DataError(
                f"{name}: frames come from states {states.min()} to {states.max()}, but there are temperatures for "
                f"{len(self.temperatures)} only, numbered from 0."
            )
        if self._bias is None:
            return
        if self._bias.shape != (len(self.temperatures), len(energies)):
            raise DataError(
                f"{name}: the bias has the shape {self._bias.shape}; {len(self.temperatures)} states at "
                f"{len(energies)} frames need {(len(self.temperatures), len(energies))}."
            )
        for state, row in enumerate(self._bias):
            if not np.isfinite(row).all():
                frame = np.argmin(np.isfinite(row))
                raise DataError(f"{name}: the bias of state {state} at frame {frame} is not finite.")

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._energies)

    def subset(self, frames: np.ndarray, rng: np.random.Generator | int) -> Multistate:
        """The same states, solved anew with some of the frames alone, given by their indices."""
        return Multistate(
            self._energies[frames] + self._lowest,
            None if self._bias is None else self._bias[:, frames],
            self.temperatures,
            self.states[frames],
            rng,
            self._weights[frames],
            self.boltzmann,
            self.free_energies,
        )

    def centered(self, values: np.ndarray) -> np.ndarray:
        """Values at the frames less their mean in the frame's own state; (n,)."""
        sums = np.bincount(self.states, self._weights * values, len(self.counts))
        return values - (sums / np.where(self.counts > 0, self.counts, 1.0))[self.states]

    def _chunks(self) -> Iterator[slice]:
        size = max(1, CHUNK // len(self.temperatures))
        return (slice(first, first + size) for first in range(0, len(self._energies), size))

    def _reduced(self, frames: slice | np.ndarray, states: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Reduced potential of some frames in every state, or in some states; (K, frames)."""
        energies = self._energies[frames]
        if self._bias is not None:
            energies = energies + self._bias[states][:, frames]
        return self._beta[states, None] * energies

    def _log_terms(self, frames: slice) -> np.ndarray:
        """ln of what each state adds to the density that the frames were drawn from; (K, frames)."""
        return (self._log_counts + self._solved)[:, None] - self._reduced(frames)

    def _solve(self, rng: np.random.Generator, start: np.ndarray | None) -> np.ndarray:
        """Reduced free energy of each state, 0 for the first; (K,)."""
        self.groups = self._connected()
        solved = np.zeros(len(self.temperatures))
        for number in range(self.groups.max() + 1):
            states = np.flatnonzero(self.groups == number)
            solved[states] = self._solve_group(states, rng, None if start is None else start[states])
            if number:
                solved[states] += self._guess(np.flatnonzero(self.groups < number), states, solved)
        return solved - solved[0]

    def _solve_group(self, states: np.ndarray, rng: np.random.Generator, start: np.ndarray | None) -> np.ndarray:
        """Reduced free energies of states that overlap, by their indices; 0 for the first."""
        if len(states) == 1:
            return np.zeros(1)
        most = min(SOLVED_FRAMES, SOLVED_ENTRIES // len(states) ** 2)
        drawn = []
        for state in states:
            count = self.counts[state]
            frames = np.flatnonzero(self.states == state) if count else np.empty(0, int)
            # Frames without bias all weigh the same: then this is thinning, and no frame is taken twice.
            number = min(most, max(1, int(count))) if count else 0
            drawn.append(frames[systematic(self._weights[frames], number, rng)] if number else frames)
        reduced = self._reduced(np.concatenate(drawn), states)
        solution = solve_mbar(reduced, [len(part) for part in drawn], start)
        return np.asarray(solution.f_k, np.float64)

    def _connected(self) -> np.ndarray:
        """Group of each state (K,), of those that overlap; states without frames are in the first one."""
        groups = np.zeros(len(self.temperatures), int)
        used = np.flatnonzero(self.counts > 0)
        if len(used) < 2:
            return groups
        frames = [self._compared(int(state)) for state in used]
        weights = [self._weights[part] / self._weights[part].sum() for part in frames]
        reduced = [self._reduced(part, used) for part in frames]  # of the frames of each state, in all
        group = np.arange(len(used))
        for distance in range(1, len(used)):  # neighbors first, after which as a rule nothing is left to find
            for i, j in zip(range(len(used)), range(distance, len(used))):
                if group[i] != group[j]:
                    pair = reduced[i][j] - reduced[i][i], reduced[j][j] - reduced[j][i]
                    if _overlap(*pair, weights[i], weights[j]) >= NO_OVERLAP:
                        group[group == group[j]] = group[i]
            if (group == group[0]).all():
                return groups
        firsts = np.unique(group, return_index=True)[1]
        groups[used] = np.argsort(np.argsort(firsts))[np.unique(group, return_inverse=True)[1]]
        return groups

    def _compared(self, state: int) -> np.ndarray:
        """Indices of frames of a state, evenly spaced."""
        frames = np.flatnonzero((self.states == state) & (self._weights > 0))
        return frames[:: -(-len(frames) // COMPARED_FRAMES)]

    def _guess(self, known: np.ndarray, states: np.ndarray, solved: np.ndarray) -> float:
        """What to add to the free energies of a group of states for those of states in other groups that are known."""
        nearest, shift = math.inf, 0.0
        for i in known[self.counts[known] > 0]:
            for j in states[self.counts[states] > 0]:
                both = np.array([i, j])
                forward, back = (
                    float(np.average(np.diff(self._reduced(frames, both), axis=0)[0], weights=self._weights[frames]))
                    for frames in (self._compared(int(i)), self._compared(int(j)))
                )
                if forward - back < nearest:
                    nearest, shift = forward - back, 0.5 * (forward + back) + float(solved[i] - solved[j])
        return shift

    def log_weights(self, temperature: TemperatureLike) -> np.ndarray:
        """ln of each frame's weight in the unbiased ensemble at a temperature, weights of sum 1; (n,)."""
        log = self._log_base - self._energies / (self.boltzmann * to_kelvin(temperature))
        return log - logsumexp(log)

    def heat_capacity(self, temperature: TemperatureLike) -> float:
        """Variance of E / kT at a temperature, the configurational heat capacity in units of k."""
        weights = np.exp(self.log_weights(temperature))
        mean = weights @ self._energies
        return float(weights @ (self._energies - mean) ** 2) / (self.boltzmann * to_kelvin(temperature)) ** 2

    def effective_sample_size(self, temperature: TemperatureLike) -> float:
        """Number of equally weighted frames that would be as good as these at a temperature (`weights.kish`).

        It is 0 where several groups of states that do not overlap would be good each by itself: nothing tells how much
        each weighs, and between two temperatures they contradict each other, for the truth is an energy between them,
        of which there is no frame.
        """
        kelvin = to_kelvin(temperature)
        if self.groups.any() and self._claims(kelvin) > 1:
            return 0.0
        return _effective_size(self.log_weights(kelvin))

    def _claims(self, kelvin: float) -> int:
        """Number of groups of states whose frames are good at a temperature: those that were simulated at it, or,
        where there is none, those that have enough effective frames there."""
        used = np.flatnonzero(self.counts > 0)
        simulated = np.unique(self.groups[used][self.temperatures[used] == kelvin])
        if len(simulated):
            return len(simulated)
        beta = 1 / (self.boltzmann * kelvin)
        claims = 0
        for number in np.unique(self.groups[used]):
            states = used[self.groups[used] == number]
            state = states[np.abs(self._beta[states] - beta).argmin()]
            frames = np.flatnonzero((self.states == state) & (self._weights > 0))
            change = self._reduced(frames, np.array([state]))[0] - beta * self._energies[frames]
            # By quartiles, since a single frame far from the others would hide that they make a claim.
            low, high = np.quantile(change, [0.25, 0.75], weights=self._weights[frames], method="inverted_cdf")
            claims += math.exp(-(((high - low) / NORMAL_QUARTILES) ** 2)) >= SHARE_OF_GROUP
        return claims

    def response(
        self, blocks: np.ndarray, n_blocks: int, sets: np.ndarray, n_sets: int, weights: np.ndarray
    ) -> np.ndarray:
        """Change of the weights of sets of frames through the free energies of the states, which depend on all blocks.

        A bootstrap that counts a block twice would have to solve MBAR again. To first order the equations are linear:
        with P_nk the probability that frame n was drawn from state k, N_k the frames of state k, nu_k the fraction of
        them that is counted once more, and the overlap O_ij = sum_n P_ni P_nj / N_i, the changes psi of ln N_k + f_k
        solve (1 - O) psi = nu - sum_n P_ni / N_i, the sum over the frames that are counted once more. Frame n then
        weighs less by the factor exp(-sum_k P_nk psi_k). Linearized from the equations of Shirts and Chodera,
        doi:10.1063/1.2978177.

        Parameters
        ----------
        blocks, sets
            Block and set of each frame; (n,) each. A frame of a set below 0 belongs to none.
        n_blocks, n_sets
            Their numbers, B and S.
        weights
            exp of `log_weights` at the temperature of interest, up to a factor; (n,).

        Returns
        -------
        numpy.ndarray (B, S)
            Change of ln of each set's weight if a block counts once more, beyond what its own frames add; known up to
            a constant that all sets share. Infinite where states do not overlap, so that nothing relates them.
        """
        n, n_states = len(self._energies), len(self.temperatures)
        used = self.counts > 0
        inside = np.asarray(sets) >= 0
        weight = weights * inside
        total = np.bincount(np.where(inside, sets, 0), weight, n_sets)
        in_block = sparse.csr_array((self._weights, (blocks, np.arange(n))), (n_blocks, n))
        in_set = sparse.csr_array((weight, (np.where(inside, sets, 0), np.arange(n))), (n_sets, n))
        overlap, drawn = np.zeros((n_states, n_states)), np.zeros((n_blocks, n_states))
        of_set = np.zeros((n_sets, n_states))
        for part in self._chunks():
            terms = self._log_terms(part)
            probability = np.exp(terms - logsumexp(terms, axis=0)).T
            overlap += probability.T @ (self._weights[part, None] * probability)
            drawn += in_block[:, part] @ probability
            of_set += in_set[:, part] @ probability
        own = np.bincount(blocks * n_states + self.states, self._weights, n_blocks * n_states)
        # Sums over all frames, not counts: the two differ a little, since free energies are solved on some frames only.
        full = overlap.sum(1)[used]
        excess = own.reshape(n_blocks, n_states)[:, used] / self.counts[used] - drawn[:, used] / full
        # Rows of O sum to 1, so that psi is known up to a constant; the last term fixes it.
        matrix = np.eye(len(full)) - overlap[used][:, used] / full[:, None] + full / full.sum()
        if np.linalg.cond(matrix) > 1e12:
            return np.full((n_blocks, n_sets), np.inf)
        psi = np.linalg.solve(matrix, excess.T)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(total[:, None] > 0, of_set / total[:, None], 0.0)[:, used]
        return -(mean @ psi).T

    def total_influence(self, influence: np.ndarray) -> np.ndarray:
        """Change of an estimate if a frame counts once more, by itself and by the states' free energies; (n,).

        Parameters
        ----------
        influence
            Change of the estimate for each frame by itself, relative to its weight; of sum 0. (n,)
        """
        sets, size = (influence < 0).astype(int), np.abs(influence)
        response = self.response(np.arange(len(influence)), len(influence), sets, 2, size)
        if not np.isfinite(response).all():
            return influence
        return influence + response @ (np.bincount(sets, size, 2) * [1, -1])


def _effective_size(log_weights: np.ndarray) -> float:
    """`weights.kish` from ln of weights."""
    return float(np.exp(2 * logsumexp(log_weights) - np.asarray(logsumexp(2 * log_weights))))


def _overlap(first: np.ndarray, second: np.ndarray, first_weights: np.ndarray, second_weights: np.ndarray) -> float:
    """Overlap of two states from what the reduced potential is higher by in the second, in the frames of each.

    It is the element O_12 of MBAR's overlap matrix for as many frames of either, whatever their numbers are, which say
    how precisely it is known and not how large it is. Weights have a sum of 1.
    """
    low, high = second.min(), first.max()
    if first.min() - second.max() > GAP:
        return 0.0
    values, weight = np.concatenate([first, second]), np.concatenate([first_weights, second_weights])

    def excess(offset: float) -> float:
        return float(weight @ expit(offset - values)) - 1

    low, high = min(low, first.min()) - 50, max(high, second.max()) + 50
    probability = expit(brentq(excess, low, high) - values)  # pyright: ignore[reportOperatorIssue]
    return float(weight @ (probability * (1 - probability)))


def energy_overlap(
    colder: np.ndarray, hotter: np.ndarray, weights: tuple[np.ndarray, np.ndarray], difference: float
) -> float:
    """Overlap of the energies at two temperatures: how likely a frame of either is one of the other.

    It is the off-diagonal element of MBAR's overlap matrix for the two, O_ij = sum_n P_ni P_nj / N_i, for as many
    frames of either: next to 0 where there is none, and 0.5 at most. Above 0.03 free energies are reliable. Source:
    Klimovich, Shirts and Mobley, doi:10.1007/s10822-015-9840-9.

    Parameters
    ----------
    colder, hotter
        Energies at the two temperatures, (n,) and (m,).
    weights
        Weights of the frames, (n,) and (m,).
    difference
        1 / kT of the hotter less that of the colder.

    Examples
    --------
    >>> rng, ones = np.random.default_rng(0), (np.ones(1000), np.ones(1000))
    >>> near = energy_overlap(rng.normal(0, 1, 1000), rng.normal(1, 1, 1000), ones, -1.0)
    >>> far = energy_overlap(rng.normal(0, 1, 1000), rng.normal(50, 1, 1000), ones, -1.0)
    >>> near > 0.3, far < 1e-6
    (True, True)
    """
    shares = [part / part.sum() for part in weights]
    return _overlap(difference * colder, difference * hotter, *shares)


class TemperatureReweighting(Multistate):
    """Weights of frames at any temperature, where every state is a temperature without bias.

    Parameters
    ----------
    energies
        Potential energy (or enthalpy E + pV) of each frame without bias, in the unit of `boltzmann` times temperature;
        (frames,).
    temperatures
        Temperature at which each frame was simulated (frames,); the states are the distinct ones, in ascending order.
    weights, boltzmann, rng
        As in `Multistate`.

    Attributes
    ----------
    overlaps : numpy.ndarray (K - 1,)
        Of the energies at each temperature with those at the next one (`energy_overlap`); NaN beside a temperature
        without frames.

    Raises
    ------
    DataError, SettingsError
        As in `Multistate`.

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
        self,
        energies: QuantityArrayLike,
        temperatures: QuantityArrayLike,
        weights: ArrayLike | None,
        boltzmann: float,
        rng: np.random.Generator | int,
    ) -> None:
        energy = to_array(energies, "energy", "TemperatureReweighting, energies")
        kelvin = to_array(temperatures, "temperature", "TemperatureReweighting, temperatures")
        if energy.shape != kelvin.shape or energy.ndim != 1:
            raise DataError(
                f"TemperatureReweighting: {energy.size} energies and {kelvin.size} temperatures do not belong together."
            )
        distinct, states = np.unique(kelvin.astype(np.float64, copy=False), return_inverse=True)
        super().__init__(energy, None, distinct, states, rng, weights, boltzmann)

    def _connected(self) -> np.ndarray:
        used = np.flatnonzero(self.counts > 0)
        self.overlaps = np.full(max(len(self.temperatures) - 1, 0), np.nan)
        groups = np.zeros(len(self.temperatures), int)
        frames = {state: np.flatnonzero((self.states == state) & (self._weights > 0)) for state in used}
        for colder, hotter in zip(used[:-1], used[1:]):
            pair = frames[colder], frames[hotter]
            self.overlaps[colder:hotter] = energy_overlap(
                self._energies[pair[0]],
                self._energies[pair[1]],
                (self._weights[pair[0]], self._weights[pair[1]]),
                float(self._beta[hotter] - self._beta[colder]),
            )
            groups[hotter:] += self.overlaps[colder] < NO_OVERLAP
        return groups
