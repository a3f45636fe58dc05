"""Molecules made whole: files of periodic systems often have them cut by the faces of the box."""

from __future__ import annotations

import numpy as np
from openmm import app
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from latf_sampling.systems.molecule import box_vectors


def made_whole(topology: app.Topology, positions: np.ndarray, box: np.ndarray | None = None) -> np.ndarray:
    """Positions (N, 3), nm, with every atom in the image next to the atom that it is bonded to.

    Without a box (3, 3), nm, the topology's counts; where there is none either, positions stay what they are.
    """
    box = box_vectors(topology.getPeriodicBoxVectors()) if box is None else box
    count = topology.getNumAtoms()
    bonds = np.array([[bond.atom1.index, bond.atom2.index] for bond in topology.bonds()], dtype=int).reshape(-1, 2)
    if box is None or not len(bonds) or count != len(positions):
        return positions
    far = np.linalg.norm(positions[bonds[:, 0]] - positions[bonds[:, 1]], axis=1) > 0.5 * box.diagonal().min()
    if not far.any():
        return positions
    graph = coo_array((np.ones(len(bonds)), bonds.T), shape=(count, count)).tocsr()
    _, molecules = connected_components(graph, directed=False)
    whole = positions.copy()
    for molecule in np.unique(molecules[bonds[far, 0]]):
        root = int(np.argmax(molecules == molecule))
        order, before = breadth_first_order(graph, root, directed=False)
        for atom in order[1:]:
            step = positions[atom] - positions[before[atom]]
            for row in (2, 1, 0):  # the lower triangular form of OpenMM's boxes
                step = step - box[row] * np.round(step[row] / box[row, row])
            whole[atom] = whole[before[atom]] + step
    return whole
