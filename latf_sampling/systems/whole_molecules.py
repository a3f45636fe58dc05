"""Molecules made whole: in files of periodic systems the faces of the box often cut them."""

from __future__ import annotations

import numpy as np
from openmm import app

from latf_sampling.core.boxes import reduced_boxes
from latf_sampling.features import as_mdtraj
from latf_sampling.systems.molecule import box_vectors


def make_whole(topology: app.Topology, positions: np.ndarray, box: np.ndarray | None = None) -> np.ndarray:
    """Positions (N, 3), nm, with every atom in the periodic image next to the atoms that it is bonded to.

    The box (3, 3), nm, is that of the topology by default; without any, positions are returned unchanged.
    """
    box = box_vectors(topology.getPeriodicBoxVectors()) if box is None else box
    bonds = np.array([[bond.atom1.index, bond.atom2.index] for bond in topology.bonds()], dtype=int).reshape(-1, 2)
    if box is None or not len(bonds) or topology.getNumAtoms() != len(positions):
        return positions
    far = np.linalg.norm(positions[bonds[:, 0]] - positions[bonds[:, 1]], axis=1) > 0.5 * box.diagonal().min()
    if not far.any():
        return positions
    import torch

    from latf_sampling.features import unwrap_molecules

    unwrap = unwrap_molecules(as_mdtraj(topology)).double()
    return unwrap(torch.from_numpy(positions.copy()), torch.from_numpy(reduced_boxes(box))).numpy()
