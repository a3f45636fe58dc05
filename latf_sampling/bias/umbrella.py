"""A harmonic bias: at rest, moved, or steered."""

from __future__ import annotations

from typing import Any

import numpy as np
import openmm
from openmm import app

from latf_sampling.bias.arguments import check_backend, check_parts, latent_points, numbers, whole_steps
from latf_sampling.bias.base import Bias
from latf_sampling.bias.grid import walls_around
from latf_sampling.bias.thermostat import check_simulation
from latf_sampling.core import arguments
from latf_sampling.cv.collective_variable import CollectiveVariable
from latf_sampling.cv.force import BiasForce
from latf_sampling.cv.shapes import Harmonic, Sum
from latf_sampling.errors import SettingsError, SimulationError


class Umbrella(Bias):
    """V(u) = 1/2 sum_k stiffness_k (u_k - center_k)^2, with centers that can be moved.

    Parameters
    ----------
    system
        Gets the force, in a force group of its own.
    cv
        The collective variable.
    centers
        (d,) values.
    stiffness
        One value or (d,), kJ/mol (the variable has no unit), or a quantity. A component of stiffness 0 is free.
    walls
        Add the walls that `Metadynamics` has, three hill widths outside the training data: for components that are
        free or only loosely restrained. They are part of the bias, and of its energy, and do not move.
    backend
        What evaluates the force: "torchforce", "pythonforce", or "auto" for the faster one.

    Attributes
    ----------
    centers, stiffness : numpy.ndarray (d,)
        The present centers, and the stiffnesses in kJ/mol.

    Raises
    ------
    SettingsError
        `centers` or `stiffness` are not d finite numbers, or a stiffness is negative or has a unit that is no energy.

    Examples
    --------
    >>> umbrella = Umbrella(system, cv, centers=[0.0, 1.0], stiffness=100.0)  # doctest: +SKIP
    >>> umbrella.move_to(simulation.context, [0.1, 1.0])  # doctest: +SKIP
    >>> work = umbrella.steer(simulation, [2.0, 1.0], steps=50_000)  # doctest: +SKIP
    """

    def __init__(
        self,
        system: openmm.System,
        cv: CollectiveVariable,
        centers: Any,
        stiffness: Any,
        walls: bool = False,
        *,
        backend: str = "auto",
    ) -> None:
        check_parts("Umbrella", system, cv)
        check_backend("Umbrella", backend)
        self.cv, self.walls = cv, arguments.truth("Umbrella", "walls", walls)
        self.axes = [np.empty(0)] * cv.dim  # an umbrella estimates no free energy
        self.centers = self._vector(centers, "centers")
        self.stiffness = self._stiffness(stiffness)
        self._walls = walls_around(cv, cv.sigma)
        shape = Sum(Harmonic(cv.dim), self._walls) if walls else Harmonic(cv.dim)
        super().__init__(cv, BiasForce(system, cv, shape, self._table(), backend=backend))

    def move_to(self, context: openmm.Context, centers: Any) -> None:
        """Move the centers (d,), in a context and in those made later."""
        self.centers = self._vector(centers, "centers")
        self.force.table[:] = self._table()
        self.force.publish(context)

    def steer(self, simulation: app.Simulation, centers: Any, steps: int, interval: int = 10) -> float:
        """Simulate so many steps while the centers move evenly from their present values to `centers` (d,).

        They move every `interval` steps, by the share of these in all steps, before the steps are made. Work is the
        change of the bias energy in each move, at fixed positions. From many pulls that begin in equilibrium,
        -kT ln <exp(-W / kT)> is the difference of free energy between the two umbrellas, however fast the pulls and
        large the moves are. Source: Jarzynski, doi:10.1103/PhysRevLett.78.2690.

        A pull may be made in pieces, whose work adds up: the pieces continue from the present centers. In a new process
        restore these first by `move_to`.

        Returns
        -------
        float
            Work done on the molecule, kJ/mol.

        Raises
        ------
        SettingsError
            `centers` are not d finite numbers, or `steps` or `interval` is not a positive whole number.
        SimulationError
            The simulation exploded; the centers are where it happened.
        """
        check_simulation("Umbrella", simulation)
        start, end = self.centers, self._vector(centers, "centers")
        steps, interval = whole_steps("Umbrella", "steps", steps), whole_steps("Umbrella", "interval", interval)
        work = 0.0
        for first in range(0, steps, interval):
            part = min(interval, steps - first)
            u = self.values(simulation.context)
            if not np.isfinite(u).all():
                raise SimulationError(
                    f"Umbrella: the variable is {u} at step {simulation.currentStep}, centers {self.centers}; the "
                    "simulation exploded. Steer more slowly, or take a lower stiffness or a shorter time step."
                )
            before = self.energy(u)[0]
            self.move_to(simulation.context, start + (first + part) / steps * (end - start))
            work += float(self.energy(u)[0] - before)
            self.step(simulation, part)
        return work

    def energy(self, u: np.ndarray, centers: Any = None) -> np.ndarray:
        """Bias at points (n, d), kJ/mol, with the present centers or others (d,); returns (n,)."""
        u = latent_points("Umbrella", u, self.cv.dim)
        centers = self.centers if centers is None else self._vector(centers, "centers")
        total = 0.5 * (self.stiffness * (u - centers) ** 2).sum(1)
        return total + self._walls.energies(u) if self.walls else total

    def _table(self) -> np.ndarray:
        return np.concatenate([self.centers, self.stiffness])

    def _stiffness(self, values: Any) -> np.ndarray:
        if hasattr(values, "value_in_unit"):
            from openmm import unit

            if not values.unit.is_compatible(unit.kilojoule_per_mole):
                raise SettingsError(f"Umbrella: stiffness is an energy, since the variable has no unit; got {values}.")
            values = values.value_in_unit(unit.kilojoule_per_mole)
        array = self._vector(np.full(self.cv.dim, values) if np.ndim(values) == 0 else values, "stiffness")
        if (array < 0).any():
            raise SettingsError(f"Umbrella: stiffness must not be negative; got {values}.")
        return array

    def _vector(self, values: Any, name: str) -> np.ndarray:
        requirement = f"{name} must be {self.cv.dim} finite numbers"
        array = numbers("Umbrella", requirement, values).reshape(-1)
        if array.shape != (self.cv.dim,) or not np.isfinite(array).all():
            raise SettingsError(f"Umbrella: {requirement}; got {values}.")
        return array
