"""Forces of structure-based (Go) models, whose minimum is a known native structure.

Bonded terms have their minima at the native values; pairs that touch in the native structure attract each other, all
others repel each other. Every pair is listed, so that no neighbor list is needed: the molecules are small.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
import openmm

Pairs = Sequence[Sequence[int]]


def distances(positions: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Distances (pairs,) in positions (N, 3).

    Examples
    --------
    >>> distances(np.array([[0.0, 0, 0], [3.0, 4.0, 0]]), [(0, 1)]).tolist()
    [5.0]
    """
    first, second = np.array(pairs, dtype=int).reshape(-1, 2).T
    return np.linalg.norm(positions[first] - positions[second], axis=-1)


def angles(positions: np.ndarray, triples: Pairs) -> np.ndarray:
    """Angles (triples,) in positions (N, 3), radians."""
    first, middle, last = positions[np.array(triples, dtype=int).reshape(-1, 3).T]
    a, b = first - middle, last - middle
    return np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), (a * b).sum(-1))


def torsions(positions: np.ndarray, quartets: Pairs) -> np.ndarray:
    """Torsions (quartets,) in positions (N, 3), radians, with the sign of IUPAC."""
    a, b, c, d = positions[np.array(quartets, dtype=int).reshape(-1, 4).T]
    before, axis, after = b - a, c - b, d - c
    first, second = np.cross(before, axis), np.cross(axis, after)
    sine = (before * second).sum(-1) * np.linalg.norm(axis, axis=-1)
    return np.arctan2(sine, (first * second).sum(-1))


def add_bonds(system: openmm.System, native: np.ndarray, pairs: Pairs, stiffness: float) -> None:
    """Add stiffness / 2 (r - r0)^2 for each bond; the stiffness is in kJ/mol/nm^2."""
    force = openmm.HarmonicBondForce()
    for (a, b), length in zip(pairs, distances(native, pairs), strict=True):
        force.addBond(a, b, length, stiffness)
    system.addForce(force)


def add_angles(system: openmm.System, native: np.ndarray, triples: Pairs, stiffness: float) -> None:
    """Add stiffness / 2 (theta - theta0)^2 for each angle; the stiffness is in kJ/mol/rad^2."""
    force = openmm.HarmonicAngleForce()
    for (a, b, c), angle in zip(triples, angles(native, triples), strict=True):
        force.addAngle(a, b, c, angle, stiffness)
    system.addForce(force)


def add_torsions(
    system: openmm.System, native: np.ndarray, quartets: Pairs, strength: float, threefold: bool = True
) -> None:
    """Add strength [1 - cos(phi - phi0) + (1 - cos 3 (phi - phi0)) / 2] for each torsion, kJ/mol.

    Without `threefold`, the last term is left out.
    """
    force = openmm.PeriodicTorsionForce()
    for (a, b, c, d), torsion in zip(quartets, torsions(native, quartets), strict=True):
        for periodicity, factor in ((1, 1.0), (3, 0.5))[: 1 + threefold]:
            # OpenMM adds k [1 + cos(n phi - phase)]
            force.addTorsion(a, b, c, d, periodicity, periodicity * torsion + np.pi, factor * strength)
    system.addForce(force)


def add_contacts(system: openmm.System, native: np.ndarray, pairs: Pairs, depth: float) -> None:
    """Add depth [5 (r0/r)^12 - 6 (r0/r)^10] for each native contact, kJ/mol."""
    force = openmm.CustomBondForce(f"{depth}*(5*s - 6)*s^5; s=(length/r)^2")
    force.addPerBondParameter("length")
    for pair, length in zip(pairs, distances(native, pairs), strict=True):
        force.addBond(*pair, [length])
    system.addForce(force)


def add_repulsion(system: openmm.System, pairs: Pairs, strength: float, diameter: float) -> None:
    """Add strength (diameter / r)^12 for each pair; strength in kJ/mol, diameter in nm."""
    force = openmm.CustomBondForce(f"{strength}*s^6; s=({diameter}/r)^2")
    for pair in pairs:
        force.addBond(*pair, [])
    system.addForce(force)


def other_pairs(count: int, excluded: Iterable[Sequence[int]], separation: int) -> list[tuple[int, int]]:
    """Pairs of `count` particles that are at least `separation` apart in their order, without the excluded ones."""
    without = {(min(a, b), max(a, b)) for a, b in excluded}
    return [(a, b) for a, b in combinations(range(count), 2) if b - a >= separation and (a, b) not in without]


def with_torsions(positions: np.ndarray, quartets: Pairs, torsion: float) -> np.ndarray:
    """Positions (N, 3) with each torsion at a value, radians, by turning all atoms from the third of a quartet on.

    The atoms of the chain are in order: those from the third one on lie beyond the bond between second and third.

    Examples
    --------
    >>> bent = np.array([[0.0, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 0]])
    >>> with_torsions(bent, [(0, 1, 2, 3)], np.pi).round(6)[3].tolist()
    [1.0, -1.0, 0.0]
    """
    positions = positions.copy()
    for quartet in quartets:
        first, second = positions[quartet[1]], positions[quartet[2]]
        axis = (second - first) / np.linalg.norm(second - first)
        angle = torsion - torsions(positions, [quartet])[0]
        rest = positions[quartet[2] :] - first
        along = np.outer(rest @ axis, axis)
        rest = along + (rest - along) * np.cos(angle) + np.cross(axis, rest) * np.sin(angle)
        positions[quartet[2] :] = first + rest
    return positions
