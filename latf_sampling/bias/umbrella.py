"""A harmonic bias in the latent space, which stands still, is put elsewhere, or steers."""

from __future__ import annotations

import numpy as np
import openmm

from latf_sampling.analysis.mbar import boltzmann_weights
from latf_sampling.bias.arguments import latent_points, numbers, whole_steps
from latf_sampling.bias.grid import walls_around
from latf_sampling.cv.force import Bias, BiasForce
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.cv.shapes import Harmonic, Sum
from latf_sampling.errors import SettingsError, SimulationError
from latf_sampling.units import to_kelvin


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
        One value or (d,), kJ/mol (the variable has no unit). A component of stiffness 0 is free.
    walls
        Add the walls that `Metadynamics` has, three hill widths outside the training data: for components that are
        free or held loosely. They are part of the bias, and of its energy, and do not move.

    Attributes
    ----------
    centers, stiffness : numpy.ndarray (d,)
        The present centres, and the stiffnesses in kJ/mol.
    group : int
        The force group of the bias in the system.

    Raises
    ------
    SettingsError
        `centers` or `stiffness` are no d finite numbers, or a stiffness is negative or has the unit of no energy.

    Examples
    --------
    >>> umbrella = Umbrella(system, cv, centers=[0.0, 1.0], stiffness=100.0)  # doctest: +SKIP
    >>> umbrella.move_to(simulation.context, [0.1, 1.0])  # doctest: +SKIP
    >>> work = umbrella.steer(simulation, [2.0, 1.0], steps=50_000)  # doctest: +SKIP
    """

    def __init__(self, system: openmm.System, cv: LatentCV, centers, stiffness, walls: bool = False) -> None:
        self.cv, self.walls = cv, bool(walls)
        self.centers = self._vector(centers, "centers")
        self.stiffness = self._stiffness(stiffness)
        self._walls = walls_around(cv, cv.sigma)
        shape = Sum(Harmonic(cv.dim), self._walls) if walls else Harmonic(cv.dim)
        self._force = BiasForce(system, cv, shape, self._table())
        self.group = self._force.group

    def move_to(self, context: openmm.Context, centers) -> None:
        """Put the centres (d,) elsewhere, in a context and in those made later."""
        self.centers = self._vector(centers, "centers")
        self._force.table[:] = self._table()
        self._force.publish(context)

    def steer(self, simulation: openmm.app.Simulation, centers, steps: int, interval: int = 10) -> float:
        """Simulate so many steps while the centres move evenly from where they are to `centers` (d,).

        They move every `interval` steps, by as much as these make up of all, before the steps are made. Work is the
        change of the bias energy in each move, at fixed positions. From many pulls that begin in equilibrium,
        -kT ln <exp(-W / kT)> is the difference of free energy between the two umbrellas, however fast the pulls and
        large the moves are. Source: Jarzynski, doi:10.1103/PhysRevLett.78.2690.

        A pull may be made in pieces, whose work adds up: the pieces go on from the present centres. In a new process
        bring these back first by `move_to`.

        Returns
        -------
        float
            Work done on the molecule, kJ/mol.

        Raises
        ------
        SettingsError
            `centers` are no d finite numbers, or `steps` or `interval` is no positive whole number.
        SimulationError
            The simulation exploded; the centres are where it happened.
        """
        start, end = self.centers, self._vector(centers, "centers")
        steps, interval = whole_steps("Umbrella", "steps", steps), whole_steps("Umbrella", "interval", interval)
        work = 0.0
        for first in range(0, steps, interval):
            part = min(interval, steps - first)
            u = self.values(simulation.context)
            if not np.isfinite(u).all():
                raise SimulationError(
                    f"Umbrella: the variable is {u} at step {simulation.currentStep}, centres {self.centers}; the "
                    "simulation exploded. Steer more slowly, or take a lower stiffness or a shorter time step."
                )
            before = self.energy(u)[0]
            self.move_to(simulation.context, start + (first + part) / steps * (end - start))
            work += float(self.energy(u)[0] - before)
            self.step(simulation, part)
        return work

    def energy(self, u: np.ndarray, centers=None) -> np.ndarray:
        """Bias at latent points (n, d), kJ/mol, with the present centres or others (d,); returns (n,)."""
        u = latent_points("Umbrella", u, self.cv.dim)
        centers = self.centers if centers is None else self._vector(centers, "centers")
        total = 0.5 * (self.stiffness * (u - centers) ** 2).sum(1)
        return total + self._walls.energies(u) if self.walls else total

    def weights(self, u: np.ndarray, temperature) -> np.ndarray:
        """Weights (n,) of mean 1 that undo the bias on frames at latent points (n, d)."""
        temperature = to_kelvin(temperature, "Umbrella: temperature")
        return boltzmann_weights(self.energy(u), temperature)

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
        array = numbers(values).reshape(-1)
        if array.shape != (self.cv.dim,) or not np.isfinite(array).all():
            raise SettingsError(f"Umbrella: {name} must be {self.cv.dim} finite numbers; got {values}.")
        return array
