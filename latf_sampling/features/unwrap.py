"""Unwrap molecules: undo periodic wrapping, so that no molecule is broken across the faces of the box."""

from collections.abc import Sequence

import mdtraj
import numpy as np
import torch
from torch import Tensor

from latf_sampling.features.bonded_tree import bonded_tree
from latf_sampling.features.periodic import Differences, gather, image_counts


class Unwrap(torch.nn.Module):
    """Positions of some atoms, unwrapped if there is a box, (..., n, 3) -> (..., output, 3).

    In a box, each atom is moved to its image nearest to its parent in the tree; atoms that share an edge have to be
    within half the width of the box. Between molecules, which may be any distance apart, the edge that joins them is
    replaced by its shortest image. An atom without a parent is not moved, so that each of several trees is unwrapped by
    itself. Without a box, no position changes.

    The choice of images counts as constant: the gradient with respect to the positions is the identity.

    Parameters
    ----------
    atoms
        Indices of positions, including the atoms that `bonded_tree` added.
    tree
        Edges of `bonded_tree`.
    n_atoms
        Number of positions.
    output
        Indices into ``atoms`` of the atoms to return; None for all.
    """

    atoms: Tensor
    tour: Tensor
    signs: Tensor
    reached: Tensor

    def __init__(self, atoms: Sequence[int], tree: np.ndarray, n_atoms: int, output: Sequence[int] | None = None):
        super().__init__()
        nodes = torch.as_tensor(atoms, dtype=torch.int64)
        self.differences = Differences(nodes[tree[:, 0]], nodes[tree[:, 1]], n_atoms)
        # On a tour of the tree, each edge forth and back, the running sum of shifts is that of the atom reached.
        tour, signs, reached = _euler_tour(tree, len(atoms))
        self.connected: bool = len(tree) > 0
        indices = list(range(len(atoms)) if output is None else output)
        self.register_buffer("atoms", nodes[indices])
        self.register_buffer("tour", torch.as_tensor(tour, dtype=torch.int64))
        self.register_buffer("signs", torch.tensor(signs)[:, None])
        self.register_buffer("reached", torch.tensor([reached[index] for index in indices]))

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        x = gather(positions, self.atoms)
        if box is not None and self.connected:
            vectors = self.differences(positions.detach(), None)
            counts = image_counts(vectors, box, self.differences.images)
            sums = torch.cumsum(gather(counts, self.tour) * self.signs, -2)
            x = x - torch.matmul(gather(sums, self.reached), box)
        return x


def unwrap_molecules(topology: mdtraj.Topology) -> Unwrap:
    """Module that unwraps all molecules; the first atom of each is not moved.

    Examples
    --------
    >>> topology = mdtraj.Topology()
    >>> residue = topology.add_residue("ARG", topology.add_chain())
    >>> topology.add_bond(*(topology.add_atom(name, mdtraj.element.argon, residue) for name in "AB"))
    >>> unwrap_molecules(topology)(torch.tensor([[0.1, 0.0, 0.0], [1.9, 0.0, 0.0]]), 2 * torch.eye(3))[1]
    tensor([-0.1000,  0.0000,  0.0000])
    """
    atoms, tree = bonded_tree(topology, range(topology.n_atoms))
    bonds = {frozenset((first.index, second.index)) for first, second in topology.bonds}
    return Unwrap(atoms, tree[[frozenset(edge) in bonds for edge in tree.tolist()]], topology.n_atoms)


def _euler_tour(tree: np.ndarray, n_atoms: int) -> tuple[list[int], list[float], list[int]]:
    """Edges in the order of a tour of each tree, +1 forth and -1 back, and where in the tour each atom is reached."""
    children: list[list[tuple[int, int]]] = [[] for _ in range(n_atoms)]
    for edge, (parent, child) in enumerate(tree.tolist()):
        children[parent].append((edge, child))
    tour, signs, reached = [0], [0.0], [0] * n_atoms
    roots = sorted(set(range(n_atoms)) - set(tree[:, 1].tolist()))
    stack = [(edge, child, False) for root in roots for edge, child in children[root]][::-1]
    while stack:
        edge, child, back = stack.pop()
        tour.append(edge)
        signs.append(-1.0 if back else 1.0)
        if not back:
            reached[child] = len(tour) - 1
            stack.append((edge, child, True))
            stack += [(edge, child, False) for edge, child in children[child][::-1]]
    return tour, signs, reached
