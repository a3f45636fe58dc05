"""Molecules made whole: positions of some atoms on one side of the box's faces."""

from __future__ import annotations

from collections.abc import Sequence

import mdtraj
import numpy as np
import torch
from scipy import sparse
from scipy.sparse import csgraph

from latf_sampling.features.periodic import Differences


def bonded_tree(topology: mdtraj.Topology, atoms: Sequence[int]) -> np.ndarray:
    """Edges that connect atoms along the molecule: those with the fewest bonds between them are joined.

    Atoms of molecules that no bond connects are joined by one edge each, from the first atom of a molecule to the
    first of the one before it.

    Parameters
    ----------
    topology
        With its bonds.
    atoms
        Indices in the topology, each once.

    Returns
    -------
    numpy.ndarray of int64, shape (len(atoms) - 1, 2)
        Parent and child of every edge, as places in ``atoms``; parents come first, the root is place 0.

    Examples
    --------
    >>> topology = mdtraj.Topology()
    >>> residue = topology.add_residue("ARG", topology.add_chain())
    >>> a, b, c = (topology.add_atom(name, mdtraj.element.argon, residue) for name in "ABC")
    >>> topology.add_bond(a, c), topology.add_bond(c, b)
    (None, None)
    >>> bonded_tree(topology, [0, 1, 2]).tolist()
    [[0, 2], [2, 1]]
    """
    if len(atoms) == 1:
        return np.empty((0, 2), np.int64)
    ends = np.array([[first.index, second.index] for first, second in topology.bonds], int).reshape(-1, 2)
    bonds = sparse.coo_array((np.ones(len(ends)), ends.T), shape=(topology.n_atoms, topology.n_atoms)).tocsr()
    bonded = csgraph.shortest_path(bonds, directed=False, unweighted=True, indices=atoms)[:, atoms]
    # between molecules, any edge is longer than all within; among those the one between first atoms is shortest
    place = np.arange(len(atoms))
    apart = topology.n_atoms * (1.0 + place[:, None] + place)
    weights = np.where(np.isfinite(bonded), bonded, apart)
    tree = csgraph.minimum_spanning_tree(weights)
    order, parents = csgraph.breadth_first_order(tree, 0, directed=False)
    return np.stack([parents[order[1:]], order[1:]], 1).astype(np.int64)


class Whole(torch.nn.Module):
    """Some of the positions (..., n, 3) -> (..., atoms, 3), whole if there is a box.

    In a box, each atom is placed next to its parent in the tree, at the shortest image, so that the result is moved as
    a whole; the atoms that an edge joins have to be nearer to each other than half the box's width. Between molecules,
    which may be any distance apart, the image is the shortest of the edge that joins them. Without a box the positions
    are what they were.

    Parameters
    ----------
    atoms
        Indices in the positions.
    tree
        Edges, see `bonded_tree`.
    n_atoms
        Number of positions.
    """

    def __init__(self, atoms: Sequence[int], tree: np.ndarray, n_atoms: int):
        super().__init__()
        chosen = torch.as_tensor(atoms, dtype=torch.int64)
        self.differences = Differences(chosen[tree[:, 0]], chosen[tree[:, 1]], n_atoms)
        paths = torch.zeros(len(chosen), len(tree))
        for edge, (parent, child) in enumerate(tree.tolist()):
            paths[child] = paths[parent]
            paths[child, edge] = 1.0
        self.register_buffer("atoms", chosen)
        self.register_buffer("paths", paths)

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        if box is None:
            return positions.index_select(-2, self.atoms)
        return torch.matmul(self.paths, self.differences(positions, box))
