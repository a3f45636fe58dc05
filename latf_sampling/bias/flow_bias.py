"""The trained flow's own density as a static bias."""

from __future__ import annotations

import numpy as np
import openmm

from latf_sampling.bias.arguments import checked, whole_steps
from latf_sampling.bias.grid import GridBias
from latf_sampling.bias.trust_region import TrustRegion
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.learning.model import LaTF
from latf_sampling.units import to_kelvin


class FlowBias(GridBias):
    """V(u) = (1 - 1/gamma) kT ln p(u|T), up to a constant, where the flow has seen data, and zero elsewhere.

    A component of the variable that is a function of others does not count: p is then the density of those others.
    The constant makes V positive where there are data; V is smoothed by half a hill width. It does not change in time,
    so that frames under it are reweighted exactly, however wrong the flow may be. What a wrong flow costs is time: a
    barrier that it does not know stays.

    Parameters
    ----------
    system, cv
        As for `Metadynamics`.
    model
        The `LaTF` whose flow gives p(u|T).
    temperature
        T, K.
    bias_factor
        gamma > 1: the barriers of the free energy are lowered by this factor.
    trust
        Region to hold the walker in, besides the walls; see `TrustRegion`. It is looked at every `frequency` steps.
    frequency
        Steps between looks at where the walker is.

    Examples
    --------
    >>> bias = FlowBias(system, cv, model, 300.0, bias_factor=8)  # doctest: +SKIP
    >>> bias.step(simulation, 100_000)  # doctest: +SKIP
    """

    def __init__(
        self,
        system: openmm.System,
        cv: LatentCV,
        model: LaTF,
        temperature,
        bias_factor: float,
        *,
        trust: TrustRegion | None = None,
        frequency: int = 500,
    ) -> None:
        self.temperature = to_kelvin(temperature, "FlowBias: temperature")
        self._share = 1 - 1 / checked("FlowBias", "bias_factor", bias_factor, 1)
        self.trust, self.frequency = trust, whole_steps("FlowBias", "frequency", frequency)
        super().__init__(cv, cv.sigma)
        self._surface = self.flow_surface(model, self.temperature, self._share)
        self.coefficients[...] = self._surface
        if trust is not None:
            self.coefficients += self._spline_through(trust.wall(self._nodes(), cv.sigma))
        self._attach(system, fixed=True)

    def _look(self, simulation: openmm.app.Simulation) -> None:
        u = self.values(simulation.context)
        self.watch(u)
        if self.trust is not None:
            self.trust.check(u, simulation.currentStep)

    def free_energy(self) -> np.ndarray:
        """Free energy that the bias was made from, at the nodes of `axes`, kJ/mol, lowest value 0."""
        surface = -self._at_nodes(self._surface) / self._share
        return surface - surface.min()

    def offset(self) -> float:
        """What V has to be lowered by, kJ/mol, to be on one scale for all times: it does not change."""
        return 0.0

    def rewind(self, step: int) -> None:
        """Go on from an earlier state: nothing is to be taken back."""

    def save(self) -> None:
        """Nothing is to be kept."""

    def close(self) -> None:
        """Nothing is to be let go."""
