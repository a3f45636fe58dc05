"""Molecules made whole: files of periodic systems often have them cut by the faces of the box."""

from __future__ import annotations

import numpy as np
import torch
from openmm import app

from latf_sampling.features import as_mdtraj, reduced_box, whole_molecules
from latf_sampling.systems.molecule import box_vectors


def made_whole(topology: app.Topology, positions: np.ndarray, box: np.ndarray | None = None) -> np.ndarray:
    """Positions (N, 3), nm, with every atom in the image next to the atom that it is bonded to.

    Without a box (3, 3), nm, the topology's counts; where there is none either, positions stay what they are.
    """
    box = box_vectors(topology.getPeriodicBoxVectors()) if box is None else box
    bonds = np.array([[bond.atom1.index, bond.atom2.index] for bond in topology.bonds()], dtype=int).reshape(-1, 2)
    if box is None or not len(bonds) or topology.getNumAtoms() != len(positions):
        return positions
    far = np.linalg.norm(positions[bonds[:, 0]] - positions[bonds[:, 1]], axis=1) > 0.5 * box.diagonal().min()
    if not far.any():
        return positions
    whole = whole_molecules(as_mdtraj(topology)).double()
    return whole(torch.from_numpy(positions.copy()), reduced_box(torch.tensor(np.tril(box)))).numpy()
