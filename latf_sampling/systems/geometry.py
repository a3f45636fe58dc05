"""Features of a molecule that a simulation can break: bonds, contacts, handedness, cis and trans peptide bonds."""

from __future__ import annotations

from dataclasses import dataclass

import mdtraj
import numpy as np
import openmm
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from latf_sampling.core.boxes import reduced_boxes
from latf_sampling.systems.molecule import bond_lengths

Box = np.ndarray | None
"""Box vectors (3, 3), nm, of a periodic system."""

SUPERPOSED_ATOMS = 4
"""Structures of fewer atoms are compared without superposition, and only identical ones are duplicates."""

DISTINCT_BONDS = 12
"""Neighbors of a stereocenter are compared up to so many bonds away."""


@dataclass(frozen=True)
class Geometry:
    """The parts of a topology that are checked, as indices of atoms; contacts are those of heavy atoms of molecules.

    Atoms without any bond (ions, model particles) have no contacts: the neighbors of an ion are nearer than the sum of
    the radii.

    Attributes
    ----------
    centers : numpy.ndarray (c, 5)
        Stereocenters, as `stereocenters` gives them.
    amides : numpy.ndarray (a, 4)
        Torsions of peptide bonds, as `amides` gives them.
    bonds : numpy.ndarray (b, 2)
    lengths : numpy.ndarray (b,)
        The force field's length of each bond, nm; NaN if it has none.
    heavy : numpy.ndarray (h,)
        Atoms whose contacts are checked.
    radii : numpy.ndarray (h,)
        Their van der Waals radii, nm.
    near : set of (int, int)
        Pairs of heavy atoms that are one to three bonds apart, the lower index first.
    """

    centers: np.ndarray
    amides: np.ndarray
    bonds: np.ndarray
    lengths: np.ndarray
    heavy: np.ndarray
    radii: np.ndarray
    near: frozenset[tuple[int, int]]

    @classmethod
    def from_topology(cls, topology: mdtraj.Topology, system: openmm.System) -> Geometry:
        """The geometry of a topology, with the lengths that a system gives its bonds."""
        bonded = _neighbors(topology)
        bonds = np.array(sorted({tuple(sorted((a.index, b.index))) for a, b in topology.bonds}), int).reshape(-1, 2)
        lengths = bond_lengths(system)
        atoms = list(topology.atoms)
        heavy = [atom.index for atom in atoms if bonded[atom.index] and not _is(atom, "H", "VS")]
        heavy_set, near = set(heavy), set()
        for start in heavy:
            visited, shell = {start}, {start}
            for _ in range(3):
                shell = {other for atom in shell for other in bonded[atom]} - visited
                visited |= shell
            near |= {(start, other) for other in visited if other > start and other in heavy_set}
        return cls(
            stereocenters(topology),
            amides(topology),
            bonds,
            np.array([lengths.get((first, second), np.nan) for first, second in bonds.tolist()]),
            np.array(heavy, int),
            np.array([atoms[index].element.radius for index in heavy]),
            frozenset(near),
        )

    def inverted(self, positions: np.ndarray, box: Box, other: np.ndarray, other_box: Box) -> np.ndarray:
        """Stereocenters (atoms) whose handedness differs between two structures (N, 3)."""
        changed = handedness(positions, self.centers, box) != handedness(other, self.centers, other_box)
        return self.centers[changed, 0]

    def flipped(self, positions: np.ndarray, box: Box, other: np.ndarray, other_box: Box) -> np.ndarray:
        """Peptide bonds that are cis in one of two structures (N, 3) and trans in the other; their atoms (k, 4)."""
        return self.amides[is_cis(positions, self.amides, box) != is_cis(other, self.amides, other_box)]

    def stretch(self, positions: np.ndarray, box: Box, other: np.ndarray, other_box: Box) -> tuple[float, np.ndarray]:
        """Largest |length / r - 1| of any bond, where r is the force field's length, or that in another structure.

        Returns it with the bond's two atoms; without bonds it is 0 with no atoms.
        """
        if not len(self.bonds):
            return 0.0, np.empty(0, int)
        usual = np.where(np.isnan(self.lengths), _lengths(other, self.bonds, other_box), self.lengths)
        deviations = np.abs(_lengths(positions, self.bonds, box) / usual - 1)
        worst = int(np.argmax(deviations))
        return float(deviations[worst]), self.bonds[worst]

    def closest(self, positions: np.ndarray, box: Box) -> tuple[float, np.ndarray]:
        """Smallest distance of two heavy atoms, four or more bonds apart, as a share of the sum of their radii.

        Returns it with the two atoms; if no two atoms are nearer than this sum, infinity with no atoms.
        """
        pairs, distances = periodic_pairs(np.asarray(positions)[self.heavy], box, 2 * self.radii.max(initial=0.0))
        shares = distances / (self.radii[pairs[:, 0]] + self.radii[pairs[:, 1]])
        for k in np.argsort(shares):
            atoms = np.sort(self.heavy[pairs[k]])
            if tuple(atoms.tolist()) not in self.near:
                return (float(shares[k]), atoms) if shares[k] < 1 else (np.inf, atoms[:0])
        return np.inf, np.empty(0, int)


