"""Checks that a structure must pass before a simulation starts from it."""

from __future__ import annotations

from dataclasses import dataclass

import mdtraj
import numpy as np
import openmm

from latf_sampling.features.topology import Labels
from latf_sampling.starts.thermal import Thermal
from latf_sampling.systems.geometry import SUPERPOSED_ATOMS, Geometry

CLASH = 0.6
"""Heavy atoms, four or more bonds apart, clash if they are nearer than this share of the sum of their radii. In plain
dynamics of alanine dipeptide at 600 K none of 20,000 frames is below 0.66."""
BROKEN = 0.25
"""A bond is broken if its length differs from the usual one by more than this share."""
DUPLICATE = 0.005
"""nm; of two structures that are nearer (root-mean-square distance after superposition), one is a duplicate. Structures
that were thermalized separately differ by ten times as much."""


@dataclass(frozen=True)
class Structure:
    """A structure, its latent points, and its energy.

    Attributes
    ----------
    positions, velocities : numpy.ndarray (N, 3)
        nm and nm/ps.
    box : numpy.ndarray (3, 3) or None
        Box vectors of a periodic system, nm.
    held, reached : numpy.ndarray (d,)
        Latent point under the umbrella, and after the release.
    energy : float
        Potential energy without umbrella, kJ/mol.
    """

    positions: np.ndarray
    velocities: np.ndarray
    box: np.ndarray | None
    held: np.ndarray
    reached: np.ndarray
    energy: float


@dataclass(frozen=True)
class TargetResult:
    """The result of a target for which a structure was to be made.

    Attributes
    ----------
    attempts : list of dict
        One for each frame that was tried, in order: "source", "pulled", every check's value, and "reason", which is
        empty in the last one if there is a structure.
    structure : Structure or None
    """

    attempts: list[dict]
    structure: Structure | None


@dataclass(frozen=True)
class Checks:
    """The limits, and everything that is needed to check a structure against them.

    Parameters
    ----------
    geometry, names
        Bonds, stereocenters and the like, and the names of atoms.
    noise
        sigma, the standard deviation of the encoder.
    tolerance
        Largest distance from the target, in units of sigma under the umbrella, and of the root of sigma^2 + the
        measured fluctuation^2 after the release.
    allow_cis, allow_inversion
        Whether peptide bonds may go from trans to cis or back, and stereocenters change their handedness.
    """

    geometry: Geometry
    names: list[str]
    noise: float
    tolerance: float
    allow_cis: bool
    allow_inversion: bool

    @classmethod
    def from_topology(
        cls,
        topology: mdtraj.Topology,
        system: openmm.System,
        *,
        noise: float,
        tolerance: float,
        allow_cis: bool,
        allow_inversion: bool,
    ) -> Checks:
        """Checks of a molecule, with the lengths that a system gives its bonds."""
        labels = Labels(topology)
        names = [labels.atom(index) for index in range(topology.n_atoms)]
        return cls(Geometry.from_topology(topology, system), names, noise, tolerance, allow_cis, allow_inversion)

    def examine(
        self,
        structure: Structure,
        target: np.ndarray,
        thermal: Thermal,
        source: np.ndarray,
        source_box: np.ndarray | None,
    ) -> tuple[dict, str]:
        """Compare a structure with its target (d,) and with the frame (N, 3) that it was made from.

        Returns
        -------
        dict
            The value of every check, as in `Starts.checks`.
        str
            The reason to reject the structure; empty if it is valid.
        """
        if not all(np.isfinite(part).all() for part in (structure.energy, structure.positions, structure.velocities)):
            return {}, "the energy is not finite"
        placed, reference = (structure.positions, structure.box), (source, source_box)
        held = float(np.linalg.norm(structure.held - target)) / self.noise
        tolerated = np.sqrt(self.noise**2 + thermal.fluctuation**2)
        released = float(np.linalg.norm((structure.reached - target) / tolerated))
        share, pair = self.geometry.closest(*placed)
        stretch, bond = self.geometry.stretch(*placed, *reference)
        inverted = self.geometry.inverted(*placed, *reference)
        flipped = self.geometry.flipped(*placed, *reference)
        values = {
            "held": structure.held.tolist(),
            "reached": structure.reached.tolist(),
            "held_distance": held,
            "released_distance": released,
            "energy": structure.energy,
            "closest": share if np.isfinite(share) else None,
            "stretch": stretch,
            "inverted": [self.names[atom] for atom in inverted],
            "flipped": ["-".join(self.names[atom] for atom in row[1:3]) for row in flipped],
        }
        low, high = thermal.energies
        if not low <= structure.energy <= high:
            reason = f"the energy is {structure.energy:.0f} kJ/mol, {low:.0f} to {high:.0f} would be thermal"
        elif not held <= self.tolerance:
            reason = f"its latent stayed {held:.1f} sigma from the target, {self.tolerance:g} are tolerated"
        elif not released <= self.tolerance:
            reason = (
                f"its latent left the target when released, {released:.1f} of {self.tolerance:g} tolerated fluctuations"
            )
        elif share < CLASH:
            reason = f"atoms {self._pair(pair)} clash at {share:.2f} of their radii"
        elif stretch > BROKEN:
            reason = f"the bond {self._pair(bond)} is broken, {100 * stretch:.0f} % from its length"
        elif len(inverted) and not self.allow_inversion:
            reason = f"atom {values['inverted'][0]} changed its chirality"
        elif len(flipped) and not self.allow_cis:
            reason = f"the peptide bond {values['flipped'][0]} went between cis and trans"
        else:
            reason = ""
        return values, reason

    def _pair(self, atoms: np.ndarray) -> str:
        return " and ".join(self.names[atom] for atom in atoms)


def duplicates(positions: np.ndarray) -> dict[int, int]:
    """Structures (m, n, 3) that repeat an earlier one: their index, and that of the first one that they repeat."""
    m, n = positions.shape[:2]
    if n < SUPERPOSED_ATOMS:
        first: dict[bytes, int] = {}
        same = {k: first.setdefault(positions[k].tobytes(), k) for k in range(m)}
        return {k: earlier for k, earlier in same.items() if earlier != k}
    frames, repeated = mdtraj.Trajectory(positions, None), {}
    for k in range(1, m):
        different = [j for j in range(k) if j not in repeated]
        distances = mdtraj.rmsd(frames[different], frames, k)
        if distances.min() < DUPLICATE:
            repeated[k] = different[int(distances.argmin())]
    return repeated
