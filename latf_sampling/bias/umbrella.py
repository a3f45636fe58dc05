"""A harmonic bias in the latent space."""

from __future__ import annotations

import numpy as np
import openmm

from latf_sampling.bias.force import Bias, BiasForce
from latf_sampling.bias.shapes import Harmonic
from latf_sampling.cv import LatentCV
from latf_sampling.errors import SettingsError
from latf_sampling.units import KB, to_float


class Umbrella(Bias):
    """V(u) = 1/2 sum_k stiffness_k (u_k - center_k)^2, with centres that can be moved.

    Parameters
    ----------
    system
        Gets the force, in a force group of its own.
    cv
        The collective variable.
    centers
        (d,) values.
    stiffness
        One value or (d,), kJ/mol (the variable has no unit).

    Examples
    --------
    >>> umbrella = Umbrella(system, cv, centers=[0.0, 1.0], stiffness=100.0)  # doctest: +SKIP
    >>> umbrella.move_to(simulation.context, [0.1, 1.0])  # doctest: +SKIP
    """

    def __init__(self, system: openmm.System, cv: LatentCV, centers, stiffness) -> None:
        self.cv, d = cv, cv.dim
        self.centers = self._vector(centers, "centers")
        self.stiffness = self._stiffness(stiffness)
        self._force = BiasForce(system, cv, Harmonic(d), self._table())
        self.group = self._force.group

    def move_to(self, context: openmm.Context, centers) -> None:
        """Put the centres (d,) elsewhere, in a context and in those made later."""
        self.centers = self._vector(centers, "centers")
        self._force.table[:] = self._table()
        self._force.publish(context)

    def energy(self, u: np.ndarray) -> np.ndarray:
        """Bias at latent points (n, d), kJ/mol; returns (n,)."""
        return 0.5 * (self.stiffness * (np.asarray(u).reshape(-1, self.cv.dim) - self.centers) ** 2).sum(1)

    def weights(self, u: np.ndarray, temperature) -> np.ndarray:
        """Weights (n,) of mean 1 that undo the bias on frames at latent points (n, d)."""
        return boltzmann_weights(self.energy(u), to_float(temperature, "temperature", "temperature"))

    def _table(self) -> np.ndarray:
        return np.concatenate([self.centers, self.stiffness])

    def _stiffness(self, values) -> np.ndarray:
        if hasattr(values, "value_in_unit"):
            from openmm import unit

            if not values.unit.is_compatible(unit.kilojoule_per_mole):
                raise SettingsError(f"Umbrella: stiffness is an energy, since the variable has no unit; got {values}.")
            values = values.value_in_unit(unit.kilojoule_per_mole)
        array = self._vector(np.full(self.cv.dim, values) if np.ndim(values) == 0 else values, "stiffness")
        if (array < 0).any():
            raise SettingsError(f"Umbrella: stiffness must not be negative; got {values}.")
        return array

    def _vector(self, values, name: str) -> np.ndarray:
        try:
            array = np.array(values, dtype=np.float64).reshape(-1)
        except (TypeError, ValueError):  # not numbers
            array = np.empty(0)
        if array.shape != (self.cv.dim,) or not np.isfinite(array).all():
            raise SettingsError(f"Umbrella: {name} must be {self.cv.dim} finite numbers; got {values}.")
        return array


def boltzmann_weights(bias: np.ndarray, temperature: float) -> np.ndarray:
    """exp(V/kT) with mean 1, without overflow."""
    weights = np.exp((bias - np.max(bias)) / (KB * temperature))
    return weights / weights.mean()