def stereocenters(topology: mdtraj.Topology) -> np.ndarray:
    """Atoms whose handedness must not change: four bonds, at most one of them to a hydrogen.

    Returns
    -------
    numpy.ndarray (centers, 5)
        The atom and its four neighbors, in order of index.
    """
    atoms = list(topology.atoms)
    rows = [
        [center, *sorted(bonded)]
        for center, bonded in _neighbors(topology).items()
        if len(bonded) == 4 and sum(_is(atoms[index], "H") for index in bonded) <= 1
    ]
    return np.array(rows, dtype=int).reshape(-1, 5)


def distinct_stereocenters(topology: mdtraj.Topology) -> np.ndarray:
    """The stereocenters whose four neighbors differ in what is bonded to them, so that every program gives them one
    handedness; which of the two methyl groups of a valine is named first is up to the program.

    Returns
    -------
    numpy.ndarray (centers, 5)
        As `stereocenters` gives them.
    """
    centers, atoms = stereocenters(topology), list(topology.atoms)
    if not len(centers):
        return centers
    bonded = _neighbors(topology)
    kinds = {int(k): hash(str(atoms[k].element)) for k in molecules_of(topology, centers[:, 0])}
    for _ in range(DISTINCT_BONDS):
        kinds = {k: hash((kind, *sorted(kinds[other] for other in bonded[k]))) for k, kind in kinds.items()}
    return centers[[len({kinds[k] for k in row[1:]}) == 4 for row in centers.tolist()]]


def amides(topology: mdtraj.Topology) -> np.ndarray:
    """Torsions X-C-N-Y of peptide bonds: C carries an oxygen with no other bond, N another heavy atom than C.

    Returns
    -------
    numpy.ndarray (amides, 4)
        If there is a choice, X and Y are the carbons of lowest index, usually both alpha carbons.
    """
    bonded, atoms, rows = _neighbors(topology), list(topology.atoms), []
    for pair in topology.bonds:
        for carbon, nitrogen in ((pair[0], pair[1]), (pair[1], pair[0])):
            if not (_is(carbon, "C") and _is(nitrogen, "N")):
                continue
            carbonyl = any(_is(atoms[k], "O") and len(bonded[k]) == 1 for k in bonded[carbon.index])
            before = [k for k in sorted(bonded[carbon.index]) if _is(atoms[k], "C")]
            after = [k for k in sorted(bonded[nitrogen.index]) if _is(atoms[k], "C") and k != carbon.index]
            if carbonyl and before and after:
                rows.append([before[0], carbon.index, nitrogen.index, after[0]])
    return np.array(rows, dtype=int).reshape(-1, 4)


