"""The density of the trained flow as a static bias."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import numpy as np
import openmm
from openmm import app

from latf_sampling.bias.arguments import check_backend, check_model, check_parts, number_above, whole_steps
from latf_sampling.bias.flow_density import flow_surface
from latf_sampling.bias.grid import Grid, GridBias
from latf_sampling.bias.trust_region import TrustRegion
from latf_sampling.core import arguments
from latf_sampling.cv.collective_variable import CollectiveVariable
from latf_sampling.cv.force import NOT_IN_SIMULATION
from latf_sampling.errors import SimulationError
from latf_sampling.units import TemperatureLike, to_kelvin

if TYPE_CHECKING:
    from latf_sampling.learning.model import LaTF

UNSEEN = 1e-3
"""kJ/mol; a bias that is higher than this is not zero in a simulation which it acts in."""


class FlowBias(GridBias):
    """V(u) = (1 - 1/gamma) kT ln p(u|T), up to a constant, where the flow had training data, and zero elsewhere.

    A component of the variable that is a function of others does not count: p is then the density of those others.
    The constant makes V positive where there are data; V is smoothed by half a hill width. It does not change in time,
    so that frames under it are reweighted exactly, however wrong the flow may be. A wrong flow costs time: a barrier
    that it does not contain remains. A flow learns the height of barriers from biased frames; where it had some, V
    rises to the level of the pass between all parts of the density.

    Parameters
    ----------
    system, cv
        As for `Metadynamics`.
    model
        The `LaTF` whose flow gives p(u|T).
    temperature
        T, K, or a quantity.
    bias_factor
        gamma > 1: the barriers of the free energy are lowered by this factor.
    trust
        Region that the walker is held in, besides the walls; see `TrustRegion`. It is checked every `frequency` steps.
    frequency
        Steps between checks of the walker's position.
    backend
        What evaluates the force: "torchforce", "pythonforce", or "auto" for the faster one.
    read_only
        Evaluate the bias only: the system gets no force.

    Raises
    ------
    SettingsError
        A number is out of range, or the model has another dimension than the variable.

    Examples
    --------
    >>> bias = FlowBias(system, cv, model, 300.0, bias_factor=8)  # doctest: +SKIP
    >>> bias.step(simulation, 100_000)  # doctest: +SKIP
    """

    frequency: int
    temperature: float

    def __init__(
        self,
        system: openmm.System,
        cv: CollectiveVariable,
        model: LaTF,
        temperature: TemperatureLike,
        bias_factor: float,
        *,
        trust: TrustRegion | None = None,
        frequency: int = 500,
        backend: str = "auto",
        read_only: bool = False,
    ) -> None:
        check_parts("FlowBias", system, cv, needs_system=not read_only)
        check_model("FlowBias", model, cv)
        check_backend("FlowBias", backend)
        if trust is not None:
            arguments.instance("FlowBias", "trust", trust, TrustRegion, "a TrustRegion")
            check_model("FlowBias: trust", trust.model, cv)
        # Never None here, unlike in the base class.
        kelvin, every = to_kelvin(temperature, "FlowBias: temperature"), whole_steps("FlowBias", "frequency", frequency)
        self.temperature = kelvin  # pyright: ignore[reportIncompatibleVariableOverride]
        self._share = 1 - 1 / number_above("FlowBias", "bias_factor", bias_factor, 1)
        self.frequency = every  # pyright: ignore[reportIncompatibleVariableOverride]
        self.trust = trust
        self._prepared: weakref.ref[app.Simulation] | None = None
        grid = Grid(cv, cv.sigma)
        self._surface = coefficients = flow_surface(grid, model, self.temperature, self._share)
        if trust is not None:
            coefficients = coefficients + grid.spline_through(trust._wall(grid.nodes(), cv.sigma))
        super().__init__(None if read_only else system, cv, grid, coefficients, fixed=True, backend=backend)

    def prepare(self, simulation: app.Simulation) -> None:
        super().prepare(simulation)
        if self._prepared is not None and self._prepared() is simulation:
            return
        # A force without a parameter, as it is, leaves no other trace in a context than its energy.
        state = simulation.context.getState(getEnergy=True, groups=1 << self.group)
        u = self.values(simulation.context)
        if np.isfinite(u).all() and self.energy(u[None])[0] > UNSEEN and state.getPotentialEnergy()._value == 0:
            raise SimulationError(NOT_IN_SIMULATION)
        self._prepared = weakref.ref(simulation)

    def update(self, simulation: app.Simulation) -> None:
        """Check that the walker is where it may be."""
        u = self.values(simulation.context)
        self._check_value(u)
        if self.trust is not None:
            self.trust._check(u, simulation.currentStep)

    def free_energy(self) -> np.ndarray:
        """Free energy of the flow at the nodes of `axes`, kJ/mol, lowest value 0."""
        surface = -self.grid.at_nodes(self._surface) / self._share
        return surface - surface.min()
