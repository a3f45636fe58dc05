"""What is thermal at a temperature, measured: short plain runs from archived frames, before any structure is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latf_sampling.units import KB

RUNS = 8
"""So many archived frames are run, those closest to targets."""
WIDE = 8.0
"""Energies within so many standard deviations of the mean are thermal. Only strain and cold are to be found: what is
improbable, such as a barrier, is not to be refused."""


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
    def of(cls, runs: Sequence[tuple[np.ndarray, np.ndarray]], freedom: int, temperature: float) -> Thermal:
        """From the energies (k,) and squared changes (k, d) of several runs.

        The standard deviation is the measured one, or that of as many harmonic degrees of freedom, sqrt(f/2) kT, where
        this is more.
        """
        energies = np.concatenate([run[0] for run in runs])
        width = WIDE * max(float(energies.std()), np.sqrt(freedom / 2) * KB * temperature)
        mean = float(energies.mean())
        return cls((mean - width, mean + width), np.sqrt(np.concatenate([run[1] for run in runs]).mean(0)))

    def as_dict(self) -> dict:
        return {"energies": list(self.energies), "fluctuation": self.fluctuation.tolist()}

    @classmethod
    def from_dict(cls, content: dict) -> Thermal:
        return cls(tuple(content["energies"]), np.array(content["fluctuation"]))
