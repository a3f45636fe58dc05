"""Reference of the reported free-energy difference: an independent value, or the exact one of a potential."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mdtraj
import numpy as np

from latf_sampling.records.observables import Observed
from latf_sampling.records.records import Records
from latf_sampling.systems import by_name
from latf_sampling.units import KB


@dataclass(frozen=True)
class Reference:
    """An independent value of the free-energy difference at one temperature.

    Attributes
    ----------
    value, error : float
        kJ/mol.
    source : str
        Its source, as the beginning of a sentence that ends with the value.
    surface : tuple or None
        Edges, degrees, (bins + 1,), and free energy of phi and psi, kJ/mol, (bins, bins).
    distribution : tuple or None
        Values of the observed variable, ascending, and the probability of all below each; (n,) each.
    """

    value: float
    error: float
    source: str
    surface: tuple[np.ndarray, np.ndarray] | None = None
    distribution: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def from_records(cls, records: Records, temperature: float) -> Reference | None:
        """The value of the protocol's file, or the exact one of a particle in a potential; `None` without either."""
        content = records.reference
        if content is None:
            return _exact(records, temperature)
        if content.temperature is not None and abs(content.temperature - temperature) > 0.01:
            return None
        surface = content.surface and (np.degrees(content.surface[0]), content.surface[1])
        return cls(content.value, content.error, "the independent reference is", surface)

    def profile(
        self, observed: Observed, edges: np.ndarray, temperature: float
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Edges and free energy along the observed variable, kJ/mol, lowest 0; `None` where it is not known.

        Parameters
        ----------
        edges
            Edges of the desired bins, in the variable's unit; the bins of the file are used where it has some.
        """
        if self.surface is not None and observed.circular and observed.name.startswith(("phi", "psi")):
            edges, surface = self.surface
            along = 1 if observed.name.startswith("phi") else 0
            probabilities = np.exp(-surface / (KB * temperature)).sum(along)
        elif self.distribution is not None:
            probabilities = np.diff(np.interp(edges, *self.distribution))
        else:
            return None
        with np.errstate(divide="ignore"):
            energies = -KB * temperature * np.log(probabilities)
        return edges, energies - energies.min()


def _exact(records: Records, temperature: float) -> Reference | None:
    """Quadrature over the plane; `None` unless the observed variable has values on both sides of its border."""
    settings, observed = records.protocol.system, records.observed
    if observed is None or settings.name is None or not settings.is_potential:
        return None
    model = by_name(settings.name)
    if model.system.getNumParticles() != 1:
        return None
    centers, weights = model.cells(temperature)
    positions = np.zeros((len(centers), 1, 3), np.float32)
    positions[:, 0, :2] = centers
    values = observed.values(mdtraj.Trajectory(positions, records.topology))
    points, places = np.unique(values, return_inverse=True)
    shares = np.bincount(places, weights)
    below = np.cumsum(shares) - shares / 2  # half of a cell lies below its center
    rest = float(np.interp(observed.above, points, below))
    if not 0 < rest < 1 or not points[0] < observed.above < points[-1]:
        return None
    value = -KB * temperature * math.log((1 - rest) / rest)
    return Reference(value, 0.0, "quadrature of the potential gives", distribution=(observed.shown(points), below))
