"""What a structure must be for a simulation to start from it."""

from __future__ import annotations

from dataclasses import dataclass

import mdtraj
import numpy as np

from latf_sampling.features.topology import Labels
from latf_sampling.starts.geometry import AS_THEY_LIE, Geometry
from latf_sampling.starts.thermal import Thermal

CLASH = 0.6
"""Heavy atoms, four or more bonds apart, that are nearer than this share of their radii's sum clash. In plain dynamics
of alanine dipeptide at 600 K none of 20,000 frames falls below 0.66."""
BROKEN = 0.25
"""A bond that is longer or shorter than usual by more than this share is broken."""
DUPLICATE = 0.005
"""nm; of two structures that are nearer (root of the mean square after superposition), one is a duplicate. Structures
that were thermalised apart differ by ten times as much."""


@dataclass(frozen=True)
class Found:
    """A structure, and where it came from."""

    positions: np.ndarray
    velocities: np.ndarray
    box: np.ndarray | None
    held: np.ndarray
    reached: np.ndarray
    energy: float


@dataclass(frozen=True)
class Checks:
    """The limits, and everything that is needed to see whether a structure keeps them.

    Parameters
    ----------
    geometry, names
        What to look at, and how atoms are called.
    noise
        sigma, the encoder's uncertainty.
    tolerance
        In units of sigma while the structure is held, and of the root of sigma^2 + the measured fluctuation^2 after it
        was released.
    allow_cis, allow_inversion
        Whether peptide bonds may go from trans to cis or back, and stereocentres change their handedness.
    """

    geometry: Geometry
    names: list[str]
    noise: float
    tolerance: float
    allow_cis: bool
    allow_inversion: bool

    @classmethod
    def of(cls, topology: mdtraj.Topology, system, noise: float, tolerance: float, **allowed: bool) -> Checks:
        labels = Labels(topology)
        names = [labels.atom(index) for index in range(topology.n_atoms)]
        return cls(Geometry.of(topology, system), names, noise, tolerance, **allowed)

    def examine(
        self, found: Found, target: np.ndarray, thermal: Thermal, source: np.ndarray, source_box: np.ndarray | None
    ) -> tuple[dict, str]:
        """Every check's value, and why the structure does not count; empty where it does."""
        finite = all(np.isfinite(part).all() for part in (found.energy, found.positions, found.velocities))
        if not finite:
            return {}, "the energy is not finite"
        here, there = (found.positions, found.box), (source, source_box)
        held = float(np.linalg.norm(found.held - target)) / self.noise
        away = float(np.linalg.norm((found.reached - target) / np.sqrt(self.noise**2 + thermal.fluctuation**2)))
        share, pair = self.geometry.closest(*here)
        stretch, bond = self.geometry.stretch(*here, *there)
        inverted, flipped = self.geometry.inverted(*here, *there), self.geometry.flipped(*here, *there)
        values = {
            "held": found.held.tolist(),
            "reached": found.reached.tolist(),
            "held_distance": held,
            "released_distance": away,
            "energy": found.energy,
            "closest": share if np.isfinite(share) else None,
            "stretch": stretch,
            "inverted": [self.names[atom] for atom in inverted],
            "flipped": ["-".join(self.names[atom] for atom in row[1:3]) for row in flipped],
        }
        low, high = thermal.energies
        if not low <= found.energy <= high:
            why = f"the energy is {found.energy:.0f} kJ/mol, {low:.0f} to {high:.0f} would be thermal"
        elif not held <= self.tolerance:
            why = f"its latent stayed {held:.1f} sigma from the target, {self.tolerance:g} are tolerated"
        elif not away <= self.tolerance:
            why = f"its latent left the target when released, {away:.1f} of {self.tolerance:g} tolerated fluctuations"
        elif share < CLASH:
            why = f"atoms {self._pair(pair)} clash at {share:.2f} of their radii"
        elif stretch > BROKEN:
            why = f"the bond {self._pair(bond)} is broken, {100 * stretch:.0f} % from its length"
        elif len(inverted) and not self.allow_inversion:
            why = f"atom {values['inverted'][0]} changed its chirality"
        elif len(flipped) and not self.allow_cis:
            why = f"the peptide bond {values['flipped'][0]} went between cis and trans"
        else:
            why = ""
        return values, why

    def _pair(self, atoms: np.ndarray) -> str:
        return " and ".join(self.names[atom] for atom in atoms)


def duplicates(positions: np.ndarray) -> dict[int, int]:
    """Structures (m, n, 3) that repeat an earlier one: their index, and that of the first they repeat."""
    m, n = positions.shape[:2]
    if n < AS_THEY_LIE:
        first: dict[bytes, int] = {}
        same = {k: first.setdefault(positions[k].tobytes(), k) for k in range(m)}
        return {k: earlier for k, earlier in same.items() if earlier != k}
    frames, repeated = mdtraj.Trajectory(positions, None), {}
    for k in range(1, m):
        kept = [j for j in range(k) if j not in repeated]
        apart = mdtraj.rmsd(frames[kept], frames, k)
        if apart.min() < DUPLICATE:
            repeated[k] = kept[int(apart.argmin())]
    return repeated
