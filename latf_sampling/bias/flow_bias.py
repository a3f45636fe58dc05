"""The trained flow's own density as a static bias."""

from __future__ import annotations

import numpy as np
import openmm

from latf_sampling.bias.grid import GridBias
from latf_sampling.bias.umbrella import boltzmann_weights
from latf_sampling.cv import LatentCV
from latf_sampling.errors import SettingsError
from latf_sampling.model import LaTF
from latf_sampling.units import to_float

SAMPLES = 20_000


class FlowBias(GridBias):
    """V(u) = (1 - 1/gamma) kT ln p(u|T), up to a constant, where the flow has seen data, and constant elsewhere.

    It does not change in time, so that frames under it are reweighted exactly.

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
    """

    def __init__(self, system: openmm.System, cv: LatentCV, model: LaTF, temperature, bias_factor: float) -> None:
        if not bias_factor > 1:
            raise SettingsError(f"FlowBias: bias_factor must be more than 1; got {bias_factor}.")
        super().__init__(cv, cv.sigma)
        self.temperature = to_float(temperature, "temperature", "temperature")
        self._share = 1 - 1 / bias_factor
        nodes = np.stack(np.meshgrid(*self.axes, indexing="ij"), axis=-1)
        free_energy = model.free_energy(nodes.reshape(-1, cv.dim), self.temperature).reshape(nodes.shape[:-1])
        seen = model.free_energy(model.sample(SAMPLES, self.temperature, seed=0), self.temperature)
        self._set_values(-self._share * np.minimum(free_energy, seen.max()).astype(np.float64))
        self._attach(system)

    def free_energy(self) -> np.ndarray:
        """Free energy that the bias was made from, at the nodes of `axes`, kJ/mol, lowest value 0."""
        surface = -self.on_grid() / self._share
        return surface - surface.min()

    def weights(self, u: np.ndarray) -> np.ndarray:
        """Weights (n,) of mean 1 that undo the bias on frames at latent points (n, d)."""
        return boltzmann_weights(self.energy(u), self.temperature)
