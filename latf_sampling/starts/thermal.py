"""The thermal range of energies at a temperature, measured in short plain runs from archived frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latf_sampling.units import KB

RUNS = 8
"""Number of plain runs at most; they start from the archived frames that are closest to targets. One more than the
structures that are asked for is enough, since a run takes as long as a structure; others replace those that fail."""
ENERGY_RANGE = 8.0
"""Energies within so many standard deviations of the mean are thermal. The check must detect strained and cold
structures, but not reject improbable ones, such as those on a barrier."""


@dataclass(frozen=True)
class Thermal:
    """Energies and fluctuations of plain dynamics at a temperature.

    Attributes
    ----------
    energies : (float, float)
        Lowest and highest potential energy that count as thermal, kJ/mol.
    fluctuation : numpy.ndarray (d,)
        Root of the mean square change of each latent component during a run as long as the release.
    """

    energies: tuple[float, float]
    fluctuation: np.ndarray

    @classmethod
    def from_runs(cls, runs: Sequence[tuple[np.ndarray, np.ndarray]], dof: int, temperature: float) -> Thermal:
        """The range from the energies (k,) and squared changes of the latent (k, d) of several runs.

        The standard deviation is the larger one of the measured one and that of f harmonic degrees of freedom,
        sqrt(f/2) kT.
        """
        energies = np.concatenate([run[0] for run in runs])
        half_width = ENERGY_RANGE * max(float(energies.std()), float(np.sqrt(dof / 2)) * KB * temperature)
        mean = float(energies.mean())
        return cls((mean - half_width, mean + half_width), np.sqrt(np.concatenate([run[1] for run in runs]).mean(0)))

    def as_dict(self) -> dict:
        """The values for a JSON file."""
        return {"energies": list(self.energies), "fluctuation": self.fluctuation.tolist()}

    @classmethod
    def from_dict(cls, content: dict) -> Thermal:
        """The range from what `as_dict` gave."""
        low, high = content["energies"]
        return cls((low, high), np.array(content["fluctuation"]))