def handedness(positions: np.ndarray, centers: np.ndarray, box: Box = None) -> np.ndarray:
    """Sign of the volume that each center's first three neighbors span, seen from the fourth; (centers,)."""
    x = np.asarray(positions, np.float64)
    a, b, c, d = (shortest(x[centers[:, k]] - x[centers[:, 0]], box) for k in range(1, 5))
    return np.sign(np.einsum("ij,ij->i", np.cross(b - a, c - a), d - a))


def is_cis(positions: np.ndarray, torsions: np.ndarray, box: Box = None) -> np.ndarray:
    """Whether torsions (k, 4) are nearer to 0 than to 180 degrees; (k,)."""
    x = np.asarray(positions, np.float64)
    first, axis, last = (shortest(x[torsions[:, k + 1]] - x[torsions[:, k]], box) for k in range(3))
    return np.einsum("ij,ij->i", np.cross(first, axis), np.cross(axis, last)) > 0


def molecules_of(topology: mdtraj.Topology, atoms: np.ndarray) -> np.ndarray:
    """All atoms of the molecules that some atoms belong to."""
    bonds = np.array([(a.index, b.index) for a, b in topology.bonds], int).reshape(-1, 2)
    graph = coo_array((np.ones(len(bonds)), bonds.T), (topology.n_atoms, topology.n_atoms))
    molecule = connected_components(graph, directed=False)[1]
    return np.nonzero(np.isin(molecule, molecule[atoms]))[0]


def shortest(vectors: np.ndarray, box: Box) -> np.ndarray:
    """The shortest periodic image of vectors (n, 3) in a box (3, 3); without a box the vectors themselves."""
    if box is None:
        return vectors
    import torch  # which takes seconds, and a structure without a box needs none of it

    from latf_sampling.features.periodic import IMAGES, minimum_image

    cell = torch.from_numpy(reduced_boxes(box))
    return minimum_image(
        torch.from_numpy(np.ascontiguousarray(vectors)), cell, torch.tensor(IMAGES, dtype=torch.float64)
    ).numpy()


def periodic_pairs(x: np.ndarray, box: Box, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of points (n, 3) nearer than a cutoff, images included, and their distances; a pair may appear twice."""
    x = np.asarray(x, np.float64)
    if not len(x):
        return np.empty((0, 2), int), np.empty(0)
    owner = np.arange(len(x))
    if box is not None:
        from latf_sampling.features.periodic import IMAGES

        cell = reduced_boxes(np.asarray(box))
        inverse = np.linalg.inv(cell)
        inside = (x @ inverse) % 1.0
        # An atom that is farther from a face than this share of the box's height has no neighbors behind the face.
        margin = cutoff * np.linalg.norm(inverse, axis=0)
        images = (inside[None] + np.array(IMAGES)[:, None]).reshape(-1, 3)
        near = ((images >= -margin) & (images < 1 + margin)).all(1)
        # The first image is not shifted, so that the points themselves come first and in their order.
        x, owner = images[near] @ cell, np.tile(owner, len(IMAGES))[near]
    pairs = KDTree(x).query_pairs(cutoff, output_type="ndarray")
    return owner[pairs], np.linalg.norm(x[pairs[:, 0]] - x[pairs[:, 1]], axis=1)


def _lengths(positions: np.ndarray, bonds: np.ndarray, box: Box) -> np.ndarray:
    x = np.asarray(positions, np.float64)
    return np.linalg.norm(shortest(x[bonds[:, 1]] - x[bonds[:, 0]], box), axis=1)


def _neighbors(topology: mdtraj.Topology) -> dict[int, list[int]]:
    """The atoms that each atom is bonded to."""
    bonded: dict[int, list[int]] = {atom.index: [] for atom in topology.atoms}
    for first, second in topology.bonds:
        bonded[first.index].append(second.index)
        bonded[second.index].append(first.index)
    return bonded


def _is(atom, *symbols: str) -> bool:
    return (atom.element.symbol if atom.element is not None else "VS") in symbols
