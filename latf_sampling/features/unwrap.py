"""Unwrap molecules: undo periodic wrapping, so that no molecule is broken across the faces of the box."""

from collections import deque
from collections.abc import Sequence

import mdtraj
import numpy as np
import torch
from torch import Tensor

from latf_sampling.features.periodic import Differences, gather, image_counts

_MAX_BONDS = 4  # atoms this many bonds apart are within 0.6 nm of each other, and every box is twice as wide
_STRIDE = 3  # bonds between the atoms that are added where selected atoms are farther apart


def bonded_tree(topology: mdtraj.Topology, atoms: Sequence[int]) -> tuple[list[int], np.ndarray]:
    """Connect atoms along their molecules by a tree whose edges are short in space.

    Atoms with the fewest bonds between them are joined; where there are more than four bonds, atoms on the way are
    added. Molecules, which no bond connects, are joined by one edge each, from the first of their atoms to the first
    atom of the molecule before.

    Parameters
    ----------
    topology
        Topology with bonds.
    atoms
        Indices in the topology, each once.

    Returns
    -------
    list of int
        The atoms, then those that were added.
    numpy.ndarray of int64, shape (edges, 2)
        Parent and child of every edge, as indices into that list; parents come first, the root has index 0.

    Examples
    --------
    >>> topology = mdtraj.Topology()
    >>> residue = topology.add_residue("ARG", topology.add_chain())
    >>> chain = [topology.add_atom(name, mdtraj.element.argon, residue) for name in "ABCDEFG"]
    >>> for pair in zip(chain, chain[1:]):
    ...     topology.add_bond(*pair)
    >>> bonded_tree(topology, [0, 2, 6])
    ([0, 2, 6], array([[0, 1],
           [1, 2]]))
    >>> bonded_tree(topology, [0, 6])
    ([0, 6, 3], array([[0, 2],
           [2, 1]]))
    """
    neighbors: dict[int, list[int]] = {}
    for first, second in topology.bonds:
        neighbors.setdefault(first.index, []).append(second.index)
        neighbors.setdefault(second.index, []).append(first.index)
    # Breadth-first search from all atoms at once: for each atom of the molecules, the nearest of the given atoms and
    # the path to it. The shortest paths between neighboring regions contain a minimum spanning tree
    # (doi:10.1016/0020-0190(88)90066-X).
    nearest, predecessor, distance = {a: a for a in atoms}, {}, dict.fromkeys(atoms, 0)
    queue = deque(atoms)
    links = []
    while queue:
        atom = queue.popleft()
        for other in neighbors.get(atom, ()):
            if other not in nearest:
                nearest[other], predecessor[other], distance[other] = nearest[atom], atom, distance[atom] + 1
                queue.append(other)
            elif nearest[other] != nearest[atom]:
                links.append((distance[atom] + 1 + distance[other], atom, other))
    group = {a: a for a in atoms}

    def representative(atom: int) -> int:
        while group[atom] != atom:
            group[atom] = group[group[atom]]
            atom = group[atom]
        return atom

    def path_from(atom: int) -> list[int]:
        path = [atom]
        while path[-1] in predecessor:
            path.append(predecessor[path[-1]])
        return path

    joined: dict[int, list[int]] = {a: [] for a in atoms}
    for bonds, one, other in sorted(links):
        ends = [representative(nearest[atom]) for atom in (one, other)]
        if ends[0] == ends[1]:
            continue
        group[ends[0]] = ends[1]
        path = [*path_from(one)[::-1], *path_from(other)]
        stops = path[::_STRIDE] if bonds > _MAX_BONDS else path[:1]
        stops = [*stops, path[-1]] if stops[-1] != path[-1] else stops
        for a, b in zip(stops, stops[1:]):
            joined.setdefault(a, []).append(b)
            joined.setdefault(b, []).append(a)
    nodes = [*atoms, *(atom for atom in joined if atom not in group)]
    index = {atom: number for number, atom in enumerate(nodes)}
    edges, seen, last = [], set(), None
    for root in atoms:
        if root in seen:
            continue
        if last is not None:
            edges.append((index[last], index[root]))
        last = root
        seen.add(root)
        queue = deque([root])
        while queue:
            atom = queue.popleft()
            for other in joined[atom]:
                if other not in seen:
                    seen.add(other)
                    edges.append((index[atom], index[other]))
                    queue.append(other)
    return nodes, np.array(edges, np.int64).reshape(-1, 2)


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
